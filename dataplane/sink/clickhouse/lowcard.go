package clickhouse

import "encoding/binary"

// lowcard is LowCardinality(String) or LowCardinality(Nullable(String)): a
// dictionary and an index into it per row. A nullable one has NULL at 0.
type lowcard struct {
	canNull bool
	seen    map[string]uint32
	dict    plain
	index   []uint32
}

func newLowcard(canNull bool) *lowcard {
	l := &lowcard{canNull: canNull, dict: *newStrings()}
	l.reset()
	return l
}

func (l *lowcard) text(b []byte) (bool, error) {
	i, ok := l.seen[string(b)]
	if !ok {
		i = l.entry(b)
		l.seen[string(b)] = i
	}
	l.index = append(l.index, i)
	return true, nil
}

func (l *lowcard) entry(b []byte) uint32 {
	i := uint32(len(l.seen))
	if l.canNull {
		i++
	}
	_, _ = l.dict.text(b)
	return i
}

func (l *lowcard) stored(b []byte) error { _, err := l.text(b); return err }

func (l *lowcard) null() { l.index = append(l.index, 0) }

func (l *lowcard) zero() {
	if l.canNull {
		l.null()
		return
	}
	_, _ = l.text(nil)
}

func (l *lowcard) undo() { l.index = l.index[:len(l.index)-1] }

// The state prefix names the version of the layout: shared dictionaries with
// additional keys.
func (l *lowcard) prefix(dst []byte) []byte { return binary.LittleEndian.AppendUint64(dst, 1) }

func (l *lowcard) encode(dst []byte) []byte {
	if len(l.index) == 0 {
		return dst
	}
	const additionalKeys, updateDictionary = 1 << 9, 1 << 10
	const uint32Index = 2
	le := binary.LittleEndian
	keys := uint64(len(l.seen))
	if l.canNull {
		keys++
	}
	dst = le.AppendUint64(dst, uint32Index|additionalKeys|updateDictionary)
	dst = le.AppendUint64(dst, keys)
	dst = l.dict.encode(dst)
	dst = le.AppendUint64(dst, uint64(len(l.index)))
	for _, i := range l.index {
		dst = le.AppendUint32(dst, i)
	}
	return dst
}

func (l *lowcard) size() int { return l.dict.size() + 4*len(l.index) }

func (l *lowcard) reset() {
	l.seen = map[string]uint32{}
	l.dict.reset()
	l.index = l.index[:0]
	if l.canNull {
		l.dict.zero()
	}
}

package clickhouse

import (
	"encoding/binary"
	"fmt"
	"time"

	"syncline/dataplane/change"
)

// stamp is what the added columns say of a row.
type stamp struct {
	pos     change.Position
	deleted bool
	commit  time.Time
	seq     uint64
	adrift  bool // a tombstone may lie anywhere in the sorting key, where nobody told it the row's place
}

// block is the data of one INSERT in columns.
type block struct {
	lay     *layout
	cols    []encoder
	key     *plain
	version *plain
	deleted *plain
	seq     *plain
	exact   *exactMap
	commit  *plain
	rows    int
	texts   []byte // scratch for _key
}

func newBlock(l *layout) *block {
	b := &block{lay: l, key: newStrings(), version: &plain{}, deleted: &plain{}, seq: &plain{}, exact: &exactMap{}, commit: &plain{}}
	for i := range l.cols {
		b.cols = append(b.cols, l.cols[i].encoder(l.cols[i].null))
	}
	return b
}

// rejection says why a row cannot be written. It never holds values.
type rejection struct {
	column string
	err    error
}

func (r *rejection) Error() string { return fmt.Sprintf("column %q: %s", r.column, r.err) }
func (r *rejection) Unwrap() error { return r.err }

// add appends a row, or nothing if it returns an error. fill has the values of
// columns that the change left alone, as the sink holds them.
func (b *block) add(row change.Row, key change.Key, s stamp, fill map[int]storedValue) error {
	if len(row) != len(b.cols) {
		return &rejection{err: fmt.Errorf("the row has %d values for %d columns", len(row), len(b.cols))}
	}
	b.exact.begin()
	for i := range b.cols {
		if err := b.value(i, row[i], fill); err != nil {
			return b.reject(i, err)
		}
	}
	return b.finish(row, key, s)
}

func (b *block) value(i int, v change.Value, fill map[int]storedValue) error {
	c := &b.lay.cols[i]
	switch v.Kind {
	case change.Null:
		b.null(i)
		return nil
	case change.Text:
		exact, err := b.cols[i].text(v.Data)
		if err == nil && !exact {
			b.exact.put(c.name, v.Data)
		}
		return err
	}
	if f, ok := fill[i]; ok {
		return b.fill(i, f)
	}
	return errUnchanged
}

// null appends NULL. Where the column cannot take it, _exact says so: no text of
// a type that goes there is the word NULL.
func (b *block) null(i int) {
	switch e := b.cols[i].(type) {
	case *nullable:
		e.null()
		return
	case *lowcard:
		if e.canNull {
			e.null()
			return
		}
	}
	b.cols[i].zero()
	b.exact.put(b.lay.cols[i].name, wordNull)
}

var wordNull = []byte("NULL")

// tombstone appends a row that deletes: the sorting key's values, and defaults.
// old has the values of sorting columns outside of the key.
func (b *block) tombstone(key change.Key, old change.Row, s stamp) error {
	texts, err := key.Values()
	if err != nil {
		return &rejection{err: err}
	}
	if len(texts) != len(b.lay.schema.Key) {
		return &rejection{err: fmt.Errorf("the key has %d values for %d columns", len(texts), len(b.lay.schema.Key))}
	}
	b.exact.begin()
	row := make(change.Row, len(b.cols))
	for n, i := range b.lay.schema.Key {
		row[i] = change.TextValue(texts[n])
	}
	set := map[int]bool{}
	for _, i := range b.lay.schema.Key {
		set[i] = true
	}
	for _, i := range b.lay.extra {
		if !set[i] && (i >= len(old) || old[i].Kind == change.Unchanged) {
			if s.adrift {
				continue
			}
			return &rejection{column: b.lay.cols[i].name, err: errNoOld}
		}
		if i < len(old) && old[i].Kind != change.Unchanged {
			row[i] = old[i] // its own text where the key has a normalised one
		}
		set[i] = true
	}
	for i := range b.cols {
		if !set[i] {
			b.cols[i].zero()
			continue
		}
		if err := b.value(i, row[i], nil); err != nil {
			return b.reject(i, err)
		}
	}
	s.deleted = true
	return b.finish(row, key, s)
}

// reject takes back the first n values of the row.
func (b *block) reject(n int, err error) error {
	for i := range n {
		b.cols[i].undo()
	}
	b.exact.undo()
	return &rejection{column: b.lay.cols[n].name, err: err}
}

func (b *block) finish(row change.Row, key change.Key, s stamp) error {
	if len(b.lay.keyText) > 0 {
		if err := b.keyText(row, key); err != nil {
			for i := range b.cols {
				b.cols[i].undo()
			}
			b.exact.undo()
			return &rejection{column: colKey, err: err}
		}
	}
	le := binary.LittleEndian
	b.version.data = appendVersion(b.version.data, s.pos)
	d := byte(0)
	if s.deleted {
		d = 1
	}
	b.deleted.data = append(b.deleted.data, d)
	if b.lay.appends {
		b.seq.data = le.AppendUint64(b.seq.data, s.seq)
	}
	b.exact.end()
	us := int64(0)
	if !s.commit.IsZero() {
		us = s.commit.UnixMicro()
	}
	b.commit.data = le.AppendUint64(b.commit.data, uint64(us))
	b.rows++
	return nil
}

// appendVersion appends Position.Version() as a UInt128.
func appendVersion(dst []byte, p change.Position) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(p.Commit)<<32|uint64(p.Ordinal))
	return binary.LittleEndian.AppendUint64(dst, uint64(p.Epoch)<<32|uint64(p.Commit)>>32)
}

// keyText appends _key: for each of its columns the normalised text, or for one
// that is in the sorting key as well, the text only if the type could not hold
// the value. A NUL, which no Postgres text holds, stands between two.
func (b *block) keyText(row change.Row, key change.Key) error {
	if key == "" {
		var err error
		if key, err = change.MakeKey(b.lay.schema, row); err != nil {
			return err
		}
	}
	texts, err := key.Values()
	if err != nil {
		return err
	}
	b.texts = b.texts[:0]
	for n, i := range b.lay.keyText {
		if n > 0 {
			b.texts = append(b.texts, 0)
		}
		c := &b.lay.cols[i]
		at := 0
		for k, j := range b.lay.schema.Key {
			if j == i {
				at = k
			}
		}
		if c.clamps && c.shape == scalar && c.lossy == "" && !b.exact.has(c.name) {
			continue
		}
		b.texts = append(b.texts, texts[at]...)
	}
	_, err = b.key.text(b.texts)
	return err
}

func (b *block) size() int {
	n := b.key.size() + b.version.size() + b.seq.size() + b.exact.size() + b.commit.size()
	for _, c := range b.cols {
		n += c.size()
	}
	return n
}

func (b *block) reset() {
	for _, c := range b.cols {
		c.reset()
	}
	for _, p := range []*plain{b.key, b.version, b.deleted, b.seq, b.commit} {
		p.reset()
	}
	b.exact.reset()
	b.rows = 0
}

// parts returns the block's columns with their types in the order of the INSERT.
func (b *block) parts() []part {
	out := make([]part, 0, len(b.cols)+6)
	for i, c := range b.lay.cols {
		out = append(out, part{c.name, c.typeName(c.null), b.cols[i], c.typ == typeJSON})
	}
	data := map[string]encoder{colKey: b.key, colVersion: b.version, colDeleted: b.deleted, colSeq: b.seq, colExact: b.exact, colCommit: b.commit}
	for _, c := range b.lay.service() {
		out = append(out, part{c.name, c.typ, data[c.name], false})
	}
	return out
}

// part is one column of an INSERT.
type part struct {
	name, typ string
	data      encoder
	json      bool // the data are texts of JSON
}

// encode appends the part's data.
func (p *part) encode(dst []byte) []byte {
	if p.json {
		dst = binary.LittleEndian.AppendUint64(dst, jsonAsText)
	}
	return p.data.encode(p.data.prefix(dst))
}

// jsonAsText begins a column of JSON that is sent as its text.
const jsonAsText = 1

// encodeNative appends a block in Native format, protocol revision 0.
func encodeNative(dst []byte, rows int, parts []part) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(parts)))
	dst = binary.AppendUvarint(dst, uint64(rows))
	for _, p := range parts {
		dst, _, _ = appendString(dst, []byte(p.name))
		dst, _, _ = appendString(dst, []byte(p.typ))
		if rows > 0 {
			dst = p.encode(dst)
		}
	}
	return dst
}

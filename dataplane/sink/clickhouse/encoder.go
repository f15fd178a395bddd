package clickhouse

import (
	"encoding/binary"

	"syncline/dataplane/pgtext"
)

// appendFunc appends the wire form of a Postgres text to dst. If the type cannot
// hold the value, it appends the nearest one it can and returns exact = false.
type appendFunc func(dst, text []byte) (out []byte, exact bool, err error)

// encoder builds the data of one column as ClickHouse's Native format has it:
// little-endian values side by side, strings behind their length. Bytes are
// built in place so that a value costs no allocation.
type encoder interface {
	// text appends a value; on error nothing is appended.
	text(b []byte) (exact bool, err error)
	// stored appends a value from the text that ClickHouse prints for it.
	stored(b []byte) error
	// zero appends the type's default.
	zero()
	// undo removes the last value.
	undo()
	// prefix appends what precedes the column's data.
	prefix(dst []byte) []byte
	// encode appends the data.
	encode(dst []byte) []byte
	size() int
	reset()
}

// plain is any type without structure: numbers, strings, dates.
type plain struct {
	data   []byte
	last   int // where the last value begins
	fill   []byte
	parse  appendFunc
	reread appendFunc // of stored; parse if nil
}

func (p *plain) text(b []byte) (bool, error) {
	n := len(p.data)
	out, exact, err := p.parse(p.data, b)
	if err != nil {
		p.data = out[:n]
		return false, err
	}
	p.data, p.last = out, n
	return exact, nil
}

func (p *plain) stored(b []byte) error {
	if p.reread == nil {
		_, err := p.text(b)
		return err
	}
	n := len(p.data)
	out, _, err := p.reread(p.data, b)
	if err != nil {
		p.data = out[:n]
		return err
	}
	p.data, p.last = out, n
	return nil
}

func (p *plain) zero() {
	p.last = len(p.data)
	p.data = append(p.data, p.fill...)
}

func (p *plain) undo()                    { p.data = p.data[:p.last] }
func (p *plain) prefix(dst []byte) []byte { return dst }
func (p *plain) encode(dst []byte) []byte { return append(dst, p.data...) }
func (p *plain) size() int                { return len(p.data) }
func (p *plain) reset()                   { p.data, p.last = p.data[:0], 0 }

func newStrings() *plain { return &plain{fill: []byte{0}, parse: appendString} }

func appendString(dst, b []byte) ([]byte, bool, error) {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...), true, nil
}

// nullable wraps values with a map of which are NULL.
type nullable struct {
	plain
	nulls       []byte
	nullInexact bool // NULL is nearer to what the type cannot hold than any value (NaN in a Decimal)
}

func (n *nullable) text(b []byte) (bool, error) {
	exact, err := n.plain.text(b)
	switch {
	case err != nil:
	case !exact && n.nullInexact:
		n.plain.undo()
		n.null()
	default:
		n.nulls = append(n.nulls, 0)
	}
	return exact, err
}

func (n *nullable) stored(b []byte) error {
	err := n.plain.stored(b)
	if err == nil {
		n.nulls = append(n.nulls, 0)
	}
	return err
}

func (n *nullable) null() {
	n.plain.zero()
	n.nulls = append(n.nulls, 1)
}

// zero of a nullable column is NULL.
func (n *nullable) zero() { n.null() }

func (n *nullable) undo() {
	n.plain.undo()
	n.nulls = n.nulls[:len(n.nulls)-1]
}

func (n *nullable) encode(dst []byte) []byte { return append(append(dst, n.nulls...), n.data...) }
func (n *nullable) size() int                { return len(n.data) + len(n.nulls) }
func (n *nullable) reset()                   { n.plain.reset(); n.nulls = n.nulls[:0] }

// array is Array(Nullable(T)).
type array struct {
	offsets []byte
	count   uint64
	item    nullable
	delim   byte
	parsed  pgtext.Array
	back    arrayMark
}

type arrayMark struct {
	count       uint64
	data, nulls int
}

func (a *array) begin() {
	a.back = arrayMark{a.count, len(a.item.data), len(a.item.nulls)}
}

func (a *array) rewind() {
	a.count = a.back.count
	a.item.data, a.item.nulls = a.item.data[:a.back.data], a.item.nulls[:a.back.nulls]
}

func (a *array) end() { a.offsets = binary.LittleEndian.AppendUint64(a.offsets, a.count) }

// text keeps the elements of an array whose bounds say more than they do, and
// none of one with several dimensions: flattened they would look like another array.
func (a *array) text(b []byte) (bool, error) {
	if err := a.parsed.Parse(b, a.delim); err != nil {
		return false, err
	}
	a.begin()
	exact := a.parsed.Plain()
	if len(a.parsed.Dims) <= 1 {
		for _, e := range a.parsed.Elems {
			if e.Null {
				a.item.null()
				continue
			}
			ok, err := a.item.text(e.Text)
			if err != nil {
				a.rewind()
				return false, err
			}
			exact = exact && ok
		}
		a.count += uint64(len(a.parsed.Elems))
	}
	a.end()
	return exact, nil
}

// list appends elements from the texts that ClickHouse prints; nil is NULL.
func (a *array) list(elems []*string) error {
	a.begin()
	for _, e := range elems {
		if e == nil {
			a.item.null()
		} else if err := a.item.stored([]byte(*e)); err != nil {
			a.rewind()
			return err
		}
	}
	a.count += uint64(len(elems))
	a.end()
	return nil
}

func (a *array) stored([]byte) error { return errNoText }

func (a *array) zero() { a.begin(); a.end() }

func (a *array) undo() {
	a.rewind()
	a.offsets = a.offsets[:len(a.offsets)-8]
}

func (a *array) prefix(dst []byte) []byte { return dst }

func (a *array) encode(dst []byte) []byte { return a.item.encode(append(dst, a.offsets...)) }

func (a *array) size() int { return len(a.offsets) + a.item.size() }

func (a *array) reset() {
	a.offsets, a.count, a.back = a.offsets[:0], 0, arrayMark{}
	a.item.reset()
}

// pairs is Map(String, Nullable(String)), of an hstore.
type pairs struct {
	offsets []byte
	count   uint64
	keys    plain
	values  nullable
	parsed  pgtext.Hstore
	back    struct {
		arrayMark
		keys int
	}
}

func (m *pairs) begin() {
	m.back.arrayMark = arrayMark{m.count, len(m.values.data), len(m.values.nulls)}
	m.back.keys = len(m.keys.data)
}

func (m *pairs) end() { m.offsets = binary.LittleEndian.AppendUint64(m.offsets, m.count) }

func (m *pairs) text(b []byte) (bool, error) {
	if err := m.parsed.Parse(b); err != nil {
		return false, err
	}
	m.begin()
	for _, p := range m.parsed.Pairs {
		m.keys.data, _, _ = appendString(m.keys.data, p.Key)
		if p.Null {
			m.values.null()
		} else {
			_, _ = m.values.text(p.Value)
		}
	}
	m.count += uint64(len(m.parsed.Pairs))
	m.end()
	return true, nil
}

func (m *pairs) list(keys []string, values []*string) {
	m.begin()
	for i, k := range keys {
		m.keys.data, _, _ = appendString(m.keys.data, []byte(k))
		if values[i] == nil {
			m.values.null()
		} else {
			_, _ = m.values.text([]byte(*values[i]))
		}
	}
	m.count += uint64(len(keys))
	m.end()
}

func (m *pairs) stored([]byte) error { return errNoText }

func (m *pairs) zero() { m.begin(); m.end() }

func (m *pairs) undo() {
	m.count = m.back.count
	m.keys.data = m.keys.data[:m.back.keys]
	m.values.data, m.values.nulls = m.values.data[:m.back.data], m.values.nulls[:m.back.nulls]
	m.offsets = m.offsets[:len(m.offsets)-8]
}

func (m *pairs) prefix(dst []byte) []byte { return dst }

func (m *pairs) encode(dst []byte) []byte {
	dst = append(dst, m.offsets...)
	dst = m.keys.encode(dst)
	return m.values.encode(dst)
}

func (m *pairs) size() int { return len(m.offsets) + m.keys.size() + m.values.size() }

func (m *pairs) reset() {
	m.offsets, m.count = m.offsets[:0], 0
	m.keys.reset()
	m.values.reset()
	m.begin()
}

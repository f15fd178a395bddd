package clickhouse

import (
	"encoding/binary"
	"errors"
)

var (
	errUnchanged = errors.New("the change does not carry the value and the sink has no row to take it from")
	errNoOld     = errors.New("it is part of the sorting key and the change does not carry its old value")
)

// exactMap is the column _exact: Map(String, String), empty for most rows.
type exactMap struct {
	offsets      []byte
	count        uint64
	keys, values plain
	backCount    uint64
	back         [2]int
	names        []string // put since begin
}

func (m *exactMap) begin() {
	m.backCount, m.back = m.count, [2]int{len(m.keys.data), len(m.values.data)}
	m.names = m.names[:0]
}

func (m *exactMap) put(column string, text []byte) {
	m.keys.data, _, _ = appendString(m.keys.data, []byte(column))
	m.values.data, _, _ = appendString(m.values.data, text)
	m.names = append(m.names, column)
	m.count++
}

func (m *exactMap) has(column string) bool {
	for _, n := range m.names {
		if n == column {
			return true
		}
	}
	return false
}

func (m *exactMap) end() { m.offsets = binary.LittleEndian.AppendUint64(m.offsets, m.count) }

// undo takes back what was put since begin.
func (m *exactMap) undo() {
	m.count = m.backCount
	m.keys.data, m.values.data = m.keys.data[:m.back[0]], m.values.data[:m.back[1]]
}

func (m *exactMap) text([]byte) (bool, error) { return false, errNoText }
func (m *exactMap) stored([]byte) error       { return errNoText }
func (m *exactMap) zero()                     { m.begin(); m.end() }
func (m *exactMap) prefix(dst []byte) []byte  { return dst }

func (m *exactMap) encode(dst []byte) []byte {
	dst = append(dst, m.offsets...)
	dst = append(dst, m.keys.data...)
	return append(dst, m.values.data...)
}

func (m *exactMap) size() int { return len(m.offsets) + len(m.keys.data) + len(m.values.data) }

func (m *exactMap) reset() {
	m.offsets, m.count = m.offsets[:0], 0
	m.keys.reset()
	m.values.reset()
	m.begin()
}

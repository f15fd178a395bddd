package postgres

import (
	"encoding/binary"

	"syncline/dataplane/change"
)

// textArray builds the binary form of a text[] parameter.
type textArray struct {
	buf []byte
	n   int
}

const (
	textOID      = 25
	textArrayOID = 1009
)

func (a *textArray) reset() {
	a.buf = append(a.buf[:0],
		0, 0, 0, 1, // dimensions
		0, 0, 0, 1, // may hold nulls
		0, 0, 0, textOID,
		0, 0, 0, 0, // length: set by bytes
		0, 0, 0, 1) // lower bound
	a.n = 0
}

func (a *textArray) add(v change.Value) {
	a.n++
	if v.Kind != change.Text {
		a.buf = append(a.buf, 0xff, 0xff, 0xff, 0xff)
		return
	}
	a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(len(v.Data)))
	a.buf = append(a.buf, v.Data...)
}

func (a *textArray) addString(s string) {
	a.n++
	a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(len(s)))
	a.buf = append(a.buf, s...)
}

func (a *textArray) bytes() []byte {
	if a.n == 0 { // an empty array has no dimensions
		return []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, textOID}
	}
	binary.BigEndian.PutUint32(a.buf[12:], uint32(a.n))
	return a.buf
}

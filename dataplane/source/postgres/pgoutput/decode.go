package pgoutput

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"syncline/dataplane/change"
)

// Decode reads one message into m. inStream says whether it came between
// StreamStart and StreamStop, where changes carry the transaction that did
// them. Values point into b.
func Decode(b []byte, inStream bool, m *Message) error {
	c := cursor{b: b}
	m.Kind = Kind(c.byte())
	m.XID, m.OldKind = 0, OldNone
	switch m.Kind {
	case RelationKind, TypeKind, Insert, Update, Delete, Truncate, Logical:
		if inStream {
			m.XID = c.uint32()
		}
	}
	switch m.Kind {
	case Begin:
		m.Commit, m.Time, m.XID = c.lsn(), c.time(), c.uint32()
	case Commit:
		c.byte() // flags, none defined
		m.Commit, m.End, m.Time = c.lsn(), c.lsn(), c.time()
	case Origin:
		c.lsn() // commit at the origin
		m.Name = string(c.cstring())
	case RelationKind:
		m.Relation = c.relation()
	case TypeKind:
		c.uint32()
		c.cstring()
		c.cstring()
	case Insert:
		m.RelID = c.uint32()
		c.expect('N')
		m.New = c.row(m.New)
	case Update:
		m.RelID = c.uint32()
		t := c.byte()
		if t == byte(OldKey) || t == byte(OldFull) {
			m.OldKind = Old(t)
			m.Old = c.row(m.Old)
			t = c.byte()
		}
		if t != 'N' {
			c.fail("new row", t)
		}
		m.New = c.row(m.New)
	case Delete:
		m.RelID = c.uint32()
		t := c.byte()
		if t != byte(OldKey) && t != byte(OldFull) {
			c.fail("old row", t)
		}
		m.OldKind = Old(t)
		m.Old = c.row(m.Old)
	case Truncate:
		n := c.uint32()
		c.byte() // options: cascade, restart identity
		m.RelIDs = m.RelIDs[:0]
		if c.need(int64(n) * 4) {
			for range n {
				m.RelIDs = append(m.RelIDs, c.uint32())
			}
		}
	case Logical:
		m.Transact = c.byte()&1 != 0
		m.MessageAt = c.lsn()
		m.Prefix = c.cstring()
		m.Content = c.bytes(c.uint32())
	case StreamStart:
		m.XID, m.First = c.uint32(), c.byte() == 1
	case StreamStop:
	case StreamCommit:
		m.XID = c.uint32()
		c.byte()
		m.Commit, m.End, m.Time = c.lsn(), c.lsn(), c.time()
	case StreamAbort:
		m.XID, m.SubXID = c.uint32(), c.uint32()
	default:
		c.fail("message", byte(m.Kind))
	}
	if c.err == nil && len(c.b) > 0 {
		c.err = fmt.Errorf("%d bytes too many", len(c.b))
	}
	if c.err != nil {
		return fmt.Errorf("pgoutput message %q of %d bytes: %w", byte(m.Kind), len(b), c.err)
	}
	return nil
}

// cursor reads big-endian fields; after the first error all reads are zero.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) fail(what string, got byte) {
	if c.err == nil {
		c.err = fmt.Errorf("unknown %s %q", what, got)
	}
	c.b = nil
}

func (c *cursor) need(n int64) bool {
	if n <= int64(len(c.b)) {
		return true
	}
	if c.err == nil {
		c.err = fmt.Errorf("cut short: %d bytes more expected, %d left", n, len(c.b))
	}
	c.b = nil
	return false
}

func (c *cursor) byte() byte {
	if !c.need(1) {
		return 0
	}
	v := c.b[0]
	c.b = c.b[1:]
	return v
}

func (c *cursor) expect(want byte) {
	if got := c.byte(); got != want {
		c.fail("marker", got)
	}
}

func (c *cursor) uint16() uint16 {
	if !c.need(2) {
		return 0
	}
	v := binary.BigEndian.Uint16(c.b)
	c.b = c.b[2:]
	return v
}

func (c *cursor) uint32() uint32 {
	if !c.need(4) {
		return 0
	}
	v := binary.BigEndian.Uint32(c.b)
	c.b = c.b[4:]
	return v
}

func (c *cursor) lsn() change.LSN {
	if !c.need(8) {
		return 0
	}
	v := binary.BigEndian.Uint64(c.b)
	c.b = c.b[8:]
	return change.LSN(v)
}

const y2k = 946684800 // the epoch of Postgres's timestamps, in Unix seconds

func (c *cursor) time() time.Time { return Time(int64(c.lsn())) }

// Time converts microseconds since 2000-01-01, as the protocol carries them.
func Time(micros int64) time.Time {
	return time.Unix(y2k+micros/1e6, micros%1e6*1e3).UTC()
}

func (c *cursor) bytes(n uint32) []byte {
	if !c.need(int64(n)) {
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) cstring() []byte {
	i := bytes.IndexByte(c.b, 0)
	if i < 0 {
		c.need(int64(len(c.b)) + 1)
		return nil
	}
	v := c.b[:i:i]
	c.b = c.b[i+1:]
	return v
}

func (c *cursor) row(r change.Row) change.Row {
	n := int(c.uint16())
	r = r[:0]
	if !c.need(int64(n)) { // each column has at least its kind
		return r
	}
	for range n {
		switch k := c.byte(); k {
		case 't':
			v := c.bytes(c.uint32())
			r = append(r, change.Value{Kind: change.Text, Data: v})
		case 'n':
			r = append(r, change.Value{})
		case 'u':
			r = append(r, change.Value{Kind: change.Unchanged})
		default:
			c.fail("value", k)
			return r
		}
	}
	return r
}

func (c *cursor) relation() *Relation {
	r := &Relation{ID: c.uint32(), Schema: string(c.cstring()), Name: string(c.cstring()), Identity: c.byte()}
	if r.Schema == "" {
		r.Schema = "pg_catalog" // the protocol writes that one as ""
	}
	n := int(c.uint16())
	if !c.need(int64(n) * 10) {
		return r
	}
	r.Columns = make([]Column, 0, n)
	for range n {
		flags := c.byte()
		r.Columns = append(r.Columns, Column{
			Key: flags&1 != 0, Name: string(c.cstring()), Type: c.uint32(), Mod: int32(c.uint32())})
	}
	return r
}

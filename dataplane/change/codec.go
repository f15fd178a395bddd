package change

import (
	"encoding/binary"
	"fmt"
	"time"
	"unsafe"
)

// FormatVersion is the first byte of an encoded change.
const FormatVersion = 1

// Offsets of the fixed part; README has the table.
const (
	offOp     = 1
	offFlags  = 2
	offPos    = 3
	offSchema = offPos + PositionBytes
	offXID    = offSchema + 8
	offTime   = offXID + 4
	fixedPart = offTime + 8
)

const (
	flagLast = 1 << iota
	flagOrigin
	flagTrace
	flagKey
	flagNew
	flagOld
	flagMoved
	flagsKnown = 1<<iota - 1
)

// Lengths of values start here; what is below are marks.
const (
	markNull = iota
	markUnchanged
	markText
)

// Encode appends the binary form of c to dst. The commit time is cut to
// microseconds, which is what Postgres keeps.
func Encode(dst []byte, c *Change) []byte {
	var flags byte
	if c.Last {
		flags |= flagLast
	}
	if c.Origin != "" {
		flags |= flagOrigin
	}
	if c.Trace != "" {
		flags |= flagTrace
	}
	if c.Key != "" {
		flags |= flagKey
	}
	if c.New != nil {
		flags |= flagNew
	}
	if c.Old != nil {
		flags |= flagOld
	}
	if c.Moved != nil {
		flags |= flagMoved
	}
	dst = append(dst, FormatVersion, byte(c.Op), flags)
	dst, _ = c.Pos.AppendBinary(dst)
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.Schema))
	dst = binary.BigEndian.AppendUint32(dst, c.XID)
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.CommitTime.UnixMicro()))
	dst = appendString(dst, c.Table.Schema)
	dst = appendString(dst, c.Table.Name)
	if c.Origin != "" {
		dst = appendString(dst, c.Origin)
	}
	if c.Trace != "" {
		dst = appendString(dst, c.Trace)
	}
	if c.Key != "" {
		dst = appendString(dst, string(c.Key))
	}
	if c.New != nil {
		dst = appendRow(dst, c.New)
	}
	if c.Old != nil {
		dst = appendRow(dst, c.Old)
	}
	if c.Moved != nil {
		dst = appendRow(dst, c.Moved)
	}
	return dst
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendRow(dst []byte, row Row) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(row)))
	for i := range row {
		switch v := &row[i]; v.Kind {
		case Text:
			dst = append(binary.AppendUvarint(dst, uint64(len(v.Data))+markText), v.Data...)
		case Unchanged:
			dst = append(dst, markUnchanged)
		default:
			dst = append(dst, markNull)
		}
	}
	return dst
}

// Decode fills c from the form that Encode writes, and from that form only:
// whatever Encode would not have written is an error that names the byte. c's
// strings and values alias b, which must not be modified while they are in
// use; rows that c has are reused if they are large enough. After an error c
// holds nothing of use.
func Decode(b []byte, c *Change) error {
	if len(b) == 0 {
		return &FormatError{0, "no bytes"}
	}
	if b[0] != FormatVersion {
		return &FormatError{0, fmt.Sprintf("format version %d, this release reads %d", b[0], FormatVersion)}
	}
	if len(b) < fixedPart {
		return &FormatError{len(b), fmt.Sprintf("ends within the first %d bytes", fixedPart)}
	}
	op, flags := Op(b[offOp]), b[offFlags]
	switch op {
	case Insert, Update, Delete, Truncate:
	default:
		return &FormatError{offOp, fmt.Sprintf("unknown operation %d", byte(op))}
	}
	if flags&^flagsKnown != 0 {
		return &FormatError{offFlags, fmt.Sprintf("unknown flags %#x", flags&^flagsKnown)}
	}
	newRow, oldRow, movedRow := c.New, c.Old, c.Moved
	*c = Change{
		Op:         op,
		Last:       flags&flagLast != 0,
		Schema:     Version(binary.BigEndian.Uint64(b[offSchema:])),
		XID:        binary.BigEndian.Uint32(b[offXID:]),
		CommitTime: time.UnixMicro(int64(binary.BigEndian.Uint64(b[offTime:]))).UTC(),
	}
	c.Pos, _ = DecodePosition(b[offPos:offSchema])
	d := decoder{b: b, at: fixedPart}
	c.Table.Schema = d.str("schema name", true)
	c.Table.Name = d.str("table name", true)
	if flags&flagOrigin != 0 {
		c.Origin = d.str("origin", false)
	}
	if flags&flagTrace != 0 {
		c.Trace = d.str("trace", false)
	}
	if flags&flagKey != 0 {
		c.Key = Key(d.str("key", false))
	}
	if flags&flagNew != 0 {
		c.New = d.row(newRow)
	}
	if flags&flagOld != 0 {
		c.Old = d.row(oldRow)
	}
	if flags&flagMoved != 0 {
		c.Moved = d.row(movedRow)
	}
	if d.err == nil && d.at != len(b) {
		return &FormatError{d.at, fmt.Sprintf("%d bytes too many", len(b)-d.at)}
	}
	if d.err != nil {
		return d.err
	}
	return nil
}

// FormatError says where an encoded change is not one.
type FormatError struct {
	Offset int
	What   string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("encoded change: byte %d: %s", e.Offset, e.What)
}

type decoder struct {
	b   []byte
	at  int
	err *FormatError
}

func (d *decoder) fail(at int, what string) {
	if d.err == nil {
		d.err = &FormatError{at, what}
	}
}

func (d *decoder) uvarint(what string) uint64 {
	if d.err != nil {
		return 0
	}
	if d.at < len(d.b) && d.b[d.at] < 0x80 { // nearly all lengths
		d.at++
		return uint64(d.b[d.at-1])
	}
	v, n := binary.Uvarint(d.b[d.at:])
	switch {
	case n == 0:
		d.fail(len(d.b), "ends within the length of "+what)
		return 0
	case n < 0 || d.b[d.at+n-1] == 0: // the last byte of a minimal varint is not zero
		d.fail(d.at, "bad length of "+what)
		return 0
	}
	d.at += n
	return v
}

func (d *decoder) bytes(n uint64, what string) []byte {
	if d.err != nil {
		return nil
	}
	if n > uint64(len(d.b)-d.at) {
		d.fail(len(d.b), "ends within "+what)
		return nil
	}
	v := d.b[d.at : d.at+int(n) : d.at+int(n)]
	d.at += int(n)
	return v
}

func (d *decoder) str(what string, empty bool) string {
	start := d.at
	v := d.bytes(d.uvarint(what), what)
	if len(v) == 0 {
		if !empty {
			d.fail(start, "empty "+what)
		}
		return ""
	}
	return unsafe.String(&v[0], len(v))
}

func (d *decoder) row(reuse Row) Row {
	start := d.at
	n := d.uvarint("row")
	if n > uint64(len(d.b)-d.at) { // a value takes at least one byte
		d.fail(start, fmt.Sprintf("row of %d columns in %d bytes", n, len(d.b)-d.at))
	}
	if d.err != nil {
		return nil
	}
	row := reuse[:0]
	if row == nil || uint64(cap(row)) < n {
		row = make(Row, 0, n)
	}
	for range n {
		switch l := d.uvarint("value"); l {
		case markNull:
			row = append(row, Value{})
		case markUnchanged:
			row = append(row, Value{Kind: Unchanged})
		default:
			row = append(row, Value{Text, d.bytes(l-markText, "value")})
		}
		if d.err != nil {
			return nil
		}
	}
	return row
}

package clickhouse

import (
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"unsafe"

	"syncline/dataplane/pgtext"
)

var (
	errNoText  = errors.New("the type has no single text to read back")
	errNoFloat = errors.New("float: not a number")
)

func intOf(sourceBits, bits int) appendFunc {
	return func(dst, b []byte) ([]byte, bool, error) {
		v, err := pgtext.ParseInt(b, sourceBits)
		return appendWord(dst, uint64(v), bits/8), true, err
	}
}

func uintOf(bits int) appendFunc {
	return func(dst, b []byte) ([]byte, bool, error) {
		v, err := pgtext.ParseUint(b, bits)
		return appendWord(dst, v, bits/8), true, err
	}
}

func appendWord(dst []byte, v uint64, size int) []byte {
	switch size {
	case 2:
		return binary.LittleEndian.AppendUint16(dst, uint16(v))
	case 4:
		return binary.LittleEndian.AppendUint32(dst, uint32(v))
	}
	return binary.LittleEndian.AppendUint64(dst, v)
}

func parseFloat(b []byte, bits int) (float64, error) {
	f, err := strconv.ParseFloat(unsafe.String(unsafe.SliceData(b), len(b)), bits)
	if err != nil {
		return 0, errNoFloat // the package's own error repeats the text
	}
	return f, nil
}

func appendFloat32(dst, b []byte) ([]byte, bool, error) {
	f, err := parseFloat(b, 32)
	return binary.LittleEndian.AppendUint32(dst, math.Float32bits(float32(f))), true, err
}

func appendFloat64(dst, b []byte) ([]byte, bool, error) {
	f, err := parseFloat(b, 64)
	return binary.LittleEndian.AppendUint64(dst, math.Float64bits(f)), true, err
}

func appendBool(dst, b []byte) ([]byte, bool, error) {
	v, err := pgtext.ParseBool(b)
	if v {
		return append(dst, 1), true, err
	}
	return append(dst, 0), true, err
}

func appendUUID(dst, b []byte) ([]byte, bool, error) {
	u, err := pgtext.ParseUUID(b)
	// Two 64-bit words, the high one first, each little-endian.
	dst = binary.LittleEndian.AppendUint64(dst, binary.BigEndian.Uint64(u[:8]))
	return binary.LittleEndian.AppendUint64(dst, binary.BigEndian.Uint64(u[8:])), true, err
}

func appendBytea(dst, b []byte) ([]byte, bool, error) {
	n := len(dst)
	dst = binary.AppendUvarint(dst, uint64(max(0, len(b)-2)/2))
	dst, err := pgtext.AppendBytea(dst, b)
	if err != nil {
		dst = dst[:n]
	}
	return dst, true, err
}

// decimalWidth is the size of a Decimal's integer.
func decimalWidth(precision int) int {
	switch {
	case precision <= 9:
		return 4
	case precision <= 18:
		return 8
	case precision <= 38:
		return 16
	}
	return 32
}

// decimalOf puts 0 for what a Decimal cannot hold: NaN, and digits beyond the
// declaration that a source cannot send unless its definition has changed.
func decimalOf(precision, scale int) appendFunc {
	width := decimalWidth(precision)
	return func(dst, b []byte) ([]byte, bool, error) {
		n, err := pgtext.ParseNumeric(b)
		if err != nil {
			return dst, false, err
		}
		u, exact, ok := n.Unscaled(precision, scale)
		if !ok {
			u, exact = pgtext.Uint256{}, false
		}
		if n.Neg {
			u = u.Negate()
		}
		if width == 4 {
			return binary.LittleEndian.AppendUint32(dst, uint32(u[0])), exact, nil
		}
		for _, w := range u[:width/8] {
			dst = binary.LittleEndian.AppendUint64(dst, w)
		}
		return dst, exact, nil
	}
}

// The first and last day that ClickHouse's Date32 and DateTime64 hold: 1900-01-01
// and 2299-12-31.
const (
	firstDay = -25567
	lastDay  = 120529
)

func appendDate(dst, b []byte) ([]byte, bool, error) {
	d, err := pgtext.ParseDate(b)
	if err != nil {
		return dst, false, err
	}
	day, exact := d.Days, d.Class == pgtext.Finite
	switch {
	case d.Class == pgtext.Infinity || exact && day > lastDay:
		day, exact = lastDay, false
	case d.Class == pgtext.NegInfinity || day < firstDay:
		day, exact = firstDay, false
	}
	return binary.LittleEndian.AppendUint32(dst, uint32(int32(day))), exact, nil
}

func timestampOf(zoned bool) appendFunc {
	const first, last = firstDay * 86400, lastDay*86400 + 86399
	return func(dst, b []byte) ([]byte, bool, error) {
		t, err := pgtext.ParseTimestamp(b, zoned)
		if err != nil {
			return dst, false, err
		}
		us, exact := t.Seconds*1e6+int64(t.Micros), t.Class == pgtext.Finite
		switch {
		case t.Class == pgtext.Infinity || exact && t.Seconds > last:
			us, exact = last*1e6+999999, false
		case t.Class == pgtext.NegInfinity || t.Seconds < first:
			us, exact = first*1e6, false
		}
		return binary.LittleEndian.AppendUint64(dst, uint64(us)), exact, nil
	}
}

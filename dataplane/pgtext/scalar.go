package pgtext

import (
	"encoding/hex"
	"math"
)

// ParseInt reads a decimal integer that fits bits (16, 32 or 64).
func ParseInt(b []byte, bits int) (int64, error) {
	i, neg := 0, false
	if len(b) > 0 && (b[0] == '-' || b[0] == '+') {
		neg = b[0] == '-'
		i = 1
	}
	if i == len(b) {
		return 0, bad("integer", i, "no digits")
	}
	limit := uint64(1)<<(bits-1) - 1
	if neg {
		limit++
	}
	var n uint64
	for ; i < len(b); i++ {
		d := b[i] - '0'
		if d > 9 {
			return 0, bad("integer", i, "not a digit")
		}
		if n > (math.MaxUint64-9)/10 {
			return 0, bad("integer", i, "out of range")
		}
		if n = n*10 + uint64(d); n > limit {
			return 0, bad("integer", i, "out of range")
		}
	}
	if neg {
		return -int64(n), nil
	}
	return int64(n), nil
}

// ParseUint reads an unsigned decimal integer that fits bits (oid, xid: 32; xid8: 64).
func ParseUint(b []byte, bits int) (uint64, error) {
	if len(b) == 0 {
		return 0, bad("unsigned integer", 0, "no digits")
	}
	limit := uint64(math.MaxUint64) >> (64 - bits)
	var n uint64
	for i, c := range b {
		d := uint64(c - '0')
		if d > 9 {
			return 0, bad("unsigned integer", i, "not a digit")
		}
		if n > limit/10 || n*10 > limit-d {
			return 0, bad("unsigned integer", i, "out of range")
		}
		n = n*10 + d
	}
	return n, nil
}

// ParseBool reads t or f, and the words that a cast to text gives.
func ParseBool(b []byte) (bool, error) {
	switch string(b) {
	case "t", "true":
		return true, nil
	case "f", "false":
		return false, nil
	}
	return false, bad("boolean", 0, "neither t nor f")
}

var nibble = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for c := byte('0'); c <= '9'; c++ {
		t[c] = c - '0'
	}
	for c := byte(0); c < 6; c++ {
		t['a'+c], t['A'+c] = 10+c, 10+c
	}
	return
}()

// ParseUUID reads the 36-character form.
func ParseUUID(b []byte) (u [16]byte, err error) {
	if len(b) != 36 {
		return u, bad("uuid", len(b), "want 36 characters")
	}
	n := 0
	for i := 0; i < 36; {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if b[i] != '-' {
				return u, bad("uuid", i, "want a hyphen")
			}
			i++
			continue
		}
		hi, lo := nibble[b[i]], nibble[b[i+1]]
		if hi|lo > 15 {
			return u, bad("uuid", i, "not a hexadecimal digit")
		}
		u[n] = hi<<4 | lo
		n, i = n+1, i+2
	}
	return u, nil
}

// AppendBytea appends the bytes of a bytea in its hex form (\x…).
func AppendBytea(dst, b []byte) ([]byte, error) {
	if len(b) < 2 || b[0] != '\\' || b[1] != 'x' {
		return dst, bad("bytea", 0, `want the hex form, \x`)
	}
	if len(b)%2 != 0 {
		return dst, bad("bytea", len(b), "odd number of hexadecimal digits")
	}
	n := len(dst)
	dst = append(dst, b[2:]...)
	// Decoding in place is allowed: the output never overtakes the input.
	m, err := hex.Decode(dst[n:], dst[n:])
	if err != nil {
		return dst[:n], bad("bytea", 2+2*m, "not a hexadecimal digit")
	}
	return dst[:n+m], nil
}

// CheckBit checks a bit string: ones and zeros.
func CheckBit(b []byte) error {
	for i, c := range b {
		if c != '0' && c != '1' {
			return bad("bit string", i, "neither 0 nor 1")
		}
	}
	return nil
}

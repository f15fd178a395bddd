package change

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/big"
	"math/bits"
	"strconv"
	"strings"
)

// LSN is a byte position in a Postgres write-ahead log.
type LSN uint64

// String returns the form Postgres prints, for example 16/B374D848.
func (l LSN) String() string { return string(l.appendText(nil)) }

func (l LSN) appendText(b []byte) []byte {
	b = appendHex(b, uint64(l)>>32)
	return appendHex(append(b, '/'), uint64(uint32(l)))
}

func appendHex(b []byte, v uint64) []byte {
	const digits = "0123456789ABCDEF"
	shift := max(bits.Len64(v)+3, 4) / 4 * 4
	for shift > 0 {
		shift -= 4
		b = append(b, digits[v>>shift&15])
	}
	return b
}

// ParseLSN reads the form that String returns.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	h, err1 := strconv.ParseUint(hi, 16, 32)
	l, err2 := strconv.ParseUint(lo, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		return 0, fmt.Errorf("LSN %q: want two hexadecimal numbers like 16/B374D848", s)
	}
	return LSN(h<<32 | l), nil
}

// MarshalText and UnmarshalText make an LSN readable in JSON.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (l *LSN) UnmarshalText(b []byte) (err error) { *l, err = ParseLSN(string(b)); return err }

// Position orders the changes of one pipeline. Commit is the LSN of the commit
// record of the change's transaction, Ordinal its place in that transaction
// (from 1), Epoch rises with a source failover or a full resync. The zero
// Ordinal is left to rows of a snapshot: Position{Epoch: e} comes before every
// change that is streamed in epoch e. Wall clocks have no part in it.
type Position struct {
	Epoch   uint32
	Commit  LSN
	Ordinal uint32
}

// Compare returns -1, 0 or +1.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Epoch, q.Epoch), cmp.Compare(p.Commit, q.Commit), cmp.Compare(p.Ordinal, q.Ordinal))
}

// Before reports whether p comes before q.
func (p Position) Before(q Position) bool { return p.Compare(q) < 0 }

// IsZero reports whether p is before every change of every epoch.
func (p Position) IsZero() bool { return p == Position{} }

// String returns epoch:LSN:ordinal, for example 1:16/B374D848:3.
func (p Position) String() string { return string(p.Append(nil)) }

// Append appends that form.
func (p Position) Append(b []byte) []byte {
	b = strconv.AppendUint(b, uint64(p.Epoch), 10)
	b = p.Commit.appendText(append(b, ':'))
	return strconv.AppendUint(append(b, ':'), uint64(p.Ordinal), 10)
}

// ParsePosition reads the form that String returns.
func ParsePosition(s string) (Position, error) {
	f := strings.Split(s, ":")
	if len(f) != 3 {
		return Position{}, fmt.Errorf("position %q: want epoch:LSN:ordinal", s)
	}
	epoch, err := strconv.ParseUint(f[0], 10, 32)
	if err != nil {
		return Position{}, fmt.Errorf("position %q: epoch: %w", s, err)
	}
	lsn, err := ParseLSN(f[1])
	if err != nil {
		return Position{}, fmt.Errorf("position %q: %w", s, err)
	}
	ord, err := strconv.ParseUint(f[2], 10, 32)
	if err != nil {
		return Position{}, fmt.Errorf("position %q: ordinal: %w", s, err)
	}
	return Position{uint32(epoch), lsn, uint32(ord)}, nil
}

// MarshalText and UnmarshalText make a Position readable in JSON.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (p *Position) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePosition(string(b))
	return err
}

// PositionBytes is the length of the binary form.
const PositionBytes = 16

// AppendBinary appends the 16-byte big-endian form, which sorts as Compare does.
func (p Position) AppendBinary(b []byte) ([]byte, error) {
	b = binary.BigEndian.AppendUint32(b, p.Epoch)
	b = binary.BigEndian.AppendUint64(b, uint64(p.Commit))
	return binary.BigEndian.AppendUint32(b, p.Ordinal), nil
}

// DecodePosition reads the form that AppendBinary writes.
func DecodePosition(b []byte) (Position, error) {
	if len(b) != PositionBytes {
		return Position{}, fmt.Errorf("position: want %d bytes, have %d", PositionBytes, len(b))
	}
	return Position{binary.BigEndian.Uint32(b), LSN(binary.BigEndian.Uint64(b[4:])), binary.BigEndian.Uint32(b[12:])}, nil
}

// Version returns the position as an unsigned 128-bit integer that sorts as
// Compare does: the _version of a row in a sink that keeps one.
func (p Position) Version() *big.Int {
	b, _ := p.AppendBinary(make([]byte, 0, PositionBytes))
	return new(big.Int).SetBytes(b)
}

// PositionOfVersion is the inverse of Version.
func PositionOfVersion(v *big.Int) (Position, error) {
	if v.Sign() < 0 || v.BitLen() > 128 {
		return Position{}, fmt.Errorf("version %s: not an unsigned 128-bit integer", v)
	}
	return DecodePosition(v.FillBytes(make([]byte, PositionBytes)))
}

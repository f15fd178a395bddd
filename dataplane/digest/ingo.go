package digest

import (
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/big"
	"math/bits"
	"strconv"
)

// InGo reports whether values of the form are compared in Go.
func (f Form) InGo() bool { return f == JSON || f == Paths || f == Masked }

// Texts are the columns of a row that are compared in Go, with their forms.
type Texts struct {
	Forms []Form
	// Finish makes values of texts that a statement does not read as they are, by column;
	// nil: none is needed.
	Finish []func([]byte) []byte
	buf    []byte
}

// Row is the digest of a row: of what the server gave for its other columns, and of the
// texts of these, of which nil is NULL.
func (t *Texts) Row(server string, texts []*string) Digest {
	t.buf = append(t.buf[:0], server...)
	for i, text := range texts {
		if text == nil {
			t.buf = append(t.buf, '~')
			continue
		}
		v := []byte(*text)
		if i < len(t.Finish) && t.Finish[i] != nil {
			v = t.Finish[i](v)
		}
		v = t.Forms[i].Canonical(v)
		t.buf = append(strconv.AppendInt(t.buf, int64(len(v)), 10), ':')
		t.buf = append(t.buf, v...)
	}
	h := md5.Sum(t.buf)
	return Digest(hex.EncodeToString(h[:]))
}

var errNoDigest = errors.New("a row's digest is not an md5 in hexadecimal")

// Summer sums digests as the servers do.
type Summer struct {
	rows  int64
	lanes [2]struct{ high, low uint64 }
}

// Add takes in a row's digest.
func (s *Summer) Add(d Digest) error {
	h, err := hex.DecodeString(string(d))
	if err != nil || len(h) != md5.Size {
		return errNoDigest
	}
	s.rows++
	for i := range s.lanes {
		l := &s.lanes[i]
		var carry uint64
		l.low, carry = bits.Add64(l.low, binary.BigEndian.Uint64(h[8*i:])>>4, 0)
		l.high += carry
	}
	return nil
}

// Sum of what was added.
func (s *Summer) Sum() Sum {
	text := func(i int) string {
		n := new(big.Int).SetUint64(s.lanes[i].high)
		return n.Lsh(n, 64).Or(n, new(big.Int).SetUint64(s.lanes[i].low)).String()
	}
	return Sum{Rows: s.rows, A: text(0), B: text(1)}
}

package change

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

// Op is what a change does to its row or table.
type Op byte

// The operations. The letters are Debezium's, so that they read the same in headers.
const (
	Insert   Op = 'c'
	Update   Op = 'u'
	Delete   Op = 'd'
	Truncate Op = 't'
)

// String returns the operation's word.
func (o Op) String() string {
	switch o {
	case Insert:
		return "insert"
	case Update:
		return "update"
	case Delete:
		return "delete"
	case Truncate:
		return "truncate"
	}
	return "op(" + strconv.Itoa(int(o)) + ")"
}

// ValueKind tells a text from NULL and from a value that the source did not send.
type ValueKind byte

// The kinds of values.
const (
	Null      ValueKind = iota // SQL NULL
	Text                       // Data is the Postgres text form
	Unchanged                  // a TOASTed value that the update left alone: the sink keeps what it has
)

// Value of a column. Data is nil unless Kind is Text; a Text's Data may be empty.
type Value struct {
	Kind ValueKind
	Data []byte
}

// TextValue returns a Text.
func TextValue(s string) Value { return Value{Text, []byte(s)} }

// Equal compares kind and bytes.
func (v Value) Equal(w Value) bool { return v.Kind == w.Kind && bytes.Equal(v.Data, w.Data) }

// Row has one value per column of its schema, in that order.
type Row []Value

// TextBytes is how many bytes the values have as text.
func (r Row) TextBytes() (n int) {
	for i := range r {
		n += len(r[i].Data)
	}
	return n
}

// Change is one committed change of one row, or a truncation of one table.
type Change struct {
	Table      TableID
	Schema     Version
	Op         Op
	Pos        Position
	XID        uint32    // top-level transaction
	CommitTime time.Time // on the source's clock; for people and lag, never for order
	Last       bool      // the last change of its transaction
	Origin     string    // replication origin name, "" if local
	Trace      string    // W3C traceparent, "" if not traced
	Key        Key       // "" for an append-only table and for Truncate
	New        Row       // nil for Delete and Truncate
	Old        Row       // for Delete: key columns set, or all with REPLICA IDENTITY FULL; for Update: only with FULL; else nil
	Moved      Row       // for the two halves of a change of key: the other half's key as the source wrote it, in key order; else nil
}

// Key is the primary key of a row: the text forms of its columns, each behind
// its length, so that different keys are different strings. Columns whose equal
// values have different texts (numeric 1.0 and 1.00, citext) are normalised.
type Key string

// MakeKey returns the key of a row of the schema; "" if the schema has no key.
func MakeKey(s *Schema, row Row) (Key, error) {
	if len(s.Key) == 0 {
		return "", nil
	}
	b := make([]byte, 0, 32)
	for _, i := range s.Key {
		if i >= len(row) || row[i].Kind != Text {
			return "", fmt.Errorf("table %s: key column %q has no value", s.Table, s.Columns[i].Name)
		}
		v := normalKeyText(s.Columns[i].Type.Root().Base, row[i].Data)
		b = binary.AppendUvarint(b, uint64(len(v)))
		b = append(b, v...)
	}
	return Key(b), nil
}

func normalKeyText(base string, v []byte) []byte {
	switch base {
	case "numeric":
		if bytes.IndexByte(v, '.') >= 0 {
			v = bytes.TrimRight(bytes.TrimRight(v, "0"), ".")
		}
		if len(v) == 0 || string(v) == "-" || string(v) == "-0" { // zero has one form
			return []byte("0")
		}
	case "citext":
		return bytes.ToLower(v)
	case "bpchar":
		return bytes.TrimRight(v, " ")
	case "float4", "float8":
		if string(v) == "-0" {
			return v[1:]
		}
	}
	return v
}

// Values returns the texts of the key's columns.
func (k Key) Values() ([]string, error) {
	var out []string
	b := []byte(k)
	for len(b) > 0 {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) {
			return nil, fmt.Errorf("key: damaged at byte %d of %d", len(k)-len(b), len(k))
		}
		out = append(out, string(b[w:w+int(n)]))
		b = b[w+int(n):]
	}
	return out, nil
}

// String returns the key's values quoted and in parentheses. It holds row data:
// keep it out of logs.
func (k Key) String() string {
	vs, err := k.Values()
	if err != nil {
		return "(damaged)"
	}
	for i := range vs {
		vs[i] = strconv.Quote(vs[i])
	}
	return "(" + strings.Join(vs, ",") + ")"
}

// ParseKey reads the form that String returns.
func ParseKey(s string) (Key, error) {
	bad := func() (Key, error) {
		return "", fmt.Errorf("key %q: want quoted values in parentheses, like (\"1\",\"a\")", s)
	}
	if len(s) < 2 || s[0] != '(' || s[len(s)-1] != ')' {
		return bad()
	}
	var b []byte
	for rest := s[1 : len(s)-1]; rest != ""; {
		q, err := strconv.QuotedPrefix(rest)
		if err != nil || q[0] != '"' {
			return bad()
		}
		v, err := strconv.Unquote(q)
		if err != nil {
			return bad()
		}
		b = binary.AppendUvarint(b, uint64(len(v)))
		b = append(b, v...)
		rest = rest[len(q):]
		if rest != "" {
			if rest[0] != ',' || len(rest) == 1 {
				return bad()
			}
			rest = rest[1:]
		}
	}
	return Key(b), nil
}

// Partition returns the key's partition of n: the same in every process and
// release, since a topic's order depends on it.
func (k Key) Partition(n int) int {
	if n <= 1 {
		return 0
	}
	return int(xxhash.Sum64String(string(k)) % uint64(n))
}

// AllPartitions is where a truncation goes.
const AllPartitions = -1

// Partition returns the change's partition of n, or AllPartitions. Changes
// without a key (append-only) go by their transaction, so that a resend finds
// the partition that the change had before.
func (c *Change) Partition(n int) int {
	switch {
	case c.Op == Truncate:
		return AllPartitions
	case c.Key != "" || n <= 1:
		return c.Key.Partition(n)
	}
	var b [12]byte
	binary.BigEndian.PutUint32(b[:], c.Pos.Epoch)
	binary.BigEndian.PutUint64(b[4:], uint64(c.Pos.Commit))
	return int(xxhash.Sum64(b[:]) % uint64(n))
}

package sinktest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// Texts that stand for values without a text.
const (
	NULL      = "NULL"
	Unchanged = "UNCHANGED"
)

// Builtin returns a type that every Postgres has.
func Builtin(name, base string, oid uint32, mod int32) change.Type {
	t := change.Type{Name: name, Kind: change.Base, Base: base, OID: oid, Mod: mod}
	switch {
	case strings.HasPrefix(base, "_"):
		t.Kind = change.Array
	case strings.HasSuffix(base, "multirange"):
		t.Kind = change.MultiRange
	case strings.HasSuffix(base, "range"):
		t.Kind = change.Range
	}
	return t
}

// The types that most tests use.
var (
	Int4   = Builtin("integer", "int4", 23, -1)
	Int8   = Builtin("bigint", "int8", 20, -1)
	TextT  = Builtin("text", "text", 25, -1)
	Bool   = Builtin("boolean", "bool", 16, -1)
	Citext = change.Type{Name: "citext", Kind: change.Base, Base: "citext", OID: 90001, Mod: -1}
)

// Col returns a column.
func Col(name string, t change.Type) change.Column { return change.Column{Name: name, Type: t} }

// Schema returns a definition of public.table whose first keys columns are the primary key.
func Schema(table string, keys int, cols ...change.Column) *change.Schema {
	s := &change.Schema{Table: change.TableID{Schema: "public", Name: table}, Columns: cols}
	for i := range keys {
		s.Columns[i].NotNull = true
		s.Key = append(s.Key, i)
	}
	return s
}

// Values returns a row of texts, NULL and Unchanged.
func Values(texts ...string) change.Row {
	out := make(change.Row, len(texts))
	for i, s := range texts {
		switch s {
		case NULL:
			out[i] = change.Value{Kind: change.Null}
		case Unchanged:
			out[i] = change.Value{Kind: change.Unchanged}
		default:
			out[i] = change.TextValue(s)
		}
	}
	return out
}

// Pos returns the n-th position of epoch 1.
func Pos(n int) change.Position {
	return change.Position{Epoch: 1, Commit: change.LSN(0x1000 + n*8), Ordinal: 1}
}

// Put returns a row that is written at position n.
func Put(s *change.Schema, n int, texts ...string) sink.Row {
	r := Values(texts...)
	key, err := change.MakeKey(s, r)
	if err != nil {
		panic(err)
	}
	return sink.Row{Op: change.Update, Pos: Pos(n), Commit: time.Unix(1700000000+int64(n), 0).UTC(), Key: key, New: r}
}

// Del returns the deletion of a key at position n.
func Del(s *change.Schema, n int, key ...string) sink.Row {
	old := make(change.Row, len(s.Columns))
	for i, k := range s.Key {
		old[k] = change.TextValue(key[i])
	}
	k, err := change.MakeKey(s, old)
	if err != nil {
		panic(err)
	}
	return sink.Row{Op: change.Delete, Pos: Pos(n), Commit: time.Unix(1700000000+int64(n), 0).UTC(), Key: k, Old: old}
}

// Batch returns rows of one table with the watermark of its partition 0.
func Batch(t sink.Table, offset int64, rows ...sink.Row) *sink.Batch {
	b := &sink.Batch{Tables: []sink.TableBatch{{Schema: t.Schema, Options: t.Options, Rows: rows}}}
	m := sink.Watermark{Partition: sink.Partition{Table: t.ID}, Offset: offset}
	for i := range rows {
		if m.Pos.Before(rows[i].Pos) {
			m.Pos = rows[i].Pos
		}
	}
	b.Marks = []sink.Watermark{m}
	b.Encode = func(table, row int) sink.DeadLetter {
		r := &b.Tables[table].Rows[row]
		return sink.DeadLetter{Partition: sink.Partition{Table: b.Tables[table].Schema.Table}, Offset: int64(row), Key: r.Key, Pos: r.Pos,
			Payload: []byte("payload " + strconv.Itoa(row))}
	}
	return b
}

// ErrNoBinary: Copy was asked for the binary form of a type that it does not know.
var ErrNoBinary = errors.New("sinktest: no binary form")

// Copy returns a CopyFunc that sends rows as Postgres does. The binary format is
// known for int4, int8, float8, text and bool; sent reports how often it was called.
func Copy(s *change.Schema, rows ...[]string) (f sink.CopyFunc, sent *int) {
	sent = new(int)
	return func(_ context.Context, w io.Writer, bin bool) (int64, error) {
		*sent++
		if bin {
			return int64(len(rows)), writeBinary(w, s, rows)
		}
		for _, r := range rows {
			fields := make([]string, len(r))
			for i, v := range r {
				fields[i] = strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`).Replace(v)
				if v == NULL {
					fields[i] = `\N`
				}
			}
			if _, err := io.WriteString(w, strings.Join(fields, "\t")+"\n"); err != nil {
				return 0, err
			}
		}
		return int64(len(rows)), nil
	}, sent
}

func writeBinary(w io.Writer, s *change.Schema, rows [][]string) error {
	if _, err := io.WriteString(w, "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"); err != nil {
		return err
	}
	for _, r := range rows {
		b := binary.BigEndian.AppendUint16(nil, uint16(len(r)))
		for i, v := range r {
			if v == NULL {
				b = append(b, 0xff, 0xff, 0xff, 0xff)
				continue
			}
			f, err := binaryField(s.Columns[i].Type.Base, v)
			if err != nil {
				return err
			}
			b = binary.BigEndian.AppendUint32(b, uint32(len(f)))
			b = append(b, f...)
		}
		if _, err := w.Write(b); err != nil { // row by row, as it comes from a server
			return err
		}
	}
	_, err := w.Write([]byte{0xff, 0xff})
	return err
}

func binaryField(base, v string) ([]byte, error) {
	switch base {
	case "int4":
		n, err := strconv.ParseInt(v, 10, 32)
		return binary.BigEndian.AppendUint32(nil, uint32(n)), err
	case "int8":
		n, err := strconv.ParseInt(v, 10, 64)
		return binary.BigEndian.AppendUint64(nil, uint64(n)), err
	case "bool":
		return []byte{map[string]byte{"t": 1}[v]}, nil
	case "text":
		return []byte(v), nil
	case "float8":
		f, err := strconv.ParseFloat(v, 64)
		return binary.BigEndian.AppendUint64(nil, math.Float64bits(f)), err
	}
	return nil, fmt.Errorf("%w: %s", ErrNoBinary, base)
}

// Loaded returns what a chunk's reader saw, at position n.
func Loaded(n int) sink.Loaded {
	x := uint64(700 + n)
	return sink.Loaded{Snapshot: change.Snapshot{XMin: x, XMax: x + 2, XIP: []uint64{x}}, LSN: Pos(n).Commit}
}

// equal compares tables without regard to the order of rows.
func (e *env) equal(have, want [][]*string) {
	e.Helper()
	h, w := Lines(have), Lines(want)
	if !slices.Equal(h, w) {
		e.Fatalf("rows differ\nhave:\n  %s\nwant:\n  %s", strings.Join(h, "\n  "), strings.Join(w, "\n  "))
	}
}

// Lines makes rows comparable: one line each, sorted.
func Lines(rows [][]*string) []string {
	out := make([]string, len(rows))
	for i, r := range rows {
		fs := make([]string, len(r))
		for j, v := range r {
			fs[j] = NULL
			if v != nil {
				fs[j] = strconv.Quote(*v)
			}
		}
		out[i] = strings.Join(fs, " | ")
	}
	slices.Sort(out)
	return out
}

// Await polls until ok, for at most a minute.
func Await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

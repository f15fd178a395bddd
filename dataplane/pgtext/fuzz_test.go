package pgtext_test

import (
	"bytes"
	"testing"

	"syncline/dataplane/change"
	"syncline/dataplane/pgtext"
)

// FuzzScalars feeds every reader of a single value: none may panic, and what
// they accept must keep the promises that callers rely on.
func FuzzScalars(f *testing.F) {
	for _, s := range []string{"1", "-1.50", "NaN", "-Infinity", "infinity", "2024-02-29", "0044-03-15 BC", "2024-01-01 10:11:12.5+05:30", "24:00:00-08", `\x00ff`, "t", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "[1,5)", "{[1,2),(3,4]}", `["a""b",)`, `"a"=>NULL, "b"=>"c"`} {
		f.Add([]byte(s))
	}
	var h pgtext.Hstore
	f.Fuzz(func(t *testing.T, b []byte) {
		keep := bytes.Clone(b)
		if n, err := pgtext.ParseNumeric(b); err == nil {
			n.Unscaled(76, 38)
			n.Unscaled(9, 2)
		}
		_, _ = pgtext.ParseInt(b, 64)
		_, _ = pgtext.ParseUint(b, 32)
		_, _ = pgtext.ParseBool(b)
		_, _ = pgtext.ParseUUID(b)
		_, _ = pgtext.ParseDate(b)
		if ts, err := pgtext.ParseTimestamp(b, true); err == nil && (ts.Micros < 0 || ts.Micros > 999999) {
			t.Fatal("microseconds out of range")
		}
		_, _ = pgtext.ParseTimestamp(b, false)
		_, _ = pgtext.ParseTime(b, true)
		if out, err := pgtext.AppendBytea(nil, b); err == nil && len(out) != (len(b)-2)/2 {
			t.Fatal("bytea length")
		}
		_ = pgtext.CheckBit(b)
		_ = h.Parse(b)
		_, _ = pgtext.ParseRange(b)
		_, _ = pgtext.ParseMultirange(b)
		if !bytes.Equal(b, keep) {
			t.Fatal("the input was changed")
		}
	})
}

func FuzzArray(f *testing.F) {
	for _, s := range []string{"{}", "{1,NULL}", "{{1,2},{3,4}}", `[0:1]={"a\"",b}`, `{"",x y}`} {
		f.Add([]byte(s))
	}
	var a pgtext.Array
	f.Fuzz(func(t *testing.T, b []byte) {
		if a.Parse(b, ',') != nil {
			return
		}
		n := 1
		for _, d := range a.Dims {
			n *= d.Len
		}
		if len(a.Dims) == 0 {
			n = 0
		}
		if n != len(a.Elems) {
			t.Fatalf("%d elements for dimensions %v", len(a.Elems), a.Dims)
		}
	})
}

func FuzzCopy(f *testing.F) {
	f.Add([]byte("a\tb\n\\N\t\\\\N\n"), 1)
	f.Add([]byte("\\x41\\101\\n\t\n\\.\n"), 3)
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		read := func(step int) (rows []change.Row, failed bool) {
			w := pgtext.NewCopyWriter(2, 1<<16, func(r change.Row) error {
				c := make(change.Row, len(r))
				for i, v := range r {
					c[i] = change.Value{Kind: v.Kind, Data: bytes.Clone(v.Data)}
				}
				rows = append(rows, c)
				return nil
			})
			for s := b; len(s) > 0; s = s[min(step, len(s)):] {
				if _, err := w.Write(s[:min(step, len(s))]); err != nil {
					return rows, true
				}
			}
			return rows, w.Close() != nil
		}
		if step < 1 {
			step = 1
		}
		whole, e1 := read(len(b) + 1)
		pieces, e2 := read(step)
		if len(whole) != len(pieces) || e1 != e2 {
			t.Fatal("pieces read otherwise than the whole")
		}
		for i := range whole {
			for j := range whole[i] {
				if !whole[i][j].Equal(pieces[i][j]) {
					t.Fatal("pieces read otherwise than the whole")
				}
			}
		}
	})
}

func BenchmarkCopy(b *testing.B) {
	line := []byte("123456\talice@example.org\t\\N\t2024-05-06 07:08:09.123456+00\ttext with \\t tab\n")
	block := bytes.Repeat(line, 1000)
	w := pgtext.NewCopyWriter(5, 1<<20, func(change.Row) error { return nil })
	b.SetBytes(int64(len(block)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Write(block); err != nil {
			b.Fatal(err)
		}
	}
}

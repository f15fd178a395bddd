package debezium

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

var update = flag.Bool("update", false, "write golden files")

func col(name, base string, mod int32) change.Column {
	return change.Column{Name: name, Type: change.Type{Name: base, Kind: change.Base, Base: base, Mod: mod}}
}

func schema() *change.Schema {
	array := func(name, base string) change.Column {
		elem := col("", base, -1).Type
		return change.Column{Name: name, Type: change.Type{Name: base + "[]", Kind: change.Array, Base: "_" + base, Elem: &elem}}
	}
	domain := col("email", "citext", -1)
	inner := domain.Type
	domain.Type = change.Type{Name: "email", Kind: change.Domain, Base: "email", Elem: &inner}
	s := &change.Schema{
		Table: change.TableID{Schema: "shop", Name: "orders"},
		Columns: []change.Column{
			col("id", "int8", -1), col("region", "text", -1), col("qty", "int4", -1), col("price", "numeric", 10<<16|2+4), col("weight", "numeric", -1),
			col("ratio", "float8", -1), col("paid", "bool", -1), col("blob", "bytea", -1), col("day", "date", -1), col("at", "time", -1), col("at3", "time", 3),
			col("atz", "timetz", -1), col("ts", "timestamp", -1), col("ts3", "timestamp", 3), col("tsz", "timestamptz", -1), col("span", "interval", -1),
			col("uid", "uuid", -1), col("doc", "jsonb", -1), array("tags", "text"), array("nums", "int4"), col("flag", "bit", 1), col("bits", "bit", 12),
			{Name: "mood", Type: change.Type{Name: "mood", Kind: change.Enum, Base: "mood", Labels: []string{"sad", "ok"}}}, domain,
			{Name: "during", Type: change.Type{Name: "tstzrange", Kind: change.Range, Base: "tstzrange"}}, col("addr", "inet", -1), col("attrs", "hstore", -1),
			col("place", "point", -1), col(`odd "name"`, "text", -1),
		},
		Key: []int{0, 1},
	}
	s.Columns[0].NotNull, s.Columns[1].NotNull = true, true
	return s
}

func full() change.Row {
	var r change.Row
	for _, v := range []string{"42", "eu", "3", "1234.50", "-0.000123", "0.1", "t", `\x00ff`, "2026-03-01", "12:00:00.25", "12:00:00.251",
		"12:00:00.5+05:30", "2026-03-01 12:00:00.25", "1969-12-31 23:59:59.999", "2026-03-01 12:00:00.25+00", "1 year 2 mons -3 days +04:05:06.7",
		"b3c1d1de-0000-4000-8000-000000000001", `{"a": "ü\n"}`, `{a,NULL,"b \"c\"",""}`, "{1,2,NULL}", "1", "101000000001",
		"ok", "A@b.example", `["2026-03-01 00:00:00+00",)`, "10.0.0.1/8", `"a"=>"1", "b"=>NULL`, "(1,-2.5)", "tab\tand\u2028\x01"} {
		r = append(r, change.TextValue(v))
	}
	return r
}

func keys(s *change.Schema, r change.Row) change.Row {
	out := make(change.Row, len(r))
	for _, i := range s.Key {
		out[i] = r[i]
	}
	return out
}

// Golden files hold the shape of every kind of record, with and without schema.
func TestGolden(t *testing.T) {
	s := schema()
	base := change.Change{Table: s.Table, Schema: s.Version(), Pos: change.Position{Epoch: 1, Commit: 0x16B374D848, Ordinal: 2}, XID: 4711,
		CommitTime: time.Date(2026, 3, 1, 12, 0, 0, 250_000_000, time.UTC)}
	mk := func(f func(*change.Change)) change.Change { c := base; f(&c); return c }
	moved := full()
	moved[0] = change.TextValue("43")
	toasted := full()
	for _, i := range []int{1, 7, 17, 18, 4, 26} {
		toasted[i] = change.Value{Kind: change.Unchanged}
	}
	toasted[1] = change.TextValue("eu")
	nulls := make(change.Row, len(full()))
	copy(nulls, full()[:2])
	infinite := full()
	for i, v := range map[int]string{4: "NaN", 5: "-Infinity", 8: "infinity", 12: "infinity", 14: "-infinity"} {
		infinite[i] = change.TextValue(v)
	}
	cases := []struct {
		name string
		c    change.Change
	}{
		{"snapshot", mk(func(c *change.Change) { c.Op, c.New, c.Pos.Ordinal = change.Insert, full(), 0 })},
		{"insert", mk(func(c *change.Change) { c.Op, c.New = change.Insert, full() })},
		{"insert-nulls", mk(func(c *change.Change) { c.Op, c.New = change.Insert, nulls })},
		{"insert-infinite", mk(func(c *change.Change) { c.Op, c.New = change.Insert, infinite })},
		{"update", mk(func(c *change.Change) { c.Op, c.New = change.Update, full() })},
		{"update-full", mk(func(c *change.Change) { c.Op, c.New, c.Old = change.Update, full(), nulls })},
		{"update-toast", mk(func(c *change.Change) { c.Op, c.New = change.Update, toasted })},
		{"delete", mk(func(c *change.Change) { c.Op, c.Old = change.Delete, keys(s, full()) })},
		{"key-change-1", mk(func(c *change.Change) { c.Op, c.Old, c.Moved = change.Delete, keys(s, full()), moved[:2] })},
		{"key-change-2", mk(func(c *change.Change) {
			c.Op, c.New, c.Moved, c.Pos.Ordinal = change.Insert, moved, full()[:2], 3
		})},
		{"truncate", mk(func(c *change.Change) { c.Op = change.Truncate })},
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 300_000_000, time.UTC)
	for _, mode := range []struct {
		name string
		o    Options
	}{
		{"plain", Options{Server: "sl", Database: "shop", Truncate: true}},
		{"schema", Options{Server: "sl", Database: "shop", Truncate: true, WithSchema: true}},
		{"string", Options{Server: "sl", Database: "shop", Decimal: DecimalString, NoTombstones: true}},
		{"double", Options{Server: "sl", Database: "shop", Decimal: DecimalDouble}},
	} {
		e, err := New(mode.o)
		if err != nil {
			t.Fatal(err)
		}
		for _, tc := range cases {
			recs, err := e.Encode(s, &tc.c, now)
			if err != nil {
				t.Fatalf("%s %s: %v", mode.name, tc.name, err)
			}
			var out bytes.Buffer
			for _, r := range recs {
				for _, part := range []struct {
					name string
					b    []byte
				}{{"key", r.Key}, {"value", r.Value}} {
					fmt.Fprintf(&out, "%s: ", part.name)
					if part.b == nil {
						out.WriteString("null\n")
						continue
					}
					if err := json.Indent(&out, part.b, "", "  "); err != nil {
						t.Fatalf("%s %s: %s is not JSON: %v\n%s", mode.name, tc.name, part.name, err, part.b)
					}
					out.WriteByte('\n')
				}
				for _, h := range r.Headers {
					fmt.Fprintf(&out, "header %s: %s\n", h.Key, h.Value)
				}
			}
			file := fmt.Sprintf("testdata/%s-%s.golden", tc.name, mode.name)
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(want, out.Bytes()) {
				t.Errorf("%s differs:\n%s", file, out.Bytes())
			}
		}
	}
}

// What the source did not send is null where the schema allows it only.
func TestNotNullIsNeverNull(t *testing.T) {
	for _, o := range []Options{{Server: "sl", WithSchema: true}, {Server: "sl"}, {Server: "sl", Decimal: DecimalString}, {Server: "sl", Decimal: DecimalDouble}} {
		e, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		s := schema()
		for i := range s.Columns {
			s.Columns[i].NotNull = true
		}
		left := make(change.Row, len(s.Columns))
		for i := range left {
			left[i].Kind = change.Unchanged
		}
		copy(left, full()[:2])
		for which, c := range map[string]change.Change{
			"before": {Op: change.Delete, Old: keys(s, full())},
			"after":  {Op: change.Update, New: left},
		} {
			c.Table, c.Schema, c.Pos.Ordinal = s.Table, s.Version(), 1
			recs, err := e.Encode(s, &c, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			var v map[string]json.RawMessage
			if err := json.Unmarshal(recs[0].Value, &v); err != nil {
				t.Fatal(err)
			}
			if o.WithSchema {
				if err := json.Unmarshal(v["payload"], &v); err != nil {
					t.Fatal(err)
				}
			}
			var image map[string]any
			if err := json.Unmarshal(v[which], &image); err != nil {
				t.Fatalf("%v in %s", err, recs[0].Value)
			}
			for _, col := range s.Columns {
				if image[col.Name] == nil {
					t.Errorf("%s of %s is null in %+v", which, col.Name, o)
				}
			}
		}
	}
}

func TestBadValueNamesColumnNotValue(t *testing.T) {
	e, _ := New(Options{Server: "sl"})
	s := schema()
	row := full()
	row[8] = change.TextValue("secret")
	_, err := e.Encode(s, &change.Change{Table: s.Table, Op: change.Insert, New: row, Pos: change.Position{Ordinal: 1}}, time.Time{})
	if !fault.Is(err, CodeUnencodable) || !strings.Contains(err.Error(), `"day"`) || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

func TestDates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		days := rapid.Int64Range(-2_500_000, 2_900_000).Draw(t, "days") // years -4875 to 9909
		y, m, d := civil(days)
		want := time.Unix(days*86400, 0).UTC()
		if int(y) != want.Year() || int(m) != int(want.Month()) || int(d) != want.Day() || daysOf(y, m, d) != days {
			t.Fatalf("day %d is %d-%d-%d, want %v; back %d", days, y, m, d, want, daysOf(y, m, d))
		}
	})
	for text, want := range map[string]int64{"1970-01-01": 0, "0001-01-01": -719162, "0001-12-31 BC": -719163, "4713-01-01 BC": -2440550, "5874897-12-31": 2145042905} {
		if got, err := parseDate([]byte(text)); err != nil || got != want {
			t.Errorf("%s is day %d, %v; want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]string{"0044-03-15 12:00:00+00 BC": "-0043-03-15T12:00:00.000000Z", "20260-01-01 00:00:00.5+00": "+20260-01-01T00:00:00.500000Z", "2026-03-01 00:00:00-03:30": "2026-03-01T03:30:00.000000Z"} {
		got, err := timestamptzConv(nil, []byte(text))
		if err != nil || string(got) != `"`+want+`"` {
			t.Errorf("%s is %s, %v; want %s", text, got, err, want)
		}
	}
}

func TestTwos(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := new(big.Int).SetBytes(rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "bytes"))
		if rapid.Bool().Draw(t, "negative") {
			v.Neg(v)
		}
		b := twos(v)
		back := new(big.Int).SetBytes(b)
		if b[0]&0x80 != 0 {
			back.Sub(back, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
		}
		if back.Cmp(v) != 0 {
			t.Fatalf("%s became %x, which is %s", v, b, back)
		}
		if len(b) > 1 && (b[0] == 0 && b[1]&0x80 == 0 || b[0] == 0xff && b[1]&0x80 != 0) {
			t.Fatalf("%s became %x, which is not the shortest", v, b)
		}
	})
}

func TestStringsAreJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		var back string
		if err := json.Unmarshal(appendString(nil, []byte(s)), &back); err != nil || back != s {
			t.Fatalf("%q became %q, %v", s, back, err)
		}
	})
}

// No text of any type may panic or give anything but JSON.
func FuzzValues(f *testing.F) {
	for i, v := range full() {
		f.Add(i, string(v.Data))
	}
	e, _ := New(Options{Server: "sl"})
	s := schema()
	t := e.table(s, s.Version())
	f.Fuzz(func(tt *testing.T, i int, text string) {
		if i < 0 || i >= len(t.columns) {
			return
		}
		out, err := t.columns[i].conv(nil, []byte(text))
		if err == nil && !json.Valid(out) {
			tt.Fatalf("column %s: %q became %s", s.Columns[i].Name, text, out)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	e, _ := New(Options{Server: "sl"})
	s := schema()
	c := &change.Change{Table: s.Table, Schema: s.Version(), Op: change.Insert, New: full(), Pos: change.Position{Ordinal: 1}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Encode(s, c, time.Time{}); err != nil {
			b.Fatal(err)
		}
	}
}

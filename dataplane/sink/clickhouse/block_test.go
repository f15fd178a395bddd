package clickhouse

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	chproto "github.com/ClickHouse/ch-go/proto"
	chcolumn "github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
	"github.com/shopspring/decimal"
	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/sink/sinktest"
)

func arrayOf(elem change.Type) change.Type {
	return change.Type{Name: elem.Name + "[]", Kind: change.Array, Base: "_" + elem.Base, OID: 90100, Mod: elem.Mod, Elem: &elem}
}

var (
	money       = sinktest.Builtin("numeric(20,4)", "numeric", 1700, 20<<16+4+4)
	timestamptz = sinktest.Builtin("timestamp with time zone", "timestamptz", 1184, -1)
	hstore      = change.Type{Name: "hstore", Kind: change.Base, Base: "hstore", OID: 90002, Mod: -1}
	mood        = change.Type{Name: "mood", Kind: change.Enum, Base: "mood", OID: 90003, Mod: -1, Labels: []string{"sad", "ok"}}
)

func testLayout(t testing.TB, sch *change.Schema, o sink.TableOptions) *layout {
	t.Helper()
	s, err := Open(Config{DSN: "http://localhost:8123", Pipeline: "p"})
	if err != nil {
		t.Fatal(err)
	}
	l, problem := s.newLayout(sch, o)
	if problem != "" {
		t.Fatal(problem)
	}
	return l
}

func wideSchema() *change.Schema {
	return sinktest.Schema("wide", 1, sinktest.Col("id", sinktest.Int8), sinktest.Col("s", sinktest.TextT), sinktest.Col("d", money),
		sinktest.Col("t", timestamptz), sinktest.Col("a", arrayOf(sinktest.Int4)), sinktest.Col("h", hstore), sinktest.Col("e", mood),
		sinktest.Col("b", sinktest.Builtin("bytea", "bytea", 17, -1)), sinktest.Col("u", sinktest.Builtin("uuid", "uuid", 2950, -1)),
		sinktest.Col("f", sinktest.Builtin("real", "float4", 700, -1)), sinktest.Col("day", sinktest.Builtin("date", "date", 1082, -1)),
		sinktest.Col("w", sinktest.Builtin("numeric(70,30)", "numeric", 1700, 70<<16+30+4)))
}

// decode reads a block with the client library's own decoder.
func decode(t interface{ Fatalf(string, ...any) }, b *block) *proto.Block {
	var out proto.Block
	out.ServerContext = &chcolumn.ServerContext{Timezone: time.UTC}
	if err := out.Decode(chproto.NewReader(bytes.NewReader(encodeNative(nil, b.rows, b.parts()))), 0); err != nil {
		t.Fatalf("decode: %v", err)
	}
	if len(out.Columns) > 0 && b.rows > 0 && out.Rows() != b.rows {
		t.Fatalf("%d rows, want %d", out.Rows(), b.rows)
	}
	return &out
}

// TestBlockReadsBack compares what a block holds with what went in, rows that are
// refused in the middle included.
func TestBlockReadsBack(t *testing.T) {
	sch := wideSchema()
	l := testLayout(t, sch, sink.TableOptions{})
	rapid.Check(t, func(t *rapid.T) {
		b := newBlock(l)
		type want struct {
			id  int64
			s   *string
			d   *string
			a   []*int32
			e   *string
			pos change.Position
		}
		var wants []want
		for n := range rapid.IntRange(1, 12).Draw(t, "rows") {
			row := make(change.Row, len(sch.Columns))
			w := want{id: rapid.Int64().Draw(t, "id"), pos: change.Position{Epoch: rapid.Uint32().Draw(t, "epoch"), Commit: change.LSN(rapid.Uint64().Draw(t, "lsn")), Ordinal: rapid.Uint32().Draw(t, "ordinal")}}
			row[0] = change.TextValue(fmt.Sprint(w.id))
			if rapid.Bool().Draw(t, "s?") {
				s := rapid.String().Draw(t, "s")
				row[1], w.s = change.TextValue(s), &s
			}
			if rapid.Bool().Draw(t, "d?") {
				d := decimal.New(rapid.Int64().Draw(t, "d"), -4).StringFixed(4)
				row[2], w.d = change.TextValue(d), &d
			}
			var parts []string
			for range rapid.IntRange(0, 3).Draw(t, "elems") {
				if rapid.Bool().Draw(t, "elem?") {
					v := rapid.Int32().Draw(t, "elem")
					w.a, parts = append(w.a, &v), append(parts, fmt.Sprint(v))
				} else {
					w.a, parts = append(w.a, nil), append(parts, "NULL")
				}
			}
			row[4] = change.TextValue("{" + strings.Join(parts, ",") + "}")
			if rapid.Bool().Draw(t, "e?") {
				e := rapid.SampledFrom([]string{"sad", "ok", ""}).Draw(t, "e")
				row[6], w.e = change.TextValue(e), &e
			}
			if rapid.IntRange(0, 3).Draw(t, "bad") == 0 {
				bad := append(change.Row(nil), row...)
				bad[rapid.SampledFrom([]int{0, 2, 3, 4, 5, 7, 8, 9, 10, 11}).Draw(t, "column")] = change.TextValue("secret!")
				if err := b.add(bad, "", stamp{}, nil); err == nil || strings.Contains(err.Error(), "secret") {
					t.Fatalf("a bad value: %v", err)
				}
			}
			if err := b.add(row, "", stamp{pos: w.pos, commit: time.UnixMicro(int64(n))}, nil); err != nil {
				t.Fatal(err)
			}
			wants = append(wants, w)
		}
		got := decode(t, b)
		index := map[string]chcolumn.Interface{}
		for _, c := range got.Columns {
			index[c.Name()] = c
		}
		for i, w := range wants {
			if v := index["id"].Row(i, false).(int64); v != w.id {
				t.Fatalf("row %d: id %d, want %d", i, v, w.id)
			}
			if v, _ := index["s"].Row(i, false).(*string); (v == nil) != (w.s == nil) || v != nil && *v != *w.s {
				t.Fatalf("row %d: s", i)
			}
			if v, _ := index["d"].Row(i, false).(*decimal.Decimal); (v == nil) != (w.d == nil) || v != nil && v.StringFixed(4) != *w.d {
				t.Fatalf("row %d: d %v, want %v", i, v, w.d)
			}
			if v, _ := index["e"].Row(i, false).(*string); (v == nil) != (w.e == nil) || v != nil && *v != *w.e {
				t.Fatalf("row %d: e", i)
			}
			v := index["a"].Row(i, false).([]*int32)
			if len(v) != len(w.a) {
				t.Fatalf("row %d: %d elements, want %d", i, len(v), len(w.a))
			}
			for k := range v {
				if (v[k] == nil) != (w.a[k] == nil) || v[k] != nil && *v[k] != *w.a[k] {
					t.Fatalf("row %d: element %d", i, k)
				}
			}
			if v := fmt.Sprint(index[colVersion].Row(i, true)); v != w.pos.Version().String() {
				t.Fatalf("row %d: version %s, want %s", i, v, w.pos.Version())
			}
			exact := index[colExact].Row(i, false).(map[string]string)
			if len(exact) != 1 || exact["h"] != "NULL" { // a map takes no NULL
				t.Fatalf("row %d: exact %v", i, exact)
			}
		}
	})
}

// TestWhatTypesCannotHold checks that the exact text is kept beside the nearest value.
func TestWhatTypesCannotHold(t *testing.T) {
	sch := wideSchema()
	b := newBlock(testLayout(t, sch, sink.TableOptions{}))
	for _, c := range []struct{ column, text, near string }{
		{"d", "NaN", ""},
		{"d", "99999999999999999.5", ""}, // beyond numeric(20,4): a definition that changed
		{"d", "1.00001", ""},
		{"t", "infinity", "any"}, // the client library's own clock ends in 2262: see the tests with a server
		{"t", "-infinity", "1900-01-01 00:00:00 +0000 UTC"},
		{"t", "0044-03-15 12:00:00+00 BC", "1900-01-01 00:00:00 +0000 UTC"},
		{"t", "294276-12-31 23:59:59.999999+00", "any"},
		{"day", "5874897-12-31", "2299-12-31 00:00:00 +0000 UTC"},
		{"day", "1899-12-31", "1900-01-01 00:00:00 +0000 UTC"},
		{"a", "{{1,2},{3,4}}", "[]"},
		{"a", "[0:1]={1,2}", "2 elements"},
	} {
		b.reset()
		row := make(change.Row, len(sch.Columns))
		row[0], row[4], row[5] = change.TextValue("1"), change.TextValue("{}"), change.TextValue("")
		row[sch.Column(c.column)] = change.TextValue(c.text)
		if err := b.add(row, "", stamp{}, nil); err != nil {
			t.Fatalf("%s %s: %v", c.column, c.text, err)
		}
		got := decode(t, b)
		for _, col := range got.Columns {
			switch col.Name() {
			case colExact:
				if m := col.Row(0, false).(map[string]string); len(m) != 1 || m[c.column] != c.text {
					t.Errorf("%s %s: exact %v", c.column, c.text, m)
				}
			case c.column:
				near := ""
				switch v := col.Row(0, false).(type) {
				case *time.Time:
					near = fmt.Sprint(v.UTC())
				case *decimal.Decimal:
					near = v.String()
				case []*int32:
					if near = "[]"; len(v) > 0 {
						near = fmt.Sprint(len(v), " elements")
					}
				}
				if near != c.near && c.near != "any" {
					t.Errorf("%s %s: nearest is %s, want %s", c.column, c.text, near, c.near)
				}
			}
		}
	}
}

// TestTimesInRange checks that nothing in the range of the types is kept twice.
func TestTimesInRange(t *testing.T) {
	sch := wideSchema()
	l := testLayout(t, sch, sink.TableOptions{})
	rapid.Check(t, func(t *rapid.T) {
		at := time.UnixMicro(rapid.Int64Range(firstDay*86400e6, 9_200_000_000_000_000).Draw(t, "us")).UTC()
		row := make(change.Row, len(sch.Columns))
		row[0], row[4], row[5] = change.TextValue("1"), change.TextValue("{}"), change.TextValue("")
		row[3], row[10] = change.TextValue(at.Format("2006-01-02 15:04:05.999999-07")), change.TextValue(at.Format("2006-01-02"))
		b := newBlock(l)
		if err := b.add(row, "", stamp{}, nil); err != nil {
			t.Fatal(err)
		}
		for _, col := range decode(t, b).Columns {
			switch col.Name() {
			case colExact:
				if m := col.Row(0, false).(map[string]string); len(m) != 0 {
					t.Fatalf("exact %v", m)
				}
			case "t":
				if v := col.Row(0, false).(*time.Time); !v.Equal(at) {
					t.Fatalf("%v, want %v", v, at)
				}
			case "day":
				if v := col.Row(0, false).(*time.Time); v.Format("2006-01-02") != at.Format("2006-01-02") {
					t.Fatalf("%v, want %v", v, at)
				}
			}
		}
	})
}

// FuzzBlock puts any text into any column: the block stays readable.
func FuzzBlock(f *testing.F) {
	for i, s := range []string{"1", "x", "-1.5", "NaN", "infinity", "{1,NULL}", `"a"=>NULL`, "sad", `\x00`, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "2024-01-01", "[0:0]={1}"} {
		f.Add(uint8(i), []byte(s), []byte(s))
	}
	sch := wideSchema()
	l := testLayout(f, sch, sink.TableOptions{})
	f.Fuzz(func(t *testing.T, col uint8, one, two []byte) {
		b := newBlock(l)
		for _, text := range [][]byte{one, two, one} {
			row := make(change.Row, len(sch.Columns))
			row[0] = change.TextValue("1")
			row[int(col)%len(row)] = change.Value{Kind: change.Text, Data: text}
			_ = b.add(row, "", stamp{}, nil)
		}
		decode(t, b)
	})
}

func TestKeyParts(t *testing.T) {
	citext := sinktest.Citext
	for _, c := range []struct {
		typ         change.Type
		order, text string // sorting key, and _key for value
		value       string
	}{
		{sinktest.Int4, "k", "", "1"},
		{citext, "_key", "abc", "aBC"},
		{sinktest.Builtin("numeric", "numeric", 1700, -1), "_key", "1", "1.00"},
		{money, "k,_key", "", "1.5000"},
		{money, "k,_key", "NaN", "NaN"},
		{timestamptz, "k,_key", "", "2024-01-01 00:00:00+00"},
		{timestamptz, "k,_key", "infinity", "infinity"},
		{arrayOf(sinktest.Int4), "_key", "{1,2}", "{1,2}"},
	} {
		sch := sinktest.Schema("t", 1, sinktest.Col("k", c.typ), sinktest.Col("v", sinktest.TextT))
		l := testLayout(t, sch, sink.TableOptions{})
		if got := strings.Join(l.order, ","); got != c.order {
			t.Errorf("%s: sorting key %s, want %s", c.typ.Name, got, c.order)
		}
		// A tombstone has the normalised text alone and must come to the same key.
		b := newBlock(l)
		row := sinktest.Values(c.value, "x")
		key, err := change.MakeKey(sch, row)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{b.add(row, "", stamp{}, nil), b.add(row, key, stamp{}, nil), b.tombstone(key, nil, stamp{})} {
			if err != nil {
				t.Fatalf("%s: %v", c.typ.Name, err)
			}
		}
		for _, col := range decode(t, b).Columns {
			if col.Name() != colKey {
				continue
			}
			for i := range 3 {
				if got := col.Row(i, false).(string); got != c.text {
					t.Errorf("%s %s: row %d has _key %q, want %q", c.typ.Name, c.value, i, got, c.text)
				}
			}
		}
	}
}

func TestLayoutProblems(t *testing.T) {
	s, err := Open(Config{DSN: "http://localhost:8123", Pipeline: "p"})
	if err != nil {
		t.Fatal(err)
	}
	sch := sinktest.Schema("t", 1, sinktest.Col("id", sinktest.Int4), sinktest.Col("day", sinktest.Builtin("date", "date", 1082, -1)))
	for _, c := range []struct {
		order []string
		want  string
	}{
		{[]string{"nope"}, "not a column"},
		{[]string{"id", "id"}, "twice"},
		{[]string{"day"}, "REPLICA IDENTITY FULL"},
	} {
		if _, problem := s.newLayout(sch, sink.TableOptions{OrderBy: c.order}); !strings.Contains(problem, c.want) {
			t.Errorf("%v: %q", c.order, problem)
		}
	}
	full := *sch
	full.Full = true
	l, problem := s.newLayout(&full, sink.TableOptions{OrderBy: []string{"day"}})
	if problem != "" || strings.Join(l.order, ",") != "day,id,_key" && strings.Join(l.order, ",") != "day,id" || !l.wide() {
		t.Errorf("%v %q", l.order, problem)
	}
	taken := sinktest.Schema("t", 1, sinktest.Col("id", sinktest.Int4), sinktest.Col("_version", sinktest.Int4))
	if _, problem := s.newLayout(taken, sink.TableOptions{}); !strings.Contains(problem, "_version") {
		t.Errorf("%q", problem)
	}
}

func TestFit(t *testing.T) {
	date := sinktest.Builtin("date", "date", 1082, -1)
	for _, c := range []struct {
		typ  change.Type
		have string
		ok   bool
		as   string
	}{
		{sinktest.Int4, "Int32", true, "Int32"},
		{sinktest.Int4, "Nullable(Int64)", true, "Nullable(Int64)"},
		{sinktest.Int8, "Int32", false, ""},
		{sinktest.TextT, "LowCardinality(String)", true, "LowCardinality(String)"},
		{sinktest.TextT, "LowCardinality(Nullable(String))", true, "LowCardinality(Nullable(String))"},
		{date, "String", true, "String"},
		{date, "Date", false, ""},
		{date, "Nullable(Date32)", true, "Nullable(Date32)"},
		{money, "Decimal(20, 4)", true, "Decimal(20, 4)"},
		{money, "Decimal(18, 4)", false, ""},
		{mood, "LowCardinality(Nullable(String))", true, "LowCardinality(Nullable(String))"},
		{arrayOf(sinktest.Int4), "Array(Nullable(Int32))", true, "Array(Nullable(Int32))"},
		{arrayOf(sinktest.Int4), "Array(Int32)", false, ""},
		{timestamptz, "DateTime", false, ""},
		{sinktest.Bool, "UInt8", false, ""},
	} {
		m, null, ok := fit(mapType(&c.typ, &Options{}), &c.typ, c.have)
		if ok != c.ok || ok && m.typeName(null) != c.as {
			t.Errorf("%s into %s: %v %s", c.typ.Name, c.have, ok, m.typeName(null))
		}
	}
}

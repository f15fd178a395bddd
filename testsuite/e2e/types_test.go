package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	chsink "syncline/dataplane/sink/clickhouse"
)

// sample is a type and values of it, in forms that Postgres reads.
type sample struct {
	typ    string
	values []string
	bare   bool // no column of arrays of it
}

// groups are all types that the product claims to copy exactly; each group is a
// table with a column of the type, and one of its arrays.
var groups = []struct {
	name    string
	samples []sample
}{
	{"integers", []sample{
		{typ: "smallint", values: []string{"-32768", "32767", "0"}},
		{typ: "integer", values: []string{"-2147483648", "2147483647", "0"}},
		{typ: "bigint", values: []string{"-9223372036854775808", "9223372036854775807", "0"}},
		{typ: "oid", values: []string{"0", "4294967295"}},
		{typ: "boolean", values: []string{"t", "f"}},
	}},
	{"numerics", []sample{
		{typ: "numeric", values: []string{"0", "-0.10", "1e400", "1e-400", "NaN", "Infinity", "-Infinity", "123456789012345678901234567890.1234567890123456789012345678900"}},
		{typ: "numeric(10,2)", values: []string{"99999999.99", "-0.01", "NaN", "5"}},
		{typ: "numeric(38,19)", values: []string{"9999999999999999999.9999999999999999999", "-0.0000000000000000001", "NaN"}},
		{typ: "numeric(76,30)", values: []string{strings.Repeat("9", 46) + "." + strings.Repeat("9", 30), "-1", "NaN"}},
		{typ: "numeric(200,100)", values: []string{strings.Repeat("9", 100) + "." + strings.Repeat("9", 100), "0.5"}},
		{typ: "numeric(5,0)", values: []string{"-99999", "0"}},
		{typ: "numeric(3,-2)", values: []string{"99900", "-100"}},
		{typ: "numeric(2,5)", values: []string{"0.00099", "-0.00001"}},
		{typ: "real", values: []string{"1.1", "3.4028235e38", "1e-45", "-0", "NaN", "Infinity", "-Infinity", "16777217"}},
		{typ: "double precision", values: []string{"0.1", "1.7976931348623157e308", "5e-324", "-0", "NaN", "Infinity", "-Infinity", "0.30000000000000004", "1e21"}},
	}},
	{"texts", []sample{
		{typ: "text", values: []string{"", " ", "null", "NULL", "tab\tnewline\nreturn\rquote'\"\\backslash", "Ünïcödé 🙂 \u200d", "{a,b}", `\N`, "\u0001\u007f", strings.Repeat("long ", 3000)}},
		{typ: "varchar(5)", values: []string{"", "abcde", "é🙂x"}},
		{typ: "varchar", values: []string{"", "x y"}},
		{typ: "char(4)", values: []string{"ab", "abcd", ""}},
		{typ: `"char"`, values: []string{"x", ""}},
		{typ: "name", values: []string{"a name"}},
		{typ: "citext", values: []string{"MiXed", "mixed", ""}},
		{typ: "bytea", values: []string{`\x`, `\x00ff10`, `\xdeadbeef5c2c`}},
		{typ: "uuid", values: []string{"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"}},
		{typ: "json", values: []string{`{"b": 1,  "a":[1,2, {"x":null}], "b": 2}`, "null", `"é\u0041"`, "1.50", " [ ] "}},
		{typ: "jsonb", values: []string{`{"b": 12345678901234567890.10, "a": [1, 2.50, {"x": null}]}`, "null", "[]", `"\\\" "`, "1e50"}},
	}},
	{"times", []sample{
		{typ: "date", values: []string{"2024-02-29", "0044-03-15 BC", "4713-01-01 BC", "infinity", "-infinity", "5874897-12-31", "1970-01-01", "1899-12-31", "2300-01-01"}},
		{typ: "time", values: []string{"00:00:00", "23:59:59.999999", "24:00:00", "12:30:00.5"}},
		{typ: "time(2)", values: []string{"12:30:00.55"}},
		{typ: "timetz", values: []string{"12:00:00+00", "23:59:59.5-15:59", "00:00:00.000001+05:30"}},
		{typ: "timestamp", values: []string{"2024-01-02 03:04:05.123456", "0001-01-01 00:00:00 BC", "infinity", "-infinity", "294276-12-31 23:59:59.999999", "1969-12-31 23:59:59.999999", "1900-01-01", "2299-12-31 23:59:59.999999"}},
		{typ: "timestamp(3)", values: []string{"2024-01-02 03:04:05.123"}},
		{typ: "timestamptz", values: []string{"2024-01-02 03:04:05.123456+05:30", "4713-11-24 00:00:00+00 BC", "infinity", "-infinity", "2024-03-31 02:30:00 Europe/Berlin"}},
		{typ: "interval", values: []string{"1 year 2 mons -3 days 04:05:06.789", "0", "-178000000 years", "1 day -00:00:00.000001", "14 months"}},
	}},
	{"users", []sample{
		{typ: "types.mood", values: []string{"sad", "so 'so'", "Happy, \"really\""}},
		{typ: `types."Odd Enum"`, values: []string{"A", "b"}},
		{typ: "types.email", values: []string{"a@b.example", ""}},
		{typ: "types.price", values: []string{"12.30", "-99999999.99"}},
		{typ: "types.moods", values: []string{"{sad,NULL}", "{}"}, bare: true},
		{typ: "types.pair", values: []string{`(1,"a b","{1,NULL}")`, "(,,)", `(2,"q""\\\\","{}")`}},
		{typ: "hstore", values: []string{`"a"=>"1", "b"=>NULL`, "", `"q\"uote"=>"\\", "NULL"=>"NULL"`}},
	}},
	{"ranges", []sample{
		{typ: "int4range", values: []string{"[1,5)", "empty", "(,)", "[3,3]"}},
		{typ: "int8range", values: []string{"[1,9223372036854775807)", "(,5]"}},
		{typ: "numrange", values: []string{"(1.5,2.50]", "[NaN,NaN]", "[-1,]"}},
		{typ: "daterange", values: []string{"[2024-01-01,2024-02-01)", "[0044-03-15 BC,infinity)"}},
		{typ: "tsrange", values: []string{`["2024-01-02 03:04:05","2024-01-02 03:04:05.5")`}},
		{typ: "tstzrange", values: []string{`["2024-01-02 03:04:05+00",)`, "empty"}},
		{typ: "types.span", values: []string{"[1.5,2.5)", "empty", "(,3]"}},
		{typ: "int4multirange", values: []string{"{[1,3),[5,9)}", "{}"}},
		{typ: "nummultirange", values: []string{"{[1.5,2.50),(3,)}"}},
		{typ: "tstzmultirange", values: []string{`{["2024-01-02 03:04:05+00",infinity)}`}},
		{typ: "datemultirange", values: []string{"{[2024-01-01,2024-02-01)}"}},
	}},
	{"networks", []sample{
		{typ: "inet", values: []string{"10.0.0.1", "10.0.0.0/8", "::1", "2001:db8::1/64", "192.168.0.1/24"}},
		{typ: "cidr", values: []string{"10.0.0.0/8", "2001:db8::/32", "192.168.1.1/32"}},
		{typ: "macaddr", values: []string{"08:00:2b:01:02:03"}},
		{typ: "macaddr8", values: []string{"08:00:2b:01:02:03:04:05"}},
		{typ: "bit(4)", values: []string{"1010", "0000"}},
		{typ: "bit(70)", values: []string{strings.Repeat("10", 35)}},
		{typ: "varbit", values: []string{"", "10101"}},
		{typ: "pg_lsn", values: []string{"16/B374D848", "0/0", "FFFFFFFF/FFFFFFFF"}},
		{typ: "xid8", values: []string{"18446744073709551615", "0"}},
		{typ: "tsvector", values: []string{"'a':1A 'fat':2,4 'it''s':3", ""}},
		{typ: "money", values: []string{"-92233720368547758.08", "1.5"}},
	}},
	{"shapes", []sample{
		{typ: "point", values: []string{"(1.5,-2)", "(NaN,Infinity)", "(1e-300,0)"}},
		{typ: "line", values: []string{"{1,-1,0}"}},
		{typ: "lseg", values: []string{"[(0,0),(1,1)]"}},
		{typ: "box", values: []string{"(1,1),(0,0)", "(3,4),(-1,-2)"}},
		{typ: "path", values: []string{"((0,0),(1,1))", "[(0,0),(1,1),(2,0.1)]"}},
		{typ: "polygon", values: []string{"((0,0),(1,1),(1,0))"}},
		{typ: "circle", values: []string{"<(1,2),3>", "<(0.1,0.2),0>"}},
	}},
}

const typesSetup = `
CREATE EXTENSION citext; CREATE EXTENSION hstore;
CREATE SCHEMA types;
CREATE TYPE types.mood AS ENUM ('sad', 'so ''so''', 'Happy, "really"');
CREATE TYPE types."Odd Enum" AS ENUM ('A', 'b');
CREATE DOMAIN types.email AS text CHECK (VALUE = '' OR VALUE LIKE '%@%');
CREATE DOMAIN types.price AS numeric(10,2);
CREATE DOMAIN types.moods AS types.mood[];
CREATE TYPE types.pair AS (a integer, b text, c integer[]);
CREATE TYPE types.span AS RANGE (subtype = double precision);
`

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// value returns SQL for the n-th value of a sample.
func (s *sample) value(n int) string {
	return literal(s.values[n%len(s.values)]) + "::" + s.typ
}

// array returns SQL for an array of values, of a form that depends on n.
func (s *sample) array(n int) string {
	as := "::" + s.typ + "[]"
	a, b := s.value(n), s.value(n+1)
	switch n % 5 {
	case 0:
		return "ARRAY[" + a + ",NULL," + b + "]" + as
	case 1:
		return "ARRAY[[" + a + "," + b + "],[NULL," + a + "]]" + as
	case 2:
		return "'{}'" + as
	case 3:
		return "ARRAY[NULL,NULL]" + as
	}
	// Bounds that do not begin at one.
	return "('[2:3]=' || ARRAY[" + a + "," + b + "]" + as + "::text)" + as
}

// createTypes makes a table per group and returns a statement that puts the n-th
// row of values under an id, for each; nulls if n is negative.
func createTypes(r *rig) (put func(id, n int) []string) {
	r.exec(typesSetup)
	for _, g := range groups {
		cols := []string{"id integer PRIMARY KEY"}
		for i, s := range g.samples {
			cols = append(cols, fmt.Sprintf("v%d %s", i, s.typ))
			if !s.bare {
				cols = append(cols, fmt.Sprintf("a%d %s[]", i, s.typ))
			}
		}
		r.exec(fmt.Sprintf("CREATE TABLE types.%s (%s)", g.name, strings.Join(cols, ", ")))
	}
	return func(id, n int) (out []string) {
		for _, g := range groups {
			var names, vals []string
			add := func(name string, value func(int) string) {
				v := "NULL"
				if n >= 0 {
					v = value(n)
				}
				names, vals = append(names, name), append(vals, v)
			}
			for i, s := range g.samples {
				add(fmt.Sprintf("v%d", i), s.value)
				if !s.bare {
					add(fmt.Sprintf("a%d", i), s.array)
				}
			}
			var sets []string
			for _, name := range names {
				sets = append(sets, name+" = excluded."+name)
			}
			out = append(out, fmt.Sprintf("INSERT INTO types.%s (id, %s) VALUES (%d, %s) ON CONFLICT (id) DO UPDATE SET %s",
				g.name, strings.Join(names, ", "), id, strings.Join(vals, ", "), strings.Join(sets, ", ")))
		}
		return out
	}
}

// texts reads a table as the texts that Postgres prints, by key.
func texts(ctx context.Context, dsn, table string, columns []string) (map[string][]string, error) {
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	for k, v := range map[string]string{"TimeZone": "UTC", "DateStyle": "ISO, MDY", "IntervalStyle": "postgres", "bytea_output": "hex", "extra_float_digits": "1", "lc_monetary": "C"} {
		cfg.RuntimeParams[k] = v
	}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	res := conn.ExecParams(ctx, "SELECT "+strings.Join(columns, ", ")+" FROM "+table, nil, nil, nil, nil).Read()
	if res.Err != nil {
		return nil, res.Err
	}
	out := map[string][]string{}
	for _, row := range res.Rows {
		var vs []string
		for _, v := range row {
			if v == nil {
				vs = append(vs, "NULL")
			} else {
				vs = append(vs, "="+string(v))
			}
		}
		out[vs[0]] = vs
	}
	return out, nil
}

// exact compares every value of the tables, text by text: no canonical form
// stands between, so a digit or a blank that is lost is seen.
func (p *pipe) exact(schema string) {
	p.r.t.Helper()
	ctx := p.r.t.Context()
	pg, ch := p.sinks()["pg"], p.sinks()["ch"].(*chsink.Sink)
	defer func() { _ = pg.Close(); _ = ch.Close() }()
	tables, err := ch.Tables(ctx)
	if err != nil {
		p.r.t.Fatal(err)
	}
	seen := 0
	for _, t := range tables {
		if t.ID.Schema != schema || t.State != sink.Streaming {
			continue
		}
		seen++
		var cols []string
		for _, c := range t.Schema.Columns {
			cols = append(cols, `"`+c.Name+`"`)
		}
		want, err := texts(ctx, p.r.source, t.ID.String(), cols)
		if err != nil {
			p.r.t.Fatal(err)
		}
		inPG, err := texts(ctx, p.r.sinkDSN, t.ID.String(), cols)
		if err != nil {
			p.r.t.Fatal(err)
		}
		inCH := map[string][]string{}
		err = ch.ReadRows(ctx, t.Schema, t.Options, func(row change.Row) error {
			var vs []string
			for _, v := range row {
				if v.Kind == change.Text {
					vs = append(vs, "="+string(v.Data))
				} else {
					vs = append(vs, "NULL")
				}
			}
			inCH[vs[0]] = vs
			return nil
		})
		if err != nil {
			p.r.t.Fatal(err)
		}
		for name, have := range map[string]map[string][]string{"pg": inPG, "ch": inCH} {
			if len(have) != len(want) {
				p.r.t.Errorf("%s: %s has %d rows, want %d", name, t.ID, len(have), len(want))
			}
			for key, w := range want {
				h := have[key]
				for i := range w {
					if i >= len(h) {
						p.r.t.Errorf("%s: %s: row %s is missing", name, t.ID, key)
						break
					}
					if h[i] != w[i] && !(name == "ch" && t.Schema.Columns[i].Type.Root().Base == "hstore" && sameHstore(h[i], w[i])) {
						p.r.t.Errorf("%s: %s: row %s column %s (%s): have %q, want %q", name, t.ID, key, cols[i], t.Schema.Columns[i].Type.Name, cut(h[i]), cut(w[i]))
					}
				}
			}
		}
	}
	if seen == 0 {
		p.r.t.Errorf("no table of schema %s", schema)
	}
}

func cut(s string) string {
	if len(s) > 120 {
		return s[:120] + "…"
	}
	return s
}

// sameHstore: pairs have no order; Postgres prints them in its own.
func sameHstore(a, b string) bool {
	x, y := strings.Split(a[1:], ", "), strings.Split(b[1:], ", ")
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}

// TestTypes copies every type, from rows that were there before the snapshot and
// from rows that came, changed and went after it; into ClickHouse, and back out of
// it for the comparison, over the native protocol.
func TestTypes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.native()
	put := createTypes(r)
	const rows = 10 // as many as the longest list of values
	for n := range rows {
		r.exec(put(n, n)...)
	}
	r.exec(put(100, -1)...) // of nulls
	r.exec(put(101, 3)...)
	r.start()
	p := r.pipe("  include: [types.*]\n" + smallChunks)
	p.mustApply()
	p.awaitPhase(bound, "streaming")
	p.converged()
	p.exact("types") // the snapshot alone

	for n := range rows {
		r.exec(put(1000+n, n)...) // new ones
		r.exec(put(n, n+1)...)    // changed to the next value
	}
	r.exec(put(100, 4)...) // nulls become values
	r.exec(put(5, -1)...)  // and the reverse
	r.exec(put(1100, -1)...)
	for _, g := range groups {
		r.exec(fmt.Sprintf("DELETE FROM types.%s WHERE id IN (101, 1003)", g.name))
	}
	p.converged()
	p.exact("types")
	p.equal(len(groups))
	p.verified()
}

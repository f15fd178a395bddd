package sinktest

import (
	"errors"
	"fmt"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// Sample is a type with values as Postgres prints them.
type Sample struct {
	Type   change.Type
	Values []string
}

// UserTypes are types that a source may have made, in the given schema.
func UserTypes(schema string) []Sample {
	mood := change.Type{Name: schema + ".mood", Kind: change.Enum, Base: "mood", OID: 90010, Mod: -1, Labels: []string{"sad", "so 'so'", "Happy"}}
	email := change.Type{Name: schema + `."E-Mail"`, Kind: change.Domain, Base: "E-Mail", OID: 90011, Mod: -1, Elem: &TextT}
	money := Builtin("numeric(10,2)", "numeric", 1700, 10<<16+2+4)
	price := change.Type{Name: schema + ".price", Kind: change.Domain, Base: "price", OID: 90012, Mod: -1, Elem: &money}
	f8 := Builtin("double precision", "float8", 701, -1)
	return []Sample{
		{mood, []string{"sad", "so 'so'", "Happy"}},
		{change.Type{Name: schema + ".mood[]", Kind: change.Array, Base: "_mood", OID: 90013, Mod: -1, Elem: &mood}, []string{`{sad,Happy}`, `{NULL,"so 'so'"}`, `{}`}},
		{email, []string{"a@b.example", ""}},
		{price, []string{"12.30", "-99999999.99"}},
		{change.Type{Name: schema + ".span", Kind: change.Range, Base: "span", OID: 90014, Mod: -1, Elem: &f8}, []string{"[1.5,2.5)", "empty", "(,3]"}},
		{change.Type{Name: schema + ".pair", Kind: change.Composite, Base: "pair", OID: 90015, Mod: -1}, []string{`(1,"a b")`, `(,)`}},
		{Citext, []string{"MiXed", "mixed"}},
		{change.Type{Name: "hstore", Kind: change.Base, Base: "hstore", OID: 90002, Mod: -1}, []string{`"a"=>"1", "b"=>NULL`, ``}},
	}
}

// Samples are the built-in types that a source may have, with edges of each.
var Samples = []Sample{
	{Builtin("smallint", "int2", 21, -1), []string{"-32768", "32767", "0"}},
	{Int4, []string{"-2147483648", "2147483647"}},
	{Int8, []string{"-9223372036854775808", "9223372036854775807"}},
	{Builtin("numeric", "numeric", 1700, -1), []string{"0", "1.10", "NaN", "Infinity", "-Infinity", "123456789012345678901234567890.123456789012345678901234567890", "-0.00000000000000000000000000000001"}},
	{Builtin("numeric(10,2)", "numeric", 1700, 10<<16+2+4), []string{"99999999.99", "-1.50", "NaN"}},
	{Builtin("real", "float4", 700, -1), []string{"1.1", "-3.4028235e+38", "1e-45", "NaN", "Infinity", "-Infinity"}},
	{Builtin("double precision", "float8", 701, -1), []string{"0.1", "1.7976931348623157e+308", "5e-324", "NaN", "Infinity", "-Infinity"}},
	{TextT, []string{"", " ", "plain", "tab\tnewline\nquote\"'\\", "Ünïcödé 🙂", "NUL\\0"}},
	{Builtin("character varying(5)", "varchar", 1043, 9), []string{"", "abcde", "é🙂x"}},
	{Builtin("character(4)", "bpchar", 1042, 8), []string{"ab  ", "abcd"}},
	{Builtin("bytea", "bytea", 17, -1), []string{`\x`, `\x00ff10`, `\xdeadbeef`}},
	{Bool, []string{"t", "f"}},
	{Builtin("date", "date", 1082, -1), []string{"2024-02-29", "0044-03-15 BC", "infinity", "-infinity", "5874897-12-31", "1970-01-01"}},
	{Builtin("time without time zone", "time", 1083, -1), []string{"00:00:00", "23:59:59.999999", "24:00:00"}},
	{Builtin("time with time zone", "timetz", 1266, -1), []string{"12:00:00+00", "23:59:59.5-15:59"}},
	{Builtin("timestamp without time zone", "timestamp", 1114, -1), []string{"2024-01-02 03:04:05.123456", "0001-01-01 00:00:00 BC", "infinity", "-infinity", "294276-12-31 23:59:59.999999"}},
	{Builtin("timestamp(3) without time zone", "timestamp", 1114, 3), []string{"2024-01-02 03:04:05.123"}},
	{Builtin("timestamp with time zone", "timestamptz", 1184, -1), []string{"2024-01-02 03:04:05.123456+00", "4713-11-24 00:00:00+00 BC", "infinity", "-infinity"}},
	{Builtin("interval", "interval", 1186, -1), []string{"1 year 2 mons -3 days +04:05:06.789", "00:00:00", "-178000000 years"}},
	{Builtin("uuid", "uuid", 2950, -1), []string{"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}},
	{Builtin("json", "json", 114, -1), []string{`{"b": 1, "a":[1,2, {"x":null}], "b": 2}`, `null`, `"é"`}},
	{Builtin("jsonb", "jsonb", 3802, -1), []string{`{"a": [1, 2.50, {"x": null}], "b": 12345678901234567890}`, `null`, `[]`}},
	{Builtin("integer[]", "_int4", 1007, -1), []string{"{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[2:3]={7,8}"}},
	{Builtin("text[]", "_text", 1009, -1), []string{`{a,"b c","",NULL,"NULL","q\"x","\\"}`, "{}"}},
	{Builtin("numeric[]", "_numeric", 1231, -1), []string{"{1.10,NaN,NULL}"}},
	{Builtin("timestamp with time zone[]", "_timestamptz", 1185, -1), []string{`{"2024-01-02 03:04:05+00",infinity}`}},
	{Builtin("int4range", "int4range", 3904, -1), []string{"[1,5)", "empty", "(,)"}},
	{Builtin("numrange", "numrange", 3906, -1), []string{"(1.5,2.50]"}},
	{Builtin("tstzrange", "tstzrange", 3910, -1), []string{`["2024-01-02 03:04:05+00",)`}},
	{Builtin("int4multirange", "int4multirange", 4451, -1), []string{"{[1,3),[5,9)}", "{}"}},
	{Builtin("inet", "inet", 869, -1), []string{"10.0.0.1", "10.0.0.0/8", "::1"}},
	{Builtin("cidr", "cidr", 650, -1), []string{"10.0.0.0/8", "2001:db8::/32"}},
	{Builtin("macaddr", "macaddr", 829, -1), []string{"08:00:2b:01:02:03"}},
	{Builtin("bit(4)", "bit", 1560, 4), []string{"1010"}},
	{Builtin("bit varying", "varbit", 1562, -1), []string{"", "10101"}},
	{Builtin("pg_lsn", "pg_lsn", 3220, -1), []string{"16/B374D848"}},
	{Builtin("point", "point", 600, -1), []string{"(1.5,-2)"}},
	{Builtin("line", "line", 628, -1), []string{"{1,-1,0}"}},
	{Builtin("lseg", "lseg", 601, -1), []string{"[(0,0),(1,1)]"}},
	{Builtin("box", "box", 603, -1), []string{"(1,1),(0,0)"}},
	{Builtin("path", "path", 602, -1), []string{"((0,0),(1,1))", "[(0,0),(1,1)]"}},
	{Builtin("polygon", "polygon", 604, -1), []string{"((0,0),(1,1),(1,0))"}},
	{Builtin("circle", "circle", 718, -1), []string{"<(1,2),3>"}},
	{Builtin(`"char"`, "char", 18, -1), []string{"x"}},
	{Builtin("name", "name", 19, -1), []string{"a name"}},
	{Builtin("oid", "oid", 26, -1), []string{"4294967295"}},
	{Builtin("xml", "xml", 142, -1), []string{"<a>b</a>"}},
}

// AllTypes returns a table with a column of every type that the sink supports,
// and rows that hold every value, nulls among them.
func AllTypes(schema string, unsupported func(*change.Type) string) (*change.Schema, [][]string) {
	s := Schema("all_types", 1, Col("id", Int4))
	var values [][]string
	for _, x := range append(append([]Sample{}, Samples...), UserTypes(schema)...) {
		if unsupported != nil && unsupported(&x.Type) != "" {
			continue
		}
		s.Columns = append(s.Columns, Col(fmt.Sprintf("c%d_%s", len(values), x.Type.Base), x.Type))
		values = append(values, x.Values)
	}
	var rows [][]string
	for n := range 8 {
		r := []string{fmt.Sprint(n)}
		for _, vs := range values {
			if n == 7 { // a row of nulls
				r = append(r, NULL)
			} else {
				r = append(r, vs[n%len(vs)])
			}
		}
		rows = append(rows, r)
	}
	return s, rows
}

func testTypes(e *env) {
	s, rows := AllTypes(e.schema, e.caps.Unsupported)
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	var put []sink.Row
	for i, r := range rows {
		put = append(put, Put(s, i, r...))
	}
	if a := e.apply(x, Batch(t, 1, put...)); len(a.Dead) > 0 {
		e.Fatalf("set aside: %s", a.Dead[0].Reason)
	}
	e.want(t, rows...)
	// And as updates of rows that are there, by single columns.
	for i := 1; i < len(s.Columns); i++ {
		r := append([]string{}, rows[7]...)
		for j := 1; j < len(r); j++ {
			r[j] = Unchanged
		}
		r[i] = rows[0][i]
		e.apply(x, Batch(t, 1, e.partial(s, 100+i, append(append([]string{"7"}, rows[0][1:i]...), rows[7][i:]...), r...)))
	}
	rows[7] = append([]string{"7"}, rows[0][1:]...)
	e.want(t, rows...)
	c, err := e.sink.Check(e.ctx, s, t.Options)
	e.ok(err)
	if !c.Exists || !c.Rows || c.Problem != "" || len(c.Columns) != len(s.Columns) {
		e.Fatalf("check %+v", c)
	}
}

func testLoadText(e *env) {
	s, rows := AllTypes(e.schema, e.caps.Unsupported)
	t := e.addLoading(s, 1, sink.TableOptions{})
	_, err := e.sink.PlanChunks(e.ctx, s.Table, []sink.Chunk{{N: 0}})
	e.ok(err)
	f, _ := Copy(s, rows...)
	c, err := e.sink.LoadChunk(e.ctx, s.Table, 0, Loaded(1), f, nil)
	if errors.Is(err, ErrNoBinary) {
		e.Skip("the sink reads the binary form of every type")
	}
	e.ok(err)
	if c.Rows != int64(len(rows)) {
		e.Fatalf("chunk %+v", c)
	}
	e.ok(e.sink.FinishLoad(e.ctx, s.Table))
	e.want(t, rows...)
}

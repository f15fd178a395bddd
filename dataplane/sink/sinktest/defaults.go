package sinktest

import (
	"fmt"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// defaults are texts of types that a column with a constant default may have.
func defaults() []struct {
	t    change.Type
	text string
} {
	return []struct {
		t    change.Type
		text string
	}{
		{Int8, "-7"}, {TextT, "it's a \\ \"?\"\n'"}, {TextT, ""}, {Bool, "t"}, {Bool, "f"},
		{Builtin("numeric(10,2)", "numeric", 1700, 10<<16|2+4), "1.50"}, {Builtin("numeric", "numeric", 1700, -1), "0.10"},
		{Builtin("double precision", "float8", 701, -1), "0.1"}, {Builtin("date", "date", 1082, -1), "2026-03-01"},
		{Builtin("timestamp with time zone", "timestamptz", 1184, -1), "2026-03-01 12:00:00.25+00"},
		{Builtin("timestamp without time zone", "timestamp", 1114, -1), "2026-03-01 12:00:00.25"},
		{Builtin("uuid", "uuid", 2950, -1), "b3c1d1de-0000-4000-8000-000000000001"}, {Builtin("bytea", "bytea", 17, -1), `\x00ff27`},
		{Builtin("jsonb", "jsonb", 3802, -1), `{"a": [1, null]}`}, {Builtin("interval", "interval", 1186, -1), "1 day"},
		{arrayOf(Int4, 1007), "{1,NULL,3}"}, {arrayOf(TextT, 1009), "{}"}, {arrayOf(TextT, 1009), `{"a,b",c}`},
	}
}

func arrayOf(elem change.Type, oid uint32) change.Type {
	t := Builtin(elem.Name+"[]", "_"+elem.Base, oid, -1)
	t.Elem = &elem
	return t
}

// testEvolveDefaults: rows that were there before a column have its constant
// default, as at the source, and so have rows of the version before that come later.
func testEvolveDefaults(e *env) {
	v1 := Schema("defaults", 1, Col("id", Int4), Col("a", TextT))
	t := e.add(v1, 2, sink.TableOptions{})
	x := e.claim(0, 1)
	e.apply(x, Batch(t, 1, Put(v1, 1, "1", "x")))
	v2 := Schema("defaults", 1, Col("id", Int4), Col("a", TextT), Col("none", TextT))
	old, late, set := []string{"1", "x", NULL}, []string{"3", "z", NULL}, []string{"2", "y", NULL}
	for i, d := range defaults() {
		if e.caps.Unsupported != nil && e.caps.Unsupported(&d.t) != "" {
			continue
		}
		c := Col(fmt.Sprintf("c %d", i), d.t)
		c.Missing = &d.text
		c.NotNull = i%2 == 0
		v2.Columns = append(v2.Columns, c)
		v := d.text
		if !c.NotNull {
			v = NULL
			if d.t.Kind == change.Array {
				v = "{}"
			}
		}
		old, late, set = append(old, d.text), append(late, d.text), append(set, v)
	}
	e.ok(x.Evolve(e.ctx, t, v2, Pos(2)))
	e.ok(x.Evolve(e.ctx, t, v2, Pos(2)))
	t2 := t
	t2.Schema = v2
	e.apply(x, Batch(t2, 2, Put(v2, 2, set...)))
	e.apply(x, Batch(t, 3, Put(v1, 3, "3", "z"))) // of a slower partition
	e.want(t2, old, set, late)

	v3 := Schema("defaults", 1, v2.Columns...)
	// Whoever evolves knows that what older rows have in it is still to come.
	c := Col("filled in later", Int8)
	c.NotNull = true
	v3.Columns = append(v3.Columns, c)
	e.ok(x.Evolve(e.ctx, t2, v3, Pos(3)))
	t3 := t
	t3.Schema = v3
	e.apply(x, Batch(t3, 4, Put(v3, 4, append(old, "1")...), Put(v3, 5, append(set, "2")...), Put(v3, 6, append(late, "3")...)))
	e.want(t3, append(old, "1"), append(set, "2"), append(late, "3"))
}

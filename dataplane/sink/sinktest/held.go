package sinktest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// wantShown compares a view of held keys: "key, …: repair state", with the reason.
func (e *env) wantShown(t sink.Table, want ...string) {
	e.Helper()
	rows, ok := e.probe.Held(e.T, t.Schema, t.Options)
	if !ok {
		e.Fatalf("there is no view of held keys of %s", t.ID)
	}
	have := make([]string, len(rows))
	for i, r := range rows {
		texts := make([]string, len(r))
		for j, v := range r {
			if v == nil {
				e.Fatalf("NULL in column %d of the view of %s", j, t.ID)
			}
			texts[j] = *v
		}
		n := len(texts) - 4
		if texts[n+3] != "recent" {
			e.Errorf("a key of %s is held since %s", t.ID, texts[n+3])
		}
		have[i] = strings.Join(texts[:n], ", ") + ": " + texts[n] + " " + texts[n+1]
		if texts[n+2] != "" {
			have[i] += ": " + texts[n+2]
		}
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		e.Fatalf("shown are %q, want %q", have, want)
	}
}

func (e *env) wantNoView(t sink.Table) {
	e.Helper()
	if rows, ok := e.probe.Held(e.T, t.Schema, t.Options); ok {
		e.Fatalf("table %s has a view of held keys: %v", t.ID, rows)
	}
}

// wantFree compares the names of rows whose keys are not in the view.
func (e *env) wantFree(t sink.Table, column string, want ...string) {
	e.Helper()
	have := e.probe.Free(e.T, t.Schema, t.Options, column)
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		e.Fatalf("a reader of %s sees %q, want %q", t.ID, have, want)
	}
}

// testHeldViews: a key is shown from the commit that holds it to the one that lets it go.
func testHeldViews(e *env) {
	s := people()
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	k := func(id string) change.Key { return e.keyOf(s, id, "", "") }
	e.ok(e.sink.ShowHeld(e.ctx, false))
	e.wantNoView(t)
	e.suspect("r0", t, k("9"))
	e.ok(e.sink.ShowHeld(e.ctx, true))
	e.wantShown(t)
	e.apply(x, e.planned(x, t, 1, Put(s, 1, "1", "a", "1"), Put(s, 2, "2", "b", "1"), Put(s, 3, "3", "c", "1")))
	e.wantFree(t, "name", "a", "b", "c")

	e.hold("r1", t, long, k("1"), k("2"))
	e.wantShown(t, "1: r1 quarantined", "2: r1 quarantined")
	e.wantFree(t, "name", "c")
	e.ok(e.openSink().ShowHeld(e.ctx, true)) // another worker changes nothing
	e.wantShown(t, "1: r1 quarantined", "2: r1 quarantined")
	_, err := e.sink.Mend(e.ctx, "r1", sink.TableBatch{Schema: s, Options: t.Options, Epoch: 1, Rows: []sink.Row{Put(s, 11, "1", "mended", "1"), Del(s, 11, "2")}})
	e.ok(err)
	e.wantShown(t, "1: r1 quarantined", "2: r1 quarantined")
	e.ok(e.sink.PutRepair(e.ctx, "r1", t.ID, []sink.RepairKey{{Key: k("1"), State: sink.Replayed, At: Pos(11)}, {Key: k("2"), State: sink.Replayed, At: Pos(11)}}))
	e.ok(e.sink.PutRepair(e.ctx, "r1", t.ID, []sink.RepairKey{{Key: k("1"), State: sink.Verified, At: Pos(11)}}))
	e.wantShown(t, "1: r1 verified", "2: r1 replayed")
	// A repair that nobody goes on with: the key is held until its lane lets it go.
	e.hold("r2", t, long, k("3"))
	e.ok(e.sink.Hold(e.ctx, "r2", t.ID, []change.Key{k("3")}, time.Millisecond))
	Await(e.T, "the lease lapses", func() bool {
		hs, err := e.sink.Holds(e.ctx, t.ID)
		e.ok(err)
		return len(hs) == 3 && hs[2].Lapsed
	})
	e.wantShown(t, "1: r1 verified", "2: r1 replayed", "3: r2 quarantined")
	e.wantFree(t, "name")
	e.ok(e.sink.LetGo(e.ctx, "r1", t.ID, map[change.Key]string{k("2"): `it's \ "gone"?`}, []change.Key{k("1")}))
	e.wantShown(t, "1: r1 releasing", `2: r1 releasing: it's \ "gone"?`, "3: r2 quarantined")
	e.wantFree(t, "name")
	b := e.planned(x, t, 4)
	b.Marks, b.Tables = nil, nil
	b.Released = []sink.Release{{Table: t.ID, Key: k("1"), Repair: "r1"}, {Table: t.ID, Key: k("3"), Repair: "r2", Reason: "lapsed"}}
	e.apply(x, b)
	e.wantShown(t, `2: r1 releasing: it's \ "gone"?`)
	e.wantFree(t, "name", "mended", "c")

	// What a reset gives up is held no more; the option may be turned off at any time.
	e.ok(e.sink.ResetTable(e.ctx, t.ID, 2))
	e.wantShown(t)
	e.ok(e.sink.ShowHeld(e.ctx, false))
	e.wantNoView(t)
	e.ok(e.sink.ShowHeld(e.ctx, false))
}

// testHeldViewsOfTables: each table with a key gets a view, whose name is nobody else's,
// and which goes with it.
func testHeldViewsOfTables(e *env) {
	s := people()
	t := e.add(s, 1, sink.TableOptions{Name: `People "q"`})
	log := e.add(Schema("log", 0, Col("line", TextT)), 1, sink.TableOptions{AppendOnly: true})
	odd := e.add(Schema("odd", 2, Col("_since", Int4), Col("_state", TextT), Col("v", TextT)), 1, sink.TableOptions{Name: strings.Repeat("long_é_", 7)})
	for _, c := range []struct {
		t    sink.Table
		want bool
	}{{t, true}, {log, false}, {odd, true}} {
		name, problem, err := e.sink.HeldView(e.ctx, c.t.Schema, c.t.Options)
		if e.ok(err); (name != "") != c.want || problem != "" {
			e.Fatalf("view of %s: %q, %s", c.t.ID, name, problem)
		}
	}
	e.ok(e.sink.ShowHeld(e.ctx, true))
	e.wantShown(t)
	e.wantShown(odd)
	e.wantNoView(log)
	if _, problem, err := e.sink.HeldView(e.ctx, s, t.Options); err != nil || problem != "" {
		e.Fatalf("a view of its own is in the way: %s %v", problem, err)
	}
	e.hold("r1", t, long, e.keyOf(s, "1", "", ""))
	e.hold("r1", odd, long, e.keyOf(odd.Schema, "7", `x "y"`, ""))
	e.wantShown(t, "1: r1 quarantined")
	e.wantShown(odd, `7, x "y": r1 quarantined`)

	// Another pipeline's views are another's, and so is its table of that name.
	o := e.other()
	other := o.add(Schema("theirs", 1, Col("id", Int4)), 1, sink.TableOptions{})
	o.ok(o.sink.ShowHeld(o.ctx, true))
	o.hold("r9", other, long, o.keyOf(other.Schema, "5"))
	taken := o.add(Schema("orders_quarantined", 1, Col("id", Int4)), 1, sink.TableOptions{})
	orders := e.add(Schema("orders", 1, Col("id", Int4)), 1, sink.TableOptions{})
	e.wantCode(e.sink.ShowHeld(e.ctx, true), sink.CodeViewName)
	if _, problem, err := e.sink.HeldView(e.ctx, orders.Schema, orders.Options); err != nil || !strings.Contains(problem, "orders_quarantined") {
		e.Fatalf("a table of the view's name: %q %v", problem, err)
	}
	e.want(taken)
	e.ok(e.sink.RemoveTable(e.ctx, orders.ID, true))
	e.want(taken)
	e.ok(e.sink.ShowHeld(e.ctx, true))

	e.ok(e.sink.RemoveTable(e.ctx, t.ID, false))
	e.wantNoView(t)
	e.wantShown(odd, `7, x "y": r1 quarantined`)
	e.ok(e.sink.ShowHeld(e.ctx, true))
	e.wantNoView(t)
	e.ok(e.sink.Forget(e.ctx))
	e.wantNoView(odd)
	o.wantShown(other, "5: r9 quarantined")
}

// heldKeys are types of keys, each with texts as Postgres prints them. Of each, every
// key in turn is held, and the rows of the others are to be free: with a "~" in front,
// of a value that a sink may show as another's.
func heldKeys(schema string) []Sample {
	out := []Sample{
		{Builtin("smallint", "int2", 21, -1), []string{"-32768", "7"}},
		{Int4, []string{"-2147483648", "2147483647"}},
		{Int8, []string{"-9223372036854775808", "9223372036854775807", "0"}},
		{Builtin("uuid", "uuid", 2950, -1), []string{"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000"}},
		{TextT, []string{"", " ", "a", `it's "q"\ (1),?`, "tab\tnl\ncr\rbell\abs\bff\fvt\v\\v\x01\x1f\x7f", `\x41\u0041`, "\u200b\u00ad\ufeff", "\U000e0001\U0010fffd", "zß漢🙂", "}{;--", strings.Repeat(`\"漢`, 2000)}},
		{Builtin("character varying(9)", "varchar", 1043, 13), []string{"", "é🙂x", `\"`}},
		{Builtin("character(4)", "bpchar", 1042, 8), []string{"ab  ", "abcd", `é\  `}},
		{Citext, []string{"MiXed", "other", "ÉTÉ"}},
		{Builtin("numeric", "numeric", 1700, -1), []string{"1.10", "0.00", "-5", "100", "123456789012345678901234567890.1234567890", "NaN", "Infinity"}},
		{Builtin("numeric(10,2)", "numeric", 1700, 10<<16+2+4), []string{"1.10", "-99999999.99", "7.00", "~NaN", "~0.00"}},
		{Builtin("numeric(40,3)", "numeric", 1700, 40<<16+3+4), []string{"1234567890123456789012345678901234567.100", "-0.001"}},
		{Builtin("bytea", "bytea", 17, -1), []string{`\x`, `\x00ff10`, `\x5c78`}},
		{Bool, []string{"t", "f"}},
		{Builtin("date", "date", 1082, -1), []string{"2024-02-29", "1970-01-01", "~infinity", "~-infinity", "~0044-03-15 BC", "~5874897-12-31", "~2299-12-31", "~2300-01-01", "~1899-12-31", "~1900-01-01"}},
		{Builtin("timestamp without time zone", "timestamp", 1114, -1), []string{"2024-01-02 03:04:05.123456", "2024-01-02 03:04:05", "~infinity", "~294276-12-31 23:59:59.999999", "~2299-12-31 23:59:59.999999", "~0001-01-01 00:00:00 BC"}},
		{Builtin("timestamp with time zone", "timestamptz", 1184, -1), []string{"2024-01-02 03:04:05.123456+00", "1969-12-31 23:59:59.5+00", "~-infinity", "~4713-11-24 00:00:00+00 BC"}},
		{Builtin("interval", "interval", 1186, -1), []string{"1 year 2 mons -3 days +04:05:06.789", "00:00:00"}},
		{Builtin("inet", "inet", 869, -1), []string{"10.0.0.1", "::1"}},
		{Builtin("double precision", "float8", 701, -1), []string{"0.1", "-1.7976931348623157e+308"}},
		{Builtin("integer[]", "_int4", 1007, -1), []string{"{1,2}", "{}", "{{1,2},{3,4}}"}},
	}
	return append(out, UserTypes(schema)[:4]...)
}

// heldTable is a table of each of whose rows the name is "v" and its number.
type heldTable struct {
	sink.Table
	kind string
	keys [][]string
	ids  []change.Key
	rows []sink.Row
}

// vague reports whether the sink may show the key as another's.
func (h *heldTable) vague(n int) bool {
	return slices.ContainsFunc(h.keys[n], func(v string) bool { return strings.HasPrefix(v, "~") })
}

// heldTable adds a table whose key has a column of each type, with each combination of values.
func (e *env) heldTable(name string, samples ...Sample) *heldTable {
	e.Helper()
	h := &heldTable{kind: samples[0].Type.Name, keys: [][]string{{}}}
	var cols []change.Column
	for n, x := range samples {
		cols = append(cols, Col(fmt.Sprintf("k%d", n), x.Type))
		var longer [][]string
		for _, k := range h.keys {
			for _, v := range x.Values {
				longer = append(longer, append(slices.Clone(k), v))
			}
		}
		h.keys = longer
	}
	s := Schema(name, len(cols), append(cols, Col("v", TextT))...)
	h.Table = e.add(s, 1, sink.TableOptions{})
	for n, k := range h.keys {
		var texts []string
		for _, v := range k {
			texts = append(texts, strings.TrimPrefix(v, "~"))
		}
		h.rows = append(h.rows, Put(s, n, append(texts, fmt.Sprint("v", n))...))
		h.ids = append(h.ids, h.rows[n].Key)
	}
	return h
}

// testHeldKeyTypes: whatever the type of a key, a reader leaves out just the rows whose
// keys are held.
func testHeldKeyTypes(e *env) {
	ctx, cancel := context.WithTimeout(e.T.Context(), 5*time.Minute) // there are many tables
	defer cancel()
	e.ctx = ctx
	var tables []*heldTable
	for n, sample := range heldKeys(e.schema) {
		if e.caps.Unsupported == nil || e.caps.Unsupported(&sample.Type) == "" {
			tables = append(tables, e.heldTable(fmt.Sprintf("keys_%d", n), sample))
		}
	}
	text := Sample{TextT, []string{`a","b`, `1","a`, "", "b"}}
	for n, sample := range []Sample{{Int8, []string{"1", "2"}}, {Citext, []string{"A", "b"}}, {Builtin("date", "date", 1082, -1), []string{"2024-02-29", "1970-01-01"}}} {
		tables = append(tables, e.heldTable(fmt.Sprintf("pairs_%d", n), sample, text))
	}
	x := e.claim(0, 1)
	apply := func(offset int64, rows func(*heldTable) []sink.Row) {
		e.Helper()
		b := &sink.Batch{}
		ts, err := x.Tables(e.ctx)
		e.ok(err)
		for _, h := range tables {
			one := Batch(h.Table, offset, rows(h)...)
			one.Tables[0].Holds = ts[slices.IndexFunc(ts, func(t sink.Table) bool { return t.ID == h.ID })].Holds
			b.Tables, b.Marks = append(b.Tables, one.Tables...), append(b.Marks, one.Marks...)
		}
		b.Encode = func(table, row int) sink.DeadLetter {
			e.Errorf("table %s does not take row %d", tables[table].kind, row)
			return sink.DeadLetter{Partition: b.Marks[table].Partition, Key: b.Tables[table].Rows[row].Key, Pos: b.Tables[table].Rows[row].Pos}
		}
		e.apply(x, b)
	}
	apply(1, func(h *heldTable) []sink.Row { return h.rows })
	e.ok(e.sink.ShowHeld(e.ctx, true))

	// At once, since holding and letting go take their time.
	all := func(f func(*heldTable) error) {
		e.Helper()
		errs := make([]error, len(tables))
		var g sync.WaitGroup
		for i, h := range tables {
			g.Go(func() { errs[i] = f(h) })
		}
		g.Wait()
		e.ok(errors.Join(errs...))
	}
	hold := func(repair string, which func(n int) bool) {
		e.Helper()
		all(func(h *heldTable) error {
			var ks []sink.RepairKey
			for n, id := range h.ids {
				if which(n) {
					ks = append(ks, sink.RepairKey{Key: id, State: sink.Suspected, Kind: "missing"})
				}
			}
			return errors.Join(e.sink.PutRepair(e.ctx, repair, h.ID, ks), e.sink.Hold(e.ctx, repair, h.ID, heldIDs(h, which), long))
		})
	}
	for half := range 2 {
		repair := fmt.Sprint("r", half)
		which := func(n int) bool { return n%2 == half }
		hold(repair, which)
		for _, h := range tables {
			e.wantHalf(h, which)
		}
		all(func(h *heldTable) error { return e.sink.LetGo(e.ctx, repair, h.ID, nil, heldIDs(h, which)) })
		b := &sink.Batch{}
		for _, h := range tables {
			for _, id := range heldIDs(h, which) {
				b.Released = append(b.Released, sink.Release{Table: h.ID, Key: id, Repair: repair})
			}
		}
		e.apply(x, b)
	}
	// A key that has no row is held all the same.
	apply(2, func(h *heldTable) []sink.Row {
		return []sink.Row{{Op: change.Delete, Pos: Pos(1000), Commit: h.rows[0].Commit, Key: h.ids[0], Old: h.rows[0].New}}
	})
	hold("last", func(n int) bool { return n == 0 })
	for _, h := range tables {
		if held, ok := e.probe.Held(e.T, h.Schema, h.Options); !ok || len(held) != 1 || *held[0][len(h.Schema.Key)] != "last" {
			e.Errorf("%s: a key without a row is shown as %v", h.kind, held)
		}
	}
}

func heldIDs(h *heldTable, which func(n int) bool) (out []change.Key) {
	for n, id := range h.ids {
		if which(n) {
			out = append(out, id)
		}
	}
	return out
}

// wantHalf: just these keys of a table are held, and just the rows of the others free.
func (e *env) wantHalf(h *heldTable, which func(n int) bool) {
	e.Helper()
	free := e.probe.Free(e.T, h.Schema, h.Options, "v")
	for n := range h.ids {
		if is := slices.Contains(free, fmt.Sprint("v", n)); is == which(n) && (is || !h.vague(n)) {
			e.Errorf("%s: the row of %q is free: %v", h.kind, h.keys[n], is)
		}
	}
	shown, ok := e.probe.Held(e.T, h.Schema, h.Options)
	if !ok || len(shown) != len(heldIDs(h, which)) {
		e.Fatalf("%s: %d keys are shown, of %d", h.kind, len(shown), len(heldIDs(h, which)))
	}
	// Of these types the text is what Postgres prints, at every sink.
	exact := []string{"text", "int2", "int4", "int8", "uuid", "inet"}
	if slices.ContainsFunc(h.Schema.Key, func(k int) bool { return !slices.Contains(exact, h.Schema.Columns[k].Type.Base) }) {
		return
	}
	var have, want []string
	for _, r := range shown {
		var texts []string
		for _, v := range r[:len(h.Schema.Key)] {
			texts = append(texts, *v)
		}
		have = append(have, fmt.Sprintf("%q", texts))
	}
	for n, k := range h.keys {
		if which(n) {
			want = append(want, fmt.Sprintf("%q", k))
		}
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		e.Errorf("%s: shown are %q, want %q", h.kind, have, want)
	}
}

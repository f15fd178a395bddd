package sinktest

import (
	"fmt"
	"slices"
	"strings"
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
	e.hold("r2", t, 400*time.Millisecond, k("3"))
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

// testHeldKeyTypes: whatever the type of a key, a reader leaves out just the rows whose
// keys are held.
func testHeldKeyTypes(e *env) {
	for n, sample := range heldKeys(e.schema) {
		if e.caps.Unsupported != nil && e.caps.Unsupported(&sample.Type) != "" {
			continue
		}
		e.heldKeys(fmt.Sprintf("keys_%d", n), sample)
	}
	text := Sample{TextT, []string{`a","b`, `1","a`, "", "b"}}
	for n, sample := range []Sample{{Int8, []string{"1", "2"}}, {Citext, []string{"A", "b"}}, {Builtin("date", "date", 1082, -1), []string{"2024-02-29", "1970-01-01"}}} {
		e.heldKeys(fmt.Sprintf("pairs_%d", n), sample, text)
	}
}

// heldKeys holds each key of a table in turn, also one that has no row.
func (e *env) heldKeys(name string, samples ...Sample) {
	e.Helper()
	var cols []change.Column
	keys := [][]string{{}}
	for n, x := range samples {
		cols = append(cols, Col(fmt.Sprintf("k%d", n), x.Type))
		var longer [][]string
		for _, k := range keys {
			for _, v := range x.Values {
				longer = append(longer, append(slices.Clone(k), v))
			}
		}
		keys = longer
	}
	s := Schema(name, len(cols), append(cols, Col("v", TextT))...)
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	var rows []sink.Row
	var ids []change.Key
	vague := func(k []string) bool {
		return slices.ContainsFunc(k, func(v string) bool { return strings.HasPrefix(v, "~") })
	}
	for n, k := range keys {
		plain := slices.Clone(k)
		for i := range plain {
			plain[i] = strings.TrimPrefix(plain[i], "~")
		}
		rows = append(rows, Put(s, n, append(plain, fmt.Sprint("v", n))...))
		ids = append(ids, rows[n].Key)
	}
	if a := e.apply(x, e.planned(x, t, 1, rows...)); len(a.Dead) > 0 {
		e.Fatalf("%s: set aside: %s", cols[0].Type.Name, a.Dead[0].Reason)
	}
	e.ok(e.sink.ShowHeld(e.ctx, true))
	for n := range ids {
		repair := fmt.Sprint("r", n)
		e.hold(repair, t, long, ids[n])
		free := e.probe.Free(e.T, s, t.Options, "v")
		for m := range ids {
			is := slices.Contains(free, fmt.Sprint("v", m))
			if is == (m == n) && (m == n || !vague(keys[n]) || !vague(keys[m])) {
				e.Errorf("%s: while the key %q is held, that of %q is free: %v", cols[0].Type.Name, keys[n], keys[m], is)
			}
		}
		held, ok := e.probe.Held(e.T, s, t.Options)
		if !ok || len(held) != 1 || *held[0][len(cols)] != repair {
			e.Fatalf("%s: the key %q is shown as %v", cols[0].Type.Name, keys[n], held)
		}
		if b := samples[0].Type.Base; b == "text" || b == "int8" || b == "uuid" {
			for i := range cols {
				if samples[i].Type.Base == b && *held[0][i] != keys[n][i] {
					e.Errorf("the key %q is shown as %q", keys[n], *held[0][i])
				}
			}
		}
		e.release(x, t, repair, ids[n])
	}
	// The first has no row, and is held all the same.
	e.apply(x, e.planned(x, t, 2, sink.Row{Op: change.Delete, Pos: Pos(1000), Commit: rows[0].Commit, Key: ids[0], Old: rows[0].New}))
	e.hold("last", t, long, ids[0])
	if held, ok := e.probe.Held(e.T, s, t.Options); !ok || len(held) != 1 {
		e.Fatalf("%s: a key without a row is shown as %v", cols[0].Type.Name, held)
	}
	e.ok(e.sink.RemoveTable(e.ctx, t.ID, true))
}

// release lets a key go, by its lane.
func (e *env) release(x sink.Session, t sink.Table, repair string, key change.Key) {
	e.Helper()
	e.ok(e.sink.LetGo(e.ctx, repair, t.ID, nil, []change.Key{key}))
	b := e.planned(x, t, 0)
	b.Marks, b.Tables = nil, nil
	b.Released = []sink.Release{{Table: t.ID, Key: key, Repair: repair}}
	e.apply(x, b)
}

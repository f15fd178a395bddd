package sinktest

import (
	"context"
	"errors"
	"slices"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/tiers/aggregate"
)

// testErase: what a sink has of keys is found place by place, and gone afterwards, with
// versions, tombstones and what the ledger has; other keys, tables and pipelines keep theirs.
func testErase(e *env) {
	s := people()
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	e.apply(x, Batch(t, 1, Put(s, 1, "1", "a", "1"), Put(s, 1, "2", "b", "2"), Put(s, 1, "3", "c", "3")))
	e.apply(x, Batch(t, 2, Put(s, 2, "1", "aa", "1")))
	e.apply(x, Batch(t, 3, Del(s, 3, "1"))) // 3 is one that the source does not have
	one, two, three := e.keyOf(s, "1", "", ""), e.keyOf(s, "2", "", ""), e.keyOf(s, "3", "", "")
	keys := []change.Key{one, three}
	for _, k := range []change.Key{one, two} {
		e.ok(e.sink.RecordFindings(e.ctx, "r", t.ID, []sink.Finding{{Key: k, Kind: "extra", At: 1}}))
		e.ok(e.sink.PutRepair(e.ctx, "p", t.ID, []sink.RepairKey{{Key: k, State: sink.Suspected, Kind: "extra", Before: []byte(`{"name": "aa"}`)}}))
		b := Batch(t, 4)
		b.Dead = []sink.DeadLetter{{Partition: sink.Partition{Table: t.ID}, Offset: 3, Key: k, Pos: Pos(3), Code: sink.CodeRowRejected, Reason: "x", Payload: []byte("aa")}}
		if k == two {
			b.Dead[0].Pos = Pos(4)
		}
		e.apply(x, b)
	}
	e.ok(e.sink.SaveWalk(e.ctx, t.ID, sink.Walk{Run: "w1", State: []byte(`{"after": ["1"]}`)}))
	e.ok(e.sink.SaveWalk(e.ctx, t.ID, sink.Walk{Run: "w2", State: []byte(`{}`), Offsets: []int64{1}}))

	secret, err := e.sink.SaveErasure(e.ctx, "e1", []byte("first\x00"))
	e.ok(err)
	again, err := e.openSink().SaveErasure(e.ctx, "e1", []byte("second"))
	e.ok(err)
	if string(secret) != "first\x00" || string(again) != "first\x00" {
		e.Fatalf("secrets %q, %q", secret, again)
	}
	found := func(erasure string, keys ...change.Key) (n []int64, newer int64) {
		e.Helper()
		ts, newer, err := e.sink.Traces(e.ctx, erasure, t, keys, Pos(5))
		e.ok(err)
		for _, tr := range ts {
			if tr.Place == "" || tr.How == "" {
				e.Fatalf("%+v", tr)
			}
			n = append(n, tr.Found)
		}
		return n, newer
	}
	n, _ := found("e1", keys...)
	if rows := n[0]; n[1] != 1 || n[2] != 1 || n[3] != 1 || e.caps.Atomic && rows != 1 || !e.caps.Atomic && rows < 2 {
		e.Fatalf("found %v", n)
	}
	gone := func(context.Context) error { return nil }
	there := errors.New("it is there")
	if err := e.sink.EraseKeys(e.ctx, "e1", t, keys, Pos(5), func(context.Context) error { return there }); !errors.Is(err, there) {
		e.Fatal(err)
	}
	e.want(t, []string{"2", "b", "2"}, []string{"3", "c", "3"})
	for range 2 { // an attempt may be one after another
		e.ok(e.sink.EraseKeys(e.ctx, "e1", t, keys, Pos(5), gone))
		n, newer := found("e1", keys...)
		if slices.Max(n) != 0 || newer != 0 {
			e.Fatalf("after it %v, %d newer", n, newer)
		}
	}
	e.want(t, []string{"2", "b", "2"})
	if n, _ := found("e2", two); n[0] != 1 || n[1] != 1 || n[2] != 1 || n[3] != 1 {
		e.Fatalf("of the other key %v", n)
	}
	for run, want := range map[string]string{"w1": "", "w2": "w2"} {
		w, err := e.sink.LoadWalk(e.ctx, run, t.ID)
		e.ok(err)
		if w.Run != want {
			e.Fatalf("verification %s is %+v", run, w)
		}
	}
	// A row that comes afterwards is no trace of what was erased, where that can be told.
	e.apply(x, Batch(t, 6, Put(s, 6, "1", "anew", "1")))
	e.ok(e.sink.EraseKeys(e.ctx, "e1", t, []change.Key{three}, Pos(5), gone))
	e.want(t, []string{"1", "anew", "1"}, []string{"2", "b", "2"})
	if n, newer := found("e1", keys...); !e.caps.Atomic && (n[0] != 0 || newer != 1) || e.caps.Atomic && n[0] != 1 {
		e.Fatalf("a new row: %v, %d newer", n, newer)
	}
	// A key that a repair holds is let alone.
	e.hold("q", t, long, two)
	e.wantCode(e.sink.EraseKeys(e.ctx, "e2", t, []change.Key{two}, Pos(9), gone), sink.CodeHeld)
	for _, id := range []string{"e1", "e2", "e1"} {
		e.ok(e.sink.ForgetErasure(e.ctx, id))
	}
	left, err := e.sink.Erasure(e.ctx, "e1")
	e.ok(err)
	if left != nil {
		e.Fatalf("a secret is left: %q", left)
	}

	// Keys of several columns and types.
	wide := Schema("wide", 3, Col("T", TextT), Col("n", Int8), Col("at", Builtin("timestamp with time zone", "timestamptz", 1184, -1)), Col("v", TextT))
	tw := e.add(wide, 1, sink.TableOptions{})
	at := "2026-01-02 03:04:05.678901+00"
	rows := [][]string{{`it's "q"\\ 漢`, "1", at, "x"}, {"", "2", at, "y"}, {`it's "q"\\ 漢`, "3", at, "z"}}
	for i, r := range rows {
		e.apply(x, Batch(tw, int64(i+1), Put(wide, i+1, r...)))
	}
	e.ok(e.sink.EraseKeys(e.ctx, "e3", tw, []change.Key{Put(wide, 1, rows[0]...).Key, Put(wide, 1, rows[1]...).Key}, Pos(9), gone))
	e.want(tw, rows[2])
	appended := e.add(Schema("appended", 0, Col("a", TextT)), 1, sink.TableOptions{AppendOnly: true})
	e.wantCode(e.sink.EraseKeys(e.ctx, "e4", appended, []change.Key{one}, Pos(9), gone), sink.CodeEraseKey)
}

// testEraseAppended: of a table that rows are only added to all go that have the values of
// the columns that are named, with the groups of aggregates that are by these; those by
// others stay, and it is said of them.
func testEraseAppended(e *env) {
	s := Schema("seen", 0, Col("host", TextT), Col("n", Int8), Col("day", Builtin("date", "date", 1082, -1)))
	t := e.add(s, 1, sink.TableOptions{AppendOnly: true})
	e.ok(e.sink.ResetTable(e.ctx, t.ID, 2)) // positions of the source are of the first epoch
	t.Epoch = 2
	bind := func(tier string, group ...string) *aggregate.Plan {
		e.Helper()
		spec := aggregate.Spec{Group: group, Values: []aggregate.Value{{Column: "n", Functions: []string{"sum"}}}}
		p, err := spec.Bind(s, tier)
		e.ok(err)
		return p
	}
	hosts, days := bind("hosts", "host", "day"), bind("days", "day")
	// By what comes first of n: a row, or in either of the aggregates.
	seen := Loaded(1)
	seen.Sort = &sink.Sorting{Plans: []*aggregate.Plan{hosts, days}, Of: func(row change.Row) (*aggregate.Plan, error) {
		return map[byte]*aggregate.Plan{'2': hosts, '3': days}[row[1].Data[0]], nil
	}}
	_, err := e.sink.PlanChunks(e.ctx, t.ID, []sink.Chunk{{N: 0, By: []string{"n"}, UpTo: []string{"17"}}, {N: 1, By: []string{"n"}, After: []string{"17"}}})
	e.ok(err)
	f, _ := Copy(s, []string{"it's a", "1", "2024-05-01"}, []string{"it's a", "20", "2024-05-01"}, []string{"b", "21", "2024-05-01"}, []string{NULL, "22", "2024-05-01"}, []string{"it's a", "3", "2024-05-01"})
	none, _ := Copy(s)
	_, err = e.sink.LoadChunk(e.ctx, t.ID, 0, seen, f, nil)
	e.ok(err)
	_, err = e.sink.LoadChunk(e.ctx, t.ID, 1, seen, none, nil)
	e.ok(err)
	e.ok(e.sink.FinishLoad(e.ctx, t.ID))
	x := e.claim(0, 1)
	b := Batch(t, 3, Put(s, 1, "it's a", "4", NULL), Put(s, 2, "b", "5", NULL), Put(s, 3, NULL, "6", NULL))
	b.Tables[0].Epoch = t.Epoch
	e.apply(x, b)
	run := func(p *aggregate.Plan, from int, rows ...change.Row) {
		e.Helper()
		e.apply(x, e.partials(t, p, aggregate.Run{From: int64(from), Token: x.Token(), Attempt: int64(from)}, true, rows...))
	}
	run(hosts, 4, Values("it's a", "200", "2024-05-02"), Values("b", "201", "2024-05-02"))
	shown := func(p *aggregate.Plan) []string {
		e.Helper()
		return Lines(e.probe.Shown(e.T, t.Options.Schema, sink.ViewName(p, t.Options), append(p.Shown()[:1], "n_sum")))
	}

	by := func(columns ...int) sink.Table {
		at, sc := t, *s
		sc.Key = columns
		at.Schema = &sc
		return at
	}
	host := by(0)
	key := func(t sink.Table, texts ...string) change.Key { return Put(t.Schema, 1, texts...).Key }
	subject := []change.Key{key(host, "it's a", "", ""), key(host, "nobody", "", "")}
	found := func(erasure string, t sink.Table, keys ...change.Key) map[string]int64 {
		e.Helper()
		ts, _, err := e.sink.Traces(e.ctx, erasure, t, keys, Pos(30))
		e.ok(err)
		out := map[string]int64{}
		for i, tr := range ts {
			kind, _, _ := strings.Cut(tr.Place, " ")
			if i == 0 != (kind == "table") || tr.How == "" || (tr.Sums || tr.Found > 0) && tr.Stays == "" {
				e.Fatalf("%d: %+v", i, tr)
			}
			if tr.Sums {
				kind = "sums"
				out[kind]++
			}
			out[kind] += tr.Found
		}
		return out
	}
	gone := func(context.Context) error { return nil }
	_, err = e.sink.SaveErasure(e.ctx, "e1", []byte("secret"))
	e.ok(err)
	if n := found("e1", host, subject...); n["table"] != 2 || n["aggregates"] != 2 || n["sums"] != 1 || n["ledger"] != 0 {
		e.Fatalf("found %v", n)
	}
	there := errors.New("it is there")
	if err := e.sink.EraseKeys(e.ctx, "e1", host, subject, Pos(30), func(context.Context) error { return there }); !errors.Is(err, there) {
		e.Fatalf("erased what the source has: %v", err)
	}
	if n := found("e1", host, subject...); n["table"] != 2 || n["aggregates"] != 2 {
		e.Fatalf("erased what the source has: %v", n)
	}
	for range 2 {
		e.ok(e.sink.EraseKeys(e.ctx, "e1", host, subject, Pos(30), gone))
		if n := found("e1", host, subject...); n["table"] != 0 || n["aggregates"] != 0 || n["sums"] != 1 || n["ledger"] != 0 {
			e.Fatalf("found %v", n)
		}
	}
	e.want(t, []string{"b", "5", NULL}, []string{NULL, "6", NULL})
	if got := shown(hosts); !slices.Equal(got, []string{`"b" | "201"`, `"b" | "21"`, `NULL | "22"`}) {
		e.Fatalf("aggregates by the key: %s", got)
	}
	if got := shown(days); !slices.Equal(got, []string{`"2024-05-01" | "3"`}) {
		e.Fatalf("aggregates by another column: %s", got)
	}
	// A change that is set aside bears no key: it is counted whosever it is.
	b = Batch(t, 40)
	b.Dead = []sink.DeadLetter{{Partition: sink.Partition{Table: t.ID}, Offset: 39, Pos: Pos(39), Code: sink.CodeAggregateValue, Reason: "x", Payload: []byte("it's a")}}
	e.apply(x, b)
	if n := found("e1", host, subject...); n["ledger"] != 1 {
		e.Fatalf("found %v", n)
	}
	// By two columns, of which the aggregates have one; and by one that is a chunk's bound.
	two := by(0, 1)
	if n := found("e2", two, key(two, "b", "5", "")); n["table"] != 1 || n["aggregates"] != 0 || n["sums"] != 2 {
		e.Fatalf("found %v", n)
	}
	if n := found("e3", by(1), key(by(1), "", "17", "")); n["ledger"] < 3 || n["table"] != 0 {
		e.Fatalf("found %v", n)
	}
	if n := found("e4", host, key(host, "17", "", "")); n["ledger"] != 1 {
		e.Fatalf("a bound by another column: %v", n)
	}
	e.ok(e.sink.EraseKeys(e.ctx, "e2", two, []change.Key{key(two, "b", "5", ""), key(two, "b", "201", "")}, Pos(50), gone))
	e.want(t, []string{NULL, "6", NULL})
	for _, id := range []string{"e1", "e2", "e3", "e4"} {
		e.ok(e.sink.ForgetErasure(e.ctx, id))
	}
}

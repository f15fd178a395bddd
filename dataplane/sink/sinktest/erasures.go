package sinktest

import (
	"context"
	"errors"
	"slices"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
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
	if e.caps.Atomic {
		there := errors.New("it is there")
		if err := e.sink.EraseKeys(e.ctx, "e1", t, keys, Pos(5), func(context.Context) error { return there }); !errors.Is(err, there) {
			e.Fatal(err)
		}
		e.want(t, []string{"2", "b", "2"}, []string{"3", "c", "3"})
	}
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

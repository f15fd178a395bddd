package sinktest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// long is a lease that outlives a test.
const long = time.Hour

// other is another pipeline on the same database, with the same schema at the sink.
func (e *env) other() *env {
	e.Helper()
	o := &env{T: e.T, ctx: e.ctx, open: e.open, probe: e.probe, caps: e.caps, pipeline: e.pipeline + "_b", schema: e.schema}
	o.sink = o.openSink()
	return o
}

func (e *env) keyOf(s *change.Schema, texts ...string) change.Key {
	e.Helper()
	k, err := change.MakeKey(s, Values(texts...))
	e.ok(err)
	return k
}

// suspect records keys as suspected.
func (e *env) suspect(repair string, t sink.Table, keys ...change.Key) {
	e.Helper()
	var ks []sink.RepairKey
	for _, k := range keys {
		ks = append(ks, sink.RepairKey{Key: k, State: sink.Suspected, Kind: "missing"})
	}
	e.ok(e.sink.PutRepair(e.ctx, repair, t.ID, ks))
}

// hold suspects keys and holds them.
func (e *env) hold(repair string, t sink.Table, lease time.Duration, keys ...change.Key) {
	e.Helper()
	e.suspect(repair, t, keys...)
	e.ok(e.sink.Hold(e.ctx, repair, t.ID, keys, lease))
}

// holdsOf returns Table.Holds, of which the sink and a session say the same.
func (e *env) holdsOf(x sink.Session, t sink.Table) int64 {
	e.Helper()
	now, err := e.sink.Table(e.ctx, t.ID)
	e.ok(err)
	ts, err := x.Tables(e.ctx)
	e.ok(err)
	i := slices.IndexFunc(ts, func(o sink.Table) bool { return o.ID == t.ID })
	if i < 0 || ts[i].Holds != now.Holds {
		e.Fatalf("the session says %+v, the sink that holds are %d", ts, now.Holds)
	}
	return now.Holds
}

// planned is a batch whose rows were planned under the table's present holds.
func (e *env) planned(x sink.Session, t sink.Table, offset int64, rows ...sink.Row) *sink.Batch {
	e.Helper()
	b := Batch(t, offset, rows...)
	b.Tables[0].Holds = e.holdsOf(x, t)
	return b
}

// repairOf returns what a sink has of a repair, by the texts of the keys. Read in parts
// of any size it is the same, in the ledger's order, each key once.
func (e *env) repairOf(s sink.Sink, repair string, id change.TableID) []sink.RepairKey {
	e.Helper()
	all, err := s.Repair(e.ctx, repair, id, sink.RepairPart{})
	e.ok(err)
	n := map[sink.RepairState]int{}
	for _, k := range all {
		n[k.State]++
	}
	if have, err := s.CountRepair(e.ctx, repair, id); err != nil || !maps.Equal(have, n) {
		e.Fatalf("counted %v, %v, want %v", have, err, n)
	}
	names := func(ks []sink.RepairKey) (out []change.Key) {
		for _, k := range ks {
			out = append(out, k.Key)
		}
		return out
	}
	for _, states := range [][]sink.RepairState{nil, {sink.Suspected, sink.Released}} {
		for most := 1; most <= 3; most++ {
			var have []change.Key
			for part := (sink.RepairPart{States: states, Most: most}); ; part.After = have[len(have)-1] {
				ks, err := s.Repair(e.ctx, repair, id, part)
				e.ok(err)
				if have = append(have, names(ks)...); len(ks) > most || len(have) > len(all) {
					e.Fatalf("parts of %d: %v", most, have)
				}
				if len(ks) < most {
					break
				}
			}
			want := slices.DeleteFunc(slices.Clone(all), func(k sink.RepairKey) bool { return states != nil && !slices.Contains(states, k.State) })
			if !slices.Equal(have, names(want)) {
				e.Fatalf("%v in parts of %d are %v, want %v", states, most, have, names(want))
			}
		}
	}
	slices.SortFunc(all, func(a, b sink.RepairKey) int { return cmp.Compare(a.Key.String(), b.Key.String()) })
	return all
}

// wantStates compares the states of a repair's keys, "state" or "state: reason".
func (e *env) wantStates(repair string, t sink.Table, want map[change.Key]string) {
	e.Helper()
	have := map[change.Key]string{}
	for _, k := range e.repairOf(e.sink, repair, t.ID) {
		have[k.Key] = string(k.State)
		if k.Reason != "" {
			have[k.Key] += ": " + k.Reason
		}
	}
	if !reflect.DeepEqual(have, want) {
		e.Fatalf("keys of repair %s are %v, want %v", repair, have, want)
	}
}

// wantHeld compares the keys that are held, by "repair state", "lapsed" and reason.
func (e *env) wantHeld(t sink.Table, want map[change.Key]string) {
	e.Helper()
	hs, err := e.sink.Holds(e.ctx, t.ID)
	e.ok(err)
	have := map[change.Key]string{}
	var lapsed []change.Key
	for _, h := range hs {
		have[h.Key] = fmt.Sprint(h.Repair, " ", h.State)
		if h.Lapsed {
			have[h.Key] += " lapsed"
			lapsed = append(lapsed, h.Key)
		}
		if h.Reason != "" {
			have[h.Key] += ": " + h.Reason
		}
	}
	late, err := e.sink.Lapsed(e.ctx, t.ID)
	e.ok(err)
	slices.Sort(lapsed)
	if slices.Sort(late); !slices.Equal(late, lapsed) {
		e.Fatalf("lapsed are %v, want %v", late, lapsed)
	}
	if len(have) != len(hs) || len(have)+len(want) > 0 && !reflect.DeepEqual(have, want) {
		e.Fatalf("held are %v (%d), want %v", have, len(hs), want)
	}
}

func sameJSON(a, b json.RawMessage) bool {
	var x, y any
	if len(a) > 0 && json.Unmarshal(a, &x) != nil || len(b) > 0 && json.Unmarshal(b, &y) != nil {
		return false
	}
	return reflect.DeepEqual(x, y)
}

func testRepairRecords(e *env) {
	a, b := change.TableID{Schema: "public", Name: "a"}, change.TableID{Schema: "public", Name: `B "q`}
	one, two := Schema("a", 1, Col("k", TextT)), Schema("a", 2, Col("k", TextT), Col("l", TextT))
	all := []sink.RepairKey{
		{Key: e.keyOf(one, "10"), Kind: "changed", Columns: []string{"z", `a "b"`, "é,{}", ""}, From: "log", Before: json.RawMessage(`{"z": "1", "a": null}`), After: json.RawMessage(`{"z":"it's \"?\" \\ \u0041 漢"}`)},
		{Key: e.keyOf(one, `it's "q"\ (1),?`), Kind: "missing", From: "source", Why: "the log begins later: it's 5 > 3?", After: json.RawMessage(`{}`)},
		{Key: e.keyOf(one, "zß漢\n\t\u200b"), Kind: "extra", Before: json.RawMessage(`{"k":"` + strings.Repeat("x", 20000) + `"}`)},
		{Key: e.keyOf(one, ""), Kind: "twice", Reason: "gave up: it's \\ too much?"},
		{Key: e.keyOf(one, strings.Repeat(`\"漢`, 2000)), Columns: []string{"c"}},
		{Key: e.keyOf(two, "1", `a","b`)}, {Key: e.keyOf(two, `1","a`, "b")}, {Key: e.keyOf(two, "", "")},
	}
	all[0].At, all[0].Snapshot = Pos(7), change.Snapshot{XMin: 700, XMax: 1<<33 + 5, XIP: []uint64{701, 1 << 33}}
	all[1].At = change.Position{Epoch: 4294967295, Commit: 1<<64 - 1, Ordinal: 4294967295}
	for i := range all {
		all[i].State = []sink.RepairState{sink.Suspected, sink.Failed, sink.Released}[i%3]
	}
	want := func(s sink.Sink, repair string, table change.TableID, ks ...sink.RepairKey) {
		e.Helper()
		have := e.repairOf(s, repair, table)
		ks = slices.SortedFunc(slices.Values(ks), func(a, b sink.RepairKey) int { return cmp.Compare(a.Key.String(), b.Key.String()) })
		if !slices.EqualFunc(have, ks, func(a, b sink.RepairKey) bool {
			return a.Key == b.Key && a.State == b.State && a.Kind == b.Kind && slices.Equal(a.Columns, b.Columns) && a.From == b.From && a.Why == b.Why && a.Reason == b.Reason &&
				sameJSON(a.Before, b.Before) && sameJSON(a.After, b.After) && a.At == b.At && a.Snapshot.String() == b.Snapshot.String()
		}) {
			e.Fatalf("keys of %s in %s\nhave %+v\nwant %+v", table, repair, have, ks)
		}
	}
	put := func(s sink.Sink, repair string, table change.TableID, ks ...sink.RepairKey) {
		e.Helper()
		e.ok(s.PutRepair(e.ctx, repair, table, ks))
	}
	want(e.sink, "r1", a)
	put(e.sink, "r1", a)
	put(e.sink, "r1", a, all[:6]...)
	put(e.sink, "r1", a, all[3:]...)
	want(e.openSink(), "r1", a, all...)
	again := all[0]
	again.Reason, again.Columns, again.State, again.After, again.Snapshot = "over", nil, sink.Failed, nil, change.Snapshot{}
	put(e.sink, "r1", a, again)
	now := append([]sink.RepairKey{again}, all[1:]...)
	want(e.sink, "r1", a, now...)

	put(e.sink, "r1", b, all[0])
	put(e.sink, "r 2'", a, all[1])
	other := e.other()
	put(other.sink, "r0", a, all[2])
	put(other.sink, "r1", a, all[3])
	want(e.sink, "r1", a, now...)
	want(e.sink, "r1", b, all[0])
	want(e.sink, "r 2'", a, all[1])
	want(e.sink, "r0", a)
	want(other.sink, "r0", a, all[2])

	put(e.sink, "r3", b, all[2])
	e.ok(e.sink.ForgetRepairs(e.ctx, 3))
	want(e.sink, "r 2'", a, all[1])
	e.ok(e.sink.ForgetRepairs(e.ctx, 1))
	want(e.sink, "r1", a)
	want(e.sink, "r1", b)
	want(e.sink, "r 2'", a)
	want(e.sink, "r3", b, all[2])
	want(other.sink, "r1", a, all[3])
	e.ok(e.sink.Forget(e.ctx))
	want(e.sink, "r3", b)
	want(other.sink, "r0", a, all[2])
}

func testHold(e *env) {
	s := people()
	t, u := e.add(s, 1, sink.TableOptions{}), e.add(Schema("other", 1, Col("id", Int4)), 1, sink.TableOptions{})
	x := e.claim(0, 1)
	k := func(id string) change.Key { return e.keyOf(s, id, "", "") }
	e.ok(e.sink.Hold(e.ctx, "r1", t.ID, []change.Key{k("1")}, long)) // that it does not suspect
	e.wantHeld(t, nil)
	e.apply(x, e.planned(x, t, 1, Put(s, 1, "1", "a", "1"), Put(s, 1, "2", "b", "1")))
	before := e.planned(x, t, 2, Put(s, 2, "2", "late", "2"))
	was, wasU := e.holdsOf(x, t), e.holdsOf(x, u)
	e.suspect("r1", t, k("1"), k("2"))
	e.wantHeld(t, nil)
	if e.holdsOf(x, t) != was {
		e.Fatal("suspecting keys raises holds")
	}
	e.ok(e.sink.Hold(e.ctx, "r1", t.ID, []change.Key{k("1")}, long))
	if e.holdsOf(x, t) <= was || e.holdsOf(x, u) != wasU {
		e.Fatalf("holds went from %d and %d to %d and %d", was, wasU, e.holdsOf(x, t), e.holdsOf(x, u))
	}
	e.wantHeld(t, map[change.Key]string{k("1"): "r1 quarantined"})
	e.wantHeld(u, nil)
	e.wantStates("r1", t, map[change.Key]string{k("1"): "quarantined", k("2"): "suspected"})
	// What was planned before is refused, whatever its keys; again by a session without a past.
	_, err := x.Apply(e.ctx, before)
	e.wantCode(err, sink.CodeNotStreaming)
	x = e.claim(0, 1)
	_, err = x.Apply(e.ctx, before)
	e.wantCode(err, sink.CodeNotStreaming)
	e.want(t, []string{"1", "a", "1"}, []string{"2", "b", "1"})
	both := Batch(u, 1, Put(u.Schema, 1, "7"))
	both.Tables = append(both.Tables, before.Tables...)
	_, err = x.Apply(e.ctx, both)
	e.wantCode(err, sink.CodeNotStreaming)
	e.apply(x, Batch(u, 1, Put(u.Schema, 1, "7"))) // another table's batch is none of it
	marks := Batch(t, 2)                           // nor is one without rows
	marks.Tables = nil
	e.apply(x, marks)
	e.apply(x, e.planned(x, t, 3, Put(s, 3, "2", "now", "3")))
	e.want(t, []string{"1", "a", "1"}, []string{"2", "now", "3"})

	// Another repair gets none of its keys if it cannot get all.
	e.suspect("r2", t, k("1"), k("3"))
	err = e.sink.Hold(e.ctx, "r2", t.ID, []change.Key{k("3"), k("1")}, long)
	e.wantCode(err, sink.CodeHeld)
	if !fault.Retryable(err) {
		e.Fatal("a key that is held may be free later")
	}
	e.wantStates("r2", t, map[change.Key]string{k("1"): "suspected", k("3"): "suspected"})
	e.ok(e.sink.Hold(e.ctx, "r2", t.ID, []change.Key{k("3")}, long))
	e.ok(e.sink.Hold(e.ctx, "r1", t.ID, []change.Key{k("1"), k("2")}, long))
	e.wantHeld(t, map[change.Key]string{k("1"): "r1 quarantined", k("2"): "r1 quarantined", k("3"): "r2 quarantined"})

	// Another pipeline knows nothing of it.
	o := e.other()
	to := t
	to.Options.Existing = sink.KeepRows
	e.ok(o.sink.AddTable(e.ctx, to))
	_, err = o.sink.PlanChunks(e.ctx, t.ID, nil)
	e.ok(err)
	e.ok(o.sink.FinishLoad(e.ctx, t.ID))
	o.wantHeld(t, nil)
	o.hold("r1", t, long, k("1"))
	o.wantHeld(t, map[change.Key]string{k("1"): "r1 quarantined"})

	// Only Hold brings a key into a held state.
	for id, st := range map[string]sink.RepairState{"9": sink.Quarantined, "8": sink.Replayed, "7": sink.Releasing} {
		err := e.sink.PutRepair(e.ctx, "r1", t.ID, []sink.RepairKey{{Key: k(id), State: st}})
		e.wantCode(err, sink.CodeNotHeld)
		if fault.Retryable(err) {
			e.Fatal("it is not worth a retry")
		}
	}
	at := Pos(40)
	e.ok(e.sink.PutRepair(e.ctx, "r1", t.ID, []sink.RepairKey{{Key: k("1"), State: sink.Replayed, Kind: "changed", At: at, Snapshot: Loaded(3).Snapshot}}))
	hs, err := e.sink.Holds(e.ctx, t.ID)
	e.ok(err)
	i := slices.IndexFunc(hs, func(h sink.Hold) bool { return h.Key == k("1") })
	if i < 0 || hs[i].State != sink.Replayed || hs[i].At != at || hs[i].Snapshot.String() != Loaded(3).Snapshot.String() || hs[i].Lapsed {
		e.Fatalf("holds %+v", hs)
	}
	e.ok(e.sink.Hold(e.ctx, "r1", t.ID, []change.Key{k("1")}, long)) // the lease anew, and nothing else
	e.wantHeld(t, map[change.Key]string{k("1"): "r1 replayed", k("2"): "r1 quarantined", k("3"): "r2 quarantined"})

	// Only a table that streams is held.
	e.suspect("r1", u, e.keyOf(u.Schema, "1"))
	e.ok(x.Gate(e.ctx, u.ID, "closed"))
	e.wantCode(e.sink.Hold(e.ctx, "r1", u.ID, []change.Key{e.keyOf(u.Schema, "1")}, long), sink.CodeNotStreaming)
	e.wantHeld(u, nil)

	// Those that hold keys are kept.
	e.suspect("r3", t, k("30"))
	e.ok(e.sink.ForgetRepairs(e.ctx, 0))
	e.wantStates("r3", t, map[change.Key]string{})
	e.wantHeld(t, map[change.Key]string{k("1"): "r1 replayed", k("2"): "r1 quarantined", k("3"): "r2 quarantined"})
	e.ok(e.sink.Forget(e.ctx))
	e.wantHeld(t, nil)
	o.wantHeld(t, map[change.Key]string{k("1"): "r1 quarantined"})
}

// testWholeRepair: all keys of a repair are held, and let go by their states, at once.
func testWholeRepair(e *env) {
	s := people()
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	k := func(id string) change.Key { return e.keyOf(s, id, "", "") }
	e.ok(e.sink.Hold(e.ctx, "r1", t.ID, nil, long))
	e.suspect("r1", t, k("1"), k("2"), k("3"), k("4"))
	e.suspect("r2", t, k("4"), k("5"))
	was := e.holdsOf(x, t)
	e.ok(e.sink.Hold(e.ctx, "r1", t.ID, nil, 300*time.Millisecond))
	if e.holdsOf(x, t) <= was {
		e.Fatal("holding all keys does not raise holds")
	}
	Await(e.T, "the leases lapse", func() bool {
		ks, err := e.sink.Lapsed(e.ctx, t.ID)
		e.ok(err)
		return len(ks) == 4
	})
	e.ok(e.sink.Hold(e.ctx, "r1", t.ID, nil, long)) // anew
	held := map[change.Key]string{k("1"): "r1 quarantined", k("2"): "r1 quarantined", k("3"): "r1 quarantined", k("4"): "r1 quarantined"}
	e.wantHeld(t, held)
	e.wantCode(e.sink.Hold(e.ctx, "r2", t.ID, nil, long), sink.CodeHeld)
	e.wantStates("r2", t, map[change.Key]string{k("4"): "suspected", k("5"): "suspected"})
	e.wantHeld(t, held)
	e.ok(e.sink.PutRepair(e.ctx, "r1", t.ID, []sink.RepairKey{{Key: k("1"), State: sink.Replayed, At: Pos(11)}, {Key: k("2"), State: sink.Verified, At: Pos(12), From: "log"}}))
	was = e.holdsOf(x, t)
	e.ok(e.sink.LetGoAll(e.ctx, "r2", t.ID, "it is another's", sink.Quarantined, sink.Replayed, sink.Verified))
	e.ok(e.sink.LetGoAll(e.ctx, "r1", t.ID, "none is in it", sink.Suspected, sink.Released))
	if e.wantHeld(t, map[change.Key]string{k("1"): "r1 replayed", k("2"): "r1 verified", k("3"): "r1 quarantined", k("4"): "r1 quarantined"}); e.holdsOf(x, t) != was {
		e.Fatal("letting nothing go raises holds")
	}
	e.ok(e.sink.LetGoAll(e.ctx, "r1", t.ID, "it's \\ over?", sink.Quarantined, sink.Replayed))
	e.wantHeld(t, map[change.Key]string{k("1"): "r1 releasing: it's \\ over?", k("2"): "r1 verified", k("3"): "r1 releasing: it's \\ over?", k("4"): "r1 releasing: it's \\ over?"})
	e.ok(e.sink.LetGoAll(e.ctx, "r1", t.ID, "", sink.Quarantined, sink.Replayed, sink.Verified))
	e.wantStates("r1", t, map[change.Key]string{k("1"): "releasing: it's \\ over?", k("2"): "releasing", k("3"): "releasing: it's \\ over?", k("4"): "releasing: it's \\ over?"})
	if e.holdsOf(x, t) <= was {
		e.Fatal("letting keys go does not raise holds")
	}
}

// testLeases: whoever does not come back loses what it holds.
func testLeases(e *env) {
	s := people()
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	k := func(id string) change.Key { return e.keyOf(s, id, "", "") }
	e.hold("r1", t, 400*time.Millisecond, k("1"))
	e.hold("r1", t, long, k("2"))
	Await(e.T, "the lease lapses", func() bool {
		hs, err := e.sink.Holds(e.ctx, t.ID)
		e.ok(err)
		return len(hs) == 2 && hs[0].Lapsed
	})
	e.wantHeld(t, map[change.Key]string{k("1"): "r1 quarantined lapsed", k("2"): "r1 quarantined"})
	_, err := e.sink.Mend(e.ctx, "r1", sink.TableBatch{Schema: s, Options: t.Options, Epoch: 1, Rows: []sink.Row{Put(s, 5, "1", "x", "1")}})
	e.wantCode(err, sink.CodeNotHeld)
	// It still holds the key: there may be letters, which only its lane applies.
	e.suspect("r2", t, k("1"))
	e.wantCode(e.sink.Hold(e.ctx, "r2", t.ID, []change.Key{k("1")}, long), sink.CodeHeld)
	b := e.planned(x, t, 1)
	b.Marks, b.Tables = nil, nil
	b.Released = []sink.Release{{Table: t.ID, Key: k("1"), Repair: "r1", Reason: "the lease lapsed"}}
	e.apply(x, b)
	e.wantStates("r1", t, map[change.Key]string{k("1"): "failed: the lease lapsed", k("2"): "quarantined"})
	e.ok(e.sink.Hold(e.ctx, "r2", t.ID, []change.Key{k("1")}, long))
	e.wantHeld(t, map[change.Key]string{k("1"): "r2 quarantined", k("2"): "r1 quarantined"})
	e.want(t)
}

func testMend(e *env) {
	s := Schema("mended", 2, Col("a", Int4), Col("b", TextT), Col("v", TextT), Col("n", Int8))
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	k := func(a, b string) change.Key { return e.keyOf(s, a, b, "", "") }
	e.apply(x, e.planned(x, t, 9, Put(s, 1, "1", "it's", "wrong", "1"), Put(s, 2, "2", `\"?`, "extra", "2"), Put(s, 3, "3", "", "equal", "3"), Put(s, 9, "4", "x", "other", NULL)))
	keys := []change.Key{k("1", "it's"), k("2", `\"?`), k("3", ""), k("5", "漢"), k("6", "none")}
	rows := []sink.Row{Put(s, 20, "1", "it's", "right 'n' \\ ?", "10"), Del(s, 20, "2", `\"?`), Put(s, 20, "3", "", "equal", "3"), Put(s, 20, "5", "漢", NULL, NULL), Del(s, 20, "6", "none")}
	for i := range rows {
		if rows[i].Op != change.Delete {
			rows[i].Op = change.Insert
		}
	}
	mend := func(repair string, rows ...sink.Row) (sink.Applied, error) {
		return e.sink.Mend(e.ctx, repair, sink.TableBatch{Schema: s, Options: t.Options, Epoch: t.Epoch, Rows: rows})
	}
	_, err := mend("r1", rows...)
	e.wantCode(err, sink.CodeNotHeld)
	e.suspect("r1", t, keys...)
	_, err = mend("r1", rows...)
	e.wantCode(err, sink.CodeNotHeld)
	e.ok(e.sink.Hold(e.ctx, "r1", t.ID, keys[:4], long))
	_, err = mend("r1", rows...) // all or none
	e.wantCode(err, sink.CodeNotHeld)
	e.want(t, []string{"1", "it's", "wrong", "1"}, []string{"2", `\"?`, "extra", "2"}, []string{"3", "", "equal", "3"}, []string{"4", "x", "other", NULL})
	e.ok(e.sink.Hold(e.ctx, "r1", t.ID, keys, long))
	_, err = mend("r2", rows...)
	e.wantCode(err, sink.CodeNotHeld)
	for range 3 {
		a, err := mend("r1", rows...)
		e.ok(err)
		if len(a.Dead) != 0 {
			e.Fatalf("applied %+v", a)
		}
		e.want(t, []string{"1", "it's", "right 'n' \\ ?", "10"}, []string{"3", "", "equal", "3"}, []string{"4", "x", "other", NULL}, []string{"5", "漢", NULL, NULL})
	}
	// A row that cannot be taken is told, and the others are written.
	bad := Put(s, 21, "3", "", "bad", "secret-7")
	bad.Op = change.Insert
	good := Put(s, 21, "5", "漢", "again", "1")
	good.Op = change.Insert
	a, err := mend("r1", bad, good)
	e.ok(err)
	if len(a.Dead) != 1 || a.Dead[0].Key != keys[2] || a.Dead[0].Code != sink.CodeRowRejected || a.Dead[0].Reason == "" || strings.Contains(a.Dead[0].Reason, "secret") {
		e.Fatalf("applied %+v", a)
	}
	after := [][]string{{"1", "it's", "right 'n' \\ ?", "10"}, {"3", "", "equal", "3"}, {"4", "x", "other", NULL}, {"5", "漢", "again", "1"}}
	e.want(t, after...)
	if parked, err := x.Parked(e.ctx, t.ID); err != nil || len(parked) != 0 {
		e.Fatalf("parked %v, %v: what a repair cannot write is the repair's to tell", parked, err)
	}
	// Changes after the row take effect, and a key that is let go is not mended.
	e.ok(e.sink.LetGo(e.ctx, "r1", t.ID, nil, keys))
	b := e.planned(x, t, 30, Put(s, 30, "5", "漢", "later", "2"), Put(s, 30, "2", `\"?`, "back", "3"))
	b.Released = []sink.Release{{Table: t.ID, Key: keys[3], Repair: "r1"}, {Table: t.ID, Key: keys[1], Repair: "r1"}}
	e.apply(x, b)
	_, err = mend("r1", good)
	e.wantCode(err, sink.CodeNotHeld)
	e.want(t, []string{"1", "it's", "right 'n' \\ ?", "10"}, []string{"2", `\"?`, "back", "3"}, []string{"3", "", "equal", "3"}, []string{"4", "x", "other", NULL}, []string{"5", "漢", "later", "2"})
}

// letterAt is a dead letter at position n.
func (e *env) letterAt(t sink.Table, partition, n int, key change.Key, code fault.Code) sink.DeadLetter {
	return sink.DeadLetter{Partition: sink.Partition{Table: t.ID, N: partition}, Offset: int64(1000 - n), Key: key, Pos: Pos(n), Code: code, Reason: "it's held?",
		Payload: []byte{0, 255, byte(n), '\'', '\\'}}
}

func (e *env) wantLetters(t sink.Table, keys []change.Key, want ...sink.DeadLetter) {
	e.Helper()
	have, err := e.sink.Letters(e.ctx, t.ID, keys)
	e.ok(err)
	if len(have)+len(want) > 0 && !reflect.DeepEqual(have, want) {
		e.Fatalf("letters\nhave %+v\nwant %+v", have, want)
	}
}

func testLetters(e *env) {
	s := people()
	t := e.add(s, 2, sink.TableOptions{})
	x := e.claim(0, 1)
	k := func(id string) change.Key { return e.keyOf(s, id, "", "") }
	one, two, three := k("1"), k("it's 2 ?\\\n漢"), k("3")
	e.wantLetters(t, []change.Key{one})
	ls := []sink.DeadLetter{e.letterAt(t, 0, 300, one, sink.CodeQuarantined), e.letterAt(t, 0, 5, one, sink.CodeRowRejected), e.letterAt(t, 1, 40, two, sink.CodeQuarantined),
		e.letterAt(t, 0, 41, one, sink.CodeParkedBehind), e.letterAt(t, 1, 4000, three, sink.CodeQuarantined)}
	b := Batch(t, 1)
	b.Tables, b.Dead = nil, ls
	e.apply(x, b)
	e.apply(x, b)
	e.wantLetters(t, []change.Key{two, one}, ls[1], ls[2], ls[3], ls[0])
	e.wantLetters(t, []change.Key{three, k("4")}, ls[4])
	e.wantLetters(t, nil)
	settle := func(ds ...sink.DeadLetter) {
		e.Helper()
		b := Batch(t, 2)
		b.Marks, b.Tables, b.Settled = nil, nil, nil
		for _, d := range ds { // by partition and position alone
			b.Settled = append(b.Settled, sink.DeadLetter{Partition: d.Partition, Pos: d.Pos})
		}
		e.apply(x, b)
	}
	settle(ls[1], ls[2])
	settle(ls[1], e.letterAt(t, 1, 5, one, ""))
	e.wantLetters(t, []change.Key{one, two, three}, ls[3], ls[0], ls[4])
	parked, err := x.Parked(e.ctx, t.ID)
	e.ok(err)
	slices.Sort(parked)
	if want := slices.Sorted(slices.Values([]change.Key{one, three})); !slices.Equal(parked, want) {
		e.Fatalf("parked %v, want %v", parked, want)
	}
}

// testRelease: what was set aside is applied and taken off the ledger with the release.
func testRelease(e *env) {
	s := people()
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	k := func(id string) change.Key { return e.keyOf(s, id, "", "") }
	keys := []change.Key{k("1"), k("2"), k("3"), k("4")}
	e.hold("r1", t, long, keys...)
	early := e.planned(x, t, 1, Put(s, 12, "4", "early", "1"))
	early.Marks = nil
	early.Released = []sink.Release{{Table: t.ID, Key: k("4"), Repair: "r1"}}
	_, _ = x.Apply(e.ctx, early) // refused or passed over: it is not to be let go
	e.wantHeld(t, map[change.Key]string{k("1"): "r1 quarantined", k("2"): "r1 quarantined", k("3"): "r1 quarantined", k("4"): "r1 quarantined"})
	park := e.planned(x, t, 2)
	park.Tables = nil
	park.Dead = []sink.DeadLetter{e.letterAt(t, 0, 11, k("1"), sink.CodeQuarantined), e.letterAt(t, 0, 12, k("1"), sink.CodeQuarantined), e.letterAt(t, 0, 13, k("2"), sink.CodeQuarantined),
		e.letterAt(t, 0, 14, k("3"), sink.CodeQuarantined)}
	e.apply(x, park)
	_, err := e.sink.Mend(e.ctx, "r1", sink.TableBatch{Schema: s, Options: t.Options, Epoch: 1, Rows: []sink.Row{Put(s, 11, "1", "mended", "11"), Del(s, 11, "2")}})
	e.ok(err)
	e.ok(e.sink.PutRepair(e.ctx, "r1", t.ID, []sink.RepairKey{{Key: k("1"), State: sink.Replayed, At: Pos(11), From: "log"}, {Key: k("2"), State: sink.Replayed, At: Pos(11)}}))
	e.ok(e.sink.PutRepair(e.ctx, "r1", t.ID, []sink.RepairKey{{Key: k("1"), State: sink.Verified, At: Pos(11), From: "log"}}))
	before := e.planned(x, t, 3, Put(s, 12, "1", "late", "12"))
	was := e.holdsOf(x, t)

	// A reason is given once and stays; keys that are not held stay as they are.
	e.suspect("r1", t, k("9"))
	e.ok(e.sink.LetGo(e.ctx, "r1", t.ID, map[change.Key]string{k("2"): "it's \\ gone?", k("8"): "never held"}, []change.Key{k("1"), k("9")}))
	e.ok(e.sink.LetGo(e.ctx, "r1", t.ID, nil, keys[:3]))
	e.ok(e.sink.LetGo(e.ctx, "r2", t.ID, map[change.Key]string{k("4"): "not its own"}, keys))
	if e.holdsOf(x, t) <= was {
		e.Fatal("letting keys go does not raise holds")
	}
	_, err = x.Apply(e.ctx, before)
	e.wantCode(err, sink.CodeNotStreaming)
	e.wantHeld(t, map[change.Key]string{k("1"): "r1 releasing", k("2"): "r1 releasing: it's \\ gone?", k("3"): "r1 releasing", k("4"): "r1 quarantined"})
	e.wantStates("r1", t, map[change.Key]string{k("1"): "releasing", k("2"): "releasing: it's \\ gone?", k("3"): "releasing", k("4"): "quarantined", k("9"): "suspected"})
	ks := e.repairOf(e.sink, "r1", t.ID)
	if ks[0].Key != k("1") || ks[0].At != Pos(11) || ks[0].From != "log" {
		e.Fatalf("what is known of the key is gone: %+v", ks[0])
	}

	// Of the release batch, one row is refused: its letter stays, as one of that code.
	release := func(x sink.Session) *sink.Batch {
		b := e.planned(x, t, 0, Put(s, 12, "1", "set aside", "12"), Put(s, 13, "2", "bad", "not a number"))
		b.Marks = nil
		b.Settled = []sink.DeadLetter{{Partition: sink.Partition{Table: t.ID}, Pos: Pos(11)}, {Partition: sink.Partition{Table: t.ID}, Pos: Pos(12)}, {Partition: sink.Partition{Table: t.ID}, Pos: Pos(13)}}
		b.Released = []sink.Release{{Table: t.ID, Key: k("1"), Repair: "r1"}, {Table: t.ID, Key: k("2"), Repair: "r1", Reason: "it's \\ gone?"}, {Table: t.ID, Key: k("3"), Repair: "r2"}}
		b.Encode = func(_, row int) sink.DeadLetter {
			d := e.letterAt(t, 0, 13, k("2"), "")
			d.Payload = []byte("again")
			return d
		}
		return b
	}
	lost := e.claim(0, 1)
	stale := release(x)
	_, err = x.Apply(e.ctx, stale)
	e.wantCode(err, sink.CodeFenced)
	e.wantLetters(t, []change.Key{k("1")}, park.Dead[0], park.Dead[1])
	x = lost
	for range 3 {
		a := e.apply(x, release(x))
		if len(a.Dead) != 1 {
			e.Fatalf("applied %+v", a)
		}
		e.want(t, []string{"1", "set aside", "12"})
		e.wantStates("r1", t, map[change.Key]string{k("1"): "released", k("2"): "failed: it's \\ gone?", k("3"): "releasing", k("4"): "quarantined", k("9"): "suspected"})
		e.wantLetters(t, keys[:1])
		ls, err := e.sink.Letters(e.ctx, t.ID, keys)
		e.ok(err)
		if len(ls) != 2 || ls[0].Pos != Pos(13) || ls[0].Code != sink.CodeRowRejected || string(ls[0].Payload) != "again" || ls[1].Key != k("3") {
			e.Fatalf("letters %+v", ls)
		}
	}
	ws, err := x.Watermarks(e.ctx, []sink.Partition{{Table: t.ID}})
	e.ok(err)
	if ws[0].Offset != 2 {
		e.Fatalf("watermark %+v moved by a release", ws[0])
	}
	// What is let go stays so, and may come under repair again.
	e.wantCode(e.sink.PutRepair(e.ctx, "r1", t.ID, []sink.RepairKey{{Key: k("1"), State: sink.Verified}}), sink.CodeNotHeld)
	e.ok(e.sink.Hold(e.ctx, "r1", t.ID, keys[:1], long))
	e.ok(e.sink.LetGo(e.ctx, "r1", t.ID, map[change.Key]string{k("1"): "too late"}, nil))
	e.wantStates("r1", t, map[change.Key]string{k("1"): "released", k("2"): "failed: it's \\ gone?", k("3"): "releasing", k("4"): "quarantined", k("9"): "suspected"})
	e.hold("r2", t, long, k("1"))
	e.wantHeld(t, map[change.Key]string{k("1"): "r2 quarantined", k("3"): "r1 releasing", k("4"): "r1 quarantined"})
}

func testRepairOfReset(e *env) {
	s := people()
	t := e.add(s, 1, sink.TableOptions{})
	u := e.add(Schema("other", 1, Col("id", Int4)), 1, sink.TableOptions{})
	x := e.claim(0, 1)
	k := func(id string) change.Key { return e.keyOf(s, id, "", "") }
	e.hold("r1", t, long, k("1"), k("2"))
	e.hold("r1", u, long, e.keyOf(u.Schema, "1"))
	e.suspect("r1", t, k("3"))
	e.ok(e.sink.LetGo(e.ctx, "r1", t.ID, map[change.Key]string{k("2"): "gave up"}, nil))
	b := e.planned(x, t, 1)
	b.Tables, b.Dead = nil, []sink.DeadLetter{e.letterAt(t, 0, 5, k("1"), sink.CodeQuarantined)}
	e.apply(x, b)
	e.ok(e.sink.ResetTable(e.ctx, t.ID, 2))
	e.wantHeld(t, nil)
	ks := e.repairOf(e.sink, "r1", t.ID)
	if len(ks) != 3 || ks[0].State != sink.Failed || ks[0].Reason != "the table was loaded again" || ks[1].State != sink.Failed || ks[2].State != sink.Suspected {
		e.Fatalf("after a reset: %+v", ks)
	}
	e.wantLetters(t, []change.Key{k("1")})
	e.wantHeld(u, map[change.Key]string{e.keyOf(u.Schema, "1"): "r1 quarantined"})
	_, err := e.sink.Mend(e.ctx, "r1", sink.TableBatch{Schema: s, Options: t.Options, Epoch: 1, Rows: []sink.Row{Put(s, 5, "1", "x", "1")}})
	e.wantCode(err, sink.CodeNotHeld)
	e.load(s, []string{"1", "loaded", "1"})
	e.want(t, []string{"1", "loaded", "1"})
	e.ok(e.sink.Hold(e.ctx, "r1", t.ID, []change.Key{k("3")}, long))
	e.ok(e.sink.RemoveTable(e.ctx, t.ID, false))
	e.wantHeld(t, nil)
	e.wantStates("r1", t, map[change.Key]string{k("1"): "failed: the table was loaded again", k("2"): "failed: " + ks[1].Reason, k("3"): "failed: the table was removed"})
	e.wantHeld(u, map[change.Key]string{e.keyOf(u.Schema, "1"): "r1 quarantined"})
}

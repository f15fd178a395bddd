package sinktest

import (
	"context"
	"maps"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// testAhead: how far streaming is ahead of a watermark is kept in the commit that moves
// either, and is gone with the commit that lets the watermark catch up.
func testAhead(e *env) {
	s, other := people(), Schema("other", 1, Col("id", Int4))
	t, to := e.add(s, 2, sink.TableOptions{}), e.add(other, 1, sink.TableOptions{})
	at := sink.Partition{Table: t.ID}
	x := e.claim(0, 1)
	e.apply(x, Batch(t, 1, Put(s, 1, "1", "a", "1")))
	mark := func(n int, offset int64, ahead, upTo int, waits int64) sink.Watermark {
		m := sink.Watermark{Partition: at, Pos: Pos(n), Offset: offset}
		m.Ahead = sink.Ahead{Pos: Pos(ahead), Offset: int64(upTo), Waits: waits, Oldest: time.Unix(1700000000, 123456000).UnixMicro(), Rules: `{"rows":["severity in ('info', 'debug')"]}`}
		return m
	}
	want := func(m sink.Watermark) {
		e.Helper()
		ws, err := x.Watermarks(e.ctx, []sink.Partition{at})
		e.ok(err)
		if !ws[0].Equal(m) {
			e.Fatalf("watermark %+v, want %+v", ws[0], m)
		}
		all, err := e.sink.Watermarks(e.ctx)
		e.ok(err)
		for _, w := range all {
			if w.Partition == at && !w.Equal(m) || w.Partition != at && w.Behind() {
				e.Fatalf("watermark %+v, want %+v", w, m)
			}
		}
	}
	step := func(m sink.Watermark, rows ...sink.Row) {
		e.Helper()
		b := Batch(t, 0, rows...)
		b.Marks = []sink.Watermark{m}
		e.apply(x, b)
		want(m)
	}
	// Streaming goes ahead, with other tables' marks in its batch, and again alone.
	first := mark(1, 1, 4, 4, 2)
	b := Batch(t, 0, Put(s, 4, "2", "b", "2"))
	b.Marks = []sink.Watermark{first, Batch(to, 3).Marks[0]}
	e.apply(x, b)
	want(first)
	step(mark(1, 1, 5, 5, 3), Put(s, 5, "3", "c", "3"))
	step(mark(1, 1, 5, 7, 5)) // over changes that wait
	// What waited is applied; the watermark moves and streaming does not.
	step(mark(2, 2, 5, 7, 4), Put(s, 2, "4", "d", "4"))
	step(mark(3, 4, 5, 7, 1), Put(s, 3, "5", "e", "5"))
	// What waits is told apart by tier, and one tier goes on where all else stays.
	tiers := func(m sink.Watermark, tied bool, bs ...sink.Backlog) sink.Watermark {
		m.Ahead.Tied, m.Ahead.Tiers = tied, bs
		return m
	}
	daily := sink.Backlog{Tier: "daily", Pos: Pos(3), Offset: 4, Waits: 1, Oldest: 1700000000123456}
	step(tiers(mark(3, 4, 5, 7, 2), true, daily, sink.Backlog{Tier: "hourly", Pos: Pos(4), Offset: 5, Waits: 1, Oldest: 1700000000123457}))
	step(tiers(mark(3, 4, 5, 7, 2), false, daily, sink.Backlog{Tier: "hourly", Pos: Pos(5), Offset: 6, Waits: 1, Oldest: 1700000000123458}), Put(s, 4, "6", "x", "6"))
	step(tiers(mark(3, 4, 5, 7, 1), false, daily), Put(s, 5, "6", "y", "6"))
	// An older release says nothing of tiers.
	step(mark(3, 4, 5, 7, 1))
	// Another session goes on from there.
	x = e.claim(0, 1)
	want(mark(3, 4, 5, 7, 1))
	step(mark(3, 4, 9, 12, 1), Put(s, 9, "3", "f", "6"))
	done := sink.Watermark{Partition: at, Pos: Pos(9), Offset: 12}
	step(done, Put(s, 8, "6", "g", "7"))
	want(done)
	step(sink.Watermark{Partition: at, Pos: Pos(10), Offset: 13}, Put(s, 10, "6", "h", "8"))
	e.want(t, []string{"1", "a", "1"}, []string{"2", "b", "2"}, []string{"3", "f", "6"}, []string{"4", "d", "4"}, []string{"5", "e", "5"}, []string{"6", "h", "8"})
	// A TRUNCATE leaves nothing that waits.
	step(mark(10, 13, 11, 15, 1))
	for n := range 2 {
		_, err := x.Truncate(e.ctx, sink.Watermark{Partition: sink.Partition{Table: t.ID, N: n}, Pos: Pos(12), Offset: 16}, 2)
		e.ok(err)
	}
	_, err := x.Truncate(e.ctx, sink.Watermark{Partition: at, Pos: Pos(12), Offset: 16}, 2)
	e.ok(err)
	want(sink.Watermark{Partition: at, Pos: Pos(12), Offset: 16})
	// Nor does a load that is begun where the log has nothing of it any more.
	step(mark(12, 16, 13, 20, 3))
	e.ok(e.sink.ResetTable(e.ctx, t.ID, 2))
	e.ok(e.sink.BeginLog(e.ctx, t.ID, []sink.LogRange{{From: 18, End: 30}, {From: 0, End: 99}}, true))
	x = e.claim(0, 1)
	want(sink.Watermark{Partition: at, Pos: Pos(12), Offset: 18})
}

// testAheadInDoubt: a batch that moves only what is ahead is found out about like any other.
func testAheadInDoubt(e *env) {
	s := people()
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	e.apply(x, Batch(t, 1, Put(s, 1, "1", "a", "1")))
	m := Batch(t, 1, Put(s, 1, "1", "a", "1")).Marks[0]
	for n := 2; n < 40; n++ {
		m.Ahead = sink.Ahead{Pos: Pos(n), Offset: int64(n), Waits: 1, Rules: "r"}
		if n > 20 { // what waits in a tier moves, and nothing else
			m.Ahead.Pos, m.Ahead.Offset = Pos(40), 40
			m.Ahead.Tiers = []sink.Backlog{{Tier: "daily", Pos: m.Pos, Offset: m.Offset, Waits: 1}, {Tier: "hourly", Pos: Pos(n), Offset: int64(n), Waits: 1}}
		}
		b := Batch(t, 0, Put(s, n, "2", "b", "2"))
		b.Marks = []sink.Watermark{m}
		ctx, cancel := context.WithTimeout(e.ctx, time.Duration(n*100)*time.Microsecond)
		_, err := x.Apply(ctx, b)
		cancel()
		if err == nil {
			continue
		}
		ws, err := x.Watermarks(e.ctx, []sink.Partition{m.Partition})
		if err == nil && !ws[0].Equal(m) {
			_, err = x.Apply(e.ctx, b)
		}
		if err != nil { // it asks for a new claim
			x = e.claim(0, 1)
			_, err = x.Apply(e.ctx, b)
		}
		e.ok(err)
	}
	ws, err := x.Watermarks(e.ctx, []sink.Partition{m.Partition})
	e.ok(err)
	if !ws[0].Equal(m) {
		e.Fatalf("watermark %+v, want %+v", ws[0], m)
	}
}

// testDue: what is due only goes on, of each tier by itself and of all, and nothing else of
// the table's record changes it.
func testDue(e *env) {
	s := people()
	t := e.add(s, 1, sink.TableOptions{})
	other := e.add(Schema("other", 1, Col("id", Int4)), 1, sink.TableOptions{})
	x := e.claim(0, 1)
	due := map[string]change.Position{}
	want := func() {
		e.Helper()
		now, err := e.sink.Table(e.ctx, t.ID)
		e.ok(err)
		all, err := x.Tables(e.ctx)
		e.ok(err)
		for _, o := range append(all, now) {
			if o.ID == t.ID && !maps.Equal(o.Due, due) || o.ID == other.ID && len(o.Due) > 0 {
				e.Fatalf("table %s: due %s, want %s", o.ID, o.Due, due)
			}
		}
	}
	at := func(epoch uint32, commit change.LSN) change.Position {
		return change.Position{Epoch: epoch, Commit: commit}
	}
	want()
	set := func(tier string, p change.Position) { e.Helper(); e.ok(e.sink.SetDue(e.ctx, t.ID, tier, p)) }
	for _, tier := range []string{sink.AllTiers, "hourly", "da'ily \"x\""} {
		set(tier, at(1, 500))
		due[tier] = at(1, 500)
		want()
		set(tier, at(1, 400))
		set(tier, at(1, 500))
		want()
		set(tier, at(1, 1<<63+7))
		due[tier] = at(1, 1<<63+7)
		want()
		set(tier, at(2, 5)) // after a failover positions may be lower
		set(tier, at(1, 1<<63+8))
		due[tier] = at(2, 5)
		want()
	}
	set("hourly", at(2, 9))
	now, err := e.sink.Table(e.ctx, t.ID)
	e.ok(err)
	if due["hourly"] = at(2, 9); now.DueOf("hourly") != at(2, 9) || now.DueOf("yearly") != at(2, 5) || now.DueOf(sink.AllTiers) != at(2, 5) {
		e.Fatalf("due %s", now.Due)
	}
	more := *s
	more.Columns = append(append([]change.Column{}, s.Columns...), Col("extra", TextT))
	e.ok(x.Evolve(e.ctx, t, &more, Pos(2)))
	e.ok(x.Gate(e.ctx, t.ID, "a test"))
	want()
	for _, tier := range []string{sink.AllTiers, "hourly"} {
		if err := e.sink.SetDue(e.ctx, change.TableID{Schema: "no", Name: "table"}, tier, at(1, 1)); err == nil {
			e.Fatal("of a table that the ledger does not have, something is due")
		}
	}
}

package sinktest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

func (e *env) wantCode(err error, code fault.Code) {
	e.Helper()
	if !fault.Is(err, code) {
		e.Fatalf("error %v, want %s", err, code)
	}
}

func testWatermarks(e *env) {
	a, b := people(), Schema("other", 1, Col("id", Int4))
	ta, tb := e.add(a, 3, sink.TableOptions{}), e.add(b, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	ps := []sink.Partition{{Table: ta.ID, N: 2}, {Table: tb.ID, N: 0}, {Table: ta.ID, N: 0}}
	ws, err := x.Watermarks(e.ctx, ps)
	e.ok(err)
	for i, w := range ws {
		if w.Partition != ps[i] || w.Offset != -1 || !w.Pos.IsZero() {
			e.Fatalf("watermark %+v of %+v that was never delivered", w, ps[i])
		}
	}
	big := change.Position{Epoch: 4294967295, Commit: 1<<64 - 1, Ordinal: 4294967295}
	batch := Batch(ta, 5, Put(a, 1, "1", "x", "1"))
	batch.Tables = append(batch.Tables, Batch(tb, 0, Put(b, 2, "7")).Tables...)
	batch.Marks = []sink.Watermark{
		{Partition: sink.Partition{Table: ta.ID, N: 2}, Pos: Pos(1), Offset: 5},
		{Partition: sink.Partition{Table: tb.ID, N: 0}, Pos: big, Offset: 1 << 40},
	}
	e.apply(x, batch)
	ws, err = e.claim(0, 1).Watermarks(e.ctx, ps)
	e.ok(err)
	if !ws[0].Equal(batch.Marks[0]) || !ws[1].Equal(batch.Marks[1]) || ws[2].Offset != -1 {
		e.Fatalf("watermarks %+v", ws)
	}
	all, err := e.sink.Watermarks(e.ctx)
	e.ok(err)
	if len(all) != 4 {
		e.Fatalf("%d watermarks, want 4: %+v", len(all), all)
	}
	e.want(ta, []string{"1", "x", "1"})
	e.want(tb, []string{"7"})
}

// testCancelledApply interrupts Apply at random moments: rows and watermark are
// both there or both not, and a retry on the same session is right in both cases.
func testCancelledApply(e *env) {
	s := people()
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	const rows = 1500
	sum := func() (n int, gen string) {
		for _, r := range e.rows(t) {
			n++
			gen = *r[2]
		}
		return n, gen
	}
	for g := 1; g <= 12; g++ {
		var put []sink.Row
		for i := range rows {
			put = append(put, Put(s, g, fmt.Sprint(i), strings.Repeat("x", 50), fmt.Sprint(g)))
		}
		b := Batch(t, int64(g), put...)
		ctx, cancel := context.WithTimeout(e.ctx, time.Duration(rand.IntN(30_000))*time.Microsecond)
		_, err := x.Apply(ctx, b)
		cancel()
		if e.caps.Atomic {
			probe, perr := e.openSink().Claim(e.ctx, 0, 1) // waits for a commit under way
			e.ok(perr)
			ws, werr := probe.Watermarks(e.ctx, []sink.Partition{{Table: t.ID}})
			e.ok(werr)
			e.ok(probe.Close())
			moved := ws[0].Pos == Pos(g)
			if err == nil && !moved {
				e.Fatal("Apply succeeded and the watermark did not move")
			}
			want := fmt.Sprint(g)
			if !moved {
				want = fmt.Sprint(g - 1)
			}
			if n, gen := sum(); (n != rows || gen != want) && !(n == 0 && want == "0") {
				e.Fatalf("watermark moved: %t, but %d rows of generation %s", moved, n, gen)
			}
			e.ok(x.Close())
			x = e.claim(0, 1)
		}
		if err != nil {
			e.apply(x, b)
		}
		if n, gen := sum(); n != rows || gen != fmt.Sprint(g) {
			e.Fatalf("after the retry %d rows of generation %s, want %d of %d", n, gen, rows, g)
		}
	}
	// Without a new claim: the session finds out by itself what became of the batch.
	for g := 13; g <= 20; g++ {
		b := Batch(t, int64(g), Put(s, g, "0", "y", fmt.Sprint(g)))
		ctx, cancel := context.WithTimeout(e.ctx, time.Duration(rand.IntN(3_000))*time.Microsecond)
		_, err := x.Apply(ctx, b)
		cancel()
		for try := 0; err != nil && try < 3; try++ {
			_, err = x.Apply(e.ctx, b)
			if fault.Is(err, sink.CodeSessionLost) { // also right: it asks for a new claim
				x = e.claim(0, 1)
			}
		}
		e.ok(err)
	}
}

func testFencing(e *env) {
	s := people()
	t := e.add(s, 1, sink.TableOptions{})
	old := e.claim(0, 1)
	e.apply(old, Batch(t, 1, Put(s, 1, "1", "old", "1")))
	other := e.openSink()
	now, err := other.Claim(e.ctx, 0, 1)
	e.ok(err)
	defer func() { _ = now.Close() }()
	if now.Token() <= old.Token() {
		e.Fatalf("token %d after %d", now.Token(), old.Token())
	}
	for range 2 {
		_, err = old.Apply(e.ctx, Batch(t, 2, Put(s, 2, "1", "stale", "2")))
		e.wantCode(err, sink.CodeFenced)
		if fault.Retryable(err) {
			e.Fatal("being fenced must not be retried")
		}
	}
	_, err = old.Truncate(e.ctx, sink.Watermark{Partition: sink.Partition{Table: t.ID}, Pos: Pos(3), Offset: 3}, 1)
	e.wantCode(err, sink.CodeFenced)
	e.wantCode(old.Gate(e.ctx, t.ID, "stale"), sink.CodeFenced)
	more := *s
	more.Columns = append(append([]change.Column{}, s.Columns...), Col("extra", TextT))
	e.wantCode(old.Evolve(e.ctx, t, &more, Pos(2)), sink.CodeFenced)
	e.want(t, []string{"1", "old", "1"})
	_, err = now.Apply(e.ctx, Batch(t, 4, Put(s, 4, "1", "new", "4")))
	e.ok(err)
	e.want(t, []string{"1", "new", "4"})
}

func testFencingByLanes(e *env) {
	s := people()
	t := e.add(s, 1, sink.TableOptions{})
	a, b := e.claim(0, 2), e.claim(1, 2)
	e.apply(a, Batch(t, 1, Put(s, 1, "1", "a", "1")))
	e.apply(b, Batch(t, 1, Put(s, 1, "2", "b", "1"))) // lanes of one count live side by side
	c := e.claim(0, 3)
	for _, x := range []sink.Session{a, b} {
		_, err := x.Apply(e.ctx, Batch(t, 2, Put(s, 2, "1", "stale", "2")))
		e.wantCode(err, sink.CodeFenced)
	}
	e.apply(c, Batch(t, 3, Put(s, 3, "3", "c", "3")))
	e.want(t, []string{"1", "a", "1"}, []string{"2", "b", "1"}, []string{"3", "c", "3"})
}

// testTakeoverUnderLoad claims a lane again and again while its holder applies as
// fast as it can: what a new holder finds never changes behind its back.
func testTakeoverUnderLoad(e *env) {
	s := people()
	t := e.add(s, 1, sink.TableOptions{})
	for round := range 6 {
		x := e.claim(0, 1)
		ws, err := x.Watermarks(e.ctx, []sink.Partition{{Table: t.ID}})
		e.ok(err)
		first := int(max(ws[0].Offset, 0))
		ended := make(chan error)
		go func() {
			for n := first + 1; ; n++ {
				if _, err := x.Apply(e.ctx, Batch(t, int64(n), Put(s, n, "1", "x", fmt.Sprint(n)), Put(s, n, "2", "y", fmt.Sprint(n)))); err != nil {
					ended <- err
					return
				}
			}
		}()
		Await(e.T, "the holder applies", func() bool {
			ws, err := e.sink.Watermarks(e.ctx)
			e.ok(err)
			return len(ws) > 0 && ws[0].Offset > int64(first+round)
		})
		next := e.claim(0, 1)
		ws, err = next.Watermarks(e.ctx, []sink.Partition{{Table: t.ID}})
		e.ok(err)
		if e.caps.Atomic {
			n := fmt.Sprint(ws[0].Offset)
			e.want(t, []string{"1", "x", n}, []string{"2", "y", n})
		}
		e.wantCode(<-ended, sink.CodeFenced)
		again, err := next.Watermarks(e.ctx, []sink.Partition{{Table: t.ID}})
		e.ok(err)
		if !again[0].Equal(ws[0]) {
			e.Fatalf("watermark %+v moved to %+v behind the new holder", ws[0], again[0])
		}
	}
}

func testTruncate(e *env) {
	s := people()
	t := e.add(s, 3, sink.TableOptions{})
	a, b := e.claim(0, 2), e.claim(1, 2)
	at := func(n, offset int) sink.Watermark {
		return sink.Watermark{Partition: sink.Partition{Table: t.ID, N: n}, Pos: Pos(10), Offset: int64(offset)}
	}
	truncate := func(x sink.Session, m sink.Watermark) bool {
		e.Helper()
		done, err := x.Truncate(e.ctx, m, 3)
		e.ok(err)
		return done
	}
	batch := func(n, off int, rows ...sink.Row) *sink.Batch {
		b := Batch(t, int64(off), rows...)
		b.Marks[0].N = n
		return b
	}
	e.apply(a, batch(0, 1, Put(s, 1, "1", "p0", "1")))
	e.apply(b, batch(1, 1, Put(s, 2, "2", "p1", "1")))
	first := truncate(a, at(0, 5))
	if first == e.caps.Barrier {
		e.Fatalf("the first of three partitions may go on: %t", first)
	}
	if e.caps.Barrier {
		if truncate(a, at(0, 5)) {
			e.Fatal("coming twice counts twice")
		}
		e.want(t, []string{"1", "p0", "1"}, []string{"2", "p1", "1"})
		// The others still deliver what lies before it.
		e.apply(b, batch(1, 3, Put(s, 9, "2", "p1", "9")))
	}
	truncate(b, at(1, 7))
	e.ok(a.Close())
	a = e.claim(0, 2) // arrivals outlive sessions
	if !truncate(a, at(2, 9)) {
		e.Fatal("the last partition may not go on")
	}
	e.want(t)
	e.apply(a, batch(2, 11, Put(s, 11, "3", "after", "11")))
	for n, x := range []sink.Session{a, b} {
		if !truncate(x, at(n, 5+2*n)) {
			e.Fatalf("partition %d may not go on", n)
		}
	}
	if !truncate(a, at(2, 9)) || !truncate(b, at(1, 7)) {
		e.Fatal("asking again after all have gone on")
	}
	e.want(t, []string{"3", "after", "11"})
	ws, err := a.Watermarks(e.ctx, []sink.Partition{{Table: t.ID, N: 0}, {Table: t.ID, N: 1}, {Table: t.ID, N: 2}})
	e.ok(err)
	if !ws[0].Equal(at(0, 5)) || !ws[1].Equal(at(1, 7)) || ws[2].Pos != Pos(11) || ws[2].Offset != 11 {
		e.Fatalf("watermarks %+v", ws)
	}
}

func testDeadLetters(e *env) {
	s := people()
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	var rows []sink.Row
	for i := 1; i <= 40; i++ {
		score := fmt.Sprint(i)
		if i == 7 || i == 8 || i == 33 {
			score = "secret-" + score
		}
		rows = append(rows, Put(s, i, fmt.Sprint(i), "n", score))
	}
	b := Batch(t, 41, rows...)
	preset := sink.DeadLetter{Partition: sink.Partition{Table: t.ID}, Offset: 3, Key: Put(s, 0, "99", "", "").Key, Pos: Pos(99),
		Code: sink.CodeParkedBehind, Reason: "behind another", Payload: []byte{0, 1, 2, 255}}
	b.Dead = []sink.DeadLetter{preset}
	a := e.apply(x, b)
	if a.Written != 37 || len(a.Dead) != 3 {
		e.Fatalf("written %d, dead %d", a.Written, len(a.Dead))
	}
	want := map[change.Key]bool{preset.Key: true}
	for i, n := range []int{7, 8, 33} {
		d := a.Dead[i]
		if d.Key != rows[n-1].Key || d.Code != sink.CodeRowRejected || d.Pos != Pos(n) || string(d.Payload) != fmt.Sprintf("payload %d", n-1) {
			e.Fatalf("dead letter %+v", d)
		}
		if d.Reason == "" || strings.Contains(d.Reason, "secret") {
			e.Fatalf("reason %q", d.Reason)
		}
		want[d.Key] = true
	}
	if n := len(e.rows(t)); n != 37 {
		e.Fatalf("%d rows", n)
	}
	parked, err := e.claim(0, 1).Parked(e.ctx, t.ID)
	e.ok(err)
	for _, k := range parked {
		delete(want, k)
	}
	if len(parked) != 4 || len(want) != 0 {
		e.Fatalf("parked %v", parked)
	}
	ws, err := e.sink.Watermarks(e.ctx)
	e.ok(err)
	if ws[0].Offset != 41 {
		e.Fatalf("watermark %+v", ws[0])
	}
	x = e.claim(0, 1)
	e.apply(x, Batch(t, 42, Put(s, 42, "7", "good", "7"))) // the session goes on
	if len(e.rows(t)) != 38 {
		e.Fatal("the session does not go on after dead letters")
	}
}

func testStates(e *env) {
	s := people()
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	e.ok(x.Gate(e.ctx, t.ID, "column gone"))
	ts, err := x.Tables(e.ctx)
	e.ok(err)
	if len(ts) != 1 || ts[0].State != sink.Gated || ts[0].Reason != "column gone" {
		e.Fatalf("tables %+v", ts)
	}
	if !e.caps.Atomic {
		return
	}
	// Nothing can slip in behind a change of state.
	_, err = x.Apply(e.ctx, Batch(t, 1, Put(s, 1, "1", "x", "1")))
	e.wantCode(err, sink.CodeNotStreaming)
	e.want(t)
}

// testResetUnderLoad resets and reloads a table while a lane delivers to it: no
// row of the time before comes back.
func testResetUnderLoad(e *env) {
	s := people()
	t := e.add(s, 1, sink.TableOptions{})
	for round := range 4 {
		x := e.claim(0, 1)
		began, ended := make(chan struct{}), make(chan error)
		go func() {
			for n := 1; ; n++ {
				b := Batch(t, int64(n), Put(s, round*100000+n, "1", "stale", fmt.Sprint(n)))
				b.Tables[0].Epoch = uint32(round + 1)
				if _, err := x.Apply(e.ctx, b); err != nil {
					ended <- err
					return
				}
				if n == 5 {
					close(began)
				}
			}
		}()
		<-began
		e.ok(e.sink.ResetTable(e.ctx, t.ID, uint32(round+2)))
		e.load(s, []string{"2", "loaded", fmt.Sprint(round)})
		if err := <-ended; !fault.Is(err, sink.CodeNotStreaming) && !fault.Is(err, sink.CodeFenced) {
			e.Fatalf("error %v, want %s or %s", err, sink.CodeNotStreaming, sink.CodeFenced)
		}
		e.want(t, []string{"2", "loaded", fmt.Sprint(round)})
	}
}

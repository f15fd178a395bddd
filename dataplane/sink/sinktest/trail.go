package sinktest

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/trail"
)

// trailOf reads a trail and checks its chain.
func (e *env) trailOf(s sink.Sink, known map[int64]string) []trail.Entry {
	e.Helper()
	c := trail.Checker{Known: known}
	var out []trail.Entry
	e.ok(s.Trail(e.ctx, func(t trail.Entry) error {
		out = append(out, t)
		return c.Next(&t)
	}))
	_, _, err := c.End()
	e.ok(err)
	return out
}

func testTrail(e *env) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.FixedZone("", 3600))
	entry := func(id string) trail.Entry {
		return trail.Entry{ID: id, At: at, Repair: "r 'ü'", Actor: `ann "a" \ ?`, Action: "replayed", Table: `public."T"`, Detail: json.RawMessage(`{"b": 1.50, "a": "x < y\u0041 漢 '?' \\"}`)}
	}
	if es := e.trailOf(e.sink, nil); len(es) != 0 {
		e.Fatalf("entries %+v", es)
	}
	e.ok(e.sink.AppendTrail(e.ctx, nil))
	bare := trail.Entry{ID: "bare", Action: "planned"}
	e.ok(e.sink.AppendTrail(e.ctx, []trail.Entry{entry("1"), bare, entry("1")}))
	e.ok(e.openSink().AppendTrail(e.ctx, []trail.Entry{entry("2"), entry("1"), entry("3")}))
	e.ok(e.sink.AppendTrail(e.ctx, []trail.Entry{entry("3"), entry("2")}))
	es := e.trailOf(e.sink, nil)
	for i, id := range []string{"1", "bare", "2", "3"} {
		if len(es) != 4 || es[i].ID != id || es[i].N != int64(i+1) {
			e.Fatalf("entries %+v", es)
		}
	}
	want := entry("2")
	e.ok(want.Seal(2, es[1].Hash))
	if got := es[2]; got.Hash != want.Hash || !got.At.Equal(want.At) || got.Actor != want.Actor || string(got.Detail) != string(want.Detail) || got.Table != want.Table || got.Repair != want.Repair {
		e.Fatalf("entry %+v, want %+v", got, want)
	}
	stop := errors.New("enough")
	if err := e.sink.Trail(e.ctx, func(trail.Entry) error { return stop }); !errors.Is(err, stop) {
		e.Fatalf("error %v, want the caller's", err)
	}

	// Attempts that overlap: one after the other, or told so.
	var wg sync.WaitGroup
	const each = 6
	for w := range 2 {
		s := e.openSink()
		wg.Go(func() {
			for i := range each {
				add := []trail.Entry{entry(fmt.Sprintf("both %d", i)), entry(fmt.Sprintf("own %d %d", w, i))}
				for {
					err := s.AppendTrail(e.ctx, add)
					if err == nil {
						break
					}
					if !fault.Retryable(err) {
						e.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	known := map[int64]string{4: es[3].Hash}
	es = e.trailOf(e.sink, known)
	ids := map[string]int{}
	for _, t := range es {
		ids[t.ID]++
	}
	if len(es) != 4+3*each || len(ids) != len(es) {
		e.Fatalf("%d entries with %d IDs", len(es), len(ids))
	}
	// It outlives the pipeline, and goes on where it was.
	other := e.other()
	if es := e.trailOf(other.sink, nil); len(es) != 0 {
		e.Fatalf("entries of another pipeline: %+v", es)
	}
	e.ok(e.sink.Forget(e.ctx))
	e.ok(e.sink.AppendTrail(e.ctx, []trail.Entry{entry("after"), entry("1")}))
	if now := e.trailOf(e.sink, known); len(now) != len(es)+1 || now[len(es)].ID != "after" {
		e.Fatalf("after the pipeline was forgotten: %d entries, were %d", len(now), len(es))
	}
}

package sinktest

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/tiers/aggregate"
)

// plainHost is the host whose rows are the table's; those of others are aggregated.
const plainHost = "plain"

// sorted has a load tell rows by their host, and write partials of two groups each.
func sorted(p *aggregate.Plan, seen sink.Loaded) sink.Loaded {
	seen.Sort = &sink.Sorting{Plans: []*aggregate.Plan{p}, Groups: 2, Of: func(row change.Row) (*aggregate.Plan, error) {
		if string(row[0].Data) == plainHost {
			return nil, nil
		}
		return p, nil
	}}
	return seen
}

func texts(rows ...change.Row) (out [][]string) {
	for _, row := range rows {
		var line []string
		for _, v := range row {
			if v.Kind == change.Null {
				line = append(line, NULL)
			} else {
				line = append(line, string(v.Data))
			}
		}
		out = append(out, line)
	}
	return out
}

// apart are the rows of a table, and those that are aggregated.
func apart(rows []change.Row) (table [][]string, kept []change.Row) {
	for _, row := range rows {
		if string(row[0].Data) == plainHost {
			table = append(table, texts(row)...)
		} else {
			kept = append(kept, row)
		}
	}
	return table, kept
}

// loadedAs compares rows and aggregates with what was loaded and streamed.
func (e *env) loadedAs(t sink.Table, p *aggregate.Plan, rows ...change.Row) {
	e.Helper()
	table, kept := apart(rows)
	e.want(t, table...)
	e.aggregates(t, p, kept...)
}

var errLost = errors.New("the source's connection is gone")

// breaks copies all of f, and is lost then.
func breaks(f sink.CopyFunc) sink.CopyFunc {
	return func(ctx context.Context, w io.Writer, binary bool) (int64, error) {
		_, err := f(ctx, w, binary)
		return 0, errors.Join(errLost, err)
	}
}

// testAggregatesLoaded: of rows that a tier aggregates a chunk brings partials, which count
// if the chunk does.
func testAggregatesLoaded(e *env) {
	s := measured()
	t := e.addLoading(s, 1, sink.TableOptions{AppendOnly: true})
	p := hourly(e, s)
	_, err := e.sink.PlanChunks(e.ctx, t.ID, []sink.Chunk{{N: 0}, {N: 1}, {N: 2}})
	e.ok(err)
	for range 2 {
		e.ok(e.sink.MakePartials(e.ctx, t.ID, []*aggregate.Plan{p}))
	}
	plain := Values(plainHost, "2024-05-01 10:00:00+00", "1", "2.000", "0.5", "3")
	rows := append(samples(), plain, plain)
	parts := [][]change.Row{slices.Concat(rows[:5], []change.Row{plain}), rows[5:40], rows[40:]}

	// A chunk that is broken off, and one that is done and comes again.
	f, sent := Copy(s, texts(parts[0]...)...)
	if _, err := e.sink.LoadChunk(e.ctx, t.ID, 0, sorted(p, Loaded(1)), breaks(f), nil); !errors.Is(err, errLost) {
		e.Fatalf("error %v, want that of the source", err)
	}
	for range 2 {
		c, err := e.openSink().LoadChunk(e.ctx, t.ID, 0, sorted(p, Loaded(2)), f, nil)
		if e.ok(err); !c.Done || c.Rows != 6 || c.Bytes == 0 || *sent != 2 {
			e.Fatalf("%+v after %d copies", c, *sent)
		}
	}

	// One that another worker takes over while it is copied. It finds out, or is ended.
	held, taken := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		f, _ := Copy(s, texts(parts[1]...)...)
		_, err := e.openSink().LoadChunk(e.ctx, t.ID, 1, sorted(p, Loaded(3)), func(ctx context.Context, w io.Writer, binary bool) (int64, error) {
			n, err := f(ctx, w, binary)
			close(held)
			<-taken
			return n, err
		}, nil)
		if err != nil && e.ctx.Err() != nil {
			e.Error(err)
		}
	})
	<-held
	f, _ = Copy(s, texts(parts[1]...)...)
	_, err = e.openSink().LoadChunk(e.ctx, t.ID, 1, sorted(p, Loaded(4)), f, nil)
	close(taken)
	wg.Wait()
	e.ok(err)
	e.sink = e.openSink() // whose connections nobody has ended

	// A row that cannot be aggregated exactly ends the load of its chunk, and nothing counts.
	bad := Values("a", "2024-05-01 10:00:00+00", "1", "1", "1", "1e-31")
	f, _ = Copy(s, texts(append(slices.Clone(parts[2]), bad)...)...)
	_, err = e.sink.LoadChunk(e.ctx, t.ID, 2, sorted(p, Loaded(5)), f, nil)
	e.wantCode(err, sink.CodeAggregateValue)
	if fault.Retryable(err) {
		e.Errorf("%v may be tried again", err)
	}
	f, _ = Copy(s, texts(parts[2]...)...)
	_, err = e.sink.LoadChunk(e.ctx, t.ID, 2, sorted(p, Loaded(5)), f, nil)
	e.ok(err)
	e.ok(e.sink.FinishLoad(e.ctx, t.ID))
	rows = slices.Concat(parts...)
	e.loadedAs(t, p, rows...)
	if have, err := e.sink.Table(e.ctx, t.ID); err != nil || have.Rows != int64(len(rows)) {
		e.Fatalf("%+v, %v", have, err)
	}

	// What is streamed comes beside it.
	x := e.claim(0, 1)
	e.apply(x, e.partials(t, p, aggregate.Run{From: 0, Token: x.Token(), Attempt: 1}, true, samples()[:9]...))
	rows = append(rows, samples()[:9]...)
	e.loadedAs(t, p, rows...)

	// A load of the table begins with nothing, by whatever declaration.
	e.ok(e.sink.ResetTable(e.ctx, t.ID, 2))
	e.loadedAs(t, p)
	spec := aggregate.Spec{Group: []string{"host"}, Time: &aggregate.Time{Column: "ts", Bucket: time.Hour}, Values: []aggregate.Value{{Column: "any", Functions: []string{"sum"}}}}
	other, err := spec.Bind(s, p.Tier)
	e.ok(err)
	_, err = e.sink.PlanChunks(e.ctx, t.ID, []sink.Chunk{{N: 0}})
	e.ok(err)
	e.ok(e.sink.MakePartials(e.ctx, t.ID, []*aggregate.Plan{other}))
	f, _ = Copy(s, texts(parts[1]...)...)
	_, err = e.sink.LoadChunk(e.ctx, t.ID, 0, sorted(other, Loaded(6)), f, nil)
	e.ok(err)
	e.wantCode(e.sink.MakePartials(e.ctx, t.ID, []*aggregate.Plan{p}), sink.CodeTableMismatch) // in the middle of a load
	e.ok(e.sink.FinishLoad(e.ctx, t.ID))
	e.loadedAs(t, other, parts[1]...)
	e.wantCode(e.sink.MakePartials(e.ctx, t.ID, []*aggregate.Plan{other}), sink.CodeNotStreaming)
}

// testAggregatesLoadedAtRandom: whatever attempts at chunks there were, and in whatever
// order, and however often the table was loaded, each row of the last load counts once.
func testAggregatesLoadedAtRandom(e *env) {
	seed := rand.Uint64()
	e.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	s := measured()
	t := e.addLoading(s, 1, sink.TableOptions{AppendOnly: true})
	p := hourly(e, s)
	row := func() change.Row {
		return Values([]string{plainHost, "a", "b", "c", NULL}[r.IntN(5)], "2024-05-01 1"+strconv.Itoa(r.IntN(4))+":00:00+00",
			strconv.Itoa(r.IntN(1000)-500), "1.500", "0.25", strconv.Itoa(r.IntN(9)))
	}
	const chunks = 3
	for epoch := uint32(1); epoch <= 3; epoch++ {
		workers := []sink.Sink{e.openSink(), e.openSink()}
		e.sink = e.openSink() // whoever takes a chunk over ends the connection of the one before
		if epoch > 1 {
			e.ok(e.sink.ResetTable(e.ctx, t.ID, epoch))
		}
		var cut []sink.Chunk
		var parts [chunks][]change.Row
		for n := range chunks {
			cut = append(cut, sink.Chunk{N: n})
			for range r.IntN(12) {
				parts[n] = append(parts[n], row())
			}
		}
		_, err := e.sink.PlanChunks(e.ctx, t.ID, cut)
		e.ok(err)
		e.ok(e.sink.MakePartials(e.ctx, t.ID, []*aggregate.Plan{p}))
		var wg sync.WaitGroup
		var mu sync.Mutex
		var stops []context.CancelFunc
		attempt := func(k sink.Sink, n int, f sink.CopyFunc) error {
			ctx, stop := context.WithCancel(e.ctx)
			defer stop()
			mu.Lock()
			stops = append(stops, stop)
			mu.Unlock()
			_, err := k.LoadChunk(ctx, t.ID, n, sorted(p, Loaded(n)), f, nil)
			return err
		}
		for range 6 { // attempts at once, of which some are lost or their workers killed
			n, end, kill := r.IntN(chunks), r.IntN(3), time.Duration(r.IntN(30))*time.Millisecond
			f, _ := Copy(s, texts(parts[n]...)...)
			if end == 0 {
				f = breaks(f)
			}
			k := workers[r.IntN(2)]
			wg.Go(func() { _ = attempt(k, n, f) }) // any of them may fail; another comes
			if end == 1 {
				time.Sleep(kill)
				mu.Lock()
				for _, stop := range stops {
					stop()
				}
				stops = nil
				mu.Unlock()
			}
		}
		early := r.IntN(2) == 0
		if early { // else stragglers are still at work when others finish
			wg.Wait()
		}
		for n := range chunks {
			f, _ := Copy(s, texts(parts[n]...)...)
			Await(e.T, "the chunk is loaded", func() bool {
				if err := attempt(workers[0], n, f); err != nil && !fault.Retryable(err) && !fault.Is(err, "ChunkTaken") {
					e.Fatal(err)
				}
				c, _, err := workers[1].Chunk(e.ctx, t.ID, n)
				return err == nil && c.Done
			})
		}
		e.ok(e.openSink().FinishLoad(e.ctx, t.ID))
		wg.Wait()
		e.loadedAs(t, p, slices.Concat(parts[:]...)...)
	}
}

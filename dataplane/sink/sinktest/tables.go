package sinktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"time"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

func testChunks(e *env) {
	s := people()
	t := e.addLoading(s, 2, sink.TableOptions{})
	cut := []sink.Chunk{{N: 0, UpTo: []string{"10"}}, {N: 1, After: []string{"10"}, UpTo: []string{"2 0'\""}}, {N: 2, After: []string{"2 0'\""}}}
	plan, err := e.sink.PlanChunks(e.ctx, t.ID, cut)
	e.ok(err)
	again, err := e.sink.PlanChunks(e.ctx, t.ID, cut[:1])
	e.ok(err)
	if !reflect.DeepEqual(plan, cut) || !reflect.DeepEqual(again, cut) {
		e.Fatalf("planned %+v, then %+v", plan, again)
	}
	if err := e.sink.FinishLoad(e.ctx, t.ID); err == nil {
		e.Fatal("a load without its chunks is finished")
	}
	f1, sent1 := Copy(s, []string{"11", "a\tb", "1"}, []string{"12", NULL, NULL})
	var told int64
	c, err := e.sink.LoadChunk(e.ctx, t.ID, 1, Loaded(5), f1, func(n int64) { told = n })
	e.ok(err)
	if !c.Done || c.Rows != 2 || c.Bytes == 0 || told != c.Bytes || c.Snapshot.String() != Loaded(5).Snapshot.String() || c.LSN != Loaded(5).LSN {
		e.Fatalf("chunk %+v, told %d", c, told)
	}
	c2, err := e.openSink().LoadChunk(e.ctx, t.ID, 1, Loaded(9), f1, nil)
	e.ok(err)
	if !reflect.DeepEqual(c, c2) || *sent1 != 1 {
		e.Fatalf("a chunk that is done was read %d times: %+v", *sent1, c2)
	}
	// A resumed load: the ledger knows what is left.
	ts, err := e.openSink().Tables(e.ctx)
	e.ok(err)
	if ts[0].State != sink.Loading || ts[0].Chunks != 3 || ts[0].Done != 1 || ts[0].Rows != 2 {
		e.Fatalf("table %+v", ts[0])
	}
	if one, err := e.sink.Table(e.ctx, t.ID); err != nil || !reflect.DeepEqual(one, ts[0]) {
		e.Fatalf("table %+v, %v, want %+v", one, err, ts[0])
	}
	if _, err := e.sink.Table(e.ctx, change.TableID{Schema: "no", Name: "such"}); err == nil || fault.Retryable(err) {
		e.Fatalf("a table that is not there: %v", err)
	}
	f0, _ := Copy(s, []string{"1", "x", "1"})
	f2, _ := Copy(s) // an empty chunk
	var wg sync.WaitGroup
	for n, f := range map[int]sink.CopyFunc{0: f0, 2: f2} { // side by side
		wg.Go(func() {
			if _, err := e.sink.LoadChunk(e.ctx, t.ID, n, Loaded(3+n), f, nil); err != nil {
				e.Error(err)
			}
		})
	}
	wg.Wait()
	e.ok(e.sink.FinishLoad(e.ctx, t.ID))
	e.ok(e.sink.FinishLoad(e.ctx, t.ID))
	e.ok(e.sink.AddTable(e.ctx, t)) // a table that streams is left alone
	e.want(t, []string{"1", "x", "1"}, []string{"11", "a\tb", "1"}, []string{"12", NULL, NULL})
	ts, err = e.sink.Tables(e.ctx)
	e.ok(err)
	if ts[0].State != sink.Streaming || ts[0].Chunks != 3 || ts[0].Done != 3 || ts[0].Rows != 3 || ts[0].LoadedTo != Pos(5).Commit {
		e.Fatalf("table %+v", ts[0])
	}
	x := e.claim(0, 1)
	done, err := x.Chunks(e.ctx, t.ID)
	e.ok(err)
	if len(done) != 3 || !reflect.DeepEqual(done[1], c) {
		e.Fatalf("chunks %+v", done)
	}
	e.apply(x, Batch(t, 1, Put(s, 9, "1", "streamed", "2"), Del(s, 9, "11")))
	e.want(t, []string{"1", "streamed", "2"}, []string{"12", NULL, NULL})
}

// testRedefine: a table that is loaded again takes the definition of now.
func testRedefine(e *env) {
	v1 := Schema("redefined", 1, Col("id", Int4), Col("a", TextT), Col("b", Int4))
	v1.Columns[2].NotNull = true
	t := e.add(v1, 1, sink.TableOptions{})
	v2 := Schema("redefined", 1, Col("id", Int4), Col("a", TextT), Col("c", Int8), Col("d", TextT))
	v2.Columns[2].NotNull = true
	e.ok(e.sink.Redefine(e.ctx, t.ID, v2)) // streams: left alone
	e.wantCode(e.claim(0, 1).Evolve(e.ctx, t, v2, Pos(2)), sink.CodeSchemaGate)
	e.ok(e.sink.ResetTable(e.ctx, t.ID, 2))
	e.ok(e.sink.Redefine(e.ctx, t.ID, v2))
	e.ok(e.sink.Redefine(e.ctx, t.ID, v2))
	_, err := e.sink.PlanChunks(e.ctx, t.ID, []sink.Chunk{{N: 0}})
	e.ok(err)
	e.ok(e.sink.Redefine(e.ctx, t.ID, v1)) // planned: left alone
	f, _ := Copy(v2, []string{"1", "x", "7", NULL}, []string{"2", NULL, "8", "y"})
	_, err = e.sink.LoadChunk(e.ctx, t.ID, 0, Loaded(1), f, nil)
	e.ok(err)
	e.ok(e.sink.FinishLoad(e.ctx, t.ID))
	ts, err := e.sink.Tables(e.ctx)
	e.ok(err)
	if ts[0].State != sink.Streaming || ts[0].Schema.Version() != v2.Version() {
		e.Fatalf("table %+v with schema %+v", ts[0], ts[0].Schema)
	}
	x := e.claim(0, 1)
	b := Batch(ts[0], 5, Put(v2, 5, "3", "z", "9", NULL))
	b.Tables[0].Epoch = ts[0].Epoch
	e.apply(x, b)
	e.want(ts[0], []string{"1", "x", "7", NULL}, []string{"2", NULL, "8", "y"}, []string{"3", "z", "9", NULL})

	e.ok(e.sink.ResetTable(e.ctx, t.ID, 3))
	v3 := Schema("redefined", 1, Col("id", Int4), Col("c", TextT))
	e.wantCode(e.sink.Redefine(e.ctx, t.ID, v3), sink.CodeTableMismatch)
}

func testChunkFailure(e *env) {
	s := people()
	t := e.addLoading(s, 1, sink.TableOptions{})
	_, err := e.sink.PlanChunks(e.ctx, t.ID, []sink.Chunk{{N: 0}})
	e.ok(err)
	f, _ := Copy(s, []string{"1", "x", "1"}, []string{"2", "y", "2"})
	lost := errors.New("the source's connection is gone")
	broken := func(ctx context.Context, w io.Writer, bin bool) (int64, error) {
		_, err := f(ctx, w, bin)
		return 0, errors.Join(lost, err)
	}
	if _, err := e.sink.LoadChunk(e.ctx, t.ID, 0, Loaded(1), broken, nil); !errors.Is(err, lost) {
		e.Fatalf("error %v, want that of the source", err)
	}
	ctx, cancel := context.WithCancel(e.ctx)
	hangs := func(ctx context.Context, w io.Writer, bin bool) (int64, error) {
		_, err := f(ctx, w, bin)
		cancel()
		<-ctx.Done()
		return 0, errors.Join(ctx.Err(), err)
	}
	if _, err := e.sink.LoadChunk(ctx, t.ID, 0, Loaded(1), hangs, nil); !errors.Is(err, context.Canceled) {
		e.Fatalf("error %v, want cancelled", err)
	}
	if e.caps.Atomic {
		e.want(t)
	}
	if c, sc, err := e.sink.Chunk(e.ctx, t.ID, 0); err != nil || c.Done || sc.Version() != t.Schema.Version() {
		e.Fatalf("chunk %+v, %v", c, err)
	}
	_, err = e.sink.LoadChunk(e.ctx, t.ID, 0, Loaded(1), f, nil)
	e.ok(err)
	e.ok(e.sink.FinishLoad(e.ctx, t.ID))
	e.want(t, []string{"1", "x", "1"}, []string{"2", "y", "2"})
}

// load loads rows as the only chunk and finishes.
func (e *env) load(s *change.Schema, rows ...[]string) {
	e.Helper()
	_, err := e.sink.PlanChunks(e.ctx, s.Table, []sink.Chunk{{N: 0}})
	e.ok(err)
	f, _ := Copy(s, rows...)
	_, err = e.sink.LoadChunk(e.ctx, s.Table, 0, Loaded(1), f, nil)
	e.ok(err)
	e.ok(e.sink.FinishLoad(e.ctx, s.Table))
}

func testExisting(e *env) {
	s := people()
	t := e.addLoading(s, 1, sink.TableOptions{})
	_, err := e.sink.PlanChunks(e.ctx, s.Table, []sink.Chunk{{N: 0}})
	e.ok(err)
	lost := errors.New("the worker is lost") // the next attempt is the second, which that of another load may not be
	if _, err := e.sink.LoadChunk(e.ctx, s.Table, 0, Loaded(1), func(context.Context, io.Writer, bool) (int64, error) { return 0, lost }, nil); !errors.Is(err, lost) {
		e.Fatal(err)
	}
	e.load(s, []string{"1", "old", "1"}, []string{"2", "old", "2"})
	// Another pipeline finds the table with its rows.
	other := &env{T: e.T, ctx: e.ctx, open: e.open, probe: e.probe, caps: e.caps, pipeline: e.pipeline + "_b", schema: e.schema}
	other.sink = other.openSink()
	e.wantCode(other.sink.AddTable(e.ctx, t), sink.CodeTableNotEmpty)
	bad := people()
	bad.Columns = append(bad.Columns, Col("missing", TextT))
	bad.Columns[1].Type = Builtin("point", "point", 600, -1)
	tb := t
	tb.Schema = bad
	e.wantCode(other.sink.AddTable(e.ctx, tb), sink.CodeTableMismatch)
	c, err := other.sink.Check(e.ctx, bad, t.Options)
	e.ok(err)
	if !c.Exists || c.Problem == "" {
		e.Fatalf("check %+v", c)
	}
	over := t
	over.Options.Existing = sink.KeepRows
	e.ok(other.sink.AddTable(e.ctx, over))
	other.load(s, []string{"2", "new", "20"}, []string{"3", "new", "30"})
	e.want(t, []string{"1", "old", "1"}, []string{"2", "new", "20"}, []string{"3", "new", "30"})
	e.ok(other.sink.RemoveTable(e.ctx, t.ID, false))
	over.Options.Existing = sink.Clear
	e.ok(other.sink.AddTable(e.ctx, over))
	e.want(t)
	other.load(s, []string{"4", "x", "4"})
	e.want(t, []string{"4", "x", "4"})
	// What was there before a pipeline is not its to drop, as a setup that fails
	// would otherwise do.
	e.ok(other.sink.RemoveTable(e.ctx, t.ID, true))
	e.want(t, []string{"4", "x", "4"})
}

func testResetAndRemove(e *env) {
	s := people()
	t := e.addLoading(s, 1, sink.TableOptions{})
	e.load(s, []string{"1", "x", "1"})
	x := e.claim(0, 1)
	bad := Put(s, 2, "2", "y", "not a number")
	e.apply(x, Batch(t, 5, bad))
	e.ok(e.sink.ResetTable(e.ctx, t.ID, 2))
	e.want(t)
	ts, err := e.sink.Tables(e.ctx)
	e.ok(err)
	if ts[0].State != sink.Loading || ts[0].Epoch != 2 || ts[0].Chunks != 0 {
		e.Fatalf("table %+v", ts[0])
	}
	ws, err := e.sink.Watermarks(e.ctx)
	e.ok(err)
	if len(ws) != 1 || ws[0].Offset != 5 {
		e.Fatalf("watermarks %+v: want those from before the reset", ws)
	}
	e.load(s, []string{"1", "again", "1"})
	e.want(t, []string{"1", "again", "1"})
	if keys, err := x.Parked(e.ctx, t.ID); err != nil || len(keys) != 0 {
		e.Fatalf("parked after a new load: %v, %v", keys, err)
	}
	e.ok(e.sink.RemoveTable(e.ctx, t.ID, false))
	e.ok(e.sink.RemoveTable(e.ctx, t.ID, false))
	e.want(t, []string{"1", "again", "1"})
	ts, err = x.Tables(e.ctx)
	e.ok(err)
	if len(ts) != 1 || ts[0].State != sink.Removed {
		e.Fatalf("tables %+v", ts)
	}
	t.Options.Existing = sink.Clear
	e.ok(e.sink.AddTable(e.ctx, t))
	e.load(s, []string{"7", "third", "7"})
	e.want(t, []string{"7", "third", "7"})
	e.ok(e.sink.RemoveTable(e.ctx, t.ID, true))
	c, err := e.sink.Check(e.ctx, s, t.Options)
	e.ok(err)
	if c.Exists {
		e.Fatal("the table is still there after it was dropped")
	}
}

func testEvolve(e *env) {
	v1 := Schema("evolving", 1, Col("id", Int4), Col("a", TextT))
	mood := UserTypes(e.schema)[0].Type
	v1.Columns = append(v1.Columns, Col("m", mood))
	t := e.add(v1, 2, sink.TableOptions{})
	x := e.claim(0, 1)
	e.apply(x, Batch(t, 1, Put(v1, 1, "1", "x", "sad")))
	v2 := Schema("evolving", 1, Col("id", Int4), Col("b \"new\"", Int8), Col("a", TextT), Col("m", mood))
	if !e.caps.NoEnumLabels {
		m2 := mood
		m2.Labels = []string{"first", "sad", "between", "so 'so'", "Happy", "last"}
		v2.Columns[3].Type = m2
	}
	e.ok(x.Evolve(e.ctx, t, v2, Pos(2)))
	e.ok(x.Evolve(e.ctx, t, v2, Pos(2)))
	e.ok(x.Evolve(e.ctx, t, v1, Pos(1))) // a slower partition still holds rows of the first version
	t2 := t
	t2.Schema = v2
	label := "Happy"
	if !e.caps.NoEnumLabels {
		label = "between"
	}
	e.apply(x, Batch(t2, 2, Put(v2, 2, "2", "20", "y", label)))
	e.apply(x, Batch(t, 3, Put(v1, 3, "3", "z", "sad")))
	e.want(t2, []string{"1", NULL, "x", "sad"}, []string{"2", "20", "y", label}, []string{"3", NULL, "z", "sad"})
	ts, err := x.Tables(e.ctx)
	e.ok(err)
	if ts[0].Schema.Version() != v2.Version() {
		e.Fatalf("recorded schema %+v", ts[0].Schema)
	}
	for name, s := range map[string]*change.Schema{
		"column gone":  Schema("evolving", 1, Col("id", Int4), Col("a", TextT), Col("m", v2.Columns[3].Type)),
		"type changed": Schema("evolving", 1, Col("id", Int4), Col("b \"new\"", TextT), Col("a", TextT), Col("m", v2.Columns[3].Type)),
		"key changed":  Schema("evolving", 2, Col("id", Int4), Col("b \"new\"", Int8), Col("a", TextT), Col("m", v2.Columns[3].Type)),
	} {
		e.Log(name)
		e.wantCode(x.Evolve(e.ctx, ts[0], s, Pos(9)), sink.CodeSchemaGate)
	}
}

// testEvolveOutOfOrder: partitions come to a new definition at different times, and
// each sees only those under which it has changes.
func testEvolveOutOfOrder(e *env) {
	cols := []change.Column{Col("id", Int4), Col("a", TextT), Col("b", Int8), Col("c", TextT)}
	v1, v2, v3 := Schema("ordered", 1, cols[:2]...), Schema("ordered", 1, cols[:3]...), Schema("ordered", 1, cols...)
	t := e.add(v1, 2, sink.TableOptions{})
	fast, slow := e.claim(1, 2), e.claim(0, 2)
	e.ok(fast.Evolve(e.ctx, t, v3, Pos(30)))
	ts, err := slow.Tables(e.ctx)
	e.ok(err)
	for n, s := range []*change.Schema{v2, v1, v3} { // from the ledger's definition and from its own
		e.ok(slow.Evolve(e.ctx, ts[0], s, Pos(20-n)))
		e.ok(slow.Evolve(e.ctx, t, s, Pos(20-n)))
	}
	of := func(s *change.Schema) sink.Table { t := t; t.Schema = s; return t }
	e.apply(slow, Batch(of(v2), 1, Put(v2, 20, "2", "x", "20")))
	e.apply(slow, Batch(t, 2, Put(v1, 21, "1", "y")))
	e.apply(slow, Batch(of(v3), 3, Put(v3, 31, "3", "z", "30", "c")))
	e.want(of(v3), []string{"1", "y", NULL, NULL}, []string{"2", "x", "20", NULL}, []string{"3", "z", "30", "c"})
	ts, err = slow.Tables(e.ctx)
	e.ok(err)
	if ts[0].Schema.Version() != v3.Version() {
		e.Fatalf("recorded schema %+v", ts[0].Schema)
	}
	e.wantCode(slow.Evolve(e.ctx, ts[0], v2, Pos(40)), sink.CodeSchemaGate) // now the column is gone
	other := Schema("ordered", 1, Col("id", Int4), Col("a", TextT), Col("gone", TextT))
	e.wantCode(slow.Evolve(e.ctx, ts[0], other, Pos(10)), sink.CodeSchemaGate) // dropped since
}

// testEvolveAtOnce: whichever of two lanes writes last, the newer definition stays.
func testEvolveAtOnce(e *env) {
	lanes := []sink.Session{e.claim(0, 2), e.claim(1, 2)}
	for n := range 4 {
		name := fmt.Sprintf("raced%d", n)
		v1 := Schema(name, 1, Col("id", Int4))
		v2 := Schema(name, 1, Col("id", Int4), Col("b", Int8))
		v3 := Schema(name, 1, Col("id", Int4), Col("b", Int8), Col("c", TextT))
		t := e.add(v1, 2, sink.TableOptions{})
		var wg sync.WaitGroup
		errs := make([]error, 2)
		for i, s := range []*change.Schema{v2, v3} {
			wg.Go(func() { errs[i] = lanes[i].Evolve(e.ctx, t, s, Pos(10+i)) })
		}
		wg.Wait()
		e.ok(errors.Join(errs...))
		t.Schema = v3
		e.apply(lanes[0], Batch(t, 1, Put(v3, 20, "1", "2", "c")))
		e.want(t, []string{"1", "2", "c"})
		ts, err := lanes[0].Tables(e.ctx)
		e.ok(err)
		if ts[n].Schema.Version() != v3.Version() {
			e.Fatalf("recorded schema %+v", ts[n].Schema)
		}
	}
}

func testForget(e *env) {
	s := people()
	t := e.addLoading(s, 1, sink.TableOptions{})
	e.load(s, []string{"1", "x", "1"})
	x := e.claim(0, 1)
	e.ok(e.sink.Forget(e.ctx))
	ts, err := e.sink.Tables(e.ctx)
	e.ok(err)
	ws, err := e.sink.Watermarks(e.ctx)
	e.ok(err)
	if len(ts)+len(ws) != 0 {
		e.Fatalf("left: %+v %+v", ts, ws)
	}
	_, err = x.Apply(e.ctx, Batch(t, 1, Put(s, 1, "1", "stale", "1")))
	e.wantCode(err, sink.CodeFenced)
	e.want(t, []string{"1", "x", "1"})
}

// testRandom compares the sink with a map, for random changes in random batches.
func testRandom(e *env) {
	s := Schema("random", 2, Col("run", Int4), Col("id", TextT), Col("a", TextT), Col("b", TextT), Col("c", Int8))
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	run, n := 0, 0
	text := rapid.OneOf(rapid.Just(NULL), rapid.StringMatching(`[a-zé'"\\{}, ]{0,6}`))
	began := time.Now()
	rapid.Check(e.T, func(rt *rapid.T) {
		if time.Since(began) > 15*time.Second {
			return // a slow sink gets fewer runs instead of a failure
		}
		run++
		model := map[string][]string{}
		var batch []sink.Row
		in := map[change.Key]bool{}
		flush := func() {
			if _, err := x.Apply(e.ctx, Batch(t, int64(n), batch...)); err != nil {
				rt.Fatal(err)
			}
			batch, in = nil, map[change.Key]bool{}
		}
		for range rapid.IntRange(1, 25).Draw(rt, "changes") {
			n++
			id := rapid.SampledFrom([]string{"k1", "K1", "", "ü'", "k 5"}).Draw(rt, "key")
			old := model[id]
			var r sink.Row
			switch rapid.IntRange(0, 3).Draw(rt, "op") {
			case 0:
				r = Del(s, n, fmt.Sprint(run), id)
				delete(model, id)
			case 1:
				if old != nil {
					next := append([]string{}, old...)
					sent := append([]string{}, old...)
					for i := 2; i < 5; i++ {
						if sent[i] = Unchanged; rapid.Bool().Draw(rt, "present") {
							sent[i] = text.Draw(rt, "value")
							if i == 4 {
								sent[i] = fmt.Sprint(rapid.Int64().Draw(rt, "c"))
							}
							next[i] = sent[i]
						}
					}
					r = e.partial(s, n, old, sent...)
					model[id] = next
					break
				}
				fallthrough
			default:
				row := []string{fmt.Sprint(run), id, text.Draw(rt, "a"), text.Draw(rt, "b"), fmt.Sprint(rapid.Int64().Draw(rt, "c"))}
				r = Put(s, n, row...)
				model[id] = row
			}
			if in[r.Key] || rapid.IntRange(0, 5).Draw(rt, "cut") == 0 {
				flush()
			}
			in[r.Key] = true
			batch = append(batch, r)
		}
		flush()
		var want, have [][]*string
		for _, row := range model {
			w := make([]*string, len(row))
			for i := range row {
				if row[i] != NULL {
					w[i] = &row[i]
				}
			}
			want = append(want, w)
		}
		for _, row := range e.probe.Rows(e.T, s, t.Options) {
			if *row[0] == fmt.Sprint(run) {
				have = append(have, row)
			}
		}
		if h, w := Lines(have), Lines(want); !reflect.DeepEqual(h, w) {
			rt.Fatalf("have %q, want %q", h, w)
		}
	})
}

// testBeginLog is where delivery begins: at what the log held before the load,
// whatever becomes of it meanwhile, and anew only with a load that is begun anew.
func testBeginLog(e *env) {
	s := people()
	t := e.addLoading(s, 3, sink.TableOptions{})
	at := func(n int) sink.Partition { return sink.Partition{Table: t.ID, N: n} }
	want := func(what string, offsets ...int64) {
		e.Helper()
		ws, err := e.sink.Watermarks(e.ctx)
		e.ok(err)
		var got []int64
		for _, w := range ws {
			got = append(got, w.Offset)
		}
		if !slices.Equal(got, offsets) {
			e.Fatalf("%s: offsets %v, want %v", what, got, offsets)
		}
	}
	big := int64(1) << 33 // offsets are not bounded by 32 bits
	e.ok(e.sink.BeginLog(e.ctx, t.ID, []sink.LogRange{{From: 0, End: 0}, {From: 7, End: 9}, {From: big, End: big}}, false))
	want("begun", 0, 7, big)
	e.ok(e.sink.BeginLog(e.ctx, t.ID, []sink.LogRange{{From: 5, End: 9}, {From: 8, End: 9}, {From: big, End: big}}, false))
	want("begun already", 0, 7, big)
	_, err := e.sink.PlanChunks(e.ctx, t.ID, []sink.Chunk{{}})
	e.ok(err)
	e.ok(e.sink.BeginLog(e.ctx, t.ID, []sink.LogRange{{From: 5, End: 9}, {From: 8, End: 9}, {From: big, End: big}}, true))
	want("planned already", 0, 7, big)
	e.load(s, []string{"1", "x", "1"})
	want("loaded", 0, 7, big)

	x := e.claim(0, 1)
	ws, err := x.Watermarks(e.ctx, []sink.Partition{at(0), at(1), at(2)})
	e.ok(err)
	for i, o := range []int64{0, 7, big} {
		if ws[i].Offset != o || !ws[i].Pos.IsZero() {
			e.Fatalf("delivery begins at %+v, want offset %d", ws[i], o)
		}
	}
	e.apply(x, Batch(t, 5, Put(s, 5, "2", "y", "2")))
	e.ok(e.sink.BeginLog(e.ctx, t.ID, []sink.LogRange{{From: 6, End: 9}, {From: 8, End: 9}, {From: 0, End: 1}}, true))
	want("delivered", 5, 7, big)

	// A load that is begun anew: what expired, what is there, what was made anew.
	e.ok(e.sink.ResetTable(e.ctx, t.ID, 2))
	e.ok(e.sink.BeginLog(e.ctx, t.ID, []sink.LogRange{{From: 6, End: 9}, {From: 7, End: 9}, {From: 0, End: 1}}, true))
	want("reset", 6, 7, 0)
	e.ok(e.sink.BeginLog(e.ctx, t.ID, []sink.LogRange{{From: 6, End: 9}, {From: 7, End: 9}, {From: 0, End: 1}}, true))
	want("reset once more", 6, 7, 0)
	e.load(s, []string{"1", "again", "1"})
	x = e.claim(0, 1)
	if ws, err = x.Watermarks(e.ctx, []sink.Partition{at(0), at(2)}); err != nil || ws[0].Pos != Pos(5) || ws[1].Offset != 0 {
		e.Fatalf("watermarks after the reset %+v, %v: positions stay", ws, err)
	}
	again := t
	again.Epoch = 2
	e.apply(x, Batch(again, 8, Put(s, 8, "3", "z", "3")))
	want("delivered after the reset", 8, 7, 0)
	e.ok(e.sink.RemoveTable(e.ctx, t.ID, false))
	want("removed")
	t.Epoch, t.Options.Existing = 3, sink.Clear
	e.ok(e.sink.AddTable(e.ctx, t))
	e.ok(e.sink.BeginLog(e.ctx, t.ID, []sink.LogRange{{From: 2, End: 9}, {From: 3, End: 9}, {From: 4, End: 9}}, false))
	want("added again", 2, 3, 4)
}

// Sizes are those of the pipeline's tables, at their places in the sink, and of the ledger.
func testSizes(e *env) {
	size := func() map[change.TableID]int64 {
		sizes, err := e.sink.Sizes(e.ctx)
		e.ok(err)
		out := map[change.TableID]int64{}
		for _, z := range sizes {
			if _, twice := out[z.Table]; twice {
				e.Fatalf("table %s is measured twice", z.Table)
			}
			out[z.Table] = z.Bytes
		}
		return out
	}
	s := people()
	t := e.add(s, 1, sink.TableOptions{Name: "measured"})
	before := size()
	if before[change.TableID{}] <= 0 || before[t.ID] > 100_000 {
		e.Fatalf("sizes %v before there are rows", before)
	}
	x := e.claim(0, 1)
	noise := rand.NewChaCha8([32]byte{})
	text := make([]byte, 100_000)
	_, _ = noise.Read(text)
	for i := range text {
		text[i] = 'a' + text[i]%26
	}
	e.apply(x, Batch(t, 1, Put(s, 1, "1", string(text), "10")))
	if after := size(); after[t.ID] < before[t.ID]+40_000 || len(after) != 2 {
		e.Fatalf("sizes %v, then %v", before, after)
	}
}

package sinktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

func people() *change.Schema {
	return Schema("people", 1, Col("id", Int4), Col("name", TextT), Col("score", Int8))
}

func (e *env) apply(x sink.Session, b *sink.Batch) sink.Applied {
	e.Helper()
	a, err := x.Apply(e.ctx, b)
	e.ok(err)
	return a
}

func testUpsertAndDelete(e *env) {
	s := people()
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	a := e.apply(x, Batch(t, 3, Put(s, 1, "1", "ann", "10"), Put(s, 2, "2", "bob", NULL), Put(s, 3, "3", "", "30")))
	if a.Written != 3 || a.Deleted != 0 || len(a.Dead) != 0 || len(a.Tables) != 1 || a.Tables[0] <= 0 || a.Tables[0] > a.Bytes {
		e.Fatalf("applied %+v", a)
	}
	e.want(t, []string{"1", "ann", "10"}, []string{"2", "bob", NULL}, []string{"3", "", "30"})
	a = e.apply(x, Batch(t, 7, Put(s, 4, "1", "Ann", "11"), Del(s, 5, "2"), Put(s, 6, "4", "dan", "40"), Del(s, 7, "9")))
	if a.Written != 2 || a.Deleted != 2 {
		e.Fatalf("applied %+v", a)
	}
	e.want(t, []string{"1", "Ann", "11"}, []string{"3", "", "30"}, []string{"4", "dan", "40"})
	e.apply(x, Batch(t, 9, Put(s, 8, "2", "back", "1"), Del(s, 9, "1")))
	e.want(t, []string{"2", "back", "1"}, []string{"3", "", "30"}, []string{"4", "dan", "40"})
	// More rows than one statement takes, with nothing but marks around it.
	var rows []sink.Row
	for i := range 12000 {
		rows = append(rows, Put(s, 10+i, fmt.Sprint(100+i), "many", fmt.Sprint(i)))
	}
	e.apply(x, Batch(t, 12010, rows...))
	b := Batch(t, 12011)
	b.Marks[0].Pos = Pos(12011)
	e.apply(x, b)
	if n := len(e.rows(t)); n != 12003 {
		e.Fatalf("%d rows", n)
	}
}

func testIdempotent(e *env) {
	s := people()
	t := e.add(s, 1, sink.TableOptions{})
	rows := []sink.Row{Put(s, 1, "1", "ann", "10"), Put(s, 2, "2", "bob", "20"), Del(s, 3, "3")}
	for i := range 3 {
		x := e.claim(0, 1) // as another worker that did not see the watermark move
		e.apply(x, Batch(t, 3, rows...))
		e.want(t, []string{"1", "ann", "10"}, []string{"2", "bob", "20"})
		if ws, err := e.sink.Watermarks(e.ctx); err != nil || len(ws) != 1 || ws[0].Pos != Pos(3) {
			e.Fatalf("round %d: watermarks %v, %v", i, ws, err)
		}
	}
}

// partial is an update that carries only some values.
func (e *env) partial(s *change.Schema, n int, old []string, texts ...string) sink.Row {
	r := Put(s, n, texts...)
	if e.caps.NeedsOld {
		r.Old = Values(old...)
	}
	return r
}

func testPartialRows(e *env) {
	s := Schema("docs", 1, Col("id", Int4), Col("title", TextT), Col("body", TextT), Col("n", Int4))
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	e.apply(x, Batch(t, 4, Put(s, 1, "1", "a", "long", "1"), Put(s, 2, "2", "b", "longer", "2"), Put(s, 3, "3", "c", NULL, "3"), Put(s, 4, "4", "d", "x", "4")))
	e.apply(x, Batch(t, 9,
		e.partial(s, 5, []string{"1", "a", "long", "1"}, "1", "A", Unchanged, "10"),
		e.partial(s, 6, []string{"2", "b", "longer", "2"}, "2", Unchanged, Unchanged, NULL),
		e.partial(s, 7, []string{"3", "c", NULL, "3"}, "3", "C", Unchanged, "30"),
		Put(s, 8, "5", "e", "new", "5"),
		Del(s, 9, "4")))
	e.want(t, []string{"1", "A", "long", "10"}, []string{"2", "b", "longer", NULL}, []string{"3", "C", NULL, "30"}, []string{"5", "e", "new", "5"})
	// Nothing but the key is carried: nothing changes.
	e.apply(x, Batch(t, 10, e.partial(s, 10, []string{"5", "e", "new", "5"}, "5", Unchanged, Unchanged, Unchanged)))
	e.want(t, []string{"1", "A", "long", "10"}, []string{"2", "b", "longer", NULL}, []string{"3", "C", NULL, "30"}, []string{"5", "e", "new", "5"})
	// A complete old image fills in what the new one leaves out.
	full := *s
	full.Full = true
	r := Put(&full, 11, "6", "f", Unchanged, "6")
	r.Old = Values("6", "e", "kept", "5")
	tf := t
	tf.Schema = &full
	e.apply(x, Batch(tf, 11, r))
	e.want(t, []string{"1", "A", "long", "10"}, []string{"2", "b", "longer", NULL}, []string{"3", "C", NULL, "30"}, []string{"5", "e", "new", "5"}, []string{"6", "f", "kept", "6"})
}

func testPartialMissing(e *env) {
	if e.caps.NeedsOld {
		e.Skip("rows are written whole, from the old image")
	}
	s := people()
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	e.apply(x, Batch(t, 1, Put(s, 1, "1", "ann", "10")))
	a := e.apply(x, Batch(t, 3, Put(s, 2, "1", Unchanged, "11"), Put(s, 3, "2", Unchanged, "12")))
	if len(a.Dead) != 1 || a.Dead[0].Key != Put(s, 0, "2", "", "").Key {
		e.Fatalf("applied %+v", a)
	}
	e.want(t, []string{"1", "ann", "11"})
}

func testAppendOnly(e *env) {
	s := Schema("events", 0, Col("kind", TextT), Col("n", Int4))
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	e.apply(x, Batch(t, 3, Put(s, 1, "a", "1"), Put(s, 2, "a", "1"), Put(s, 3, NULL, "2")))
	e.apply(x, Batch(t, 4, Put(s, 4, "a", "1")))
	e.want(t, []string{"a", "1"}, []string{"a", "1"}, []string{NULL, "2"}, []string{"a", "1"})
	// A table with a key may be kept as a history.
	h := Schema("history", 1, Col("id", Int4), Col("v", TextT))
	th := e.add(h, 1, sink.TableOptions{AppendOnly: true})
	b := Batch(th, 2, Put(h, 5, "1", "x"), Put(h, 6, "1", "y"))
	e.apply(x2(e, x), b)
	e.want(th, []string{"1", "x"}, []string{"1", "y"})
}

// testAppendOnlyChunks: the rows of an append-only table have nothing to replace
// one another by, so what an attempt at a chunk leaves behind must not count.
func testAppendOnlyChunks(e *env) {
	s := Schema("measured", 0, Col("id", Int4), Col("v", TextT))
	t := e.addLoading(s, 1, sink.TableOptions{AppendOnly: true})
	cut := []sink.Chunk{{N: 0, By: []string{"id"}, UpTo: []string{"10"}}, {N: 1, By: []string{"id"}, After: []string{"10"}}}
	plan, err := e.sink.PlanChunks(e.ctx, t.ID, cut)
	e.ok(err)
	if !reflect.DeepEqual(plan, cut) {
		e.Fatalf("planned %+v", plan)
	}
	low, _ := Copy(s, []string{"1", "same"}, []string{"2", "same"})
	high, _ := Copy(s, []string{"11", "same"}, []string{"12", NULL})
	lost := errors.New("the source's connection is gone")
	var wg sync.WaitGroup
	for n, f := range []sink.CopyFunc{low, high} { // side by side
		wg.Go(func() {
			broken := func(ctx context.Context, w io.Writer, binary bool) (int64, error) {
				_, err := f(ctx, w, binary)
				return 0, errors.Join(lost, err)
			}
			if _, err := e.openSink().LoadChunk(e.ctx, t.ID, n, Loaded(1), broken, nil); !errors.Is(err, lost) {
				e.Errorf("error %v, want that of the source", err)
			}
			for range 2 {
				if _, err := e.openSink().LoadChunk(e.ctx, t.ID, n, Loaded(1+n), f, nil); err != nil {
					e.Error(err)
				}
			}
		})
	}
	wg.Wait()
	e.ok(e.sink.FinishLoad(e.ctx, t.ID))
	x := e.claim(0, 1)
	done, err := x.Chunks(e.ctx, t.ID)
	e.ok(err)
	if len(done) != 2 || !reflect.DeepEqual(done[1].By, cut[1].By) || done[1].LSN != Loaded(2).LSN {
		e.Fatalf("chunks %+v", done)
	}
	e.apply(x, Batch(t, 1, Put(s, 5, "11", "same")))
	e.want(t, []string{"1", "same"}, []string{"2", "same"}, []string{"11", "same"}, []string{"12", NULL}, []string{"11", "same"})
}

// x2 tells a session of tables that were added after its claim.
func x2(e *env, x sink.Session) sink.Session {
	e.Helper()
	_, err := x.Tables(e.ctx)
	e.ok(err)
	return x
}

func testQuotedNames(e *env) {
	s := Schema(`Order "Lines"`, 2, Col("Order Id", Int4), Col("select", TextT), Col("Größe.x", TextT), Col("quo\"te", Int4))
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	e.apply(x, Batch(t, 3, Put(s, 1, "1", "a b", "ä'\\", "1"), Put(s, 2, "1", `"q"`, "x\ty\nz", "2"), Put(s, 3, "2", "a b", NULL, NULL)))
	e.apply(x, Batch(t, 5, Del(s, 4, "1", "a b"), e.partial(s, 5, []string{"1", `"q"`, "x\ty\nz", "2"}, "1", `"q"`, Unchanged, "3")))
	e.want(t, []string{"1", `"q"`, "x\ty\nz", "3"}, []string{"2", "a b", NULL, NULL})
	ts, err := e.sink.Tables(e.ctx)
	e.ok(err)
	if len(ts) != 1 || ts[0].ID != s.Table || ts[0].Schema.Version() != s.Version() {
		e.Fatalf("tables %+v", ts)
	}
	renamed := people()
	tr := e.add(renamed, 1, sink.TableOptions{Name: "Leute"})
	e.apply(x2(e, x), Batch(tr, 6, Put(renamed, 6, "1", "ann", "1")))
	e.want(tr, []string{"1", "ann", "1"})
}

func testKeyOnly(e *env) {
	s := Schema("tags", 2, Col("a", Int4), Col("b", TextT))
	t := e.add(s, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	for i := range 2 {
		e.apply(x, Batch(t, int64(i), Put(s, i*4, "1", "x"), Put(s, i*4+1, "1", "y"), Del(s, i*4+2, "2", "x")))
	}
	e.want(t, []string{"1", "x"}, []string{"1", "y"})
}

package verify

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"syncline/dataplane/change"
	"syncline/dataplane/digest"
)

// How much goes on at a time: the source is read by one statement, since that is what
// its budget is for.
const (
	atSinkAtOnce     = 4
	suspectsAtOnce   = 4 // parts whose keys are in memory
	confirmingAtOnce = 8 // of confirmBytes each, whose rows are
)

// turns lets so many at a time.
type turns chan struct{}

func (t turns) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return ctx.Err() // which of both was ready is chance
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turns) give() { <-t }

type walk struct {
	src    Source
	snk    Sink
	led    Ledger
	t      *Subject
	o      Options
	budget *rate.Limiter
	fence  fence

	room, source, sink, suspecting, confirming turns
	rowSize                                    atomic.Int64 // of those that were confirmed last; 0: none was

	mu    sync.Mutex
	res   Result  // of the parts before the first of parts
	parts []*part // of which one at least is under way, in order
	found map[change.Key]bool
}

// part of a table, between its sum at the source and its end.
type part struct {
	scope digest.Scope
	place Place // to go on from behind it
	want  digest.Sum
	at    change.LSN // that every commit in want is below
	res   Result     // what it adds
	done  bool
}

func newWalk(src Source, snk Sink, led Ledger, t *Subject, o Options) *walk {
	o.defaults()
	t.Kept = &Kept{}
	w := &walk{src: src, snk: snk, led: led, t: t, o: o, found: map[change.Key]bool{},
		room: make(turns, o.Ahead), source: make(turns, 1), sink: make(turns, atSinkAtOnce),
		suspecting: make(turns, suspectsAtOnce), confirming: make(turns, confirmingAtOnce)}
	w.fence = fence{led: led, table: t.Schema.Table, bound: o.Fence, wake: make(chan struct{}, 1)}
	if o.RowsPerSecond > 0 {
		w.budget = rate.NewLimiter(rate.Limit(o.RowsPerSecond), max(1, int(o.RowsPerSecond)))
	}
	return w
}

// result of a walk that ended by err.
func (w *walk) result(err error) (Result, error) {
	for _, p := range w.parts {
		w.res.add(&p.res)
	}
	w.parts = nil
	if errors.Is(err, errEnough) {
		w.res.More, err = true, nil
	}
	var stop *inconclusive
	if errors.As(err, &stop) {
		w.res.Reason, err = stop.reason, nil
	}
	w.res.conclude()
	return w.res, err
}

func (w *walk) run(ctx context.Context) error {
	ordered, err := w.begin(ctx)
	if err != nil || w.o.From.End {
		return err
	}
	if ordered {
		return w.fenced(ctx, w.inOrder)
	}
	return w.fenced(ctx, w.byHash)
}

// begin finds out how the table is compared, and from where.
func (w *walk) begin(ctx context.Context) (ordered bool, err error) {
	if len(w.t.Schema.Key) == 0 {
		return false, &inconclusive{"it has no primary key: rows cannot be told apart"}
	}
	if w.t.Forms, ordered, err = w.t.Compared(ctx, w.snk); err != nil {
		return false, err
	}
	if at := &w.o.From; at.After != nil && (!ordered || len(at.After) != len(w.t.Schema.Key)) || at.Slices > 0 && ordered {
		w.o.From, w.o.So = Place{}, nil // it was walked in another way
	}
	if so := w.o.So; so != nil {
		w.res = *so
		w.res.Verdict, w.res.Reason, w.res.More = "", "", false
		w.res.Findings = slices.Clone(so.Findings)
		for _, f := range so.Findings {
			w.found[f.Key] = true
		}
	}
	if w.res.From == 0 {
		if w.res.From, err = w.src.Position(ctx); err != nil {
			return false, err
		}
	}
	w.res.To = max(w.res.To, w.res.From)
	return ordered, nil
}

// fenced runs f beside the one that polls the ledger.
func (w *walk) fenced(ctx context.Context, f func(context.Context) error) error {
	ctx, stop := context.WithCancel(ctx)
	var polling sync.WaitGroup
	polling.Go(func() { w.fence.poll(ctx) })
	defer polling.Wait()
	defer stop()
	return f(ctx)
}

// each takes parts from next, until that gives none, and ends them beside each other.
func (w *walk) each(ctx context.Context, next func(context.Context) (*part, error)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			if err := w.room.take(ctx); err != nil {
				return err
			}
			p, err := next(ctx)
			if err != nil || p == nil {
				return err
			}
			w.mu.Lock()
			w.parts = append(w.parts, p)
			w.mu.Unlock()
			g.Go(func() error { return w.finish(ctx, p) })
		}
	})
	return g.Wait()
}

// finish compares a part once the sink has passed its position.
func (w *walk) finish(ctx context.Context, p *part) error {
	have, err := w.sinkSum(ctx, p)
	if err != nil {
		return err
	}
	p.res.Parts, p.res.Rows, p.res.To = 1, p.want.Rows, p.at
	if have != p.want {
		p.res.Differing = 1
		if err := w.settle(ctx, p); err != nil {
			return err
		}
	}
	return w.ended(p)
}

// ended tells of the parts that now have nothing under way before them.
func (w *walk) ended(p *part) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	p.done = true
	for len(w.parts) > 0 && w.parts[0].done {
		first := w.parts[0]
		w.parts = w.parts[1:]
		w.res.add(&first.res)
		if w.o.Done != nil {
			if err := w.o.Done(first.place, &w.res); err != nil {
				return err
			}
		}
		w.room.give()
	}
	return nil
}

// inOrder walks along the primary key, in parts that take about PartTime each.
func (w *walk) inOrder(ctx context.Context) error {
	after, rows, over := w.o.From.After, w.o.FirstRows, false
	return w.each(ctx, func(ctx context.Context) (*part, error) {
		if over {
			return nil, nil
		}
		if err := w.admit(ctx, rows); err != nil {
			return nil, err
		}
		p := &part{}
		var took time.Duration
		err := w.atSource(ctx, &p.at, func() (err error) {
			p.scope.After = after
			if p.scope.UpTo, err = w.src.Next(ctx, w.t, after, rows); err != nil {
				return err
			}
			begun := time.Now()
			p.want, err = w.src.Sum(ctx, w.t, p.scope)
			took = time.Since(begun)
			return err
		})
		if err != nil {
			return nil, err
		}
		after, over = p.scope.UpTo, p.scope.UpTo == nil
		p.place = Place{After: after, End: over}
		// Towards the aim, but by no more than half or double at once.
		aim := float64(rows) * float64(w.o.PartTime) / float64(max(took, time.Millisecond))
		rows = min(max(int(aim), rows/2, 100), 2*rows, w.o.MaxRows)
		return p, nil
	})
}

// byHash compares the table as a whole, and unless it is equal at once, one slice of
// the keys' hashes after the other: each time, all of the table is read.
func (w *walk) byHash(ctx context.Context) error {
	n, slices := w.o.From.Slice, w.o.From.Slices
	rows := w.o.MaxRows * slices
	sum := func(ctx context.Context, rows int, p *part) error {
		if err := w.admit(ctx, rows); err != nil {
			return err
		}
		return w.atSource(ctx, &p.at, func() (err error) {
			p.want, err = w.src.Sum(ctx, w.t, p.scope)
			return err
		})
	}
	if slices == 0 {
		whole := &part{}
		if err := sum(ctx, 0, whole); err != nil {
			return err
		}
		have, err := w.sinkSum(ctx, whole)
		if err != nil {
			return err
		}
		if have == whole.want {
			w.res.add(&Result{Parts: 1, Rows: have.Rows, To: whole.at})
			return nil
		}
		rows = int(have.Rows)
		slices = int(whole.want.Rows)/w.o.MaxRows + 1
	}
	return w.each(ctx, func(ctx context.Context) (*part, error) {
		if n == slices {
			return nil, nil
		}
		p := &part{scope: digest.Scope{Slice: n, Slices: slices}}
		n++
		p.place = Place{Slice: n, Slices: slices, End: n == slices}
		return p, sum(ctx, rows, p)
	})
}

// atSource runs f when it is its turn at the source, and takes a position behind it.
func (w *walk) atSource(ctx context.Context, at *change.LSN, f func() error) error {
	if err := w.source.take(ctx); err != nil {
		return err
	}
	defer w.source.give()
	if err := f(); err != nil || at == nil {
		return err
	}
	var err error
	*at, err = w.src.Position(ctx)
	return err
}

// atSink runs f when the sink has passed a position, and it is its turn there.
func (w *walk) atSink(ctx context.Context, at change.LSN, f func() error) error {
	if err := w.fence.pass(ctx, at); err != nil {
		return err
	}
	if err := w.sink.take(ctx); err != nil {
		return err
	}
	defer w.sink.give()
	return f()
}

func (w *walk) sinkSum(ctx context.Context, p *part) (have digest.Sum, err error) {
	err = w.atSink(ctx, p.at, func() (err error) {
		have, err = w.snk.Sum(ctx, w.t, p.scope)
		return err
	})
	return have, err
}

// admit waits for what the budget and the outside allow.
func (w *walk) admit(ctx context.Context, rows int) error {
	if w.o.Admit != nil {
		if err := w.o.Admit(ctx); err != nil {
			return err
		}
	}
	for w.budget != nil && rows > 0 {
		n := min(rows, w.budget.Burst())
		if err := w.budget.WaitN(ctx, n); err != nil {
			return err
		}
		rows -= n
	}
	return nil
}

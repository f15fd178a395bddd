package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"syncline/dataplane/change"
	"syncline/dataplane/digest"
	"syncline/dataplane/sink"
)

// How many keys are confirmed at once: so many that their rows are of some size, as far
// as those before them tell.
const (
	confirmKeys  = 500 // of which nothing is known
	confirmFew   = 100
	confirmMany  = 4000
	confirmBytes = 1 << 20
)

// portion is how many keys are confirmed at once, now.
func (w *walk) portion() int {
	size := w.rowSize.Load()
	if size == 0 {
		return confirmKeys
	}
	return int(min(max(confirmBytes/size, confirmFew), confirmMany))
}

// sized takes in how large rows are.
func (w *walk) sized(rows map[change.Key][]Row) {
	n, bytes := int64(0), int64(0)
	for _, rs := range rows {
		for i := range rs {
			n++
			bytes += rs[i].size()
		}
	}
	if n > 0 {
		w.rowSize.Store(max(1, bytes/n))
	}
}

// size of a row in memory, more or less.
func (r *Row) size() int64 {
	n := len(r.Key)
	for i := range r.Values {
		n += len(r.Values[i].Data)
	}
	return int64(n)
}

// between rounds, so that keys which are written to all the time do not keep both
// sides busy.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

// settle finds the keys of a part that differ.
func (w *walk) settle(ctx context.Context, p *part) error {
	keys, err := w.suspects(ctx, p.scope)
	if err != nil {
		return err
	}
	p.res.Suspects = len(keys)
	return w.confirm(ctx, keys, &p.res)
}

// suspects are the keys of a part that the two sides do not have alike.
func (w *walk) suspects(ctx context.Context, s digest.Scope) ([]change.Key, error) {
	if err := w.suspecting.take(ctx); err != nil {
		return nil, err
	}
	defer w.suspecting.give()
	// A part may have grown since it was measured, at either side.
	bound := 4 * w.o.MaxRows
	want := map[change.Key]digest.Digest{}
	var at change.LSN
	err := w.atSource(ctx, &at, func() error {
		return w.src.Keys(ctx, w.t, s, func(k change.Key, d digest.Digest) error {
			if want[k] = d; len(want) > bound {
				return &inconclusive{fmt.Sprintf("a part has more than %d rows", bound)}
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	var out []change.Key
	seen := map[change.Key]bool{}
	err = w.atSink(ctx, at, func() error {
		return w.snk.Keys(ctx, w.t, s, func(k change.Key, d digest.Digest) error {
			if seen[k] || want[k] != d {
				out = append(out, k)
			}
			if seen[k] = true; len(out) > bound {
				return errEnough // the sink has far more rows there than the source
			}
			return nil
		})
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	for k := range want {
		if !seen[k] {
			out = append(out, k)
		}
	}
	return out, nil
}

// confirm looks at suspects one by one, and adds to res what it finds.
func (w *walk) confirm(ctx context.Context, suspects []change.Key, res *Result) error {
	var mu sync.Mutex
	g, chunks := errgroup.WithContext(ctx)
	for left := dedupe(suspects); len(left) > 0; {
		if w.confirming.take(chunks) != nil {
			break
		}
		n := min(len(left), w.portion())
		keys := left[:n:n]
		left = left[n:]
		g.Go(func() error {
			defer w.confirming.give()
			var found Result
			err := w.rounds(chunks, keys, &found)
			mu.Lock()
			defer mu.Unlock()
			res.add(&found)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err() // which may have kept chunks from beginning
}

func (w *walk) rounds(ctx context.Context, keys []change.Key, res *Result) (err error) {
	seen := map[change.Key]shown{}
	pause := firstPause
	for round := 0; len(keys) > 0; round++ {
		if round == w.o.Rounds {
			res.Unsettled += len(keys)
			break
		}
		if round > 1 {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return ctx.Err()
			}
			pause = min(2*pause, lastPause)
		}
		if keys, err = w.round(ctx, keys, seen, res); err != nil {
			return err
		}
	}
	return nil
}

// shown is what a round showed of a key. A row that the source does not have has no
// version there, so it may have come and gone between two looks: then the sink's row,
// if there is one in the next round, is another one.
type shown struct{ kind, version string }

func dedupe(keys []change.Key) []change.Key {
	slices.Sort(keys)
	return slices.Compact(keys)
}

// round compares the keys once and returns those that need another round.
func (w *walk) round(ctx context.Context, keys []change.Key, seen map[change.Key]shown, res *Result) ([]change.Key, error) {
	var at change.LSN
	var before, have, after map[change.Key][]Row
	read := func(s Side, into *map[change.Key][]Row) func() error {
		return func() error {
			rows, err := s.Read(ctx, w.t, keys)
			*into = byKey(rows)
			return err
		}
	}
	if err := w.atSource(ctx, &at, read(w.src, &before)); err != nil {
		return nil, err
	}
	if err := w.atSink(ctx, at, read(w.snk, &have)); err != nil {
		return nil, err
	}
	if err := w.atSource(ctx, nil, read(w.src, &after)); err != nil {
		return nil, err
	}
	w.sized(before)
	w.sized(have)
	var again []change.Key
	for _, k := range keys {
		b, a := before[k], after[k]
		if len(b) != len(a) || len(b) > 0 && (b[0].Version != a[0].Version || !Same(nil, b[0].Values, a[0].Values)) {
			delete(seen, k) // it was written to
			again = append(again, k)
			continue
		}
		f, differs := w.compare(k, b, have[k])
		if !differs {
			continue
		}
		s := shown{f.Kind, ""}
		if f.Kind == Extra {
			s.version = have[k][0].Version
		}
		if seen[k] != s {
			seen[k] = s
			again = append(again, k)
			continue
		}
		f.At = at
		if err := w.find(f, res); err != nil {
			return nil, err
		}
	}
	return again, nil
}

// find adds a finding, unless there are enough or it is known.
func (w *walk) find(f sink.Finding, res *Result) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.found[f.Key]:
		return nil
	case len(w.found) >= w.o.MaxFindings:
		return errEnough
	}
	w.found[f.Key] = true
	res.Findings = append(res.Findings, f)
	return nil
}

func byKey(rows []Row) map[change.Key][]Row {
	out := make(map[change.Key][]Row, len(rows))
	for _, r := range rows {
		out[r.Key] = append(out[r.Key], r)
	}
	return out
}

func (w *walk) compare(k change.Key, want, have []Row) (f sink.Finding, differs bool) {
	f.Key = k
	switch {
	case len(want) == 0 && len(have) == 0:
		return f, false
	case len(have) == 0:
		f.Kind = Missing
	case len(want) == 0:
		f.Kind = Extra
	case len(have) > 1:
		f.Kind = Twice
	default:
		f.Kind = Changed
		for i := range w.t.Schema.Columns {
			if !same(w.t.Forms[i], want[0].Values[i], have[0].Values[i]) {
				f.Columns = append(f.Columns, w.t.Schema.Columns[i].Name)
			}
		}
		return f, len(f.Columns) > 0
	}
	return f, true
}

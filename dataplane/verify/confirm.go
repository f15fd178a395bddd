package verify

import (
	"bytes"
	"context"
	"slices"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/digest"
	"syncline/dataplane/sink"
)

// confirmKeys is how many keys are confirmed at once.
const confirmKeys = 500

// between rounds, so that keys which are written to all the time do not keep both
// sides busy.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

// confirm looks at suspects one by one.
func (w *walk) confirm(ctx context.Context, suspects []change.Key) error {
	for keys := range slices.Chunk(dedupe(suspects), confirmKeys) {
		seen := map[change.Key]shown{}
		pause := firstPause
		for round := 0; len(keys) > 0; round++ {
			if round == w.o.Rounds {
				w.res.Unsettled += len(keys)
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
			var err error
			if keys, err = w.round(ctx, keys, seen); err != nil {
				return err
			}
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
func (w *walk) round(ctx context.Context, keys []change.Key, seen map[change.Key]shown) ([]change.Key, error) {
	before, err := w.read(ctx, w.src, keys)
	if err != nil {
		return nil, err
	}
	at, err := w.fence(ctx)
	if err != nil {
		return nil, err
	}
	have, err := w.read(ctx, w.snk, keys)
	if err != nil {
		return nil, err
	}
	after, err := w.read(ctx, w.src, keys)
	if err != nil {
		return nil, err
	}
	var again []change.Key
	for _, k := range keys {
		b, a := before[k], after[k]
		if len(b) != len(a) || len(b) > 0 && (b[0].Version != a[0].Version || !w.same(b[0].Values, a[0].Values)) {
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
		if len(w.res.Findings) >= w.o.MaxFindings {
			return nil, errEnough
		}
		w.res.Findings = append(w.res.Findings, f)
	}
	return again, nil
}

func (w *walk) read(ctx context.Context, s Side, keys []change.Key) (map[change.Key][]Row, error) {
	rows, err := s.Read(ctx, w.t, keys)
	out := make(map[change.Key][]Row, len(rows))
	for _, r := range rows {
		out[r.Key] = append(out[r.Key], r)
	}
	return out, err
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
			if w.t.Forms[i] != digest.Apart && !sameValue(want[0].Values[i], have[0].Values[i]) {
				f.Columns = append(f.Columns, w.t.Schema.Columns[i].Name)
			}
		}
		return f, len(f.Columns) > 0
	}
	return f, true
}

func (w *walk) same(a, b change.Row) bool { return slices.EqualFunc(a, b, sameValue) }

func sameValue(a, b change.Value) bool { return a.Kind == b.Kind && bytes.Equal(a.Data, b.Data) }

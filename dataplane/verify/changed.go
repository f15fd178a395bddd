package verify

import (
	"context"
	"fmt"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// Changes is the log of changes between the two sides.
type Changes interface {
	// Between calls each for the changes of a partition from an offset to before
	// another; an error of each ends it and is returned. They are valid until each returns.
	Between(ctx context.Context, p sink.Partition, from, to int64, each func(*change.Change) error) error
}

// changedKeys is how many keys are collected before they are looked at.
const changedKeys = 5000

// Unknown is the error of a Changes, or of an Options.Admit, by which a walk ends
// without an answer.
func Unknown(reason string) error { return &inconclusive{reason} }

// Incremental verifies the keys of which the log has a change, by partition from an offset
// to before another. The sink must have taken in what is before these: what is changed
// later is for the next time. Result.Rows counts keys, Result.Parts batches of them;
// Options.Done is not told places, since there is none to go on from.
func Incremental(ctx context.Context, src Source, snk Sink, led Ledger, log Changes, t Subject, from, to []int64, o Options) (Result, error) {
	w := newWalk(src, snk, led, &t, o)
	return w.result(w.changed(ctx, log, from, to))
}

func (w *walk) changed(ctx context.Context, log Changes, from, to []int64) error {
	if _, err := w.begin(ctx); err != nil || w.o.From.End {
		return err
	}
	if len(from) != len(to) {
		return &inconclusive{fmt.Sprintf("its topic had %d partitions and has %d: verify all of it first, without --changed", len(from), len(to))}
	}
	return w.fenced(ctx, func(ctx context.Context) error {
		for n := range to {
			if err := w.partition(ctx, log, sink.Partition{Table: w.t.Schema.Table, N: n}, from[n], to[n]); err != nil {
				return err
			}
		}
		return nil
	})
}

// partition verifies the keys that changed in one. A key is always in the same.
func (w *walk) partition(ctx context.Context, log Changes, p sink.Partition, from, to int64) error {
	if from == to {
		return nil
	}
	if from > to {
		return &inconclusive{fmt.Sprintf("partition %d was verified up to offset %d, and its delivery is at %d: verify all of it first, without --changed", p.N, from, to)}
	}
	keys := map[change.Key]bool{}
	err := log.Between(ctx, p, from, to, func(c *change.Change) error {
		switch {
		case c.Op == change.Truncate:
			return &inconclusive{"it was truncated since it was last verified: verify all of it first, without --changed"}
		case c.Key == "":
			return &inconclusive{"its log has changes without a key"}
		}
		if keys[c.Key] = true; len(keys) < changedKeys {
			return nil
		}
		err := w.keys(ctx, keys)
		clear(keys)
		return err
	})
	if err != nil {
		return err
	}
	return w.keys(ctx, keys)
}

// keys compares the rows of keys. Those that are equal at first are: a change that is
// on its way to the sink is not among those that are asked about.
func (w *walk) keys(ctx context.Context, all map[change.Key]bool) error {
	if len(all) == 0 {
		return nil
	}
	var suspects []change.Key
	list := make([]change.Key, 0, len(all))
	for k := range all {
		list = append(list, k)
	}
	list = dedupe(list)
	if err := w.admit(ctx, len(list)); err != nil {
		return err
	}
	for len(list) > 0 {
		keys := list[:min(confirmKeys, len(list))]
		list = list[len(keys):]
		var want, have map[change.Key][]Row
		err := w.atSource(ctx, nil, func() error {
			rows, err := w.src.Read(ctx, w.t, keys)
			want = byKey(rows)
			return err
		})
		if err != nil {
			return err
		}
		rows, err := w.snk.Read(ctx, w.t, keys)
		if err != nil {
			return err
		}
		have = byKey(rows)
		for _, k := range keys {
			if _, differs := w.compare(k, want[k], have[k]); differs {
				suspects = append(suspects, k)
			}
		}
	}
	part := Result{Parts: 1, Rows: int64(len(all)), Suspects: len(suspects)}
	if len(suspects) > 0 {
		part.Differing = 1
	}
	err := w.confirm(ctx, suspects, &part)
	w.res.add(&part)
	if err == nil && w.o.Done != nil {
		err = w.o.Done(Place{}, &w.res)
	}
	return err
}

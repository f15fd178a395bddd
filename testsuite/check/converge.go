package check

import (
	"context"
	"fmt"
	"math"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// Ledger is what a sink says of its progress; sink.Sink is one.
type Ledger interface {
	Tables(ctx context.Context) ([]sink.Table, error)
	Watermarks(ctx context.Context) ([]sink.Watermark, error)
}

// Converge returns when every sink has taken in all that the source had
// committed when it was called, for all the tables that are named (all of the
// ledger's, if none are). It fails when ctx ends before that, and at once for a
// table that is gated or removed.
func Converge(ctx context.Context, source *Postgres, sinks map[string]Ledger, tables ...change.TableID) (change.LSN, error) {
	lsn, err := source.Position(ctx)
	if err != nil {
		return 0, err
	}
	for name, s := range sinks {
		if err := Await(ctx, name, s, lsn, tables...); err != nil {
			return lsn, err
		}
	}
	return lsn, nil
}

// Await returns when a sink has taken in every commit below lsn.
func Await(ctx context.Context, name string, s Ledger, lsn change.LSN, tables ...change.TableID) error {
	pause := 20 * time.Millisecond
	for {
		behind, err := lookBehind(ctx, s, lsn, tables)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if behind == "" {
			return nil
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, 250*time.Millisecond)
		case <-ctx.Done():
			return fmt.Errorf("%s: inconclusive, not at %s in time: %s: %w", name, lsn, behind, ctx.Err())
		}
	}
}

// lookBehind says what has not come to lsn yet; "" if all has.
func lookBehind(ctx context.Context, s Ledger, lsn change.LSN, only []change.TableID) (string, error) {
	all, err := s.Tables(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return "the ledger does not answer", nil
		}
		return "", fmt.Errorf("read tables: %w", err)
	}
	known := map[change.TableID]sink.Table{}
	for _, t := range all {
		known[t.ID] = t
	}
	if len(only) == 0 {
		for _, t := range all {
			if t.State != sink.Removed {
				only = append(only, t.ID)
			}
		}
	}
	if len(only) == 0 {
		return "the ledger has no tables", nil
	}
	marks, err := s.Watermarks(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return "the ledger does not answer", nil
		}
		return "", fmt.Errorf("read watermarks: %w", err)
	}
	at := make(map[sink.Partition]change.Position, len(marks))
	for _, m := range marks {
		at[m.Partition] = m.Pos
	}
	for _, id := range only {
		t, ok := known[id]
		switch {
		case !ok:
			return fmt.Sprintf("table %s is not in the ledger", id), nil
		case t.State == sink.Gated:
			return "", fmt.Errorf("table %s is gated: %s", id, t.Reason)
		case t.State == sink.Removed:
			return "", fmt.Errorf("table %s was removed", id)
		case t.State != sink.Streaming:
			return fmt.Sprintf("table %s is %s: %d of %d chunks", id, t.State, t.Done, t.Chunks), nil
		case t.Partitions == 0:
			return "", fmt.Errorf("table %s has no partitions", id)
		}
		// A partition that follows progress records stops one short of a position:
		// at the highest ordinal of the LSN before it.
		need := max(lsn, t.LoadedTo+1)
		for n := range t.Partitions {
			pos := at[sink.Partition{Table: id, N: n}]
			// A resync raises the epoch of the rows, not of the log that the marks follow.
			if pos.Before(change.Position{Epoch: pos.Epoch, Commit: need - 1, Ordinal: math.MaxUint32}) {
				return fmt.Sprintf("partition %d of table %s is at %s, want %s", n, id, pos, need), nil
			}
		}
	}
	return "", nil
}

package verify

import (
	"context"
	"fmt"
	"math"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// fence takes a position of the source and waits until the table's ledger has
// passed it.
func (w *walk) fence(ctx context.Context) (change.LSN, error) {
	at, err := w.src.Position(ctx)
	if err != nil {
		return 0, err
	}
	bounded, cancel := context.WithTimeout(ctx, w.o.Fence)
	defer cancel()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		behind, err := Behind(bounded, w.led, w.t.Schema.Table, at)
		if ctx.Err() != nil {
			return at, ctx.Err()
		}
		if bounded.Err() == nil && err != nil {
			return at, err
		}
		if err == nil && behind == "" {
			return at, nil
		}
		select {
		case <-time.After(pause):
		case <-bounded.Done():
			if ctx.Err() != nil {
				return at, ctx.Err()
			}
			return at, &inconclusive{fmt.Sprintf("the sink was not at %s within %s: %s", at, w.o.Fence, behind)}
		}
	}
}

// Behind says what of a table has not taken effect at the sink up to a position of
// the source; "" if all has.
func Behind(ctx context.Context, led Ledger, id change.TableID, at change.LSN) (string, error) {
	t, err := led.Table(ctx, id)
	if err != nil {
		return "", err
	}
	switch {
	case t.State == sink.Gated:
		return "it is gated: " + t.Reason, nil
	case t.State != sink.Streaming:
		return fmt.Sprintf("it is %s", t.State), nil
	case t.Partitions == 0:
		return "it has no partitions", nil
	}
	marks, err := led.Watermarks(ctx)
	if err != nil {
		return "", err
	}
	have := map[int]change.Position{}
	for _, m := range marks {
		if m.Table == id {
			have[m.N] = m.Pos
		}
	}
	// A partition that follows progress records stops one short of a position: at the
	// highest ordinal of the LSN before it.
	need := max(at, t.LoadedTo+1)
	for n := range t.Partitions {
		// A reload raises the epoch of rows, not of the log that watermarks follow.
		pos := have[n]
		if pos.Before(change.Position{Epoch: pos.Epoch, Commit: need - 1, Ordinal: math.MaxUint32}) {
			return fmt.Sprintf("partition %d is at %s", n, pos), nil
		}
	}
	return "", nil
}

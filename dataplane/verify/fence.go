package verify

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// How often the ledger is asked while somebody waits.
const (
	firstPoll = 5 * time.Millisecond
	lastPoll  = 250 * time.Millisecond
)

// fence lets those go on whose positions a table's ledger has passed. However many
// wait, one asks.
type fence struct {
	led   Ledger
	table change.TableID
	bound time.Duration // that one may wait
	wake  chan struct{}

	mu      sync.Mutex
	waiting []*waiter
	last    standing
}

type waiter struct {
	at    change.LSN
	ended chan error
}

// pass waits until the ledger has passed a position.
func (f *fence) pass(ctx context.Context, at change.LSN) error {
	w := &waiter{at, make(chan error, 1)}
	f.mu.Lock()
	f.waiting = append(f.waiting, w)
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
	late := time.NewTimer(f.bound)
	defer late.Stop()
	select {
	case err := <-w.ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-late.C:
		f.mu.Lock()
		defer f.mu.Unlock()
		return &inconclusive{fmt.Sprintf("the sink was not at %s within %s: %s", at, f.bound, f.last.behind(at))}
	}
}

// poll asks the ledger while somebody waits, until ctx ends.
func (f *fence) poll(ctx context.Context) {
	for {
		select {
		case <-f.wake:
		case <-ctx.Done():
			return
		}
		for pause := firstPoll; ; pause = min(2*pause, lastPoll) {
			s, err := look(ctx, f.led, f.table, sink.AllTiers)
			if err == nil {
				err = s.ask(ctx, f.led, f.table, f.highest())
			}
			passed, left := f.tell(s, err)
			if left == 0 {
				break
			}
			if passed {
				pause = firstPoll
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
		}
	}
}

// highest returns the highest position that is waited for.
func (f *fence) highest() (at change.LSN) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.waiting {
		at = max(at, w.at)
	}
	return at
}

// tell ends the wait of those that need not any more.
func (f *fence) tell(s standing, err error) (passed bool, left int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	had := len(f.waiting)
	f.last = s
	f.waiting = slices.DeleteFunc(f.waiting, func(w *waiter) bool {
		if err == nil && s.behind(w.at) != "" {
			return false
		}
		w.ended <- err
		return true
	})
	return len(f.waiting) < had, len(f.waiting)
}

// standing is what a ledger says of a table at one moment.
type standing struct {
	why    string            // no position has taken effect
	loaded change.LSN        // the highest that the load saw
	marks  []change.Position // of the partitions
	ahead  []change.Position // how far they are streamed
	tier   string            // whose changes are looked at
	waits  bool              // something waits for its time
	due    change.Position
}

// look reads how far the changes of a tier, or of all tiers, have taken effect.
func look(ctx context.Context, led Ledger, id change.TableID, tier string) (s standing, err error) {
	t, err := led.Table(ctx, id)
	if err != nil {
		return s, err
	}
	switch {
	case t.State == sink.Gated:
		s.why = "it is gated: " + t.Reason
	case t.State != sink.Streaming:
		s.why = fmt.Sprintf("it is %s", t.State)
	case t.Partitions == 0:
		s.why = "it has no partitions"
	}
	if s.why != "" {
		return s, nil
	}
	marks, err := led.Watermarks(ctx)
	if err != nil {
		return s, err
	}
	s.tier, s.loaded, s.due, s.marks, s.ahead = tier, t.LoadedTo, t.DueOf(tier), make([]change.Position, t.Partitions), make([]change.Position, t.Partitions)
	for _, m := range marks {
		if m.Table == id && m.N < len(s.marks) {
			of, streamed := m.Of(tier), m.Streamed()
			s.marks[m.N], s.ahead[m.N] = of.Pos, streamed.Pos
			s.waits = s.waits || of.Offset < streamed.Offset
		}
	}
	return s, nil
}

// ask has what waits for its tier's time applied up to a position of the source, which
// would otherwise not be passed for as long as the tier's period.
func (s *standing) ask(ctx context.Context, led Ledger, id change.TableID, at change.LSN) error {
	if !s.waits {
		return nil
	}
	due := change.Position{Commit: max(at, s.loaded+1)}
	for _, pos := range s.ahead {
		due.Epoch = max(due.Epoch, pos.Epoch)
	}
	if !s.due.Before(due) {
		return nil
	}
	return led.SetDue(ctx, id, s.tier, due)
}

// behind says what has not taken effect up to a position of the source; "" if all has.
func (s *standing) behind(at change.LSN) string {
	switch {
	case s.why != "":
		return s.why
	case s.marks == nil:
		return "its ledger did not answer"
	}
	return s.below(s.marks, at)
}

// unstreamed is behind, but for what waits for its tier's time.
func (s *standing) unstreamed(at change.LSN) string {
	if s.ahead == nil {
		return s.behind(at)
	}
	return s.below(s.ahead, at)
}

func (s *standing) below(marks []change.Position, at change.LSN) string {
	// A partition that follows progress records stops one short of a position: at the
	// highest ordinal of the LSN before it.
	need := max(at, s.loaded+1)
	for n, pos := range marks {
		// A reload raises the epoch of rows, not of the log that watermarks follow.
		if pos.Before(change.Position{Epoch: pos.Epoch, Commit: need - 1, Ordinal: math.MaxUint32}) {
			return fmt.Sprintf("partition %d is at %s", n, pos)
		}
	}
	return ""
}

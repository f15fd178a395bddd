package verify

import (
	"context"
	"fmt"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// Lag tells for how long a sink has not been where the source was, but for what waits
// for its tier's time. A ledger knows
// positions, not times: positions of the source are noted with ours as they are seen,
// so that a lag is told from the first look on, and never a longer one than there is.
// It is for one goroutine.
type Lag struct {
	Source Source
	Ledger Ledger
	Table  change.TableID

	seen []sight // that the sink had not passed when it was last looked at, the oldest first
}

type sight struct {
	at   change.LSN
	then time.Time
}

// maxSights is how many positions are noted; of more, every second one is dropped.
const maxSights = 1000

// Look returns how long ago the source was at the first position that the sink has not
// passed, and how many bytes of the source's log are behind that.
func (l *Lag) Look(ctx context.Context) (age time.Duration, bytes int64, err error) {
	at, err := l.Source.Position(ctx)
	if err != nil {
		return 0, 0, err
	}
	l.seen = append(l.seen, sight{at, time.Now()})
	s, err := look(ctx, l.Ledger, l.Table, sink.AllTiers)
	if err != nil {
		return 0, 0, err
	}
	for len(l.seen) > 0 && s.unstreamed(l.seen[0].at) == "" { // what waits for its tier's time is not late
		l.seen = l.seen[1:]
	}
	if len(l.seen) > maxSights {
		kept := l.seen[:0]
		for i, x := range l.seen {
			if i%2 == 0 {
				kept = append(kept, x)
			}
		}
		l.seen = kept
	}
	if len(l.seen) == 0 {
		return 0, 0, nil
	}
	return time.Since(l.seen[0].then), int64(at - l.seen[0].at), nil
}

// Gate is an Options.Admit that waits while there is a reason to.
type Gate struct {
	Every    time.Duration // that Why is asked at most; default 1 s
	Patience time.Duration // after which the walk ends without an answer; default 10 min
	// Why returns why the walk should wait; "" if it need not.
	Why func(context.Context) (string, error)
	// Waits is told the reason while it does, and "" when it goes on; nil: nobody is.
	Waits func(why string)

	asked time.Time
}

// Admit waits until there is no reason to.
func (g *Gate) Admit(ctx context.Context) error {
	every, patience := g.Every, g.Patience
	if every <= 0 {
		every = time.Second
	}
	if patience <= 0 {
		patience = 10 * time.Minute
	}
	if time.Since(g.asked) < every {
		return nil
	}
	var since time.Time
	for {
		g.asked = time.Now()
		why, err := g.Why(ctx)
		if err != nil {
			return err
		}
		if since.IsZero() {
			since = g.asked
		}
		switch {
		case why == "" && g.Waits != nil && g.asked != since:
			g.Waits("")
			return nil
		case why == "":
			return nil
		case time.Since(since) >= patience:
			return &inconclusive{fmt.Sprintf("paused for %s: %s", patience, why)}
		}
		if g.Waits != nil {
			g.Waits(why)
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

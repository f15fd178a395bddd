package repair

import (
	"context"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// How many keys go through a step together: as many as keep the images of their rows
// below a size, as far as the portion before tells. More of one size would gain nothing
// any more, and is what memory has to hold: each row is there a few times over.
const (
	firstPortion = 500
	leastPortion = 50
	mostPortion  = 4000
	portionBytes = 4 << 20
	portions     = 3 // at a time: while one waits for the ledger, another is read
)

// portioned is how many keys the next portion has.
type portioned struct{ n int }

func (p *portioned) next() int {
	if p.n == 0 {
		p.n = firstPortion
	}
	return p.n
}

// took is told what a portion came to.
func (p *portioned) took(ks []sink.RepairKey) {
	bytes := 1
	for i := range ks {
		bytes += len(ks[i].Key) + len(ks[i].Before) + len(ks[i].After)
	}
	fit := len(ks) * portionBytes / bytes
	p.n = min(max(fit, leastPortion), mostPortion, 4*p.next())
}

// each gives the keys of the repair that are in one of the states to f, in portions,
// some at a time. f may move them to other states.
func (t *Table) each(ctx context.Context, f func(context.Context, []sink.RepairKey) error, states ...sink.RepairState) error {
	g, inner := errgroup.WithContext(ctx)
	g.SetLimit(portions)
	err := t.pages(inner, states, func(ks []sink.RepairKey) error {
		g.Go(func() error { return f(inner, ks) })
		return nil
	})
	if other := g.Wait(); other != nil {
		return other // err may be no more than that it ended the reading
	}
	return err
}

// pages gives the keys one portion after the other.
func (t *Table) pages(ctx context.Context, states []sink.RepairState, f func([]sink.RepairKey) error) error {
	return Pages(ctx, t.Ledger, t.Repair, t.ID, states, f)
}

// Pages gives the keys that a ledger has of a table under a repair, in portions; no
// states are all.
func Pages(ctx context.Context, led sink.Repairs, repair string, id change.TableID, states []sink.RepairState, f func([]sink.RepairKey) error) error {
	part, size := sink.RepairPart{States: states}, portioned{}
	for {
		part.Most = size.next()
		ks, err := led.Repair(ctx, repair, id, part)
		if err != nil || len(ks) == 0 {
			return err
		}
		size.took(ks)
		if err := f(ks); err != nil {
			return err
		}
		if len(ks) < part.Most {
			return nil
		}
		part.After = ks[len(ks)-1].Key
	}
}

// tally counts what portions do that go side by side.
type tally struct {
	t    *Table
	of   int
	done atomic.Int64
	mu   sync.Mutex // of what is told
}

func (c *tally) add(n int) {
	done := c.done.Add(int64(n))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t.told(int(done), c.of)
}

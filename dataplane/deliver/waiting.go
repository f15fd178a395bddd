package deliver

import (
	"context"
	"maps"
	"math"
	"slices"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// waiting is what waits in a partition for its tier's time.
type waiting struct {
	rules  string              // by which changes wait
	class  *classifier         // of the rules; nil: none waits
	stale  bool                // the table is declared otherwise: once nothing waits, by its new rules
	tiers  map[string]*backlog // in which something waits; under sink.AllTiers what a ledger did not tell apart
	tied   bool                // what waits builds on what waits in another tier, and is applied together
	laid   []tierRead          // of those read since this was last told
	forced bool                // they are to be applied now: the partition's next change needs it

	sweep     *sweep                // that applies some; nil if none does
	tiedSince bool                  // tied by what came to wait since the sweep began
	noted     map[change.Key]uint64 // keys of changes that did not wait, since the sweep was last told, and the streamed batch that holds the first of each
}

// backlog is what waits in one tier.
type backlog struct {
	at     sink.Backlog // before it nothing of the tier waits; its Waits and Oldest count everything
	keys   *keyFilter   // of those that wait
	since  sink.Backlog // what came since the sweep of the tier began, which it does not apply
	behind *keyFilter   // keys of these
}

// openWaiting takes in what waits in a partition according to the ledger.
func (l *lane) openWaiting(p *partition, m sink.Watermark) error {
	t, w := p.t, &p.w
	w.rules, w.tiers = l.rules(t.info.ID), map[string]*backlog{}
	// What waits is past its table's load: if it is not, the table was loaded again since,
	// and it is in the load.
	if m.Behind() && l.beyondLoad(t, m.Pos) {
		if l.o.Tiers == nil {
			return fault.Permanent(CodeTiersUnknown, nil, "give the lane the tiers by which they wait",
				"table %s: %d changes wait for their tier in partition %d", t.info.ID, m.Ahead.Waits, m.N)
		}
		w.stale, w.rules, w.tied = m.Ahead.Rules != w.rules, m.Ahead.Rules, m.Ahead.Tied
		for _, b := range m.Backlogs() {
			w.tiers[b.Tier] = &backlog{at: b, keys: &keyFilter{all: true}} // which keys, only reading them again would tell
		}
	}
	w.class = l.classifier(w.rules)
	return nil
}

// beyondLoad reports whether a position that a partition comes to is past its table's
// load.
func (l *lane) beyondLoad(t *table, at change.Position) bool {
	return at.Epoch >= l.o.Epoch && at.Commit > t.info.LoadedTo
}

// waits reports whether anything does.
func (w *waiting) waits() bool { return len(w.tiers) > 0 }

// low is the place before which nothing waits.
func (w *waiting) low() sink.Backlog {
	return slices.MinFunc(w.backlogs(), sink.Backlog.Compare)
}

// backlogs are what waits, by the tiers' names.
func (w *waiting) backlogs() []sink.Backlog {
	out := make([]sink.Backlog, 0, len(w.tiers))
	for _, tier := range slices.Sorted(maps.Keys(w.tiers)) {
		out = append(out, w.tiers[tier].at)
	}
	return out
}

// watermark is where the partition stands with what is planned.
func (p *partition) watermark() sink.Watermark { return p.w.behind(p.mark, p.w.backlogs()) }

// behind is the watermark of a partition that is streamed to a place, and in which
// something waits.
func (w *waiting) behind(streamed sink.Watermark, left []sink.Backlog) sink.Watermark {
	if len(left) == 0 {
		return streamed
	}
	m := streamed
	m.Ahead = sink.Ahead{Pos: m.Pos, Offset: m.Offset, Rules: w.rules, Tied: w.tied, Tiers: left, Oldest: left[0].Oldest}
	low := slices.MinFunc(left, sink.Backlog.Compare)
	m.Pos, m.Offset = low.Pos, low.Offset
	for _, b := range left {
		m.Ahead.Waits += b.Waits
		m.Ahead.Oldest = min(m.Ahead.Oldest, b.Oldest)
	}
	return m
}

// closing is how many records streaming may be ahead of what waits by rules that are
// no longer the table's, for it to stop until nothing waits.
const closing = 10_000

// paused reports whether streaming waits, so that new rules can be gone by.
func (p *partition) paused() bool {
	return p.w.stale && p.w.waits() && p.mark.Offset-p.w.low().Offset <= closing
}

// await lets a change that is to be written wait, if it is of a tier that does. taken:
// it waits, or (passes) it does not and may be planned.
func (l *lane) await(ctx context.Context, p *partition, rec *Record) (out outcome, passes bool, err error) {
	c, w := rec.Change, &p.w
	if !l.beyondLoad(p.t, p.before(c)) {
		return taken, true, nil
	}
	// Also of changes that wait the sink learns the definition here, in the log's order.
	s, out, err := l.known(ctx, p, c)
	if s == nil {
		return out, false, err
	}
	tier, err := w.class.tier(s, c)
	if err != nil {
		out, err = l.setback(ctx, p, "tell the tier of a change", err)
		return out, false, err
	}
	appends := appends(&p.t.info.Options, s)
	if tier != "" {
		if !appends && w.needed(c, tier) {
			w.tied, w.tiedSince = true, true
		}
		l.lay(p, rec, tier)
		w.laid = addRead(w.laid, tier, rec.Bytes)
		return taken, false, nil
	}
	if appends {
		return taken, true, nil
	}
	if w.needed(c, "") {
		l.force(p)
		return later, false, nil
	}
	if w.sweep != nil && len(w.noted) >= l.o.noted {
		return later, false, nil
	}
	return taken, true, nil
}

// needed reports whether what a change leaves out may be in one that waits, of a tier that
// is not the change's own.
func (w *waiting) needed(c *change.Change, tier string) bool {
	if !slices.ContainsFunc(c.New, isUnchanged) {
		return false
	}
	for of, b := range w.tiers {
		if (of != tier || of == sink.AllTiers) && (c.Moved != nil || b.keys.has(c.Key) || b.behind.has(c.Key)) {
			return true
		}
	}
	return false
}

func isUnchanged(v change.Value) bool { return v.Kind == change.Unchanged }

// appends reports whether rows are only added to a table.
func appends(o *sink.TableOptions, s *change.Schema) bool { return o.AppendOnly || len(s.Key) == 0 }

// before is where a partition is once all before a change's transaction is done with: what
// comes to wait is not due with that.
func (p *partition) before(c *change.Change) change.Position {
	pos := change.Position{Epoch: c.Pos.Epoch, Commit: c.Pos.Commit - 1, Ordinal: math.MaxUint32}
	if pos.Before(p.mark.Pos) {
		return p.mark.Pos
	}
	return pos
}

// lay moves a partition over a change that waits in a tier.
func (l *lane) lay(p *partition, rec *Record, tier string) {
	w, at := &p.w, rec.Change.CommitTime.UnixMicro()
	b := w.tiers[tier]
	if b == nil {
		b = &backlog{at: sink.Backlog{Tier: tier, Pos: p.before(rec.Change), Offset: p.mark.Offset, Oldest: at}, keys: &keyFilter{}}
		w.tiers[tier] = b
	}
	b.at.Waits++
	if w.sweep == nil || !w.sweep.sweeps(tier) {
		b.keys.add(rec.Change.Key)
	} else {
		if b.since.Waits == 0 {
			b.since.Oldest, b.behind = at, &keyFilter{}
		}
		b.since.Waits++
		b.behind.add(rec.Change.Key)
	}
	l.taken, l.takenBytes = l.taken+1, l.takenBytes+int64(rec.Bytes)
	l.move(p, rec)
}

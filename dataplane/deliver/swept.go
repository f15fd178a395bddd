package deliver

import (
	"context"
	"math"
	"time"

	"syncline/dataplane/apply"
	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// passed reports whether all commits below what is due are at or before a position.
func passed(pos, due change.Position) bool {
	if pos.Epoch != due.Epoch || due.Commit == 0 {
		return pos.Epoch >= due.Epoch
	}
	return !pos.Before(change.Position{Epoch: due.Epoch, Commit: due.Commit - 1, Ordinal: math.MaxUint32})
}

// due returns the tiers of which what waits in a partition is to be applied, nil of all;
// ok is false if it is none.
func (p *partition) due() (tiers map[string]bool, ok bool) {
	w := &p.w
	if !w.waits() || w.sweep != nil || p.closed || p.waiting {
		return nil, false
	}
	if w.forced || w.stale {
		return nil, true
	}
	tiers = map[string]bool{}
	for tier, b := range w.tiers {
		if due := p.t.dueOf(tier); !passed(b.at.Pos, due) && passed(p.mark.Pos, due) {
			tiers[tier] = true
		}
	}
	if _, mixed := w.tiers[sink.AllTiers]; mixed || w.tied || len(tiers) == len(w.tiers) {
		return nil, len(tiers) > 0
	}
	return tiers, len(tiers) > 0
}

// dueOf returns where what waits in a tier is to be applied up to. What is not told apart
// is due with the first tier of all.
func (t *table) dueOf(tier string) change.Position {
	due := t.info.DueOf(tier)
	if tier == sink.AllTiers {
		for _, of := range t.info.Due {
			if due.Before(of) {
				due = of
			}
		}
	}
	return due
}

// sweepDue begins sweeps that are due, those first for which changes wait.
func (l *lane) sweepDue() {
	for _, forced := range []bool{true, false} {
		for _, p := range l.parts {
			if l.sweeps >= maxSweeps {
				return
			}
			if p.w.forced != forced {
				continue
			}
			if tiers, due := p.due(); due {
				l.sweepNow(p, tiers)
			}
		}
	}
}

// force applies what waits in a partition, since its next change needs it.
func (l *lane) force(p *partition) {
	if !p.w.forced {
		p.w.forced = true
		l.sweepDue()
	}
}

// sweepNow applies what waits in some tiers, nil in all.
func (l *lane) sweepNow(p *partition, tiers map[string]bool) {
	w := &p.w
	s := &sweep{l: l, p: p, o: p.t.info.Options, tiers: tiers, lows: map[string]sink.Backlog{}, to: p.mark, at: p.mark, class: l.classifier(w.rules), defs: map[change.Version]*change.Schema{}, legs: make(chan leg, 1)}
	from := sink.Backlog{Pos: p.mark.Pos, Offset: p.mark.Offset}
	for tier, b := range w.tiers {
		s.lows[tier] = b.at
		if s.sweeps(tier) {
			b.since, b.behind = sink.Backlog{}, nil
			if b.at.Compare(from) < 0 {
				from = b.at
			}
		}
	}
	s.at.Pos, s.at.Offset = from.Pos, from.Offset
	w.sweep, w.tiedSince = s, false
	l.sweeps++
	l.onward(p)
	ctx := p.t.ctx
	l.readers.Go(func() { s.run(ctx) })
}

// onward lets a partition's sweep make its next batch.
func (l *lane) onward(p *partition) {
	w := &p.w
	g := leg{noted: w.noted, upTo: p.mark.Offset, need: l.streams}
	if !l.open.empty() {
		l.open.eager, g.need = true, l.streams+1
	}
	w.noted = map[change.Key]uint64{}
	w.sweep.legs <- g
}

// onSegment takes in a batch of a sweep.
func (l *lane) onSegment(ctx context.Context, seg *segment) error {
	p := seg.s.p
	if p.closed || ctx.Err() != nil {
		return ctx.Err()
	}
	if seg.err != nil {
		return l.onFault(ctx, readFault{p, seg.err})
	}
	if len(seg.tp.co.Rows()) > 0 {
		// The sink has met the definition before; here it may be unknown after a restart.
		err := l.retry(ctx, "evolve", func() error {
			_, err := l.holdable(ctx, p.t, seg.tp.version, seg.first)
			return err
		})
		if err != nil {
			return l.onFault(ctx, readFault{p, err})
		}
	}
	l.segments = append(l.segments, seg)
	return nil
}

// sendSwept hands a batch of a sweep to the committer, if there is one that may go.
// What was streamed since it was made, and is committed, is beyond it; what is in the
// open batch comes after it.
func (l *lane) sendSwept() bool {
	var seg *segment
	for i := 0; i < len(l.segments) && seg == nil; i++ {
		switch s := l.segments[i]; {
		case s.s.p.closed:
			l.segments = append(l.segments[:i], l.segments[i+1:]...)
			i--
		case s.need <= l.streamed:
			seg = s
			l.segments = append(l.segments[:i], l.segments[i+1:]...)
		}
	}
	if seg == nil {
		return false
	}
	p, tp := seg.s.p, seg.tp
	t, w := p.t, &p.w
	l.sent++
	pl := &plan{seq: l.sent, sealed: true, whole: true, byTable: map[change.TableID]*tablePlan{t.info.ID: tp}, tables: []*tablePlan{tp},
		parts: []*partition{p}, marks: []sink.Watermark{l.sweptMark(seg)}, changes: int(seg.n), bytes: seg.bytes, swept: seg, dead: seg.dead, traces: seg.traces}
	if tp.schema != nil {
		appends := appends(&tp.options, tp.schema)
		tp.co.Filter(func(r *sink.Row, from apply.Origin) bool {
			if first, ok := w.noted[r.Key]; ok && !appends && first <= l.streamed {
				return false
			}
			code, why, aside := t.aside(r.Key)
			if aside {
				pl.dead = append(pl.dead, letter(changeOf(tp.schema, tp.version, *r, from), from.Partition, from.Offset, code, why))
				tp.uncount(r.Op)
			}
			return !aside
		})
	}
	tp.commits = tp.commits[:0] // told by tier
	p.last, t.last, l.busy, l.sweptLast = l.sent, l.sent, pl, true
	l.jobs <- pl
	return true
}

// sweptMark is where a batch of a sweep leaves its partition. All that was handed over
// is committed.
func (l *lane) sweptMark(seg *segment) sink.Watermark {
	w, streamed := &seg.s.p.w, seg.s.p.committed.Streamed()
	var left []sink.Backlog
	for _, b := range w.backlogs() {
		more := true
		if seg.s.sweeps(b.Tier) {
			b, more = w.tiers[b.Tier].after(seg)
		}
		if more && b.Offset < streamed.Offset { // else none of it is in what is committed
			left = append(left, b)
		}
	}
	return w.behind(streamed, left)
}

// after is what waits in a tier after a batch of its sweep; nothing if more is false.
func (b *backlog) after(seg *segment) (left sink.Backlog, more bool) {
	left = b.at
	end := sink.Backlog{Pos: seg.end.Pos, Offset: seg.end.Offset}
	if left.Offset <= end.Offset {
		left.Offset = end.Offset
		if left.Pos.Before(end.Pos) {
			left.Pos = end.Pos
		}
	}
	if seg.final {
		left.Waits, left.Oldest = b.since.Waits, b.since.Oldest
		return left, b.since.Waits > 0
	}
	// Of what a ledger did not tell apart, or only counted, the end of the sweep tells.
	n, last := seg.of(left.Tier)
	left.Waits, left.Oldest = max(left.Waits-n, b.since.Waits), max(left.Oldest, last)
	return left, true
}

// of is how many changes of a tier a batch applies, and when the last of them was
// committed, Unix microseconds.
func (seg *segment) of(tier string) (n, last int64) {
	for _, run := range seg.lags[tier] {
		n, last = n+int64(run.n), max(last, run.at/1000)
	}
	return n, last
}

// sweptCommitted takes in that a batch of a sweep is in the ledger.
func (l *lane) sweptCommitted(seg *segment, visible time.Time) {
	p := seg.s.p
	w := &p.w
	for tier, b := range w.tiers {
		if !seg.s.sweeps(tier) {
			continue
		}
		// What came to wait since the batch was handed over is behind what is committed.
		left, more := b.after(seg)
		if done := p.committed.Of(tier); left.Compare(done) < 0 {
			left.Pos, left.Offset = done.Pos, done.Offset
		}
		b.at = left
		if !more {
			delete(w.tiers, tier)
		}
	}
	l.counts.Swept += seg.n
	for tier, runs := range seg.lags {
		lags(runs, visible, func(d time.Duration, n int) {
			if l.obs.Swept != nil {
				l.obs.Swept(p.id.Table, tier, d, n)
			}
		})
	}
	if p.closed {
		return
	}
	if !seg.final {
		l.onward(p)
		return
	}
	for tier, b := range w.tiers {
		if seg.s.sweeps(tier) {
			b.keys, b.since, b.behind = b.behind, sink.Backlog{}, nil
		}
	}
	if seg.s.tiers == nil {
		w.tied = w.tiedSince
	}
	w.sweep, w.noted, w.forced = nil, nil, false
	l.sweeps--
	if !w.waits() && w.stale {
		w.stale, w.rules = false, l.rules(p.id.Table)
		w.class = l.classifier(w.rules)
	}
}

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

// due reports whether what waits in a partition is to be applied.
func (p *partition) due() bool {
	w := &p.w
	if w.n == 0 || w.sweep != nil || p.closed || p.waiting {
		return false
	}
	return w.forced || w.stale || !passed(w.low.Pos, p.t.info.Due) && passed(p.mark.Pos, p.t.info.Due)
}

// sweepDue begins sweeps that are due, those first for which changes wait.
func (l *lane) sweepDue() {
	for _, forced := range []bool{true, false} {
		for _, p := range l.parts {
			if l.sweeps >= maxSweeps {
				return
			}
			if p.w.forced == forced && p.due() {
				l.sweepNow(p)
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

func (l *lane) sweepNow(p *partition) {
	w := &p.w
	s := &sweep{l: l, p: p, o: p.t.info.Options, to: p.mark, at: w.low, class: l.classifier(w.rules), defs: map[change.Version]*change.Schema{}, legs: make(chan leg, 1)}
	w.sweep, w.since, w.sinceOldest, w.sinceKeys = s, 0, 0, &keyFilter{}
	l.sweeps++
	l.onward(p)
	ctx := p.t.ctx
	l.readers.Go(func() { s.run(ctx) })
}

// onward lets a partition's sweep make its next batch.
func (l *lane) onward(p *partition) {
	w := &p.w
	g := leg{noted: w.noted, upTo: p.mark.Offset, need: l.sent}
	if !l.open.empty() {
		l.open.eager, g.need = true, l.sent+1
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
		case s.need <= l.done:
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
			if seq, ok := w.noted[r.Key]; ok && !appends && seq <= l.done {
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
	if seg.final && w.since == 0 || streamed.Offset <= seg.end.Offset {
		return streamed
	}
	m := seg.end
	m.Ahead = sink.Ahead{Pos: streamed.Pos, Offset: streamed.Offset, Rules: w.rules}
	m.Ahead.Waits, m.Ahead.Oldest = w.left(seg)
	return m
}

// left is how many changes wait after a batch of a sweep, and the oldest.
func (w *waiting) left(seg *segment) (n, oldest int64) {
	if seg.final {
		return w.since, w.sinceOldest
	}
	return max(w.n-seg.n, w.since+1), max(w.oldest, seg.last)
}

// sweptCommitted takes in that a batch of a sweep is in the ledger.
func (l *lane) sweptCommitted(seg *segment, visible time.Time) {
	p := seg.s.p
	w := &p.w
	w.low = p.committed
	w.low.Ahead = sink.Ahead{}
	w.n, w.oldest = w.left(seg)
	l.counts.Swept += seg.n
	for tier, runs := range seg.lags {
		for _, run := range runs {
			if l.obs.Swept != nil {
				l.obs.Swept(p.id.Table, tier, max(visible.Sub(time.Unix(0, run.at)), 0), run.n)
			}
		}
	}
	if p.closed {
		return
	}
	if !seg.final {
		l.onward(p)
		return
	}
	w.sweep, w.noted, w.forced, w.keys, w.sinceKeys = nil, nil, false, w.sinceKeys, nil
	l.sweeps--
	if w.n == 0 && w.stale {
		w.stale, w.rules = false, l.rules(p.id.Table)
		w.class = l.classifier(w.rules)
	}
}

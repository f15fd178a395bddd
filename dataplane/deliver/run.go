package deliver

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"syncline/dataplane/apply"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// lane is the state of a Run. Its planner goroutine owns it, except where noted.
type lane struct {
	o   Options
	log Log
	ses *session
	src Source
	obs Observer

	holds  holder
	buf    *buffer
	tables map[change.TableID]*table
	parts  []*partition // of all open tables
	next   int          // where fill goes on in parts
	drain  *partition   // wants everything committed before its next record

	open *plan   // the batch that grows
	busy *plan   // the batch that is being committed; nil if none is
	free []*plan // for reuse

	attempts   int64  // the committer's, at batches
	sent, done uint64 // sequence numbers of batches handed over, and committed
	// The same of those that are streamed: the open batch is the next of them, whichever
	// others are handed over before it.
	streams, streamed uint64
	nextIdle          time.Time
	idleAt            change.LSN // up to which idle partitions were moved
	nextStatus        time.Time
	nextParked        time.Time
	nextHolds         time.Time
	nextLazy          time.Time // when partitions that moved over waiting changes only are written

	segments  []*segment // batches of what waited, to be committed
	sweeps    int        // under way
	sweptLast bool       // the last batch was one of them

	gating map[change.TableID]string    // faulty tables whose gate is not in the ledger yet
	failed map[change.TableID]time.Time // since when opening the table or gating it fails
	left   map[change.TableID]uint64    // closed tables: the last batch that held them

	win    window
	counts Status

	taken, takenBytes int64 // records that were planned, for their mean size

	jobs    chan *plan
	results chan result
	polls   chan poll
	gates   atomic.Int64 // counts gates, so that a poll from before one is known
	faults  chan readFault
	swept   chan *segment
	readers sync.WaitGroup
}

type readFault struct {
	p   *partition
	err error
}

// Run claims a lane of a sink and delivers until ctx ends or a fault stops it.
// It always returns an error; ctx.Err() after a clean stop.
func Run(ctx context.Context, o Options, log Log, s sink.Sink, src Source, obs Observer) error {
	if err := o.validate(); err != nil {
		return err
	}
	l := &lane{
		o: o, log: log, src: src, obs: obs, holds: s,
		buf:    newBuffer(o.MaxBufferBytes),
		tables: map[change.TableID]*table{},
		gating: map[change.TableID]string{}, failed: map[change.TableID]time.Time{}, left: map[change.TableID]uint64{},
		jobs: make(chan *plan, 1), results: make(chan result, 1),
		polls: make(chan poll), faults: make(chan readFault), swept: make(chan *segment),
	}
	var claimed sink.Session
	err := l.retry(ctx, "claim lane", func() (err error) {
		claimed, err = s.Claim(ctx, o.Lane, o.Lanes)
		return err
	})
	if err != nil {
		return err
	}
	l.ses = &session{s: claimed}
	defer l.ses.close()
	l.counts.Lane, l.counts.Token = o.Lane, claimed.Token()
	l.open = l.newPlan()

	inner, cancel := context.WithCancel(ctx)
	// The committer outlives ctx for the grace period, so that a batch under way is
	// either in the ledger or not, and not in doubt.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	timer := context.AfterFunc(ctx, func() {
		t := time.NewTimer(o.Grace)
		defer t.Stop()
		select {
		case <-t.C:
			stop()
		case <-work.Done():
		}
	})
	var loops sync.WaitGroup
	loops.Go(func() { l.pollTables(inner) })
	loops.Go(func() { l.commit(ctx, work) })

	err = l.plan(inner)
	cancel()
	if ctx.Err() == nil || !isEnd(err) {
		stop() // a fault: nothing that is under way matters any more
	} else if l.busy != nil {
		r := <-l.results
		if r.err == nil {
			l.committed(r)
		}
	}
	close(l.jobs)
	loops.Wait()
	stop()
	timer()
	l.readers.Wait()
	return err
}

func isEnd(err error) bool { return err == context.Canceled || err == context.DeadlineExceeded }

// plan is the planner: it turns records into batches and hands them over.
func (l *lane) plan(ctx context.Context) error {
	ticker := time.NewTicker(l.o.tick)
	defer ticker.Stop()
	for {
		more, err := l.fill(ctx)
		if err != nil {
			return err
		}
		if l.busy == nil {
			l.sendNext()
		}
		if more {
			select { // results first: an idle committer is what costs time
			case r := <-l.results:
				if err := l.finish(r); err != nil {
					return err
				}
				continue
			case <-ctx.Done():
				return ctx.Err()
			default:
				select {
				case <-ticker.C:
					if err := l.onTick(ctx); err != nil {
						return err
					}
				case p := <-l.polls:
					if err := l.onPoll(ctx, p); err != nil {
						return err
					}
				case f := <-l.faults:
					if err := l.onFault(ctx, f); err != nil {
						return err
					}
				case s := <-l.swept:
					if err := l.onSegment(ctx, s); err != nil {
						return err
					}
				default:
				}
				continue
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r := <-l.results:
			if err := l.finish(r); err != nil {
				return err
			}
		case <-l.buf.ready:
		case <-ticker.C:
			if err := l.onTick(ctx); err != nil {
				return err
			}
		case p := <-l.polls:
			if err := l.onPoll(ctx, p); err != nil {
				return err
			}
		case f := <-l.faults:
			if err := l.onFault(ctx, f); err != nil {
				return err
			}
		case s := <-l.swept:
			if err := l.onSegment(ctx, s); err != nil {
				return err
			}
		}
	}
}

// sendNext hands over the open batch, or one of what waited: in turn, if there are both.
func (l *lane) sendNext() {
	stream := l.open.sendable(l.o.Transactional)
	if (!stream || !l.sweptLast) && l.sendSwept() {
		return
	}
	if stream {
		l.send()
	}
}

// send hands the open batch to the committer.
func (l *lane) send() {
	l.sent++
	l.streams++
	p := l.open
	p.seal(l.sent)
	for _, tp := range p.tables {
		tp.t.last = l.sent
	}
	for _, part := range p.parts {
		part.last, part.t.last, part.dirty = l.sent, l.sent, false
	}
	l.busy, l.sweptLast = p, false
	l.nextLazy = time.Now().Add(l.o.IdleMark)
	l.open = l.newPlan()
	l.jobs <- p
}

// finish takes in what became of the batch under way.
func (l *lane) finish(r result) error {
	if r.err != nil {
		return r.err
	}
	l.committed(r)
	for id, err := range r.faulty {
		if t := l.tables[id]; t != nil {
			l.gate(t, err)
		}
	}
	for id, state := range r.gone {
		if t := l.tables[id]; t != nil {
			l.shut(t, state, "left streaming while a batch was under way")
		}
	}
	l.park(r.applied.Dead)
	l.park(r.parked)
	if l.o.Tiers != nil {
		l.sweepDue()
	}
	return nil
}

// committed counts a batch and moves what the lane knows to be in the ledger.
func (l *lane) committed(r result) {
	now := time.Now()
	visible := r.at
	if l.o.SourceAhead != nil {
		visible = visible.Add(l.o.SourceAhead()) // on the source's clock
	}
	p := r.plan
	for _, d := range r.applied.Dead {
		if tp := p.byTable[d.Table]; tp != nil {
			tp.uncount(change.Update)
		}
		l.countDead(d)
	}
	l.busy, l.done = nil, p.seq
	if p.swept == nil {
		l.streamed++
	}
	for i, m := range p.parts {
		if !r.out(m.t.info.ID) {
			l.settled(m.committed, p.marks[i])
			m.committed = p.marks[i]
		}
	}
	lost := 0
	for _, tp := range p.tables {
		if r.out(tp.t.info.ID) {
			lost++
			continue
		}
		id := tp.t.info.ID
		for i, n := range tp.ops {
			if n > 0 && l.obs.Applied != nil {
				l.obs.Applied(id, opOf[i], n)
			}
			l.counts.Changes += int64(n)
		}
		l.counts.Duplicates += int64(tp.duplicates)
		l.counts.Contained += int64(tp.contained)
		if tp.duplicates > 0 && l.obs.Duplicates != nil {
			l.obs.Duplicates(id, tp.duplicates)
		}
		if tp.contained > 0 && l.obs.Contained != nil {
			l.obs.Contained(id, tp.contained)
		}
		lags(tp.commits, visible, func(d time.Duration, n int) {
			l.win.note(now, d, n)
			if l.obs.Lag != nil {
				l.obs.Lag(id, d, n)
			}
		})
	}
	for _, d := range p.dead {
		if !r.out(d.Table) {
			l.countDead(d)
		}
	}
	l.tellUsed(&r)
	if p.swept != nil && !r.out(p.parts[0].id.Table) {
		l.sweptCommitted(p.swept, visible)
	}
	if l.o.Trace != nil {
		l.traceCommitted(&r)
	}
	if l.obs.Batch != nil && lost < max(len(p.tables), 1) {
		l.obs.Batch(r.rows, int(r.applied.Bytes), r.took)
	}
	if p.swept != nil {
		return
	}
	p.recycle()
	l.free = append(l.free, p)
}

// settled tells of records that are done with.
func (l *lane) settled(was, is sink.Watermark) {
	if from := max(was.Offset, 0); is.Offset > from && l.obs.Moved != nil {
		l.obs.Moved(is.Partition, from, is.Offset, is.Pos)
	}
}

func (l *lane) countDead(d sink.DeadLetter) {
	if d.Code == sink.CodeQuarantined { // it waits for a repair, and for nobody else
		l.counts.Quarantined++
		return
	}
	l.counts.Dead++
	if l.obs.Dead != nil {
		l.obs.Dead(d.Table, d.Code, 1)
	}
}

// park sets later changes of keys whose rows the sink set aside behind them,
// those in the open batch first.
func (l *lane) park(dead []sink.DeadLetter) {
	for _, d := range dead {
		t := l.tables[d.Table]
		if t == nil || d.Key == "" {
			continue
		}
		if t.parked == nil {
			t.parked = map[change.Key]struct{}{}
		}
		t.parked[d.Key] = struct{}{}
		if tp := l.open.byTable[d.Table]; tp != nil {
			if row, from, ok := tp.co.Take(d.Key); ok {
				c := changeOf(tp.schema, tp.version, row, from)
				l.open.dead = append(l.open.dead, letter(c, from.Partition, from.Offset, sink.CodeParkedBehind, behind))
				tp.uncount(row.Op)
			}
		}
	}
}

// onTick does what is due by time.
func (l *lane) onTick(ctx context.Context) error {
	now := time.Now()
	if pr, ok := l.log.Progress(); ok {
		due := l.nextIdle
		if pr.Through > l.idleAt && l.busy == nil && !l.open.eager && l.buf.empty() {
			due = due.Add(-l.o.IdleMark * 3 / 4) // nothing else to do, and somebody may be waiting for the position
		}
		if !now.Before(due) && !l.open.sealed && (!l.o.Transactional || l.open.whole) {
			l.nextIdle, l.idleAt = now.Add(l.o.IdleMark), pr.Through
			l.markIdle(pr)
		}
	}
	if err := l.settleGates(ctx); err != nil {
		return err
	}
	if !now.Before(l.nextLazy) && !l.open.empty() {
		l.open.eager = true
	}
	if l.o.Tiers != nil {
		l.sweepDue()
	}
	if !now.Before(l.nextParked) && l.busy == nil && !l.open.eager {
		l.nextParked = now.Add(5 * time.Second)
		if err := l.reloadParked(ctx); err != nil {
			return err
		}
	}
	if !now.Before(l.nextHolds) {
		l.nextHolds = now.Add(5 * time.Second)
		for _, t := range l.tables {
			if len(t.held) > 0 && l.lapsed(ctx, t) {
				l.shut(t, sink.Streaming, "a repair came to no end") // opening it again lets the keys go
			}
		}
	}
	if !now.Before(l.nextStatus) && l.obs.Status != nil {
		l.nextStatus = now.Add(time.Second)
		l.obs.Status(l.status(now))
	}
	return nil
}

// again tells that a step failed and will be tried again.
func (l *lane) again(what string, err error, wait time.Duration) {
	l.o.Trace.Retry(what, err)
	if l.obs.Retry != nil {
		l.obs.Retry(what, err, wait)
	}
}

// retry calls f until it succeeds, fails for good, or has failed for RetryFor.
func (l *lane) retry(ctx context.Context, what string, f func() error) error {
	began := time.Now()
	for wait := l.o.pause; ; wait = min(2*wait, 2*time.Second) {
		err := f()
		if err == nil || ctx.Err() != nil || !fault.Retryable(err) || time.Since(began)+wait > l.o.RetryFor {
			return err
		}
		l.again(what, err, wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}

// load is consulted only while a partition is not past it.
func (p *partition) load() *apply.Load {
	if p.past {
		return nil
	}
	if p.t.load.Over(p.mark.Pos) {
		p.past = true
		return nil
	}
	return p.t.load
}

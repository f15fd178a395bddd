package deliver

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"syncline/dataplane/apply"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// table is a table that the lane delivers.
type table struct {
	info     sink.Table
	load     *apply.Load
	parked   map[change.Key]struct{}           // by dead letters
	held     map[change.Key]struct{}           // by repairs
	versions map[change.Version]*change.Schema // that the sink can hold
	placed   map[change.Key]int                // chunks of keys, by Source
	asked    map[change.Version]*question      // to the source, about new columns
	parts    []*partition
	last     uint64 // the last batch that holds something of it
	ctx      context.Context
	stop     context.CancelFunc
}

// partition is one that the lane delivers.
type partition struct {
	id        sink.Partition
	t         *table
	q         *queue
	mark      sink.Watermark // to which it is streamed, with what is planned
	committed sink.Watermark // in the ledger
	past      bool           // beyond the table's load
	dirty     bool           // the open batch moves it
	last      uint64         // the last batch that moves it
	waiting   bool           // at a TRUNCATE
	closed    bool
	retryAt   time.Time
	failing   time.Time // since when its next record fails; zero if it does not
	pause     time.Duration
	lag       atomic.Int64 // records in the log beyond those read
	w         waiting      // for its tier's time
}

// poll is what a look at the ledger found.
type poll struct {
	tables []sink.Table
	gates  int64
	err    error
}

// pollTables reads the tables' states, at once and then steadily.
func (l *lane) pollTables(ctx context.Context) {
	ticker := time.NewTicker(l.o.PollTables)
	defer ticker.Stop()
	for {
		gates := l.gates.Load()
		ts, err := l.ses.tables(ctx)
		select {
		case l.polls <- poll{ts, gates, err}:
		case <-ctx.Done():
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// onPoll opens tables that came to streaming and closes those that left it.
func (l *lane) onPoll(ctx context.Context, p poll) error {
	if p.err != nil {
		return l.failure(ctx, change.TableID{}, "read table states", p.err)
	}
	delete(l.failed, change.TableID{})
	if p.gates != l.gates.Load() {
		return nil // from before a gate that we set: the next one knows of it
	}
	now := map[change.TableID]bool{}
	for _, info := range p.tables {
		if info.State != sink.Streaming {
			continue
		}
		now[info.ID] = true
		t := l.tables[info.ID]
		if t != nil && t.info.Epoch == info.Epoch && t.info.Holds != info.Holds {
			// At the next poll it is opened with what is held then.
			l.shut(t, sink.Streaming, "a repair holds keys of it, or lets them go")
			continue
		}
		if t != nil && t.info.Epoch == info.Epoch {
			t.info.Options, t.info.LoadedTo, t.info.Partitions, t.info.Due = info.Options, info.LoadedTo, info.Partitions, info.Due
			continue
		}
		if t != nil {
			l.shut(t, sink.Loading, "was loaded again")
		}
		if err := l.openTable(ctx, info); err != nil {
			if err := l.failure(ctx, info.ID, "open table", err); err != nil {
				return err
			}
			continue
		}
		delete(l.failed, info.ID)
	}
	for id, t := range l.tables {
		if now[id] {
			continue
		}
		state, reason := sink.Removed, ""
		if i := slices.IndexFunc(p.tables, func(t sink.Table) bool { return t.ID == id }); i >= 0 {
			state, reason = p.tables[i].State, p.tables[i].Reason
		}
		l.shut(t, state, reason)
	}
	if l.o.Tiers != nil {
		l.sweepDue()
	}
	return nil
}

// failure judges a failed look at the ledger: transient ones are tried again at
// the next poll, within RetryFor.
func (l *lane) failure(ctx context.Context, id change.TableID, what string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !fault.Retryable(err) {
		if id != (change.TableID{}) && concernsTable(err) {
			l.gateID(id, err)
			return nil
		}
		return err
	}
	if l.failed[id].IsZero() {
		l.failed[id] = time.Now()
	}
	if time.Since(l.failed[id]) > l.o.RetryFor {
		return err
	}
	l.again(what, err, l.o.PollTables)
	return nil
}

// openTable starts reading the lane's partitions of a table.
func (l *lane) openTable(ctx context.Context, info sink.Table) error {
	if _, ok := l.gating[info.ID]; ok {
		return nil
	}
	if l.left[info.ID] > l.done || l.open.byTable[info.ID] != nil || slices.ContainsFunc(l.open.parts, func(p *partition) bool { return p.id.Table == info.ID }) {
		return nil // what was planned for it is not in the ledger yet: at the next poll
	}
	var ids []sink.Partition
	for n := l.o.Lane; n < info.Partitions; n += l.o.Lanes {
		ids = append(ids, sink.Partition{Table: info.ID, N: n})
	}
	if len(ids) == 0 {
		return nil
	}
	marks, err := l.ses.watermarks(ctx, ids)
	if err != nil {
		return err
	}
	t := &table{info: info, versions: map[change.Version]*change.Schema{}, asked: map[change.Version]*question{}}
	if info.Schema != nil {
		t.versions[info.Schema.Version()] = info.Schema
	}
	if err := l.settleHolds(ctx, t); err != nil {
		if fault.Is(err, sink.CodeNotStreaming) {
			return nil // it is not what it was: at the next poll
		}
		return err
	}
	keys, err := l.ses.parked(ctx, info.ID)
	if err != nil {
		return err
	}
	t.parked = keySet(keys)
	past := true
	for _, id := range ids {
		m := sink.Watermark{Partition: id, Offset: -1}
		if i := slices.IndexFunc(marks, func(m sink.Watermark) bool { return m.Partition == id }); i >= 0 {
			m = marks[i]
		}
		p := &partition{id: id, t: t, q: &queue{b: l.buf}, mark: m.Streamed(), committed: m}
		p.past = l.beyondLoad(t, p.mark.Pos)
		if err := l.openWaiting(p, m); err != nil {
			return err
		}
		past = past && p.past
		t.parts = append(t.parts, p)
	}
	if !past {
		chunks, err := l.ses.chunks(ctx, info.ID)
		if err != nil {
			return err
		}
		t.load = apply.NewLoad(l.o.Epoch, chunks)
	}
	inner, stop := context.WithCancel(ctx)
	t.ctx, t.stop = inner, stop
	l.tables[info.ID] = t
	l.parts = append(l.parts, t.parts...)
	for _, p := range t.parts {
		from := p.mark.Offset
		l.readers.Go(func() { l.read(inner, p, from) })
	}
	if l.obs.Opened != nil {
		l.obs.Opened(info.ID, info.LoadedTo)
	}
	return nil
}

// shut stops reading a table. What is planned of it stays planned.
func (l *lane) shut(t *table, state sink.State, reason string) {
	if l.tables[t.info.ID] != t {
		return
	}
	delete(l.tables, t.info.ID)
	l.left[t.info.ID] = t.last
	t.stop()
	for _, p := range t.parts {
		p.closed = true
		p.q.close()
		if p.w.sweep != nil {
			l.sweeps--
		}
	}
	l.parts = slices.DeleteFunc(l.parts, func(p *partition) bool { return p.t == t })
	if l.drain != nil && l.drain.t == t {
		l.drain = nil
	}
	l.open.eager = !l.open.empty() // it is not opened again before this is written
	if l.obs.Closed != nil {
		l.obs.Closed(t.info, state, reason)
	}
}

// read feeds a partition's queue from an offset on, until ctx ends or a fault
// does not pass.
func (l *lane) read(ctx context.Context, p *partition, offset int64) {
	var since time.Time
	pause := l.o.pause
	for {
		err := l.readFrom(ctx, p, &offset, func() { since, pause = time.Time{}, l.o.pause })
		if ctx.Err() != nil {
			return
		}
		if since.IsZero() {
			since = time.Now()
		}
		if !fault.Retryable(err) || time.Since(since) > l.o.RetryFor {
			select {
			case l.faults <- readFault{p, err}:
			case <-ctx.Done():
			}
			return
		}
		l.again("read partition", err, pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, 2*time.Second)
	}
}

func (l *lane) readFrom(ctx context.Context, p *partition, offset *int64, ok func()) (err error) {
	r, err := l.log.Open(ctx, p.id, *offset)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		recs, err := r.Read(ctx, l.o.ReadMax)
		if err != nil {
			return err
		}
		if len(recs) == 0 {
			continue
		}
		ok()
		if l.o.Trace != nil {
			stamp(recs)
		}
		p.lag.Store(r.Lag())
		next := recs[len(recs)-1].Next
		if err := p.q.push(ctx, recs); err != nil {
			return err
		}
		*offset = next
	}
}

// onFault takes in that a partition cannot be read.
func (l *lane) onFault(ctx context.Context, f readFault) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if f.p.closed {
		return nil
	}
	if !fault.Retryable(f.err) && concernsTable(f.err) {
		l.gate(f.p.t, f.err)
		return nil
	}
	return f.err
}

// setback judges a fault at a partition's next record: the partition waits, its
// table is gated, or the lane ends.
func (l *lane) setback(ctx context.Context, p *partition, what string, err error) (outcome, error) {
	if ctx.Err() != nil {
		return later, ctx.Err()
	}
	if !fault.Retryable(err) {
		if !concernsTable(err) {
			return later, err
		}
		l.gate(p.t, err)
		return closed, nil
	}
	now := time.Now()
	if p.failing.IsZero() {
		p.failing, p.pause = now, l.o.pause
	}
	if now.Sub(p.failing) > l.o.RetryFor {
		return later, err
	}
	p.pause = min(2*p.pause, 2*time.Second)
	p.retryAt = now.Add(p.pause)
	l.again(what, err, p.pause)
	return later, nil
}

// concernsTable reports whether a permanent fault, met while doing something for
// one table, says nothing about the others.
func concernsTable(err error) bool {
	switch fault.CodeOf(err) {
	case "", sink.CodeFenced, sink.CodeAuth, sink.CodeUnreachable, CodeTiersUnknown,
		"SinkConfig", "SinkReadOnly", "LedgerNewer", "KafkaRefused": // of the packages behind the interfaces
		return false
	}
	return !errors.Is(err, context.Canceled)
}

// gate takes a table out of delivery: here at once, in the ledger as soon as it can be.
func (l *lane) gate(t *table, err error) {
	l.shut(t, sink.Gated, err.Error())
	l.gateID(t.info.ID, err)
}

func (l *lane) gateID(id change.TableID, err error) {
	if _, ok := l.gating[id]; !ok {
		l.gating[id] = err.Error()
	}
}

// settleGates writes gates to the ledger.
func (l *lane) settleGates(ctx context.Context) error {
	for id, reason := range l.gating {
		if l.left[id] > l.done || l.open.byTable[id] != nil {
			continue // first commit what came before the fault
		}
		if err := l.ses.gate(ctx, id, reason); err != nil {
			if !fault.Retryable(err) || ctx.Err() != nil {
				return err
			}
			if l.failed[id].IsZero() {
				l.failed[id] = time.Now()
			}
			if time.Since(l.failed[id]) > l.o.RetryFor {
				return err
			}
			continue
		}
		l.gates.Add(1)
		delete(l.gating, id)
		delete(l.failed, id)
	}
	return nil
}

// reloadParked looks whether an operator settled dead letters. Nothing may be
// under way meanwhile, or later changes of a key could pass its dead letters.
func (l *lane) reloadParked(ctx context.Context) error {
	for id, t := range l.tables {
		if len(t.parked) == 0 {
			continue
		}
		keys, err := l.ses.parked(ctx, id)
		if err != nil {
			if !fault.Retryable(err) {
				return err
			}
			continue // the keys stay parked until the ledger answers
		}
		t.parked = keySet(keys)
	}
	return nil
}

func keySet(keys []change.Key) map[change.Key]struct{} {
	if len(keys) == 0 {
		return nil
	}
	m := make(map[change.Key]struct{}, len(keys))
	for _, k := range keys {
		m[k] = struct{}{}
	}
	return m
}

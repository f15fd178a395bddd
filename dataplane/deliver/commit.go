package deliver

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// result is what became of a batch.
type result struct {
	plan    *plan
	applied sink.Applied
	rows    int
	began   time.Time
	took    time.Duration
	at      time.Time                     // when the sink had answered
	parked  []sink.DeadLetter             // keys that have dead letters, where the sink's answer was lost
	gone    map[change.TableID]sink.State // tables that left streaming: nothing of them was applied
	faulty  map[change.TableID]error      // tables that the sink refuses for good
	err     error
}

// out reports whether a table's part was not applied.
func (r *result) out(id change.TableID) bool {
	_, gone := r.gone[id]
	return gone || r.faulty[id] != nil
}

// commit is the committer: it applies one batch after the other. ctx is the
// lane's; work outlives it by the grace period.
func (l *lane) commit(ctx, work context.Context) {
	for p := range l.jobs {
		r := result{plan: p, began: time.Now(), gone: map[change.TableID]sink.State{}, faulty: map[change.TableID]error{}}
		r.err = l.applyAll(ctx, work, p, &r)
		r.at = time.Now()
		r.took = r.at.Sub(r.began)
		if l.o.Trace != nil && ctx.Err() == nil {
			l.traceFailed(&r)
		}
		l.results <- r
	}
}

// applyAll applies a batch; if the sink refuses it for good, table by table.
func (l *lane) applyAll(ctx, work context.Context, p *plan, r *result) error {
	err := l.applyWithout(ctx, work, p, r, func(id change.TableID) bool { return r.out(id) })
	if err == nil || fault.Retryable(err) || ctx.Err() != nil || !concernsTable(err) {
		return err
	}
	ids := map[change.TableID]bool{}
	for _, part := range p.parts {
		if !r.out(part.id.Table) {
			ids[part.id.Table] = true
		}
	}
	// Whole transactions cannot do without one of their tables.
	if l.o.Transactional && len(ids) > 1 {
		return err
	}
	failed := map[change.TableID]error{}
	for id := range ids {
		err := l.applyWithout(ctx, work, p, r, func(other change.TableID) bool { return other != id || r.out(id) })
		if err == nil {
			continue
		}
		if fault.Retryable(err) || !concernsTable(err) {
			return err
		}
		failed[id] = err
	}
	// When every one of several tables fails in the same way, it is not the tables.
	if len(failed) == len(ids) && len(ids) > 1 {
		same := true
		for _, e := range failed {
			same = same && fault.CodeOf(e) == fault.CodeOf(err)
		}
		if same {
			return err
		}
	}
	maps.Copy(r.faulty, failed)
	return nil
}

// applyWithout applies the batch without some tables, retrying what may pass.
func (l *lane) applyWithout(ctx, work context.Context, p *plan, r *result, without func(change.TableID) bool) error {
	began := time.Now()
	doubt := false // an attempt failed, and may have been committed all the same
	for wait := l.o.pause; ; wait = min(2*wait, 2*time.Second) {
		l.attempts++
		b := p.batch(without, l.ses.token(), l.attempts)
		if len(b.Marks) == 0 {
			return nil
		}
		tried := time.Now()
		var applied sink.Applied
		var parked []sink.DeadLetter
		var err error
		committed := false
		if doubt {
			if committed, parked, err = l.inLedger(work, b); err == nil && !committed {
				// A table that was removed, gated or reset meanwhile makes a batch fail.
				var n int
				if n, err = l.dropped(work, p, r); n > 0 {
					doubt = false
					continue
				}
			}
		}
		if err == nil {
			doubt = false
			if !committed {
				applied, err = l.ses.apply(work, b)
				doubt = err != nil
			}
		}
		if err == nil {
			for i, t := range b.Tables {
				r.rows += len(t.Rows)
				if l.obs.Used == nil {
					continue
				}
				used := &p.byTable[t.Schema.Table].used
				for ri := range t.Rows {
					used.Text += int64(textBytes(&t.Rows[ri]))
				}
				if len(applied.Tables) == len(b.Tables) {
					used.Sent += applied.Tables[i]
				}
			}
			r.applied.Written += applied.Written
			r.applied.Deleted += applied.Deleted
			r.applied.Bytes += applied.Bytes
			r.applied.Dead = append(r.applied.Dead, applied.Dead...)
			r.parked = append(r.parked, parked...)
			return nil
		}
		if fault.Is(err, sink.CodeFenced) || fault.Is(err, sink.CodeSessionLost) || ctx.Err() != nil {
			return err
		}
		if !fault.Retryable(err) {
			n, derr := l.dropped(work, p, r)
			switch {
			case n > 0:
				doubt = false // the sink refused: nothing of the batch was committed
				continue
			case derr != nil:
				err = errors.Join(derr, err)
			case !fault.Is(err, sink.CodeNotStreaming): // else its state came back meanwhile
				return err
			}
		}
		if time.Since(began)+wait > l.o.RetryFor {
			return err
		}
		if l.o.Trace != nil {
			l.traceBatch(p, tried, err)
		}
		if l.obs.Retry != nil {
			l.obs.Retry("apply batch", err, wait)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}

// inLedger reports whether a batch whose outcome is in doubt was committed after
// all, as a connection that breaks during the commit leaves it: applying it again
// would append the rows of append-only tables twice. The sink's answer is lost,
// so all keys with dead letters of the batch's tables are returned in its place.
func (l *lane) inLedger(ctx context.Context, b *sink.Batch) (bool, []sink.DeadLetter, error) {
	ids := make([]sink.Partition, len(b.Marks))
	want := make(map[sink.Partition]sink.Watermark, len(b.Marks))
	for i, m := range b.Marks {
		ids[i], want[m.Partition] = m.Partition, m
	}
	have, err := l.ses.watermarks(ctx, ids)
	if err != nil {
		return false, nil, err
	}
	// One of its watermarks is enough: they are committed as one, and a table that
	// was removed meanwhile has none.
	if !slices.ContainsFunc(have, func(m sink.Watermark) bool { return want[m.Partition].Equal(m) }) {
		return false, nil, nil
	}
	var parked []sink.DeadLetter
	for _, t := range b.Tables {
		keys, err := l.ses.parked(ctx, t.Schema.Table)
		if err != nil {
			return false, nil, err
		}
		for _, k := range keys {
			parked = append(parked, sink.DeadLetter{Partition: sink.Partition{Table: t.Schema.Table}, Key: k})
		}
	}
	return true, parked, nil
}

// dropped notes the tables of a batch that are no longer as they were when it
// was planned, and returns how many there are.
func (l *lane) dropped(ctx context.Context, p *plan, r *result) (int, error) {
	tables, err := l.ses.tables(ctx)
	if err != nil {
		return 0, err
	}
	states := make(map[change.TableID]sink.Table, len(tables))
	for _, t := range tables {
		states[t.ID] = t
	}
	n := 0
	for _, part := range p.parts {
		id := part.id.Table
		if r.out(id) {
			continue
		}
		now, ok := states[id]
		switch {
		case !ok:
			r.gone[id] = sink.Removed
		case now.State != sink.Streaming:
			r.gone[id] = now.State
		case now.Epoch != part.t.info.Epoch:
			r.gone[id] = sink.Loading
		case now.Holds != part.t.info.Holds:
			r.gone[id] = sink.Streaming // but keys of it are held, or were let go
		default:
			continue
		}
		n++
	}
	return n, nil
}

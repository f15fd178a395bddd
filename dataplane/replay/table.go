package replay

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// Conditions of a rebuild.
const (
	// CodeTableExists: the table to rebuild into is there, and is of no replay.
	CodeTableExists fault.Code = "ReplayTableExists"
	// CodeStopped: delivery of the rebuilt table was gated.
	CodeStopped fault.Code = "ReplayStopped"
	// CodeExpired: the log no longer goes back as far.
	CodeExpired fault.Code = "ReplayExpired"
)

// Rebuild says what to rebuild into a table of its own, and from which part of the log.
type Rebuild struct {
	// Table is the table as the live sink has it, but with the new table's name in its
	// options.
	Table sink.Table
	Since change.Position // changes at or before it are left out; normally of the epoch at least, since loads hold what is older
	Until change.Position // changes after it are left out
	From  []int64         // where to begin, by partition, as the index tells of Since; nil: the log's beginning
	End   []int64         // where all changes up to Until lie below, by partition
	Wait  time.Duration   // how long an end that holds no whole change is waited for; default 1 s
}

// Cut returns the last position that all partitions of a sink's table have come
// to, and the offsets below which everything up to there lies.
func Cut(id change.TableID, marks []sink.Watermark) (until change.Position, end []int64) {
	first := true
	for _, m := range marks {
		if m.Table != id {
			continue
		}
		if first || m.Pos.Before(until) {
			until, first = m.Pos, false
		}
		for len(end) <= m.N {
			end = append(end, 0)
		}
		end[m.N] = max(m.Offset, 0)
	}
	return until, end
}

// Rebuilt is what a rebuild did.
type Rebuilt struct {
	Changes int64 // took effect
	Dead    int64 // set aside, mostly for values that only rows from before the window have
	First   []int64
}

// errEnd ends delivery.
var errEnd = errors.New("the end of the window")

// Run rebuilds the table: it delivers the part of the log as live changes are
// delivered, so that order, new columns, TRUNCATE and rows that the sink refuses
// mean the same. s has a ledger of its own, under another pipeline's name, and may
// have been begun by an earlier attempt, on which this one goes on. o and src are
// those of live delivery; the lane is the only one.
func (b Rebuild) Run(ctx context.Context, log Log, s sink.Sink, src deliver.Source, o deliver.Options, obs deliver.Observer) (out Rebuilt, err error) {
	if n := b.Table.Partitions; n < 1 || len(b.End) != n || b.From != nil && len(b.From) != n {
		return out, fault.Permanent(CodeBadRequest, nil, "give an offset for each partition of the table's topic",
			"table %s has %d partitions; there are %d ends and %d beginnings", b.Table.ID, n, len(b.End), len(b.From))
	}
	if b.Wait <= 0 {
		b.Wait = time.Second
	}
	if err := b.begin(ctx, log, s, &out); err != nil {
		return out, err
	}
	w := &window{log: log, since: b.Since, until: b.Until, ends: b.End, wait: b.Wait, tails: map[sink.Partition]int64{}}
	o.Lane, o.Lanes, o.Transactional = 0, 1, false
	applied, dead := obs.Applied, obs.Dead
	obs.Applied = func(t change.TableID, op change.Op, n int) {
		out.Changes += int64(n)
		if applied != nil {
			applied(t, op, n)
		}
	}
	obs.Dead = func(t change.TableID, code fault.Code, n int) {
		out.Dead += int64(n)
		if dead != nil {
			dead(t, code, n)
		}
	}
	inner, stop := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { b.watch(inner, s, w.end(), stop) })
	err = deliver.Run(inner, o, w, s, src, obs)
	stop(err)
	watching.Wait()
	if cause := context.Cause(inner); ctx.Err() == nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	if errors.Is(err, errEnd) {
		err = nil
	}
	return out, err
}

// begin makes the table, and a ledger that says from where it is delivered.
func (b *Rebuild) begin(ctx context.Context, log Log, s sink.Sink, out *Rebuilt) error {
	if err := s.Init(ctx); err != nil {
		return err
	}
	known, err := s.Tables(ctx)
	if err != nil {
		return err
	}
	begun := slices.ContainsFunc(known, func(t sink.Table) bool { return t.ID == b.Table.ID && t.State != sink.Removed })
	first := b.Table.Schema
	var lowest change.Position
	ranges := make([]sink.LogRange, b.Table.Partitions)
	for n := range ranges {
		p := sink.Partition{Table: b.Table.ID, N: n}
		at, end, err := log.Range(ctx, p)
		if err != nil {
			return err
		}
		if b.From != nil {
			if b.From[n] < at {
				return fault.Permanent(CodeExpired, nil, "name a later place to begin, or give the topics a longer retention for the next time",
					"%s: partition %d begins at offset %d, and the place is at %d", b.Table.ID, n, at, b.From[n])
			}
			at = b.From[n]
		}
		if end < b.End[n] {
			return fault.Permanent(deliver.CodeOffsetGone, nil, "find out who deleted the topic", "%s: partition %d ends at offset %d, before %d", b.Table.ID, n, end, b.End[n])
		}
		ranges[n] = sink.LogRange{From: at, End: end}
		out.First = append(out.First, at)
		if begun {
			continue
		}
		// The table begins with the definition that the first change has: what is added
		// later gets the values that rows have which are there by then.
		c, err := b.peek(ctx, log, p, at)
		if err != nil {
			return err
		}
		if c != nil && c.Op != change.Truncate && (lowest.IsZero() || c.Pos.Before(lowest)) {
			if first, err = log.Schema(ctx, c.Schema); err != nil {
				return err
			}
			lowest = c.Pos
		}
	}
	t := b.Table
	if !begun {
		t = sink.Table{ID: t.ID, Partitions: t.Partitions, Epoch: 1, Schema: first, Options: t.Options}
		t.Options.Existing = sink.Refuse
		found, err := s.Check(ctx, t.Schema, t.Options)
		if err != nil {
			return err
		}
		if found.Exists {
			return fault.Permanent(CodeTableExists, nil, "name a table that is not there, or drop it", "%s is to be rebuilt into a table that exists", t.ID)
		}
		if err := s.AddTable(ctx, t); err != nil {
			return err
		}
	}
	if err := s.BeginLog(ctx, t.ID, ranges, false); err != nil {
		return err
	}
	if _, err := s.PlanChunks(ctx, t.ID, []sink.Chunk{}); err != nil {
		return err
	}
	return s.FinishLoad(ctx, t.ID)
}

// peek returns the first change of the window in a partition that has a
// definition; nil if there is none.
func (b *Rebuild) peek(ctx context.Context, log Log, p sink.Partition, at int64) (*change.Change, error) {
	if at >= b.End[p.N] {
		return nil, nil
	}
	w := &window{log: log, since: b.Since, until: b.Until, ends: b.End, wait: b.Wait, tails: map[sink.Partition]int64{}}
	r, err := w.Open(ctx, p, at)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	for {
		recs, err := r.(*windowReader).some(ctx, 64)
		if err != nil || len(recs) == 0 {
			return nil, err
		}
		for _, rec := range recs {
			if rec.Change.Op != change.Truncate && !rec.Withheld {
				return rec.Change, nil
			}
		}
	}
}

// maxDeleted is how many deleted keys are in memory.
const maxDeleted = 1 << 20

// Deleted reads the window once more and tells of which keys it says that they have no
// row: those whose last change is a deletion and, in a partition that was truncated, all
// that nothing came of since. ok is false if there are too many to tell.
func (b *Rebuild) Deleted(ctx context.Context, log Log) (deleted func(change.Key) bool, ok bool, err error) {
	w := &window{log: log, since: b.Since, until: b.Until, ends: b.End, wait: b.Wait, tails: map[sink.Partition]int64{}}
	if w.wait <= 0 {
		w.wait = time.Second
	}
	gone := make([]map[change.Key]struct{}, b.Table.Partitions)
	truncated := make([]bool, b.Table.Partitions)
	count := 0
	read := func(n int) error {
		gone[n] = map[change.Key]struct{}{}
		p := sink.Partition{Table: b.Table.ID, N: n}
		at, _, err := log.Range(ctx, p)
		if err != nil {
			return err
		}
		if b.From != nil {
			at = max(at, b.From[n])
		}
		r, err := w.Open(ctx, p, at)
		if err != nil {
			return err
		}
		defer func() { _ = r.Close() }()
		var last change.Position // what is not beyond it is a repetition
		for {
			recs, err := r.(*windowReader).some(ctx, 1024)
			if err != nil || len(recs) == 0 {
				return err
			}
			for _, rec := range recs {
				c := rec.Change
				if !last.Before(c.Pos) {
					continue
				}
				last = c.Pos
				if rec.Withheld {
					continue
				}
				switch c.Op {
				case change.Truncate:
					truncated[n] = true
					gone[n] = map[change.Key]struct{}{}
				case change.Delete:
					gone[n][c.Key] = struct{}{}
					count++
				default:
					delete(gone[n], c.Key)
				}
			}
			if count > maxDeleted {
				return nil
			}
		}
	}
	for n := range gone {
		if err := read(n); err != nil || count > maxDeleted {
			return nil, false, err
		}
	}
	return func(k change.Key) bool {
		n := k.Partition(len(gone))
		_, is := gone[n][k]
		return is || truncated[n]
	}, true, nil
}

// watch ends delivery when all watermarks are at the end, or the table is gated.
func (b *Rebuild) watch(ctx context.Context, s sink.Sink, end change.Position, stop context.CancelCauseFunc) {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		t, err := s.Table(ctx, b.Table.ID)
		if err != nil {
			continue // delivery, which looks too, judges it
		}
		if t.State == sink.Gated {
			stop(fault.Permanent(CodeStopped, nil, "begin after the change of the definition, or end before it", "table %s: %s", t.ID, t.Reason))
			return
		}
		marks, err := s.Watermarks(ctx)
		if err != nil {
			continue
		}
		there := 0
		for _, m := range marks {
			if m.Table == b.Table.ID && !m.Pos.Before(end) {
				there++
			}
		}
		if there == b.Table.Partitions {
			stop(errEnd)
			return
		}
	}
}

// Forget removes what Run left: the ledger's entries, and with drop the table.
func (b Rebuild) Forget(ctx context.Context, s sink.Sink, drop bool) error {
	if drop {
		known, err := s.Tables(ctx)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(known, func(t sink.Table) bool { return t.ID == b.Table.ID && t.State != sink.Removed }) {
			if err := s.RemoveTable(ctx, b.Table.ID, true); err != nil {
				return err
			}
		}
	}
	return s.Forget(ctx)
}

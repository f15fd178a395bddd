package deliver

import (
	"context"
	"errors"
	"slices"

	"syncline/dataplane/apply"
	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// holder is what a lane asks of a sink about keys under repair.
type holder interface {
	Holds(ctx context.Context, table change.TableID) ([]sink.Hold, error)
	Lapsed(ctx context.Context, table change.TableID) ([]change.Key, error)
	Letters(ctx context.Context, table change.TableID, keys []change.Key) ([]sink.DeadLetter, error)
}

// How many keys are let go in one batch: of those whose changes were set aside, which
// are then in memory, and of the others.
const (
	releaseKeys  = 500
	releasePlain = 5000
)

// settleHolds learns which keys of a table are held, and lets go those of the lane
// that are to be: what was set aside of them is applied, in order, before the lane
// reads on. It is called while nothing of the table is under way.
func (l *lane) settleHolds(ctx context.Context, t *table) error {
	t.held = nil
	if t.info.Holds == 0 {
		return nil // none ever was
	}
	holds, err := l.holds.Holds(ctx, t.info.ID)
	if err != nil {
		return err
	}
	var due []sink.Hold
	for _, h := range holds {
		switch {
		case !l.owns(t, h.Key):
		case h.State == sink.Releasing || h.Lapsed:
			due = append(due, h)
		default:
			if t.held == nil {
				t.held = map[change.Key]struct{}{}
			}
			t.held[h.Key] = struct{}{}
		}
	}
	if len(due) == 0 {
		return nil
	}
	keys, err := l.ses.parked(ctx, t.info.ID)
	if err != nil {
		return err
	}
	parked := keySet(keys)
	var plain, lettered []sink.Hold
	for _, h := range due {
		if _, ok := parked[h.Key]; ok {
			lettered = append(lettered, h)
		} else {
			plain = append(plain, h)
		}
	}
	for some := range slices.Chunk(plain, releasePlain) {
		r := &release{l: l, t: t}
		r.let(some)
		if err := r.flush(ctx); err != nil {
			return err
		}
	}
	for some := range slices.Chunk(lettered, releaseKeys) {
		if err := l.letGo(ctx, t, some); err != nil {
			return err
		}
	}
	return nil
}

func (l *lane) owns(t *table, k change.Key) bool {
	return k.Partition(t.info.Partitions)%l.o.Lanes == l.o.Lane
}

// lapsed reports whether a repair has let its lease of keys of the table go by, so
// that nobody else would let them go.
func (l *lane) lapsed(ctx context.Context, t *table) bool {
	keys, err := l.holds.Lapsed(ctx, t.info.ID)
	// An error is that of a look that comes again.
	return err == nil && slices.ContainsFunc(keys, func(k change.Key) bool { return l.owns(t, k) })
}

// letGo applies what was set aside of keys and ends their holds with the last of it.
func (l *lane) letGo(ctx context.Context, t *table, due []sink.Hold) error {
	byKey := make(map[change.Key]*sink.Hold, len(due))
	keys := make([]change.Key, len(due))
	for i := range due {
		byKey[due[i].Key], keys[i] = &due[i], due[i].Key
	}
	letters, err := l.holds.Letters(ctx, t.info.ID, keys)
	if err != nil {
		return err
	}
	r := &release{l: l, t: t}
	for i := range letters {
		d := &letters[i]
		c, err := d.Change()
		if err != nil {
			return err
		}
		if !byKey[d.Key].Contains(c) {
			if err := r.add(ctx, c, d); err != nil {
				return err
			}
		}
		r.settled = append(r.settled, *d)
	}
	r.let(due)
	return r.flush(ctx)
}

// release is a batch of changes that were set aside, while it grows.
type release struct {
	l        *lane
	t        *table
	version  change.Version
	schema   *change.Schema
	co       apply.Coalescer
	settled  []sink.DeadLetter
	released []sink.Release
}

// let adds keys whose holds end with the batch.
func (r *release) let(due []sink.Hold) {
	for i := range due {
		h := &due[i]
		reason := h.Reason
		if reason == "" && h.State != sink.Releasing {
			reason = "its repair came to no end: the lease of its keys went by"
		}
		r.released = append(r.released, sink.Release{Table: r.t.info.ID, Key: h.Key, Repair: h.Repair, Reason: reason})
	}
}

// add takes a change; one of another schema, or one that cannot be merged with what
// is there, comes after a batch of its own.
func (r *release) add(ctx context.Context, c *change.Change, d *sink.DeadLetter) error {
	if r.schema != nil && r.version != c.Schema {
		if err := r.flush(ctx); err != nil {
			return err
		}
		r.schema = nil
	}
	if r.schema == nil {
		s, err := r.l.holdable(ctx, r.t, c.Schema, c.Pos)
		if err != nil {
			return err
		}
		r.schema, r.version = s, c.Schema
		r.co.Reset(false)
	}
	from := apply.Origin{Partition: d.N, Offset: d.Offset, XID: c.XID}
	if r.co.Add(c, from) {
		return nil
	}
	if err := r.flush(ctx); err != nil {
		return err
	}
	if !r.co.Add(c, from) {
		return errors.New("an empty batch does not take a change")
	}
	return nil
}

func (r *release) flush(ctx context.Context) error {
	b := &sink.Batch{Settled: r.settled, Released: r.released}
	if rows := r.co.Rows(); len(rows) > 0 {
		b.Tables = []sink.TableBatch{{Schema: r.schema, Options: r.t.info.Options, Epoch: r.t.info.Epoch, Holds: r.t.info.Holds, Rows: rows}}
		b.Encode = func(_, i int) sink.DeadLetter {
			from := r.co.Origin(i)
			return letter(changeOf(r.schema, r.version, r.co.Rows()[i], from), from.Partition, from.Offset, sink.CodeRowRejected, "")
		}
	}
	if len(b.Tables)+len(b.Settled)+len(b.Released) == 0 {
		return nil
	}
	applied, err := r.l.ses.apply(ctx, b)
	if err != nil {
		return err
	}
	for _, d := range applied.Dead {
		r.l.countDead(d)
	}
	r.l.counts.Changes += int64(r.co.Changes())
	r.co.Reset(false)
	r.settled, r.released = nil, nil
	return nil
}

// holdable returns the schema of a change that was set aside, or waited, once the sink
// can hold it.
func (l *lane) holdable(ctx context.Context, t *table, v change.Version, at change.Position) (*change.Schema, error) {
	if s := t.versions[v]; s != nil {
		return s, nil
	}
	s, err := l.log.Schema(ctx, v)
	if err != nil {
		return nil, err
	}
	// That the first rows of a definition are all set aside is rare: the lane can wait
	// for what the source has to say of new columns.
	if len(unexplained(t.info.Schema, s)) > 0 {
		if err := l.ask(ctx, t.info.ID, t.info.Schema, s); err != nil {
			return nil, err
		}
	}
	if err := l.ses.evolve(ctx, t.info, s, at); err != nil {
		return nil, err
	}
	t.versions[v] = s
	if t.info.Schema == nil || s.Holds(t.info.Schema) {
		t.info.Schema = s
	}
	return s, nil
}

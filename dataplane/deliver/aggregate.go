package deliver

import (
	"errors"
	"slices"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/tiers/aggregate"
)

// sweepChanges is how many changes a batch takes at most if it aggregates them, whose
// number does not say how large it is.
const sweepChanges = 1_000_000

// partials are those of one tier in a batch of a sweep.
type partials struct {
	*aggregate.Partials
	tier string
	// from is the offset of the first change that was taken in, whatever the range of the
	// batch: of attempts that began at one watermark it is the same.
	from int64
	last *change.Change
}

// aggregate takes a row into the batch's partials, or reports that it is full before it, or
// that the row is set aside.
func (s *sweep) aggregate(seg *segment, rec *Record, def *change.Schema, p *aggregate.Plan) (full, aside bool, err error) {
	c, o := rec.Change, &s.l.o
	if !appends(&s.o, def) || c.Op != change.Insert {
		return false, false, fault.Permanent(CodeOrder, nil, "resync the table", "table %s: rows of tier %s are aggregated, and one was changed or deleted", c.Table, p.Tier)
	}
	i := slices.IndexFunc(seg.kept, func(k *partials) bool { return k.tier == p.Tier })
	if i < 0 {
		i = len(seg.kept)
		seg.kept = append(seg.kept, &partials{Partials: p.New(), tier: p.Tier})
	}
	k := seg.kept[i]
	if k.Plan() != p || k.Groups() >= o.SweepRows || k.Size() >= o.SweepBytes || seg.n >= sweepChanges || len(seg.dead) >= o.SweepRows {
		return true, false, nil
	}
	var bad *aggregate.ValueError
	switch err := k.Add(c.New); {
	case errors.As(err, &bad):
		seg.dead = append(seg.dead, letter(c, s.p.id.N, rec.Offset, sink.CodeAggregateValue, bad.Error()))
		return false, true, nil
	case err != nil:
		return false, false, err
	}
	if k.last == nil {
		k.from = rec.Offset
	}
	k.last = c
	return false, false, nil
}

// batches are the partials as a sink takes them. Each attempt has its own number: of what
// is left of those that failed, a sink without transactions shows nothing.
func (seg *segment) batches(token, attempt int64) (out []sink.TableBatch) {
	t := seg.s.p.t
	for _, k := range seg.kept {
		if k.Groups() == 0 {
			continue
		}
		tb := sink.TableBatch{Schema: k.Plan().Schema(), Options: sink.PartialsOptions(k.Plan(), seg.s.o), Epoch: t.info.Epoch, Holds: t.info.Holds, Partials: k.Plan()}
		for _, row := range k.Rows(aggregate.Run{Partition: seg.s.p.id.N, From: k.from, Token: token, Attempt: attempt}) {
			tb.Rows = append(tb.Rows, sink.Row{Op: change.Insert, Pos: k.last.Pos, Commit: k.last.CommitTime, New: row})
		}
		out = append(out, tb)
	}
	return out
}

package deliver

import (
	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/wire"
)

// textBytes is how much of a row goes to the sink, as text.
func textBytes(r *sink.Row) int {
	if r.Op == change.Delete {
		return len(r.Key)
	}
	return r.New.TextBytes()
}

// tierRead is how many bytes of records of one tier were read.
type tierRead struct {
	tier  string
	bytes int64
}

// addRead counts a record of a tier: there are few tiers, and many records.
func addRead(rs []tierRead, tier string, n int) []tierRead {
	for i := range rs {
		if rs[i].tier == tier {
			rs[i].bytes += int64(n)
			return rs
		}
	}
	return append(rs, tierRead{tier, int64(n)})
}

// tellUsed tells what a batch that is in the ledger moved, and what was read of changes
// that wait.
func (l *lane) tellUsed(r *result) {
	if l.obs.Used == nil {
		return
	}
	for _, p := range r.plan.parts {
		for _, laid := range p.w.laid {
			l.obs.Used(p.id.Table, laid.tier, Used{Read: laid.bytes})
		}
		p.w.laid = p.w.laid[:0]
	}
	for _, tp := range r.plan.tables {
		u := tp.used
		if !r.out(tp.t.info.ID) {
			for _, n := range tp.ops {
				u.Changes += n
			}
		}
		if seg := r.plan.swept; seg != nil {
			l.tellSwept(seg, u)
		} else if u != (Used{}) {
			l.obs.Used(tp.t.info.ID, "", u)
		}
	}
}

// tellSwept tells it of a batch of what waited. Rows of several tiers were merged into
// it, and for all of them the sweep read what lies between: each tier has its part by
// what was read of it.
func (l *lane) tellSwept(seg *segment, u Used) {
	weights := make([]int64, len(seg.read))
	for i, t := range seg.read {
		weights[i] = max(t.bytes, 1)
	}
	changes, passed := wire.Share(int64(u.Changes), weights), wire.Share(seg.passed, weights)
	text, sent := wire.Share(u.Text, weights), wire.Share(u.Sent, weights)
	for i, t := range seg.read {
		l.obs.Used(seg.s.p.id.Table, t.tier, Used{Changes: int(changes[i]), Read: t.bytes + passed[i], Text: text[i], Sent: sent[i]})
	}
}

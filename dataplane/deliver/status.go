package deliver

import (
	"slices"
	"strings"
	"time"

	"syncline/dataplane/change"
)

// status sums up the lane.
func (l *lane) status(now time.Time) Status {
	s := l.counts
	var p50, p99 time.Duration
	s.Rate, p50, p99 = l.win.read(now)
	s.P50, s.P99 = float64(p50.Microseconds())/1000, float64(p99.Microseconds())/1000
	pr, known := l.log.Progress()
	if known {
		s.Through = pr.Through
	}
	below := change.Position{Epoch: pr.Epoch, Commit: pr.Through}
	if below.Commit > 0 {
		below.Commit--
	}
	s.Tables = make([]TableStatus, 0, len(l.tables))
	first := true
	for id, t := range l.tables {
		ts := TableStatus{Table: id, Consistent: true}
		for i, p := range t.parts {
			pos := p.committed.Pos
			if i == 0 || pos.Before(ts.Pos) {
				ts.Pos = pos
			}
			if first || pos.Before(s.Oldest) {
				s.Oldest, first = pos, false
			}
			for tier, b := range p.w.tiers {
				if b.at.Waits == 0 {
					continue
				}
				if ts.Tiers == nil {
					ts.Tiers = map[string]TierStatus{}
				}
				of, since := ts.Tiers[tier], time.UnixMicro(b.at.Oldest).UTC()
				if of.Waits == 0 || since.Before(of.Since) {
					of.Since = since
				}
				if ts.Waits == 0 || since.Before(ts.WaitsSince) {
					ts.WaitsSince = since
				}
				of.Waits, ts.Waits = of.Waits+b.at.Waits, ts.Waits+b.at.Waits
				ts.Tiers[tier] = of
			}
			if known && p.committed.Streamed().Pos.Before(below) {
				s.Behind++
			}
			ts.Consistent = ts.Consistent && pos.Epoch >= l.o.Epoch && pos.Commit >= t.info.LoadedTo
			ts.Backlog += p.lag.Load() + int64(p.q.length())
			ts.Waiting = ts.Waiting || p.waiting || now.Before(p.retryAt)
		}
		if ts.Waits > 0 && (s.Waits == 0 || ts.WaitsSince.Before(s.WaitsSince)) {
			s.WaitsSince = ts.WaitsSince
		}
		s.Waits += ts.Waits
		s.Backlog += ts.Backlog
		s.Tables = append(s.Tables, ts)
	}
	if l.taken > 0 {
		s.Bytes = int64(float64(s.Backlog) * float64(l.takenBytes) / float64(l.taken))
	}
	if l.busy != nil {
		s.Backlog += int64(l.busy.changes)
		s.Bytes += int64(l.busy.bytes)
	}
	s.Backlog += int64(l.open.changes)
	s.Bytes += int64(l.open.bytes)
	slices.SortFunc(s.Tables, func(a, b TableStatus) int { return strings.Compare(a.Table.String(), b.Table.String()) })
	return s
}

package activities

import (
	"maps"
	"sync"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/deliver"
)

// tierWaits keeps how well a lane keeps what the tiers promise.
type tierWaits struct {
	pace *pace
	mu   sync.Mutex
	by   map[string]contract.TierWait
}

// runGap is how far apart in time changes of two runs take effect, at least.
const runGap = time.Minute

// swept takes in that changes of a tier took effect, d after their commit.
func (w *tierWaits) swept(tier string, d time.Duration, n int, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.by[tier]
	if now.Sub(t.At) > min(runGap, max(w.pace.promise(tier, now)/2, time.Second)) {
		t.Changes, t.Late, t.Longest = 0, 0, 0
	}
	t.At = now
	t.Changes += int64(n)
	if p := w.pace.promise(tier, now); p > 0 && d > p {
		t.Late += int64(n)
	}
	t.Longest = max(t.Longest, d.Seconds())
	if w.by == nil {
		w.by = map[string]contract.TierWait{}
	}
	w.by[tier] = t
}

// status tells it of the declared tiers, with what waits now.
func (w *tierWaits) status(tables []deliver.TableStatus, now time.Time) map[string]contract.TierWait {
	late := overdue(w.pace, tables, now)
	w.mu.Lock()
	defer w.mu.Unlock()
	out := maps.Clone(w.by)
	for tier, by := range late {
		if out == nil {
			out = map[string]contract.TierWait{}
		}
		t := out[tier]
		t.Overdue = by.Seconds()
		out[tier] = t
	}
	return out
}

// overdue tells for each tier by how much the oldest change that waits is late, if it is.
// Which of a table's tiers that change is of nobody knows, but a run of any brings it:
// what is late is the run of the tier that promises the shortest wait.
func overdue(promises *pace, tables []deliver.TableStatus, now time.Time) map[string]time.Duration {
	out := map[string]time.Duration{}
	for i := range tables {
		t := &tables[i]
		if t.Waits == 0 {
			continue
		}
		var tier string
		var promised time.Duration
		for _, r := range promises.spec.Rules(t.Table) {
			if p := promises.promise(r.Tier, now); p > 0 && (tier == "" || p < promised) {
				tier, promised = r.Tier, p
			}
		}
		if by := now.Sub(t.WaitsSince) - promised; tier != "" && by > 0 {
			out[tier] = max(out[tier], by)
		}
	}
	return out
}

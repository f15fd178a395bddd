package activities

import (
	"maps"
	"sync"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/sink"
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

// status tells it of the declared tiers, with what waits now. What an older release did not
// tell apart counts for the tier of its table that promises the shortest wait.
func (w *tierWaits) status(tables []deliver.TableStatus, now time.Time) map[string]contract.TierWait {
	w.mu.Lock()
	out := maps.Clone(w.by)
	w.mu.Unlock()
	if out == nil {
		out = map[string]contract.TierWait{}
	}
	for i := range tables {
		for tier, waits := range tables[i].Tiers {
			promised := w.pace.promise(tier, now)
			if tier == sink.AllTiers {
				tier, promised = w.shortest(tables[i].Table, now)
			}
			if promised == 0 {
				continue // of a tier that is declared no more
			}
			t := out[tier]
			if t.Waits == 0 || waits.Since.Before(t.Since) {
				t.Since = waits.Since
			}
			t.Waits += waits.Waits
			t.Overdue = max(t.Overdue, (now.Sub(waits.Since) - promised).Seconds())
			out[tier] = t
		}
	}
	return out
}

// shortest returns the tier of a table that promises the shortest wait.
func (w *tierWaits) shortest(t change.TableID, now time.Time) (tier string, promised time.Duration) {
	for _, r := range w.pace.spec.Rules(t) {
		if p := w.pace.promise(r.Tier, now); p > 0 && (tier == "" || p < promised) {
			tier, promised = r.Tier, p
		}
	}
	return tier, promised
}

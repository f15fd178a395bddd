package activities

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"syncline/activities/contract"
	"syncline/analytics"
	"syncline/dataplane/wire"
)

// Directions, as a worker sees them.
const (
	sent = iota
	received
)

// accountKey says whose bytes an account has. component is the name of the activity.
type accountKey struct{ pipeline, component, sink, tab, end string }

// account has what the connections of activities carry to one end, and by which tables
// and tiers, so that the one can be divided among the others. The methods of a nil
// *account do nothing.
type account struct {
	accountKey
	meter wire.Meter

	mu     sync.Mutex
	region string // of the end
	put    wire.Count
	parts  map[part]*moved
	owed   owed
}

// part is a table's share of an account, in a tier.
type part struct{ tab, tier string }

// moved is what was moved for a part within a window. Values of a change are counted
// where they leave, and not where they were read.
type moved struct {
	changes, logical, encoded int64
	weight                    int64 // for its share of what was carried; encoded, if that is counted
	direction                 int
}

// dial opens connections that the account counts.
func (a *account) dial() wire.Dial {
	if a == nil {
		return wire.Plain
	}
	return a.meter.Dial
}

// carried notes what was moved for a part. It is called for a batch, not for a change.
func (a *account) carried(direction int, p part, changes, logical, encoded int64) {
	a.note(p, moved{changes, logical, encoded, encoded, direction})
}

// weigh notes how much of what is carried is a part's, where no encoded bytes are counted.
func (a *account) weigh(p part, weight int64) { a.note(p, moved{weight: weight}) }

func (a *account) note(p part, m moved) {
	if a == nil || m == (moved{direction: m.direction}) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	have := a.parts[p]
	if have == nil {
		have = &moved{direction: m.direction}
		if a.parts == nil {
			a.parts = map[part]*moved{}
		}
		a.parts[p] = have
	}
	have.changes, have.logical, have.encoded, have.weight = have.changes+m.changes, have.logical+m.logical, have.encoded+m.encoded, have.weight+m.weight
}

// usages are the rows of one window.
type usages struct {
	at     time.Time
	region string // of the worker
	rows   map[analytics.Usage]*analytics.Usage
}

func (u *usages) row(a *account, p part, direction int) *analytics.Usage {
	k := analytics.Usage{Time: u.at, Pipeline: a.pipeline, Sink: a.sink, Tab: p.tab, Tier: p.tier, Component: kindOf(a.component), Origin: u.region, Destination: a.region}
	if direction == received {
		k.Origin, k.Destination = k.Destination, k.Origin
	}
	r := u.rows[k]
	if r == nil {
		r = &k
		if u.rows == nil {
			u.rows = map[analytics.Usage]*analytics.Usage{}
		}
		u.rows[k] = r
	}
	return r
}

// settle adds what the account has moved since the last time, of which connections
// carried a count, to the rows. last: nothing follows.
func (a *account) settle(carried wire.Count, last bool, u *usages) {
	rest := part{tab: a.tab}
	var by []weighted
	for p, m := range a.parts {
		if m.weight > 0 {
			by = append(by, weighted{p, m.weight})
		}
		if m.changes+m.logical+m.encoded > 0 {
			r := u.row(a, p, m.direction)
			r.Changes, r.Logical, r.Encoded = r.Changes+uint64(m.changes), r.Logical+uint64(m.logical), r.Encoded+uint64(m.encoded)
		}
	}
	clear(a.parts)
	slices.SortFunc(by, func(x, y weighted) int {
		return cmp.Or(strings.Compare(x.tab, y.tab), strings.Compare(x.tier, y.tier))
	})
	// Whose activities are each for one table has no doubt.
	for _, g := range a.owed.divide([2]int64{carried.Sent, carried.Received}, by, rest, last || a.tab != "") {
		for direction, n := range g.bytes {
			if n > 0 {
				u.row(a, g.part, direction).Wire += uint64(n)
			}
		}
	}
}

// weighted is a part with its weight, which is above zero.
type weighted struct {
	part
	weight int64
}

// given is what a part gets of what was carried.
type given struct {
	part
	bytes [2]int64 // by direction
}

// owed is what was carried and is not given to anything yet. A batch is counted when it
// is in the sink: bytes may have been seen before, and the last of them after.
type owed struct {
	bytes [2]int64
	held  int        // windows
	by    []weighted // the last weights that there were
	age   int        // windows since
}

// patience is for how many windows bytes wait for a batch that they are of; then they are of
// none, such as heartbeats and fetches that bring nothing.
const patience = 3

// divide gives what was carried in a window to the parts that were counted in it, by
// their weights; if there are none to those of the window before; or else keeps it, and
// after a while, or at once if it is final, gives it to rest. The sum of all that is
// given, and is still owed, is what was carried.
func (o *owed) divide(carried [2]int64, by []weighted, rest part, final bool) []given {
	o.bytes[sent], o.bytes[received] = o.bytes[sent]+carried[sent], o.bytes[received]+carried[received]
	if len(by) > 0 {
		o.by, o.age = by, 0
	} else {
		o.age++
	}
	if o.bytes == [2]int64{} {
		return nil
	}
	var gave []given
	switch {
	case len(o.by) > 0 && o.age <= 1:
		weights := make([]int64, len(o.by))
		gave = make([]given, len(o.by))
		for i, w := range o.by {
			gave[i].part, weights[i] = w.part, w.weight
		}
		for direction, n := range o.bytes {
			for i, share := range wire.Share(n, weights) {
				gave[i].bytes[direction] = share
			}
		}
	case final || o.held+1 >= patience:
		gave = []given{{rest, o.bytes}}
	default:
		o.held++
		return nil
	}
	o.bytes, o.held = [2]int64{}, 0
	return gave
}

// kinds of activities, as Usage has them; the others are kindSetup.
var kinds = map[string]string{
	contract.CaptureActivity: "capture", contract.DeliverActivity: "deliver",
	contract.HoldSnapshotActivity: "snapshot", contract.PlanChunksActivity: "snapshot", contract.CopyChunkActivity: "snapshot", contract.FinishLoadActivity: "snapshot",
	contract.PlanAuditActivity: "verify", contract.VerifyTableActivity: "verify", contract.ConcludeAuditActivity: "verify",
	contract.PlanRepairActivity: "repair", contract.LoadRepairActivity: "repair", contract.QuarantineKeysActivity: "repair", contract.ReplayKeysActivity: "repair",
	contract.ReverifyKeysActivity: "repair", contract.ReleaseKeysActivity: "repair", contract.AbandonKeysActivity: "repair", contract.NoteRepairActivity: "repair",
	contract.CheckTrailActivity: "repair",
	contract.PlanReplayActivity: "replay", contract.ReplayTableActivity: "replay", contract.ForgetReplayActivity: "replay",
	contract.PlanTierActivity: "tier", contract.DrainTierActivity: "tier",
}

const kindSetup = "setup"

func kindOf(activity string) string { return cmp.Or(kinds[activity], kindSetup) }

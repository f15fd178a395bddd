package activities

import (
	"testing"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/sink"
	"syncline/pipeline"
)

// What waits for longer than its tier promises is late, and a run is judged by what it
// brought.
func TestTierWaits(t *testing.T) {
	events, orders, other := change.TableID{Schema: "s", Name: "events"}, change.TableID{Schema: "s", Name: "orders"}, change.TableID{Schema: "s", Name: "other"}
	d := func(d time.Duration) pipeline.Duration { return pipeline.Duration(d) }
	spec := &pipeline.Spec{
		Tiers:    []pipeline.Tier{{Name: "hourly", Every: d(time.Hour), Jitter: d(time.Minute)}, {Name: "daily", Every: d(24 * time.Hour)}},
		Classify: []pipeline.Class{{Match: "s.events", Columns: []string{"n"}, Tier: "daily"}, {Match: "s.events", Tier: "hourly"}, {Match: "s.orders", Tier: "daily"}},
	}
	now := time.Unix(1_000_000, 0)
	w := &tierWaits{pace: &pace{spec: spec}}
	tiers := func(n int64, since time.Duration, tier string) map[string]deliver.TierStatus {
		return map[string]deliver.TierStatus{tier: {Waits: n, Since: now.Add(-since)}}
	}
	if got := w.status(nil, now); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	tables := []deliver.TableStatus{
		{Table: events, Tiers: tiers(2, 61*time.Minute+5*time.Second, "hourly")},
		{Table: orders, Tiers: tiers(1, 23*time.Hour, "daily")},
		{Table: other, Tiers: tiers(1, 99*time.Hour, "yearly")}, // by rules that are declared no more
	}
	tables[0].Tiers["daily"] = deliver.TierStatus{Waits: 4, Since: now.Add(-22 * time.Hour)}
	if got := w.status(tables, now); len(got) != 2 || got["hourly"].Overdue != 5 || got["hourly"].Waits != 2 ||
		got["daily"].Overdue != 0 || got["daily"].Waits != 5 || !got["daily"].Since.Equal(now.Add(-23*time.Hour)) {
		t.Errorf("%+v", got)
	}
	// What was not told apart is late with the first of the table's tiers.
	tables[0].Tiers = tiers(3, 2*time.Hour, sink.AllTiers)
	if got := w.status(tables, now); got["hourly"].Overdue != 59*60 || got["hourly"].Waits != 3 {
		t.Errorf("%+v", got)
	}
	tables[0].Tiers, tables[1].Tiers = nil, tiers(1, 25*time.Hour, "daily")
	w.swept("hourly", 2*time.Hour, 7, now.Add(-time.Hour)) // a run before the last
	w.swept("hourly", time.Hour, 3, now)
	w.swept("hourly", 62*time.Minute, 2, now.Add(time.Second))
	got := w.status(tables, now)
	if h := got["hourly"]; h.Overdue != 0 || h.Changes != 5 || h.Late != 2 || h.Longest != 62*60 || !h.At.Equal(now.Add(time.Second)) {
		t.Errorf("%+v", h)
	}
	if got["daily"].Overdue != 3600 {
		t.Errorf("%+v", got["daily"])
	}
}

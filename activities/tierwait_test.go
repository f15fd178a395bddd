package activities

import (
	"testing"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/pipeline"
)

// What waits for longer than the shortest promise of its table is late, and a run is
// judged by what it brought.
func TestTierWaits(t *testing.T) {
	events, orders, other := change.TableID{Schema: "s", Name: "events"}, change.TableID{Schema: "s", Name: "orders"}, change.TableID{Schema: "s", Name: "other"}
	d := func(d time.Duration) pipeline.Duration { return pipeline.Duration(d) }
	spec := &pipeline.Spec{
		Tiers:    []pipeline.Tier{{Name: "hourly", Every: d(time.Hour), Jitter: d(time.Minute)}, {Name: "daily", Every: d(24 * time.Hour)}},
		Classify: []pipeline.Class{{Match: "s.events", Columns: []string{"n"}, Tier: "daily"}, {Match: "s.events", Tier: "hourly"}, {Match: "s.orders", Tier: "daily"}},
	}
	now := time.Unix(1_000_000, 0)
	w := &tierWaits{pace: &pace{spec: spec}}
	if got := w.status(nil, now); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	tables := []deliver.TableStatus{
		{Table: events, Waits: 2, WaitsSince: now.Add(-61*time.Minute - 5*time.Second)},
		{Table: orders, Waits: 1, WaitsSince: now.Add(-23 * time.Hour)},
		{Table: other, Waits: 1, WaitsSince: now.Add(-99 * time.Hour)}, // by rules that are declared no more
	}
	if got := w.status(tables, now); len(got) != 1 || got["hourly"].Overdue != 5 {
		t.Errorf("%+v", got)
	}
	tables[0].Waits, tables[1].WaitsSince = 0, now.Add(-25*time.Hour)
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

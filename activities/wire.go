package activities

import (
	"context"
	"strings"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	"syncline/activities/observe"
	"syncline/analytics"
	"syncline/dataplane/wire"
)

// Ends of connections, beside sinks, which are "sink:" and their name.
const (
	sourceEnd = "source"
	kafkaEnd  = "kafka"
)

func sinkEnd(name string) string { return analytics.PlaceSink + name }

// Wires count what the connections of a process carry, by pipeline, kind of activity
// and the end that they lead to, and which tables it is of. nil counts nothing.
type Wires struct {
	metrics *observe.Metrics
	region  string

	mu       sync.Mutex
	accounts map[accountKey]*account
}

// NewWires counts for metrics too. The region is where the process runs.
func NewWires(m *observe.Metrics, region string) *Wires {
	return &Wires{metrics: m, region: region, accounts: map[accountKey]*account{}}
}

// account is that of an activity's connections to an end, which is in a region.
func (w *Wires) account(ctx context.Context, pipeline, end, region string) *account {
	if w == nil || !activity.IsActivity(ctx) {
		return nil
	}
	s := subjectIn(ctx)
	pipeline, _, _ = strings.Cut(pipeline, "@") // a replay has a ledger of its own
	return w.open(accountKey{pipeline, activity.GetInfo(ctx).ActivityType.Name, s.sink, s.tab, end}, region)
}

func (w *Wires) open(k accountKey, region string) *account {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.accounts[k]
	if a == nil {
		a = &account{accountKey: k}
		w.accounts[k] = a
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.region = region // it may be declared otherwise now
	return a
}

// Run records what was carried, once in a window, until ctx ends, and then the rest.
func (w *Wires) Run(ctx context.Context, into *analytics.Writer) {
	if w == nil {
		return
	}
	t := time.NewTicker(analytics.Window)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			w.record(time.Now(), false, into.Put)
		case <-ctx.Done():
			w.record(time.Now(), true, into.Put)
			return
		}
	}
}

// record puts what was carried since the last time. last: nothing follows.
func (w *Wires) record(now time.Time, last bool, put func(...analytics.Row)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := now.UTC().Truncate(analytics.Window)
	u := usages{at: at, region: w.region}
	wires := map[analytics.Wire]*analytics.Wire{}
	for _, a := range w.accounts {
		a.mu.Lock()
		have := a.meter.Count()
		d := have.Minus(a.put)
		a.put = have
		a.settle(d, last, &u)
		a.mu.Unlock()
		if d == (wire.Count{}) {
			continue
		}
		w.metrics.Wire(a.pipeline, a.component, a.end, d.Sent, d.Received)
		k := analytics.Wire{Time: at, Pipeline: a.pipeline, Component: a.component, End: a.end}
		r := wires[k]
		if r == nil {
			r = &k
			wires[k] = r
		}
		r.Sent, r.Received, r.Connections = r.Sent+uint64(d.Sent), r.Received+uint64(d.Received), r.Connections+uint64(d.Connections)
	}
	for _, r := range wires {
		put(r)
	}
	for _, r := range u.rows {
		put(r)
	}
}

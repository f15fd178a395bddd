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

func sinkEnd(name string) string { return "sink:" + name }

// Wires count what the connections of a process carry, by pipeline, kind of activity
// and the end that they lead to. nil counts nothing.
type Wires struct {
	metrics *observe.Metrics

	mu     sync.Mutex
	meters map[wireKey]*wire.Meter
	put    map[wireKey]wire.Count // what Record has recorded
}

type wireKey struct{ pipeline, component, end string }

// NewWires counts for metrics too.
func NewWires(m *observe.Metrics) *Wires {
	return &Wires{metrics: m, meters: map[wireKey]*wire.Meter{}, put: map[wireKey]wire.Count{}}
}

// dial opens connections of an activity to an end.
func (w *Wires) dial(ctx context.Context, pipeline, end string) wire.Dial {
	if w == nil || !activity.IsActivity(ctx) {
		return wire.Plain
	}
	pipeline, _, _ = strings.Cut(pipeline, "@") // a replay has a ledger of its own
	k := wireKey{pipeline, activity.GetInfo(ctx).ActivityType.Name, end}
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.meters[k]
	if m == nil {
		m = new(wire.Meter)
		w.meters[k] = m
	}
	return m.Dial
}

// Run records what was carried, once in a window, until ctx ends, and then the rest.
func (w *Wires) Run(ctx context.Context, into *analytics.Writer) {
	t := time.NewTicker(analytics.Window)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			w.record(time.Now(), into)
		case <-ctx.Done():
			w.record(time.Now(), into)
			return
		}
	}
}

// record puts what was carried since the last time.
func (w *Wires) record(now time.Time, into *analytics.Writer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, m := range w.meters {
		have := m.Count()
		d := have.Minus(w.put[k])
		if d == (wire.Count{}) {
			continue
		}
		w.put[k] = have
		w.metrics.Wire(k.pipeline, k.component, k.end, d.Sent, d.Received)
		into.Put(&analytics.Wire{
			Time: now.UTC().Truncate(analytics.Window), Pipeline: k.pipeline, Component: k.component, End: k.end,
			Sent: uint64(d.Sent), Received: uint64(d.Received), Connections: uint64(d.Connections),
		})
	}
}

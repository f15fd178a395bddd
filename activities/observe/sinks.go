package observe

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"syncline/analytics"
	"syncline/analytics/bill"
)

// DefaultCapacity is how many records a sink's backlog may reach if the pipeline
// does not say.
const DefaultCapacity = 10_000_000

type sinkKey struct{ pipeline, sink string }

func (m *Metrics) hold(k sinkKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lanesOf[k]++
}

// release takes a lane's share in the gauges of its sink back; with the last lane of
// the sink in this process they go.
func (m *Metrics) release(k sinkKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lanesOf[k]--; m.lanesOf[k] <= 0 {
		delete(m.lanesOf, k)
		m.gated.DeleteLabelValues(k.pipeline, k.sink)
		m.capacity.DeleteLabelValues(k.pipeline, k.sink)
	}
}

// Capacity shows the backlog that the pipeline declares it can stand; 0 is the default.
func (d *Deliver) Capacity(records int64) {
	if records == 0 {
		records = DefaultCapacity
	}
	d.m.capacity.WithLabelValues(d.pipeline, d.sink).Set(float64(records))
}

// Gated shows how many tables the sink has stopped taking.
func (d *Deliver) Gated(tables int) {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if d.m.lanesOf[sinkKey{d.pipeline, d.sink}] > 0 { // not closed
		d.m.gated.WithLabelValues(d.pipeline, d.sink).Set(float64(tables))
	}
}

// Verified shows how many tables of a sink stand how, by their newest verifications.
func (m *Metrics) Verified(pipeline, sink string, equal, different, inconclusive int) {
	p, s := m.pipelines.value(pipeline), m.sinks.value(sink)
	for verdict, n := range map[string]int{analytics.Equal: equal, analytics.Different: different, analytics.Inconclusive: inconclusive} {
		m.verified.WithLabelValues(p, s, verdict).Set(float64(n))
	}
}

// Runs shows which pipelines are paused, which have a repair that waits for an approval,
// and of which the newest repair failed; of all others it takes back what it showed.
func (m *Metrics) Runs(paused, waiting, failed []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for v, names := range map[*prometheus.GaugeVec][]string{m.paused: paused, m.repairsWaiting: waiting, m.repairsFailed: failed} {
		now := map[string]bool{}
		for _, name := range names {
			p := m.pipelines.value(name)
			now[p] = true
			v.WithLabelValues(p).Set(1)
		}
		for p := range m.runs[v] {
			if !now[p] {
				v.DeleteLabelValues(p)
			}
		}
		m.runs[v] = now
	}
}

// Unverified takes back what was shown of a sink.
func (m *Metrics) Unverified(pipeline, sink string) {
	m.verified.DeletePartialMatch(map[string]string{"pipeline": m.pipelines.value(pipeline), "sink": m.sinks.value(sink)})
}

// Objective counts events that met a pipeline's objective or missed it, and shows
// which part of them should meet it, between 0 and 1.
func (m *Metrics) Objective(pipeline, objective string, target float64, good, bad int) {
	p, o := m.pipelines.value(pipeline), m.codes.value(objective)
	m.sloTarget.WithLabelValues(p, o).Set(target)
	m.sloEvents.WithLabelValues(p, o, "good").Add(float64(good))
	m.sloEvents.WithLabelValues(p, o, "bad").Add(float64(bad))
}

// Budget shows how a pipeline stands to its budget, by the words of package bill, and
// which part of it is spent.
func (m *Metrics) Budget(pipeline, standing string, used float64) {
	p := m.pipelines.value(pipeline)
	m.budgetUsed.WithLabelValues(p).Set(used)
	m.budgetStanding.WithLabelValues(p).Set(map[string]float64{bill.Within: 0, bill.Near: 1, bill.Over: 2, bill.Unclear: 3}[standing])
}

// NoBudget takes back what was shown of a pipeline's budget.
func (m *Metrics) NoBudget(pipeline string) {
	p := m.pipelines.value(pipeline)
	m.budgetUsed.DeleteLabelValues(p)
	m.budgetStanding.DeleteLabelValues(p)
}

// PricingCompleted is when usage was last priced; the zero time is never.
func (m *Metrics) PricingCompleted(at time.Time) {
	if at.IsZero() {
		m.pricingCompleted.Reset()
		return
	}
	m.pricingCompleted.WithLabelValues().Set(float64(at.UnixMilli()) / 1000)
}

// RotationsFailed is how many secrets there are whose newest rotation failed.
func (m *Metrics) RotationsFailed(n int) { m.rotationsFailed.Set(float64(n)) }

// SecurityFailed counts a failure of one of the kinds that package analytics names.
func (m *Metrics) SecurityFailed(kind string) { m.security.WithLabelValues(kind).Inc() }

// Outcomes of rows for analytics.
const (
	AnalyticsWritten = "written"
	AnalyticsDropped = "dropped"
)

// AnalyticsRows counts rows for analytics by what became of them.
func (m *Metrics) AnalyticsRows(outcome string, n int) {
	m.analyticsRows.WithLabelValues(outcome).Add(float64(n))
}

// AnalyticsUp is whether the database of analytics takes rows.
func (m *Metrics) AnalyticsUp(up bool) {
	v := 0.0
	if up {
		v = 1
	}
	m.analyticsUp.Set(v)
}

// AnalyticsSpill is how many bytes wait on the disk for analytics to answer.
func (m *Metrics) AnalyticsSpill(bytes int64) { m.analyticsSpill.Set(float64(bytes)) }

// preset makes series exist before anything happens: an increase that begins with
// the series is none that Prometheus sees.
func (m *Metrics) preset() {
	for _, k := range []string{analytics.SecurityAuth, analytics.SecurityPermission, analytics.SecuritySecret, analytics.SecurityTLS} {
		m.security.WithLabelValues(k)
	}
	for _, o := range []string{AnalyticsWritten, AnalyticsDropped} {
		m.analyticsRows.WithLabelValues(o)
	}
}

package observe

import "syncline/analytics"

// DefaultCapacity is how many records a sink's backlog may reach if the pipeline
// does not say.
const DefaultCapacity = 10_000_000

type sinkKey struct{ pipeline, sink string }

// shared is what the lanes of one sink in this process have in common: its gauges
// stay until the last of them ends.
type shared struct {
	lanes int
	gated map[string]bool
}

func (m *Metrics) hold(k sinkKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.bySink[k]
	if s == nil {
		s = &shared{gated: map[string]bool{}}
		m.bySink[k] = s
	}
	s.lanes++
}

func (m *Metrics) release(k sinkKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.bySink[k]
	if s == nil {
		return
	}
	if s.lanes--; s.lanes == 0 {
		delete(m.bySink, k)
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

// Gated notes whether the sink has stopped taking a table.
func (d *Deliver) Gated(table string, gated bool) {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	s := d.m.bySink[sinkKey{d.pipeline, d.sink}]
	if s == nil { // closed
		return
	}
	if gated {
		s.gated[table] = true
	} else {
		delete(s.gated, table)
	}
	d.m.gated.WithLabelValues(d.pipeline, d.sink).Set(float64(len(s.gated)))
}

// Verified shows the outcome of a verification of one sink: how many tables got which verdict.
func (m *Metrics) Verified(pipeline, sink string, equal, different, inconclusive int) {
	p, s := m.pipelines.value(pipeline), m.sinks.value(sink)
	for verdict, n := range map[string]int{analytics.Equal: equal, analytics.Different: different, analytics.Inconclusive: inconclusive} {
		m.verified.WithLabelValues(p, s, verdict).Set(float64(n))
	}
	// One that found a difference is that, whatever else it could not tell.
	verdict := analytics.Equal
	switch {
	case different > 0:
		verdict = analytics.Different
	case inconclusive > 0:
		verdict = analytics.Inconclusive
	}
	m.verifications.WithLabelValues(p, s, verdict).Inc()
}

func outcome(ok bool, yes, no string) string {
	if ok {
		return yes
	}
	return no
}

// Objective counts events that met a pipeline's objective or missed it, and shows
// which part of them should meet it, between 0 and 1.
func (m *Metrics) Objective(pipeline, objective string, target float64, good, bad int) {
	p, o := m.pipelines.value(pipeline), m.codes.value(objective)
	m.sloTarget.WithLabelValues(p, o).Set(target)
	m.sloEvents.WithLabelValues(p, o, "good").Add(float64(good))
	m.sloEvents.WithLabelValues(p, o, "bad").Add(float64(bad))
}

// Rotated counts a rotation of secrets.
func (m *Metrics) Rotated(ok bool) { m.rotations.WithLabelValues(outcome(ok, "ok", "failed")).Inc() }

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
	for _, ok := range []bool{true, false} {
		m.rotations.WithLabelValues(outcome(ok, "ok", "failed"))
	}
}

package observe

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Bounds of labels, per process. A table counts once per pipeline.
const (
	maxPipelines = 100
	maxSinks     = 200
	maxTables    = 2000
	maxCodes     = 200
	maxLanes     = 256
)

// Metrics are all metrics of this program, over one registry.
type Metrics struct {
	Registry *prometheus.Registry

	captured, kafkaRecords, kafkaBytes                 *prometheus.CounterVec
	captureLag, slotRetained                           *prometheus.GaugeVec
	wireBytes                                          *prometheus.CounterVec
	tierSeconds                                        *prometheus.HistogramVec
	tierWaiting, tierAge, tierOverdue                  *prometheus.GaugeVec
	budgetUsed, budgetStanding                         *prometheus.GaugeVec
	applied, duplicates, skipped, deadLetters          *prometheus.CounterVec
	batchSeconds, visibleSeconds                       *prometheus.HistogramVec
	backlog                                            *prometheus.GaugeVec
	snapshotRows, snapshotBytes                        *prometheus.CounterVec
	chunkSeconds                                       *prometheus.HistogramVec
	fenced, retries                                    *prometheus.CounterVec
	gated, capacity                                    *prometheus.GaugeVec
	sloTarget, verified                                *prometheus.GaugeVec
	paused, repairsWaiting, repairsFailed              *prometheus.GaugeVec
	sloEvents, security                                *prometheus.CounterVec
	analyticsRows                                      *prometheus.CounterVec
	analyticsSpill, analyticsUp, rotationsFailed       prometheus.Gauge
	pricingCompleted                                   *prometheus.GaugeVec // without a value until something was priced
	pipelines, sinks, tables, operations, codes, lanes *bounded

	mu      sync.Mutex
	lanesOf map[sinkKey]int
	runs    map[*prometheus.GaugeVec]map[string]bool // pipelines that are shown
}

// NewMetrics makes the registry, with the process's and Go's own metrics, and
// everything declared here.
func NewMetrics(buildID string) *Metrics {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "syncline_" + name, Help: help}, labels)
		reg.MustRegister(v)
		return v
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "syncline_" + name, Help: help}, labels)
		reg.MustRegister(v)
		return v
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "syncline_" + name, Help: help, Buckets: buckets}, labels)
		reg.MustRegister(v)
		return v
	}
	m := &Metrics{
		Registry: reg,

		captured:     counter("changes_captured_total", "Changes read from the source's log.", "pipeline", "table", "op"),
		captureLag:   gauge("capture_lag_bytes", "Bytes of the source's log between its end and what Kafka has acknowledged.", "pipeline"),
		slotRetained: gauge("slot_retained_bytes", "Bytes of log that the source keeps for the replication slot.", "pipeline"),
		kafkaRecords: counter("kafka_records_written_total", "Records that Kafka acknowledged with all in-sync replicas.", "pipeline"),
		kafkaBytes:   counter("kafka_bytes_written_total", "Bytes of the values that were handed to Kafka, before compression.", "pipeline"),

		wireBytes: counter("wire_bytes_total", "Bytes that connections carried, with TLS, by the end that they lead to.", "pipeline", "activity", "peer", "direction"),

		applied:        counter("changes_applied_total", "Changes committed to the sink.", "pipeline", "sink", "table", "op"),
		duplicates:     counter("duplicates_dropped_total", "Changes that the sink's watermark already covered.", "pipeline", "sink", "table"),
		skipped:        counter("snapshot_skipped_total", "Changes that the table's snapshot already contained.", "pipeline", "sink", "table"),
		deadLetters:    counter("dead_letters_total", "Changes set aside because the sink cannot take them.", "pipeline", "sink", "table"),
		batchSeconds:   histogram("apply_batch_seconds", "Time to commit one batch to the sink.", prometheus.ExponentialBucketsRange(0.001, 60, 16), "pipeline", "sink"),
		visibleSeconds: histogram("commit_to_visible_seconds", "Time from the commit at the source to the commit at the sink, by their clocks.", []float64{.01, .025, .05, .1, .15, .2, .3, .5, .75, 1, 2, 5, 10, 30, 60, 300, 1800, 7200}, "pipeline", "sink"),
		tierSeconds:    histogram("tier_wait_seconds", "Time from the commit at the source to the commit at the sink of changes that waited for their tier.", []float64{1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 43200, 86400, 172800, 604800, 2592000}, "pipeline", "sink", "tier"),
		tierWaiting:    gauge("tier_waiting_changes", "Changes that wait for their tier's next run.", "pipeline", "sink", "lane"),
		tierAge:        gauge("tier_waiting_seconds", "Age of the oldest change that waits for its tier's next run; 0 if none does.", "pipeline", "sink", "lane"),
		tierOverdue:    gauge("tier_overdue_seconds", "How much longer the oldest change that waits for a tier has waited than the tier promises; 0 if none has.", "pipeline", "sink", "lane", "tier"),
		backlog:        gauge("backlog_records", "Records in Kafka that the lane has not yet applied.", "pipeline", "sink", "lane"),

		snapshotRows:  counter("snapshot_rows_total", "Rows of finished and running chunks written to the sink.", "pipeline", "sink", "table"),
		snapshotBytes: counter("snapshot_bytes_total", "Bytes read from the source by chunks.", "pipeline", "sink", "table"),
		chunkSeconds:  histogram("snapshot_chunk_seconds", "Time to copy one chunk.", prometheus.ExponentialBucketsRange(0.05, 1800, 16), "pipeline", "sink"),

		fenced:  counter("fenced_attempts_total", "Attempts that the sink refused because a later one had taken over.", "pipeline", "sink"),
		retries: counter("retries_total", "Failures that were tried again, by the code of the fault.", "pipeline", "code"),

		gated:    gauge("tables_gated", "Tables that the sink does not take any more until somebody acts.", "pipeline", "sink"),
		capacity: gauge("backlog_capacity_records", "Records that the backlog of the sink may reach by the pipeline's declaration.", "pipeline", "sink"),

		sloTarget:        gauge("slo_target_ratio", "Part of the events that should meet the objective.", "pipeline", "objective"),
		sloEvents:        counter("slo_events_total", "Events that met the objective or missed it.", "pipeline", "objective", "result"),
		verified:         gauge("verification_tables", "Tables by their newest verdict; a different one holds until one is equal.", "pipeline", "sink", "verdict"),
		budgetUsed:       gauge("budget_used_ratio", "Part of the pipeline's budget that is spent in the period that is under way.", "pipeline"),
		budgetStanding:   gauge("budget_standing", "How the pipeline stands to its budget: 0 within, 1 nearly spent, 2 spent, 3 it cannot be told.", "pipeline"),
		pricingCompleted: gauge("pricing_completed_timestamp_seconds", "When usage was last priced up to then; no value before the first time."),
		paused:           gauge("pipeline_paused", "1 while an operator has the pipeline paused.", "pipeline"),
		repairsWaiting:   gauge("repair_awaits_approval", "1 while a repair of the pipeline waits for an approval.", "pipeline"),
		repairsFailed:    gauge("repair_failed", "1 if the newest repair of the pipeline within a day failed, or left keys failed.", "pipeline"),
		security:         counter("security_failures_total", "Refused credentials, missing rights, secrets and certificates that fail.", "kind"),
		analyticsRows:    counter("analytics_rows_total", "Rows for analytics by what became of them.", "outcome"),

		pipelines: newBounded(maxPipelines), sinks: newBounded(maxSinks), tables: newBounded(maxTables),
		operations: newBounded(8), codes: newBounded(maxCodes), lanes: newBounded(maxLanes),
		lanesOf: map[sinkKey]int{}, runs: map[*prometheus.GaugeVec]map[string]bool{},
	}
	m.analyticsSpill = prometheus.NewGauge(prometheus.GaugeOpts{Name: "syncline_analytics_spill_bytes", Help: "Bytes on the disk that wait for analytics to answer."})
	m.analyticsUp = prometheus.NewGauge(prometheus.GaugeOpts{Name: "syncline_analytics_up", Help: "Whether the database of analytics takes rows; 1 where none is configured."})
	m.analyticsUp.Set(1)
	m.rotationsFailed = prometheus.NewGauge(prometheus.GaugeOpts{Name: "syncline_rotations_failed", Help: "Secrets whose newest rotation failed."})
	reg.MustRegister(m.analyticsSpill, m.analyticsUp, m.rotationsFailed)
	m.preset()
	build := gauge("build_info", "Always 1; the build is in the label.", "build_id")
	build.WithLabelValues(buildID).Set(1)
	return m
}

// table bounds tables over all pipelines together.
func (m *Metrics) table(pipeline, table string) string {
	if m.tables.value(pipeline+"\x00"+table) == other {
		return other
	}
	return table
}

// Wire counts what connections of a kind of activity carried to and from an end.
func (m *Metrics) Wire(pipeline, activity, peer string, sent, received int64) {
	p, end := m.pipelines.value(pipeline), m.sinks.value(pipeline+"\x00"+peer)
	if end != other {
		end = peer
	}
	m.wireBytes.WithLabelValues(p, activity, end, "sent").Add(float64(sent))
	m.wireBytes.WithLabelValues(p, activity, end, "received").Add(float64(received))
}

// Retried counts a failure that is tried again; code "" is an unnamed one.
func (m *Metrics) Retried(pipeline, code string) {
	if code == "" {
		code = "unnamed"
	}
	m.retries.WithLabelValues(m.pipelines.value(pipeline), m.codes.value(code)).Inc()
}

// Capture is the handle of one attempt at capturing a pipeline.
type Capture struct {
	m        *Metrics
	pipeline string
}

// Capture gives a handle; close it when the attempt ends.
func (m *Metrics) Capture(pipeline string) *Capture {
	return &Capture{m, m.pipelines.value(pipeline)}
}

// Changes counts what was read from the source. Tables are schema.name.
func (c *Capture) Changes(table, op string, n int) {
	c.m.captured.WithLabelValues(c.pipeline, c.m.table(c.pipeline, table), c.m.operations.value(op)).Add(float64(n))
}

// Written counts records that Kafka acknowledged, and bytes that it was given.
func (c *Capture) Written(records, bytes int) {
	c.m.kafkaRecords.WithLabelValues(c.pipeline).Add(float64(records))
	c.m.kafkaBytes.WithLabelValues(c.pipeline).Add(float64(bytes))
}

// Lag is the distance between the end of the source's log and what is safe in Kafka.
func (c *Capture) Lag(bytes uint64) { c.m.captureLag.WithLabelValues(c.pipeline).Set(float64(bytes)) }

// SlotRetained is how much log the source keeps because of the slot.
func (c *Capture) SlotRetained(bytes uint64) {
	c.m.slotRetained.WithLabelValues(c.pipeline).Set(float64(bytes))
}

// Close removes the gauges, which nobody updates any more.
func (c *Capture) Close() {
	c.m.captureLag.DeleteLabelValues(c.pipeline)
	c.m.slotRetained.DeleteLabelValues(c.pipeline)
}

// Deliver is the handle of one attempt at delivering one lane to one sink.
type Deliver struct {
	m                    *Metrics
	pipeline, sink, lane string
}

// Deliver gives a handle; close it when the attempt ends.
func (m *Metrics) Deliver(pipeline, sink string, lane int) *Deliver {
	d := &Deliver{m, m.pipelines.value(pipeline), m.sinks.value(sink), m.lanes.value(strconv.Itoa(lane))}
	m.hold(sinkKey{d.pipeline, d.sink})
	return d
}

// Applied counts changes that the sink has committed.
func (d *Deliver) Applied(table, op string, n int) {
	d.m.applied.WithLabelValues(d.pipeline, d.sink, d.m.table(d.pipeline, table), d.m.operations.value(op)).Add(float64(n))
}

// Duplicates counts changes below the watermark.
func (d *Deliver) Duplicates(table string, n int) { d.perTable(d.m.duplicates, table, n) }

// SkippedBySnapshot counts changes that the snapshot already contained.
func (d *Deliver) SkippedBySnapshot(table string, n int) { d.perTable(d.m.skipped, table, n) }

// DeadLetters counts changes set aside.
func (d *Deliver) DeadLetters(table string, n int) { d.perTable(d.m.deadLetters, table, n) }

func (d *Deliver) perTable(v *prometheus.CounterVec, table string, n int) {
	v.WithLabelValues(d.pipeline, d.sink, d.m.table(d.pipeline, table)).Add(float64(n))
}

// Batch is the time that one batch took to commit.
func (d *Deliver) Batch(took time.Duration) {
	d.m.batchSeconds.WithLabelValues(d.pipeline, d.sink).Observe(took.Seconds())
}

// Visible is the lag of one change or one transaction. The clocks of source and
// worker may differ, so a negative lag counts as none.
func (d *Deliver) Visible(lag time.Duration) {
	d.m.visibleSeconds.WithLabelValues(d.pipeline, d.sink).Observe(max(0, lag.Seconds()))
}

// Backlog is what the lane still has before it.
func (d *Deliver) Backlog(records int64) {
	d.m.backlog.WithLabelValues(d.pipeline, d.sink, d.lane).Set(float64(records))
}

// Waited is how long n changes of a tier took.
func (d *Deliver) Waited(tier string, lag time.Duration, n int) {
	h := d.m.tierSeconds.WithLabelValues(d.pipeline, d.sink, d.m.codes.value(tier))
	for range n {
		h.Observe(max(0, lag.Seconds()))
	}
}

// Waiting is how many changes wait for their tier, and the age of the oldest.
func (d *Deliver) Waiting(changes int64, age time.Duration) {
	d.m.tierWaiting.WithLabelValues(d.pipeline, d.sink, d.lane).Set(float64(changes))
	d.m.tierAge.WithLabelValues(d.pipeline, d.sink, d.lane).Set(max(0, age.Seconds()))
}

// Overdue is by how much what waits for a tier is later than the tier promises.
func (d *Deliver) Overdue(tier string, by time.Duration) {
	d.m.tierOverdue.WithLabelValues(d.pipeline, d.sink, d.lane, d.m.codes.value(tier)).Set(max(0, by.Seconds()))
}

// Fenced counts an attempt that found itself superseded.
func (d *Deliver) Fenced() { d.m.fenced.WithLabelValues(d.pipeline, d.sink).Inc() }

// Retried counts a failure that is tried again.
func (d *Deliver) Retried(code string) { d.m.Retried(d.pipeline, code) }

// Close removes the lane's gauge, and the sink's with its last lane; call it once.
func (d *Deliver) Close() {
	for _, g := range []*prometheus.GaugeVec{d.m.backlog, d.m.tierWaiting, d.m.tierAge} {
		g.DeleteLabelValues(d.pipeline, d.sink, d.lane)
	}
	d.m.tierOverdue.DeletePartialMatch(prometheus.Labels{"pipeline": d.pipeline, "sink": d.sink, "lane": d.lane})
	d.m.release(sinkKey{d.pipeline, d.sink})
}

// Snapshot is the handle for chunks copied into one sink.
type Snapshot struct {
	m              *Metrics
	pipeline, sink string
}

// Snapshot gives a handle, which needs no closing.
func (m *Metrics) Snapshot(pipeline, sink string) *Snapshot {
	return &Snapshot{m, m.pipelines.value(pipeline), m.sinks.value(sink)}
}

// Copied counts rows and bytes as they pass.
func (s *Snapshot) Copied(table string, rows, bytes int64) {
	t := s.m.table(s.pipeline, table)
	s.m.snapshotRows.WithLabelValues(s.pipeline, s.sink, t).Add(float64(rows))
	s.m.snapshotBytes.WithLabelValues(s.pipeline, s.sink, t).Add(float64(bytes))
}

// Chunk is the time that one chunk took.
func (s *Snapshot) Chunk(took time.Duration) {
	s.m.chunkSeconds.WithLabelValues(s.pipeline, s.sink).Observe(took.Seconds())
}

// Forget removes every series of a pipeline that was destroyed.
func (m *Metrics) Forget(pipeline string) {
	l := prometheus.Labels{"pipeline": m.pipelines.value(pipeline)}
	for _, v := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{
		m.captured, m.captureLag, m.slotRetained, m.kafkaRecords, m.kafkaBytes, m.applied, m.duplicates, m.skipped,
		m.deadLetters, m.batchSeconds, m.visibleSeconds, m.backlog, m.snapshotRows, m.snapshotBytes, m.chunkSeconds, m.fenced, m.retries,
		m.gated, m.capacity, m.sloTarget, m.sloEvents, m.verified, m.paused, m.repairsWaiting, m.repairsFailed,
		m.wireBytes, m.tierSeconds, m.tierWaiting, m.tierAge, m.tierOverdue, m.budgetUsed, m.budgetStanding,
	} {
		v.DeletePartialMatch(l)
	}
}

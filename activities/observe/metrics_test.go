package observe

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"syncline/analytics"
	"syncline/analytics/bill"
)

// useAll touches every metric.
func useAll(m *Metrics, pipeline string) (*Capture, *Deliver) {
	c := m.Capture(pipeline)
	c.Changes("public.orders", "insert", 3)
	c.Written(3, 300)
	c.Lag(42)
	c.SlotRetained(4200)
	d := m.Deliver(pipeline, "warehouse", 1)
	d.Applied("public.orders", "insert", 2)
	d.Duplicates("public.orders", 1)
	d.SkippedBySnapshot("public.orders", 1)
	d.DeadLetters("public.orders", 1)
	d.Batch(20 * time.Millisecond)
	d.Visible(-time.Second)
	d.Backlog(7)
	d.Capacity(0)
	d.Gated(1)
	m.Verified(pipeline, "warehouse", 9, 0, 1)
	m.Objective(pipeline, "freshness", 0.99, 98, 2)
	m.RotationsFailed(2)
	m.PricingCompleted(time.UnixMilli(1_500_500))
	m.Budget(pipeline, bill.Over, 1.25)
	m.SecurityFailed(analytics.SecurityAuth)
	m.AnalyticsSpill(400)
	d.Fenced()
	d.Retried("SinkUnreachable")
	m.Retried(pipeline, "")
	s := m.Snapshot(pipeline, "warehouse")
	s.Copied("public.orders", 1000, 50000)
	s.Chunk(2 * time.Second)
	return c, d
}

func scrape(t *testing.T, url string) string {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %v", url, r.StatusCode, err)
	}
	return string(b)
}

func TestMetricsLintAndServe(t *testing.T) {
	m := NewMetrics("b1")
	h := NewHealth()
	h.Register(m)
	useAll(m, "shop")
	sdk, closer, err := m.SDK(zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	tagged := sdk.WithTags(map[string]string{"namespace": "default", "task_queue": "syncline-control"})
	tagged.Counter("temporal_request").Inc(5)
	tagged.Gauge("temporal_worker_task_slots_available").Update(9)
	tagged.Timer("temporal_request_latency").Record(30 * time.Millisecond)
	if err := closer.Close(); err != nil {
		t.Fatal(err)
	}

	problems, err := testutil.GatherAndLint(m.Registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	srv := httptest.NewServer(Handler(m, h, false))
	defer srv.Close()
	text := scrape(t, srv.URL+"/metrics")
	for _, want := range []string{
		`syncline_changes_captured_total{op="insert",pipeline="shop",table="public.orders"} 3`,
		`syncline_kafka_bytes_written_total{pipeline="shop"} 300`,
		`syncline_backlog_records{lane="1",pipeline="shop",sink="warehouse"} 7`,
		`syncline_commit_to_visible_seconds_bucket{pipeline="shop",sink="warehouse",le="0.01"} 1`,
		`syncline_retries_total{code="unnamed",pipeline="shop"} 1`,
		`syncline_build_info{build_id="b1"} 1`,
		`syncline_loops_stalled 0`,
		`syncline_backlog_capacity_records{pipeline="shop",sink="warehouse"} 1e+07`,
		`syncline_tables_gated{pipeline="shop",sink="warehouse"} 1`,
		`syncline_verification_tables{pipeline="shop",sink="warehouse",verdict="equal"} 9`,
		`syncline_verification_tables{pipeline="shop",sink="warehouse",verdict="inconclusive"} 1`,
		`syncline_slo_events_total{objective="freshness",pipeline="shop",result="bad"} 2`,
		`syncline_slo_target_ratio{objective="freshness",pipeline="shop"} 0.99`,
		`syncline_rotations_failed 2`,
		`syncline_pricing_completed_timestamp_seconds 1500.5`,
		`syncline_budget_used_ratio{pipeline="shop"} 1.25`,
		`syncline_budget_standing{pipeline="shop"} 2`,
		`syncline_security_failures_total{kind="auth"} 1`,
		`syncline_analytics_spill_bytes 400`,
		`temporal_request_total{namespace="default",task_queue="syncline_control"} 5`,
		`temporal_request_latency_seconds_bucket{namespace="default",task_queue="syncline_control",le="0.05"} 1`,
		"go_goroutines", "process_resident_memory_bytes",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

func TestClosedHandlesLeaveNoGauges(t *testing.T) {
	m := NewMetrics("b1")
	c, d := useAll(m, "shop")
	c.Close()
	d.Close()
	for _, v := range []int{testutil.CollectAndCount(m.captureLag), testutil.CollectAndCount(m.slotRetained), testutil.CollectAndCount(m.backlog)} {
		if v != 0 {
			t.Errorf("%d gauges left", v)
		}
	}
	// What lanes of a sink share stays until the last of them ends.
	one, two := m.Deliver("shop", "warehouse", 0), m.Deliver("shop", "warehouse", 1)
	one.Gated(1)
	one.Close()
	if n := testutil.ToFloat64(m.gated.WithLabelValues("shop", "warehouse")); n != 1 {
		t.Errorf("%v tables gated", n)
	}
	two.Close()
	two.Gated(1)
	if n := testutil.CollectAndCount(m.gated); n != 0 {
		t.Errorf("%d sinks with gated tables are left", n)
	}
	if testutil.CollectAndCount(m.applied) != 1 {
		t.Error("a counter was removed with the gauges")
	}
}

func TestForgetRemovesOnlyThatPipeline(t *testing.T) {
	m := NewMetrics("b1")
	before, err := testutil.GatherAndCount(m.Registry)
	if err != nil {
		t.Fatal(err)
	}
	useAll(m, "kept")
	kept, _ := testutil.GatherAndCount(m.Registry)
	useAll(m, "gone")
	m.Forget("gone")
	after, _ := testutil.GatherAndCount(m.Registry)
	if after != kept || kept <= before {
		t.Errorf("%d series before, %d with one pipeline, %d after the other was forgotten", before, kept, after)
	}
}

func TestLabelsAreBounded(t *testing.T) {
	m := NewMetrics("b1")
	c := m.Capture("shop")
	for i := range maxTables * 2 {
		c.Changes(fmt.Sprintf("public.t%d", i), "insert", 1)
		m.Retried("shop", fmt.Sprintf("Code%d", i))
	}
	if n := testutil.CollectAndCount(m.captured); n != maxTables+1 {
		t.Errorf("%d series of tables", n)
	}
	if n := testutil.CollectAndCount(m.retries); n != maxCodes+1 {
		t.Errorf("%d series of codes", n)
	}
	if v := testutil.ToFloat64(m.captured.WithLabelValues("shop", other, "insert")); v != maxTables {
		t.Errorf("%v counted under %s", v, other)
	}
}

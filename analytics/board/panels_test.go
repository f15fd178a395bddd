package board

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"go.uber.org/zap"

	"syncline/activities/observe"
	"syncline/analytics"
	"syncline/analytics/bill"
	"syncline/testsuite/stack"
)

// busy uses every metric of a worker, a bit more at each scrape.
func busy(t *testing.T, pipeline string) http.Handler {
	t.Helper()
	m := observe.NewMetrics("b1")
	h := observe.NewHealth()
	h.Register(m)
	h.Expect("capture", time.Hour)
	sdk, closer, err := m.SDK(zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = closer.Close() })
	requests := sdk.WithTags(map[string]string{"operation": "PollActivityTaskQueue"}).Counter("temporal_request")
	requests.Inc(1)
	c, d, s := m.Capture(pipeline), m.Deliver(pipeline, "warehouse", 0), m.Snapshot(pipeline, "warehouse")
	served := observe.Handler(m, h, false)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.Changes("shop.orders", "insert", 7)
		c.Written(7, 700)
		c.Lag(100)
		c.SlotRetained(1000)
		d.Applied("shop.orders", "insert", 5)
		d.Duplicates("shop.orders", 1)
		d.SkippedBySnapshot("shop.orders", 1)
		d.DeadLetters("shop.orders", 1)
		d.Batch(20 * time.Millisecond)
		d.Visible(30 * time.Millisecond)
		d.Backlog(12)
		d.Waiting(4, time.Minute)
		d.Overdue("hourly", time.Second)
		d.Waited("hourly", time.Minute, 2)
		d.Capacity(0)
		d.Gated(1)
		d.Fenced()
		d.Retried("SinkUnreachable")
		s.Copied("shop.orders", 10, 1000)
		s.Chunk(time.Second)
		m.Verified(pipeline, "warehouse", 8, 1, 1)
		m.Objective(pipeline, "freshness", 0.99, 9, 1)
		m.RotationsFailed(1)
		m.PricingCompleted(time.Unix(1, 0)) // the end-to-end test looks at the newest of all
		m.Budget(pipeline, bill.Near, 0.9)
		m.Wire(pipeline, "Deliver", "kafka", 100, 1000)
		m.SecurityFailed(analytics.SecurityAuth)
		m.AnalyticsRows(observe.AnalyticsWritten, 3)
		m.AnalyticsSpill(30)
		m.AnalyticsUp(true)
		requests.Inc(1)
		served.ServeHTTP(w, r)
	})
}

type answer struct {
	Status string
	Error  string
	Data   struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
		}
	}
}

func query(ctx context.Context, base, expr string) (answer, error) {
	var a answer
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/v1/query?"+url.Values{"query": {expr}}.Encode(), nil)
	if err != nil {
		return a, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return a, err
	}
	defer func() { _ = res.Body.Close() }()
	if err := json.NewDecoder(res.Body).Decode(&a); err != nil {
		return a, err
	}
	if a.Status != "success" {
		return a, fmt.Errorf("%s: %s", expr, a.Error)
	}
	return a, nil
}

// number tells whether an answer has at least one value that is one.
func (a answer) number() bool {
	for _, r := range a.Data.Result {
		if v, err := strconv.ParseFloat(fmt.Sprint(r.Value[1]), 64); err == nil && v == v {
			return true
		}
	}
	return false
}

func reload(t *testing.T, base string) {
	t.Helper()
	res, err := http.Post(base+"/-/reload", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("Prometheus does not reload: %s", res.Status)
	}
}

// Each panel over Prometheus has an answer when a worker does everything once. That
// a worker with a real pipeline does is shown by the end-to-end test of the alerts.
func TestPrometheusPanelsHaveAnswers(t *testing.T) {
	m := stack.Prometheus(t)
	name := strings.ReplaceAll(stack.Name(t), "_", "-")
	srv := httptest.NewServer(busy(t, name))
	defer srv.Close()
	rules, targets := filepath.Join(m.Dir, "rules", name+".yml"), filepath.Join(m.Dir, "targets", name+".json")
	t.Cleanup(func() {
		_ = os.Remove(targets)
		_ = os.Remove(rules)
		reload(t, m.URL)
	})
	for path, text := range map[string]string{
		rules: Rules(Plain()), targets: fmt.Sprintf(`[{"targets": [%q], "labels": {"test": %q}}]`, strings.TrimPrefix(srv.URL, "http://"), name),
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	reload(t, m.URL)
	for _, d := range Dashboards() {
		for _, p := range d.Panels {
			if p.Source != Prometheus {
				continue
			}
			expr := p.Expanded("", name)
			if strings.Contains(expr, "$") {
				t.Errorf("%s: %s: a variable is left in %s", d.UID, p.Title, expr)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			for {
				a, err := query(ctx, m.URL, expr)
				if err != nil {
					t.Errorf("%s: %s: %v", d.UID, p.Title, err)
					break
				}
				if a.number() {
					break
				}
				select {
				case <-time.After(200 * time.Millisecond):
					continue
				case <-ctx.Done():
					t.Errorf("%s: %s: no answer to %s", d.UID, p.Title, expr)
				}
				break
			}
			cancel()
		}
	}
	// An expression that is none is told from one without an answer.
	if _, err := query(t.Context(), m.URL, "sum("); err == nil {
		t.Error("a broken query is taken for a good one")
	}
}

// filled gives every column a value that shows in a query.
func filled(r analytics.Row, pipeline string, at time.Time) analytics.Row {
	v := reflect.ValueOf(r).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Interface().(type) {
		case time.Time:
			f.Set(reflect.ValueOf(at))
		case string:
			f.SetString("x")
			if v.Type().Field(i).Name == "Pipeline" {
				f.SetString(pipeline)
			}
		case bool:
			f.SetBool(true)
		case uint32, uint64, uint16:
			f.SetUint(2)
		case int64, int32:
			f.SetInt(2)
		case float64:
			f.SetFloat(2)
		case decimal.Decimal:
			f.Set(reflect.ValueOf(decimal.NewFromInt(2)))
		case *decimal.Decimal: // panels that show what has no price look for none
		case map[string]string:
			f.Set(reflect.ValueOf(map[string]string{"a": "b"}))
		case map[uint16]uint64:
			f.Set(reflect.ValueOf(map[uint16]uint64{1: 2}))
		default:
			panic(f.Type().String())
		}
	}
	return r
}

func everyRow() []analytics.Row {
	return []analytics.Row{
		new(analytics.Applies), new(analytics.Lag), new(analytics.Errors), new(analytics.Retries), new(analytics.Duplicates), new(analytics.DeadLetters),
		new(analytics.Backlog), new(analytics.Throughput), new(analytics.Progress), new(analytics.SchemaVersions), new(analytics.Verifications), new(analytics.Repairs),
		new(analytics.Conflicts), new(analytics.Rotations), new(analytics.AuditTrail), new(analytics.CostLedger), new(analytics.SecurityEvents), new(analytics.Objectives), new(analytics.Wire), new(analytics.Freshness), new(analytics.Usage), new(analytics.Storage), new(analytics.Pricings), new(analytics.Prices), new(analytics.Budgets),
	}
}

// Each panel over ClickHouse has rows when every table has one, and every table is
// looked at by a panel.
func TestClickHousePanelsHaveRows(t *testing.T) {
	dsn := stack.ClickHouseDatabase(t)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	database := strings.TrimPrefix(u.Path, "/")
	store, err := analytics.OpenStore(stack.ClickHouse(t), database, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	if err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	tables := map[string]bool{}
	for _, r := range everyRow() {
		tables[r.Table()] = true
		if err := store.Insert(t.Context(), "one/"+r.Table(), []analytics.Row{filled(r, "shop", time.Now().UTC())}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range analytics.Tables() {
		if !tables[name] {
			t.Errorf("table %s has no row in this test", name)
		}
	}
	u.Path = "/"
	looked := map[string]bool{}
	for _, d := range Dashboards() {
		for _, p := range d.Panels {
			if p.Source != ClickHouse {
				continue
			}
			for name := range tables {
				if name == "cost_ledger" && strings.Contains(p.Query, Database+".cost ") || strings.Contains(p.Query, Database+"."+name+" ") || strings.Contains(p.Query, Database+"."+name+analytics.HourlySuffix+" ") {
					looked[name] = true
				}
			}
			for _, pipeline := range []string{"shop", "other"} {
				sql := p.Expanded(database, pipeline)
				if strings.Contains(sql, "$_") || strings.Contains(sql, "${") {
					t.Errorf("%s: %s: a variable is left in %s", d.UID, p.Title, sql)
				}
				out := click(t, u.String(), sql+" FORMAT JSONCompact")
				var a struct {
					Meta []struct{ Name, Type string }
					Data [][]any
				}
				if err := json.Unmarshal([]byte(out), &a); err != nil {
					t.Errorf("%s: %s: %v: %s", d.UID, p.Title, err, out)
					continue
				}
				whole := !strings.Contains(p.Query, "${pipeline")
				if (len(a.Data) > 0) != (pipeline == "shop" || whole) {
					t.Errorf("%s: %s: %d rows for pipeline %s: %s", d.UID, p.Title, len(a.Data), pipeline, sql)
				}
				if p.Type == Graph && (len(a.Meta) != 3 || !strings.HasPrefix(a.Meta[0].Type, "DateTime") || !strings.Contains(a.Meta[1].Type, "String")) {
					t.Errorf("%s: %s: a graph wants time, name and value, not %v", d.UID, p.Title, a.Meta)
				}
			}
		}
	}
	for name := range tables {
		if !looked[name] {
			t.Errorf("no panel looks at %s", name)
		}
	}
}

func click(t *testing.T, at, sql string) string {
	t.Helper()
	res, err := http.Post(at, "text/plain", strings.NewReader(sql))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s %v", sql, res.Status, b, err)
	}
	return string(b)
}

// A dashboard is what Grafana reads: no panels over one another, all of them described.
func TestDashboardsAreComplete(t *testing.T) {
	for _, d := range Dashboards() {
		var got struct {
			UID    string
			Panels []struct {
				ID          int
				Title       string
				Description string
				GridPos     struct{ X, Y, W, H int }
				Targets     []struct{ Expr, RawSQL string }
			}
		}
		if err := json.Unmarshal([]byte(d.JSON()), &got); err != nil {
			t.Fatal(err)
		}
		if got.UID != d.UID || len(got.Panels) != len(d.Panels) || len(d.Panels) < 10 {
			t.Errorf("%s: %d panels", got.UID, len(got.Panels))
		}
		taken, titles := map[[2]int]string{}, map[string]bool{}
		for _, p := range got.Panels {
			if p.Title == "" || p.Description == "" || titles[p.Title] || len(p.Targets) != 1 || p.Targets[0].Expr+p.Targets[0].RawSQL == "" {
				t.Errorf("%s: panel %q", d.UID, p.Title)
			}
			titles[p.Title] = true
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
						t.Fatalf("%s: %s lies over %s, or beyond the edge", d.UID, p.Title, other)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
		}
	}
}

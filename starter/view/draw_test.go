package view

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"

	"syncline/activities/contract"
	"syncline/analytics/bill"
	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/pipeline"
	"syncline/tiers/cost"
)

var update = flag.Bool("update", false, "write the golden files again")

var (
	fancy = Style{Color: true, Bars: true, Width: 100, Height: 40}
	plain = Style{}
	noon  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

func golden(t *testing.T, name string, v *View, s Style) {
	t.Helper()
	var b bytes.Buffer
	v.Draw(&b, s)
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("%s, got:\n%s\nwant:\n%s", name, b.String(), want)
	}
	for i, l := range strings.Split(b.String(), "\n") {
		if s.Width > 0 && seen(l) > s.Width {
			t.Errorf("line %d is %d wide, the terminal %d", i+1, seen(l), s.Width)
		}
		if !s.Color && strings.Contains(l, "\x1b") {
			t.Errorf("line %d has colour", i+1)
		}
	}
}

func id(name string) change.TableID { return change.TableID{Schema: "shop", Name: name} }

func table1(name string, warehouse, analytics sink.State) contract.TableStatus {
	return contract.TableStatus{Table: id(name), Sinks: map[string]sink.State{"warehouse": warehouse, "analytics": analytics}}
}

func lanes(name string, states ...string) (out []Component) {
	for i, st := range states {
		out = append(out, Component{Name: contract.LaneComponent(name, i), State: st})
	}
	return out
}

func loading() *View {
	begun := noon.Add(-20 * time.Second)
	load := func(sinkName, table string, chunks, done int, rows int64) contract.LoadState {
		return contract.LoadState{Sink: sinkName, Table: id(table), Estimate: int64(chunks) * 50000, Size: int64(chunks) * 5_000_000, Planned: true, Chunks: chunks, Done: done, Rows: rows,
			Bytes: rows * 100, State: sink.Loading, Begun: begun}
	}
	done := load("warehouse", "customers", 2, 2, 100000)
	done.State, done.Ended = sink.Streaming, noon.Add(-5*time.Second)
	long := done
	long.Table, long.Ended = id("countries"), noon.Add(-15*time.Second)
	waiting := contract.LoadState{Sink: "analytics", Table: id("payments"), State: sink.Loading}
	indexes := load("warehouse", "orders", 8, 8, 400000)
	return &View{
		At: noon,
		Status: contract.PipelineStatus{Name: "shop", Phase: contract.Bootstrapping, Since: begun,
			Tables: []contract.TableStatus{table1("customers", sink.Streaming, sink.Loading), table1("countries", sink.Streaming, sink.Streaming), table1("orders", sink.Loading, sink.Loading)}},
		Loads:   []contract.LoadStatus{{Pipeline: "shop", Begun: begun, Loads: []contract.LoadState{waiting, done, long, load("warehouse", "order_items", 20, 7, 351234), load("analytics", "order_items", 20, 0, 0), indexes}}},
		Copying: []contract.ChunkProgress{{Sink: "analytics", Table: id("order_items"), N: 0, Bytes: 2_500_000}, {Sink: "warehouse", Table: id("order_items"), N: 8, Bytes: 1 << 30}},
		Capture: Component{Name: "capture", State: StateRunning},
		Flow:    &contract.CaptureProgress{Rate: 1012.4, LagBytes: 20480, SpillBytes: 3 << 20},
		Sinks:   []Sink{{Name: "warehouse", Lanes: lanes("warehouse", StateRunning, StateRunning), Rate: 512, LagP50: .021, LagP99: .18, Backlog: 12}, {Name: "analytics", Lanes: lanes("analytics", StateWaiting, StateWaiting)}},
	}
}

func streaming() *View {
	return &View{
		At:      noon,
		Status:  contract.PipelineStatus{Name: "shop", Phase: contract.Streaming, Since: noon.Add(-3*time.Hour - 4*time.Second), Tables: []contract.TableStatus{table1("orders", sink.Streaming, sink.Streaming)}},
		Capture: Component{Name: "capture", State: StateRunning},
		Flow:    &contract.CaptureProgress{Rate: 12345, LagBytes: 0},
		Sinks: []Sink{
			{Name: "warehouse", Lanes: lanes("warehouse", StateRunning, StateRunning, StateRunning, StateRunning), Rate: 12345, LagP50: .012, LagP99: .12},
			{Name: "analytics", Lanes: lanes("analytics", StateRunning), Rate: 12001, LagP50: .2, LagP99: 1.42, Backlog: 31234, Dead: 3},
		},
	}
}

func degraded() *View {
	v := streaming()
	v.Status.Phase = contract.Degraded
	v.Status.Failure = &contract.Failure{Code: "SlotInvalidated", Message: "SlotInvalidated: replication slot \"syncline_shop\" lost WAL that it needs (fix: resync the tables: starter resync-table; raise max_slot_wal_keep_size before)"}
	v.Status.Tables = append(v.Status.Tables, contract.TableStatus{Table: id("events"), Reason: "warehouse: TableMismatch: column \"n\" is missing", Sinks: map[string]sink.State{"warehouse": sink.Gated, "analytics": sink.Streaming}})
	v.Capture = Component{Name: "capture", State: StateFailed, Failure: &contract.Failure{Code: "SlotInvalidated", Message: "SlotInvalidated: replication slot \"syncline_shop\" lost WAL that it needs"}}
	v.Flow = nil
	down := &contract.Failure{Code: "SinkUnreachable", Message: "SinkUnreachable: ClickHouse sink of pipeline shop: connection refused"}
	v.Sinks[1].Lanes = lanes("analytics", StateRetrying, StateRetrying, StateRunning)
	v.Sinks[1].Lanes[0].Failure, v.Sinks[1].Lanes[1].Failure = down, down
	v.Notes = []string{"bootstrap/shop/1: workflow not found"}
	return v
}

func TestDraw(t *testing.T) {
	ended := &View{At: noon, Closed: "Failed", Status: contract.PipelineStatus{Name: "shop", Phase: contract.SetupFailed, Since: noon.Add(-time.Minute),
		Failure: &contract.Failure{Code: "SetupFailed", Message: `step "create the slot": SlotsExhausted: all 10 replication slots are taken`, Step: ""}}}
	paused := streaming()
	paused.Status.Phase = contract.Paused
	paused.Flow, paused.Capture.State = nil, StateStopped
	paused.Sinks = []Sink{{Name: "warehouse", Lanes: lanes("warehouse", StateStopped, StateStopped)}}
	preparing := &View{At: noon, Status: contract.PipelineStatus{Name: "shop", Phase: contract.Preparing, Since: noon}}
	waiting := &View{At: noon, Status: contract.PipelineStatus{Name: "shop", Phase: contract.Preparing, Since: noon.Add(-3 * time.Minute)}}
	for i := range 30 {
		waiting.WaitingFor = append(waiting.WaitingFor, fmt.Sprintf(`process %d ("nightly report", user "ana", idle in transaction), in a transaction for 3h2m1s`, 4711+i))
	}
	failing := loading()
	failing.Loads[0].Loads[4].Failure = &contract.Failure{Code: "SinkPrivilege", Message: "SinkPrivilege: permission denied for schema shop (fix: grant the right to the sink's role)"}
	spent := streaming()
	spent.Status.Slowed = 4
	spent.Status.Spec = pipeline.Spec{Budget: &pipeline.Budget{Amount: "100 USD", Per: "month", Slow: 4}, Kafka: pipeline.Kafka{Retention: pipeline.Duration(7 * 24 * time.Hour)}, Tiers: []pipeline.Tier{{Name: "hourly", Every: pipeline.Duration(time.Hour)}, {Name: "daily", Every: pipeline.Duration(24 * time.Hour)}}}
	spent.Status.Budget = &bill.Budget{Standing: bill.Over, Per: "month", Spent: decimal.RequireFromString("120.5"), At: noon, Forecast: cost.Forecast{Expected: 150, Low: 140, High: 160}, Why: "some of what was used has no price and is not in it: starter cost shop"}
	unknown := streaming()
	unknown.Status.Spec = pipeline.Spec{Budget: &pipeline.Budget{Amount: "100 USD", Per: "day"}}
	for name, v := range map[string]*View{"budget-spent": spent, "budget-new": unknown, "loading": loading(), "streaming": streaming(), "degraded": degraded(), "ended": ended, "paused": paused, "preparing": preparing, "waiting": waiting, "load-failed": failing} {
		golden(t, name+".color", v, fancy)
		golden(t, name+".plain", v, plain)
	}
	golden(t, "degraded.narrow", degraded(), Style{Color: true, Width: 40})
}

// A pipeline of a thousand tables fits on a screen, what fails first.
func TestManyLoadsFitOnAScreen(t *testing.T) {
	v := loading()
	v.Loads[0].Loads = nil
	for i := range 1000 {
		v.Loads[0].Loads = append(v.Loads[0].Loads, contract.LoadState{Sink: "warehouse", Table: id(fmt.Sprintf("t%04d", i)), State: sink.Loading, Planned: i%2 == 0, Chunks: 4, Begun: noon})
	}
	v.Loads[0].Loads[777].Failure = &contract.Failure{Code: "SinkPrivilege", Message: "no"}
	var b bytes.Buffer
	v.Draw(&b, fancy)
	lines := strings.Split(b.String(), "\n")
	if len(lines) > fancy.Height {
		t.Errorf("%d lines on a terminal of %d:\n%s", len(lines), fancy.Height, b.String())
	}
	if !strings.Contains(lines[3], "t0777") || !strings.Contains(b.String(), "… and 972 more") || !strings.Contains(b.String(), "0 of 1000 done") {
		t.Errorf("what failed is not first, or what is left out is not told:\n%s", b.String())
	}
}

func TestFitCutsWhatIsSeen(t *testing.T) {
	for _, c := range []struct {
		in    string
		width int
		want  string
	}{
		{"abc", 0, "abc"}, {"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"äöüß", 3, "äö…"},
		{"\x1b[31mred\x1b[0m", 3, "\x1b[31mred\x1b[0m"},
		{"\x1b[31mredder\x1b[0m", 3, "\x1b[31mre…\x1b[0m"},
	} {
		if got := Fit(c.in, c.width); got != c.want {
			t.Errorf("Fit(%q, %d) = %q, want %q", c.in, c.width, got, c.want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for f, want := range map[float64]string{0: "0", 9999: "9999", 12345: "12.3k", 4.56e6: "4.56M", 2e9: "2.00G"} {
		if got := Count(f); got != want {
			t.Errorf("Count(%v) = %s", f, got)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 5 << 30: "5.0 GiB", 1 << 50: "1024.0 TiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %s", n, got)
		}
	}
	for s, want := range map[float64]string{0: "-", .0123: "12 ms", 1.42: "1.4 s"} {
		if got := Millis(s); got != want {
			t.Errorf("Millis(%v) = %s", s, got)
		}
	}
	for _, c := range [][3]string{{"A", "A: b", "A: b"}, {"A", "b", "A: b"}, {"", "b", "b"}, {"Error", "b", "b"}} {
		if got := Said(c[0], c[1]); got != c[2] {
			t.Errorf("Said(%q, %q) = %q", c[0], c[1], got)
		}
	}
}

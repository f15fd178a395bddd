package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"

	"syncline/activities/contract"
	"syncline/analytics/bill"
	"syncline/analytics/report"
	"syncline/dataplane/change"
	"syncline/dataplane/repair"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
	"syncline/pipeline"
	"syncline/testsuite/stack"
	"syncline/tiers/cost"
	"syncline/workflows"
)

// asStarter makes the test binary behave as the tool, for tests that run it as a process.
const asStarter = "SYNCLINE_TEST_AS_STARTER"

func TestMain(m *testing.M) {
	if os.Getenv(asStarter) != "" {
		main()
	}
	os.Exit(m.Run())
}

// result is what one invocation left.
type result struct {
	t        *testing.T
	args     []string
	code     int
	out, err string
}

// call is one invocation: its arguments and what surrounds it.
type call struct {
	args     []string
	stdin    string
	terminal bool // of output, errors and input
	env      map[string]string
	ctx      context.Context
	edit     func(*tool)
}

// patience bounds one invocation: a machine that does much else may take ten
// seconds for a workflow task, and a steering command takes many of them.
const patience = 3 * time.Minute

func (c call) run(t *testing.T) result {
	t.Helper()
	var out, errs bytes.Buffer
	lookup := func(n string) (string, bool) { v, ok := c.env[n]; return v, ok }
	tl := &tool{
		in: strings.NewReader(c.stdin), out: &out, err: &errs,
		getenv: func(n string) string { return c.env[n] }, lookup: lookup, environ: func() (out []string) {
			for name, value := range c.env {
				out = append(out, name+"="+value)
			}
			return out
		},
		terminal: c.terminal, errTerminal: c.terminal, interactive: c.terminal,
		size:      func() (int, int) { return 100, 40 },
		dialBound: patience, workerBound: patience,
	}
	if c.edit != nil {
		c.edit(tl)
	}
	ctx := c.ctx
	if ctx == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.Background(), patience)
		defer cancel()
	}
	code := run(ctx, tl, c.args)
	return result{t, c.args, code, out.String(), errs.String()}
}

// starter runs the tool with arguments and a clean environment.
func starter(t *testing.T, args ...string) result {
	t.Helper()
	return call{args: args}.run(t)
}

func (r result) exits(code int) result {
	r.t.Helper()
	if r.code != code {
		r.t.Errorf("%v: exit code %d, want %d\nout: %s\nerr: %s", r.args, r.code, code, r.out, r.err)
	}
	return r
}

// says checks that standard output, or errors, hold texts.
func (r result) says(texts ...string) result {
	r.t.Helper()
	for _, s := range texts {
		if !strings.Contains(r.out+r.err, s) {
			r.t.Errorf("%v lacks %q:\nout: %s\nerr: %s", r.args, s, r.out, r.err)
		}
	}
	return r
}

// object checks that standard output is one line with one JSON object.
func (r result) object(into any) result {
	r.t.Helper()
	d := json.NewDecoder(strings.NewReader(r.out))
	var first map[string]any
	if err := d.Decode(&first); err != nil || d.More() || r.err != "" {
		r.t.Errorf("%v: not exactly one JSON object (%v):\nout: %s\nerr: %s", r.args, err, r.out, r.err)
	}
	if into != nil {
		if err := json.Unmarshal([]byte(r.out), into); err != nil {
			r.t.Errorf("%v: %v in %s", r.args, err, r.out)
		}
	}
	return r
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

func declaration(name string) string {
	return `version: 1
name: ` + name + `
source: {type: postgres, dsn: env:SOURCE}
kafka: {brokers: ["127.0.0.1:9092"]}
sinks:
  - {name: warehouse, type: postgres, dsn: env:SINK}
  - {name: analytics, type: clickhouse, dsn: env:CLICKHOUSE}
tables: ["shop.*"]
`
}

// fakes stand in for the activities; the workflows are the real ones.
type fakes struct {
	mu     sync.Mutex
	fail   map[string]error
	gates  map[string]chan struct{} // an activity waits until its gate is closed
	calls  []string
	report contract.Report
	// measured is what a report says, but for its name, time and objectives
	measured report.Report
	blocks   []string                // that CreateSlot waits for
	verdicts []contract.TableVerdict // by task of an audit; none: equal
	alike    *contract.Compared      // what a replay says
	prices   []bill.Applied          // price tables, the newest first
	left     contract.ErasePlace     // what an erasure finds in the log
	skip     string                  // why a run of a tier has nothing to do
	advice   contract.AdviseResult   // what the past says, but for the pipeline's name
	advised  []contract.AdviseInput
}

func (f *fakes) waiting() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.blocks
}

func (f *fakes) block(by ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blocks = by
}

func (f *fakes) set(name string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail[name] = err
}

// answer says what verifications of some tables at some sinks come to.
func (f *fakes) answer(vs ...contract.TableVerdict) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.verdicts = vs
}

func (f *fakes) gate(name string) (open func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ch := make(chan struct{})
	f.gates[name] = ch
	return sync.OnceFunc(func() { close(ch) })
}

func (f *fakes) did(name string, of any) error {
	f.mu.Lock()
	gate := f.gates[name]
	f.mu.Unlock()
	if gate != nil {
		<-gate
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprint(name, " ", of))
	return f.fail[name]
}

func (f *fakes) called(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.calls, func(c string) bool { return strings.HasPrefix(c, name) })
}

func (f *fakes) register(w worker.Worker, c client.Client) {
	reg := func(name string, fn any) { w.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name}) }
	tables := []contract.ResolvedTable{{Table: change.TableID{Schema: "shop", Name: "customers"}}, {Table: change.TableID{Schema: "shop", Name: "orders"}}}
	events := change.TableID{Schema: "web", Name: "events"}
	reg(contract.ResolveActivity, func(_ context.Context, in contract.SetupInput) (contract.Resolved, error) {
		out := contract.Resolved{SystemID: "7"}
		for _, t := range append(slices.Clone(tables), contract.ResolvedTable{Table: events}) {
			if slices.Contains(in.Tables, t.Table) || len(in.Tables) == 0 && len(in.Spec.Match([]change.TableID{t.Table}).Tables) == 1 {
				out.Tables = append(out.Tables, t)
			}
		}
		return out, f.did(contract.ResolveActivity, "")
	})
	for _, name := range []string{contract.EnsureTopicsActivity, contract.EnsurePublicationActivity} {
		reg(name, func(_ context.Context, in contract.SetupInput) (contract.Made, error) {
			return contract.Made{Created: true}, f.did(name, len(in.Tables))
		})
	}
	reg(contract.CreateSlotActivity, func(ctx context.Context, _ contract.SetupInput) (contract.SlotMade, error) {
		for f.waiting() != nil {
			activity.RecordHeartbeat(ctx, &contract.SlotProgress{WaitingFor: f.waiting()})
			time.Sleep(20 * time.Millisecond)
		}
		return contract.SlotMade{Created: true, At: 0x100}, f.did(contract.CreateSlotActivity, "")
	})
	for _, name := range []string{contract.DropSlotActivity, contract.DropPublicationActivity, contract.DeleteTopicsActivity} {
		reg(name, func(context.Context, contract.TeardownInput) error { return f.did(name, "") })
	}
	for _, name := range []string{contract.PrepareSinkActivity, contract.ForgetSinkActivity} {
		reg(name, func(_ context.Context, in contract.SinkInput) error {
			return f.did(name, fmt.Sprintf("%s rows=%v", in.Sink, in.DropRows))
		})
	}
	reg(contract.ScheduleTiersActivity, func(_ context.Context, in contract.TierSchedules) error {
		return f.did(contract.ScheduleTiersActivity, len(in.Tiers))
	})
	reg(contract.PlanTierActivity, func(_ context.Context, in contract.TierInput) (contract.TierPlan, error) {
		f.mu.Lock()
		out := contract.TierPlan{At: change.Position{Epoch: 1, Commit: 0x500}, Skipped: f.skip}
		f.mu.Unlock()
		for _, s := range []string{"warehouse", "analytics"} {
			if out.Skipped == "" {
				out.Tasks = append(out.Tasks, contract.TierTask{Pipeline: in.Pipeline, Tier: in.Tier, Sink: pipeline.Sink{Name: s}, Tables: []change.TableID{events}, At: out.At})
			}
		}
		return out, f.did(contract.PlanTierActivity, in.Tier)
	})
	reg(contract.DrainTierActivity, func(_ context.Context, in contract.TierTask) (contract.TierDrained, error) {
		return contract.TierDrained{Sink: in.Sink.Name, Tables: len(in.Tables), Waited: 5, Seconds: 1}, f.did(contract.DrainTierActivity, in.Sink.Name)
	})
	for _, name := range []string{contract.FinishLoadActivity, contract.ResetTableActivity, contract.RemoveTableActivity} {
		reg(name, func(_ context.Context, in contract.TableTask) error { return f.did(name, in.Table) })
	}
	stay := func(ctx context.Context, beat any) error {
		for {
			activity.RecordHeartbeat(ctx, beat)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-activity.GetWorkerStopChannel(ctx):
				return temporal.NewApplicationError("stopping", contract.WorkerStoppedError)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	reg(contract.CaptureActivity, func(ctx context.Context, _ contract.CaptureInput) error {
		if err := f.did(contract.CaptureActivity, ""); err != nil {
			return err
		}
		return stay(ctx, contract.CaptureProgress{Rate: 1000, LagBytes: 2048})
	})
	reg(contract.DeliverActivity, func(ctx context.Context, in contract.DeliverInput) error {
		p := contract.DeliverProgress{Rate: 500, LagP50: .01, LagP99: .1, Backlog: 5}
		for _, t := range in.Spec.Tiers {
			p.Waits, p.WaitsSince = 7, time.Now().Add(-2*time.Hour)
			p.Tiers = map[string]contract.TierWait{t.Name: {Waits: 7, Since: p.WaitsSince, Overdue: 42, At: time.Now(), Changes: 3, Late: 1, Longest: 60}}
		}
		return stay(ctx, p)
	})
	reg(contract.HoldSnapshotActivity, func(ctx context.Context, in contract.HoldInput) error {
		if err := c.SignalWorkflow(ctx, in.Workflow, "", contract.GenerationSignal, contract.Generation{N: in.After + 1, Name: "s"}); err != nil {
			return err
		}
		return stay(ctx, nil)
	})
	reg(contract.PlanChunksActivity, func(context.Context, contract.TableTask) (contract.ChunkPlan, error) {
		return contract.ChunkPlan{Chunks: 2, Estimate: 20}, f.did(contract.PlanChunksActivity, "")
	})
	reg(contract.CopyChunkActivity, func(context.Context, contract.ChunkTask) (contract.ChunkDone, error) {
		return contract.ChunkDone{Rows: 10, Bytes: 1000}, f.did(contract.CopyChunkActivity, "")
	})
	reg(contract.MeasureActivity, func(_ context.Context, in contract.ReportInput) (report.Report, error) {
		r := f.measured
		r.Pipeline, r.Since, r.Until = in.Pipeline, in.Since, in.Until
		for _, o := range in.Objectives {
			r.Objectives = append(r.Objectives, report.Judge(o, report.Events{Good: 999, Bad: 1}, report.Events{}, report.Events{}))
		}
		return r, f.did(contract.MeasureActivity, in.Pipeline)
	})
	reg(contract.PriceHoursActivity, func(_ context.Context, in contract.PriceInput) (bill.Pricing, error) {
		return bill.Pricing{From: in.From, Until: in.Until, Dry: in.Dry, Prices: "v1", Currency: "USD", Hours: 24, Changed: 2, After: decimal.NewFromInt(3), Pipelines: []bill.Difference{{Pipeline: "shop", After: decimal.NewFromInt(3)}}},
			f.did(contract.PriceHoursActivity, fmt.Sprint(in.Dry, len(in.Text) > 0))
	})
	reg(contract.BudgetsActivity, func(context.Context) ([]bill.Budget, error) { return nil, f.did(contract.BudgetsActivity, "") })
	reg(contract.KeepPricesActivity, func(_ context.Context, in contract.PricesInput) (contract.PricesResult, error) {
		f.mu.Lock()
		out := contract.PricesResult{Applied: f.prices}
		if out.Changed = in.Text != "" && (len(f.prices) == 0 || f.prices[0].Text != in.Text); out.Changed {
			out.Applied = append([]bill.Applied{{Version: "v1", At: time.Now(), Who: in.Who, Why: in.Why, Currency: "USD", Text: in.Text}}, f.prices...)
			f.prices = out.Applied
		}
		f.mu.Unlock()
		return out, f.did(contract.KeepPricesActivity, in.Who)
	})
	reg(contract.ReportCostActivity, func(_ context.Context, in contract.CostInput) (bill.Report, error) {
		g := bill.Group{Key: []string{"stream", "s.a"}[:len(in.By)], Cost: decimal.NewFromInt(7), Share: 1, Moved: 1 << 30, Points: []float64{3, 4}}
		if in.Pipeline == "nobody" {
			return bill.Report{Pipeline: in.Pipeline, Since: in.Since, Until: in.Until, By: in.By, Currency: "USD", Prices: "v1"}, f.did(contract.ReportCostActivity, in.Pipeline)
		}
		return bill.Report{Pipeline: in.Pipeline, Since: in.Since, Until: in.Until, Priced: in.Until, By: in.By, Currency: "USD", Prices: "v1", Groups: []bill.Group{g}, Total: g, Forecast: cost.Forecast{Why: "too little"}},
			f.did(contract.ReportCostActivity, in.Pipeline)
	})
	reg(contract.PlanAuditActivity, func(_ context.Context, in contract.AuditInput) (contract.AuditPlan, error) {
		out := contract.AuditPlan{Sinks: []pipeline.Sink{{Name: "warehouse"}, {Name: "analytics"}}}
		for _, t := range tables {
			for _, s := range out.Sinks {
				if (len(in.Tables) == 0 || slices.Contains(in.Tables, t.Table)) && (len(in.Sinks) == 0 || slices.Contains(in.Sinks, s.Name)) {
					out.Tasks = append(out.Tasks, contract.AuditTask{Sink: s.Name, Table: t.Table})
				}
			}
		}
		what := fmt.Sprintf("%g %d", in.RowsPerSecond, in.Parallel)
		if in.Changed {
			out.Kafka = &pipeline.Kafka{}
			what += " changed"
		}
		return out, f.did(contract.PlanAuditActivity, what)
	})
	reg(contract.VerifyTableActivity, func(_ context.Context, in contract.VerifyTask) (contract.TableVerdict, error) {
		out := contract.TableVerdict{Sink: in.Sink.Name, Table: in.Table, Verdict: verify.Equal, Scope: in.Scope(), Rows: 12345, Parts: 3}
		f.mu.Lock()
		for _, v := range f.verdicts {
			if v.Sink == in.Sink.Name && v.Table == in.Table {
				out = v
			}
		}
		f.mu.Unlock()
		return out, f.did(contract.VerifyTableActivity, in.Table)
	})
	reg(contract.ConcludeAuditActivity, func(_ context.Context, in contract.AuditConclusion) error {
		return f.did(contract.ConcludeAuditActivity, in.Run)
	})
	repairPlan := func(in contract.RepairPlanTask) contract.RepairPlan {
		return contract.RepairPlan{Pipeline: in.Pipeline, Name: in.Name, Hash: "h1", Spec: pipeline.Spec{Name: in.Pipeline}, Sinks: []pipeline.Sink{{Name: "warehouse"}},
			Tables: []contract.RepairTable{{Sink: "warehouse", Table: change.TableID{Schema: "shop", Name: "orders"}, Keys: 3, Changed: 3, From: map[string]int{"log": 3}}}}
	}
	reg(contract.PlanRepairActivity, func(_ context.Context, in contract.RepairPlanTask) (contract.RepairPlan, error) {
		return repairPlan(in), f.did(contract.PlanRepairActivity, in.Audit)
	})
	reg(contract.LoadRepairActivity, func(_ context.Context, in contract.RepairPlanTask) (contract.RepairPlan, error) {
		return repairPlan(in), f.did(contract.LoadRepairActivity, in.Name+" "+in.Hash)
	})
	for _, name := range []string{contract.QuarantineKeysActivity, contract.ReplayKeysActivity, contract.ReverifyKeysActivity, contract.ReleaseKeysActivity, contract.AbandonKeysActivity} {
		reg(name, func(_ context.Context, in contract.RepairTask) (contract.RepairStep, error) {
			return contract.RepairStep{Keys: 3, Read: 5, Outcome: repair.Outcome{Released: 3}}, f.did(name, in.Repair)
		})
	}
	reg(contract.NoteRepairActivity, func(_ context.Context, in contract.RepairNote) ([]contract.TrailSink, error) {
		return []contract.TrailSink{{Sink: "warehouse", Entries: 7, Hash: "abc"}}, f.did(contract.NoteRepairActivity, in.Action+" "+in.Who)
	})
	reg(contract.CheckTrailActivity, func(_ context.Context, in contract.TrailTask) (contract.TrailVerdict, error) {
		out := contract.TrailVerdict{Pipeline: in.Pipeline, Sinks: []contract.TrailSink{{Sink: "warehouse", Entries: 7, Hash: "abc"}, {Sink: "analytics"}}}
		err := f.did(contract.CheckTrailActivity, len(in.Known))
		if err != nil {
			out.Sinks[0].Broken, err = "entry 3: it is not what was written", nil
		}
		return out, err
	})
	f.registerErase(reg)
	reg(contract.PlanReplayActivity, func(_ context.Context, in contract.ReplayInput) (contract.ReplayTask, error) {
		return contract.ReplayTask{Spec: pipeline.Spec{Name: in.Pipeline}, Table: in.Table, Sink: in.Sink, To: in.To}, f.did(contract.PlanReplayActivity, in.Since)
	})
	reg(contract.ReplayTableActivity, func(_ context.Context, in contract.ReplayTask) (contract.ReplayResult, error) {
		return contract.ReplayResult{Pipeline: in.Spec.Name, Table: in.Table, Sink: in.Sink, To: in.To, Changes: 7, Dead: 1, Compared: f.comparing()}, f.did(contract.ReplayTableActivity, in.To)
	})
	reg(contract.AdviseTiersActivity, func(_ context.Context, in contract.AdviseInput) (contract.AdviseResult, error) {
		f.mu.Lock()
		f.advised = append(f.advised, in)
		out := f.advice
		f.mu.Unlock()
		out.Pipeline = in.Pipeline
		return out, f.did(contract.AdviseTiersActivity, in.Pipeline)
	})
	reg(contract.ForgetReplayActivity, func(_ context.Context, in contract.ReplayEnd) error {
		return f.did(contract.ForgetReplayActivity, in.Drop)
	})
	reg(contract.InspectActivity, func(_ context.Context, in contract.PlanInput) (contract.Report, error) {
		r := f.report
		r.Running = in.Running != nil
		return r, f.did(contract.InspectActivity, "")
	})
}

func (f *fakes) compared(c *contract.Compared) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.alike = c
}

func (f *fakes) comparing() *contract.Compared {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.alike
}

// server is a Temporal with workers for one test: a task queue prefix and a
// pipeline name of its own.
type server struct {
	t      *testing.T
	c      client.Client
	fakes  *fakes
	prefix string
	name   string // of the pipeline
	file   string // its declaration
	env    map[string]string
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, prefix: stack.Name(t), fakes: &fakes{fail: map[string]error{}, gates: map[string]chan struct{}{}}}
	address := stack.Temporal(t)
	s.name = strings.ReplaceAll(s.prefix, "_", "-")
	s.file = write(t, "shop.yaml", declaration(s.name))
	s.env = map[string]string{"SYNCLINE_TEMPORAL_ADDRESS": address, "SYNCLINE_TASK_QUEUE_PREFIX": s.prefix}
	c, err := client.Dial(client.Options{HostPort: address, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s.c = c
	return s
}

func (s *server) workers() {
	s.t.Helper()
	for _, role := range []contract.Role{contract.Control, contract.Capture, contract.Snapshot, contract.Deliver} {
		w := worker.New(s.c, contract.Queue(s.prefix, role), worker.Options{MaxHeartbeatThrottleInterval: 50 * time.Millisecond, WorkerStopTimeout: 5 * time.Second})
		if role == contract.Control {
			for _, fn := range []any{workflows.Pipeline, workflows.Stream, workflows.Bootstrap, workflows.Snapshot, workflows.Plan, workflows.Report, workflows.Audit, workflows.Replay, workflows.Repair, workflows.CheckTrail, workflows.BatchTier, workflows.Price, workflows.Prices, workflows.Cost, workflows.Advise, workflows.Erase, workflows.BatchSync} {
				w.RegisterWorkflow(fn)
			}
		}
		s.fakes.register(w, s.c)
		if err := w.Start(); err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(w.Stop)
	}
	s.t.Cleanup(func() { // what the test left must not run for ever
		for _, id := range []string{contract.PipelineID(s.name), contract.StreamID(s.name)} {
			_ = s.c.TerminateWorkflow(context.Background(), id, "", "test ended")
		}
	})
}

func (s *server) starter(args ...string) result {
	s.t.Helper()
	return call{args: args, env: s.env}.run(s.t)
}

// until runs a command until its result satisfies ok.
func (s *server) until(what string, ok func(result) bool, args ...string) result {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		r := s.starter(args...)
		if ok(r) {
			return r
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s did not come: %s%s", what, r.out, r.err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *server) streams() result {
	s.t.Helper()
	return s.until("streaming", func(r result) bool {
		return strings.Contains(r.out, "  streaming for") && strings.Contains(r.out, "running")
	}, "status", s.name)
}

var sampleReport = contract.Report{
	OK: true,
	Source: contract.SourceReport{Version: "PostgreSQL 15.14 on x86_64-pc-linux-gnu, compiled by gcc", Checks: []contract.Check{
		{Name: "connection", OK: true, Detail: "database shop as syncline"},
		{Name: "wal_level", OK: true, Detail: "logical"},
	}},
	Kafka: contract.Check{Name: "brokers", OK: true, Detail: "3 reachable, 4 partitions a topic, kept for 7d"},
	Sinks: []contract.SinkReport{{Sink: "warehouse", Type: "postgres", Checks: []contract.Check{{Name: "connection", OK: true, Detail: "reachable"}}},
		{Sink: "analytics", Type: "clickhouse", Checks: []contract.Check{{Name: "connection", OK: true, Detail: "reachable"}}}},
	Tables: []contract.TableReport{{
		Table: change.TableID{Schema: "shop", Name: "orders"}, Rows: 1234567, Bytes: 5 << 30, Key: []string{"id"}, Identity: "default",
		Sinks: map[string]sink.TableCheck{
			"warehouse": {Exists: true, Columns: []sink.ColumnMapping{{Column: "id", Source: "bigint", Sink: "bigint"}}},
			"analytics": {Columns: []sink.ColumnMapping{{Column: "id", Source: "bigint", Sink: "Int64"}, {Column: "total", Source: "numeric", Sink: "Decimal(38, 10)", Lossy: "digits after the tenth are cut"}}, Notes: []string{"a view shop.orders_live shows live rows"}},
		},
	}},
	Unused: []string{"audit.*"},
}

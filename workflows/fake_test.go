package workflows

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
	"syncline/analytics/bill"
	"syncline/analytics/report"
	"syncline/dataplane/change"
	"syncline/dataplane/repair"
	"syncline/dataplane/verify"
	"syncline/pipeline"
)

// world stands in for the activities: it records what was asked of it and fails
// where a test tells it to. The data plane has tests of its own, on real servers.
type world struct {
	skip   string // why a run of a tier has nothing to do
	mu     sync.Mutex
	calls  []string
	fail   map[string]error // by activity name: every attempt fails with it
	once   map[string][]error
	tables []change.TableID
	chunks int
	signal func(contract.HoldInput, int) // export a generation
	gens   int
	// outlived: the stream returns without a word, for a test whose pipeline ends
	// while its stream goes on; the environment waits for every child.
	outlived bool
	before   func(activity string)
	topics   bool // there are topics of the pipeline before it is set up
	verify   func(context.Context)
	keys     int  // that each table of a repair has
	differ   int  // and those of them that differ after it
	hold     bool // the snapshot's holder stays until it is cancelled, as on a real server
}

func newWorld() *world {
	return &world{fail: map[string]error{}, once: map[string][]error{}, chunks: 3, keys: 2,
		tables: []change.TableID{{Schema: "shop", Name: "customers"}, {Schema: "shop", Name: "orders"}}}
}

func (w *world) called(name string, arg any) error {
	if w.before != nil {
		w.before(name)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, fmt.Sprintf("%s %v", name, arg))
	if es := w.once[name]; len(es) > 0 {
		w.once[name] = es[1:]
		return es[0]
	}
	return w.fail[name]
}

func (w *world) names() (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls)
}

func (w *world) count(call string) (n int) {
	for _, c := range w.names() {
		if c == call {
			n++
		}
	}
	return n
}

func permanent(code string) error {
	return temporal.NewNonRetryableApplicationError("told to", code, nil)
}

func (w *world) register(r interface {
	RegisterActivityWithOptions(any, activity.RegisterOptions)
}) {
	reg := func(name string, fn any) { r.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name}) }
	reg(contract.ResolveActivity, func(_ context.Context, in contract.SetupInput) (contract.Resolved, error) {
		out := contract.Resolved{SystemID: "7", NoTopics: in.Fresh && !w.topics}
		for _, t := range w.tables {
			if len(in.Tables) == 0 && len(in.Spec.Match([]change.TableID{t}).Tables) == 1 || slices.Contains(in.Tables, t) {
				out.Tables = append(out.Tables, contract.ResolvedTable{Table: t})
			}
		}
		return out, w.called(contract.ResolveActivity, len(out.Tables))
	})
	reg(contract.PrepareSinkActivity, func(_ context.Context, in contract.SinkInput) error {
		return w.called(contract.PrepareSinkActivity, in.Sink)
	})
	reg(contract.EnsureTopicsActivity, func(_ context.Context, in contract.SetupInput) (contract.Made, error) {
		return contract.Made{Created: true, Names: []string{"t"}}, w.called(contract.EnsureTopicsActivity, len(in.Tables))
	})
	reg(contract.EnsurePublicationActivity, func(_ context.Context, in contract.SetupInput) (contract.Made, error) {
		return contract.Made{Created: true}, w.called(contract.EnsurePublicationActivity, len(in.Tables))
	})
	reg(contract.CreateSlotActivity, func(context.Context, contract.SetupInput) (contract.SlotMade, error) {
		return contract.SlotMade{Created: true, At: 0x100}, w.called(contract.CreateSlotActivity, "")
	})
	for _, name := range []string{contract.DropSlotActivity, contract.DropPublicationActivity, contract.DeleteTopicsActivity} {
		reg(name, func(context.Context, contract.TeardownInput) error { return w.called(name, "") })
	}
	reg(contract.ForgetSinkActivity, func(_ context.Context, in contract.SinkInput) error {
		return w.called(contract.ForgetSinkActivity, fmt.Sprint(in.Sink, " ", in.DropRows))
	})
	run := func(name string, arg any, ctx context.Context) error {
		if err := w.called(name, arg); err != nil {
			return err
		}
		for ctx.Err() == nil {
			activity.RecordHeartbeat(ctx, contract.CaptureProgress{})
			select {
			case <-ctx.Done():
			case <-activity.GetWorkerStopChannel(ctx):
				return temporal.NewApplicationError("stopping", contract.WorkerStoppedError)
			case <-time.After(5 * time.Millisecond):
			}
		}
		return ctx.Err()
	}
	reg(contract.CaptureActivity, func(ctx context.Context, in contract.CaptureInput) error {
		return run(contract.CaptureActivity, in.SlotAt, ctx)
	})
	reg(contract.DeliverActivity, func(ctx context.Context, in contract.DeliverInput) error {
		return run(contract.DeliverActivity, fmt.Sprintf("%s/%d", in.Sink, in.Lane), ctx)
	})
	reg(contract.HoldSnapshotActivity, func(ctx context.Context, in contract.HoldInput) error {
		w.mu.Lock()
		w.gens = max(w.gens, in.After) + 1
		n, signal := w.gens, w.signal
		w.mu.Unlock()
		if signal != nil {
			signal(in, n)
		}
		if w.hold {
			return run(contract.HoldSnapshotActivity, in.After, ctx)
		}
		// The real one stays until it is cancelled; time is not skipped while one does.
		return w.called(contract.HoldSnapshotActivity, in.After)
	})
	reg(contract.PlanChunksActivity, func(_ context.Context, in contract.TableTask) (contract.ChunkPlan, error) {
		return contract.ChunkPlan{Chunks: w.chunks, Estimate: int64(w.chunks) * 10}, w.called(contract.PlanChunksActivity, fmt.Sprint(in.Sink.Name, " ", in.Table))
	})
	reg(contract.CopyChunkActivity, func(_ context.Context, in contract.ChunkTask) (contract.ChunkDone, error) {
		return contract.ChunkDone{Rows: 10, Bytes: 100}, w.called(contract.CopyChunkActivity, fmt.Sprintf("%s %s %d gen %d", in.Sink.Name, in.Table, in.N, in.Generation.N))
	})
	for _, name := range []string{contract.FinishLoadActivity, contract.ResetTableActivity, contract.RemoveTableActivity} {
		reg(name, func(_ context.Context, in contract.TableTask) error {
			return w.called(name, fmt.Sprint(in.Sink.Name, " ", in.Table))
		})
	}
	reg(contract.InspectActivity, func(_ context.Context, in contract.PlanInput) (contract.Report, error) {
		return contract.Report{OK: true}, w.called(contract.InspectActivity, in.Spec.Name)
	})
	reg(contract.MeasureActivity, func(_ context.Context, in contract.ReportInput) (report.Report, error) {
		return report.Report{Pipeline: in.Pipeline, Since: in.Since, Until: in.Until, Indicators: []report.Indicator{{Definition: report.Define(report.Lag), Value: report.Number(1.5)}}},
			w.called(contract.MeasureActivity, fmt.Sprint(in.Pipeline, " ", len(in.Objectives)))
	})
	reg(contract.PriceHoursActivity, func(_ context.Context, in contract.PriceInput) (bill.Pricing, error) {
		return bill.Pricing{Prices: "v1", Currency: "USD", Hours: 3, Dry: in.Dry}, w.called(contract.PriceHoursActivity, in.Who)
	})
	reg(contract.BudgetsActivity, func(context.Context) ([]bill.Budget, error) {
		return []bill.Budget{{Pipeline: "shop", Standing: bill.Near}}, w.called(contract.BudgetsActivity, "")
	})
	reg(contract.KeepPricesActivity, func(_ context.Context, in contract.PricesInput) (contract.PricesResult, error) {
		return contract.PricesResult{Applied: []bill.Applied{{Version: "v1", Who: in.Who}}, Changed: in.Text != ""}, w.called(contract.KeepPricesActivity, in.Who)
	})
	reg(contract.ReportCostActivity, func(_ context.Context, in contract.CostInput) (bill.Report, error) {
		return bill.Report{Pipeline: in.Pipeline, Currency: "USD"}, w.called(contract.ReportCostActivity, in.Pipeline)
	})
	reg(contract.PlanAuditActivity, func(_ context.Context, in contract.AuditInput) (contract.AuditPlan, error) {
		out := contract.AuditPlan{Sinks: []pipeline.Sink{{Name: "warehouse"}, {Name: "analytics"}}, Skipped: []contract.AuditSkipped{{Sink: "warehouse", Reason: "it is loading"}}}
		for _, t := range w.tables {
			for _, s := range out.Sinks {
				out.Tasks = append(out.Tasks, contract.AuditTask{Sink: s.Name, Table: t, Where: "id > 0"})
			}
		}
		if in.Changed {
			out.Kafka = &pipeline.Kafka{}
		}
		return out, w.called(contract.PlanAuditActivity, in.Pipeline)
	})
	reg(contract.VerifyTableActivity, func(ctx context.Context, in contract.VerifyTask) (contract.TableVerdict, error) {
		if w.verify != nil {
			w.verify(ctx)
		}
		out := contract.TableVerdict{Sink: in.Sink.Name, Table: in.Table, Verdict: verify.Equal, Scope: in.Scope(), Rows: 10, From: 1, To: 2}
		return out, w.called(contract.VerifyTableActivity, fmt.Sprintf("%s %s %s %g", in.Sink.Name, in.Table, in.Where, in.RowsPerSecond))
	})
	reg(contract.PlanTierActivity, func(_ context.Context, in contract.TierInput) (contract.TierPlan, error) {
		out := contract.TierPlan{At: change.Position{Epoch: 1, Commit: 0x500}, Tier: pipeline.Tier{Name: in.Tier, Every: pipeline.Duration(time.Hour)}, Skipped: w.skip}
		for _, s := range []string{"warehouse", "analytics"} {
			if w.skip == "" {
				out.Tasks = append(out.Tasks, contract.TierTask{Pipeline: in.Pipeline, Tier: in.Tier, Sink: pipeline.Sink{Name: s}, Tables: w.tables, At: out.At})
			}
		}
		return out, w.called(contract.PlanTierActivity, in.Pipeline+" "+in.Tier)
	})
	reg(contract.DrainTierActivity, func(_ context.Context, in contract.TierTask) (contract.TierDrained, error) {
		return contract.TierDrained{Sink: in.Sink.Name, Tables: len(in.Tables), Waited: 5, Seconds: 1}, w.called(contract.DrainTierActivity, in.At)
	})
	reg(contract.ScheduleTiersActivity, func(_ context.Context, in contract.TierSchedules) error {
		var names []string
		for _, t := range in.Tiers {
			name := t.Name
			if t.Every.Std() != time.Hour {
				name += "@" + t.Every.String()
			}
			names = append(names, name)
		}
		return w.called(contract.ScheduleTiersActivity, fmt.Sprint(names, " not ", in.Gone))
	})
	reg(contract.PlanBatchSyncActivity, func(_ context.Context, in contract.BatchSyncInput) (contract.BatchSyncPlan, error) {
		return contract.BatchSyncPlan{Spec: in.Spec, Tables: w.tables[:1]}, w.called(contract.PlanBatchSyncActivity, in.Column)
	})
	reg(contract.OpenEraseActivity, func(_ context.Context, in contract.EraseTask) (contract.EraseOpened, error) {
		return contract.EraseOpened{Spec: pipeline.Spec{Name: in.Pipeline, Sinks: []pipeline.Sink{{Name: "warehouse"}, {Name: "analytics"}}}, Public: []byte("public")}, w.called(contract.OpenEraseActivity, in.Reason)
	})
	reg(contract.PlanEraseActivity, func(_ context.Context, in contract.EraseTask) (contract.ErasePlan, error) {
		return contract.ErasePlan{At: change.Position{Epoch: 1, Commit: 0x500}, Tables: []contract.EraseTable{{Table: w.tables[0], Keys: 1, Digests: []string{"d1"}}}}, w.called(contract.PlanEraseActivity, string(in.Sealed)+in.Keys.String())
	})
	reg(contract.EraseAtActivity, func(_ context.Context, in contract.EraseSink) ([]contract.ErasePlace, error) {
		return []contract.ErasePlace{{Sink: in.Sink.Name, Table: in.Plan.Tables[0].Table, Place: "table", Before: 2}}, w.called(contract.EraseAtActivity, in.Sink.Name)
	})
	reg(contract.SearchLogActivity, func(_ context.Context, in contract.EraseTask) ([]contract.ErasePlace, error) {
		return []contract.ErasePlace{{Table: in.Plan.Tables[0].Table, Place: "topic", Before: 3, After: 3, Until: time.Unix(1_900_000_000, 0).UTC()}}, w.called(contract.SearchLogActivity, in.Plan.At)
	})
	reg(contract.NoteEraseActivity, func(_ context.Context, in contract.EraseNote) error {
		return w.called(contract.NoteEraseActivity, fmt.Sprint(in.Who, " ", len(in.Result.Places)))
	})
	reg(contract.ForgetEraseActivity, func(_ context.Context, in contract.EraseTask) error {
		return w.called(contract.ForgetEraseActivity, in.Pipeline)
	})
	reg(contract.PlanReplayActivity, func(_ context.Context, in contract.ReplayInput) (contract.ReplayTask, error) {
		return contract.ReplayTask{Spec: pipeline.Spec{Name: in.Pipeline}, Table: in.Table, Sink: in.Sink, To: in.To}, w.called(contract.PlanReplayActivity, in.Pipeline)
	})
	reg(contract.ReplayTableActivity, func(ctx context.Context, in contract.ReplayTask) (contract.ReplayResult, error) {
		if w.verify != nil {
			w.verify(ctx)
		}
		return contract.ReplayResult{Table: in.Table, To: in.To, Changes: 7}, w.called(contract.ReplayTableActivity, in.To)
	})
	reg(contract.AdviseTiersActivity, func(ctx context.Context, in contract.AdviseInput) (contract.AdviseResult, error) {
		if w.verify != nil {
			w.verify(ctx)
		}
		c := contract.AdviseCandidate{Kind: contract.CandidateNow, Declared: contract.Declared{Name: "as it is"}}
		return contract.AdviseResult{Pipeline: in.Pipeline, Records: 7, Candidates: []contract.AdviseCandidate{c}}, w.called(contract.AdviseTiersActivity, in.Pipeline)
	})
	reg(contract.ForgetReplayActivity, func(_ context.Context, in contract.ReplayEnd) error {
		if !strings.HasPrefix(in.Ledger(), in.Spec.Name+"@replay-2") {
			return permanent("BadLedger")
		}
		return w.called(contract.ForgetReplayActivity, in.Drop)
	})
	plan := func(in contract.RepairPlanTask) contract.RepairPlan {
		out := contract.RepairPlan{Pipeline: in.Pipeline, Name: in.Name, Hash: "h1", Spec: pipeline.Spec{Name: in.Pipeline}, Sinks: []pipeline.Sink{{Name: "warehouse"}, {Name: "analytics"}}}
		for _, t := range w.tables {
			for _, s := range out.Sinks {
				out.Tables = append(out.Tables, contract.RepairTable{Sink: s.Name, Table: t, Where: "id > 0", Keys: w.keys, Changed: w.keys, Rows: 1000, From: map[string]int{"log": w.keys}})
			}
		}
		return out
	}
	reg(contract.PlanRepairActivity, func(_ context.Context, in contract.RepairPlanTask) (contract.RepairPlan, error) {
		return plan(in), w.called(contract.PlanRepairActivity, in.Name != "")
	})
	reg(contract.LoadRepairActivity, func(_ context.Context, in contract.RepairPlanTask) (contract.RepairPlan, error) {
		return plan(in), w.called(contract.LoadRepairActivity, in.Name+" "+in.Hash)
	})
	for _, name := range []string{contract.QuarantineKeysActivity, contract.ReplayKeysActivity, contract.ReverifyKeysActivity, contract.ReleaseKeysActivity, contract.AbandonKeysActivity} {
		reg(name, func(ctx context.Context, in contract.RepairTask) (contract.RepairStep, error) {
			if w.verify != nil {
				w.verify(ctx)
			}
			out := contract.RepairStep{Keys: w.keys, Read: 1}
			if name == contract.ReleaseKeysActivity {
				out.Outcome = repair.Outcome{Released: w.keys - w.differ, Failed: w.differ}
			}
			if in.Where != "id > 0" || in.Spec.Name != in.Pipeline || in.Sink.Name == "" {
				return out, permanent("BadRepairTask")
			}
			return out, w.called(name, strings.TrimSpace(fmt.Sprint(in.Repair, " ", in.Sink.Name, " ", in.Table, " ", in.Reason)))
		})
	}
	reg(contract.NoteRepairActivity, func(_ context.Context, in contract.RepairNote) (out []contract.TrailSink, err error) {
		for _, s := range in.Sinks {
			out = append(out, contract.TrailSink{Sink: s.Name, Entries: 9, Hash: "f" + in.Action})
		}
		return out, w.called(contract.NoteRepairActivity, fmt.Sprint(in.Who, " ", in.Action, " ", in.Detail))
	})
	reg(contract.CheckTrailActivity, func(_ context.Context, in contract.TrailTask) (contract.TrailVerdict, error) {
		return contract.TrailVerdict{Pipeline: in.Pipeline, Sinks: []contract.TrailSink{{Sink: "warehouse", Entries: 9, Hash: "f"}, {Sink: "analytics", Entries: 9, Broken: "entry 3 was edited"}}},
			w.called(contract.CheckTrailActivity, len(in.Known))
	})
	reg(contract.ConcludeAuditActivity, func(_ context.Context, in contract.AuditConclusion) error {
		return w.called(contract.ConcludeAuditActivity, fmt.Sprintf("%d sinks, %d failed", len(in.Sinks), len(in.Failed)))
	})
}

func shopSpec(t testing.TB) pipeline.Spec {
	t.Helper()
	s, err := pipeline.Parse("shop.yaml", []byte(`
version: 1
name: shop
source: {type: postgres, dsn: env:SOURCE}
kafka: {brokers: ["127.0.0.1:9092"]}
sinks:
  - {name: warehouse, type: postgres, dsn: env:SINK}
  - {name: analytics, type: clickhouse, dsn: env:CH}
tables: ["shop.*"]
`), os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	return *s
}

// stream behaves as Stream does towards its pipeline, without activities.
func (w *world) stream(ctx workflow.Context, in contract.StreamInput) error {
	names := []string{contract.CaptureComponent}
	for _, sk := range in.Spec.Sinks {
		for lane := range sk.Lanes {
			names = append(names, contract.LaneComponent(sk.Name, lane))
		}
	}
	tell := func(ctx workflow.Context, signal string, arg any) {
		_ = workflow.SignalExternalWorkflow(ctx, in.Parent, "", signal, arg).Get(ctx, nil)
	}
	for _, n := range names {
		if err := w.called("run", n); err != nil {
			tell(ctx, contract.ComponentSignal, contract.ComponentState{Name: n, Failed: true, Failure: failure(err, "")})
			if !workflow.GetSignalChannel(ctx, contract.RetrySignal).Receive(ctx, nil) || ctx.Err() != nil {
				break
			}
			tell(ctx, contract.ComponentSignal, contract.ComponentState{Name: n})
		}
	}
	if w.outlived {
		return nil
	}
	_ = workflow.Await(ctx, func() bool { return false })
	last, _ := workflow.NewDisconnectedContext(ctx)
	tell(last, contract.StoppedSignal, contract.StreamStopped{})
	return ctx.Err()
}

// environment is a test environment with the world's activities and all workflows.
func environment(t *testing.T, w *world) *testsuite.TestWorkflowEnvironment {
	t.Helper()
	var s testsuite.WorkflowTestSuite
	env := s.NewTestWorkflowEnvironment()
	env.SetTestTimeout(5 * time.Second)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("calls:", w.names())
		}
	})
	for _, fn := range []any{Pipeline, Bootstrap, Snapshot, Plan, Report, Audit, Replay, Repair, CheckTrail, BatchTier, Advise, Erase, BatchSync} {
		env.RegisterWorkflow(fn)
	}
	// Time is only skipped while no activity runs, and a Stream's run for ever.
	env.RegisterWorkflowWithOptions(w.stream, workflow.RegisterOptions{Name: contract.StreamWorkflow})
	w.register(env)
	w.signal = func(in contract.HoldInput, n int) {
		_ = env.SignalWorkflowByID(in.Workflow, contract.GenerationSignal, contract.Generation{N: n, Name: fmt.Sprintf("snap-%d", n)})
	}
	env.SetStartWorkflowOptions(startOptions("pipeline/shop"))
	return env
}

func startOptions(id string) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{ID: id, TaskQueue: contract.Queue("syncline", contract.Control)}
}

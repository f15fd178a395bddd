package workflows

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/testsuite/stack"
)

// record writes the histories of TestOnServer to testdata/histories. Do that
// once per released version of a workflow, under new names: files that exist stay as
// they are, because they stand for runs that are under way somewhere.
var record = flag.Bool("record", false, "record histories into testdata/histories")

func replayer() worker.WorkflowReplayer {
	r := worker.NewWorkflowReplayer()
	r.RegisterWorkflow(Pipeline)
	r.RegisterWorkflow(Stream)
	r.RegisterWorkflow(Bootstrap)
	r.RegisterWorkflow(Snapshot)
	r.RegisterWorkflow(Plan)
	r.RegisterWorkflow(Report)
	r.RegisterWorkflow(Audit)
	r.RegisterWorkflow(Replay)
	r.RegisterWorkflow(Erase)
	r.RegisterWorkflow(BatchSync)
	r.RegisterWorkflow(Repair)
	r.RegisterWorkflow(CheckTrail)
	r.RegisterWorkflow(BatchTier)
	r.RegisterWorkflow(Advise)
	r.RegisterWorkflow(Price)
	r.RegisterWorkflow(Prices)
	r.RegisterWorkflow(Cost)
	r.RegisterWorkflow(RotateSecret)
	return r
}

// Every history that was ever recorded can still be replayed: a worker of this
// version can take over what an older one began.
func TestReplayRecordedHistories(t *testing.T) {
	files, err := filepath.Glob("testdata/histories/*.json")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d recorded histories: %v", len(files), err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			if err := replayer().ReplayWorkflowHistoryFromJSONFile(quietLog(), f); err != nil {
				t.Error(err)
			}
		})
	}
}

func quietLog() log.Logger {
	return log.NewStructuredLogger(slog.New(slog.NewTextHandler(io.Discard, nil)))
}

// server runs the workflows with the world's activities on a real Temporal.
type server struct {
	t      *testing.T
	c      client.Client
	prefix string
}

func startServer(t *testing.T, w *world) *server {
	t.Helper()
	c, err := client.Dial(client.Options{HostPort: stack.Temporal(t), Logger: quietLog(), Identity: "worker"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s := &server{t: t, c: c, prefix: stack.Name(t)}
	w.hold = true
	w.signal = func(in contract.HoldInput, n int) {
		_ = c.SignalWorkflow(context.Background(), in.Workflow, "", contract.GenerationSignal, contract.Generation{N: n, Name: fmt.Sprintf("snap-%d", n)})
	}
	for _, role := range []contract.Role{contract.Control, contract.Capture, contract.Snapshot, contract.Deliver} {
		wk := worker.New(c, contract.Queue(s.prefix, role), worker.Options{MaxHeartbeatThrottleInterval: 100 * time.Millisecond, WorkerStopTimeout: 5 * time.Second})
		if role == contract.Control {
			for _, fn := range []any{Pipeline, Stream, Bootstrap, Snapshot, Plan, Report, Audit, Replay, Repair, CheckTrail, BatchTier, Price, Prices, Cost, Advise, Erase, BatchSync} {
				wk.RegisterWorkflow(fn)
			}
		}
		w.register(wk)
		if err := wk.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(wk.Stop)
	}
	return s
}

func (s *server) start(ctx context.Context, id string, fn, in any) client.WorkflowRun {
	s.t.Helper()
	run, err := s.c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: id, TaskQueue: contract.Queue(s.prefix, contract.Control)}, fn, in)
	if err != nil {
		s.t.Fatal(err)
	}
	return run
}

func (s *server) update(ctx context.Context, id, name string, args ...any) error {
	h, err := s.c.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{WorkflowID: id, UpdateName: name, Args: args, WaitForStage: client.WorkflowUpdateStageCompleted})
	if err != nil {
		return err
	}
	return h.Get(ctx, nil)
}

func (s *server) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// await polls the pipeline's status until it satisfies ok.
func (s *server) await(ctx context.Context, id string, ok func(contract.PipelineStatus) bool) contract.PipelineStatus {
	s.t.Helper()
	for {
		var st contract.PipelineStatus
		v, err := s.c.QueryWorkflow(ctx, id, "", contract.StatusQuery)
		if err == nil {
			err = v.Get(&st)
		}
		if err != nil {
			s.t.Fatal(err)
		}
		if ok(st) {
			return st
		}
		select {
		case <-ctx.Done():
			s.t.Fatalf("status did not come: %+v", st)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// check replays a history and, with -record, keeps it.
func (s *server) check(ctx context.Context, id, run, name string) {
	s.t.Helper()
	it := s.c.GetWorkflowHistory(ctx, id, run, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	var h historypb.History
	for it.HasNext() {
		ev, err := it.Next()
		s.must(err)
		h.Events = append(h.Events, ev)
	}
	if err := replayer().ReplayWorkflowHistory(quietLog(), &h); err != nil {
		s.t.Errorf("%s: %v", name, err)
	}
	file := filepath.Join("testdata/histories", name+".json")
	if _, err := os.Stat(file); *record && os.IsNotExist(err) {
		s.must(os.MkdirAll("testdata/histories", 0o755))
		b, err := temporalproto.CustomJSONMarshalOptions{Indent: " "}.Marshal(&h)
		s.must(err)
		s.must(os.WriteFile(file, append(b, '\n'), 0o644))
	}
}

func streaming(st contract.PipelineStatus) bool { return st.Phase == contract.Streaming }

// repairs runs a plan of a repair, a repair that waits for its approval, in which a
// table fails for good, and a check of the trails.
func (s *server) repairs(ctx context.Context, w *world, name string) {
	s.t.Helper()
	planned := s.start(ctx, "repair/"+name+"/1", contract.RepairWorkflow, contract.RepairInput{Pipeline: name})
	s.must(planned.Get(ctx, nil))
	s.check(ctx, planned.GetID(), "", "repair-plan")
	w.mu.Lock()
	w.once[contract.ReplayKeysActivity] = []error{nil, permanent("KeyNotHeld")}
	w.mu.Unlock()
	id := "repair/" + name
	run := s.start(ctx, id, contract.RepairWorkflow, contract.RepairInput{Pipeline: name, Plan: "p1", Hash: "h1", Who: "ann", MaxKeys: 1})
	for res := (contract.RepairResult{}); res.Awaits == "" && ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		v, err := s.c.QueryWorkflow(ctx, id, "", contract.StatusQuery)
		s.must(err)
		s.must(v.Get(&res))
	}
	var app *temporal.ApplicationError
	if err := s.update(ctx, id, contract.ApproveUpdate, contract.Approval{Hash: "h2", Who: "bob"}); !errors.As(err, &app) || app.Type() != "RepairPlanChanged" {
		s.t.Errorf("an approval of another plan: %v", err)
	}
	s.must(s.update(ctx, id, contract.ApproveUpdate, contract.Approval{Hash: "h1", Who: "bob"}))
	var res contract.RepairResult
	s.must(run.Get(ctx, &res))
	if !res.Applied || res.Failed() != w.keys {
		s.t.Errorf("%+v", res)
	}
	s.check(ctx, id, "", "repair-phases")
	trail := s.start(ctx, "audit-trail/"+name, contract.CheckTrailWorkflow, contract.TrailTask{Pipeline: name, Known: res.Trails})
	s.must(trail.Get(ctx, nil))
	s.check(ctx, trail.GetID(), "", "check-trail")
}

// The whole life of a pipeline on a real server: setup, load, pause, a component
// that fails and is retried, tables that come, go and are reloaded, a refused
// change, destroy; then every history is replayed.
func TestOnServer(t *testing.T) {
	w := newWorld()
	events := change.TableID{Schema: "web", Name: "events"}
	w.tables = append(w.tables, events)
	w.once[contract.CopyChunkActivity] = []error{temporal.NewNonRetryableApplicationError("gone", contract.SnapshotGoneError, nil)}
	w.once[contract.HoldSnapshotActivity] = []error{temporal.NewApplicationError("killed", "SourceUnreachable")}
	s := startServer(t, w)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	spec := shopSpec(t)
	spec.Name = strings.ReplaceAll(s.prefix, "_", "-")
	id := contract.PipelineID(spec.Name)

	run := s.start(ctx, id, contract.PipelineWorkflow, contract.PipelineInput{Spec: spec})
	s.must(s.update(ctx, id, contract.ApplyUpdate, spec))
	s.await(ctx, id, streaming)
	s.must(s.update(ctx, id, contract.PauseUpdate))
	s.check(ctx, contract.StreamID(spec.Name), "", "stream-cancelled")
	w.mu.Lock()
	w.once[contract.CaptureActivity] = []error{permanent("SlotAhead")}
	w.mu.Unlock()
	s.must(s.update(ctx, id, contract.ResumeUpdate))
	s.await(ctx, id, func(st contract.PipelineStatus) bool { return st.Phase == contract.Degraded })
	s.must(s.update(ctx, id, contract.ResumeUpdate))
	s.await(ctx, id, streaming)
	s.must(s.update(ctx, id, contract.AddTableUpdate, contract.TablesInput{Tables: []change.TableID{events}}))
	s.await(ctx, id, streaming)
	s.must(s.update(ctx, id, contract.ResyncTableUpdate, contract.TablesInput{Tables: []change.TableID{events}}))
	s.await(ctx, id, streaming)
	s.must(s.update(ctx, id, contract.RemoveTableUpdate, contract.TablesInput{Tables: []change.TableID{events}}))
	bad := spec
	bad.Kafka.Partitions++
	var app *temporal.ApplicationError
	if err := s.update(ctx, id, contract.ApplyUpdate, bad); !errors.As(err, &app) || app.Type() != contract.RefusedError {
		t.Errorf("a change of partitions: %v", err)
	}
	more := spec
	more.Tables.Include = append([]string{"web.*"}, spec.Tables.Include...)
	s.must(s.update(ctx, id, contract.ApplyUpdate, more))
	s.await(ctx, id, streaming)
	s.must(s.update(ctx, id, contract.DestroyUpdate, contract.DestroyInput{}))
	s.must(run.Get(ctx, nil))
	s.check(ctx, id, "", "pipeline-life-2")
	s.check(ctx, contract.StreamID(spec.Name), "", "stream-changed")
	s.check(ctx, fmt.Sprintf("bootstrap/%s/1", spec.Name), "", "bootstrap-generations")

	snap := s.start(ctx, "snapshot/"+spec.Name, contract.SnapshotWorkflow, contract.BootstrapInput{Spec: spec})
	s.must(snap.Get(ctx, nil))
	s.check(ctx, snap.GetID(), "", "snapshot")
	plan := s.start(ctx, "plan/"+spec.Name, contract.PlanWorkflow, contract.PlanInput{Spec: spec})
	s.must(plan.Get(ctx, nil))
	s.check(ctx, plan.GetID(), "", "plan")
	rep := s.start(ctx, "report/"+spec.Name, contract.ReportWorkflow, contract.ReportInput{Pipeline: spec.Name, Since: time.Now().Add(-time.Hour)})
	s.must(rep.Get(ctx, nil))
	s.check(ctx, rep.GetID(), "", "report")
	w.mu.Lock()
	w.once[contract.VerifyTableActivity] = []error{nil, permanent("TableMismatch")}
	w.mu.Unlock()
	audit := s.start(ctx, "audit/"+spec.Name, contract.AuditWorkflow, contract.AuditInput{Pipeline: spec.Name, Parallel: 2})
	s.must(audit.Get(ctx, nil))
	s.check(ctx, audit.GetID(), "", "audit")
	replayed := s.start(ctx, "replay/"+spec.Name, contract.ReplayWorkflow, contract.ReplayInput{Pipeline: spec.Name, Table: w.tables[0], Sink: "warehouse", To: "again"})
	s.must(replayed.Get(ctx, nil))
	s.check(ctx, replayed.GetID(), "", "replay")
	changed := s.start(ctx, "audit/changed/"+spec.Name, contract.AuditWorkflow, contract.AuditInput{Pipeline: spec.Name, Changed: true, VerifyLimits: contract.VerifyLimits{MaxLag: 30, MaxSessions: 40}})
	s.must(changed.Get(ctx, nil))
	s.check(ctx, changed.GetID(), "", "audit-changed")
	s.repairs(ctx, w, spec.Name)
	tier := s.start(ctx, contract.TierScheduleID(spec.Name, "hourly"), contract.BatchTierWorkflow, contract.TierInput{Pipeline: spec.Name, Tier: "hourly"})
	s.must(tier.Get(ctx, nil))
	s.check(ctx, tier.GetID(), "", "batch-tier")
	advice := s.start(ctx, "advise/"+spec.Name, contract.AdviseWorkflow, contract.AdviseInput{Pipeline: spec.Name, Since: time.Now().Add(-time.Hour)})
	s.must(advice.Get(ctx, nil))
	s.check(ctx, advice.GetID(), "", "advise")
	for name, run := range map[string]client.WorkflowRun{
		"price":  s.start(ctx, "price/"+spec.Name, contract.PriceWorkflow, contract.PriceInput{Who: "ann"}),
		"prices": s.start(ctx, "prices/"+spec.Name, contract.PricesWorkflow, contract.PricesInput{}),
		"cost":   s.start(ctx, "cost/"+spec.Name, contract.CostWorkflow, contract.CostInput{Pipeline: spec.Name}),
	} {
		s.must(run.Get(ctx, nil))
		s.check(ctx, run.GetID(), "", name)
	}

	synced := s.start(ctx, contract.BatchSyncID(spec.Name, "1"), contract.BatchSyncWorkflow, contract.BatchSyncInput{Spec: spec, Column: "changed_at", Since: time.Unix(1_800_000_000, 0).UTC(), Until: time.Unix(1_800_086_400, 0).UTC()})
	s.must(synced.Get(ctx, nil))
	s.check(ctx, synced.GetID(), "", "batch-sync")
	erased := s.start(ctx, contract.EraseID(spec.Name, "1"), contract.EraseWorkflow, contract.EraseInput{Pipeline: spec.Name, Reason: "ticket 7", Who: "ann"})
	for waits := false; !waits; time.Sleep(20 * time.Millisecond) {
		var st contract.EraseResult
		v, err := s.c.QueryWorkflow(ctx, erased.GetID(), "", contract.StatusQuery)
		s.must(err)
		s.must(v.Get(&st))
		waits = st.Waits
	}
	s.must(s.update(ctx, erased.GetID(), contract.KeysUpdate, []byte("sealed")))
	s.must(erased.Get(ctx, nil))
	s.check(ctx, erased.GetID(), "", "erase")

	w.mu.Lock()
	w.fail[contract.CreateSlotActivity] = permanent("SlotsExhausted")
	w.mu.Unlock()
	failing := s.start(ctx, id, contract.PipelineWorkflow, contract.PipelineInput{Spec: spec})
	if err := s.update(ctx, id, contract.ApplyUpdate, spec); err == nil || !strings.Contains(err.Error(), "SlotsExhausted") {
		t.Errorf("apply of a setup that fails: %v", err)
	}
	if err := failing.Get(ctx, nil); err == nil {
		t.Error("a failed setup did not end the workflow")
	}
	s.check(ctx, id, failing.GetRunID(), "pipeline-setup-failed")
}

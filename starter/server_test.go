package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/pipeline"
	"syncline/starter/view"
)

var update = flag.Bool("update", false, "write the golden files again")

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s, got:\n%s\nwant:\n%s", file, got, want)
	}
}

// A server without a worker is an environment that cannot be reached, and
// nothing is left waiting there for a worker that may come.
func TestNoWorker(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	soon := func(tl *tool) { tl.workerBound = 200 * time.Millisecond }
	for _, args := range [][]string{{"plan", s.file}, {"apply", s.file}, {"snapshot", s.file}} {
		r := call{args: args, env: s.env, edit: soon}.run(t).exits(exitUnreachable).says("no worker takes work from task queue "+s.prefix+"-control", "fix: start one with the role control")
		var f failure
		call{args: append(args, "--json"), env: s.env, edit: soon}.run(t).exits(exitUnreachable).object(&f)
		_ = r
	}
	starter(t, "status", "x", "--address", s.env["SYNCLINE_TEMPORAL_ADDRESS"], "--namespace", "nowhere").
		exits(exitUnreachable).says(`has no namespace "nowhere"`, "--namespace")
	s.workers()
	s.starter("status", s.name).exits(exitFailed).says(`no pipeline is called "` + s.name + `"`)
}

// The life of a pipeline as an operator drives it, against the real workflows.
func TestLifeOfAPipeline(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	s.fakes.report = sampleReport

	s.starter("plan", s.file).exits(exitOK).says("apply would start pipeline " + s.name)
	s.starter("apply", s.file).exits(exitOK).says("pipeline "+s.name+" started: 2 tables to 2 sinks", "starter status "+s.name+" --watch")
	r := s.streams().says("tables: 2 streaming", "changes/s")
	if strings.Contains(r.out, "\x1b") || strings.Contains(r.out, "█") {
		t.Errorf("colour or bars without a terminal:\n%s", r.out)
	}
	var v view.View
	s.until("heartbeats", func(r result) bool {
		r.object(&v)
		return v.Flow != nil && v.Flow.Rate == 1000 && v.Sinks[0].Rate > 0 && v.Capture.State == view.StateRunning
	}, "status", s.name, "--json")
	if v.Status.Phase != contract.Streaming || len(v.Sinks) != 2 || v.Capture.State != view.StateRunning {
		t.Errorf("%+v %+v", v.Capture, v.Capture.Failure)
	}

	s.starter("apply", s.file).exits(exitOK).says("pipeline " + s.name + " runs as declared")
	s.starter("plan", s.file).exits(exitOK).says("runs as declared; apply would change nothing")
	s.refuses()
	s.starter("pause", s.name).exits(exitOK).says("is paused")
	s.starter("pause", s.name).exits(exitFailed).says("Refused: pipeline " + s.name + " is paused already")
	var f failure
	s.starter("pause", s.name, "--json").exits(exitFailed).object(&f)
	if f.Code != contract.RefusedError || f.Exit != exitFailed {
		t.Errorf("%+v", f)
	}
	s.starter("status", s.name).exits(exitOK).says("paused")
	var st contract.PipelineStatus
	s.starter("resume", s.name, "--json").exits(exitOK).object(&st)
	if st.Name != s.name {
		t.Errorf("%+v", st)
	}
	s.streams()

	s.starter("add-table", s.name, "web.events").exits(exitOK).says("add-table: web.events", "loading as workflow bootstrap/"+s.name+"/")
	s.until("three tables", func(r result) bool { return strings.Contains(r.out, "tables: 3 streaming") }, "status", s.name)
	s.starter("resync-table", s.name, "web.events", "--sink", "warehouse").exits(exitOK).says("resync-table: web.events")
	s.streams()
	s.starter("remove-table", s.name, "web.events", "--json").exits(exitOK).object(nil)
	s.starter("status", s.name).exits(exitOK).says("tables: 2 streaming")
	s.destroys()
}

// refuses: what the workflow refuses has exit code 1 and a reason.
func (s *server) refuses() {
	s.t.Helper()
	text, err := os.ReadFile(s.file)
	if err != nil {
		s.t.Fatal(err)
	}
	other := write(s.t, "other.yaml", strings.Replace(string(text), `brokers: ["127.0.0.1:9092"]`, `brokers: ["127.0.0.1:9092"], partitions: 99`, 1))
	s.starter("apply", other).exits(exitFailed).says("Refused: ", "kafka.partitions: 4 → 99")
	s.fakes.report.Changes = []pipeline.Change{{Path: "kafka.partitions", Old: "4", New: "99", Effect: pipeline.Refused}}
	s.fakes.report.OK = false
	s.starter("plan", other).exits(exitFailed).says("kafka.partitions: 4 → 99 (refused", "fix: take it back")
	s.fakes.report = sampleReport
	s.starter("add-table", s.name, "shop.orders").exits(exitFailed).says("is in the pipeline already")
	s.starter("remove-table", s.name, "shop.order").exits(exitFailed).says("did you mean shop.orders?")
	s.starter("resync-table", s.name, "shop.orders", "--sink", "nowhere").exits(exitFailed).says(`no sink is called "nowhere"`)
	s.starter("status", s.name[:len(s.name)-1]).exits(exitFailed).says("did you mean \"" + s.name + "\"?")
	s.starter("resume", s.name).exits(exitFailed).says("neither paused")
}

// destroys: it asks, takes only the name for an answer, and says what it removed.
func (s *server) destroys() {
	s.t.Helper()
	ask := func(answer string) result {
		return call{args: []string{"destroy", s.name}, env: s.env, stdin: answer + "\n", terminal: true}.run(s.t)
	}
	ask("yes").exits(exitFailed).says("slot syncline_", "publication syncline_", "the topics syncline."+s.name+".*", "warehouse, analytics", "The 2 tables at the sinks stay", "nothing was removed")
	if s.fakes.called(contract.DropSlotActivity) {
		s.t.Error("removed without consent")
	}
	call{args: []string{"destroy", s.name}, env: s.env, stdin: s.name + "\n"}.run(s.t).exits(exitInvalid) // not a terminal
	ask(s.name).exits(exitOK).says("removed slot", "removed publication", "removed topics", "removed ledger of warehouse", "the tables at the sinks stay")
	if !s.fakes.called(contract.ForgetSinkActivity+" warehouse rows=false") || s.fakes.called(contract.ForgetSinkActivity+" warehouse rows=true") {
		s.t.Errorf("rows were not asked to be dropped: %v", s.fakes.calls)
	}
	s.until("the end", func(r result) bool {
		return strings.Contains(r.out, "destroyed") && strings.Contains(r.out, "workflow completed")
	}, "status", s.name)
	s.starter("pause", s.name).exits(exitFailed).says("has ended (completed) (fix: starter apply")
}

// A setup that fails is reported with its step, its code and its remedy once.
// While the slot waits for transactions at the source, status says for whose.
func TestSetupSaysForWhomItWaits(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	who := `process 4711 ("nightly report", user "ana", idle in transaction), in a transaction for 3m0s`
	s.fakes.block(who)
	applied := make(chan result, 1)
	go func() { applied <- s.starter("apply", s.file) }()
	var v view.View
	s.until("the one that it waits for", func(r result) bool {
		if r.code != exitOK { // not started yet
			return false
		}
		r.object(&v)
		return len(v.WaitingFor) == 1
	}, "status", s.name, "--json")
	if v.WaitingFor[0] != who || v.Status.Phase != contract.Preparing {
		t.Errorf("%s, waiting for %q", v.Status.Phase, v.WaitingFor)
	}
	s.starter("status", s.name).exits(exitOK).says("preparing", "once these transactions at the source have ended", who)
	s.fakes.block()
	(<-applied).exits(exitOK)
	if r := s.streams(); strings.Contains(r.out, "have ended") {
		t.Errorf("waits though it does not: %s", r.out)
	}
}

func TestSetupFails(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	s.fakes.set(contract.CreateSlotActivity, temporal.NewNonRetryableApplicationError("SlotsExhausted: all 10 replication slots are taken (fix: raise max_replication_slots)", "SlotsExhausted", nil))
	r := s.starter("apply", s.file).exits(exitFailed).says("SetupFailed", `step "create the slot"`, "fix: raise max_replication_slots")
	if n := strings.Count(r.err, "SlotsExhausted"); n != 1 {
		t.Errorf("the code is told %d times: %s", n, r.err)
	}
	if !s.fakes.called(contract.DropPublicationActivity) {
		t.Error("what was made before is still there")
	}
	s.until("the end", func(r result) bool { return strings.Contains(r.out, "setup-failed") }, "status", s.name).exits(exitOK)
	var f failure
	s.starter("apply", s.file, "--json").exits(exitFailed).object(&f)
	if f.Code != contract.SetupFailedError {
		t.Errorf("%+v", f)
	}
	s.fakes.set(contract.CreateSlotActivity, nil)
	s.starter("apply", s.file, "--json").exits(exitOK).object(nil)
	s.fakes.set(contract.ForgetSinkActivity, temporal.NewNonRetryableApplicationError("no", "SinkPrivilege", nil))
	s.starter("destroy", s.name, "--yes", "--drop-rows").exits(exitFailed).says("DestroyIncomplete", "ledger of warehouse")
	s.fakes.set(contract.ForgetSinkActivity, nil)
	s.starter("destroy", s.name, "--yes", "--drop-rows").exits(exitOK).says("gone, with the tables")
	if !s.fakes.called(contract.ForgetSinkActivity + " warehouse rows=true") {
		t.Errorf("rows should have been dropped: %v", s.fakes.calls)
	}
}

// A destroy whose wait is over goes on, says so, and is joined by the next one.
func TestDestroyIsJoined(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	s.starter("apply", s.file).exits(exitOK)
	open := s.fakes.gate(contract.ForgetSinkActivity)
	defer open()
	s.until("a wait that is over", func(r result) bool {
		return strings.Contains(r.err, "destroy of pipeline "+s.name+" is under way, and not done yet")
	}, "destroy", s.name, "--yes", "--timeout", "3s").exits(exitFailed).says("the same command waits for its outcome again", "starter status "+s.name)
	s.starter("status", s.name).exits(exitOK).says("destroying")
	s.starter("destroy", s.name, "--yes", "--drop-rows").exits(exitFailed).says("Refused: ", "is being destroyed already, and the tables at its sinks stay")
	s.starter("pause", s.name).exits(exitFailed).says("Refused: ")
	before := s.accepted()
	joined := make(chan result, 1)
	go func() { joined <- s.starter("destroy", s.name, "--yes") }()
	for deadline := time.Now().Add(patience); s.accepted() == before; {
		if time.Now().After(deadline) {
			t.Fatal("the second destroy was not taken in")
		}
		time.Sleep(50 * time.Millisecond)
	}
	open()
	(<-joined).exits(exitOK).says("removed slot", "removed ledger of warehouse", "removed ledger of analytics", "the tables at the sinks stay")
	s.starter("destroy", s.name, "--yes").exits(exitFailed).says("has ended (completed)")
}

// accepted counts the updates that the pipeline has taken in.
func (s *server) accepted() (n int) {
	s.t.Helper()
	it := s.c.GetWorkflowHistory(s.t.Context(), contract.PipelineID(s.name), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for it.HasNext() {
		ev, err := it.Next()
		if err != nil {
			s.t.Fatal(err)
		}
		if ev.GetEventType() == enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED {
			n++
		}
	}
	return n
}

func TestPlanOutput(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	s.fakes.report = sampleReport
	plan := func(terminal bool) result {
		r := call{args: []string{"plan", s.file}, env: s.env, terminal: terminal}.run(t)
		r.out = strings.ReplaceAll(strings.ReplaceAll(r.out, s.file, "shop.yaml"), s.name, "shop")
		return r
	}
	golden(t, "testdata/plan.golden", plan(false).exits(exitOK).out)
	golden(t, "testdata/plan.color.golden", plan(true).exits(exitOK).out)
	var rep contract.Report
	s.starter("plan", s.file, "--json").exits(exitOK).object(&rep)

	bad := sampleReport
	bad.OK = false
	bad.Kafka = contract.Check{Name: "brokers", Detail: "KafkaUnreachable: no broker answers", Fix: "check kafka.brokers"}
	bad.Tables = append([]contract.TableReport{}, bad.Tables...)
	bad.Tables[0].Key, bad.Tables[0].Problems = nil, []string{"TableWithoutKey: add a primary key, exclude the table, or set append_only for it"}
	s.fakes.report = bad
	golden(t, "testdata/plan-fails.golden", plan(false).exits(exitFailed).out)
	r := s.starter("plan", s.file, "--json").exits(exitFailed).object(&rep)
	if rep.OK || strings.Contains(r.out, `"error"`) {
		t.Errorf("%s", r.out)
	}
	s.fakes.set(contract.InspectActivity, temporal.NewNonRetryableApplicationError("secret missing", "SecretMissing", nil))
	s.starter("plan", s.file).exits(exitFailed).says("starter: SecretMissing: secret missing")
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	s.starter("snapshot", s.file).exits(exitOK).says("shop.customers → warehouse: 20 rows", "shop.orders → analytics: 20 rows", "snapshot of "+s.name+": 80 rows in")
	var l contract.LoadStatus
	s.starter("snapshot", s.file, "--sink", "analytics", "--json").exits(exitOK).object(&l)
	if len(l.Loads) != 2 || !l.Done {
		t.Errorf("%+v", l)
	}
	s.fakes.set(contract.CopyChunkActivity, temporal.NewNonRetryableApplicationError("permission denied", "SourcePrivilege", nil))
	s.starter("snapshot", s.file).exits(exitFailed).says("SourcePrivilege", "permission denied")
}

// Watching shows one view after the other, on one line each as JSON, and ends
// well when it is interrupted or the pipeline ends.
func TestWatch(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	s.starter("apply", s.file).exits(exitOK)
	s.streams()
	watch := func(terminal bool, args ...string) string {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		out := &stopper{after: 3, mark: s.name, stop: cancel}
		c := call{args: append([]string{"status", s.name, "--watch", "--every", "100ms"}, args...), env: s.env, terminal: terminal, ctx: ctx, edit: func(tl *tool) { tl.out = out }}
		c.run(t).exits(exitOK)
		return out.b.String()
	}
	lines := strings.Split(strings.TrimSpace(watch(false, "--json")), "\n")
	if len(lines) < 3 {
		t.Errorf("%d lines", len(lines))
	}
	for _, l := range lines {
		if !json.Valid([]byte(l)) || !strings.HasPrefix(l, `{"status":`) {
			t.Errorf("not a view: %s", l)
		}
	}
	if text := watch(false); strings.Contains(text, "\x1b") || strings.Count(text, "\n\n") < 2 {
		t.Errorf("not apart, or with codes of a terminal: %q", text)
	}
	if text := watch(true); !strings.Contains(text, "F\x1b[1m") || strings.Contains(text, "\x1b[2J") || !strings.Contains(text, "\x1b[J") {
		t.Errorf("not drawn in place: %q", text)
	}
	s.starter("destroy", s.name, "--yes").exits(exitOK)
	s.until("the end", func(r result) bool { return strings.Contains(r.out, "completed") }, "status", s.name, "--watch")
}

// stopper ends a watch after some views.
type stopper struct {
	b     bytes.Buffer
	mark  string
	after int
	stop  func()
}

func (s *stopper) Write(p []byte) (int, error) {
	if strings.Contains(string(p), s.mark) {
		if s.after--; s.after == 0 {
			s.stop()
		}
	}
	return s.b.Write(p)
}

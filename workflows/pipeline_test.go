package workflows

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/pipeline"
)

// reply collects what an update answers.
type reply struct {
	refused  error
	err      error
	result   any
	complete bool
	asked    bool
	on       func() // once complete
}

func (r *reply) Accept()          {}
func (r *reply) Reject(err error) { r.refused = err }
func (r *reply) Complete(res any, e error) {
	r.result, r.err, r.complete = res, e, true
	if r.on != nil {
		r.on()
	}
}

func ask(env *testsuite.TestWorkflowEnvironment, after time.Duration, update string, args ...any) *reply {
	r := &reply{}
	env.RegisterDelayedCallback(func() { env.UpdateWorkflow(update, update+after.String(), r, args...) }, after)
	return r
}

func statusOf(t *testing.T, env *testsuite.TestWorkflowEnvironment) contract.PipelineStatus {
	t.Helper()
	v, err := env.QueryWorkflow(contract.StatusQuery)
	if err != nil {
		t.Fatal(err)
	}
	var st contract.PipelineStatus
	if err := v.Get(&st); err != nil {
		t.Fatal(err)
	}
	return st
}

func TestPipelineSetsUpInOrderThenStreams(t *testing.T) {
	w := newWorld()
	env := environment(t, w)
	apply := ask(env, 0, contract.ApplyUpdate, shopSpec(t))
	destroy := ask(env, time.Hour, contract.DestroyUpdate, contract.DestroyInput{})
	var seen contract.PipelineStatus
	env.RegisterDelayedCallback(func() { seen = statusOf(t, env) }, time.Hour-time.Second)
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	if err := env.GetWorkflowError(); err != nil {
		t.Fatal(err)
	}
	if apply.err != nil || !apply.result.(contract.ApplyResult).Created {
		t.Errorf("apply: %+v", apply)
	}
	if seen.Phase != contract.Streaming || len(seen.Tables) != 2 || seen.SlotAt != 0x100 {
		t.Errorf("before destroy: %+v", seen)
	}
	if destroy.err != nil {
		t.Errorf("destroy: %v", destroy.err)
	}
	calls := w.names()
	order := []string{"Resolve 2", "PrepareSink warehouse", "PrepareSink analytics", "EnsureTopics 0", "EnsurePublication 0", "CreateSlot "}
	if !slices.Equal(calls[:len(order)], order) {
		t.Errorf("setup in the order %v", calls[:len(order)])
	}
	for _, c := range []string{"DropSlot ", "DropPublication ", "DeleteTopics ", "ForgetSink warehouse false"} {
		if w.count(c) != 1 {
			t.Errorf("%q asked %d times", c, w.count(c))
		}
	}
}

// Whatever step of the setup fails, everything made before it is removed again,
// last first, and the answer names the step.
func TestSetupIsCompensated(t *testing.T) {
	steps := []struct{ activity, step string }{
		{contract.ResolveActivity, "find the tables"},
		{contract.PrepareSinkActivity, "prepare sink warehouse"},
		{contract.EnsureTopicsActivity, "create the topics"},
		{contract.EnsurePublicationActivity, "create the publication"},
		{contract.CreateSlotActivity, "create the slot"},
	}
	undo := []string{"ForgetSink warehouse true", "ForgetSink analytics true", "DeleteTopics ", "DropPublication "}
	for i, s := range steps {
		t.Run(s.activity, func(t *testing.T) {
			w := newWorld()
			w.fail[s.activity] = permanent("Broken")
			env := environment(t, w)
			apply := ask(env, 0, contract.ApplyUpdate, shopSpec(t))
			env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
			err := env.GetWorkflowError()
			var app *temporal.ApplicationError
			if !errors.As(err, &app) || app.Type() != contract.SetupFailedError || !strings.Contains(app.Message(), s.step) {
				t.Fatalf("error %v", err)
			}
			if apply.err == nil || !strings.Contains(apply.err.Error(), s.step) {
				t.Errorf("apply answered %+v", apply)
			}
			var want []string
			switch i {
			case 1:
				want = undo[:1]
			case 2: // of many topics some may have been made
				want = undo[:3]
			case 3:
				want = undo[:3]
			case 4:
				want = undo
			}
			var got []string
			for _, c := range w.names() {
				if slices.Contains(undo, c) {
					got = append(got, c)
				}
			}
			slices.Reverse(got)
			if !slices.Equal(got, want) {
				t.Errorf("undone %v, want %v", got, want)
			}
			if w.count("run capture") > 0 {
				t.Error("streamed after a failed setup")
			}
		})
	}
}

// A step that ends without an answer may have done its work all the same.
func TestSetupWithoutAnAnswerIsCompensated(t *testing.T) {
	for activity, undo := range map[string]string{contract.CreateSlotActivity: "DropSlot ", contract.EnsurePublicationActivity: "DropPublication "} {
		w := newWorld()
		w.fail[activity] = temporal.NewApplicationError("connection reset", "SourceUnreachable")
		env := environment(t, w)
		env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
		if env.GetWorkflowError() == nil || w.count(undo) != 1 {
			t.Errorf("%s: %v, %v", activity, env.GetWorkflowError(), w.names())
		}
	}
}

// Topics that were there before are not the setup's to delete.
func TestTopicsOfBeforeStay(t *testing.T) {
	w := newWorld()
	w.topics = true
	w.fail[contract.EnsureTopicsActivity] = permanent("TopicName")
	env := environment(t, w)
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	if env.GetWorkflowError() == nil || w.count("DeleteTopics ") != 0 || w.count("ForgetSink analytics true") != 1 {
		t.Errorf("%v, %v", env.GetWorkflowError(), w.names())
	}
}

func TestSetupIsCompensatedOnCancel(t *testing.T) {
	w := newWorld()
	w.fail[contract.CreateSlotActivity] = temporal.NewApplicationError("not yet", "SourceUnreachable")
	env := environment(t, w)
	env.RegisterDelayedCallback(env.CancelWorkflow, 600*time.Millisecond)
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	// Nobody knows what the attempt that was cancelled has made.
	for _, c := range []string{"DropSlot ", "DropPublication ", "DeleteTopics ", "ForgetSink warehouse true"} {
		if w.count(c) != 1 {
			t.Errorf("%q asked %d times: %v", c, w.count(c), w.names())
		}
	}
}

func TestPauseAndResume(t *testing.T) {
	w := newWorld()
	env := environment(t, w)
	pause := ask(env, time.Minute, contract.PauseUpdate)
	again := ask(env, 2*time.Minute, contract.PauseUpdate)
	resume := ask(env, 3*time.Minute, contract.ResumeUpdate)
	nothing := ask(env, 4*time.Minute, contract.ResumeUpdate)
	destroy := ask(env, 5*time.Minute, contract.DestroyUpdate, contract.DestroyInput{})
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	if pause.err != nil || pause.result.(contract.PipelineStatus).Phase != contract.Paused {
		t.Errorf("pause %+v", pause)
	}
	if again.refused == nil || nothing.refused == nil {
		t.Errorf("not refused: pause twice %v, resume twice %v", again.refused, nothing.refused)
	}
	if resume.err != nil || resume.result.(contract.PipelineStatus).Phase != contract.Streaming {
		t.Errorf("resume %+v", resume)
	}
	if destroy.err != nil {
		t.Errorf("destroy %v", destroy.err)
	}
	if n := w.count("run capture"); n != 2 {
		t.Errorf("capture started %d times, want 2", n)
	}
}

// A pause does not say of what goes on that it has stopped.
func TestPauseNamesWhatGoesOn(t *testing.T) {
	w := newWorld()
	w.outlived = true // its stream never says that it has ended
	env := environment(t, w)
	env.OnRequestCancelExternalWorkflow(mock.Anything, contract.StreamID("shop"), mock.Anything).Return(nil)
	pause := ask(env, time.Minute, contract.PauseUpdate)
	ask(env, 10*time.Minute, contract.DestroyUpdate, contract.DestroyInput{})
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	var app *temporal.ApplicationError
	if !errors.As(pause.err, &app) || app.Type() != contract.StillRunningError || !strings.Contains(app.Message(), contract.StreamID("shop")) {
		t.Errorf("pause %+v", pause)
	}
}

// A component that fails for good is named in the status; the others go on, and
// resume tries it again.
func TestDegradedAndRetried(t *testing.T) {
	w := newWorld()
	w.once["run"] = []error{permanent("SlotAhead")}
	env := environment(t, w)
	var degraded contract.PipelineStatus
	env.RegisterDelayedCallback(func() { degraded = statusOf(t, env) }, time.Minute)
	resume := ask(env, 2*time.Minute, contract.ResumeUpdate)
	var healed contract.PipelineStatus
	env.RegisterDelayedCallback(func() { healed = statusOf(t, env) }, 3*time.Minute)
	ask(env, 4*time.Minute, contract.DestroyUpdate, contract.DestroyInput{})
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	if degraded.Phase != contract.Degraded || len(degraded.Components) != 1 || degraded.Components[0].Failure.Code != "SlotAhead" {
		t.Errorf("after the failure: %+v", degraded)
	}
	if resume.err != nil || healed.Phase != contract.Streaming {
		t.Errorf("resume %+v, then %s", resume, healed.Phase)
	}
	if w.count("run deliver/warehouse/0") != 1 {
		t.Errorf("delivery was disturbed: %v", w.names())
	}
}

// A table that a sink cannot take any more is in the status, whatever else goes
// well, until it has been loaded again.
func TestGatedTableIsNotCalledStreaming(t *testing.T) {
	w := newWorld()
	orders := change.TableID{Schema: "shop", Name: "orders"}
	env := environment(t, w)
	env.RegisterDelayedCallback(func() {
		env.SignalWorkflow(contract.GatedSignal, contract.TableGated{Sink: "analytics", Table: orders, Reason: "SchemaGate: column n"})
	}, time.Minute)
	var gated, healed contract.PipelineStatus
	env.RegisterDelayedCallback(func() { gated = statusOf(t, env) }, 2*time.Minute)
	resync := ask(env, 3*time.Minute, contract.ResyncTableUpdate, contract.TablesInput{Tables: []change.TableID{orders}, Sinks: []string{"analytics"}})
	env.RegisterDelayedCallback(func() { healed = statusOf(t, env) }, 4*time.Minute)
	ask(env, 5*time.Minute, contract.DestroyUpdate, contract.DestroyInput{})
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	if gated.Phase != contract.Degraded || !strings.Contains(gated.Tables[1].Reason, "SchemaGate") {
		t.Errorf("with a gated table: %+v", gated)
	}
	if resync.err != nil || resync.refused != nil || healed.Phase != contract.Streaming || healed.Tables[1].Reason != "" {
		t.Errorf("after the resync %+v: %+v", resync, healed)
	}
}

// A lane may find its table's log gone before the pipeline hears that it is loaded.
func TestGateBeforeTheEndOfTheLoadIsHeard(t *testing.T) {
	w := newWorld()
	orders := change.TableID{Schema: "shop", Name: "orders"}
	env := environment(t, w)
	w.before = func(activity string) {
		if activity == contract.ResetTableActivity { // of the load before: it is made good
			env.SignalWorkflow(contract.GatedSignal, contract.TableGated{Sink: "warehouse", Table: orders, Reason: "OffsetGone: old", Epoch: 1})
		}
	}
	early := func(activity string) {
		if activity == contract.FinishLoadActivity {
			env.SignalWorkflow(contract.GatedSignal, contract.TableGated{Sink: "analytics", Table: orders, Reason: "OffsetGone: expired", Epoch: 2})
		}
	}
	resync := ask(env, time.Minute, contract.ResyncTableUpdate, contract.TablesInput{Tables: []change.TableID{orders}})
	env.RegisterDelayedCallback(func() { reset := w.before; w.before = func(a string) { reset(a); early(a) } }, 30*time.Second)
	var st contract.PipelineStatus
	env.RegisterDelayedCallback(func() { st = statusOf(t, env) }, 2*time.Minute)
	ask(env, 3*time.Minute, contract.DestroyUpdate, contract.DestroyInput{})
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	if resync.err != nil || resync.refused != nil || st.Phase != contract.Degraded || st.Tables[1].Sinks["analytics"] != sink.Gated ||
		st.Tables[1].Sinks["warehouse"] != sink.Streaming || !strings.Contains(st.Tables[1].Reason, "OffsetGone: expired") {
		t.Errorf("%+v: %+v", resync, st)
	}
}

func TestTablesComeAndGo(t *testing.T) {
	w := newWorld()
	orders := change.TableID{Schema: "shop", Name: "orders"}
	events := change.TableID{Schema: "web", Name: "events"}
	w.tables = append(w.tables, events)
	env := environment(t, w)
	unknown := ask(env, time.Minute, contract.RemoveTableUpdate, contract.TablesInput{Tables: []change.TableID{{Schema: "shop", Name: "order"}}})
	twice := ask(env, time.Minute, contract.AddTableUpdate, contract.TablesInput{Tables: []change.TableID{orders}})
	add := ask(env, 2*time.Minute, contract.AddTableUpdate, contract.TablesInput{Tables: []change.TableID{events}})
	remove := ask(env, 3*time.Minute, contract.RemoveTableUpdate, contract.TablesInput{Tables: []change.TableID{orders}})
	resync := ask(env, 4*time.Minute, contract.ResyncTableUpdate, contract.TablesInput{Tables: []change.TableID{events}, Sinks: []string{"warehouse"}})
	var end contract.PipelineStatus
	env.RegisterDelayedCallback(func() { end = statusOf(t, env) }, 5*time.Minute)
	ask(env, 6*time.Minute, contract.DestroyUpdate, contract.DestroyInput{})
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	if unknown.refused == nil || !strings.Contains(unknown.refused.Error(), "did you mean shop.orders") {
		t.Errorf("unknown table: %v", unknown.refused)
	}
	if twice.refused == nil {
		t.Error("a table was added twice")
	}
	for name, r := range map[string]*reply{"add": add, "remove": remove, "resync": resync} {
		if r.err != nil || r.refused != nil || !r.complete {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if len(end.Tables) != 2 || end.Tables[1].Table != events || end.Phase != contract.Streaming {
		t.Errorf("in the end %+v", end.Tables)
	}
	if w.count("ResetTable warehouse web.events") != 1 || w.count("ResetTable analytics web.events") != 0 {
		t.Errorf("resync of one sink: %v", w.names())
	}
	if n := w.count("run capture"); n != 1 {
		t.Errorf("the stream was disturbed: capture started %d times", n)
	}
}

func TestApplyChangesWhatRuns(t *testing.T) {
	w := newWorld()
	env := environment(t, w)
	next, bad := shopSpec(t), shopSpec(t)
	next.Sinks[0].Lanes = 3
	next.Tables.Exclude = []string{"shop.customers"}
	bad.Kafka.Partitions = 64
	refused := ask(env, time.Minute, contract.ApplyUpdate, bad)
	changed := ask(env, 2*time.Minute, contract.ApplyUpdate, next)
	var end contract.PipelineStatus
	env.RegisterDelayedCallback(func() { end = statusOf(t, env) }, 3*time.Minute)
	ask(env, 4*time.Minute, contract.DestroyUpdate, contract.DestroyInput{})
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	if refused.refused == nil || !strings.Contains(refused.refused.Error(), "kafka.partitions") {
		t.Errorf("a change of partitions: %+v", refused)
	}
	if changed.err != nil || len(changed.result.(contract.ApplyResult).Changes) == 0 {
		t.Errorf("apply: %+v", changed)
	}
	if len(end.Tables) != 1 || end.Phase != contract.Streaming || w.count("run deliver/warehouse/2") != 1 {
		t.Errorf("in the end %+v; %v", end, w.names())
	}
}

// Topics that exist are changed when the declaration says so, and only then, before
// the stream goes on; if they cannot be, the pipeline stays as it was declared.
func TestApplyChangesTopics(t *testing.T) {
	w := newWorld()
	env := environment(t, w)
	longer, larger, other := shopSpec(t), shopSpec(t), shopSpec(t)
	longer.Kafka.Retention *= 2
	larger.Kafka.Retention = longer.Kafka.Retention
	larger.Kafka.MaxMessageBytes *= 2
	other.Kafka = larger.Kafka
	other.Sinks[0].Lanes = 3
	var counts []int
	count := func(at time.Duration) {
		env.RegisterDelayedCallback(func() { counts = append(counts, w.count("EnsureTopics 2")) }, at)
	}
	first := ask(env, time.Minute, contract.ApplyUpdate, longer)
	count(2 * time.Minute)
	second := ask(env, 3*time.Minute, contract.ApplyUpdate, larger)
	count(4 * time.Minute)
	third := ask(env, 5*time.Minute, contract.ApplyUpdate, other)
	count(6 * time.Minute)
	env.RegisterDelayedCallback(func() { w.fail[contract.EnsureTopicsActivity] = permanent("KafkaRefused") }, 7*time.Minute)
	last := ask(env, 8*time.Minute, contract.ApplyUpdate, shopSpec(t))
	var end contract.PipelineStatus
	env.RegisterDelayedCallback(func() { end = statusOf(t, env) }, 9*time.Minute)
	ask(env, 10*time.Minute, contract.DestroyUpdate, contract.DestroyInput{})
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	if first.err != nil || second.err != nil || third.err != nil {
		t.Fatalf("apply: %+v %+v %+v", first, second, third)
	}
	if !slices.Equal(counts, []int{1, 2, 2}) {
		t.Errorf("topics were changed %v times: %v", counts, w.names())
	}
	if last.err == nil || end.Spec.Kafka.Retention != other.Kafka.Retention || end.Phase != contract.Streaming {
		t.Errorf("topics that cannot be changed: %+v, %v", last, end.Spec.Kafka.Retention)
	}
}

// A sink that is added is prepared and loads every table, while what the others
// have is left alone; one that is taken away is not waited for any more.
func TestSinksComeAndGo(t *testing.T) {
	w := newWorld()
	env := environment(t, w)
	more, less := shopSpec(t), shopSpec(t)
	third := more.Sinks[0]
	third.Name = "archive"
	more.Sinks = append(more.Sinks, third)
	less.Sinks = append(more.Sinks[1:2:2], third)
	come := ask(env, time.Minute, contract.ApplyUpdate, more)
	var with, end contract.PipelineStatus
	env.RegisterDelayedCallback(func() { with = statusOf(t, env) }, 2*time.Minute)
	gone := ask(env, 3*time.Minute, contract.ApplyUpdate, less)
	env.RegisterDelayedCallback(func() { end = statusOf(t, env) }, 4*time.Minute)
	ask(env, 5*time.Minute, contract.DestroyUpdate, contract.DestroyInput{})
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	if come.err != nil || gone.err != nil {
		t.Fatalf("come %+v, gone %+v", come, gone)
	}
	for _, c := range []string{"PrepareSink archive", "PlanChunks archive shop.orders", "FinishLoad archive shop.customers", "run deliver/archive/0"} {
		if w.count(c) == 0 {
			t.Errorf("%q was not asked for", c)
		}
	}
	for _, c := range []string{"PrepareSink warehouse", "PlanChunks warehouse shop.orders", "FinishLoad analytics shop.orders"} {
		if n := w.count(c); n != 1 {
			t.Errorf("%q asked %d times", c, n)
		}
	}
	if with.Phase != contract.Streaming || len(with.Tables[0].Sinks) != 3 || with.Tables[0].Sinks["archive"] != "streaming" {
		t.Errorf("with the new sink: %+v", with)
	}
	if end.Phase != contract.Streaming || len(end.Tables[0].Sinks) != 2 || end.Tables[0].Sinks["warehouse"] != "" {
		t.Errorf("without the old one: %+v", end)
	}
}

// A sink that cannot be added leaves the pipeline as it was, running.
func TestSinkThatCannotCome(t *testing.T) {
	w := newWorld()
	env := environment(t, w)
	more := shopSpec(t)
	third := more.Sinks[0]
	third.Name = "archive"
	more.Sinks = append(more.Sinks, third)
	env.RegisterDelayedCallback(func() { w.fail[contract.PrepareSinkActivity] = permanent("SinkPrivilege") }, time.Minute)
	come := ask(env, 2*time.Minute, contract.ApplyUpdate, more)
	var end contract.PipelineStatus
	env.RegisterDelayedCallback(func() { end = statusOf(t, env) }, 3*time.Minute)
	ask(env, 4*time.Minute, contract.DestroyUpdate, contract.DestroyInput{})
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	if come.err == nil || w.count("ForgetSink archive true") != 1 {
		t.Errorf("%+v, %v", come, w.names())
	}
	if end.Phase != contract.Streaming || len(end.Spec.Sinks) != 2 || len(end.Tables[0].Sinks) != 2 {
		t.Errorf("in the end %+v", end)
	}
}

// What the source publishes of a table, and what it is at the sinks, is made when
// it comes. A change that would be taken up by half is refused; the stream runs on.
func TestTablesAreNotReshapedByHalf(t *testing.T) {
	w := newWorld()
	env := environment(t, w)
	filtered, moved, elsewhere := shopSpec(t), shopSpec(t), shopSpec(t)
	filtered.Tables.Options = []pipeline.TableOption{{Match: "shop.orders", Where: "id > 7"}}
	moved.Sinks[1].Schema = "other"
	elsewhere.Tables.Options = []pipeline.TableOption{{Match: "web.*", Where: "id > 7"}}
	refused := []*reply{ask(env, time.Minute, contract.ApplyUpdate, filtered), ask(env, 2*time.Minute, contract.ApplyUpdate, moved)}
	fine := ask(env, 3*time.Minute, contract.ApplyUpdate, elsewhere)
	var end contract.PipelineStatus
	env.RegisterDelayedCallback(func() { end = statusOf(t, env) }, 4*time.Minute)
	ask(env, 5*time.Minute, contract.DestroyUpdate, contract.DestroyInput{})
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	for i, r := range refused {
		if r.err == nil || !strings.Contains(r.err.Error(), "cannot") || !strings.Contains(r.err.Error(), "fix:") {
			t.Errorf("%d: %+v", i, r)
		}
	}
	if fine.err != nil || end.Phase != contract.Streaming || len(end.Spec.Tables.Options) != 1 {
		t.Errorf("options of a table that is not there: %+v, %+v", fine, end)
	}
}

// A load that is tried again is tried where it failed, not where the table is
// delivered, or gated, already.
func TestOnlyWhatIsMissingIsLoaded(t *testing.T) {
	w := newWorld()
	w.once[contract.PlanChunksActivity] = []error{permanent("SinkPrivilege")}
	env := environment(t, w)
	resume := ask(env, time.Minute, contract.ResumeUpdate)
	var end contract.PipelineStatus
	env.RegisterDelayedCallback(func() { end = statusOf(t, env) }, 2*time.Minute)
	ask(env, 3*time.Minute, contract.DestroyUpdate, contract.DestroyInput{})
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	if resume.err != nil || end.Phase != contract.Streaming {
		t.Errorf("resume %+v, then %+v", resume, end)
	}
	n := 0
	for _, c := range w.names() {
		if strings.HasPrefix(c, contract.PlanChunksActivity) {
			n++
		}
	}
	if n != 5 { // two tables to two sinks, and the one that failed again
		t.Errorf("planned %d times: %v", n, w.names())
	}
}

// A sink that is gone must not keep the slot, and with it the source's log: the
// rest is removed, what is left is named, and destroy can be asked for again.
func TestDestroyGoesPastADeadSink(t *testing.T) {
	w := newWorld()
	w.once[contract.ForgetSinkActivity] = []error{permanent("SinkUnreachable")}
	env := environment(t, w)
	first := ask(env, time.Minute, contract.DestroyUpdate, contract.DestroyInput{})
	second := ask(env, 10*time.Minute, contract.DestroyUpdate, contract.DestroyInput{})
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	if first.err == nil || !strings.Contains(first.err.Error(), "ledger of ") { // of either: they are removed side by side
		t.Errorf("first destroy: %+v", first)
	}
	if w.count("DropSlot ") != 2 || second.err != nil {
		t.Errorf("second destroy: %+v, %v", second, w.names())
	}
}

// Ends that cannot be reached cost a bounded time together, however many they are
// and however long each attempt lasts: the starter waits for ten minutes.
func TestDestroyAnswersInBoundedTime(t *testing.T) {
	w := newWorld()
	for _, a := range []string{contract.DropSlotActivity, contract.DropPublicationActivity, contract.DeleteTopicsActivity, contract.ForgetSinkActivity} {
		w.fail[a] = temporal.NewApplicationError("SinkUnreachable: no route", "SinkUnreachable")
	}
	env := environment(t, w)
	var removed []string
	env.SetOnActivityStartedListener(func(i *activity.Info, _ context.Context, _ converter.EncodedValues) {
		switch i.ActivityType.Name {
		case contract.DropSlotActivity, contract.DropPublicationActivity, contract.DeleteTopicsActivity, contract.ForgetSinkActivity:
			removed = append(removed, i.ActivityType.Name)
			if bound := i.ScheduledTime.Add(removeBound); i.Deadline.After(bound) {
				t.Errorf("%s may go on until %s, want %s at most", i.ActivityType.Name, i.Deadline, bound)
			}
		}
	})
	var asked, answered time.Time
	r := &reply{on: func() { answered = env.Now() }}
	env.RegisterDelayedCallback(func() {
		asked = env.Now()
		env.UpdateWorkflow(contract.DestroyUpdate, "d", r, contract.DestroyInput{})
	}, time.Minute)
	env.RegisterDelayedCallback(func() {
		w.mu.Lock()
		clear(w.fail)
		w.mu.Unlock()
	}, time.Hour)
	ask(env, time.Hour+time.Second, contract.DestroyUpdate, contract.DestroyInput{})
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	var app *temporal.ApplicationError
	if !errors.As(r.err, &app) || app.Type() != contract.DestroyIncompleteError {
		t.Fatalf("destroy: %+v", r)
	}
	for _, what := range []string{"slot ", "publication ", "topics: ", "ledger of warehouse: ", "ledger of analytics: "} {
		if !strings.Contains(app.Message(), what) {
			t.Errorf("%q is not named: %s", what, app.Message())
		}
	}
	if took := answered.Sub(asked); took > 2*removeBound || len(removed) < 5 {
		t.Errorf("answered after %s: %v", took, removed)
	}
}

// A destroy that is under way is joined: whoever asks again, because the wait was
// over, gets its outcome. What asks for another outcome is refused.
func TestDestroyIsJoined(t *testing.T) {
	for name, fails := range map[string]error{"done": nil, "incomplete": permanent("SinkPrivilege")} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			if fails != nil {
				w.once[contract.ForgetSinkActivity] = []error{fails}
			}
			env := environment(t, w)
			begun := make(chan struct{})
			w.before = func(activity string) {
				if activity == contract.DropSlotActivity {
					select {
					case <-begun:
					case <-time.After(2 * time.Second):
						t.Error("the second destroy did not come while the first was under way")
					}
				}
			}
			first := &reply{}
			second, other, paused := &reply{}, &reply{}, &reply{}
			env.RegisterDelayedCallback(func() { env.UpdateWorkflow(contract.DestroyUpdate, "1", first, contract.DestroyInput{}) }, time.Minute)
			env.SetOnActivityStartedListener(func(i *activity.Info, _ context.Context, _ converter.EncodedValues) {
				if i.ActivityType.Name == contract.DropSlotActivity && !second.asked {
					second.asked = true
					env.UpdateWorkflow(contract.DestroyUpdate, "2", second, contract.DestroyInput{})
					env.UpdateWorkflow(contract.DestroyUpdate, "3", other, contract.DestroyInput{DropRows: true})
					env.UpdateWorkflow(contract.PauseUpdate, "4", paused)
					close(begun)
				}
			})
			if fails != nil {
				ask(env, time.Hour, contract.DestroyUpdate, contract.DestroyInput{})
			}
			env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
			if err := env.GetWorkflowError(); err != nil {
				t.Fatal(err)
			}
			if other.refused == nil || !strings.Contains(other.refused.Error(), "the tables at its sinks stay") || paused.refused == nil {
				t.Errorf("not refused: %+v, %+v", other, paused)
			}
			if !second.complete || second.refused != nil {
				t.Fatalf("second destroy: %+v", second)
			}
			runs := 1
			if fails != nil {
				runs = 2 // the one an hour later
				if first.err == nil || second.err == nil || first.err.Error() != second.err.Error() {
					t.Errorf("outcomes %v and %v", first.err, second.err)
				}
			} else if first.err != nil || second.err != nil || !reflect.DeepEqual(first.result, second.result) || len(second.result.(contract.DestroyResult).Removed) != 5 {
				t.Errorf("outcomes %+v and %+v", first, second)
			}
			if n := w.count("DropSlot "); n != runs {
				t.Errorf("the slot was dropped %d times", n)
			}
		})
	}
}

// Whoever stops a pipeline the moment it is set up stops its load too, although
// that is only just being started.
func TestDestroyRightAfterTheSetup(t *testing.T) {
	w := newWorld()
	w.hold = true
	env := environment(t, w)
	w.signal = nil // no generation: a load that is not cancelled never ends
	var answered, applied time.Time
	destroy := &reply{on: func() { answered = env.Now() }}
	apply := &reply{on: func() {
		applied = env.Now()
		env.UpdateWorkflow(contract.DestroyUpdate, "d", destroy, contract.DestroyInput{})
	}}
	env.RegisterDelayedCallback(func() { env.UpdateWorkflow(contract.ApplyUpdate, "a", apply, shopSpec(t)) }, 0)
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	if err := env.GetWorkflowError(); err != nil || destroy.err != nil || destroy.refused != nil {
		t.Fatalf("%v, %+v", err, destroy)
	}
	if took := answered.Sub(applied); took > stopBound/2 {
		t.Errorf("work was waited for, not stopped: %s", took)
	}
	if w.count("run capture") > 1 {
		t.Errorf("streamed after the end: %v", w.names())
	}
}

func TestPlan(t *testing.T) {
	w := newWorld()
	env := environment(t, w)
	env.ExecuteWorkflow(Plan, contract.PlanInput{Spec: pipeline.Spec{Name: "x"}})
	if err := env.GetWorkflowError(); err == nil || !strings.Contains(err.Error(), "InvalidDeclaration") {
		t.Errorf("an invalid declaration: %v", err)
	}
}

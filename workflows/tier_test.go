package workflows

import (
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/pipeline"
)

func TestBatchTier(t *testing.T) {
	w := newWorld()
	w.once[contract.DrainTierActivity] = []error{temporal.NewApplicationError("away", "SinkUnreachable")}
	env := environment(t, w)
	env.ExecuteWorkflow(BatchTier, contract.TierInput{Pipeline: "shop", Tier: "hourly"})
	var r contract.TierResult
	if err := env.GetWorkflowResult(&r); err != nil || r.At.Commit != 0x500 || len(r.Sinks) != 2 || r.Sinks[0].Waited != 5 || r.Sinks[0].Tables != 2 || r.Skipped != "" {
		t.Fatalf("%+v, %v", r, err)
	}
	if n := w.count("DrainTier " + r.At.String()); n != 3 {
		t.Errorf("%d drains: %v", n, w.names())
	}

	w = newWorld()
	w.skip = "the pipeline is paused"
	env = environment(t, w)
	env.ExecuteWorkflow(BatchTier, contract.TierInput{Pipeline: "shop", Tier: "hourly"})
	if err := env.GetWorkflowResult(&r); err != nil || r.Skipped != w.skip || len(w.names()) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

// A sink that fails holds up no other, and the run says which it was.
func TestBatchTierFails(t *testing.T) {
	w := newWorld()
	w.once[contract.DrainTierActivity] = []error{permanent("SinkPrivilege")}
	env := environment(t, w)
	env.ExecuteWorkflow(BatchTier, contract.TierInput{Pipeline: "shop", Tier: "hourly"})
	err := env.GetWorkflowError()
	if errorType(err) != contract.TierBehindError || !strings.Contains(err.Error(), "SinkPrivilege") {
		t.Fatal(err)
	}
	drains := slices.DeleteFunc(w.names(), func(c string) bool { return !strings.HasPrefix(c, "DrainTier") })
	if len(drains) != 2 {
		t.Errorf("drains %v", drains)
	}
	w = newWorld()
	w.fail[contract.PlanTierActivity] = permanent("TierMissing")
	env = environment(t, w)
	env.ExecuteWorkflow(BatchTier, contract.TierInput{Pipeline: "shop", Tier: "hourly"})
	if err := env.GetWorkflowError(); errorType(err) != "TierMissing" {
		t.Error(err)
	}
}

func tiered(t *testing.T, names ...string) pipeline.Spec {
	t.Helper()
	s := shopSpec(t)
	for _, n := range names {
		s.Tiers = append(s.Tiers, pipeline.Tier{Name: n, Every: pipeline.Duration(time.Hour)})
		s.Classify = append(s.Classify, pipeline.Class{Match: "shop." + n, Tier: n})
	}
	return s
}

// The Schedules of a pipeline's tiers come with it, change with its declaration, and go
// with it.
func TestTiersAreScheduled(t *testing.T) {
	w := newWorld()
	env := environment(t, w)
	changed := ask(env, time.Minute, contract.ApplyUpdate, tiered(t, "b", "c"))
	same := ask(env, 2*time.Minute, contract.ApplyUpdate, func() pipeline.Spec { s := tiered(t, "b", "c"); s.Sinks[0].Lanes = 3; return s }())
	gone := ask(env, 3*time.Minute, contract.DestroyUpdate, contract.DestroyInput{})
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: tiered(t, "a", "b")})
	if changed.err != nil || same.err != nil || gone.err != nil || env.GetWorkflowError() != nil {
		t.Fatalf("%+v, %+v, %+v, %v", changed, same, gone, env.GetWorkflowError())
	}
	if !slices.Contains(gone.result.(contract.DestroyResult).Removed, "schedules of tiers") {
		t.Errorf("%+v", gone.result)
	}
	calls := slices.DeleteFunc(w.names(), func(c string) bool { return !strings.HasPrefix(c, "ScheduleTiers") })
	if want := []string{"ScheduleTiers [a b] not []", "ScheduleTiers [b c] not [a]", "ScheduleTiers [] not [b c]"}; !slices.Equal(calls, want) {
		t.Errorf("%v, want %v", calls, want)
	}
}

// Schedules that cannot be made are as any other step: what was made goes again.
func TestTiersThatCannotBeScheduled(t *testing.T) {
	w := newWorld()
	w.once[contract.ScheduleTiersActivity] = []error{permanent("ScheduleRefused")}
	env := environment(t, w)
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: tiered(t, "a")})
	if err := env.GetWorkflowError(); errorType(err) != contract.SetupFailedError || !strings.Contains(err.Error(), "schedule the tiers") {
		t.Fatal(err)
	}
	if w.count("ScheduleTiers [] not [a]") != 1 || w.count("DropSlot ") != 1 || w.count("ForgetSink analytics true") != 1 {
		t.Errorf("undone: %v", w.names())
	}

	w = newWorld()
	w.once[contract.ScheduleTiersActivity] = []error{nil, permanent("ScheduleRefused")}
	env = environment(t, w)
	changed := ask(env, time.Minute, contract.ApplyUpdate, tiered(t, "b"))
	ask(env, 2*time.Minute, contract.DestroyUpdate, contract.DestroyInput{})
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: tiered(t, "a")})
	if changed.err == nil || w.count("ScheduleTiers [a] not [b]") != 1 || w.count("ScheduleTiers [] not [a]") != 1 {
		t.Errorf("%+v: %v", changed, w.names())
	}
}

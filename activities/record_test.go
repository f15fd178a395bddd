package activities

import (
	"context"
	"errors"
	"slices"
	"testing"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.uber.org/zap"

	"syncline/activities/contract"
	"syncline/activities/observe"
	"syncline/analytics/indicators"
	"syncline/dataplane/change"
	"syncline/pipeline"
)

// The interceptor tells of every activity what it worked on.
func TestSubjects(t *testing.T) {
	spec := pipeline.Spec{Name: "p", Source: pipeline.Source{Slot: "slot"}}
	task := contract.TableTask{Endpoint: contract.Endpoint{Pipeline: "p", Sink: pipeline.Sink{Name: "s"}}, Table: change.TableID{Schema: "a", Name: "b"}}
	a := &Activities{Metrics: observe.NewMetrics("x"), Health: observe.NewHealth(), Log: zap.NewNop()}
	var suite testsuite.WorkflowTestSuite
	for name, c := range map[string]struct {
		in   any
		want subject
	}{
		contract.CaptureActivity:       {contract.CaptureInput{Spec: spec}, subject{"p", "capture", "", "", ""}},
		contract.DeliverActivity:       {contract.DeliverInput{Spec: spec, Sink: "s", Lane: 2}, subject{"p", "deliver/s/2", "", "s", ""}},
		contract.EnsureTopicsActivity:  {contract.SetupInput{Spec: spec}, subject{"p", contract.EnsureTopicsActivity, "slot", "", ""}},
		contract.PrepareSinkActivity:   {contract.SinkInput{Spec: spec, Sink: "s"}, subject{"p", contract.PrepareSinkActivity, "s", "s", ""}},
		contract.DropSlotActivity:      {contract.TeardownInput{Spec: spec}, subject{"p", contract.DropSlotActivity, "slot", "", ""}},
		contract.FinishLoadActivity:    {task, subject{"p", contract.FinishLoadActivity, "s a.b", "s", "a.b"}},
		contract.CopyChunkActivity:     {contract.ChunkTask{TableTask: task, N: 4}, subject{"p", contract.CopyChunkActivity, "s a.b chunk 4", "s", "a.b"}},
		contract.HoldSnapshotActivity:  {contract.HoldInput{Pipeline: "p"}, subject{"p", contract.HoldSnapshotActivity, "", "", ""}},
		contract.PlanAuditActivity:     {contract.AuditInput{Pipeline: "p"}, subject{"p", contract.PlanAuditActivity, "", "", ""}},
		contract.VerifyTableActivity:   {contract.VerifyTask{TableTask: task, Run: "r"}, subject{"p", contract.VerifyTableActivity, "s a.b", "s", "a.b"}},
		contract.ReplayKeysActivity:    {contract.RepairTask{TableTask: task, Repair: "r"}, subject{"p", contract.ReplayKeysActivity, "s a.b", "s", "a.b"}},
		contract.DrainTierActivity:     {contract.TierTask{Pipeline: "p", Tier: "hourly", Sink: pipeline.Sink{Name: "s"}}, subject{"p", contract.DrainTierActivity, "s hourly", "s", ""}},
		contract.ConcludeAuditActivity: {contract.AuditConclusion{Pipeline: "p", Run: "r"}, subject{"p", contract.ConcludeAuditActivity, "r", "", ""}},
	} {
		env := suite.NewTestActivityEnvironment()
		seen := subject{}
		env.SetWorkerOptions(worker.Options{Interceptors: []interceptor.WorkerInterceptor{&spy{look: func(ctx context.Context, in *interceptor.ExecuteActivityInput) {
			seen = subjectOf(activity.GetInfo(ctx).ActivityType.Name, in.Args[0])
		}}}})
		for _, role := range []contract.Role{contract.Control, contract.Capture, contract.Snapshot, contract.Deliver} {
			for n, fn := range a.ByRole(role) {
				if n == name {
					env.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: n})
				}
			}
		}
		if _, err := env.ExecuteActivity(name, c.in); err == nil {
			t.Errorf("%s ran", name)
		}
		if seen != c.want {
			t.Errorf("%s: %+v, want %+v", name, seen, c.want)
		}
	}
}

// Reports name these activities without knowing the package that does.
func TestVoidingActivitiesAreRecorded(t *testing.T) {
	if want := []string{contract.ForgetSinkActivity, contract.RemoveTableActivity, contract.ResetTableActivity}; !slices.Equal(indicators.Voiding, want) {
		t.Errorf("%v, want %v", indicators.Voiding, want)
	}
	for _, a := range indicators.Voiding {
		if !changes[a] {
			t.Errorf("%s is not in the audit trail", a)
		}
	}
}

var errSpied = errors.New("seen")

// spy looks at the input and lets nothing run.
type spy struct {
	interceptor.WorkerInterceptorBase
	look func(context.Context, *interceptor.ExecuteActivityInput)
}

func (s *spy) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	return &spied{interceptor.ActivityInboundInterceptorBase{Next: next}, s.look}
}

type spied struct {
	interceptor.ActivityInboundInterceptorBase
	look func(context.Context, *interceptor.ExecuteActivityInput)
}

func (s *spied) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	s.look(ctx, in)
	return nil, errSpied
}

package workflows

import (
	"errors"
	"testing"
	"time"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
)

// continued takes the input of the next run out of a continue-as-new error.
func continued[T any](t *testing.T, err error) (in T) {
	t.Helper()
	var next *workflow.ContinueAsNewError
	if !errors.As(err, &next) {
		t.Fatalf("ended with %v, want continue-as-new", err)
	}
	if err := converter.GetDefaultDataConverter().FromPayloads(next.Input, &in); err != nil {
		t.Fatal(err)
	}
	return in
}

// A pipeline whose history has become long goes on in a new run: nothing is set
// up again, and the stream that runs is not started a second time.
func TestPipelineContinuesAsNew(t *testing.T) {
	w := newWorld()
	w.outlived = true
	env := environment(t, w)
	env.RegisterDelayedCallback(func() {
		env.SetContinueAsNewSuggested(true)
		env.SignalWorkflow(contract.ComponentSignal, contract.ComponentState{Name: contract.CaptureComponent})
	}, time.Minute)
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: shopSpec(t)})
	in := continued[contract.PipelineInput](t, env.GetWorkflowError())
	if in.Carried == nil || !in.Carried.StreamOn || len(in.Carried.Tables) != 2 || in.Carried.Phase != contract.Streaming {
		t.Fatalf("carried %+v", in.Carried)
	}

	again := newWorld()
	next := environment(t, again)
	next.OnRequestCancelExternalWorkflow("default-test-namespace", contract.StreamID("shop"), "").Return(errors.New("not in this environment"))
	var st contract.PipelineStatus
	next.RegisterDelayedCallback(func() { st = statusOf(t, next) }, time.Minute)
	apply := ask(next, 90*time.Second, contract.ApplyUpdate, shopSpec(t))
	destroy := ask(next, 2*time.Minute, contract.DestroyUpdate, contract.DestroyInput{})
	next.ExecuteWorkflow(Pipeline, in)
	if st.Phase != contract.Streaming || len(st.Tables) != 2 {
		t.Errorf("the next run: %+v", st)
	}
	if n := again.count("run capture"); n != 0 {
		t.Errorf("the stream was started %d times more", n)
	}
	for _, c := range []string{"Resolve 2", "CreateSlot "} {
		if again.count(c) != 0 {
			t.Errorf("%q was asked for again", c)
		}
	}
	if apply.err != nil || apply.result.(contract.ApplyResult).Created {
		t.Errorf("a pipeline that has run for long is said to be new: %+v", apply)
	}
	if destroy.err != nil {
		t.Errorf("destroy in the next run: %v", destroy.err)
	}
}

// A long load goes on in a new run with the chunks that are left.
func TestBootstrapContinuesAsNew(t *testing.T) {
	w := newWorld()
	w.chunks = 50
	env := environment(t, w)
	env.RegisterDelayedCallback(func() { env.SetContinueAsNewSuggested(true) }, 0)
	env.ExecuteWorkflow(Bootstrap, bootstrapInput(t, w))
	in := continued[contract.BootstrapInput](t, env.GetWorkflowError())
	before := len(w.names())
	left := 0
	for _, l := range in.Loads {
		if l.Next != l.Done {
			t.Errorf("left while chunks were under way: %+v", l)
		}
		left += 50 - l.Next
	}
	if left == 0 {
		t.Fatal("nothing was left to do: the test shows nothing")
	}
	next := environment(t, w)
	next.ExecuteWorkflow(Bootstrap, in)
	if err := next.GetWorkflowError(); err != nil {
		t.Fatal(err)
	}
	var st contract.LoadStatus
	if err := next.GetWorkflowResult(&st); err != nil {
		t.Fatal(err)
	}
	for _, l := range st.Loads {
		if l.Done != 50 || l.Rows != 500 {
			t.Errorf("in the end %+v", l)
		}
	}
	if before == 0 || st.Begun != in.Begun {
		t.Errorf("the load began at %s, the next run says %s", in.Begun, st.Begun)
	}
}

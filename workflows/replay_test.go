package workflows

import (
	"context"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/dataplane/change"
)

var replayInput = contract.ReplayInput{Pipeline: "shop", Table: change.TableID{Schema: "shop", Name: "orders"}, Sink: "warehouse", To: "again"}

func TestReplay(t *testing.T) {
	w := newWorld()
	w.once[contract.ReplayTableActivity] = []error{temporal.NewApplicationError("away", "KafkaUnreachable")}
	env := environment(t, w)
	env.ExecuteWorkflow(Replay, replayInput)
	var r contract.ReplayResult
	if err := env.GetWorkflowResult(&r); err != nil || r.Changes != 7 || r.To != "again" {
		t.Fatalf("%+v, %v", r, err)
	}
	if w.count("ReplayTable again") != 2 || w.count("ForgetReplay false") != 1 || len(w.names()) != 4 {
		t.Error("calls", w.names())
	}
}

// What a replay made that failed is removed, unless somebody wants to see it.
func TestReplayFails(t *testing.T) {
	for keep, forget := range map[bool]string{false: "ForgetReplay true", true: "ForgetReplay false"} {
		w := newWorld()
		w.fail[contract.ReplayTableActivity] = permanent("ReplayStopped")
		env := environment(t, w)
		in := replayInput
		in.Keep = keep
		env.ExecuteWorkflow(Replay, in)
		if err := env.GetWorkflowError(); errorType(err) != "ReplayStopped" || w.count(forget) != 1 {
			t.Errorf("keep %v: %v after %v", keep, err, w.names())
		}
	}
	w := newWorld()
	w.fail[contract.PlanReplayActivity] = permanent("BadReplayRequest")
	env := environment(t, w)
	env.ExecuteWorkflow(Replay, replayInput)
	if err := env.GetWorkflowError(); errorType(err) != "BadReplayRequest" || len(w.names()) != 1 {
		t.Errorf("%v after %v", err, w.names())
	}
}

// A replay that is done stands, although its ledger cannot be removed.
func TestReplayIsNotForgotten(t *testing.T) {
	w := newWorld()
	w.fail[contract.ForgetReplayActivity] = permanent("SinkPrivilege")
	env := environment(t, w)
	env.ExecuteWorkflow(Replay, replayInput)
	if err := env.GetWorkflowError(); err != nil {
		t.Error(err)
	}
}

func TestReplayIsCancelled(t *testing.T) {
	w := newWorld()
	w.verify = func(ctx context.Context) { <-ctx.Done() }
	env := environment(t, w)
	env.RegisterDelayedCallback(env.CancelWorkflow, 300*time.Millisecond)
	env.ExecuteWorkflow(Replay, replayInput)
	if err := env.GetWorkflowError(); !temporal.IsCanceledError(err) || w.count("ForgetReplay true") != 1 {
		t.Errorf("%v after %v", err, w.names())
	}
}

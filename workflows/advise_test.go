package workflows

import (
	"context"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
)

func TestAdvise(t *testing.T) {
	w := newWorld()
	w.once[contract.AdviseTiersActivity] = []error{temporal.NewApplicationError("away", "KafkaUnreachable")}
	env := environment(t, w)
	env.ExecuteWorkflow(Advise, contract.AdviseInput{Pipeline: "shop"})
	var r contract.AdviseResult
	if err := env.GetWorkflowResult(&r); err != nil || r.Records != 7 || len(r.Candidates) != 1 || w.count("AdviseTiers shop") != 2 {
		t.Fatalf("%+v, %v after %v", r, err, w.names())
	}
	w = newWorld()
	w.fail[contract.AdviseTiersActivity] = permanent("NoTraffic")
	env = environment(t, w)
	env.ExecuteWorkflow(Advise, contract.AdviseInput{Pipeline: "shop"})
	if err := env.GetWorkflowError(); errorType(err) != "NoTraffic" || len(w.names()) != 1 {
		t.Errorf("%v after %v", err, w.names())
	}
	w = newWorld()
	w.verify = func(ctx context.Context) { <-ctx.Done() }
	env = environment(t, w)
	env.RegisterDelayedCallback(env.CancelWorkflow, 300*time.Millisecond)
	env.ExecuteWorkflow(Advise, contract.AdviseInput{Pipeline: "shop"})
	if err := env.GetWorkflowError(); !temporal.IsCanceledError(err) {
		t.Error(err)
	}
}

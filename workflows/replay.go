package workflows

import (
	"fmt"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
)

// Replay rebuilds a table at a sink from the log alone, into a table of its own. The
// pipeline goes on meanwhile and knows nothing of it.
func Replay(ctx workflow.Context, in contract.ReplayInput) (out contract.ReplayResult, err error) {
	var task contract.ReplayTask
	if err := workflow.ExecuteActivity(short(ctx, "find the places in the log", auditPlanTries), contract.PlanReplayActivity, in).Get(ctx, &task); err != nil {
		return out, err
	}
	task.Run = auditRun(ctx)
	if err := workflow.UpsertTypedSearchAttributes(ctx, temporal.NewSearchAttributeKeyKeyword(contract.PipelineAttribute).ValueSet(in.Pipeline)); err != nil {
		workflow.GetLogger(ctx).Warn("search attributes not set", "error", err)
	}
	workflow.SetCurrentDetails(ctx, fmt.Sprintf("%s from `%s` to `%s` into **%s** at %s", in.Table, task.Since, task.Until, in.To, in.Sink))
	err = workflow.ExecuteActivity(work(ctx, fmt.Sprintf("%s at %s", in.Table, in.Sink)), contract.ReplayTableActivity, task).Get(ctx, &out)
	// Also after a cancellation: the ledger of a replay is of no use to anybody else.
	clean, _ := workflow.NewDisconnectedContext(ctx)
	end := contract.ReplayEnd{ReplayTask: task, Drop: err != nil && !in.Keep}
	if ferr := workflow.ExecuteActivity(removing(clean, "forget the replay"), contract.ForgetReplayActivity, end).Get(clean, nil); ferr != nil {
		workflow.GetLogger(ctx).Warn("a replay's ledger is still there", "pipeline", task.Ledger(), "error", ferr)
	}
	return out, err
}

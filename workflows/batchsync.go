package workflows

import (
	"cmp"
	"fmt"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
)

// BatchSync brings rows whose time column is within a range to the sinks, over what is
// there: a Snapshot of those rows. It reads all of them at one moment; a chunk of them is
// at the sink whole or not at all, and an attempt that fails is completed by the next.
func BatchSync(ctx workflow.Context, in contract.BatchSyncInput) (contract.BatchSyncResult, error) {
	began := workflow.Now(ctx)
	out := contract.BatchSyncResult{Pipeline: in.Spec.Name, Column: in.Column, Since: in.Since, Until: in.Until, Tables: []contract.BatchSyncedRows{}}
	if err := normalise(ctx, &in.Spec); err != nil {
		return out, err
	}
	var plan contract.BatchSyncPlan
	if err := workflow.ExecuteActivity(short(ctx, "find the tables and their column", auditPlanTries), contract.PlanBatchSyncActivity, in).Get(ctx, &plan); err != nil {
		return out, err
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, temporal.NewSearchAttributeKeyKeyword(contract.PipelineAttribute).ValueSet(in.Spec.Name)); err != nil {
		workflow.GetLogger(ctx).Warn("search attributes not set", "error", err)
	}
	workflow.SetCurrentDetails(ctx, fmt.Sprintf("rows of %d tables with %s from `%s` to `%s`", len(plan.Tables), in.Column, in.Since, in.Until))
	info := workflow.GetInfo(ctx)
	run := cmp.Or(info.OriginalRunID, info.WorkflowExecution.RunID)
	// A name of its own: two of them, or a Snapshot, must not share a ledger.
	plan.Spec.Name = in.Spec.Name[:min(len(in.Spec.Name), 31)] + "-" + run[max(0, len(run)-8):]
	child := workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID: contract.BatchSyncLoadID(in.Spec.Name, run), WaitForCancellation: true, ParentClosePolicy: enumspb.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
		StaticSummary: in.Spec.Name + ": rows of a range of time",
	})
	var loaded contract.LoadStatus
	err := workflow.ExecuteChildWorkflow(child, contract.SnapshotWorkflow, contract.BootstrapInput{Spec: plan.Spec, Tables: plan.Tables, Sinks: in.Sinks}).Get(ctx, &loaded)
	for _, l := range loaded.Loads {
		out.Tables = append(out.Tables, contract.BatchSyncedRows{Sink: l.Sink, Table: l.Table, Rows: l.Rows, Bytes: l.Bytes})
		out.Rows += l.Rows
	}
	out.Seconds = workflow.Now(ctx).Sub(began).Seconds()
	return out, err
}

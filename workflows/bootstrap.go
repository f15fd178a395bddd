package workflows

import (
	"fmt"
	"slices"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
	"syncline/dataplane/change"
)

// Bootstrap loads tables of a pipeline that is capturing already, and tells the
// pipeline of each table that a sink has begun to deliver.
func Bootstrap(ctx workflow.Context, in contract.BootstrapInput) (contract.LoadStatus, error) {
	l, err := newLoader(ctx, in)
	if err != nil {
		return contract.LoadStatus{}, err
	}
	tell := func(ctx workflow.Context, signal string, arg any) {
		if in.Parent == "" {
			return
		}
		if err := workflow.SignalExternalWorkflow(ctx, in.Parent, "", signal, arg).Get(ctx, nil); err != nil {
			workflow.GetLogger(ctx).Warn("pipeline not told", "signal", signal, "error", err)
		}
	}
	l.loaded = func(ctx workflow.Context, ld *contract.LoadState) {
		tell(ctx, contract.LoadedSignal, contract.TableLoaded{Sink: ld.Sink, Table: ld.Table, Rows: ld.Rows, Bytes: ld.Bytes, Failure: ld.Failure})
	}
	err = l.run(ctx, Bootstrap)
	if workflow.IsContinueAsNewError(err) {
		return contract.LoadStatus{}, err
	}
	last, _ := workflow.NewDisconnectedContext(ctx)
	tell(last, contract.BootstrapSignal, contract.BootstrapEnded{ID: workflow.GetInfo(ctx).WorkflowExecution.ID, Failure: failure(err, "")})
	return l.status(), err
}

// Snapshot is a one-off load: it resolves the declaration, prepares the sinks,
// loads, and forgets its ledger again; no slot, no topics, no delivery.
func Snapshot(ctx workflow.Context, in contract.BootstrapInput) (status contract.LoadStatus, err error) {
	in.OneOff = true
	if len(in.Loads) == 0 {
		if err := normalise(ctx, &in.Spec); err != nil {
			return status, err
		}
		// A name of its own keeps its ledger apart from a pipeline's of the same name.
		in.Spec.Name = oneOffName(in.Spec.Name)
		var found contract.Resolved
		if err := workflow.ExecuteActivity(short(ctx, "find the tables", 5), contract.ResolveActivity,
			contract.SetupInput{Spec: in.Spec, Tables: in.Tables, OneOff: true}).Get(ctx, &found); err != nil {
			return status, err
		}
		in.Tables = nil
		for _, t := range found.Tables {
			in.Tables = append(in.Tables, t.Table)
		}
		for _, sk := range in.Spec.Sinks {
			if len(in.Sinks) > 0 && !slices.Contains(in.Sinks, sk.Name) {
				continue
			}
			if err := workflow.ExecuteActivity(short(ctx, "prepare "+sk.Name, 5), contract.PrepareSinkActivity,
				contract.SinkInput{Spec: in.Spec, Sink: sk.Name, Tables: in.Tables, Epoch: 1, Fresh: true}).Get(ctx, nil); err != nil {
				return status, err
			}
		}
	}
	l, err := newLoader(ctx, in)
	if err != nil {
		return status, err
	}
	err = l.run(ctx, Snapshot)
	if workflow.IsContinueAsNewError(err) {
		return status, err
	}
	last, _ := workflow.NewDisconnectedContext(ctx)
	for _, sk := range in.Spec.Sinks {
		if ferr := workflow.ExecuteActivity(short(last, "forget the ledger of "+sk.Name, 5), contract.ForgetSinkActivity,
			contract.SinkInput{Spec: in.Spec, Sink: sk.Name}).Get(last, nil); ferr != nil && err == nil {
			err = ferr
		}
	}
	status = l.status()
	if err == nil {
		err = firstFailure(status.Loads)
	}
	return status, err
}

func firstFailure(loads []contract.LoadState) error {
	for _, ld := range loads {
		if ld.Failure != nil {
			return temporal.NewNonRetryableApplicationError(fmt.Sprintf("%s → %s: %s", ld.Table, ld.Sink, ld.Failure.Message), ld.Failure.Code, nil)
		}
	}
	return nil
}

// Plan looks at both ends of a declaration and reports what a pipeline of it
// would do, without changing anything.
func Plan(ctx workflow.Context, in contract.PlanInput) (report contract.Report, err error) {
	if err := normalise(ctx, &in.Spec); err != nil {
		return report, err
	}
	err = workflow.ExecuteActivity(short(ctx, "look at source, log and sinks", 2), contract.InspectActivity, in).Get(ctx, &report)
	return report, err
}

func tablesOf(r contract.Resolved) []change.TableID {
	out := make([]change.TableID, len(r.Tables))
	for i, t := range r.Tables {
		out[i] = t.Table
	}
	return out
}

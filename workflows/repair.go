package workflows

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
)

// approvalBound is how long a repair that is beyond its limits waits for an approval.
const approvalBound = 24 * time.Hour

// Repair plans the repair of what an audit found, or carries out a plan. Tables go one
// after the other: quarantine, replay, verify, release. One that fails is let go with
// the reason and holds up no other; a cancellation lets go all.
func Repair(ctx workflow.Context, in contract.RepairInput) (contract.RepairResult, error) {
	in.Who = cmp.Or(in.Who, "unknown")
	r := &repairing{in: in, result: contract.RepairResult{Pipeline: in.Pipeline, Name: cmp.Or(in.Plan, auditRun(ctx)), At: workflow.Now(ctx).UTC(), Tables: []contract.RepairedTable{}}}
	if err := workflow.SetQueryHandler(ctx, contract.StatusQuery, func() (contract.RepairResult, error) { return r.result, nil }); err != nil {
		return r.result, err
	}
	if err := workflow.SetUpdateHandlerWithOptions(ctx, contract.ApproveUpdate, r.approve, workflow.UpdateHandlerOptions{Validator: r.mayApprove, Description: "lets a repair beyond its limits go on"}); err != nil {
		return r.result, err
	}
	task := contract.RepairPlanTask{RepairInput: in, Name: r.result.Name}
	var err error
	if in.Plan == "" {
		err = workflow.ExecuteActivity(verifying(ctx, "look again at what was found"), contract.PlanRepairActivity, task).Get(ctx, &r.plan)
	} else {
		err = workflow.ExecuteActivity(short(ctx, "read the plan", auditPlanTries), contract.LoadRepairActivity, task).Get(ctx, &r.plan)
	}
	if err != nil {
		return r.result, err
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, temporal.NewSearchAttributeKeyKeyword(contract.PipelineAttribute).ValueSet(in.Pipeline)); err != nil {
		workflow.GetLogger(ctx).Warn("search attributes not set", "error", err)
	}
	r.result.Hash = r.plan.Hash
	for _, t := range r.plan.Tables {
		r.result.Tables = append(r.result.Tables, contract.RepairedTable{RepairTable: t, State: contract.RepairPlanned, Since: r.result.At})
	}
	r.show(ctx)
	if in.Plan == "" {
		return r.result, nil
	}
	err = r.run(ctx)
	r.result.Seconds = workflow.Now(ctx).Sub(r.result.At).Seconds()
	r.show(ctx)
	return r.result, err
}

type repairing struct {
	in     contract.RepairInput
	plan   contract.RepairPlan
	result contract.RepairResult
}

func (r *repairing) mayApprove(a contract.Approval) error {
	switch {
	case r.result.Awaits == "":
		return temporal.NewNonRetryableApplicationError("the repair waits for no approval", contract.NoApprovalAwaitedError, nil)
	case a.Hash != r.result.Hash:
		return temporal.NewNonRetryableApplicationError("the approval is for another plan: its hash is not "+r.result.Hash, contract.RepairPlanChangedError, nil)
	case strings.TrimSpace(a.Who) == "":
		return temporal.NewNonRetryableApplicationError("the approval does not say who gives it", contract.ApprovalInputError, nil)
	}
	return nil
}

func (r *repairing) approve(_ workflow.Context, a contract.Approval) error {
	r.result.Approved, r.result.Awaits = &a, ""
	return nil
}

// beyond says why a plan takes an approval; "" if it does not.
func (r *repairing) beyond() string {
	most, percent := cmp.Or(r.in.MaxKeys, contract.DefaultRepairKeys), cmp.Or(r.in.MaxPercent, contract.DefaultRepairPercent)
	if n := r.plan.Keys(); n > most {
		return fmt.Sprintf("%d keys are more than the %d that need no approval", n, most)
	}
	for i := range r.plan.Tables {
		// A share of few rows says nothing.
		if t := &r.plan.Tables[i]; t.Keys > 100 && t.Rows > 0 && float64(t.Keys)*100 > percent*float64(t.Rows) {
			return fmt.Sprintf("%d keys of %s at %s are more than %g %% of its %d rows", t.Keys, t.Table, t.Sink, percent, t.Rows)
		}
	}
	return ""
}

// phase shows in the list of workflows, and so to alerts, where the repair is.
func (r *repairing) phase(ctx workflow.Context, phase string) {
	if workflow.GetVersion(ctx, "repair-phase", workflow.DefaultVersion, 1) < 1 {
		return
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, temporal.NewSearchAttributeKeyKeyword(contract.PhaseAttribute).ValueSet(phase)); err != nil {
		workflow.GetLogger(ctx).Warn("search attributes not set", "error", err)
	}
}

func (r *repairing) run(ctx workflow.Context) error {
	if r.result.Awaits = r.beyond(); r.result.Awaits != "" {
		r.phase(ctx, contract.RepairAwaitsApproval)
		r.show(ctx)
		ok, err := workflow.AwaitWithTimeout(ctx, approvalBound, func() bool { return r.result.Approved != nil })
		if err != nil {
			return err
		}
		if !ok {
			return temporal.NewNonRetryableApplicationError(fmt.Sprintf("nobody approved the repair within %s: %s", approvalBound, r.result.Awaits), contract.RepairNotApprovedError, nil)
		}
	}
	r.phase(ctx, contract.RepairGoesOn)
	began := map[string]any{"keys": r.plan.Keys(), "hash": r.plan.Hash, "why": r.in.Why, "audit": r.in.Audit}
	if a := r.result.Approved; a != nil {
		began["approved_by"], began["approved_why"] = a.Who, a.Why
	}
	if err := r.note(ctx, "began", began); err != nil {
		return err
	}
	r.result.Applied = true
	for i := range r.result.Tables {
		if ctx.Err() != nil {
			break
		}
		r.table(ctx, i)
	}
	clean, _ := workflow.NewDisconnectedContext(ctx)
	failed := r.result.Failed()
	if failed > 0 {
		r.phase(clean, contract.RepairLeftKeys)
	} else {
		r.phase(clean, contract.RepairDone)
	}
	if err := r.note(clean, "ended", map[string]any{"failed": failed, "cancelled": ctx.Err() != nil}); err != nil {
		return err
	}
	return ctx.Err()
}

// note adds to the audit trails; what cannot be told there is not done.
func (r *repairing) note(ctx workflow.Context, action string, detail map[string]any) error {
	return workflow.ExecuteActivity(removing(ctx, "audit trail: "+action), contract.NoteRepairActivity, contract.RepairNote{
		Pipeline: r.in.Pipeline, Repair: r.result.Name, Sinks: r.plan.Sinks, Who: r.in.Who, Action: action, At: workflow.Now(ctx).UTC(), Detail: detail,
	}).Get(ctx, &r.result.Trails)
}

// table repairs a table at a sink, or lets go of it.
func (r *repairing) table(ctx workflow.Context, i int) {
	t := &r.result.Tables[i]
	task := contract.RepairTask{Spec: r.plan.Spec, Epoch: r.plan.Epoch, Repair: r.result.Name, Who: r.in.Who, TableTask: contract.TableTask{
		Endpoint: contract.Endpoint{Pipeline: r.in.Pipeline, Source: r.plan.Spec.Source}, Table: t.Table, Where: t.Where,
	}}
	for _, s := range r.plan.Sinks {
		if s.Name == t.Sink {
			task.Sink = s
		}
	}
	err := func() error {
		if task.Sink.Name == "" {
			return errors.New("the pipeline has no such sink any more")
		}
		for _, step := range []struct {
			activity, what string
			state          contract.RepairState
		}{
			{contract.QuarantineKeysActivity, "quarantine", contract.RepairQuarantined},
			{contract.ReplayKeysActivity, "replay", contract.RepairReplayed},
			{contract.ReverifyKeysActivity, "verify", contract.RepairVerified},
			{contract.ReleaseKeysActivity, "release", contract.RepairReleased},
		} {
			var so contract.RepairStep
			summary := fmt.Sprintf("%s %d keys of %s at %s", step.what, t.Keys, t.Table, t.Sink)
			if err := workflow.ExecuteActivity(verifying(ctx, summary), step.activity, task).Get(ctx, &so); err != nil {
				return err
			}
			t.State, t.Since = step.state, workflow.Now(ctx).UTC()
			t.Read += so.Read
			t.Released, t.Failed = so.Outcome.Released, so.Outcome.Failed
			r.show(ctx)
		}
		return nil
	}()
	if err == nil {
		if t.Failed > 0 {
			t.State = contract.RepairFailed
			t.Reason = fmt.Sprintf("%d of %d keys could not be repaired: the ledger tells which, and why", t.Failed, t.Keys)
		}
		return
	}
	t.State, t.Since, t.Reason = contract.RepairFailed, workflow.Now(ctx).UTC(), reason(err)
	if ctx.Err() != nil {
		t.Reason = "the repair was cancelled"
	}
	task.Reason = t.Reason
	// Nothing may stay held because a step failed. Should this fail, too, the leases of
	// the keys go by.
	clean, _ := workflow.NewDisconnectedContext(ctx)
	if err := workflow.ExecuteActivity(removing(clean, fmt.Sprintf("let go of %s at %s", t.Table, t.Sink)), contract.AbandonKeysActivity, task).Get(clean, nil); err != nil {
		workflow.GetLogger(ctx).Error("keys are held until their lease goes by", "table", t.Table.String(), "sink", t.Sink, "error", err)
	}
	r.show(ctx)
}

// show keeps the Web UI's page readable.
func (r *repairing) show(ctx workflow.Context) {
	var b strings.Builder
	fmt.Fprintf(&b, "repair `%s`, plan `%.16s`: **%d keys**\n", r.result.Name, r.result.Hash, r.plan.Keys())
	if r.result.Awaits != "" {
		fmt.Fprintf(&b, "\nwaits for an approval: %s\n", r.result.Awaits)
	}
	for i := range r.result.Tables {
		t := &r.result.Tables[i]
		if b.Len() > maxDetails {
			fmt.Fprintf(&b, "\n- … and %d more", len(r.result.Tables)-i)
			break
		}
		fmt.Fprintf(&b, "\n- %s at %s: %d keys, **%s**", t.Table, t.Sink, t.Keys, t.State)
		if t.Reason != "" {
			fmt.Fprintf(&b, ": %s", t.Reason)
		}
	}
	workflow.SetCurrentDetails(ctx, b.String())
}

// CheckTrail reads the audit trails of a pipeline's sinks and says whether they are whole.
func CheckTrail(ctx workflow.Context, in contract.TrailTask) (out contract.TrailVerdict, err error) {
	err = workflow.ExecuteActivity(short(ctx, "check the audit trails of "+in.Pipeline, auditPlanTries), contract.CheckTrailActivity, in).Get(ctx, &out)
	return out, err
}

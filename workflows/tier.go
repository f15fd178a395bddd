package workflows

import (
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
	"syncline/pipeline"
)

// BatchTier runs a batch tier once: at each sink all that waits takes effect, up to where
// the source is now. Sinks go side by side, and one that fails holds up no other. What a
// failed run has not brought still waits, and the next run brings it.
func BatchTier(ctx workflow.Context, in contract.TierInput) (contract.TierResult, error) {
	out := contract.TierResult{Pipeline: in.Pipeline, Tier: in.Tier, Began: workflow.Now(ctx).UTC(), Sinks: []contract.TierDrained{}}
	var plan contract.TierPlan
	if err := workflow.ExecuteActivity(short(ctx, "find out what waits in tier "+in.Tier, auditPlanTries), contract.PlanTierActivity, in).Get(ctx, &plan); err != nil {
		return out, err
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx,
		temporal.NewSearchAttributeKeyKeyword(contract.PipelineAttribute).ValueSet(in.Pipeline),
		temporal.NewSearchAttributeKeyKeywordList(contract.TierAttribute).ValueSet([]string{in.Tier}),
	); err != nil {
		workflow.GetLogger(ctx).Warn("search attributes not set", "error", err)
	}
	out.At, out.Skipped = plan.At, plan.Skipped
	drained := make([]*contract.TierDrained, len(plan.Tasks))
	failed := make([]error, len(plan.Tasks))
	show := func() {
		var b strings.Builder
		if plan.Skipped != "" {
			fmt.Fprintf(&b, "nothing to do: %s", plan.Skipped)
		}
		for i, t := range plan.Tasks {
			switch {
			case failed[i] != nil:
				fmt.Fprintf(&b, "- **%s**: %s\n", t.Sink.Name, reason(failed[i]))
			case drained[i] != nil:
				fmt.Fprintf(&b, "- %s: %d changes that waited took effect, in %.1f s\n", t.Sink.Name, drained[i].Waited, drained[i].Seconds)
			default:
				fmt.Fprintf(&b, "- %s: %d tables, up to `%s` …\n", t.Sink.Name, len(t.Tables), t.At)
			}
		}
		workflow.SetCurrentDetails(ctx, b.String())
	}
	show()
	under := workflow.NewWaitGroup(ctx)
	for i, t := range plan.Tasks {
		under.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer under.Done()
			var d contract.TierDrained
			if failed[i] = workflow.ExecuteActivity(draining(ctx, plan.Tier, t.Sink.Name), contract.DrainTierActivity, t).Get(ctx, &d); failed[i] == nil {
				drained[i] = &d
			}
			show()
		})
	}
	under.Wait(ctx)
	var broken []string
	for i, t := range plan.Tasks {
		if drained[i] != nil {
			out.Sinks = append(out.Sinks, *drained[i])
		} else {
			broken = append(broken, t.Sink.Name+": "+reason(failed[i]))
		}
	}
	out.Seconds = workflow.Now(ctx).Sub(out.Began).Seconds()
	switch {
	case ctx.Err() != nil:
		return out, ctx.Err()
	case len(broken) > 0:
		return out, temporal.NewNonRetryableApplicationError(strings.Join(broken, "; "), contract.TierBehindError, nil)
	}
	return out, nil
}

// draining is for the wait until a sink has what waited. It is over when the next run
// but one is due: that one says the same, and more.
func draining(ctx workflow.Context, t pipeline.Tier, sink string) workflow.Context {
	bound := max(2*t.Every.Std(), 10*time.Minute)
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    bound,
		ScheduleToCloseTimeout: bound,
		HeartbeatTimeout:       heartbeat,
		WaitForCancellation:    true,
		Summary:                "drain tier " + t.Name + " at " + sink,
		RetryPolicy:            &temporal.RetryPolicy{InitialInterval: 500 * time.Millisecond, BackoffCoefficient: 1.5, MaximumInterval: 10 * time.Second},
	})
}

// scheduleTiers makes the Schedules of the declaration's tiers, and removes those of
// tiers that another declaration had. They are slowed as the budget wants.
func (p *entity) scheduleTiers(ctx workflow.Context, had []pipeline.Tier) error {
	in := contract.TierSchedules{Pipeline: p.spec.Name, Tiers: p.spec.SlowedTiers(p.state.Slowed)}
	for _, t := range had {
		if _, still := p.spec.Tier(t.Name); !still {
			in.Gone = append(in.Gone, t.Name)
		}
	}
	if len(in.Tiers)+len(in.Gone) == 0 {
		return nil
	}
	return workflow.ExecuteActivity(short(ctx, "schedule the tiers", setupTries), contract.ScheduleTiersActivity, in).Get(ctx, nil)
}

// unscheduled is a pipeline's tiers without Schedules.
func unscheduled(spec *pipeline.Spec) contract.TierSchedules {
	in := contract.TierSchedules{Pipeline: spec.Name}
	for _, t := range spec.Tiers {
		in.Gone = append(in.Gone, t.Name)
	}
	return in
}

package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
	"syncline/pipeline"
	"syncline/tiers"
	"syncline/tiers/aggregate"
)

// CodeTierMissing: the pipeline declares no such tier, any more or yet.
const CodeTierMissing fault.Code = "TierMissing"

// PlanTier finds out which tables have changes that wait in a tier, and where the
// source is.
func (a *Activities) PlanTier(ctx context.Context, in contract.TierInput) (out contract.TierPlan, err error) {
	err = beating(ctx, func(ctx context.Context) error {
		if in.Pipeline == "" || in.Tier == "" {
			return fault.Permanent(CodeTierMissing, nil, `give {"pipeline": NAME, "tier": NAME}`, "the run names no tier")
		}
		st, err := a.statusOf(ctx, in.Pipeline)
		if err != nil {
			return err
		}
		if out, err = planTier(&st, in.Tier); err != nil || len(out.Tasks) == 0 {
			return err
		}
		srv, err := a.source(ctx, in.Pipeline, st.Spec.Source)
		if err != nil {
			return err
		}
		defer srv.Close()
		at, err := srv.Position(ctx)
		if err != nil {
			return err
		}
		out.At = change.Position{Epoch: st.Epoch, Commit: at}
		for i := range out.Tasks {
			out.Tasks[i].At = out.At
		}
		return nil
	})
	return out, err
}

// planTier chooses the tables that have something in the tier.
func planTier(st *contract.PipelineStatus, name string) (out contract.TierPlan, err error) {
	var ok bool
	if out.Tier, ok = st.Spec.Tier(name); !ok {
		return out, fault.Permanent(CodeTierMissing, nil, "name a tier of the declaration that waits", "pipeline %s has no batch tier %q%s", st.Name, name, didYouMean(name, st.Spec.TierNames()[1:]))
	}
	switch st.Phase {
	case contract.Bootstrapping, contract.Streaming, contract.Degraded:
	default:
		out.Skipped = fmt.Sprintf("the pipeline is %s", st.Phase)
		return out, nil
	}
	for _, s := range st.Spec.Sinks {
		task := contract.TierTask{Pipeline: st.Name, Tier: name, Sink: s}
		for i := range st.Tables {
			t := &st.Tables[i]
			if t.Sinks[s.Name] == sink.Streaming && slices.ContainsFunc(st.Spec.Rules(t.Table), func(r tiers.Rule) bool { return r.Tier == name }) {
				task.Tables = append(task.Tables, t.Table)
			}
		}
		if len(task.Tables) > 0 {
			out.Tasks = append(out.Tasks, task)
		}
	}
	if len(out.Tasks) == 0 {
		out.Skipped = "no table that streams has changes of the tier"
	}
	return out, nil
}

// DrainTier tells the sink's lanes that all is due up to a position, and waits until
// they have come there. It may be repeated at any time.
func (a *Activities) DrainTier(ctx context.Context, in contract.TierTask) (out contract.TierDrained, err error) {
	began := time.Now()
	var so atomic.Pointer[contract.TierProgress]
	so.Store(&contract.TierProgress{})
	err = long(ctx, func() any { return so.Load() }, func(ctx context.Context) error {
		sk, err := a.sink(ctx, in.Pipeline, in.Sink)
		if err != nil {
			return err
		}
		defer func() { _ = sk.Close() }()
		marks, err := sk.Watermarks(ctx)
		if err != nil {
			return err
		}
		for _, m := range marks {
			if slices.Contains(in.Tables, m.Table) {
				out.Waited += m.Waits(in.Tier)
			}
		}
		for _, t := range in.Tables { // of all at once, and not of each when its wait begins
			if err := sk.SetDue(ctx, t, in.Tier, in.At); err != nil {
				return err
			}
		}
		for _, t := range in.Tables {
			for {
				behind, err := verify.Await(ctx, sk, t, in.Tier, in.At.Commit, time.Second)
				if err != nil {
					return err
				}
				if behind == "" {
					break
				}
				so.Store(&contract.TierProgress{Behind: behind})
				info, err := sk.Table(ctx, t)
				if err != nil {
					return err
				}
				if info.State != sink.Streaming {
					break // its load, or whoever gated it, brings what waited
				}
			}
		}
		return nil
	})
	out.Sink, out.Tables, out.Seconds = in.Sink.Name, len(in.Tables), time.Since(began).Seconds()
	return out, err
}

// ScheduleTiers makes the Schedules of a pipeline's tiers as declared. One that is there
// keeps what an operator did to it: that it is paused, and its note.
func (a *Activities) ScheduleTiers(ctx context.Context, in contract.TierSchedules) error {
	return beating(ctx, func(ctx context.Context) error {
		for _, name := range in.Gone {
			err := a.Client.ScheduleClient().GetHandle(ctx, contract.TierScheduleID(in.Pipeline, name)).Delete(ctx)
			var missing *serviceerror.NotFound
			if err != nil && !errors.As(err, &missing) {
				return fault.Transient("TemporalUnreachable", err, "remove the schedule of tier %s", name)
			}
		}
		for _, t := range in.Tiers {
			if err := a.scheduleTier(ctx, in.Pipeline, t); err != nil {
				return fault.Transient("TemporalUnreachable", err, "schedule tier %s", t.Name)
			}
		}
		return nil
	})
}

func (a *Activities) scheduleTier(ctx context.Context, name string, t pipeline.Tier) error {
	id := contract.TierScheduleID(name, t.Name)
	spec := client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: t.Every.Std()}}, Jitter: t.Jitter.Std()}
	action := &client.ScheduleWorkflowAction{
		ID: id, Workflow: contract.BatchTierWorkflow, TaskQueue: activity.GetInfo(ctx).TaskQueue,
		Args:          []any{contract.TierInput{Pipeline: name, Tier: t.Name}},
		StaticSummary: fmt.Sprintf("%s: tier %s, every %s", name, t.Name, t.Every),
	}
	// A run that was missed is made up for by the one after it, and so is one that would
	// overlap: each brings all that waits.
	policy := client.SchedulePolicies{Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, CatchupWindow: t.Every.Std()}
	_, err := a.Client.ScheduleClient().Create(ctx, client.ScheduleOptions{ID: id, Spec: spec, Action: action, Overlap: policy.Overlap, CatchupWindow: policy.CatchupWindow})
	if !errors.Is(err, temporal.ErrScheduleAlreadyRunning) {
		return err
	}
	return a.Client.ScheduleClient().GetHandle(ctx, id).Update(ctx, client.ScheduleUpdateOptions{DoUpdate: func(u client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
		s := u.Description.Schedule
		s.Spec, s.Action, s.Policy = &spec, action, &policy
		return &client.ScheduleUpdate{Schedule: &s}, nil
	}})
}

// CodeTierRules: what classify says of a table does not fit its definition.
const CodeTierRules fault.Code = "TierRules"

// delivered tells a lane which changes wait, as the pipeline is declared. It is a
// deliver.Tiers.
type delivered struct{ spec *pipeline.Spec }

// Rules returns the table's rules in the form that the ledger keeps.
func (d delivered) Rules(t change.TableID) string {
	text, err := tiers.Encode(d.spec.Rules(t))
	if err != nil { // texts always have a form
		return ""
	}
	return text
}

// Aggregates binds what tiers keep of rows to a definition.
func (d delivered) Aggregates(rules string, s *change.Schema) (map[string]*aggregate.Plan, error) {
	k, err := classifier(rules, s)
	if err != nil {
		return nil, err
	}
	return k.Aggregates(), nil
}

func classifier(rules string, s *change.Schema) (*tiers.Classifier, error) {
	rs, err := tiers.Decode(rules)
	var k *tiers.Classifier
	if err == nil {
		k, err = tiers.Compile(s, rs)
	}
	if err != nil {
		return nil, fault.Permanent(CodeTierRules, err, "declare classify so that it fits the table, apply, and resync the table", "the tiers of table %s cannot be told", s.Table)
	}
	return k, nil
}

// Classify binds rules to a definition.
func (d delivered) Classify(rules string, s *change.Schema) (func(*change.Change) (string, error), error) {
	k, err := classifier(rules, s)
	if err != nil {
		return nil, err
	}
	return func(c *change.Change) (string, error) {
		tier, err := k.Classify(c)
		if tier == tiers.Stream {
			tier = ""
		}
		return tier, err
	}, nil
}

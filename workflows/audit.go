package workflows

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
	"syncline/dataplane/verify"
	"syncline/pipeline"
)

// Audit verifies tables of a pipeline at its sinks. A table that cannot be read for
// good is inconclusive and holds up no other.
func Audit(ctx workflow.Context, in contract.AuditInput) (contract.AuditResult, error) {
	a := &audit{in: in, result: contract.AuditResult{Pipeline: in.Pipeline, Run: auditRun(ctx), At: workflow.Now(ctx).UTC()}}
	if err := workflow.SetQueryHandler(ctx, contract.StatusQuery, func() (contract.AuditStatus, error) { return a.status(), nil }); err != nil {
		return a.result, err
	}
	if err := workflow.ExecuteActivity(short(ctx, "find out what "+in.Pipeline+" delivers", auditPlanTries), contract.PlanAuditActivity, in).Get(ctx, &a.plan); err != nil {
		return a.result, err
	}
	// So that audits that a Schedule has started are found, too. The pipeline is there,
	// and with it the attribute.
	if err := workflow.UpsertTypedSearchAttributes(ctx, temporal.NewSearchAttributeKeyKeyword(contract.PipelineAttribute).ValueSet(in.Pipeline)); err != nil {
		workflow.GetLogger(ctx).Warn("search attributes not set", "error", err)
	}
	a.verdicts = make([]*contract.TableVerdict, len(a.plan.Tasks))
	a.show(ctx)
	if err := a.run(ctx); err != nil {
		return a.status().AuditResult, err
	}
	a.conclude(ctx)
	a.done = true
	return a.status().AuditResult, nil
}

// auditPlanTries is how often the pipeline is asked what there is: a pipeline that is
// not there has no other answer later.
const auditPlanTries = 5

// auditRun names a run for people, in the order of time. The end of a run's id is
// random; its beginning is time, too. A reset goes on under the name of before.
func auditRun(ctx workflow.Context) string {
	info := workflow.GetInfo(ctx)
	id := cmp.Or(info.OriginalRunID, info.WorkflowExecution.RunID)
	return info.WorkflowStartTime.UTC().Format("20060102T150405Z") + "-" + id[max(0, len(id)-8):]
}

type audit struct {
	in       contract.AuditInput
	plan     contract.AuditPlan
	result   contract.AuditResult     // without verdicts
	verdicts []*contract.TableVerdict // by task; nil until there is one
	failed   []contract.TableVerdict  // that no activity came to
	done     bool
}

func (a *audit) status() contract.AuditStatus {
	s := contract.AuditStatus{AuditResult: a.result, Total: len(a.plan.Tasks), Done: a.done}
	s.Skipped = a.plan.Skipped
	s.Tables = []contract.TableVerdict{}
	for _, v := range a.verdicts {
		if v != nil {
			s.Tables = append(s.Tables, *v)
		}
	}
	if n := len(s.Tables); n > 0 {
		s.Convergence = float64(s.Count(verify.Equal)) / float64(n)
	}
	return s
}

// run verifies every table, and returns an error only if it was cancelled.
func (a *audit) run(ctx workflow.Context) error {
	sinks := map[string]pipeline.Sink{}
	for _, s := range a.plan.Sinks {
		sinks[s.Name] = s
	}
	room := workflow.NewSemaphore(ctx, int64(max(1, a.in.Parallel)))
	under := workflow.NewWaitGroup(ctx)
	for i, t := range a.plan.Tasks {
		if room.Acquire(ctx, 1) != nil {
			break
		}
		under.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer under.Done()
			defer room.Release(1)
			a.table(ctx, i, contract.VerifyTask{
				TableTask: contract.TableTask{
					Endpoint: contract.Endpoint{Pipeline: a.in.Pipeline, Source: a.plan.Source, Sink: sinks[t.Sink]},
					Table:    t.Table, Where: t.Where, Shape: t.Shape,
				},
				Run: a.result.Run, RowsPerSecond: a.in.RowsPerSecond, VerifyLimits: a.in.VerifyLimits, Kafka: a.plan.Kafka,
			})
		})
	}
	under.Wait(ctx)
	return ctx.Err()
}

// table verifies one table at one sink.
func (a *audit) table(ctx workflow.Context, i int, task contract.VerifyTask) {
	var v contract.TableVerdict
	err := workflow.ExecuteActivity(verifying(ctx, fmt.Sprintf("%s at %s", task.Table, task.Sink.Name)), contract.VerifyTableActivity, task).Get(ctx, &v)
	if err != nil {
		if ctx.Err() != nil {
			return
		}
		v = contract.TableVerdict{Sink: task.Sink.Name, Table: task.Table, Verdict: verify.Inconclusive, Scope: task.Scope(), Reason: reason(err)}
		a.failed = append(a.failed, v)
	}
	a.verdicts[i] = &v
	a.show(ctx)
}

// reason says why a table could not be verified, in not too many words.
func reason(err error) string {
	f := failure(err, "")
	text := f.Message
	var late *temporal.TimeoutError
	switch {
	case f.Code != "Error":
		text = f.Code + ": " + f.Message
	case errors.As(err, &late):
		text = "no worker came to its end: " + late.Error()
	}
	if r := []rune(text); len(r) > maxReason {
		text = string(r[:maxReason]) + "…"
	}
	return text
}

// maxReason keeps the result of an audit in which all fails small.
const maxReason = 500

// conclude leaves ledgers and analytics in order. The verdicts stand without it.
func (a *audit) conclude(ctx workflow.Context) {
	err := workflow.ExecuteActivity(short(ctx, "forget what old audits found", 3), contract.ConcludeAuditActivity, contract.AuditConclusion{
		Pipeline: a.in.Pipeline, Run: a.result.Run, Sinks: a.plan.Sinks, Failed: a.failed,
	}).Get(ctx, nil)
	if err != nil {
		workflow.GetLogger(ctx).Warn("audit not concluded", "error", err)
	}
}

// show keeps the Web UI's page readable: how far it is, and what is not equal.
func (a *audit) show(ctx workflow.Context) {
	s := a.status()
	var b strings.Builder
	fmt.Fprintf(&b, "run `%s`: **%d of %d** tables at sinks verified: %d equal, %d different, %d inconclusive\n",
		s.Run, len(s.Tables), s.Total, s.Count(verify.Equal), s.Count(verify.Different), s.Count(verify.Inconclusive))
	more := 0
	for i := range s.Tables {
		v := &s.Tables[i]
		switch {
		case v.Verdict == verify.Equal:
			continue
		case more > 0 || b.Len() > maxDetails:
			more++
			continue
		}
		fmt.Fprintf(&b, "\n- %s at %s is **%s**", v.Table, v.Sink, v.Verdict)
		if n := v.Findings(); n > 0 {
			fmt.Fprintf(&b, ": %d missing, %d extra, %d changed, %d twice", v.Missing, v.Extra, v.Changed, v.Twice)
		}
		if v.Reason != "" {
			fmt.Fprintf(&b, ": %s", v.Reason)
		}
	}
	if more > 0 {
		fmt.Fprintf(&b, "\n- … and %d more", more)
	}
	workflow.SetCurrentDetails(ctx, b.String())
}

// maxDetails keeps a page within what Temporal takes.
const maxDetails = 10_000

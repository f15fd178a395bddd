package activities

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shopspring/decimal"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"syncline/activities/contract"
	"syncline/analytics"
	"syncline/analytics/bill"
	"syncline/analytics/billing"
	"syncline/dataplane/fault"
	"syncline/pipeline"
)

// LookAtBudgets compares what pipelines that run have cost with their budgets, records it,
// and lets them know. One of which that fails holds up no other.
func (a *Activities) LookAtBudgets(ctx context.Context) (out []bill.Budget, err error) {
	err = a.recorded(ctx, func(ctx context.Context, s *analytics.Store) error {
		out = nil
		_, prices, err := billing.Current(ctx, s)
		if err != nil {
			return err
		}
		until, err := billing.Priced(ctx, s)
		if err != nil {
			return err
		}
		names, err := a.runningPipelines(ctx)
		if err != nil {
			return err
		}
		var mu sync.Mutex
		var looks errgroup.Group
		looks.SetLimit(8) // some may have no worker that answers
		for _, name := range names {
			looks.Go(func() error {
				b, err := a.lookAtBudget(ctx, s, name, prices.Currency, until)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil && ctx.Err() == nil:
					a.Log.Warn("the budget cannot be looked at", zap.String("pipeline", name), zap.Error(err))
				case b != nil:
					out = append(out, *b)
				}
				return nil
			})
		}
		_ = looks.Wait() // none of them fails
		slices.SortFunc(out, func(a, b bill.Budget) int { return cmp.Compare(a.Pipeline, b.Pipeline) })
		return ctx.Err()
	})
	return out, err
}

// runningPipelines lists the pipelines of these workers: what others of the namespace
// used is in analytics that are not looked at here.
func (a *Activities) runningPipelines(ctx context.Context) (names []string, err error) {
	req := &workflowservice.ListWorkflowExecutionsRequest{PageSize: 200, Query: fmt.Sprintf("WorkflowType = '%s' AND ExecutionStatus = 'Running' AND TaskQueue = '%s'", contract.PipelineWorkflow, activity.GetInfo(ctx).TaskQueue)}
	for {
		page, err := a.Client.ListWorkflow(ctx, req)
		if err != nil {
			return nil, fault.Transient("TemporalUnreachable", err, "list the pipelines")
		}
		for _, w := range page.GetExecutions() {
			if name, ok := strings.CutPrefix(w.GetExecution().GetWorkflowId(), contract.PipelineID("")); ok {
				names = append(names, name)
			}
		}
		if req.NextPageToken = page.GetNextPageToken(); len(req.NextPageToken) == 0 {
			return names, nil
		}
	}
}

// lookAtBudget returns nothing of a pipeline without a budget.
func (a *Activities) lookAtBudget(ctx context.Context, s *analytics.Store, name, currency string, priced time.Time) (*bill.Budget, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second) // one that nobody answers for
	defer cancel()
	st, err := a.statusOf(ctx, name)
	if err != nil || st.Spec.Budget == nil || st.Phase == contract.Destroying {
		return nil, err
	}
	b, err := judge(ctx, s, name, st.Spec.Budget, currency, priced, time.Now().UTC())
	if err != nil {
		return nil, err
	}
	row := &analytics.Budgets{Time: time.Now().UTC(), Pipeline: name, Standing: b.Standing, Per: b.Per, Start: b.Start, End: b.End, Amount: b.Amount.InexactFloat64(), Spent: b.Spent.InexactFloat64(),
		Expected: b.Forecast.Expected, Currency: b.Currency, Slow: uint32(max(st.Spec.Budget.Slow, 0)), Reason: b.Why}
	if err := s.Insert(ctx, fmt.Sprintf("budget/%s/%d", name, row.Time.UnixNano()), []analytics.Row{row}); err != nil {
		return nil, err
	}
	if err := a.Client.SignalWorkflow(ctx, contract.PipelineID(name), "", contract.BudgetSignal, b); err != nil {
		return nil, fault.Transient("TemporalUnreachable", err, "tell pipeline %s of its budget", name)
	}
	return b, nil
}

// judge says how a pipeline stands to its budget.
func judge(ctx context.Context, s *analytics.Store, name string, budget *pipeline.Budget, currency string, priced, now time.Time) (*bill.Budget, error) {
	b := &bill.Budget{Pipeline: name, Standing: bill.Within, Per: budget.Per, At: priced}
	b.Amount, b.Currency = budget.Money()
	b.Start, b.End = budget.Period(now)
	if b.Currency != currency {
		b.Standing, b.Why = bill.Unclear, fmt.Sprintf("the budget is in %s, and prices are in %s", b.Currency, currency)
		return b, nil
	}
	if priced.Before(b.Start) {
		b.At = b.Start
	}
	spent, err := billing.Spend(ctx, s, name, currency, b.Start, b.End, priced)
	if err != nil {
		return nil, err
	}
	b.Spent, b.Forecast = spent.Sum, spent.Forecast
	if spent.NoPrice {
		b.Why = "some of what was used has no price and is not in it: starter cost " + name
	}
	switch {
	case !b.Spent.LessThan(b.Amount):
		b.Standing = bill.Over
	case !b.Spent.LessThan(b.Amount.Mul(decimal.New(int64(budget.WarnAt), -6))), b.Forecast.Why == "" && b.Forecast.Expected > b.Amount.InexactFloat64():
		b.Standing = bill.Near
	}
	return b, nil
}

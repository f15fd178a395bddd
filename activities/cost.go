package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/analytics"
	"syncline/analytics/bill"
	"syncline/analytics/billing"
	"syncline/dataplane/fault"
	"syncline/pipeline"
)

// recorded runs f with what was recorded.
func (a *Activities) recorded(ctx context.Context, f func(context.Context, *analytics.Store) error) error {
	return beating(ctx, func(ctx context.Context) error {
		if a.AnalyticsStore == nil {
			return fault.Permanent(CodeAnalyticsOff, nil, "set SYNCLINE_ANALYTICS on the workers", "analytics is not configured")
		}
		s, err := a.openAnalytics(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = s.Close() }()       // what was written was answered for
		if err := s.Migrate(ctx); err != nil { // nobody may have written yet
			return err
		}
		return f(ctx, s)
	})
}

// PriceHours prices what was used in some hours.
func (a *Activities) PriceHours(ctx context.Context, in contract.PriceInput) (out *bill.Pricing, err error) {
	err = a.recorded(ctx, func(ctx context.Context, s *analytics.Store) (err error) {
		info := activity.GetInfo(ctx)
		task := billing.Task{From: in.From, Until: in.Until, Now: time.Now(), Dry: in.Dry, Actor: in.Who, Name: fmt.Sprintf("%s/%d", info.WorkflowExecution.RunID, info.Attempt)}
		if in.Dry && in.Text != "" {
			task.Version = billing.Version(in.Text)
			if task.Prices, err = pipeline.ParsePrices("", []byte(in.Text)); err != nil {
				return fault.Permanent(billing.CodePrices, err, "correct it; examples/prices.yaml is one", "the price table has mistakes")
			}
		} else {
			var now bill.Applied
			if task.Prices, now, err = billing.Current(ctx, s); err != nil {
				return err
			}
			task.Version = now.Version
		}
		out, err = billing.Price(ctx, s, task)
		return err
	})
	return out, err
}

// KeepPrices applies a price table, and makes the Schedule by which hours are priced; or
// says which ones were applied.
func (a *Activities) KeepPrices(ctx context.Context, in contract.PricesInput) (out contract.PricesResult, err error) {
	err = a.recorded(ctx, func(ctx context.Context, s *analytics.Store) error {
		had, err := billing.History(ctx, s, 100)
		if err != nil {
			return err
		}
		out.Applied = had
		if in.Text != "" {
			now, err := billing.Apply(ctx, s, in.Text, in.Who, in.Why, time.Now())
			if err != nil {
				return err
			}
			if out.Changed = len(had) == 0 || had[0].Version != now.Version; out.Changed {
				out.Applied = append([]bill.Applied{now}, had...)
			}
			if err := a.schedulePricing(ctx); err != nil {
				return fault.Transient("TemporalUnreachable", err, "schedule the pricing of each hour")
			}
		}
		for i := range out.Applied {
			if i > 0 {
				out.Applied[i].Text = ""
			}
		}
		return nil
	})
	return out, err
}

// schedulePricing makes the Schedule, some minutes after the hour, by when workers have
// written what they counted. One that is there stays as an operator left it, but for the
// workers that it is for.
func (a *Activities) schedulePricing(ctx context.Context) error {
	action := &client.ScheduleWorkflowAction{
		ID: contract.PriceScheduleID, Workflow: contract.PriceWorkflow, TaskQueue: activity.GetInfo(ctx).TaskQueue,
		Args: []any{contract.PriceInput{Who: "schedule " + contract.PriceScheduleID}}, StaticSummary: "price the last hours",
	}
	_, err := a.Client.ScheduleClient().Create(ctx, client.ScheduleOptions{
		ID:     contract.PriceScheduleID,
		Spec:   client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: time.Hour, Offset: 5 * time.Minute}}},
		Action: action,
		// A run prices what those before it missed.
		Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, CatchupWindow: time.Hour,
	})
	if !errors.Is(err, temporal.ErrScheduleAlreadyRunning) {
		return err
	}
	return a.Client.ScheduleClient().GetHandle(ctx, contract.PriceScheduleID).Update(ctx, client.ScheduleUpdateOptions{DoUpdate: func(u client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
		s := u.Description.Schedule
		s.Action = action
		return &client.ScheduleUpdate{Schedule: &s}, nil
	}})
}

// ReportCost says what was charged.
func (a *Activities) ReportCost(ctx context.Context, in contract.CostInput) (out *bill.Report, err error) {
	err = a.recorded(ctx, func(ctx context.Context, s *analytics.Store) (err error) {
		out, err = billing.Report(ctx, s, billing.Question{Pipeline: in.Pipeline, Since: in.Since, Until: in.Until, By: in.By, Now: time.Now()})
		return err
	})
	return out, err
}

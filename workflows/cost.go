package workflows

import (
	"time"

	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
	"syncline/analytics/bill"
)

// Price prices what was used in hours that have ended, and then lets pipelines know how
// they stand to their budgets.
func Price(ctx workflow.Context, in contract.PriceInput) (out bill.Pricing, err error) {
	long := short(ctx, "price what was used", pricingTries)
	o := workflow.GetActivityOptions(long)
	o.StartToCloseTimeout = time.Hour // of a first pricing, which may have 400 days before it
	if err := workflow.ExecuteActivity(workflow.WithActivityOptions(long, o), contract.PriceHoursActivity, in).Get(ctx, &out); err != nil || in.Dry {
		return out, err
	}
	look := short(ctx, "look at the budgets", pricingTries)
	o = workflow.GetActivityOptions(look)
	o.StartToCloseTimeout = 10 * time.Minute // it asks every pipeline
	err = workflow.ExecuteActivity(workflow.WithActivityOptions(look, o), contract.BudgetsActivity).Get(ctx, &out.Budgets)
	return out, err
}

// pricingTries are some minutes; the next hour's run prices what this one has not.
const pricingTries = 20

// Prices applies a price table, or says which ones were applied.
func Prices(ctx workflow.Context, in contract.PricesInput) (out contract.PricesResult, err error) {
	err = workflow.ExecuteActivity(short(ctx, "keep the price table", setupTries), contract.KeepPricesActivity, in).Get(ctx, &out)
	return out, err
}

// Cost lets a worker report what was charged.
func Cost(ctx workflow.Context, in contract.CostInput) (out bill.Report, err error) {
	err = workflow.ExecuteActivity(short(ctx, "ask analytics what was charged", 2), contract.ReportCostActivity, in).Get(ctx, &out)
	return out, err
}

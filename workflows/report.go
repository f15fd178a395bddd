package workflows

import (
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
	"syncline/analytics/report"
)

// Report lets a worker compute the indicators of a pipeline from analytics.
func Report(ctx workflow.Context, in contract.ReportInput) (out report.Report, err error) {
	err = workflow.ExecuteActivity(short(ctx, "ask analytics about "+in.Pipeline, 2), contract.MeasureActivity, in).Get(ctx, &out)
	return out, err
}

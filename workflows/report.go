package workflows

import (
	"time"

	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
	"syncline/analytics/report"
)

// Report lets a worker compute the indicators of a pipeline from analytics.
func Report(ctx workflow.Context, in contract.ReportInput) (out report.Report, err error) {
	ctx = short(ctx, "ask analytics about "+in.Pipeline, 2)
	o := workflow.GetActivityOptions(ctx)
	o.StartToCloseTimeout, o.HeartbeatTimeout = time.Minute, 0 // it only waits for queries, which have bounds
	err = workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), contract.MeasureActivity, in).Get(ctx, &out)
	return out, err
}

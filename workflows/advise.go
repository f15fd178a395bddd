package workflows

import (
	"fmt"
	"strings"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
)

// Advise says what other classifications of a pipeline would have written, and how long
// changes would have waited. It changes nothing; a worker reads the log, and the result
// has counts and names of columns.
func Advise(ctx workflow.Context, in contract.AdviseInput) (out contract.AdviseResult, err error) {
	if err := workflow.UpsertTypedSearchAttributes(ctx, temporal.NewSearchAttributeKeyKeyword(contract.PipelineAttribute).ValueSet(in.Pipeline)); err != nil {
		workflow.GetLogger(ctx).Warn("search attributes not set", "error", err)
	}
	workflow.SetCurrentDetails(ctx, "reads the log of **"+in.Pipeline+"** …")
	if err := workflow.ExecuteActivity(work(ctx, "traffic of "+in.Pipeline), contract.AdviseTiersActivity, in).Get(ctx, &out); err != nil {
		return out, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d records, from %s to %s\n", out.Records, out.From.Format("2006-01-02 15:04:05"), out.To.Format("2006-01-02 15:04:05"))
	for i := range out.Candidates {
		c := &out.Candidates[i]
		if c.DominatedBy == "" && b.Len() < maxDetails {
			fmt.Fprintf(&b, "\n- %s: %d rows, %d bytes; the longest wait %.0f s", c.Name, c.Rows, c.Bytes, c.Max)
		}
	}
	workflow.SetCurrentDetails(ctx, b.String())
	return out, nil
}

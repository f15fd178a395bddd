package activities

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/testsuite"

	"syncline/activities/contract"
	"syncline/analytics"
	"syncline/analytics/bill"
	"syncline/analytics/billing"
	"syncline/pipeline"
	"syncline/testsuite/stack"
)

// namespace lists what runs, page by page.
type namespace struct {
	client.Client
	asked []string
}

func (n *namespace) ListWorkflow(_ context.Context, in *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	n.asked = append(n.asked, in.Query)
	out := &workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{
		{Execution: &commonpb.WorkflowExecution{WorkflowId: contract.PipelineID(fmt.Sprint("shop", len(n.asked)))}}}}
	if len(n.asked) == 1 {
		out.NextPageToken = []byte("more")
	}
	return out, nil
}

// Pipelines of other workers are left alone: what they use is in other analytics.
func TestPipelinesOfTheseWorkers(t *testing.T) {
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	n := &namespace{}
	a := &Activities{Client: n}
	var queue string
	list := func(ctx context.Context) ([]string, error) {
		queue = activity.GetInfo(ctx).TaskQueue
		return a.runningPipelines(ctx)
	}
	env.RegisterActivity(list)
	v, err := env.ExecuteActivity(list)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	if err := v.Get(&names); err != nil || !slices.Equal(names, []string{"shop1", "shop2"}) {
		t.Errorf("%v, %v", names, err)
	}
	if queue == "" || !strings.Contains(n.asked[1], " AND TaskQueue = '"+queue+"'") {
		t.Errorf("on %q: %q", queue, n.asked)
	}
}

// How a pipeline stands to its budget, by what is priced.
func TestJudge(t *testing.T) {
	s, err := analytics.OpenStore(stack.ClickHouse(t), stack.Name(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		rows, err := s.Query(context.Background(), "DROP DATABASE IF EXISTS {db}")
		if err != nil {
			t.Error(err)
		} else {
			_ = rows.Close() // it has none
		}
		_ = s.Close() // the test is over
	})
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	month := time.Date(time.Now().Year(), time.Now().Month()-1, 1, 0, 0, 0, 0, time.UTC)
	var rs []analytics.Row
	for h := range 240 { // 0.01 an hour for ten days
		rs = append(rs, &analytics.Usage{Time: month.Add(time.Duration(h) * time.Hour), Pipeline: "shop", Origin: "eu", Destination: "us", Wire: 1e9})
	}
	rs = append(rs, &analytics.Usage{Time: month.AddDate(0, 0, 9), Pipeline: "dark", Origin: "eu", Wire: 1e9})
	if err := s.Insert(t.Context(), "u", rs); err != nil {
		t.Fatal(err)
	}
	table, err := pipeline.ParsePrices("", []byte("version: 1\ncurrency: USD\nunit: GB\nroutes: [{name: r, from: eu, to: us, prices: [{from: 2020-01-01, price: 0.01}]}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	now := month.AddDate(0, 0, 10)
	if _, err := billing.Price(t.Context(), s, billing.Task{Now: now, Name: "p", Prices: table, Version: "v"}); err != nil {
		t.Fatal(err)
	}
	priced, err := billing.Priced(t.Context(), s)
	if err != nil || !priced.Equal(now) {
		t.Fatalf("priced until %s, %v", priced, err)
	}
	for _, c := range []struct{ name, amount, want, why string }{
		{"shop", "2.40 USD", bill.Over, ""},
		{"shop", "3.00 USD", bill.Near, ""},   // 80% are spent
		{"shop", "6.00 USD", bill.Near, ""},   // 40% are spent, and the month will cost 6.72 at least
		{"shop", "8.00 USD", bill.Within, ""}, // and 7.44 at most
		{"shop", "2.00 EUR", bill.Unclear, "the budget is in EUR, and prices are in USD"},
		{"dark", "8.00 USD", bill.Within, "some of what was used has no price"},
		{"nobody", "8.00 USD", bill.Within, ""},
	} {
		b, err := judge(t.Context(), s, c.name, &pipeline.Budget{Amount: c.amount, Per: pipeline.PerMonth, WarnAt: 800000}, "USD", priced, now)
		if err != nil || b.Standing != c.want || !strings.Contains(b.Why, c.why) || (c.why == "") != (b.Why == "") {
			t.Errorf("%+v: %+v, %v", c, b, err)
		}
		if c.name == "shop" && c.want != bill.Unclear && b.Spent.String() != "2.4" {
			t.Errorf("%s was spent", b.Spent)
		}
	}
	// Of a period that has just begun nothing is spent.
	if b, err := judge(t.Context(), s, "shop", &pipeline.Budget{Amount: "0.10 USD", Per: pipeline.PerDay, WarnAt: 800000}, "USD", priced, now.Add(5*time.Minute)); err != nil || b.Standing == bill.Over || !b.Spent.IsZero() || !b.Start.Equal(now) {
		t.Errorf("%+v, %v", b, err)
	}
}

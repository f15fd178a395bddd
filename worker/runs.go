package main

import (
	"context"
	"fmt"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"
	"go.uber.org/zap"

	"syncline/activities/contract"
	"syncline/activities/observe"
)

const (
	// runsEvery is how often Temporal's list of workflows is read again.
	runsEvery = 10 * time.Second
	// failedFor is how long a repair that failed is shown, if no other follows.
	failedFor = 24 * time.Hour
)

// lister is what watchRuns needs of a client.
type lister interface {
	ListWorkflow(context.Context, *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error)
}

// watchRuns shows in metrics what waits for a person: pipelines that are paused, repairs
// without an approval, and repairs that failed. Temporal's list says so, whichever worker
// did the work. While Temporal is away it shows what it last knew.
func watchRuns(ctx context.Context, tc lister, m *observe.Metrics, log *zap.Logger) {
	for {
		if err := lookAtRuns(ctx, tc, m, time.Now()); err != nil && ctx.Err() == nil {
			log.Debug("the list of workflows cannot be read", zap.Error(err)) // watchTemporal tells of an outage
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(runsEvery):
		}
	}
}

func lookAtRuns(ctx context.Context, tc lister, m *observe.Metrics, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, runsEvery)
	defer cancel()
	running := func(workflow, phase string) (out []string, err error) {
		es, err := list(ctx, tc, fmt.Sprintf("WorkflowType = '%s' AND ExecutionStatus = 'Running' AND %s = '%s'", workflow, contract.PhaseAttribute, phase))
		for _, e := range es {
			out = append(out, attribute(e, contract.PipelineAttribute))
		}
		return out, err
	}
	paused, err := running(contract.PipelineWorkflow, string(contract.Paused))
	if err != nil {
		return err
	}
	waiting, err := running(contract.RepairWorkflow, contract.RepairAwaitsApproval)
	if err != nil {
		return err
	}
	// Runs that only made a plan have no phase. One that was cancelled says nothing.
	ended, err := list(ctx, tc, fmt.Sprintf("WorkflowType = '%s' AND ExecutionStatus != 'Running' AND ExecutionStatus != 'Canceled' AND %s IN ('%s', '%s', '%s', '%s') AND CloseTime > '%s'",
		contract.RepairWorkflow, contract.PhaseAttribute, contract.RepairAwaitsApproval, contract.RepairGoesOn, contract.RepairDone, contract.RepairLeftKeys, now.Add(-failedFor).UTC().Format(time.RFC3339)))
	if err != nil {
		return err
	}
	newest := map[string]*workflowpb.WorkflowExecutionInfo{}
	for _, e := range ended {
		p := attribute(e, contract.PipelineAttribute)
		if old := newest[p]; old == nil || old.GetCloseTime().AsTime().Before(e.GetCloseTime().AsTime()) {
			newest[p] = e
		}
	}
	var failed []string
	for p, e := range newest {
		if e.GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED || attribute(e, contract.PhaseAttribute) != contract.RepairDone {
			failed = append(failed, p)
		}
	}
	m.Runs(paused, waiting, failed)
	return nil
}

// list reads all pages.
func list(ctx context.Context, tc lister, query string) (out []*workflowpb.WorkflowExecutionInfo, err error) {
	req := &workflowservice.ListWorkflowExecutionsRequest{PageSize: 200, Query: query}
	for {
		page, err := tc.ListWorkflow(ctx, req)
		if err != nil {
			return nil, err
		}
		out = append(out, page.GetExecutions()...)
		if req.NextPageToken = page.GetNextPageToken(); len(req.NextPageToken) == 0 {
			return out, nil
		}
	}
}

// attribute reads a keyword; "" if the workflow has none.
func attribute(e *workflowpb.WorkflowExecutionInfo, name string) (text string) {
	var p *commonpb.Payload = e.GetSearchAttributes().GetIndexedFields()[name]
	if p == nil || converter.GetDefaultDataConverter().FromPayload(p, &text) != nil {
		return ""
	}
	return text
}

package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/types/known/timestamppb"

	"syncline/activities/contract"
	"syncline/activities/observe"
)

// runs is a list of workflows: what answers a query that has a text in it, two to a page.
type runs struct {
	by  map[string][]*workflowpb.WorkflowExecutionInfo
	err error
}

func (r *runs) ListWorkflow(_ context.Context, in *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	out := &workflowservice.ListWorkflowExecutionsResponse{}
	for text, es := range r.by {
		if strings.Contains(in.Query, text) {
			out.Executions = es
		}
	}
	switch n := len(in.NextPageToken); {
	case n > 0:
		out.Executions = out.Executions[n:]
	case len(out.Executions) > 2:
		out.Executions, out.NextPageToken = out.Executions[:2], []byte("xx")
	}
	return out, r.err
}

func ran(t *testing.T, pipeline, phase string, status enumspb.WorkflowExecutionStatus, closed int64) *workflowpb.WorkflowExecutionInfo {
	t.Helper()
	fields := map[string]*commonpb.Payload{}
	for name, text := range map[string]string{contract.PipelineAttribute: pipeline, contract.PhaseAttribute: phase} {
		p, err := converter.GetDefaultDataConverter().ToPayload(text)
		if err != nil {
			t.Fatal(err)
		}
		fields[name] = p
	}
	return &workflowpb.WorkflowExecutionInfo{Status: status, CloseTime: &timestamppb.Timestamp{Seconds: closed}, SearchAttributes: &commonpb.SearchAttributes{IndexedFields: fields}}
}

// What waits for a person is shown as long as it does; of repairs the newest counts.
func TestWatchRuns(t *testing.T) {
	const (
		done   = enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
		failed = enumspb.WORKFLOW_EXECUTION_STATUS_FAILED
		live   = enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
	)
	m := observe.NewMetrics("b")
	r := &runs{by: map[string][]*workflowpb.WorkflowExecutionInfo{
		"'Running' AND SynclinePhase = 'paused'":          {ran(t, "a", "paused", live, 0), ran(t, "b", "paused", live, 0), ran(t, "c", "paused", live, 0)},
		"'Running' AND SynclinePhase = 'awaits-approval'": {ran(t, "a", contract.RepairAwaitsApproval, live, 0)},
		"CloseTime > '2026-01-01T00:00:00Z'": {
			ran(t, "mended", contract.RepairDone, done, 20), ran(t, "mended", contract.RepairLeftKeys, done, 10),
			ran(t, "left", contract.RepairDone, done, 10), ran(t, "left", contract.RepairLeftKeys, done, 20),
			ran(t, "unapproved", contract.RepairAwaitsApproval, failed, 5), ran(t, "ended", contract.RepairGoesOn, enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED, 5),
		},
	}}
	look := func(want string) {
		t.Helper()
		if err := lookAtRuns(t.Context(), r, m, time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)); err != nil && r.err == nil {
			t.Fatal(err)
		}
		names := []string{"syncline_pipeline_paused", "syncline_repair_awaits_approval", "syncline_repair_failed"}
		var text strings.Builder
		for _, name := range names {
			var lines string
			for line := range strings.SplitSeq(want, "\n") {
				if strings.HasPrefix(line, name+"{") {
					lines += line + " 1\n"
				}
			}
			if lines != "" {
				help := map[string]string{names[0]: "1 while an operator has the pipeline paused.", names[1]: "1 while a repair of the pipeline waits for an approval.",
					names[2]: "1 if the newest repair of the pipeline within a day failed, or left keys failed."}[name]
				text.WriteString("# HELP " + name + " " + help + "\n# TYPE " + name + " gauge\n" + lines)
			}
		}
		if err := testutil.GatherAndCompare(m.Registry, strings.NewReader(text.String()), names...); err != nil {
			t.Error(err)
		}
	}
	all := `syncline_pipeline_paused{pipeline="a"}
syncline_pipeline_paused{pipeline="b"}
syncline_pipeline_paused{pipeline="c"}
syncline_repair_awaits_approval{pipeline="a"}
syncline_repair_failed{pipeline="ended"}
syncline_repair_failed{pipeline="left"}
syncline_repair_failed{pipeline="unapproved"}`
	look(all)
	r.err = errors.New("away")
	look(all)
	r.err = nil
	r.by = map[string][]*workflowpb.WorkflowExecutionInfo{"= 'paused'": {ran(t, "b", "paused", live, 0)}}
	look(`syncline_pipeline_paused{pipeline="b"}`)
	r.by = nil
	look("")
}

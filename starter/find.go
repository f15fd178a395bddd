package main

import (
	"context"
	"errors"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/pipeline"
)

// pollerAge is how long ago a live worker may have asked for work last: a poll
// lasts up to a minute.
const pollerAge = 90 * time.Second

// worker makes sure that somebody takes workflow tasks from a queue before
// anything is asked of it: a request that nobody answers would only time out.
// It waits a little, for workers that start at the same moment.
func (t *tool) worker(ctx context.Context, c client.Client, queue string) error {
	ctx, cancel := context.WithTimeout(ctx, t.workerBound)
	defer cancel()
	for {
		d, err := c.DescribeTaskQueue(ctx, queue, enumspb.TASK_QUEUE_TYPE_WORKFLOW)
		if err != nil && ctx.Err() == nil {
			return err
		}
		for _, p := range d.GetPollers() {
			if time.Since(p.GetLastAccessTime().AsTime()) < pollerAge {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			fix := "start one with the role control and SYNCLINE_TASK_QUEUE_PREFIX=" + contract.QueuePrefix(queue)
			if queue == t.controlQueue() {
				fix += ", or name the queues of those that run with --task-queue-prefix"
			}
			return unreachable("no worker takes work from task queue %s in namespace %s (fix: %s)", queue, t.namespace, fix)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// find makes sure that a pipeline runs, and that a worker can answer for it.
func (t *tool) find(ctx context.Context, name string) (client.Client, error) {
	c, err := t.dial(ctx)
	if err != nil {
		return nil, err
	}
	d, err := c.DescribeWorkflowExecution(ctx, contract.PipelineID(name), "")
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return nil, t.unknown(ctx, c, name)
	}
	if err != nil {
		return nil, err
	}
	if s := d.WorkflowExecutionInfo.Status; s != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return nil, failed("pipeline %s has ended (%s) (fix: starter apply starts it again)", name, strings.ToLower(s.String()))
	}
	return c, t.worker(ctx, c, d.WorkflowExecutionInfo.TaskQueue)
}

// unknown says which pipelines there are instead.
func (t *tool) unknown(ctx context.Context, c client.Client, name string) error {
	names := t.names(ctx, c)
	if len(names) == 0 {
		return failed("no pipeline is called %q, and none runs in namespace %s (fix: starter apply starts one)", name, t.namespace)
	}
	if near := pipeline.Nearest(name, names); near != "" {
		return failed("no pipeline is called %q%s", name, maybe(near))
	}
	return failed("no pipeline is called %q (fix: name one that runs: %s)", name, strings.Join(names, ", "))
}

// names lists pipelines that run; not being able to is no reason to fail.
func (t *tool) names(ctx context.Context, c client.Client) (names []string) {
	r, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		PageSize: 50, Query: "WorkflowType = '" + contract.PipelineWorkflow + "' AND ExecutionStatus = 'Running'",
	})
	if err != nil {
		return nil
	}
	for _, w := range r.Executions {
		names = append(names, strings.TrimPrefix(w.GetExecution().GetWorkflowId(), contract.PipelineID("")))
	}
	return names
}

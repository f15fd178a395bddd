package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/pipeline"
)

func (t *tool) planCommand() *cobra.Command {
	wait := 2 * time.Minute
	cmd := &cobra.Command{
		Use:   "plan FILE",
		Short: "look at both ends and say what apply would do, without changing anything",
		Long: `plan lets a worker look at the source, Kafka and the sinks, and reports what is
there, what a pipeline would make of it, and what it would change of the one that
runs. It changes nothing. The exit code is 1 when something forbids the pipeline.`,
		Args: args(1, 1, "one declaration"),
		RunE: func(cmd *cobra.Command, a []string) error {
			spec, err := t.read(a[0])
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			c, err := t.dial(ctx)
			if err == nil {
				err = t.worker(ctx, c, t.controlQueue())
			}
			if err != nil {
				return err
			}
			in := contract.PlanInput{Spec: *spec}
			if in.Running, err = t.running(ctx, c, spec.Name); err != nil {
				return err
			}
			r, err := t.inspect(ctx, c, in, wait)
			if err != nil {
				return err
			}
			if err := t.print(r, func() { t.drawReport(a[0], spec, &r) }); err != nil {
				return err
			}
			if !r.OK {
				return &exitError{exitFailed, errSilent}
			}
			return nil
		},
	}
	timeoutFlag(cmd, &wait, "the report")
	return cmd
}

// inspect lets a worker look at both ends.
func (t *tool) inspect(ctx context.Context, c client.Client, in contract.PlanInput, wait time.Duration) (r contract.Report, err error) {
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: "plan/" + in.Spec.Name + "/" + nonce(), TaskQueue: t.controlQueue(), StaticSummary: summary(&in.Spec) + " (plan)",
		WorkflowExecutionTimeout: wait, // nobody reads a plan that comes later
	}, contract.PlanWorkflow, in)
	if err == nil {
		err = run.Get(ctx, &r)
	}
	return r, err
}

func nonce() string {
	b := make([]byte, 4)
	_, _ = rand.Read(b) // it never fails
	return hex.EncodeToString(b)
}

// running returns the declaration of the pipeline that runs under a name, if one does.
func (t *tool) running(ctx context.Context, c client.Client, name string) (*pipeline.Spec, error) {
	d, err := c.DescribeWorkflowExecution(ctx, contract.PipelineID(name), "")
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if d.WorkflowExecutionInfo.Status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return nil, nil
	}
	st, err := t.pipelineOf(ctx, c, name)
	if err != nil {
		return nil, err
	}
	return &st.Spec, nil
}

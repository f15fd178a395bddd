package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/starter/view"
)

func (t *tool) snapshotCommand() *cobra.Command {
	var in contract.BootstrapInput
	cmd := &cobra.Command{
		Use:   "snapshot FILE",
		Short: "load tables once, without a stream",
		Long: `snapshot loads the declared tables once, as of one moment, without slot, topics
or stream. It shows how the load goes and ends with it; interrupting the command
leaves the load running.`,
		Args: args(1, 1, "one declaration"),
		RunE: func(cmd *cobra.Command, a []string) error {
			spec, err := t.read(a[0])
			if err != nil {
				return err
			}
			for _, n := range in.Sinks {
				if spec.Sink(n) == nil {
					return invalid("%s declares no sink %q (fix: name one of its sinks with --sink)", a[0], n)
				}
			}
			c, err := t.dial(cmd.Context())
			if err == nil {
				err = t.worker(cmd.Context(), c, t.controlQueue())
			}
			if err != nil {
				return err
			}
			in.Spec = *spec
			id := "snapshot/" + spec.Name
			run, err := c.ExecuteWorkflow(cmd.Context(), client.StartWorkflowOptions{
				ID: id, TaskQueue: t.controlQueue(), StaticSummary: summary(spec) + " (one-off)",
				WorkflowExecutionErrorWhenAlreadyStarted: true,
				TypedSearchAttributes:                    temporal.NewSearchAttributes(temporal.NewSearchAttributeKeyKeyword(contract.PipelineAttribute).ValueSet(spec.Name)),
			}, contract.SnapshotWorkflow, in)
			var running *serviceerror.WorkflowExecutionAlreadyStarted
			if errors.As(err, &running) {
				return failed("a snapshot of %s runs already, as workflow %s (fix: wait for it, or cancel it: temporal workflow cancel --workflow-id %s)", spec.Name, id, id)
			}
			if err != nil {
				return err
			}
			res, err := t.follow(cmd.Context(), c, run, id)
			if err != nil {
				return err
			}
			return t.print(res, func() {
				var rows int64
				for _, l := range res.Loads {
					rows += l.Rows
					fmt.Fprintf(t.out, "%s → %s: %d rows, %s\n", l.Table, l.Sink, l.Rows, view.Bytes(l.Bytes))
				}
				fmt.Fprintf(t.out, "snapshot of %s: %d rows in %s\n", spec.Name, rows, time.Since(res.Begun).Round(100*time.Millisecond))
			})
		},
	}
	cmd.Flags().StringSliceVar(&in.Sinks, "sink", nil, "only into these sinks")
	return cmd
}

// follow waits for a load and shows how it goes. Interrupting it leaves the load running.
func (t *tool) follow(ctx context.Context, c client.Client, run client.WorkflowRun, id string) (res contract.LoadStatus, err error) {
	err = t.await(ctx, run, &res, func(look context.Context, b *bytes.Buffer) error {
		var l contract.LoadStatus
		r, err := c.QueryWorkflow(look, id, "", contract.StatusQuery)
		if err != nil {
			return err
		}
		if err := r.Get(&l); err != nil {
			return err
		}
		v := &view.View{Loads: []contract.LoadStatus{l}, At: time.Now(), Copying: view.Chunks(ctx, c, id)}
		v.DrawLoads(b, t.style())
		return nil
	})
	if ctx.Err() != nil {
		return res, failed("interrupted; the load goes on as workflow %s", id)
	}
	return res, err
}

// await waits for a run's result and draws anew every second meanwhile, on a
// terminal; what cannot be looked at in time is drawn the next time.
func (t *tool) await(ctx context.Context, run client.WorkflowRun, result any, draw func(look context.Context, b *bytes.Buffer) error) error {
	done := make(chan error, 1)
	go func() { done <- run.Get(ctx, result) }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	s := t.screen()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			if t.json || !t.terminal {
				continue
			}
			look, cancel := context.WithTimeout(ctx, 2*time.Second)
			var b bytes.Buffer
			err := draw(look, &b)
			cancel()
			if err == nil {
				_ = s.draw(b.String())
			}
		}
	}
}

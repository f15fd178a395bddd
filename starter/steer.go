package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	enumspb "go.temporal.io/api/enums/v1"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/pipeline"
)

// update calls an update of a pipeline and waits for its answer.
func (t *tool) update(ctx context.Context, name, update string, arg, result any) error {
	c, err := t.dial(ctx)
	if err != nil {
		return err
	}
	o := client.UpdateWorkflowOptions{
		WorkflowID: contract.PipelineID(name), UpdateName: update, WaitForStage: client.WorkflowUpdateStageCompleted,
	}
	if arg != nil {
		o.Args = []any{arg}
	}
	h, err := c.UpdateWorkflow(ctx, o)
	if err != nil {
		return err
	}
	return h.Get(ctx, result)
}

func (t *tool) applyCommand() *cobra.Command {
	wait := 5 * time.Minute
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "start the pipeline of a declaration, or change the one that runs",
		Args:  args(1, 1, "one declaration"),
		RunE: func(cmd *cobra.Command, a []string) error {
			spec, err := t.read(a[0])
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			res, err := t.apply(ctx, spec)
			if err != nil {
				return err
			}
			return t.print(res, func() {
				verb := "unchanged"
				if res.Created {
					verb = "started"
				} else if len(res.Changes) > 0 {
					verb = "changed"
				}
				fmt.Fprintf(t.out, "pipeline %s %s: %d tables to %d sinks\n", spec.Name, verb, len(res.Tables), len(spec.Sinks))
				for _, c := range res.Changes {
					fmt.Fprintf(t.out, "  %s\n", c)
				}
				fmt.Fprintf(t.out, "watch it: starter status %s --watch\n", spec.Name)
			})
		},
	}
	cmd.Flags().DurationVar(&wait, "timeout", wait, "how long to wait for the setup")
	return cmd
}

// apply starts the pipeline if it does not run, and asks it to be as declared, in one call.
func (t *tool) apply(ctx context.Context, spec *pipeline.Spec) (res contract.ApplyResult, err error) {
	c, err := t.dial(ctx)
	if err != nil {
		return res, err
	}
	start := c.NewWithStartWorkflowOperation(client.StartWorkflowOptions{
		ID:                       contract.PipelineID(spec.Name),
		TaskQueue:                contract.Queue(t.queue, contract.Control),
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		StaticSummary:            summary(spec),
		TypedSearchAttributes:    temporal.NewSearchAttributes(temporal.NewSearchAttributeKeyKeyword(contract.PipelineAttribute).ValueSet(spec.Name)),
	}, contract.PipelineWorkflow, contract.PipelineInput{Spec: *spec})
	h, err := c.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
		StartWorkflowOperation: start,
		UpdateOptions: client.UpdateWorkflowOptions{
			WorkflowID: contract.PipelineID(spec.Name), UpdateName: contract.ApplyUpdate, Args: []any{*spec},
			WaitForStage: client.WorkflowUpdateStageCompleted,
		},
	})
	if err != nil {
		return res, err
	}
	return res, h.Get(ctx, &res)
}

func summary(spec *pipeline.Spec) string {
	names := make([]string, len(spec.Sinks))
	for i, s := range spec.Sinks {
		names[i] = s.Name
	}
	return fmt.Sprintf("%s: %s → %s", spec.Name, spec.Source.Type, strings.Join(names, ", "))
}

func (t *tool) pauseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "pause NAME", Short: "stop capture, delivery and loads; the slot keeps what comes", Args: args(1, 1, "one pipeline name"),
		RunE: func(cmd *cobra.Command, a []string) error { return t.steer(cmd, a[0], contract.PauseUpdate) },
	}
}

func (t *tool) resumeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "resume NAME", Short: "start again, and try failed components again", Args: args(1, 1, "one pipeline name"),
		RunE: func(cmd *cobra.Command, a []string) error { return t.steer(cmd, a[0], contract.ResumeUpdate) },
	}
}

func (t *tool) steer(cmd *cobra.Command, name, update string) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), 3*time.Minute)
	defer cancel()
	var st contract.PipelineStatus
	if err := t.update(ctx, name, update, nil, &st); err != nil {
		return err
	}
	return t.print(st, func() { fmt.Fprintf(t.out, "pipeline %s is %s\n", name, st.Phase) })
}

func (t *tool) tablesCommand(use, short, update string) *cobra.Command {
	var in contract.TablesInput
	cmd := &cobra.Command{
		Use: use + " NAME TABLE…", Short: short, Args: args(2, -1, "a pipeline name and tables as schema.name"),
		RunE: func(cmd *cobra.Command, a []string) error {
			for _, s := range a[1:] {
				id, err := change.ParseTableID(s)
				if err != nil {
					return invalid("%w", err)
				}
				in.Tables = append(in.Tables, id)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Minute)
			defer cancel()
			var res contract.TablesResult
			if err := t.update(ctx, a[0], update, in, &res); err != nil {
				return err
			}
			return t.print(res, func() {
				fmt.Fprintf(t.out, "%s: %d tables\n", use, len(res.Tables))
				if res.Bootstrap != "" {
					fmt.Fprintf(t.out, "loading in workflow %s; watch it: starter status %s --watch\n", res.Bootstrap, a[0])
				}
			})
		},
	}
	if update == contract.ResyncTableUpdate {
		cmd.Flags().StringSliceVar(&in.Sinks, "sink", nil, "only into these sinks")
	}
	if update == contract.RemoveTableUpdate {
		cmd.Flags().BoolVar(&in.DropRows, "drop-rows", false, "also drop the tables that Syncline made at the sinks")
	}
	return cmd
}

func (t *tool) destroyCommand() *cobra.Command {
	var in contract.DestroyInput
	var yes bool
	cmd := &cobra.Command{
		Use:   "destroy NAME",
		Short: "remove slot, publication, topics and ledger of a pipeline; never rows, unless told",
		Args:  args(1, 1, "one pipeline name"),
		RunE: func(cmd *cobra.Command, a []string) error {
			if !yes {
				if err := t.confirm(a[0], in.DropRows); err != nil {
					return err
				}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Minute)
			defer cancel()
			var res contract.DestroyResult
			if err := t.update(ctx, a[0], contract.DestroyUpdate, in, &res); err != nil {
				return err
			}
			return t.print(res, func() {
				for _, r := range res.Removed {
					fmt.Fprintf(t.out, "removed %s\n", r)
				}
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&in.DropRows, "drop-rows", false, "also drop the tables that Syncline made at the sinks")
	return cmd
}

func (t *tool) confirm(name string, rows bool) error {
	what := "slot, publication, topics and ledger"
	if rows {
		what += ", and the tables at the sinks"
	}
	if !t.terminal || t.json {
		return invalid("destroy removes the %s of %s: add --yes to confirm", what, name)
	}
	fmt.Fprintf(t.err, "This removes the %s of pipeline %s.\nType its name to confirm: ", what, name)
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	if strings.TrimSpace(line) != name {
		return &exitError{exitFailed, fmt.Errorf("not confirmed; nothing was removed")}
	}
	return nil
}

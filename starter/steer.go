package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	enumspb "go.temporal.io/api/enums/v1"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/pipeline"
	"syncline/starter/view"
)

// update calls an update of a pipeline and waits for its answer. One that was
// taken in but is not answered in time goes on: that is said, and how to see more.
func (t *tool) update(ctx context.Context, name, update string, arg, result any) error {
	c, err := t.find(ctx, name)
	if err != nil {
		return err
	}
	o := client.UpdateWorkflowOptions{
		WorkflowID: contract.PipelineID(name), UpdateName: update, WaitForStage: client.WorkflowUpdateStageAccepted,
	}
	if arg != nil {
		o.Args = []any{arg}
	}
	h, err := c.UpdateWorkflow(ctx, o)
	if err != nil {
		return err
	}
	err = h.Get(ctx, result)
	var answer *temporal.ApplicationError
	if err == nil || errors.As(err, &answer) || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return err
	}
	fix := "starter status " + name + " shows what it is at"
	if update == contract.DestroyUpdate {
		fix = "the same command waits for its outcome again; " + fix
	}
	return failed("%s of pipeline %s is under way, and not done yet (fix: %s)", update, name, fix)
}

func (t *tool) applyCommand() *cobra.Command {
	wait := 5 * time.Minute
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "start the pipeline of a declaration, or change the one that runs",
		Long: `apply makes a pipeline run as declared and answers when it does: it starts the
pipeline if there is none, and otherwise changes the one that runs. A setup that
fails halfway removes what it made and says which step failed. Applying the same
declaration again changes nothing.`,
		Args: args(1, 1, "one declaration"),
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
				verb := "runs as declared"
				if res.Created {
					verb = "started"
				} else if len(res.Changes) > 0 {
					verb = "changed"
				}
				fmt.Fprintf(t.out, "pipeline %s %s: %s to %s\n", spec.Name, verb, view.Plural(len(res.Tables), "table"), view.Plural(len(spec.Sinks), "sink"))
				for _, c := range res.Changes {
					fmt.Fprintf(t.out, "  %s\n", c)
				}
				fmt.Fprintf(t.out, "watch it: starter status %s --watch\n", spec.Name)
			})
		},
	}
	timeoutFlag(cmd, &wait, "the setup")
	return cmd
}

// apply starts the pipeline if it does not run, and asks it to be as declared, in one call.
func (t *tool) apply(ctx context.Context, spec *pipeline.Spec) (res contract.ApplyResult, err error) {
	c, err := t.dial(ctx)
	if err == nil {
		err = t.worker(ctx, c, t.controlQueue())
	}
	if err != nil {
		return res, err
	}
	start := c.NewWithStartWorkflowOperation(client.StartWorkflowOptions{
		ID:                       contract.PipelineID(spec.Name),
		TaskQueue:                t.controlQueue(),
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
	return t.steerCommand("pause", "stop capture, delivery and loads; the slot keeps what comes", contract.PauseUpdate)
}

func (t *tool) resumeCommand() *cobra.Command {
	return t.steerCommand("resume", "start again, and try failed components again", contract.ResumeUpdate)
}

func (t *tool) steerCommand(use, what, update string) *cobra.Command {
	wait := 3 * time.Minute
	cmd := &cobra.Command{
		Use: use + " NAME", Short: what, Args: args(1, 1, "one pipeline name"),
		RunE: func(cmd *cobra.Command, a []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			var st contract.PipelineStatus
			if err := t.update(ctx, a[0], update, nil, &st); err != nil {
				return err
			}
			return t.print(st, func() { fmt.Fprintf(t.out, "pipeline %s is %s\n", a[0], st.Phase) })
		},
	}
	timeoutFlag(cmd, &wait, "the answer")
	return cmd
}

func (t *tool) tablesCommand(use, what, update string) *cobra.Command {
	var in contract.TablesInput
	wait := 5 * time.Minute
	cmd := &cobra.Command{
		Use: use + " NAME TABLE…", Short: what, Args: args(2, -1, "a pipeline name and tables as schema.name"),
		RunE: func(cmd *cobra.Command, a []string) error {
			for _, s := range a[1:] {
				id, err := change.ParseTableID(s)
				if err != nil {
					return invalid("%w (fix: name tables as schema.name, with double quotes around parts that hold a dot)", err)
				}
				if !slices.Contains(in.Tables, id) {
					in.Tables = append(in.Tables, id)
				}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			var res contract.TablesResult
			if err := t.update(ctx, a[0], update, in, &res); err != nil {
				return err
			}
			return t.print(res, func() {
				for _, id := range res.Tables {
					fmt.Fprintf(t.out, "%s: %s\n", use, id)
				}
				if res.Bootstrap != "" {
					fmt.Fprintf(t.out, "loading as workflow %s; watch it: starter status %s --watch\n", res.Bootstrap, a[0])
				}
			})
		},
	}
	timeoutFlag(cmd, &wait, "the answer; loads go on after it")
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
	wait := 10 * time.Minute
	cmd := &cobra.Command{
		Use:   "destroy NAME",
		Short: "remove slot, publication, topics and ledger of a pipeline; never rows, unless told",
		Long: `destroy ends a pipeline and removes what it made: slot and publication at the
source, its topics, and its ledger at the sinks. The tables at the sinks stay,
unless --drop-rows is given, which drops those that Syncline made. It asks for
the pipeline's name first; scripts say --yes. What cannot be reached is tried for
some minutes, left, and named; destroy can then be asked for again. While one is
under way, another waits for the same outcome.`,
		Args: args(1, 1, "one pipeline name"),
		RunE: func(cmd *cobra.Command, a []string) error {
			if !yes && (!t.interactive || t.json) {
				return invalid("destroy removes slot, publication, topics and ledger of pipeline %s, and nobody can be asked here (fix: add --yes to confirm)", a[0])
			}
			c, err := t.find(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			if !yes {
				if err := t.confirm(cmd.Context(), c, a[0], in.DropRows); err != nil {
					return err
				}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			var res contract.DestroyResult
			if err := t.update(ctx, a[0], contract.DestroyUpdate, in, &res); err != nil {
				return err
			}
			return t.print(res, func() {
				for _, r := range res.Removed {
					fmt.Fprintf(t.out, "removed %s\n", r)
				}
				if in.DropRows {
					fmt.Fprintf(t.out, "pipeline %s is gone, with the tables that it made at the sinks\n", a[0])
				} else {
					fmt.Fprintf(t.out, "pipeline %s is gone; the tables at the sinks stay\n", a[0])
				}
			})
		},
	}
	timeoutFlag(cmd, &wait, "the removal")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&in.DropRows, "drop-rows", false, "also drop the tables that Syncline made at the sinks")
	return cmd
}

// confirm says what will go and asks for the pipeline's name.
func (t *tool) confirm(ctx context.Context, c client.Client, name string, rows bool) error {
	st, err := t.pipelineOf(ctx, c, name)
	if err != nil {
		return err
	}
	var sinks []string
	for _, s := range st.Spec.Sinks {
		sinks = append(sinks, s.Name)
	}
	fmt.Fprintf(t.err, "This ends pipeline %s and removes\n", name)
	fmt.Fprintf(t.err, "  at the source: slot %s, publication %s\n", st.Spec.SlotName(), st.Spec.PublicationName())
	fmt.Fprintf(t.err, "  in Kafka:      the topics %s%s.*\n", st.Spec.Kafka.TopicPrefix, name)
	fmt.Fprintf(t.err, "  at the sinks:  the ledger in %s\n", strings.Join(sinks, ", "))
	if rows {
		fmt.Fprintf(t.err, "  and the tables that Syncline made there, WITH THEIR ROWS\n")
	} else {
		fmt.Fprintf(t.err, "The %s at the sinks stay.\n", view.Plural(len(st.Tables), "table"))
	}
	fmt.Fprint(t.err, "Type its name to confirm: ")
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(t.in).ReadString('\n')
		answer <- line
	}()
	select {
	case line := <-answer:
		if strings.TrimSpace(line) == name {
			return nil
		}
		return failed("not confirmed; nothing was removed")
	case <-ctx.Done():
		fmt.Fprintln(t.err)
		return &exitError{exitFailed, errors.New("interrupted; nothing was removed")}
	}
}

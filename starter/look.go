package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/pipeline"
	"syncline/starter/view"
)

func (t *tool) statusCommand() *cobra.Command {
	var watch bool
	every := time.Second
	cmd := &cobra.Command{
		Use: "status NAME", Short: "show what a pipeline does", Args: args(1, 1, "one pipeline name"),
		RunE: func(cmd *cobra.Command, a []string) error {
			c, err := t.dial(cmd.Context())
			if err != nil {
				return err
			}
			for {
				v, err := gather(cmd.Context(), c, a[0])
				if err != nil {
					return err
				}
				if t.json {
					if err := json.NewEncoder(t.out).Encode(v); err != nil {
						return err
					}
				} else {
					t.draw(v, watch)
				}
				if !watch || v.Closed != "" {
					return nil
				}
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(every):
				}
			}
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "go on until interrupted; with --json one object per line")
	cmd.Flags().DurationVar(&every, "every", every, "how often to look with --watch")
	return cmd
}

func gather(ctx context.Context, c client.Client, name string) (*view.View, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	v, err := view.Gather(ctx, c, name)
	if errors.Is(err, view.ErrNotFound) {
		return nil, &exitError{exitFailed, err}
	}
	return v, err
}

// draw writes a view; on a terminal, watching redraws in place.
func (t *tool) draw(v *view.View, watch bool) {
	var b bytes.Buffer
	if watch && t.terminal {
		b.WriteString("\x1b[H\x1b[2J")
	}
	v.Draw(&b, t.style())
	if watch && !t.terminal {
		b.WriteByte('\n')
	}
	_, _ = t.out.Write(b.Bytes())
}

func (t *tool) planCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "plan FILE",
		Short: "look at both ends and say what apply would do, without changing anything",
		Args:  args(1, 1, "one declaration"),
		RunE: func(cmd *cobra.Command, a []string) error {
			spec, err := t.read(a[0])
			if err != nil {
				return err
			}
			c, err := t.dial(cmd.Context())
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Minute)
			defer cancel()
			in := contract.PlanInput{Spec: *spec}
			if running, err := t.running(ctx, c, spec.Name); err != nil {
				return err
			} else if running != nil {
				in.Running = running
			}
			var r contract.Report
			if err := t.start(ctx, c, "plan/"+spec.Name, contract.PlanWorkflow, summary(spec)+" (plan)", in, &r); err != nil {
				return err
			}
			if err := t.print(r, func() { t.drawReport(spec, &r) }); err != nil {
				return err
			}
			if !r.OK {
				return &exitError{exitFailed, errSilent}
			}
			return nil
		},
	}
}

// running returns the declaration of the pipeline that runs under a name, if one does.
func (t *tool) running(ctx context.Context, c client.Client, name string) (*pipeline.Spec, error) {
	r, err := c.QueryWorkflow(ctx, contract.PipelineID(name), "", contract.StatusQuery)
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var st contract.PipelineStatus
	if err := r.Get(&st); err != nil {
		return nil, err
	}
	if st.Phase == contract.Destroyed || st.Phase == contract.SetupFailed {
		return nil, nil
	}
	return &st.Spec, nil
}

// start runs a one-off workflow and waits for its result.
func (t *tool) start(ctx context.Context, c client.Client, id, workflow, what string, in, out any) error {
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: id, TaskQueue: contract.Queue(t.queue, contract.Control), StaticSummary: what,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
	}, workflow, in)
	if err != nil {
		return err
	}
	return run.Get(ctx, out)
}

func (t *tool) drawReport(spec *pipeline.Spec, r *contract.Report) {
	s := t.style()
	mark := func(ok bool) string {
		switch {
		case ok && s.Color:
			return "\x1b[32m✓\x1b[0m"
		case ok:
			return "ok  "
		case s.Color:
			return "\x1b[31m✗\x1b[0m"
		}
		return "FAIL"
	}
	check := func(c contract.Check) {
		fmt.Fprintf(t.out, "  %s %s: %s\n", mark(c.OK), c.Name, c.Detail)
		if !c.OK && c.Fix != "" {
			fmt.Fprintf(t.out, "       fix: %s\n", c.Fix)
		}
	}
	fmt.Fprintf(t.out, "source (%s)\n", r.Source.Version)
	for _, c := range r.Source.Checks {
		check(c)
	}
	fmt.Fprintln(t.out, "kafka")
	check(r.Kafka)
	for _, sk := range r.Sinks {
		fmt.Fprintf(t.out, "sink %s (%s)\n", sk.Sink, sk.Type)
		for _, c := range sk.Checks {
			check(c)
		}
	}
	fmt.Fprintf(t.out, "tables (%d)\n", len(r.Tables))
	for _, tb := range r.Tables {
		fmt.Fprintf(t.out, "  %s %s: ~%s rows, %s, key (%s), replica identity %s\n", mark(len(tb.Problems) == 0), tb.Table,
			view.Count(float64(tb.Rows)), view.Bytes(tb.Bytes), strings.Join(tb.Key, ", "), tb.Identity)
		for _, p := range tb.Problems {
			fmt.Fprintf(t.out, "       %s\n", p)
		}
		names := make([]string, 0, len(tb.Sinks))
		for n := range tb.Sinks {
			names = append(names, n)
		}
		sort.Strings(names)
		for _, n := range names {
			c := tb.Sinks[n]
			what := "will be created"
			if c.Exists {
				what = "exists"
			}
			if c.Problem != "" {
				what = c.Problem
			}
			fmt.Fprintf(t.out, "    %s: %s\n", n, what)
			for _, col := range c.Columns {
				if col.Lossy != "" {
					fmt.Fprintf(t.out, "      LOSSY %s %s → %s: %s\n", col.Column, col.Source, col.Sink, col.Lossy)
				} else if col.Source != col.Sink {
					fmt.Fprintf(t.out, "      %s %s → %s\n", col.Column, col.Source, col.Sink)
				}
			}
			for _, note := range c.Notes {
				fmt.Fprintf(t.out, "      note: %s\n", note)
			}
		}
	}
	for _, g := range r.Unused {
		fmt.Fprintf(t.out, "  note: %q selects no table\n", g)
	}
	switch {
	case !r.Running:
		fmt.Fprintf(t.out, "apply would start pipeline %s\n", spec.Name)
	case len(r.Changes) == 0:
		fmt.Fprintf(t.out, "pipeline %s runs as declared\n", spec.Name)
	default:
		fmt.Fprintf(t.out, "apply would change pipeline %s:\n", spec.Name)
		for _, c := range r.Changes {
			fmt.Fprintf(t.out, "  %s\n", c)
		}
	}
}

func (t *tool) snapshotCommand() *cobra.Command {
	var in contract.BootstrapInput
	cmd := &cobra.Command{
		Use:   "snapshot FILE",
		Short: "load tables once, without a stream",
		Args:  args(1, 1, "one declaration"),
		RunE: func(cmd *cobra.Command, a []string) error {
			spec, err := t.read(a[0])
			if err != nil {
				return err
			}
			c, err := t.dial(cmd.Context())
			if err != nil {
				return err
			}
			in.Spec = *spec
			id := fmt.Sprintf("snapshot/%s", spec.Name)
			run, err := c.ExecuteWorkflow(cmd.Context(), client.StartWorkflowOptions{
				ID: id, TaskQueue: contract.Queue(t.queue, contract.Control), StaticSummary: summary(spec) + " (one-off)",
				WorkflowExecutionErrorWhenAlreadyStarted: true,
				TypedSearchAttributes:                    temporal.NewSearchAttributes(temporal.NewSearchAttributeKeyKeyword(contract.PipelineAttribute).ValueSet(spec.Name)),
			}, contract.SnapshotWorkflow, in)
			if err != nil {
				return err
			}
			res, err := t.follow(cmd.Context(), c, run, id)
			if err != nil {
				return err
			}
			return t.print(res, func() {
				for _, l := range res.Loads {
					fmt.Fprintf(t.out, "%s → %s: %d rows, %s\n", l.Table, l.Sink, l.Rows, view.Bytes(l.Bytes))
				}
			})
		},
	}
	cmd.Flags().StringSliceVar(&in.Sinks, "sink", nil, "only into these sinks")
	return cmd
}

// follow waits for a load and shows how it goes. Interrupting it leaves the load running.
func (t *tool) follow(ctx context.Context, c client.Client, run client.WorkflowRun, id string) (res contract.LoadStatus, err error) {
	done := make(chan error, 1)
	go func() { done <- run.Get(ctx, &res) }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if ctx.Err() != nil {
				return res, fmt.Errorf("interrupted; the load goes on as workflow %s", id)
			}
			return res, err
		case <-tick.C:
			if t.json || !t.terminal {
				continue
			}
			r, err := c.QueryWorkflow(ctx, id, "", contract.StatusQuery)
			if err != nil {
				continue
			}
			var l contract.LoadStatus
			if r.Get(&l) == nil {
				v := &view.View{Loads: []contract.LoadStatus{l}, At: time.Now()}
				var b bytes.Buffer
				b.WriteString("\x1b[H\x1b[2J")
				v.DrawLoads(&b, t.style())
				_, _ = t.out.Write(b.Bytes())
			}
		}
	}
}

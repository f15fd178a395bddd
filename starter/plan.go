package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/pipeline"
	"syncline/starter/view"
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
			var r contract.Report
			run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
				ID: "plan/" + spec.Name + "/" + nonce(), TaskQueue: t.controlQueue(), StaticSummary: summary(spec) + " (plan)",
				WorkflowExecutionTimeout: wait, // nobody reads a plan that comes later
			}, contract.PlanWorkflow, in)
			if err == nil {
				err = run.Get(ctx, &r)
			}
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

// reportWriter writes a plan for a person.
type reportWriter struct {
	t    *tool
	s    view.Style
	bad  int
	lost int // columns
}

func (w *reportWriter) printf(format string, args ...any) { fmt.Fprintf(w.t.out, format, args...) }

func (w *reportWriter) mark(ok bool) string {
	switch {
	case ok && w.s.Color:
		return w.s.Paint("32", "✓")
	case ok:
		return "ok  "
	case w.s.Color:
		w.bad++
		return w.s.Paint("31", "✗")
	}
	w.bad++
	return "FAIL"
}

func (w *reportWriter) check(c contract.Check) {
	w.printf("  %s %s: %s\n", w.mark(c.OK), c.Name, c.Detail)
	if !c.OK && c.Fix != "" {
		w.printf("       fix: %s\n", c.Fix)
	}
}

func (t *tool) drawReport(file string, spec *pipeline.Spec, r *contract.Report) {
	w := &reportWriter{t: t, s: t.style()}
	version, _, _ := strings.Cut(r.Source.Version, " on ")
	w.section("source", version)
	for _, c := range r.Source.Checks {
		w.check(c)
	}
	w.section("kafka", strings.Join(spec.Kafka.Brokers, ", "))
	w.check(r.Kafka)
	for _, sk := range r.Sinks {
		w.section("sink "+sk.Sink, sk.Type)
		for _, c := range sk.Checks {
			w.check(c)
		}
	}
	w.section("tables", fmt.Sprint(len(r.Tables)))
	for _, tb := range r.Tables {
		w.table(&tb)
	}
	for _, g := range r.Unused {
		w.printf("  note: %q selects no table\n", g)
	}
	w.printf("\n")
	refused := false
	for _, c := range r.Changes {
		refused = refused || c.Effect == pipeline.Refused
	}
	switch {
	case !r.Running && r.OK:
		w.printf("apply would start pipeline %s with %s to %s: starter apply %s\n", spec.Name, view.Plural(len(r.Tables), "table"), view.Plural(len(r.Sinks), "sink"), file)
	case !r.Running:
		w.printf("pipeline %s cannot start: %s to repair first, see above\n", spec.Name, view.Plural(max(w.bad, 1), "thing"))
	case len(r.Changes) == 0:
		w.printf("pipeline %s runs as declared; apply would change nothing\n", spec.Name)
	default:
		w.printf("apply would change pipeline %s:\n", spec.Name)
		for _, c := range r.Changes {
			w.printf("  %s\n", c)
		}
		if refused {
			w.printf("what is marked refused cannot be changed while the pipeline runs (fix: take it back, or starter destroy %s and apply again)\n", spec.Name)
		}
	}
	if w.lost > 0 {
		w.printf("%s would lose something on the way: see LOSSY above\n", view.Plural(w.lost, "column"))
	}
}

func (w *reportWriter) section(name, detail string) {
	if detail != "" {
		detail = w.s.Paint("2", " ("+detail+")")
	}
	w.printf("%s%s\n", w.s.Paint("1", name), detail)
}

func (w *reportWriter) table(tb *contract.TableReport) {
	key := "no key"
	if len(tb.Key) > 0 {
		key = "key (" + strings.Join(tb.Key, ", ") + ")"
	}
	w.printf("  %s %s: ~%s rows, %s, %s, replica identity %s\n", w.mark(len(tb.Problems) == 0), tb.Table,
		view.Count(float64(tb.Rows)), view.Bytes(tb.Bytes), key, tb.Identity)
	for _, p := range tb.Problems {
		w.printf("       %s\n", p)
	}
	names := make([]string, 0, len(tb.Sinks))
	for n := range tb.Sinks {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		c := tb.Sinks[n]
		what := "will be created"
		if c.Exists {
			what = "exists"
			if c.Rows {
				what += ", with rows"
			}
		}
		if c.Problem != "" {
			what = c.Problem
		}
		w.printf("    %s: %s\n", n, what)
		var mapped []string
		for _, col := range c.Columns {
			switch {
			case col.Lossy != "":
				w.lost++
				w.printf("      %s %s %s → %s: %s\n", w.s.Paint("33", "LOSSY"), col.Column, col.Source, col.Sink, col.Lossy)
			case col.Source != col.Sink:
				mapped = append(mapped, fmt.Sprintf("%s %s → %s", col.Column, col.Source, col.Sink))
			}
		}
		w.list("      ", mapped)
		for _, note := range c.Notes {
			w.printf("      note: %s\n", note)
		}
	}
}

// list writes items one after the other, in lines of the terminal's width.
func (w *reportWriter) list(indent string, items []string) {
	width := w.s.Width
	if width == 0 {
		width = 100
	}
	line := ""
	for _, it := range items {
		if line != "" && len(indent)+len(line)+len(it)+2 > width {
			w.printf("%s%s,\n", indent, line)
			line = ""
		}
		if line != "" {
			line += ", "
		}
		line += it
	}
	if line != "" {
		w.printf("%s%s\n", indent, line)
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/analytics/report"
	"syncline/pipeline"
	"syncline/starter/page"
	"syncline/starter/view"
)

func (t *tool) reportCommand() *cobra.Command {
	since, until, file := "24h", "", ""
	wait := 2 * time.Minute
	cmd := &cobra.Command{
		Use:   "report NAME",
		Short: "say how well a pipeline does, in ten indicators and its objectives",
		Long: `report lets a worker compute, from what the workers recorded in analytics, ten
indicators of a pipeline, how well it keeps its objectives and what is left of
their error budgets. It says how complete the counts are; what nobody measured is
named, and never shown as a number. With --html it also writes a page that needs
no network. The pipeline may have ended.`,
		Args: args(1, 1, "one pipeline name"),
		RunE: func(cmd *cobra.Command, a []string) error {
			in, err := period(a[0], since, until, time.Now())
			if err != nil {
				return err
			}
			var out *draft
			if file != "" { // a file that cannot be written should not cost the wait
				if out, err = newDraft(file); err != nil {
					return err
				}
				defer out.drop()
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			r, err := t.measure(ctx, in, wait)
			if err != nil {
				return err
			}
			if out != nil {
				if err := out.keep(func(w io.Writer) error { return page.Write(w, r) }); err != nil {
					return err
				}
			}
			return t.print(r, func() {
				view.DrawReport(t.out, t.style(), r)
				if file != "" {
					fmt.Fprintf(t.out, "the page is in %s\n", file)
				}
			})
		},
	}
	cmd.Flags().StringVar(&since, "since", since, "where the report begins: `TIME` such as 2026-01-31, 2026-01-31T08:00:00Z, or so long ago, such as 24h or 30d")
	cmd.Flags().StringVar(&until, "until", until, "where it ends: `TIME` as with --since (default now)")
	cmd.Flags().StringVar(&file, "html", file, "also write a page to `FILE`")
	timeoutFlag(cmd, &wait, "the report")
	return cmd
}

// period reads the time of a report.
func period(name, since, until string, now time.Time) (in contract.ReportInput, err error) {
	in.Pipeline = name
	if in.Since, err = moment("--since", since, now); err != nil {
		return in, err
	}
	end := now
	if until != "" {
		if end, err = moment("--until", until, now); err != nil {
			return in, err
		}
	}
	in.Until = end
	if in.Since.After(now) {
		return in, invalid("--since %s is in the future (fix: name a time that has passed, or so long ago, such as 24h)", since)
	}
	if !in.Since.Before(end) {
		return in, invalid("--since %s is not before --until %s (fix: exchange them, or leave --until out for now)", since, until)
	}
	return in, nil
}

// moment reads a time, or how long ago it was.
func moment(flag, text string, now time.Time) (time.Time, error) {
	if d, err := pipeline.ParseDuration(text); err == nil {
		return now.Add(-d.Std()), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return now, invalid("%s is %q, which is no time (fix: a UTC time such as 2026-01-31 or 2026-01-31T08:00, one with a zone such as 2026-01-31T08:00:00+01:00, or so long ago, such as 90m, 24h or 30d)", flag, text)
}

// measure asks a worker of the pipeline's queue.
func (t *tool) measure(ctx context.Context, in contract.ReportInput, wait time.Duration) (*report.Report, error) {
	c, err := t.dial(ctx)
	if err != nil {
		return nil, err
	}
	d, err := c.DescribeWorkflowExecution(ctx, contract.PipelineID(in.Pipeline), "")
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return nil, t.unknown(ctx, c, in.Pipeline)
	}
	if err != nil {
		return nil, err
	}
	queue := d.WorkflowExecutionInfo.TaskQueue
	if err := t.worker(ctx, c, queue); err != nil {
		return nil, err
	}
	st, err := t.pipelineOf(ctx, c, in.Pipeline)
	if err != nil {
		return nil, err
	}
	in.Objectives = st.Spec.Objectives
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: "report/" + in.Pipeline + "/" + nonce(), TaskQueue: queue, StaticSummary: "report on " + in.Pipeline,
		WorkflowExecutionTimeout: wait, // nobody reads a report that comes later
	}, contract.ReportWorkflow, in)
	if err != nil {
		return nil, err
	}
	var r report.Report
	if err := run.Get(ctx, &r); err != nil {
		return nil, err
	}
	return &r, nil
}

// draft is a file that appears under its name only when it is complete.
type draft struct {
	path string
	f    *os.File
}

func newDraft(path string) (*draft, error) {
	if at, err := os.Stat(path); err == nil && at.IsDir() {
		return nil, invalid("--html %s is a folder (fix: name a file in it)", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return nil, invalid("--html %s cannot be written: %w (fix: name a file in a folder that exists and that you may write to)", path, err)
	}
	return &draft{path, f}, nil
}

func (d *draft) keep(write func(io.Writer) error) error {
	err := write(d.f)
	if err == nil {
		err = d.f.Chmod(0o644)
	}
	if err = errors.Join(err, d.f.Close()); err == nil {
		err = os.Rename(d.f.Name(), d.path)
	}
	if err != nil {
		return failed("the page cannot be written to %s: %w (fix: see that there is room)", d.path, err)
	}
	return nil
}

// drop removes what was not kept.
func (d *draft) drop() {
	_ = d.f.Close()           // closed already, if it was kept
	_ = os.Remove(d.f.Name()) // gone already, if it was kept
}

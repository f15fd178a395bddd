package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/pipeline"
	"syncline/starter/view"
	"syncline/tiers/cost"
	"syncline/tiers/simulate"
)

// asked is what the commands that read the log are told.
type asked struct {
	with         []string
	since, until string
	sample       string
	most         string
	wait         time.Duration
}

func (q *asked) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&q.with, "with", nil, "also `FILE`, a declaration that differs from the pipeline's in tiers and classify only; may be repeated")
	f.StringVar(&q.since, "since", "24h", "from when on: `TIME` such as 2026-01-31, 2026-01-31T08:00:00Z, or so long ago, such as 24h or 7d")
	f.StringVar(&q.until, "until", "", "until when: `TIME` as with --since (default now)")
	f.StringVar(&q.sample, "sample", "", "look at one of so many keys only, `1/N`; of more than a million changes a sample is taken in any case")
	f.StringVar(&q.most, "max-bytes", "", "read at most so many bytes of the log, such as 2GiB: of a longer time its beginning")
	timeoutFlag(cmd, &q.wait, "the answer")
}

func (t *tool) adviseCommand() *cobra.Command {
	q := asked{wait: time.Hour}
	within := 15 * time.Minute
	all, file := false, ""
	cmd := &cobra.Command{
		Use:   "advise NAME",
		Short: "say what other classifications would have written, and what would have been late",
		Long: `advise lets a worker read the pipeline's log of the last day, and simulates on these
changes, as delivery does it, the classification that the pipeline has, those given by
--with, and candidates of its own: all of a table, or its updates of the columns that most
updates change alone, in a tier of 1m, 5m, 15m, 1h or 6h. For each it says what would have
been written to the sinks and how long changes would have waited, and which classification
writes least with waits of at most --within.

What may be late it cannot know: that is yours to say. Nothing is changed, and rows stay in
the worker. A streamed change counts as one row; a lane that has much to do merges some, so
savings are at most what is shown.`,
		Args: args(1, 1, "one pipeline name"),
		RunE: func(cmd *cobra.Command, a []string) error {
			in, err := q.read(a[0], time.Now())
			if err != nil {
				return err
			}
			var prices *cost.Table
			if file != "" { // before anybody is asked
				text, err := t.readPrices(file)
				if err != nil {
					return err
				}
				if prices, err = pipeline.ParsePrices(called(file), []byte(text)); err != nil {
					return err
				}
			}
			r, spec, err := t.advise(cmd.Context(), in, &q)
			if err != nil {
				return err
			}
			var priced *view.Priced
			if prices != nil {
				priced = view.Price(r, spec, prices)
			}
			advice := view.NewAdvice(r, within, priced)
			return t.print(advice, func() { view.DrawAdvice(t.out, t.style(), advice, all) })
		},
	}
	q.flags(cmd)
	cmd.Flags().Var(span{&within, 10 * time.Second}, "within", "how long readers can wait")
	cmd.Flags().StringVar(&file, "prices", "", "compare by cost, with the price table in `FILE`")
	cmd.Flags().BoolVar(&all, "all", false, "also show classifications that others dominate")
	return cmd
}

// read checks what can be told without asking anybody.
func (q *asked) read(name string, now time.Time) (in contract.AdviseInput, err error) {
	p, err := period(name, q.since, q.until, now)
	if err != nil {
		return in, err
	}
	in = contract.AdviseInput{Pipeline: name, Since: p.Since}
	if q.until != "" {
		in.Until = p.Until
	}
	if len(q.with) >= simulate.MaxGiven {
		return in, invalid("--with is given %d times (fix: at most %d at once)", len(q.with), simulate.MaxGiven-1)
	}
	if q.sample != "" {
		of, found := strings.CutPrefix(q.sample, "1/")
		if in.One, err = strconv.ParseUint(of, 10, 32); !found || err != nil || in.One == 0 {
			return in, invalid("--sample is %q (fix: write it like 1/10, for one of ten keys)", q.sample)
		}
	}
	if q.most != "" {
		size, err := pipeline.ParseSize(q.most)
		if err != nil || size <= 0 {
			return in, invalid("--max-bytes is %q, which is no size (fix: a size such as 500MiB or 2GiB)", q.most)
		}
		in.MaxBytes = int64(size)
	}
	return in, nil
}

// advise runs the workflow.
func (t *tool) advise(ctx context.Context, in contract.AdviseInput, q *asked) (*contract.AdviseResult, *pipeline.Spec, error) {
	ctx, cancel := context.WithTimeout(ctx, q.wait)
	defer cancel()
	var others []*pipeline.Spec // before anybody is asked
	for _, file := range q.with {
		s, err := t.read(file)
		if err != nil {
			return nil, nil, err
		}
		others = append(others, s)
	}
	c, err := t.find(ctx, in.Pipeline)
	if err != nil {
		return nil, nil, err
	}
	st, err := t.pipelineOf(ctx, c, in.Pipeline)
	if err != nil {
		return nil, nil, err
	}
	for i, s := range others {
		d, err := classification(called(q.with[i]), &st.Spec, s)
		if err != nil {
			return nil, nil, err
		}
		if slices.ContainsFunc(in.With, func(o contract.Declared) bool { return o.Name == d.Name }) {
			d.Name = called(q.with[i]) // two files of the same name
		}
		in.With = append(in.With, *d)
	}
	queue, err := view.Queue(ctx, c, in.Pipeline)
	if err != nil {
		return nil, nil, err
	}
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: "advise/" + in.Pipeline + "/" + nonce(), TaskQueue: queue, StaticSummary: "advice on the tiers of " + in.Pipeline,
		WorkflowExecutionTimeout: q.wait, // nobody reads what comes later
	}, contract.AdviseWorkflow, in)
	if err != nil {
		return nil, nil, err
	}
	var r contract.AdviseResult
	if err := run.Get(ctx, &r); err != nil {
		return nil, nil, err
	}
	return &r, &st.Spec, nil
}

// classification takes what a declaration says of tiers, if that is all by which it
// differs from the pipeline's own.
func classification(file string, running, other *pipeline.Spec) (*contract.Declared, error) {
	if running.Name != other.Name {
		return nil, invalid("%s is a declaration of pipeline %s, not of %s (fix: --with takes the declaration of the pipeline with other tiers and classify)", file, other.Name, running.Name)
	}
	var fields []string
	for _, d := range pipeline.Diff(running, other) {
		if !strings.HasPrefix(d.Path, "tiers") && !strings.HasPrefix(d.Path, "classify") && !slices.Contains(fields, d.Path) {
			fields = append(fields, d.Path)
		}
	}
	if len(fields) > 0 {
		return nil, invalid("%s differs from the pipeline in more than tiers and classify: %s (fix: take these as they run; starter plan shows the differences)", file, few(fields))
	}
	return &contract.Declared{Name: fmt.Sprintf("--with %s", filepath.Base(file)), Tiers: other.Tiers, Classify: other.Classify}, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/analytics/bill"
	"syncline/pipeline"
	"syncline/starter/view"
)

func (t *tool) costCommand() *cobra.Command {
	since, until := "30d", ""
	by := []string{bill.ByTier, bill.ByTable}
	wait := 2 * time.Minute
	cmd := &cobra.Command{
		Use:   "cost [NAME]",
		Short: "say what pipelines cost, by table, tier and route, and what the month will come to",
		Long: `cost lets a worker add up what a pipeline, or all of them, were charged: by prices that
cost prices apply keeps, for bytes that were moved from region to region and that are kept.
It compares with as much time before, names what no price is for, which is in no sum, and
foresees what the month will come to.`,
		Args: args(0, 1, "at most one pipeline name"),
		RunE: func(cmd *cobra.Command, a []string) error {
			in := contract.CostInput{By: by}
			if len(a) > 0 {
				in.Pipeline = a[0]
			}
			if err := grouping(by); err != nil {
				return err
			}
			p, err := period(in.Pipeline, since, until, time.Now())
			if err != nil {
				return err
			}
			in.Since, in.Until = p.Since, p.Until
			var r bill.Report
			if err := t.ask(cmd.Context(), wait, contract.CostWorkflow, "what was charged", in, &r); err != nil {
				return err
			}
			if in.Pipeline != "" && len(r.Groups) == 0 { // nothing was charged, or the name is wrong
				var missing *serviceerror.NotFound
				if _, err := t.client.DescribeWorkflowExecution(cmd.Context(), contract.PipelineID(in.Pipeline), ""); errors.As(err, &missing) {
					return t.unknown(cmd.Context(), t.client, in.Pipeline)
				}
			}
			return t.print(r, func() { view.DrawCost(t.out, t.style(), &r) })
		},
	}
	cmd.Flags().StringSliceVar(&by, "by", by, "what to tell costs by, one to three of "+strings.Join(bill.Ways(), ", "))
	cmd.Flags().StringVar(&since, "since", since, "where the report begins: `TIME` such as 2026-01-31, 2026-01-31T08:00:00Z, or so long ago, such as 24h or 30d")
	cmd.Flags().StringVar(&until, "until", until, "where it ends: `TIME` as with --since (default now)")
	timeoutFlag(cmd, &wait, "the report")
	cmd.AddCommand(t.pricesCommand(), t.repriceCommand())
	return cmd
}

func grouping(by []string) error {
	if len(by) == 0 || len(by) > 3 {
		return invalid("--by names %d things (fix: name one to three of %s)", len(by), strings.Join(bill.Ways(), ", "))
	}
	for i, k := range by {
		if !slices.Contains(bill.Ways(), k) {
			return invalid("--by has %q%s (fix: name one to three of %s)", k, maybe(pipeline.Nearest(k, bill.Ways())), strings.Join(bill.Ways(), ", "))
		}
		if slices.Contains(by[:i], k) {
			return invalid("--by has %q twice (fix: name it once)", k)
		}
	}
	return nil
}

// ask lets a worker answer by a workflow.
func (t *tool) ask(ctx context.Context, wait time.Duration, workflow, what string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	c, err := t.dial(ctx)
	if err == nil {
		err = t.worker(ctx, c, t.controlQueue())
	}
	if err != nil {
		return err
	}
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: strings.ToLower(workflow) + "/" + nonce(), TaskQueue: t.controlQueue(), StaticSummary: what,
		WorkflowExecutionTimeout: wait, // nobody reads an answer that comes later
	}, workflow, in)
	if err != nil {
		return err
	}
	return run.Get(ctx, out)
}

func (t *tool) pricesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prices apply|show …",
		Short: "the price table: apply another one, or show the one that counts",
		Args: func(_ *cobra.Command, a []string) error {
			const fix = "(fix: starter cost prices apply FILE, or starter cost prices show)"
			if len(a) == 0 {
				return invalid("cost prices takes a command %s", fix)
			}
			return invalid("%q is not a command of cost prices %s", a[0], fix)
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	cmd.AddCommand(t.applyPricesCommand(), t.showPricesCommand())
	return cmd
}

// readPrices reads a price table; "-" is standard input.
func (t *tool) readPrices(file string) (string, error) {
	data, err := t.text("price table", file)
	if err != nil {
		return "", err
	}
	if _, err = pipeline.ParsePrices(called(file), data); err != nil {
		return "", &mistaken{err, "price table"}
	}
	return string(data), nil
}

// mistaken are mistakes that are not in a pipeline's declaration but in something else.
type mistaken struct {
	error
	in string
}

func (e *mistaken) Unwrap() error { return e.error }

func (t *tool) applyPricesCommand() *cobra.Command {
	in := contract.PricesInput{}
	wait := time.Minute
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "make a price table the one that counts",
		Long: `prices apply makes a price table, a YAML file such as examples/prices.yaml, the one by
which hours are priced from now on, by a Schedule of Temporal that it makes. Prices have
dates, so that one table has those of the past and of the future. What was priced before
stays: cost reprice prices it anew. Tables that were applied are kept.`,
		Args: args(1, 1, "one price table"),
		RunE: func(cmd *cobra.Command, a []string) (err error) {
			if in.Text, err = t.readPrices(a[0]); err != nil {
				return err
			}
			var out contract.PricesResult
			if err := t.ask(cmd.Context(), wait, contract.PricesWorkflow, "apply a price table", in, &out); err != nil {
				return err
			}
			return t.print(out, func() {
				now := out.Applied[0]
				if !out.Changed {
					fmt.Fprintf(t.out, "prices %s count already, since %s\n", now.Version, now.At.UTC().Format("2006-01-02 15:04"))
					return
				}
				fmt.Fprintf(t.out, "prices %s count from now on; hours are priced every hour\nwhat was priced before: starter cost reprice --from TIME --dry-run\n", now.Version)
			})
		},
	}
	cmd.Flags().StringVar(&in.Who, "who", whoami(), "who applies it")
	cmd.Flags().StringVar(&in.Why, "why", "", "why")
	cmd.Flags().Lookup("who").DefValue = "you, at this machine"
	timeoutFlag(cmd, &wait, "the answer")
	return cmd
}

func (t *tool) showPricesCommand() *cobra.Command {
	wait := time.Minute
	cmd := &cobra.Command{
		Use:   "show",
		Short: "show the price table that counts, and when others were applied",
		Args:  args(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out contract.PricesResult
			if err := t.ask(cmd.Context(), wait, contract.PricesWorkflow, "show the price table", contract.PricesInput{}, &out); err != nil {
				return err
			}
			if len(out.Applied) == 0 {
				return failed("no price table was applied (fix: starter cost prices apply FILE; examples/prices.yaml is one)")
			}
			return t.print(out, func() {
				for i, p := range out.Applied {
					why := ""
					if p.Why != "" {
						why = ": " + p.Why
					}
					fmt.Fprintf(t.out, "# %s in %s, applied %s by %s%s\n", p.Version, p.Currency, p.At.UTC().Format("2006-01-02 15:04:05Z"), p.Who, why)
					if i == 0 && len(out.Applied) > 1 {
						fmt.Fprintln(t.out, "# before it:")
					}
				}
				fmt.Fprintln(t.out, strings.TrimRight(out.Applied[0].Text, "\n"))
			})
		},
	}
	timeoutFlag(cmd, &wait, "the answer")
	return cmd
}

func (t *tool) repriceCommand() *cobra.Command {
	var in contract.PriceInput
	from, until, prices := "", "", ""
	wait := time.Hour
	cmd := &cobra.Command{
		Use:   "reprice --from TIME",
		Short: "price hours of the past anew, and say what changes",
		Long: `cost reprice prices what was used in hours of the past by the price table that counts now,
and says which pipelines cost another sum than before. With --dry-run it says only what
would change; --prices then takes the prices from a file that was not applied.`,
		Args: args(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if from == "" {
				return invalid("reprice needs a beginning (fix: add --from TIME, such as 2026-01-31 or 30d)")
			}
			if prices != "" && !in.Dry {
				return invalid("--prices is for --dry-run: the ledger has the charges of a table that was applied (fix: starter cost prices apply %s, then reprice without --prices)", prices)
			}
			now := time.Now()
			if in.From, err = moment("--from", from, now); err != nil {
				return err
			}
			in.Until = now
			if until != "" {
				if in.Until, err = moment("--until", until, now); err != nil {
					return err
				}
			}
			if !in.From.Before(in.Until) {
				return invalid("--from %s is not before --until %s (fix: exchange them, or leave --until out for now)", from, until)
			}
			if prices != "" {
				if in.Text, err = t.readPrices(prices); err != nil {
					return err
				}
			}
			var r bill.Pricing
			if err := t.ask(cmd.Context(), wait, contract.PriceWorkflow, "price hours anew", in, &r); err != nil {
				return err
			}
			return t.print(r, func() { view.DrawPricing(t.out, t.style(), &r) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&from, "from", "", "the first hour: `TIME` such as 2026-01-31, 2026-01-31T08:00:00Z, or so long ago, such as 30d")
	f.StringVar(&until, "until", "", "where it ends: `TIME` as with --from (default now)")
	f.StringVar(&prices, "prices", "", "with --dry-run: by the price table in `FILE`")
	f.BoolVar(&in.Dry, "dry-run", false, "change nothing")
	f.StringVar(&in.Who, "who", whoami(), "who asks for it")
	f.Lookup("who").DefValue = "you, at this machine"
	timeoutFlag(cmd, &wait, "the end")
	return cmd
}

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
	"syncline/dataplane/change"
	"syncline/starter/view"
)

func (t *tool) syncCommand() *cobra.Command {
	var in contract.BatchSyncInput
	var since, until string
	var tables []string
	cmd := &cobra.Command{
		Use:   "sync FILE --column COLUMN --since TIME --until TIME",
		Short: "bring rows that changed between two times to the sinks, once",
		Long: `sync reads from the source the rows whose time column is at or after --since and before
--until, as of one moment, and writes them over what the sinks have: without slot, topics or
stream. Rows of equal keys are replaced, so a range may be brought again, and ranges may
overlap. What failed halfway is completed by the next attempt. Rows that were deleted, and
those whose column is NULL, it does not see. Times are as with report: a time, or so long ago.

A table that a pipeline of the declaration's name keeps current is refused. Interrupting the
command leaves the sync running.`,
		Args: args(1, 1, "one declaration"),
		RunE: func(cmd *cobra.Command, a []string) error {
			spec, err := t.read(a[0])
			if err != nil {
				return err
			}
			now := time.Now()
			switch {
			case in.Column == "":
				return invalid("sync does not say by which column (fix: --column names that which says when a row was changed last)")
			case since == "":
				return invalid("sync does not say since when (fix: --since TIME, such as 2026-01-31 or 24h)")
			}
			if in.Since, err = moment("--since", since, now); err != nil {
				return err
			}
			if in.Until = now; until != "" {
				if in.Until, err = moment("--until", until, now); err != nil {
					return err
				}
			}
			if !in.Since.Before(in.Until) {
				return invalid("--since %s is not before --until %s (fix: exchange them, or leave --until out for now)", since, until)
			}
			for _, n := range in.Sinks {
				if spec.Sink(n) == nil {
					return invalid("%s declares no sink %q (fix: name one of its sinks with --sink)", a[0], n)
				}
			}
			for _, name := range tables {
				id, err := change.ParseTableID(name)
				if err != nil {
					return invalid("--table: %w (fix: name a table as schema.name, with double quotes around parts that hold a dot)", err)
				}
				in.Tables = append(in.Tables, id)
			}
			in.Spec = *spec
			c, err := t.dial(cmd.Context())
			if err == nil {
				err = t.worker(cmd.Context(), c, t.controlQueue())
			}
			if err != nil {
				return err
			}
			id := contract.BatchSyncID(spec.Name, nonce())
			run, err := c.ExecuteWorkflow(cmd.Context(), client.StartWorkflowOptions{
				ID: id, TaskQueue: t.controlQueue(), StaticSummary: fmt.Sprintf("%s: rows from %s to %s", spec.Name, in.Since.UTC().Format(time.RFC3339), in.Until.UTC().Format(time.RFC3339)),
				TypedSearchAttributes: temporal.NewSearchAttributes(temporal.NewSearchAttributeKeyKeyword(contract.PipelineAttribute).ValueSet(spec.Name)),
			}, contract.BatchSyncWorkflow, in)
			if err != nil {
				return err
			}
			load := contract.BatchSyncLoadID(spec.Name, run.GetRunID())
			var res contract.BatchSyncResult
			err = t.await(cmd.Context(), run, &res, func(look context.Context, b *bytes.Buffer) error {
				var l contract.LoadStatus
				r, err := c.QueryWorkflow(look, load, "", contract.StatusQuery)
				var early *serviceerror.NotFound
				if errors.As(err, &early) {
					return nil
				}
				if err == nil {
					err = r.Get(&l)
				}
				if err == nil {
					(&view.View{Loads: []contract.LoadStatus{l}, At: time.Now(), Copying: view.Chunks(look, c, load)}).DrawLoads(b, t.style())
				}
				return err
			})
			if cmd.Context().Err() != nil {
				return failed("interrupted; the sync goes on as workflow %s", id)
			}
			if err != nil {
				return err
			}
			return t.print(res, func() {
				for _, l := range res.Tables {
					fmt.Fprintf(t.out, "%s → %s: %d rows, %s\n", l.Table, l.Sink, l.Rows, view.Bytes(l.Bytes))
				}
				fmt.Fprintf(t.out, "%d rows with %s from %s until %s, in %.1f s\n", res.Rows, res.Column, res.Since.UTC().Format(time.RFC3339), res.Until.UTC().Format(time.RFC3339), res.Seconds)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&in.Column, "column", "", "the `COLUMN` of each table that says when a row was changed last")
	f.StringVar(&since, "since", "", "rows from this `TIME` on: a time, or so long ago, such as 24h")
	f.StringVar(&until, "until", "", "and before this `TIME` (default now)")
	f.StringSliceVar(&tables, "table", nil, "only these tables, `schema.name`")
	f.StringSliceVar(&in.Sinks, "sink", nil, "only into these sinks")
	return cmd
}

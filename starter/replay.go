package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/verify"
	"syncline/starter/view"
)

func (t *tool) replayCommand() *cobra.Command {
	var in contract.ReplayInput
	var table string
	var detach bool
	wait := time.Hour
	cmd := &cobra.Command{
		Use:   "replay NAME --table TABLE --sink SINK --to NEWTABLE",
		Short: "rebuild a table at a sink from the log alone, into a new table",
		Long: `replay makes a new table beside the live one at a sink and delivers to it what the
log holds of the table, as it was delivered live: in order, with every TRUNCATE and
every added column. The pipeline goes on meanwhile. With --since and --until it takes a
part of the log: positions (epoch:LSN:ordinal, as the sinks' ledgers have them) or times of
the source's clock, which the log's index knows to the minute.

Rows that only the table's load brought are not in the log, so not in the new table; a
change that needs a value of such a row is set aside and counted. If the replay fails,
the new table is dropped, unless --keep. Interrupting the command leaves it running.

Without --since and --until the new table is then compared with the live one, in the
sink. The exit code is 0 if they are equal but for rows of the load, 4 if they differ,
and 5 if it could not be told, mostly because the live table was written to meanwhile.`,
		Args: args(1, 1, "one pipeline name"),
		RunE: func(cmd *cobra.Command, a []string) error {
			in.Pipeline = a[0]
			if err := readReplay(&in, table); err != nil {
				return err
			}
			c, _, err := t.audited(cmd.Context(), &contract.AuditInput{Pipeline: in.Pipeline, Tables: []change.TableID{in.Table}, Sinks: []string{in.Sink}})
			if err != nil {
				return err
			}
			queue, err := view.Queue(cmd.Context(), c, in.Pipeline)
			if err != nil {
				return err
			}
			id := "replay/" + in.Pipeline + "/" + nonce()
			summary := fmt.Sprintf("replay of %s into %s at %s", in.Table, in.To, in.Sink)
			run, err := c.ExecuteWorkflow(cmd.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: queue, StaticSummary: summary}, contract.ReplayWorkflow, in)
			if err != nil {
				return err
			}
			if detach {
				return t.print(map[string]string{"workflow": id}, func() {
					fmt.Fprintf(t.out, "%s runs as workflow %s; its result: temporal workflow result --workflow-id %s\n", summary, id, id)
				})
			}
			res, err := t.followReplay(cmd.Context(), run, id, wait)
			if err != nil {
				return err
			}
			err = t.print(res, func() {
				fmt.Fprintf(t.out, "%s at %s: %s of %s in %s, up to %s\n", res.To, res.Sink, view.Plural(int(res.Changes), "change"), res.Table,
					time.Duration(res.Took*float64(time.Second)).Round(100*time.Millisecond), res.Until)
				if res.Dead > 0 {
					fmt.Fprintf(t.out, "%s set aside: mostly those that need a value which only a row from before has\n", view.Plural(int(res.Dead), "change"))
				}
				if c := res.Compared; c != nil {
					drawCompared(t.out, c)
				}
			})
			switch c := res.Compared; {
			case err != nil || c == nil:
				return err
			case c.Verdict == verify.Different:
				return &exitError{exitDifferent, errSilent}
			case c.Verdict == verify.Inconclusive:
				return &exitError{exitInconclusive, errSilent}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&table, "table", "", "the table, `schema.name` as at the source")
	f.StringVar(&in.Sink, "sink", "", "the sink")
	f.StringVar(&in.To, "to", "", "name of the new table, in the schema of the live one")
	f.StringVar(&in.Since, "since", "", "a position or an RFC 3339 time: only changes after it (default: the log's beginning)")
	f.StringVar(&in.Until, "until", "", "a position or an RFC 3339 time: only changes up to it (default: what the sink has now)")
	f.BoolVar(&in.Keep, "keep", false, "keep the new table if the replay fails")
	f.BoolVar(&in.NoVerify, "no-verify", false, "do not compare the new table with the live one")
	f.BoolVar(&detach, "detach", false, "do not wait for the result")
	timeoutFlag(cmd, &wait, "the result; the replay goes on after it")
	return cmd
}

func drawCompared(w io.Writer, c *contract.Compared) {
	fmt.Fprintf(w, "%s: %s alike, %d different, %d only in the live table, %d only in the new one\n",
		c.Verdict, view.Plural(int(c.Both), "row"), c.Different, c.OnlyLive, c.OnlyReplayed)
	if c.Deleted > 0 {
		fmt.Fprintf(w, "%s of those only in the live table are deleted by what the log says\n", view.Plural(int(c.Deleted), "row"))
	}
	if c.OnlyLive > c.Deleted && c.Loaded > 0 {
		fmt.Fprintf(w, "the live table's load brought %s, which the log never held\n", view.Plural(int(c.Loaded), "row"))
	}
	if c.Reason != "" {
		fmt.Fprintln(w, c.Reason)
	}
}

// readReplay checks what can be told without asking anybody.
func readReplay(in *contract.ReplayInput, table string) (err error) {
	switch {
	case table == "":
		return invalid("replay of which table? (fix: --table schema.name)")
	case in.Sink == "":
		return invalid("replay at which sink? (fix: --sink NAME)")
	case in.To == "":
		return invalid("a replay into the live table is not possible (fix: --to NEWTABLE names a table that is not there yet)")
	}
	if in.Table, err = change.ParseTableID(table); err != nil {
		return invalid("--table: %w (fix: name a table as schema.name, with double quotes around parts that hold a dot)", err)
	}
	if _, _, err := contract.ParsePlace(in.Since); err != nil {
		return invalid("--since: %w (fix: write it like 1:16/B374D848:4 or 2026-01-02T03:04:05Z)", err)
	}
	if _, _, err := contract.ParsePlace(in.Until); err != nil {
		return invalid("--until: %w (fix: write it like 1:16/B374D848:4 or 2026-01-02T03:04:05Z)", err)
	}
	return nil
}

// followReplay waits for a replay.
func (t *tool) followReplay(ctx context.Context, run client.WorkflowRun, id string, wait time.Duration) (*contract.ReplayResult, error) {
	bounded, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var res contract.ReplayResult
	err := t.await(bounded, run, &res, func(_ context.Context, b *bytes.Buffer) error {
		fmt.Fprintf(b, "workflow %s is replaying\n", id)
		return nil
	})
	if err != nil {
		return nil, unended(ctx, bounded.Err() != nil, err, "replay", "no result", id, wait)
	}
	return &res, nil
}

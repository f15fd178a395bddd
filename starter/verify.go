package main

import (
	"bytes"
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
	"syncline/dataplane/change"
	"syncline/dataplane/verify"
	"syncline/pipeline"
	"syncline/starter/view"
)

func (t *tool) verifyCommand() *cobra.Command {
	var in contract.AuditInput
	var tables []string
	var detach bool
	lag := time.Minute
	wait := time.Hour
	cmd := &cobra.Command{
		Use:   "verify NAME",
		Short: "compare the tables at the sinks with the source, while both are written to",
		Long: `verify lets workers compare every row of a pipeline's tables at its sinks with the
source, while the pipeline goes on. It waits for the verdicts: equal, different (keys
are confirmed to differ), or inconclusive (it could not be told, and why). Which keys
differ stays in the ledger of the sink; the statement that shows them is printed.
Without --table it takes the tables that stream and have a key. Interrupting the
command leaves the audit running.

With --changed it verifies only the keys of which the log has a change since a table was
last verified to its end, with or without --changed; what is wrong elsewhere it does not
see.

The exit code is 0 if all verdicts are equal, 4 if any is different, and 5 if none is
different and any is inconclusive.`,
		Args: args(1, 1, "one pipeline name"),
		RunE: func(cmd *cobra.Command, a []string) error {
			in.Pipeline = a[0]
			if in.MaxLag = lag.Seconds(); lag == 0 {
				in.MaxLag = -1
			}
			if err := readAudit(&in, tables); err != nil {
				return err
			}
			c, st, err := t.audited(cmd.Context(), &in)
			if err != nil {
				return err
			}
			queue, err := view.Queue(cmd.Context(), c, in.Pipeline)
			if err != nil {
				return err
			}
			id := "audit/" + in.Pipeline + "/" + nonce()
			run, err := c.ExecuteWorkflow(cmd.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: queue, StaticSummary: "audit of " + in.Pipeline}, contract.AuditWorkflow, in)
			if err != nil {
				return err
			}
			if detach {
				return t.print(map[string]string{"workflow": id}, func() {
					fmt.Fprintf(t.out, "audit of %s runs as workflow %s; its verdicts: temporal workflow result --workflow-id %s\n", in.Pipeline, id, id)
				})
			}
			res, err := t.followAudit(cmd.Context(), c, run, id, wait)
			if err != nil {
				return err
			}
			if err := t.print(res, func() { view.DrawAudit(t.out, t.style(), res, st.Spec.Sinks) }); err != nil {
				return err
			}
			switch {
			case res.Count(verify.Different) > 0:
				return &exitError{exitDifferent, errSilent}
			case res.Count(verify.Inconclusive) > 0:
				return &exitError{exitInconclusive, errSilent}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&tables, "table", nil, "only `schema.name`, as at the source; several times for several tables")
	f.StringSliceVar(&in.Sinks, "sink", nil, "only at these sinks")
	f.Float64Var(&in.RowsPerSecond, "rows-per-second", 0, "how many rows of a table to read at the source at most (default: as fast as it goes)")
	f.BoolVar(&in.Changed, "changed", false, "only keys that changed since a table was last verified to its end")
	f.DurationVar(&lag, "max-lag", lag, "pause while the sink is farther behind the source; 0: however far it is")
	f.IntVar(&in.MaxSessions, "max-sessions", 0, "pause while more sessions of clients are active at the source (default: however many are)")
	f.IntVar(&in.Parallel, "parallel", 1, "how many tables to verify at a time")
	f.BoolVar(&detach, "detach", false, "do not wait for the verdicts")
	timeoutFlag(cmd, &wait, "the verdicts; the audit goes on after it")
	return cmd
}

// readAudit checks what can be told without asking anybody.
func readAudit(in *contract.AuditInput, tables []string) error {
	for _, s := range tables {
		id, err := change.ParseTableID(s)
		if err != nil {
			return invalid("--table: %w (fix: name a table as schema.name, with double quotes around parts that hold a dot)", err)
		}
		if !slices.Contains(in.Tables, id) {
			in.Tables = append(in.Tables, id)
		}
	}
	if !(in.RowsPerSecond >= 0) { // nor not a number
		return invalid("--rows-per-second is %g, want 0 or more (fix: leave it out to read as fast as it goes)", in.RowsPerSecond)
	}
	if in.MaxLag < 0 && in.MaxLag != -1 {
		return invalid("--max-lag is below 0 (fix: give 0 to verify however far the sink is behind)")
	}
	if in.MaxSessions < 0 {
		return invalid("--max-sessions is %d (fix: leave it out to verify however many are active)", in.MaxSessions)
	}
	if in.Parallel < 1 || in.Parallel > contract.MaxAuditParallel {
		return invalid("--parallel is %d (fix: name a number from 1 to %d)", in.Parallel, contract.MaxAuditParallel)
	}
	return nil
}

// audited finds the pipeline, and makes sure that it has the tables and sinks.
func (t *tool) audited(ctx context.Context, in *contract.AuditInput) (client.Client, contract.PipelineStatus, error) {
	c, err := t.find(ctx, in.Pipeline)
	if err != nil {
		return nil, contract.PipelineStatus{}, err
	}
	st, err := t.pipelineOf(ctx, c, in.Pipeline)
	if err != nil {
		return nil, st, err
	}
	known := func(what, name string, names []string) error {
		if slices.Contains(names, name) {
			return nil
		}
		return failed("pipeline %s has no %s %s%s (fix: name one of %s)", in.Pipeline, what, name, maybe(pipeline.Nearest(name, names)), few(names))
	}
	var tables, sinks []string
	for i := range st.Tables {
		tables = append(tables, st.Tables[i].Table.String())
	}
	for i := range st.Spec.Sinks {
		sinks = append(sinks, st.Spec.Sinks[i].Name)
	}
	for _, id := range in.Tables {
		if err := known("table", id.String(), tables); err != nil {
			return nil, st, err
		}
	}
	for _, s := range in.Sinks {
		if err := known("sink", s, sinks); err != nil {
			return nil, st, err
		}
	}
	return c, st, nil
}

// few lists names, as long as a person reads them.
func few(names []string) string {
	const most = 10
	if n := len(names); n > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", n-most)
	}
	return strings.Join(names, ", ")
}

// followAudit waits for an audit and shows how it goes.
func (t *tool) followAudit(ctx context.Context, c client.Client, run client.WorkflowRun, id string, wait time.Duration) (*contract.AuditResult, error) {
	bounded, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var res contract.AuditResult
	err := t.await(bounded, run, &res, func(look context.Context, b *bytes.Buffer) error {
		var st contract.AuditStatus
		r, err := c.QueryWorkflow(look, id, "", contract.StatusQuery)
		if err != nil {
			return err
		}
		if err := r.Get(&st); err != nil {
			return err
		}
		view.DrawVerifying(b, t.style(), &st, view.Verifying(look, c, id), time.Now())
		return nil
	})
	if err != nil {
		return nil, unended(ctx, bounded.Err() != nil, err, "audit", "no verdict on every table", id, wait)
	}
	return &res, nil
}

// unended says why a command ends without the result of a workflow that goes on; err is
// that of await.
func unended(ctx context.Context, late bool, err error, what, lacks, id string, wait time.Duration) error {
	// Temporal may find that the time is up before this process does.
	var there *serviceerror.DeadlineExceeded
	late = late || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &there)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return failed("interrupted; the %s goes on as workflow %s", what, id)
	case late:
		return failed("%s within %s; the %s goes on as workflow %s (fix: temporal workflow result --workflow-id %s waits for it)", lacks, wait, what, id, id)
	}
	return err
}

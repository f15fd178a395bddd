package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/starter/view"
)

func (t *tool) repairCommand() *cobra.Command {
	var in contract.RepairInput
	var tables []string
	var plan, approve bool
	wait := time.Hour
	cmd := &cobra.Command{
		Use:   "repair NAME --plan | --apply PLAN | --approve",
		Short: "make rows at the sinks right that a verification found to differ",
		Long: `repair --plan changes no row. It looks again at the keys that the last verification found
to differ, leaves out those that no longer do, and says what would be done: which rows
can be made from the log alone, and which have to be read at the source. Keys and rows, as they are and as they
will be, are in the ledgers of the sinks; the statement that shows them is printed.

repair --apply PLAN --hash HASH does what that plan says, if it still says that. The keys
are quarantined: their changes are set aside, in order, while everything else goes on.
Their rows are written, verified at a position that the sink has passed, and released
with what was set aside. A repair of many keys waits for an approval, which repair
--approve --hash HASH gives. What was done is in the audit trail of each sink.

Interrupting the command leaves the repair running. temporal workflow cancel
--workflow-id repair/NAME ends it, and lets all keys go. The exit code is 4 if a key
could not be repaired.`,
		Args: args(1, 1, "one pipeline name"),
		RunE: func(cmd *cobra.Command, a []string) error {
			in.Pipeline = a[0]
			audit := contract.AuditInput{Pipeline: in.Pipeline, Sinks: in.Sinks, Parallel: 1}
			if err := readAudit(&audit, tables); err != nil {
				return err
			}
			in.Tables = audit.Tables
			if err := readRepair(&in, plan, approve); err != nil {
				return err
			}
			c, st, err := t.audited(cmd.Context(), &audit)
			if err != nil {
				return err
			}
			if approve {
				ctx, cancel := context.WithTimeout(cmd.Context(), wait)
				defer cancel()
				return t.approve(ctx, c, in)
			}
			queue, err := view.Queue(cmd.Context(), c, in.Pipeline)
			if err != nil {
				return err
			}
			// One at a time is carried out; of plans there may be several.
			o := client.StartWorkflowOptions{ID: contract.RepairID(in.Pipeline), TaskQueue: queue, StaticSummary: "repair of " + in.Pipeline, WorkflowExecutionErrorWhenAlreadyStarted: true}
			if plan {
				o.ID, o.StaticSummary = contract.RepairID(in.Pipeline)+"/"+nonce(), "plan of a repair of "+in.Pipeline
			}
			run, err := c.ExecuteWorkflow(cmd.Context(), o, contract.RepairWorkflow, in)
			var busy *serviceerror.WorkflowExecutionAlreadyStarted
			if errors.As(err, &busy) {
				return failed("a repair of pipeline %s is under way (fix: temporal workflow result --workflow-id %s waits for its end)", in.Pipeline, o.ID)
			}
			if err != nil {
				return err
			}
			res, err := t.followRepair(cmd.Context(), c, run, o.ID, wait)
			if err != nil {
				return err
			}
			if err := t.print(res, func() { view.DrawRepair(t.out, t.style(), res, st.Spec.Sinks) }); err != nil {
				return err
			}
			if res.Applied && res.Failed() > 0 {
				return &exitError{exitDifferent, errSilent}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&plan, "plan", false, "say what would be done")
	f.StringVar(&in.Plan, "apply", "", "carry out the `plan` of this name")
	f.BoolVar(&approve, "approve", false, "let the repair go on that waits for it")
	f.StringVar(&in.Hash, "hash", "", "what --plan printed with the name: nothing else is carried out or approved")
	f.StringVar(&in.Audit, "audit", "", "the verification's `run` (default: of each table the last that found something)")
	f.StringArrayVar(&tables, "table", nil, "only `schema.name`, as at the source; several times for several tables")
	f.StringSliceVar(&in.Sinks, "sink", nil, "only at these sinks")
	f.StringVar(&in.Who, "who", whoami(), "who asks for it, for the audit trail")
	f.StringVar(&in.Why, "why", "", "why, for the audit trail")
	f.IntVar(&in.MaxKeys, "max-keys", contract.DefaultRepairKeys, "how many keys need no approval")
	f.Float64Var(&in.MaxPercent, "max-percent", contract.DefaultRepairPercent, "how many percent of a table's rows need no approval")
	f.Lookup("who").DefValue = "you, at this machine"
	timeoutFlag(cmd, &wait, "the end; the repair goes on after it")
	return cmd
}

// whoami is a person at a machine, as well as can be told.
func whoami() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// readRepair checks what can be told without asking anybody.
func readRepair(in *contract.RepairInput, plan, approve bool) error {
	chosen := 0
	for _, is := range []bool{plan, in.Plan != "", approve} {
		if is {
			chosen++
		}
	}
	switch {
	case chosen != 1:
		return invalid("repair takes one of --plan, --apply PLAN and --approve (fix: begin with --plan)")
	case !plan && in.Hash == "":
		return invalid("which plan? (fix: --hash HASH, as --plan printed it)")
	case strings.TrimSpace(in.Who) == "":
		return invalid("--who is empty (fix: leave it out, or name who asks for the repair)")
	case in.MaxKeys < 1:
		return invalid("--max-keys is %d, want 1 or more", in.MaxKeys)
	case !(in.MaxPercent > 0 && in.MaxPercent <= 100):
		return invalid("--max-percent is %g, want more than 0 and no more than 100", in.MaxPercent)
	}
	return nil
}

func (t *tool) approve(ctx context.Context, c client.Client, in contract.RepairInput) error {
	h, err := c.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{WorkflowID: contract.RepairID(in.Pipeline), UpdateName: contract.ApproveUpdate,
		WaitForStage: client.WorkflowUpdateStageCompleted, Args: []any{contract.Approval{Hash: in.Hash, Who: in.Who, Why: in.Why}}})
	if err == nil {
		err = h.Get(ctx, nil)
	}
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return failed("no repair of pipeline %s is under way (fix: starter repair %s --apply PLAN begins one)", in.Pipeline, in.Pipeline)
	}
	if err != nil {
		return err
	}
	return t.print(map[string]string{"approved": in.Hash}, func() { fmt.Fprintf(t.out, "approved: the repair of %s goes on\n", in.Pipeline) })
}

// followRepair waits for a repair and shows how it goes.
func (t *tool) followRepair(ctx context.Context, c client.Client, run client.WorkflowRun, id string, wait time.Duration) (*contract.RepairResult, error) {
	bounded, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var res contract.RepairResult
	status := func(ctx context.Context) (st contract.RepairResult, err error) {
		v, err := c.QueryWorkflow(ctx, run.GetID(), run.GetRunID(), contract.StatusQuery)
		if err == nil {
			err = v.Get(&st)
		}
		return st, err
	}
	told := t.tellApproval(bounded, status)
	err := t.await(bounded, run, &res, func(ctx context.Context, b *bytes.Buffer) error {
		st, err := status(ctx)
		if err == nil {
			view.DrawRepairing(b, t.style(), &st)
		}
		return err
	})
	late := bounded.Err() != nil
	cancel()
	<-told
	if err != nil {
		return nil, unended(ctx, late, err, "repair", "no end", id, wait)
	}
	return &res, nil
}

// tellApproval says once, where nothing is drawn, that a repair waits for an approval:
// it would seem to hang. The channel is closed when nothing more will be said.
func (t *tool) tellApproval(ctx context.Context, status func(context.Context) (contract.RepairResult, error)) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		for t.json || !t.terminal {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if st, err := status(ctx); err == nil && st.Awaits != "" {
				view.DrawRepairing(t.err, t.errStyle(), &st)
				return
			}
		}
	}()
	return done
}

func (t *tool) trailCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit-trail verify NAME",
		Short: "the record of what repairs did",
		Long: `audit-trail verify makes sure that the record of what repairs did is whole. The record
itself is in the ledger of each sink: syncline.audit_trail.`,
		Args: func(c *cobra.Command, a []string) error {
			if len(a) == 0 {
				return invalid("audit-trail takes a command (fix: starter audit-trail verify NAME)")
			}
			return invalid("%q is not a command of audit-trail (fix: starter audit-trail verify NAME)", a[0])
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	wait := time.Minute
	verify := &cobra.Command{
		Use:   "verify NAME",
		Short: "make sure that nothing of the audit trails was edited, left out or cut off",
		Long: `verify lets a worker read the audit trail of each sink of the pipeline from its first
entry on. Each entry has the hash of the one before; where the trails ended is also in
the results of the repairs that Temporal still has, so a trail that was cut off is seen,
too. The exit code is 4 if a trail is broken.`,
		Args: args(1, 1, "one pipeline name"),
		RunE: func(cmd *cobra.Command, a []string) error {
			in := contract.TrailTask{Pipeline: a[0]}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			c, _, err := t.audited(ctx, &contract.AuditInput{Pipeline: in.Pipeline})
			if err != nil {
				return err
			}
			if in.Known, err = trailEnds(ctx, c, in.Pipeline); err != nil {
				return err
			}
			queue, err := view.Queue(ctx, c, in.Pipeline)
			if err != nil {
				return err
			}
			run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: "audit-trail/" + in.Pipeline + "/" + nonce(), TaskQueue: queue,
				StaticSummary: "check of the audit trails of " + in.Pipeline}, contract.CheckTrailWorkflow, in)
			if err != nil {
				return err
			}
			var res contract.TrailVerdict
			if err := run.Get(ctx, &res); err != nil {
				return err
			}
			broken := false
			for _, s := range res.Sinks {
				broken = broken || s.Broken != ""
			}
			if err := t.print(res, func() { view.DrawTrails(t.out, t.style(), &res) }); err != nil {
				return err
			}
			if broken {
				return &exitError{exitDifferent, errSilent}
			}
			return nil
		},
	}
	timeoutFlag(verify, &wait, "the answer")
	cmd.AddCommand(verify)
	return cmd
}

// trailEnds are where repairs that are over left the audit trails.
func trailEnds(ctx context.Context, c client.Client, name string) (out []contract.TrailSink, err error) {
	list, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{PageSize: 100,
		Query: fmt.Sprintf("WorkflowType = %s AND WorkflowId = %s AND ExecutionStatus = 'Completed'", quote(contract.RepairWorkflow), quote(contract.RepairID(name)))})
	if err != nil {
		return nil, err
	}
	for _, e := range list.GetExecutions() {
		if e.GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED {
			continue
		}
		var res contract.RepairResult
		if err := c.GetWorkflow(ctx, e.GetExecution().GetWorkflowId(), e.GetExecution().GetRunId()).Get(ctx, &res); err != nil {
			return nil, err
		}
		out = append(out, res.Trails...)
	}
	return out, nil
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

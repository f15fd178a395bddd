package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/pipeline"
	"syncline/secrets"
	"syncline/starter/view"
)

// rotating is a command line of rotate.
type rotating struct {
	contract.RotateInput
	login                                    secrets.LoginRef
	plan, now, status, rollback, cancel, end bool
	schedule, unschedule, detach             bool
	gone                                     string
}

func (t *tool) rotateCommand() *cobra.Command {
	var in rotating
	wait := 30 * time.Minute
	cmd := &cobra.Command{
		Use:   "rotate FILE|LOGIN --plan | --now | --status | …",
		Short: "give a login another user and password, at every server and in every worker",
		Long: `rotate exchanges the two users of a login, which pipelines name by login: vault:<path>.
FILE is a YAML file such as examples/rotation.yaml: the login, and the servers at which
both users exist. What concerns a rotation that runs takes the LOGIN alone, too.

--plan says what would be done and whether it could be: Vault and its rights, servers and
their administrators, every worker. --now does it: a new password is written to Vault and
set for the idle user, every worker logs in with it and does what it needs it for, the
pointer is moved, every worker moves its connections while they run, and the user of
before is disabled when no server shows a session of it. Until the pointer is moved, a
failure leaves everything as it was. After it, a worker that fails with the new login puts
the old one in force again, and one that is silent holds up the revocation: --status says
which, --declare-gone no longer waits for it, --rollback goes back.

After a leak, --now --leaked ends the sessions that others have by the old login.
--schedule lets Temporal rotate it as often as the file says by every.

The exit code is 0 if the login is rotated, 4 if it was put back or everything is as
before.`,
		Args: args(1, 1, "a rotation's file or a login"),
		RunE: func(cmd *cobra.Command, a []string) error {
			if err := t.readRotation(&in, a[0]); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			c, err := t.dial(ctx)
			if err != nil {
				return err
			}
			switch {
			case in.status:
				return t.rotationStatus(ctx, c, in.login)
			case in.rollback:
				return t.steerRotation(ctx, c, in.login, contract.RollbackUpdate, "the old login of %s is put in force again", nil)
			case in.end:
				return t.steerRotation(ctx, c, in.login, contract.EndSessionsUpdate, "sessions of the old login of %s are ended once the workers have left it", nil)
			case in.gone != "":
				return t.steerRotation(ctx, c, in.login, contract.DeclareGoneUpdate, in.gone+" is not waited for any longer in the rotation of %s", in.gone)
			case in.cancel:
				return t.cancelRotation(ctx, c, in.login)
			case in.unschedule:
				return t.unscheduleRotation(ctx, c, in.login)
			}
			if err := t.worker(ctx, c, t.controlQueue()); err != nil {
				return err
			}
			if in.schedule {
				return t.scheduleRotation(ctx, c, &in)
			}
			return t.rotate(cmd.Context(), c, &in, wait)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&in.plan, "plan", false, "say what would be done, and whether it could be")
	f.BoolVar(&in.now, "now", false, "rotate the login")
	f.BoolVar(&in.status, "status", false, "show the rotation that runs, or the last one")
	f.BoolVar(&in.rollback, "rollback", false, "put the old login in force again, as long as it is not revoked")
	f.BoolVar(&in.cancel, "cancel", false, "end the rotation that runs; before its promotion everything is as before, after it as with --rollback")
	f.StringVar(&in.gone, "declare-gone", "", "no longer wait for the worker of this `name`, or for target/<name>")
	f.BoolVar(&in.end, "end-sessions", false, "end what the servers show of the old login, whoever has it, once the workers have left it")
	f.BoolVar(&in.schedule, "schedule", false, "let Temporal rotate the login as often as the file says")
	f.BoolVar(&in.unschedule, "unschedule", false, "do so no longer")
	f.BoolVar(&in.Leaked, "leaked", false, "with --now: others know the old password; their sessions are ended, not waited for")
	f.StringVar(&in.Init, "init", "", "with --plan or --now: make a login with username and password one of two, of which this is the second `user`")
	f.StringVar(&in.BreakLock, "break-lock", "", "with --now: take the lock of the rotation `run` that was left off")
	f.BoolVar(&in.detach, "detach", false, "with --now: do not wait for the end")
	f.StringVar(&in.Reason, "reason", "", "why, for the record: a `TEXT`")
	f.StringVar(&in.Who, "who", whoami(), "who asks for it, for the record")
	f.Lookup("who").DefValue = "you, at this machine"
	timeoutFlag(cmd, &wait, "the end; the rotation goes on after it")
	return cmd
}

// readRotation checks what can be told without asking anybody.
func (t *tool) readRotation(in *rotating, arg string) error {
	chosen := 0
	for _, is := range []bool{in.plan, in.now, in.status, in.rollback, in.cancel, in.end, in.gone != "", in.schedule, in.unschedule} {
		if is {
			chosen++
		}
	}
	needsFile := in.plan || in.now || in.schedule
	switch {
	case chosen != 1:
		return invalid("rotate takes one of --plan, --now, --status, --rollback, --cancel, --declare-gone, --end-sessions, --schedule and --unschedule (fix: begin with --plan)")
	case !in.now && (in.Leaked || in.BreakLock != "" || in.detach):
		return invalid("--leaked, --break-lock and --detach go with --now alone (fix: add --now, or leave them out)")
	case in.Init != "" && !in.now && !in.plan:
		return invalid("--init goes with --plan or --now (fix: add one of them, or leave it out)")
	}
	in.Plan = in.plan
	if strings.HasPrefix(arg, string(secrets.SchemeVault)+":") {
		l, err := secrets.ParseLoginRef(arg)
		if err != nil {
			return invalid("%w", err)
		}
		if needsFile {
			return invalid("%s names a login; this needs to know its servers (fix: name the file that declares the rotation, such as examples/rotation.yaml)", arg)
		}
		in.login = l
		return nil
	}
	data, err := t.text("rotation", arg)
	if errors.Is(err, os.ErrNotExist) && !needsFile {
		return invalid("%s is neither a file nor a login (fix: name the rotation's file, or its login as vault:<path>)", arg)
	}
	if err != nil {
		return err
	}
	r, err := pipeline.ParseRotation(called(arg), data)
	if err != nil {
		return &mistaken{err, "rotation"}
	}
	if in.schedule && r.Every == 0 {
		return invalid("%s does not say how often (fix: add every, such as every: 30d)", called(arg))
	}
	in.Rotation, in.login = *r, r.Login
	return nil
}

func (t *tool) rotate(ctx context.Context, c client.Client, in *rotating, wait time.Duration) error {
	id := contract.RotationID(in.login)
	if in.Plan {
		id = contract.RotationPlanID(in.login)
		if st, err := rotationOf(ctx, c, contract.RotationID(in.login)); err == nil && st.Phase != contract.RotationDone {
			return failed("a rotation of %s is under way: %s (fix: starter rotate %s --status)", in.login, st.Phase, in.login)
		}
	}
	var run client.WorkflowRun
	var err error
	var busy *serviceerror.WorkflowExecutionAlreadyStarted
	for end := time.Now().Add(15 * time.Second); ; {
		run, err = c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
			ID: id, TaskQueue: t.controlQueue(), StaticSummary: "rotation of " + in.login.String(), WorkflowExecutionErrorWhenAlreadyStarted: true,
		}, contract.RotateWorkflow, in.RotateInput)
		if !errors.As(err, &busy) || time.Now().After(end) {
			break
		}
		if st, serr := rotationOf(ctx, c, id); serr != nil || st.Phase != contract.RotationDone {
			break
		}
		select { // it is over, and lets others begin
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	if errors.As(err, &busy) && in.Plan {
		return failed("somebody else's plan for %s is being made (fix: ask again in a moment)", in.login)
	}
	if errors.As(err, &busy) {
		return failed("a rotation of %s is under way (fix: starter rotate %s --status)", in.login, in.login)
	}
	if err != nil {
		return err
	}
	if in.detach {
		return t.print(map[string]string{"workflow": id}, func() {
			fmt.Fprintf(t.out, "the rotation of %s runs as workflow %s; starter rotate %s --status shows it\n", in.login, id, in.login)
		})
	}
	bounded, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var res contract.Rotated
	err = t.await(bounded, run, &res, func(ctx context.Context, b *bytes.Buffer) error {
		st, err := rotationOf(ctx, c, id)
		if err == nil {
			view.DrawRotation(b, t.style(), &st)
		}
		return err
	})
	var app *temporal.ApplicationError
	if errors.As(err, &app) && (app.Type() == contract.RotationFailedError || app.Type() == contract.RotationRolledBackError) {
		// What became of it is in its status, since a failed workflow has no result.
		last, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if st, serr := rotationOf(last, c, id); serr == nil {
			if err := t.print(st, func() { view.DrawRotation(t.out, t.style(), &st) }); err != nil {
				return err
			}
			return &exitError{exitDifferent, errSilent}
		}
		return &exitError{exitDifferent, err}
	}
	if err != nil {
		return unended(ctx, bounded.Err() != nil, err, "rotation", "no end", id, wait)
	}
	return t.print(res, func() { view.DrawRotation(t.out, t.style(), &res) })
}

// rotationOf is the run of a rotation, or of its plan, that goes on, or the last one.
func rotationOf(ctx context.Context, c client.Client, id string) (st contract.Rotated, err error) {
	v, err := c.QueryWorkflow(ctx, id, "", contract.StatusQuery)
	if err == nil {
		err = v.Get(&st)
	}
	return st, err
}

func noRotation(l secrets.LoginRef) error {
	return failed("no rotation of %s is known (fix: name the login as the rotation's file has it; Temporal forgets those that ended long ago)", l)
}

func (t *tool) rotationStatus(ctx context.Context, c client.Client, l secrets.LoginRef) error {
	st, err := rotationOf(ctx, c, contract.RotationID(l))
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return noRotation(l)
	}
	if err != nil {
		return err
	}
	return t.print(st, func() { view.DrawRotation(t.out, t.style(), &st) })
}

func (t *tool) steerRotation(ctx context.Context, c client.Client, l secrets.LoginRef, update, said string, arg any) error {
	o := client.UpdateWorkflowOptions{WorkflowID: contract.RotationID(l), UpdateName: update, WaitForStage: client.WorkflowUpdateStageCompleted}
	if arg != nil {
		o.Args = []any{arg}
	}
	h, err := c.UpdateWorkflow(ctx, o)
	if err == nil {
		err = h.Get(ctx, nil)
	}
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return failed("no rotation of %s is under way (fix: starter rotate %s --status shows the last one)", l, l)
	}
	if err != nil {
		return err
	}
	return t.print(map[string]string{"login": l.String(), "update": update}, func() { fmt.Fprintf(t.out, said+"\n", l) })
}

func (t *tool) cancelRotation(ctx context.Context, c client.Client, l secrets.LoginRef) error {
	err := c.CancelWorkflow(ctx, contract.RotationID(l), "")
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return failed("no rotation of %s is under way (fix: starter rotate %s --status shows the last one)", l, l)
	}
	if err != nil {
		return err
	}
	return t.print(map[string]string{"login": l.String(), "canceled": contract.RotationID(l)}, func() {
		fmt.Fprintf(t.out, "the rotation of %s puts back what it did; starter rotate %s --status shows it\n", l, l)
	})
}

func (t *tool) scheduleRotation(ctx context.Context, c client.Client, in *rotating) error {
	id := contract.RotationID(in.login)
	in.Who, in.Scheduled = "schedule "+id, true
	spec := client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: in.Rotation.Every.Std()}}}
	action := &client.ScheduleWorkflowAction{ID: id + "/scheduled", Workflow: contract.RotateWorkflow, Args: []any{in.RotateInput}, TaskQueue: t.controlQueue(), StaticSummary: "scheduled rotation of " + in.login.String()}
	_, err := c.ScheduleClient().Create(ctx, client.ScheduleOptions{ID: id, Spec: spec, Action: action, Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, CatchupWindow: time.Hour})
	if errors.Is(err, temporal.ErrScheduleAlreadyRunning) {
		err = c.ScheduleClient().GetHandle(ctx, id).Update(ctx, client.ScheduleUpdateOptions{DoUpdate: func(u client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
			s := u.Description.Schedule
			s.Spec, s.Action = &spec, action
			return &client.ScheduleUpdate{Schedule: &s}, nil
		}})
	}
	if err != nil {
		return err
	}
	return t.print(map[string]string{"schedule": id, "every": in.Rotation.Every.String()}, func() {
		fmt.Fprintf(t.out, "%s is rotated every %s, by the Schedule %s\n", in.login, in.Rotation.Every, id)
	})
}

func (t *tool) unscheduleRotation(ctx context.Context, c client.Client, l secrets.LoginRef) error {
	err := c.ScheduleClient().GetHandle(ctx, contract.RotationID(l)).Delete(ctx)
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return failed("no Schedule rotates %s", l)
	}
	if err != nil {
		return err
	}
	return t.print(map[string]string{"login": l.String()}, func() { fmt.Fprintf(t.out, "no Schedule rotates %s any longer\n", l) })
}

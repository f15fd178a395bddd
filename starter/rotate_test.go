package main

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
	"syncline/secrets"
	"syncline/workflows"
)

// rotations stands in for the activities of a rotation.
type rotations struct {
	mu       sync.Mutex
	fail     string        // of verification
	sessions int           // looks for which somebody has a session of the old login
	stop     chan struct{} // setting waits for it, if it is there
}

func (f *rotations) register(w worker.Worker, own string) {
	reg := func(name string, fn any) { w.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name}) }
	now := func(in contract.RotationTask) contract.RotationPoint {
		return contract.RotationPoint{Pointer: secrets.Pointer{Slot: secrets.SlotA, Generation: 4, Version: 3, Lock: in.Run}, At: 9, User: "orders_a"}
	}
	reg(contract.OpenRotationActivity, func(_ context.Context, in contract.RotationTask) (contract.RotationOpened, error) {
		return contract.RotationOpened{From: now(in), Idle: "orders_b", Targets: []string{"primary"}, Uses: []contract.LoginUse{{Pipeline: "shop", End: "source"}}}, nil
	})
	reg(contract.FindConsumersActivity, func(context.Context, contract.RotationTask) ([]contract.Consumer, error) {
		return []contract.Consumer{{Worker: own, Seen: time.Now()}}, nil
	})
	reg(contract.StageLoginActivity, func(_ context.Context, in contract.RotationTask) (contract.RotationPoint, error) {
		in.To.Version = 7
		return in.To, nil
	})
	reg(contract.SetLoginActivity, func(ctx context.Context, _ contract.RotationStep) error {
		f.mu.Lock()
		stop := f.stop
		f.mu.Unlock()
		for stop != nil {
			select {
			case <-stop:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(50 * time.Millisecond):
				activity.RecordHeartbeat(ctx)
			}
		}
		return nil
	})
	reg(contract.PromoteLoginActivity, func(_ context.Context, in contract.RotationTask) (contract.RotationPoint, error) { return in.To, nil })
	reg(contract.LoginSessionsActivity, func(context.Context, contract.RotationStep) (contract.LoginSessions, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.sessions == 0 {
			return contract.LoginSessions{Target: "primary", Known: true}, nil
		}
		f.sessions--
		return contract.LoginSessions{Target: "primary", Known: true, Count: 1, Of: []string{"psql from 10.0.0.7"}}, nil
	})
	for _, name := range []string{contract.DisableLoginActivity} {
		reg(name, func(context.Context, contract.RotationStep) error { return nil })
	}
	reg(contract.CloseRotationActivity, func(context.Context, contract.RotationTask) error { return nil })
	reg(contract.NoteRotationActivity, func(context.Context, contract.RotationNote) error { return nil })
	state := func(_ context.Context, in contract.RotationTask) (contract.ConsumerState, error) {
		return contract.ConsumerState{Worker: own, LoginState: secrets.LoginState{Used: true, User: "orders_a", Generation: 4, Open: map[int64]int{4: 3}}}, nil
	}
	reg(contract.LoginStateActivity, state)
	step := func(_ context.Context, in contract.RotationStep) (contract.ConsumerState, error) {
		return contract.ConsumerState{Worker: own, LoginState: secrets.LoginState{Used: true, User: in.Subject.User, Generation: in.Subject.Generation}}, nil
	}
	reg(contract.AdoptLoginActivity, step)
	reg(contract.VerifyLoginActivity, func(ctx context.Context, in contract.RotationStep) (contract.ConsumerState, error) {
		f.mu.Lock()
		fail := f.fail
		f.mu.Unlock()
		if fail != "" {
			return contract.ConsumerState{}, temporal.NewNonRetryableApplicationError(fail, "SinkPrivilege", nil)
		}
		return step(ctx, in)
	})
}

const rotationFile = `version: 1
login: vault:secret/NAME/source
every: 30d
patience: 5s
targets:
- {name: primary, type: postgres, host: db, admin: vault:secret/admin}
`

// What rotate does to a rotation, on a real Temporal; the protocol has tests of its own.
func TestRotate(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	f := &rotations{}
	for _, q := range []string{contract.Queue(s.prefix, contract.Control), contract.OwnQueue(s.prefix, "w/1")} {
		w := worker.New(s.c, q, worker.Options{WorkerStopTimeout: 5 * time.Second})
		w.RegisterWorkflowWithOptions(workflows.RotateSecret, workflow.RegisterOptions{Name: contract.RotateWorkflow})
		f.register(w, "w/1")
		if err := w.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
	}
	login := "vault:secret/" + s.name + "/source"
	file := write(t, "rotation.yaml", strings.ReplaceAll(rotationFile, "NAME", s.name))
	id := contract.RotationID(must(secrets.ParseLoginRef(login)))
	t.Cleanup(func() {
		_ = s.c.ScheduleClient().GetHandle(context.Background(), id).Delete(context.Background())
		_ = s.c.TerminateWorkflow(context.Background(), id, "", "test ended")
	})
	s.starter("rotate", login, "--status").exits(exitFailed).says("no rotation of "+login+" is known", "fix:")
	s.starter("rotate", login, "--rollback").exits(exitFailed).says("no rotation of " + login + " is under way")
	s.starter("rotate", file, "--plan").exits(exitOK).says("could be rotated", "generation 4, user orders_a (slot a)", "generation 5, user orders_b (slot b)", "primary", "pipeline shop, source", "w/1")
	s.starter("rotate", login, "--status").exits(exitFailed).says("no rotation of " + login + " is known") // a plan is none
	s.starter("rotate", file, "--now", "--reason", "test").exits(exitOK).says(login+"  rotated", "before     generation 4, user orders_a", "now        generation 5, user orders_b", "adopting")
	var st contract.Rotated
	s.starter("rotate", login, "--status", "--json").exits(exitOK).object(&st)
	if st.Outcome != contract.RotatedOutcome || st.Reason != "test" || len(st.Steps) != 7 || len(st.Consumers) != 1 {
		t.Errorf("%+v", st)
	}

	f.mu.Lock()
	f.fail = "lacks INSERT"
	f.mu.Unlock()
	s.starter("rotate", file, "--now").exits(exitDifferent).says("not rotated, and everything is as before", "lacks INSERT")
	f.mu.Lock()
	f.fail, f.sessions = "", 1000
	f.mu.Unlock()
	s.starter("rotate", file, "--now", "--detach").exits(exitOK).says(id)
	s.starter("rotate", file, "--now").exits(exitFailed).says("is under way", "--status")
	s.starter("rotate", file, "--plan").exits(exitFailed).says("is under way", "--status")
	s.until("it waits", func(r result) bool { return strings.Contains(r.out, "psql from 10.0.0.7") }, "rotate", login, "--status")
	s.starter("rotate", login, "--declare-gone", "w/9").exits(exitFailed).says(`no worker or target/<name> of the rotation is called "w/9"; it has w/1, target/primary`)
	s.starter("rotate", login, "--rollback").exits(exitOK).says("the old login of " + login + " is put in force again")
	s.until("it is rolled back", func(r result) bool {
		return strings.Contains(r.out, "rolled back") || strings.Contains(r.out, "rolling-back")
	}, "rotate", login, "--status")
	s.starter("rotate", login, "--end-sessions").exits(exitOK)
	s.until("its end", func(r result) bool { return strings.Contains(r.out, "rolled back") }, "rotate", login, "--status")

	f.mu.Lock()
	f.sessions, f.stop = 0, make(chan struct{})
	f.mu.Unlock()
	s.starter("rotate", file, "--now", "--detach").exits(exitOK)
	s.until("it sets", func(r result) bool { return strings.Contains(r.out, "setting") }, "rotate", login, "--status")
	s.starter("rotate", login, "--rollback").exits(exitFailed).says("nothing is promoted that could be put back")
	s.starter("rotate", login, "--cancel").exits(exitOK).says("puts back what it did")
	s.until("as before", func(r result) bool { return strings.Contains(r.out, "everything is as before") }, "rotate", login, "--status")
	f.mu.Lock()
	f.stop = nil
	f.mu.Unlock()

	for range 2 { // a repetition changes it
		s.starter("rotate", file, "--schedule").exits(exitOK).says("is rotated every 30d, by the Schedule " + id)
	}
	for { // the one that was cancelled lets others begin
		d, err := s.c.DescribeWorkflowExecution(t.Context(), id, "")
		if err != nil {
			t.Fatal(err)
		}
		if d.WorkflowExecutionInfo.Status != enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := s.c.ScheduleClient().GetHandle(t.Context(), id).Trigger(t.Context(), client.ScheduleTriggerOptions{}); err != nil {
		t.Fatal(err)
	}
	s.until("the Schedule rotates it", func(r result) bool { return strings.Contains(r.out, login+"  rotated") }, "rotate", login, "--status")
	s.starter("rotate", login, "--unschedule").exits(exitOK).says("no Schedule rotates " + login)
	s.starter("rotate", login, "--unschedule").exits(exitFailed)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestMistakesOfRotate(t *testing.T) {
	text, err := os.ReadFile("../examples/rotation.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := write(t, "rotation.yaml", string(text))
	once := write(t, "once.yaml", strings.Replace(string(text), "every: 30d", "", 1))
	bad := write(t, "bad.yaml", "version: 1\nlogin: secret/x\ntargets: []\n")
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{}, "rotate takes a rotation's file or a login"},
		{[]string{file}, "begin with --plan"},
		{[]string{file, "--plan", "--now"}, "begin with --plan"},
		{[]string{file, "--plan", "--leaked"}, "go with --now alone"},
		{[]string{file, "--status", "--init", "b"}, "--init goes with"},
		{[]string{"vault:secret/x", "--now"}, "names a login; this needs to know its servers"},
		{[]string{"vault:secret/x#password", "--status"}, "names a field after #"},
		{[]string{"nowhere.yaml", "--status"}, "neither a file nor a login"},
		{[]string{"nowhere.yaml", "--now"}, "nowhere.yaml"},
		{[]string{once, "--schedule"}, "does not say how often"},
		{[]string{bad, "--plan"}, "mistakes in the rotation"},
	} {
		starter(t, append([]string{"rotate"}, c.args...)...).exits(exitInvalid).says(c.says)
	}
}

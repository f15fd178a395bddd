package workflows

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"pgregory.net/rapid"

	"syncline/activities/contract"
	"syncline/pipeline"
	"syncline/secrets"
	"syncline/testsuite/stack"
)

const rotationYAML = `
version: 1
login: vault:secret/orders/source
patience: 20s
gone: 5m
targets:
- {name: primary, type: postgres, host: db, admin: vault:secret/orders/admin}
- {name: copy, type: clickhouse, host: ch, admin: vault:secret/orders/admin}
`

func rotationInput(t interface{ Fatal(...any) }) contract.RotateInput {
	r, err := pipeline.ParseRotation("r.yaml", []byte(rotationYAML))
	if err != nil {
		t.Fatal(err)
	}
	return contract.RotateInput{Rotation: *r, Who: "ann"}
}

// estate is what a rotation acts on: a Vault, servers, and a fleet, of which the rules
// are checked at each step.
type estate struct {
	mu      sync.Mutex
	pointer contract.RotationPoint
	slots   map[secrets.Slot]int      // newest version
	valid   map[string]map[string]int // target → user → version of the password that works; absent: none
	fleet   map[string]int64          // worker → generation it is on
	away    map[string]int            // workers that answer nothing for so many calls; -1: never
	others  int                       // looks at sessions for which somebody else has one of the old login
	cut     map[string]int            // targets that answer nothing for so many calls; -1: for good
	fail    func(activity string) error
	steps   []string
	notes   []contract.Rotated
	broken  []string // rules that were broken
	refuse  string   // worker that cannot use any new login
	lost    int      // promotions whose answer is lost
	now     func() time.Time
	prefix  string // of the task queues
}

func newEstate() *estate {
	e := &estate{slots: map[secrets.Slot]int{secrets.SlotA: 1, secrets.SlotB: 1}, valid: map[string]map[string]int{}, fleet: map[string]int64{"w1": 1, "w2": 1},
		away: map[string]int{}, cut: map[string]int{}, fail: func(string) error { return nil }, now: time.Now, prefix: "syncline"}
	e.pointer = contract.RotationPoint{Pointer: secrets.Pointer{Slot: secrets.SlotA, Generation: 1, Version: 1, Rotation: "init"}, At: 1, User: "orders_a"}
	for _, t := range []string{"primary", "copy"} {
		e.valid[t] = map[string]int{"orders_a": 1}
	}
	return e
}

func (e *estate) broke(format string, args ...any) {
	e.broken = append(e.broken, fmt.Sprintf(format, args...))
}

// begin locks until the activity ends, and lets it fail where the test wants it.
func (e *estate) begin(ctx context.Context, what string) (end func(), err error) {
	e.mu.Lock()
	name := activity.GetInfo(ctx).ActivityType.Name
	e.steps = append(e.steps, strings.TrimSpace(name+" "+what))
	if err := e.fail(name); err != nil {
		e.mu.Unlock()
		return func() {}, err
	}
	return e.mu.Unlock, nil
}

func transientErr(what string) error { return temporal.NewApplicationError(what, "Away") }

func (e *estate) open(ctx context.Context, in contract.RotationTask) (out contract.RotationOpened, err error) {
	end, err := e.begin(ctx, "")
	if err != nil {
		return out, err
	}
	defer end()
	if !in.Plan {
		if e.pointer.Lock != "" && e.pointer.Lock != in.Run {
			return out, temporal.NewNonRetryableApplicationError("locked", "LoginLocked", nil)
		}
		if e.pointer.Lock == "" {
			e.pointer.Lock = in.Run
			e.pointer.At++
		}
	}
	return contract.RotationOpened{From: e.pointer, Idle: user(e.pointer.Slot.Other()), Targets: []string{"primary", "copy"}, Uses: []contract.LoginUse{{Pipeline: "shop", End: "source"}}}, nil
}

func user(s secrets.Slot) string { return "orders_" + string(s) }

func (e *estate) find(ctx context.Context, _ contract.RotationTask) (out []contract.Consumer, err error) {
	end, err := e.begin(ctx, "")
	if err != nil {
		return nil, err
	}
	defer end()
	for w := range e.fleet {
		if e.away[w] != -1 {
			out = append(out, contract.Consumer{Worker: w, Seen: e.now()})
		} else {
			out = append(out, contract.Consumer{Worker: w, Seen: e.now().Add(-time.Second)})
			delete(e.fleet, w) // Temporal has forgotten it the next time
		}
	}
	return out, nil
}

func (e *estate) stage(ctx context.Context, in contract.RotationTask) (out contract.RotationPoint, err error) {
	end, err := e.begin(ctx, "")
	if err != nil {
		return out, err
	}
	defer end()
	e.slots[in.To.Slot]++
	out = in.To
	out.Version = e.slots[in.To.Slot]
	return out, nil
}

func (e *estate) reach(target string) error {
	if n := e.cut[target]; n != 0 {
		if n > 0 {
			e.cut[target]--
		}
		return transientErr(target + " cannot be reached")
	}
	return nil
}

func (e *estate) set(ctx context.Context, in contract.RotationStep) error {
	end, err := e.begin(ctx, in.Target)
	if err != nil {
		return err
	}
	defer end()
	if err := e.reach(in.Target); err != nil {
		return err
	}
	if in.Subject.User == user(e.pointer.Slot) {
		e.broke("the password of %s is changed while it is in force", in.Subject.User)
	}
	e.valid[in.Target][in.Subject.User] = in.Subject.Version
	return nil
}

func (e *estate) promote(ctx context.Context, in contract.RotationTask) (out contract.RotationPoint, err error) {
	end, err := e.begin(ctx, "")
	if err != nil {
		return out, err
	}
	defer end()
	if e.pointer.Rotation == in.Run && e.pointer.Generation == in.To.Generation {
		return e.pointer, nil
	}
	if e.pointer.At != in.From.At {
		return out, temporal.NewNonRetryableApplicationError("moved", "PointerMoved", nil)
	}
	for t, users := range e.valid {
		if users[in.To.User] != in.To.Version {
			e.broke("%s is promoted, and does not work at %s", in.To.User, t)
		}
	}
	at := e.pointer.At
	e.pointer = in.To
	e.pointer.At, e.pointer.Rotation, e.pointer.Lock = at+1, in.Run, in.Run
	if e.lost > 0 {
		e.lost--
		return out, transientErr("the answer was lost")
	}
	return e.pointer, nil
}

func (e *estate) sessions(ctx context.Context, in contract.RotationStep) (out contract.LoginSessions, err error) {
	end, err := e.begin(ctx, in.Target)
	if err != nil {
		return out, err
	}
	defer end()
	if err := e.reach(in.Target); err != nil {
		return out, err
	}
	out = contract.LoginSessions{Target: in.Target, Known: true}
	for w, g := range e.fleet {
		if g == in.Subject.Generation {
			out.Count++
			out.Of = append(out.Of, w)
		}
	}
	if e.others > 0 {
		e.others--
		out.Count++
		out.Of = append(out.Of, "psql from 10.0.0.7")
	}
	return out, nil
}

func (e *estate) disable(ctx context.Context, in contract.RotationStep) error {
	end, err := e.begin(ctx, in.Target)
	if err != nil {
		return err
	}
	defer end()
	if err := e.reach(in.Target); err != nil {
		return err
	}
	if in.Subject.User == user(e.pointer.Slot) {
		e.broke("%s is disabled while it is in force", in.Subject.User)
	}
	for w, g := range e.fleet {
		if g == in.Subject.Generation {
			e.broke("%s is disabled while worker %s is on it", in.Subject.User, w)
		}
	}
	delete(e.valid[in.Target], in.Subject.User)
	return nil
}

func (e *estate) unlock(ctx context.Context, in contract.RotationTask) error {
	end, err := e.begin(ctx, "")
	if err != nil {
		return err
	}
	defer end()
	if e.pointer.Lock == in.Run {
		e.pointer.Lock = ""
		e.pointer.At++
	}
	return nil
}

func (e *estate) note(_ context.Context, in contract.RotationNote) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.notes = append(e.notes, in.Result)
	return nil
}

// worker is who an activity on an own queue is for, and whether it answers.
func (e *estate) worker(ctx context.Context) (name string, end func(), err error) {
	name = strings.TrimPrefix(activity.GetInfo(ctx).TaskQueue, contract.OwnQueue(e.prefix, ""))
	end, err = e.begin(ctx, name)
	if err != nil {
		return name, end, err
	}
	if n := e.away[name]; n != 0 {
		if n > 0 {
			e.away[name]--
		}
		end()
		return name, func() {}, transientErr(name + " is away")
	}
	return name, end, nil
}

func (e *estate) state(ctx context.Context, in contract.RotationTask) (contract.ConsumerState, error) {
	name, end, err := e.worker(ctx)
	if err != nil {
		return contract.ConsumerState{}, err
	}
	defer end()
	return contract.ConsumerState{Worker: name, LoginState: secrets.LoginState{Used: true, Generation: e.fleet[name]}}, nil
}

// everywhere is reached by a worker, but for what was declared gone.
func (e *estate) everywhere(in *contract.RotationStep) error {
	for _, t := range []string{"copy", "primary"} {
		if !slices.Contains(in.Gone, t) {
			if err := e.reach(t); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *estate) verify(ctx context.Context, in contract.RotationStep) (contract.ConsumerState, error) {
	name, end, err := e.worker(ctx)
	if err != nil {
		return contract.ConsumerState{}, err
	}
	defer end()
	if err := e.everywhere(&in); err != nil {
		return contract.ConsumerState{}, err
	}
	return contract.ConsumerState{Worker: name, As: map[string]string{"primary": in.Subject.User}, LoginState: secrets.LoginState{Used: true, Generation: e.fleet[name]}}, nil
}

func (e *estate) adopt(ctx context.Context, in contract.RotationStep) (out contract.ConsumerState, err error) {
	name, end, err := e.worker(ctx)
	if err != nil {
		return out, err
	}
	defer end()
	if name == e.refuse && in.Subject.Slot == secrets.SlotB {
		return out, temporal.NewNonRetryableApplicationError("worker "+name+" is refused", contract.ConsumerFailedError, nil)
	}
	if e.pointer.Generation < in.Subject.Generation {
		e.broke("worker %s is to adopt generation %d, and %d is in force", name, in.Subject.Generation, e.pointer.Generation)
	}
	e.fleet[name] = e.pointer.Generation // its connections move, whether it reaches all or not
	if err := e.everywhere(&in); err != nil {
		return out, err
	}
	return contract.ConsumerState{Worker: name, LoginState: secrets.LoginState{Used: true, Generation: e.fleet[name]}}, nil
}

func (e *estate) environment() *testsuite.TestWorkflowEnvironment {
	var s testsuite.WorkflowTestSuite
	s.SetLogger(quietLog())
	env := s.NewTestWorkflowEnvironment()
	env.SetTestTimeout(10 * time.Second)
	env.RegisterWorkflowWithOptions(RotateSecret, workflow.RegisterOptions{Name: contract.RotateWorkflow})
	for name, fn := range e.activities() {
		env.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name})
	}
	env.SetStartWorkflowOptions(startOptions("rotate/secret/orders/source"))
	e.now = env.Now
	return env
}

func (e *estate) activities() map[string]any {
	return map[string]any{
		contract.OpenRotationActivity: e.open, contract.FindConsumersActivity: e.find, contract.StageLoginActivity: e.stage, contract.SetLoginActivity: e.set,
		contract.PromoteLoginActivity: e.promote, contract.LoginSessionsActivity: e.sessions, contract.DisableLoginActivity: e.disable,
		contract.CloseRotationActivity: e.unlock, contract.NoteRotationActivity: e.note,
		contract.LoginStateActivity: e.state, contract.VerifyLoginActivity: e.verify, contract.AdoptLoginActivity: e.adopt,
	}
}

// settled checks what has to hold when a rotation is over, however it ended.
func (e *estate) settled(t interface{ Errorf(string, ...any) }, r *contract.Rotated) {
	for _, b := range e.broken {
		t.Errorf("%s", b)
	}
	inForce := user(e.pointer.Slot)
	for target, users := range e.valid {
		if users[inForce] != e.pointer.Version {
			t.Errorf("%s is in force and does not work at %s", inForce, target)
		}
		left := slices.ContainsFunc(r.Left, func(l string) bool { return strings.Contains(l, "target "+target) })
		if len(users) != 1 && !left {
			t.Errorf("%d logins work at %s: %v", len(users), target, users)
		}
	}
	for w, g := range e.fleet {
		if g != e.pointer.Generation && e.away[w] != -1 {
			t.Errorf("worker %s is on generation %d, and %d is in force", w, g, e.pointer.Generation)
		}
	}
	if e.pointer.Lock != "" {
		t.Errorf("it stays locked by %s", e.pointer.Lock)
	}
}

func rotated(env *testsuite.TestWorkflowEnvironment) (r contract.Rotated) {
	if v, err := env.QueryWorkflow(contract.StatusQuery); err == nil {
		_ = v.Get(&r)
	}
	return r
}

func TestRotate(t *testing.T) {
	e := newEstate()
	env := e.environment()
	env.ExecuteWorkflow(RotateSecret, rotationInput(t))
	var r contract.Rotated
	if err := env.GetWorkflowResult(&r); err != nil {
		t.Fatal(err)
	}
	e.settled(t, &r)
	if r.Outcome != contract.RotatedOutcome || e.pointer.Slot != secrets.SlotB || e.pointer.Generation != 2 || len(r.Consumers) != 2 || len(r.Steps) != 7 || len(e.notes) != 1 {
		t.Errorf("%+v, notes %+v", r, e.notes)
	}
	if r.From.User != "orders_a" || r.To.User != "orders_b" || r.To.Version != 2 {
		t.Errorf("from %+v to %+v", r.From, r.To)
	}
}

func TestRotationPlan(t *testing.T) {
	e := newEstate()
	env := e.environment()
	in := rotationInput(t)
	in.Plan = true
	env.ExecuteWorkflow(RotateSecret, in)
	var r contract.Rotated
	if err := env.GetWorkflowResult(&r); err != nil || r.Outcome != contract.PlannedOutcome || len(r.Consumers) != 2 || r.To.User != "orders_b" {
		t.Fatalf("%+v, %v", r, err)
	}
	e.settled(t, &r)
	for _, s := range e.steps {
		if name, _, _ := strings.Cut(s, " "); !slices.Contains([]string{contract.OpenRotationActivity, contract.FindConsumersActivity, contract.LoginStateActivity}, name) {
			t.Errorf("a plan does %s", s)
		}
	}
}

// The ways back, and what holds a rotation up.
func TestRotationsThatDoNotGoThrough(t *testing.T) {
	for name, c := range map[string]struct {
		with    func(*estate, *testsuite.TestWorkflowEnvironment)
		outcome string
		errType string // "": it gets through
		slot    secrets.Slot
		gen     int64
		held    string // noted on the way
	}{
		"the answer of the promotion is lost": {func(e *estate, _ *testsuite.TestWorkflowEnvironment) { e.lost = 3 }, contract.RotatedOutcome, "", secrets.SlotB, 2, ""},
		"somebody else moved the pointer": {func(e *estate, _ *testsuite.TestWorkflowEnvironment) {
			e.fail = func(a string) error {
				if a == contract.PromoteLoginActivity {
					return temporal.NewNonRetryableApplicationError("moved", "PointerMoved", nil)
				}
				return nil
			}
		}, contract.CompensatedOutcome, contract.RotationFailedError, secrets.SlotA, 1, ""},
		"a target is away for good": {func(e *estate, _ *testsuite.TestWorkflowEnvironment) { e.cut["copy"] = 15 }, contract.CompensatedOutcome, contract.RotationFailedError, secrets.SlotA, 1, ""},
		"a worker is silent before": {func(e *estate, _ *testsuite.TestWorkflowEnvironment) { e.away["w2"] = 1000 }, "", contract.ConsumerFailedError, secrets.SlotA, 1, ""},
		"a worker is refused":       {func(e *estate, _ *testsuite.TestWorkflowEnvironment) { e.refuse = "w2" }, contract.RolledBackOutcome, contract.RotationRolledBackError, secrets.SlotA, 3, ""},
		"somebody has a session of the old login": {func(e *estate, env *testsuite.TestWorkflowEnvironment) {
			e.others = 1000
			env.RegisterDelayedCallback(func() { env.UpdateWorkflow(contract.EndSessionsUpdate, "e", &reply{}) }, 10*time.Minute)
		}, contract.RotatedOutcome, "", secrets.SlotB, 2, "psql from 10.0.0.7"},
		"it is rolled back while it is held up": {func(e *estate, env *testsuite.TestWorkflowEnvironment) {
			e.others = 200
			env.RegisterDelayedCallback(func() { env.UpdateWorkflow(contract.RollbackUpdate, "r", &reply{}) }, time.Minute)
		}, contract.RolledBackOutcome, contract.RotationRolledBackError, secrets.SlotA, 3, "psql"},
		"a target is cut off while it is revoked": {func(e *estate, env *testsuite.TestWorkflowEnvironment) {
			e.fail = func(a string) error {
				if a == contract.LoginSessionsActivity && e.steps[0] != "" {
					e.steps[0] = ""
					e.cut["primary"] = 60
				}
				return nil
			}
		}, contract.RotatedOutcome, "", secrets.SlotB, 2, "primary cannot be"},
		"it is cancelled before": {func(e *estate, env *testsuite.TestWorkflowEnvironment) {
			e.cut["copy"] = 6
			env.RegisterDelayedCallback(env.CancelWorkflow, 5*time.Second)
		}, contract.CompensatedOutcome, "canceled", secrets.SlotA, 1, ""},
		"it is cancelled after": {func(e *estate, env *testsuite.TestWorkflowEnvironment) {
			e.others = 20
			env.RegisterDelayedCallback(env.CancelWorkflow, 5*time.Second)
		}, contract.RolledBackOutcome, "canceled", secrets.SlotA, 3, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEstate()
			env := e.environment()
			c.with(e, env)
			env.ExecuteWorkflow(RotateSecret, rotationInput(t))
			r := rotated(env)
			err := env.GetWorkflowError()
			switch {
			case c.errType == "" && err != nil, c.errType != "" && err == nil,
				c.errType == "canceled" && !temporal.IsCanceledError(err),
				c.errType != "" && c.errType != "canceled" && errorType(err) != c.errType:
				t.Errorf("ended with %v, want %q", err, c.errType)
			}
			e.settled(t, &r)
			if r.Outcome != c.outcome || e.pointer.Slot != c.slot || e.pointer.Generation != c.gen {
				t.Errorf("outcome %q, pointer %+v; want %q, slot %s, generation %d", r.Outcome, e.pointer, c.outcome, c.slot, c.gen)
			}
			if c.held != "" && !slices.ContainsFunc(e.notes, func(n contract.Rotated) bool { return strings.Contains(n.Held, c.held) }) {
				t.Errorf("it was not noted that it is held up by %s: %+v", c.held, e.notes)
			}
			if t.Failed() {
				t.Log(e.steps)
			}
		})
	}
}

// A silent worker holds the revocation up until it is gone for long or declared gone.
func TestSilentWorkerHoldsRevocation(t *testing.T) {
	for _, declared := range []bool{false, true} {
		e := newEstate()
		env := e.environment()
		e.fail = func(a string) error {
			if a == contract.PromoteLoginActivity && e.away["w2"] == 0 {
				e.away["w2"] = -1 // killed
			}
			return nil
		}
		began := env.Now()
		if declared {
			env.RegisterDelayedCallback(func() { env.UpdateWorkflow(contract.DeclareGoneUpdate, "g", &reply{}, "w2") }, 90*time.Second)
		}
		nobody := &reply{}
		env.RegisterDelayedCallback(func() { env.UpdateWorkflow(contract.DeclareGoneUpdate, "n", nobody, "w9") }, 30*time.Second)
		env.ExecuteWorkflow(RotateSecret, rotationInput(t))
		var r contract.Rotated
		if err := env.GetWorkflowResult(&r); err != nil {
			t.Fatal(err, e.steps)
		}
		took := env.Now().Sub(began)
		if declared && (took < 90*time.Second || took > 4*time.Minute) || !declared && took < 5*time.Minute {
			t.Errorf("declared gone %v: it took %s", declared, took)
		}
		if nobody.refused == nil {
			t.Error("a worker that is none is declared gone")
		}
		held := slices.ContainsFunc(e.notes, func(n contract.Rotated) bool { return strings.Contains(n.Held, "worker w2") })
		if !held || e.pointer.Generation != 2 {
			t.Errorf("held up by w2: %v; %+v", held, e.pointer)
		}
		e.settled(t, &r)
	}
}

// That nobody can say who is there makes no worker gone: one that cannot be asked meanwhile
// is waited for.
func TestLivingWorkerIsNotGone(t *testing.T) {
	e := newEstate()
	env := e.environment()
	var since time.Time // of the promotion
	e.fail = func(a string) error {
		switch {
		case a == contract.PromoteLoginActivity:
			since, e.away["w2"] = env.Now(), 100
		case a == contract.FindConsumersActivity && !since.IsZero() && env.Now().Sub(since) < 15*time.Minute:
			return temporal.NewNonRetryableApplicationError("Temporal does not say", "Away", nil)
		}
		return nil
	}
	in := rotationInput(t)
	in.Rotation.Gone = pipeline.Duration(time.Minute)
	env.ExecuteWorkflow(RotateSecret, in)
	var r contract.Rotated
	if err := env.GetWorkflowResult(&r); err != nil {
		t.Fatal(err, e.steps)
	}
	e.settled(t, &r)
	if env.Now().Sub(since) < 2*time.Minute || slices.ContainsFunc(r.Consumers, func(c contract.ConsumerState) bool { return c.Gone != "" }) {
		t.Errorf("it took %s: %+v", env.Now().Sub(since), r)
	}
}

// A target that is cut off for good holds the revocation up, everywhere, until it is
// declared gone: then the others are done with, and it is told what is left.
func TestTargetDeclaredGone(t *testing.T) {
	for _, since := range []string{contract.AdoptLoginActivity, contract.LoginSessionsActivity, contract.DisableLoginActivity} {
		e := newEstate()
		env := e.environment()
		e.fail = func(a string) error {
			if a == since {
				e.cut["copy"] = -1
			}
			return nil
		}
		declared := &reply{}
		env.RegisterDelayedCallback(func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			if since != contract.DisableLoginActivity && len(e.valid["primary"]) != 2 {
				t.Errorf("cut off since %s: one is revoked at the other target: %v", since, e.valid)
			}
			env.UpdateWorkflow(contract.DeclareGoneUpdate, "g", declared, "target/copy")
		}, 20*time.Minute)
		env.ExecuteWorkflow(RotateSecret, rotationInput(t))
		var r contract.Rotated
		if err := env.GetWorkflowResult(&r); err != nil {
			t.Fatalf("cut off since %s: %v, %v", since, err, e.steps)
		}
		e.settled(t, &r)
		if declared.refused != nil || e.pointer.Generation != 2 || len(e.valid["primary"]) != 1 || len(e.valid["copy"]) != 2 ||
			!slices.ContainsFunc(e.notes, func(n contract.Rotated) bool { return strings.Contains(n.Held, "copy") }) {
			t.Errorf("cut off since %s: %v; %+v, valid are %v, notes %+v", since, declared.refused, r, e.valid, e.notes)
		}
	}
}

// Whatever fails, as often as it likes: nobody is ever on a login that does not work, and
// in the end exactly one works everywhere.
func TestRotationsWhateverHappens(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := newEstate()
		env := e.environment()
		e.lost = rapid.IntRange(0, 1).Draw(rt, "lost")
		e.others = rapid.SampledFrom([]int{0, 0, 3}).Draw(rt, "others")
		for _, w := range []string{"w1", "w2"} {
			e.away[w] = rapid.SampledFrom([]int{0, 0, 1, 3}).Draw(rt, "away "+w)
		}
		for _, tg := range []string{"primary", "copy"} {
			e.cut[tg] = rapid.SampledFrom([]int{0, 0, 2, 9}).Draw(rt, "cut "+tg)
		}
		if rapid.Bool().Draw(rt, "refuse") {
			e.refuse = "w1"
		}
		left := map[string]int{} // at most nine each: the test's Temporal gives up after ten attempts
		kinds := []string{contract.OpenRotationActivity, contract.StageLoginActivity, contract.SetLoginActivity, contract.PromoteLoginActivity, contract.DisableLoginActivity,
			contract.VerifyLoginActivity, contract.AdoptLoginActivity, contract.FindConsumersActivity, contract.CloseRotationActivity}
		for range rapid.IntRange(0, 3).Draw(rt, "failures") {
			left[rapid.SampledFrom(kinds).Draw(rt, "of")] = rapid.IntRange(1, 8).Draw(rt, "times")
		}
		forGood := rapid.SampledFrom([]string{"", "", contract.SetLoginActivity, contract.VerifyLoginActivity, contract.StageLoginActivity}).Draw(rt, "for good")
		e.fail = func(a string) error {
			if a == forGood {
				return temporal.NewNonRetryableApplicationError("for good", "Denied", nil)
			}
			if left[a] > 0 {
				left[a]--
				return transientErr(a)
			}
			return nil
		}
		if at := rapid.IntRange(0, 60).Draw(rt, "cancelled after"); at > 0 && at < 40 {
			env.RegisterDelayedCallback(env.CancelWorkflow, time.Duration(at)*time.Second)
		}
		env.ExecuteWorkflow(RotateSecret, rotationInput(t))
		if !env.IsWorkflowCompleted() {
			rt.Fatalf("not completed: %v", e.steps)
		}
		r := rotated(env)
		e.settled(rt, &r)
	})
}

// A Schedule's runs have ids of their own; one of the login's id does it for them.
func TestScheduledRotation(t *testing.T) {
	e := newEstate()
	env := e.environment()
	env.SetStartWorkflowOptions(startOptions("rotate/secret/orders/source/scheduled-2026"))
	in := rotationInput(t)
	in.Scheduled = true
	env.ExecuteWorkflow(RotateSecret, in)
	var r contract.Rotated
	if err := env.GetWorkflowResult(&r); err != nil || r.Outcome != contract.RotatedOutcome {
		t.Fatalf("%+v, %v", r, err)
	}
	e.settled(t, &r)
}

// On a real Temporal, whose histories are recorded: one that gets through while somebody
// has a session of the old login, one that is rolled back, one of a Schedule.
func TestOnServerRotations(t *testing.T) {
	s := &server{t: t, prefix: stack.Name(t)}
	c, err := client.Dial(client.Options{HostPort: stack.Temporal(t), Logger: quietLog()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s.c = c
	e := newEstate()
	e.prefix = s.prefix
	for _, q := range []string{contract.Queue(s.prefix, contract.Control), contract.OwnQueue(s.prefix, "w1"), contract.OwnQueue(s.prefix, "w2")} {
		w := worker.New(c, q, worker.Options{WorkerStopTimeout: 5 * time.Second})
		if q == contract.Queue(s.prefix, contract.Control) {
			w.RegisterWorkflowWithOptions(RotateSecret, workflow.RegisterOptions{Name: contract.RotateWorkflow})
		}
		for name, fn := range e.activities() {
			w.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name})
		}
		s.must(w.Start())
		t.Cleanup(w.Stop)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	in := rotationInput(t)
	in.Rotation.Login, err = secrets.ParseLoginRef("vault:secret/" + s.prefix)
	s.must(err)
	id := contract.RotationID(in.Rotation.Login)
	e.others, e.lost = 2, 1
	s.must(s.start(ctx, id, contract.RotateWorkflow, in).Get(ctx, nil))
	s.check(ctx, id, "", "rotation-2")
	e.mu.Lock()
	e.refuse = "w2"
	e.pointer.Slot, e.pointer.User = secrets.SlotA, "orders_a" // as the fake's rule has it
	for _, users := range e.valid {
		users["orders_a"] = e.pointer.Version
		delete(users, "orders_b")
	}
	e.mu.Unlock()
	if err := s.start(ctx, id, contract.RotateWorkflow, in).Get(ctx, nil); errorType(err) != contract.RotationRolledBackError {
		t.Fatal(err)
	}
	s.check(ctx, id, "", "rotation-rolled-back-2")
	e.mu.Lock()
	e.refuse = ""
	e.fail = func(a string) error {
		if a == contract.VerifyLoginActivity {
			return temporal.NewNonRetryableApplicationError("denied", "SinkPrivilege", nil)
		}
		return nil
	}
	e.mu.Unlock()
	in.Scheduled = true
	if err := s.start(ctx, id+"/scheduled-1", contract.RotateWorkflow, in).Get(ctx, nil); err == nil || !strings.Contains(err.Error(), "SinkPrivilege") {
		t.Fatal(err)
	}
	s.check(ctx, id, "", "rotation-compensated-2")
	s.check(ctx, id+"/scheduled-1", "", "rotation-scheduled-2")
	for _, b := range e.broken {
		t.Error(b)
	}
}

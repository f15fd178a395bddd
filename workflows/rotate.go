package workflows

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
)

// RotateSecret gives a login another user and password:
//
//	preflight ─► staging ─► setting ─► verifying ─► promoting ─► adopting ─► revoking ─► rotated
//	    │           └──────────┴────────────┴──────────► compensating ─► as before
//	    └─► as before                          (from adopting, revoking) ─► rolling-back ─► rolled back
//
// Up to the promotion, which is one check-and-set in Vault, whatever fails leaves
// everything as it was: the idle user, of which nobody knows the password, is disabled
// again. After it both logins work until every worker has left the old one and no server
// shows a session of it; what is silent or cut off holds that up, is shown and raises an
// alert, until it is back, is declared gone, or is gone for long. A worker that fails with
// the new login, a cancellation and the update rollback put the old one in force again.
// Once the old user is disabled anywhere there is no way back, and none is needed.
func RotateSecret(ctx workflow.Context, in contract.RotateInput) (contract.Rotated, error) {
	if in.Scheduled {
		return rotateOne(ctx, in)
	}
	in.Who = cmp.Or(in.Who, "unknown")
	run := workflow.GetInfo(ctx).WorkflowExecution.RunID
	r := &rotation{task: contract.RotationTask{RotateInput: in, Run: run}, workers: map[string]*contract.ConsumerState{}, seen: map[string]time.Time{}, gone: map[string]bool{}}
	r.res = contract.Rotated{Login: in.Rotation.Login, Run: run, Who: in.Who, Reason: in.Reason, Targets: []string{}, Uses: []contract.LoginUse{},
		Consumers: []contract.ConsumerState{}, Steps: []contract.RotationTook{}, Began: workflow.Now(ctx).UTC()}
	if err := in.Rotation.Check(); err != nil {
		return r.res, temporal.NewNonRetryableApplicationError("the declaration of the rotation has mistakes: "+err.Error(), contract.RefusedError, nil)
	}
	r.task.Rotation = in.Rotation
	if err := r.handlers(ctx); err != nil {
		return r.res, err
	}
	r.byLook = workflow.GetVersion(ctx, "silence-by-last-look", workflow.DefaultVersion, 1) >= 1
	err := r.run(ctx)
	r.enter(ctx, contract.RotationDone)
	r.res.Ended = workflow.Now(ctx).UTC()
	last, _ := workflow.NewDisconnectedContext(ctx)
	if !in.Plan {
		// Also after a failure: the next one must be able to begin.
		if cerr := workflow.ExecuteActivity(patient(last, 0, "let others begin"), contract.CloseRotationActivity, r.task).Get(last, nil); cerr != nil {
			r.left("the lock of " + in.Rotation.Login.String() + " in Vault stays: " + reason(cerr))
		}
		r.res.Failure = failure(err, string(r.failedIn))
		r.record(last)
	}
	return r.res, err
}

// rotateOne lets a rotation go on under the id that names the login, of which there is one
// at a time.
func rotateOne(ctx workflow.Context, in contract.RotateInput) (out contract.Rotated, err error) {
	id := contract.RotationID(in.Rotation.Login)
	in.Scheduled = false
	ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID: id, WaitForCancellation: true, ParentClosePolicy: enumspb.PARENT_CLOSE_POLICY_ABANDON,
		StaticSummary: "rotation of " + in.Rotation.Login.String(),
	})
	err = workflow.ExecuteChildWorkflow(ctx, contract.RotateWorkflow, in).Get(ctx, &out)
	if temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		return out, temporal.NewNonRetryableApplicationError("the login "+in.Rotation.Login.String()+" is being rotated: see "+id, contract.RefusedError, nil)
	}
	return out, err
}

type rotation struct {
	task     contract.RotationTask
	res      contract.Rotated
	entered  time.Time
	failedIn contract.RotationPhase

	workers map[string]*contract.ConsumerState
	seen    map[string]time.Time // when each worker last asked for work
	looked  time.Time            // when that was last seen
	byLook  bool                 // whether silence is told by it
	gone    map[string]bool      // by an operator: workers, and target/<name>
	back    bool                 // an operator wants the old login
	end     bool                 // an operator wants its sessions ended
	revoked bool                 // the old user is disabled somewhere
	noted   time.Time            // when it was last recorded that it is held up
}

func (r *rotation) handlers(ctx workflow.Context) error {
	if err := workflow.SetQueryHandler(ctx, contract.StatusQuery, func() (contract.Rotated, error) { return r.status(), nil }); err != nil {
		return err
	}
	may := func() error {
		switch {
		case r.res.Phase == contract.RotationDone:
			return refuse("the rotation is over")
		case r.res.Phase != contract.RotationAdopting && r.res.Phase != contract.RotationRevoking:
			return refuse("the rotation is %s: nothing is promoted that could be put back; cancel it, and everything is as before", r.res.Phase)
		case r.revoked:
			return refuse("the old user is disabled already: there is no way back but another rotation")
		}
		return nil
	}
	err := workflow.SetUpdateHandlerWithOptions(ctx, contract.RollbackUpdate, func(ctx workflow.Context) error {
		r.back = true
		return nil
	}, workflow.UpdateHandlerOptions{Validator: may, Description: "puts the old login in force again"})
	if err != nil {
		return err
	}
	err = workflow.SetUpdateHandlerWithOptions(ctx, contract.DeclareGoneUpdate, func(ctx workflow.Context, name string) error {
		r.gone[name] = true
		return nil
	}, workflow.UpdateHandlerOptions{Validator: func(name string) error {
		target, is := strings.CutPrefix(name, "target/")
		if r.workers[name] == nil && !(is && slices.Contains(r.res.Targets, target)) {
			return refuse("no worker or target/<name> of the rotation is called %q; it has %s", name, strings.Join(r.names(), ", "))
		}
		return nil
	}, Description: "a worker, or target/<name>, is not waited for any longer"})
	if err != nil {
		return err
	}
	return workflow.SetUpdateHandlerWithOptions(ctx, contract.EndSessionsUpdate, func(workflow.Context) error {
		r.end = true
		return nil
	}, workflow.UpdateHandlerOptions{Description: "ends the sessions of the old login, whoever has them, once the workers have left it"})
}

func (r *rotation) names() (all []string) {
	all = workflow.DeterministicKeys(r.workers)
	for _, t := range r.res.Targets {
		all = append(all, "target/"+t)
	}
	return all
}

func (r *rotation) status() contract.Rotated {
	out := r.res
	out.Consumers = []contract.ConsumerState{}
	for _, name := range workflow.DeterministicKeys(r.workers) {
		out.Consumers = append(out.Consumers, *r.workers[name])
	}
	return out
}

// enter begins a phase, and notes how long the one before took.
func (r *rotation) enter(ctx workflow.Context, p contract.RotationPhase) {
	now := workflow.Now(ctx)
	if r.res.Phase != "" {
		r.res.Steps = append(r.res.Steps, contract.RotationTook{Phase: r.res.Phase, Seconds: now.Sub(r.entered).Seconds()})
	}
	r.res.Phase, r.entered, r.noted, r.res.Held = p, now, now, ""
	r.show(ctx)
}

func (r *rotation) show(ctx workflow.Context) {
	r.res.Consumers = r.status().Consumers
	var b strings.Builder
	fmt.Fprintf(&b, "**%s** of `%s`", r.res.Phase, r.res.Login)
	if r.res.To.Generation > 0 {
		fmt.Fprintf(&b, ": generation %d (%s) → %d (%s)", r.res.From.Generation, r.res.From.User, r.res.To.Generation, r.res.To.User)
	}
	b.WriteString("\n")
	if r.res.Held != "" {
		fmt.Fprintf(&b, "\n**waits**: %s\n", r.res.Held)
	}
	for _, c := range r.res.Consumers {
		fmt.Fprintf(&b, "\n- %s: generation %d", c.Worker, c.Generation)
		if why := cmp.Or(c.Gone, c.Held, c.Failed); why != "" {
			b.WriteString(", " + why)
		}
	}
	workflow.SetCurrentDetails(ctx, b.String())
}

func (r *rotation) left(what string) { r.res.Left = append(r.res.Left, what) }

// record keeps the outcome in analytics; it holds up nothing.
func (r *rotation) record(ctx workflow.Context) {
	r.res.Consumers = r.status().Consumers
	_ = workflow.ExecuteActivity(short(ctx, "record the rotation", 3), contract.NoteRotationActivity, contract.RotationNote{RotationTask: r.task, Result: r.res}).Get(ctx, nil)
}

// hold says what is waited for. Beyond the rotation's patience it is an alert.
func (r *rotation) hold(ctx workflow.Context, why string) {
	if workflow.Now(ctx).Sub(r.entered) >= r.task.Rotation.Patience.Std() {
		if r.res.Held != why || workflow.Now(ctx).Sub(r.noted) >= time.Minute {
			r.noted = workflow.Now(ctx)
			r.res.Held = why
			r.show(ctx)
			r.record(ctx)
		}
		return
	}
	r.show(ctx)
}

// pause lets time pass before what holds up a rotation is looked at again, the more the
// longer it has lasted, unless an operator says something meanwhile.
func (r *rotation) pause(ctx workflow.Context) error {
	lasted := workflow.Now(ctx).Sub(r.entered)
	back, end, gone := r.back, r.end, len(r.gone)
	_, err := workflow.AwaitWithTimeout(ctx, min(max(again, lasted/8), rarely), func() bool { return r.back != back || r.end != end || len(r.gone) != gone })
	return err
}

// patient is short, tried for so long; 0: until it succeeds or cannot.
func patient(ctx workflow.Context, d time.Duration, summary string) workflow.Context {
	ctx = short(ctx, summary, 0)
	o := workflow.GetActivityOptions(ctx)
	o.StartToCloseTimeout, o.ScheduleToCloseTimeout = time.Minute, d
	o.RetryPolicy.MaximumInterval = 3 * time.Second
	return workflow.WithActivityOptions(ctx, o)
}

// looking is for what is asked again and again: what holds it up is known soon, and an answer
// that takes long is waited for.
func looking(ctx workflow.Context) workflow.Context {
	o := workflow.GetActivityOptions(ctx)
	o.RetryPolicy.MaximumAttempts = 3
	return workflow.WithActivityOptions(ctx, o)
}

// at is for an activity of one worker, which may be away.
func (r *rotation) at(ctx workflow.Context, worker string, bound time.Duration, summary string) workflow.Context {
	ctx = patient(ctx, bound, summary)
	o := workflow.GetActivityOptions(ctx)
	o.TaskQueue = contract.OwnQueue(contract.QueuePrefix(workflow.GetInfo(ctx).TaskQueueName), worker)
	// A worker that is there takes it at once; its queue is of no use to another one.
	o.ScheduleToStartTimeout = min(bound, silence)
	o.WaitForCancellation = true
	return workflow.WithActivityOptions(ctx, o)
}

const (
	// silence is after how long a worker counts as silent.
	silence = 10 * time.Second
	// polled is how old the last request for work of a living worker is at most: a poll
	// lasts a minute.
	polled = 90 * time.Second
	// again is how often a worker or server that holds up a rotation is asked again, at
	// first; rarely is how often when it has lasted: the history has room for weeks of that.
	again  = 2 * time.Second
	rarely = 5 * time.Minute
)

func (r *rotation) run(ctx workflow.Context) error {
	r.enter(ctx, contract.RotationPreflight)
	if err := r.preflight(ctx); err != nil {
		return r.failed(ctx, err)
	}
	if r.task.Plan {
		r.res.Outcome = contract.PlannedOutcome
		return nil
	}
	if err := r.prepare(ctx); err != nil {
		return r.compensate(ctx, r.failed(ctx, err))
	}
	r.enter(ctx, contract.RotationPromoting)
	// Its outcome has to be known, whatever happens: nothing is put back before.
	sure, _ := workflow.NewDisconnectedContext(ctx)
	to := r.task.To
	if err := workflow.ExecuteActivity(patient(sure, 0, "move the pointer"), contract.PromoteLoginActivity, r.task).Get(sure, &r.task.To); err != nil {
		return r.compensate(ctx, r.failed(ctx, err))
	}
	r.task.To.User = to.User
	r.res.To = r.task.To
	r.enter(ctx, contract.RotationAdopting)
	if why := r.adopt(ctx, r.task.To, true); why != nil {
		return r.rollBack(ctx, r.failed(ctx, why))
	}
	r.enter(ctx, contract.RotationRevoking)
	if why := r.revoke(ctx, r.task.From, true); why != nil {
		return r.rollBack(ctx, r.failed(ctx, why))
	}
	r.res.Outcome = contract.RotatedOutcome
	return nil
}

func (r *rotation) failed(ctx workflow.Context, err error) error {
	if r.failedIn == "" {
		r.failedIn = r.res.Phase
	}
	return err
}

// preflight finds out whether the rotation can come to its end, and locks the login.
func (r *rotation) preflight(ctx workflow.Context) error {
	var opened contract.RotationOpened
	if err := workflow.ExecuteActivity(patient(ctx, r.task.Rotation.Patience.Std(), "look at Vault and the servers"), contract.OpenRotationActivity, r.task).Get(ctx, &opened); err != nil {
		return err
	}
	r.task.From, r.task.Uses = opened.From, opened.Uses
	r.task.To = contract.RotationPoint{User: opened.Idle}
	r.task.To.Slot, r.task.To.Generation, r.task.To.Rotation = opened.From.Slot.Other(), opened.From.Generation+1, r.task.Run
	r.res.From, r.res.To, r.res.Targets, r.res.Uses = r.task.From, r.task.To, opened.Targets, opened.Uses
	if err := r.find(ctx); err != nil {
		return err
	}
	return r.each(ctx, "see that it is on the generation in force", func(ctx workflow.Context, worker string) error {
		st, err := r.answer(ctx, worker, silence, contract.LoginStateActivity, r.task)
		switch {
		case err != nil:
			return err
		case st.Used && st.Generation != r.task.From.Generation:
			return consumerFailed("worker %s is on generation %d of %s, and %d is in force: see its log", worker, st.Generation, r.res.Login, r.task.From.Generation)
		case st.Failed != "":
			return consumerFailed("worker %s cannot read %s: %s", worker, r.res.Login, st.Failed)
		}
		return nil
	})
}

func consumerFailed(format string, args ...any) error {
	return temporal.NewNonRetryableApplicationError(fmt.Sprintf(format, args...), contract.ConsumerFailedError, nil)
}

// prepare is all that comes before the pointer is moved.
func (r *rotation) prepare(ctx workflow.Context) error {
	patience := r.task.Rotation.Patience.Std()
	r.enter(ctx, contract.RotationStaging)
	var staged contract.RotationPoint
	if err := workflow.ExecuteActivity(patient(ctx, patience, "write the new login to Vault"), contract.StageLoginActivity, r.task).Get(ctx, &staged); err != nil {
		return err
	}
	r.task.To = staged
	r.res.To = staged
	r.enter(ctx, contract.RotationSetting)
	if err := r.targets(ctx, func(ctx workflow.Context, target string) error {
		return workflow.ExecuteActivity(patient(ctx, patience, "set the password at "+target), contract.SetLoginActivity, r.step(target, r.task.To)).Get(ctx, nil)
	}); err != nil {
		return err
	}
	r.enter(ctx, contract.RotationVerifying)
	if err := r.find(ctx); err != nil { // some may have come meanwhile
		return err
	}
	if err := r.each(ctx, "log in with the new login", func(ctx workflow.Context, worker string) error {
		st, err := r.answer(ctx, worker, patience, contract.VerifyLoginActivity, r.step("", r.task.To))
		if err == nil {
			r.workers[worker].As = st.As
		}
		return err
	}); err != nil {
		return err
	}
	return ctx.Err()
}

func (r *rotation) step(target string, subject contract.RotationPoint) contract.RotationStep {
	s := contract.RotationStep{RotationTask: r.task, Target: target, Subject: subject}
	if target == "" {
		for _, t := range r.res.Targets {
			if r.gone["target/"+t] {
				s.Gone = append(s.Gone, t)
			}
		}
	}
	return s
}

// find looks which workers there are. Those that were there before stay in mind.
func (r *rotation) find(ctx workflow.Context) error {
	var found []contract.Consumer
	if err := workflow.ExecuteActivity(patient(ctx, r.task.Rotation.Patience.Std(), "see which workers there are"), contract.FindConsumersActivity, r.task).Get(ctx, &found); err != nil {
		return err
	}
	r.looked = workflow.Now(ctx)
	for _, c := range found {
		r.seen[c.Worker] = c.Seen
		if r.workers[c.Worker] == nil {
			r.workers[c.Worker] = &contract.ConsumerState{Worker: c.Worker}
		}
	}
	return nil
}

// ask lets a worker do something on its own queue, and keeps what it says of itself.
func (r *rotation) ask(ctx workflow.Context, worker, activity string, in any) (st contract.ConsumerState, err error) {
	err = workflow.ExecuteActivity(ctx, activity, in).Get(ctx, &st)
	if err != nil {
		return st, err
	}
	known := r.workers[worker]
	st.As, st.Gone = known.As, known.Gone
	*known = st
	known.Worker = worker
	return st, nil
}

// answer asks a worker until it answers. One that is silent and has asked Temporal for no
// work for longer than a poll lasts was killed, or has ended: Temporal forgets it later.
func (r *rotation) answer(ctx workflow.Context, worker string, bound time.Duration, activity string, in any) (st contract.ConsumerState, err error) {
	for began := workflow.Now(ctx); r.workers[worker].Gone == ""; {
		if st, err = r.ask(r.at(ctx, worker, bound, worker), worker, activity, in); err == nil || !temporal.IsTimeoutError(err) && errorType(err) != contract.WorkerStoppedError || ctx.Err() != nil {
			return st, err
		}
		// Whatever the patience, a worker that was killed a moment ago fails no rotation.
		if workflow.Now(ctx).Sub(began) >= max(r.task.Rotation.Patience.Std(), polled+silence) {
			return st, err
		}
		if ferr := r.find(ctx); ferr != nil {
			return st, ferr
		}
		if workflow.Now(ctx).Sub(r.seen[worker]) > polled {
			r.workers[worker].Gone = "silent before the promotion"
			return st, nil
		}
		if serr := workflow.Sleep(ctx, again); serr != nil {
			return st, serr
		}
	}
	return st, nil
}

// each asks all workers side by side. It gives the first error, by name.
func (r *rotation) each(ctx workflow.Context, what string, f func(workflow.Context, string) error) error {
	names := workflow.DeterministicKeys(r.workers)
	if len(names) == 0 {
		return consumerFailed("no worker is there to %s: this one should be; is its fleet queue polled?", what)
	}
	return sideBySide(ctx, names, func(ctx workflow.Context, worker string) error {
		err := f(ctx, worker)
		if err == nil || ctx.Err() != nil || errorType(err) == contract.ConsumerFailedError {
			return err
		}
		return consumerFailed("worker %s does not %s: %s (fix: see that it runs and what its log says; if it does not run any more, Temporal forgets it within five minutes)", worker, what, reason(err))
	})
}

// targets does something at all targets that are not declared gone, side by side.
func (r *rotation) targets(ctx workflow.Context, f func(workflow.Context, string) error) error {
	return sideBySide(ctx, slices.DeleteFunc(slices.Clone(r.res.Targets), func(t string) bool { return r.gone["target/"+t] }), f)
}

func sideBySide(ctx workflow.Context, names []string, f func(workflow.Context, string) error) error {
	errs := make([]error, len(names))
	wg := workflow.NewWaitGroup(ctx)
	for i, name := range names {
		wg.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer wg.Done()
			errs[i] = f(ctx, name)
		})
	}
	wg.Wait(ctx)
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// adopt waits until every worker has moved all of its connections to a generation. It
// gives up, with the reason, only if that may be: then the login of before is put back.
func (r *rotation) adopt(ctx workflow.Context, to contract.RotationPoint, may bool) error {
	done := map[string]bool{}
	for {
		if err := r.find(ctx); err != nil && ctx.Err() == nil {
			r.hold(ctx, "it cannot be seen which workers there are: "+reason(err))
		}
		var refused error
		names := slices.DeleteFunc(workflow.DeterministicKeys(r.workers), func(w string) bool { return done[w] || r.isGone(ctx, w) })
		err := sideBySide(ctx, names, func(ctx workflow.Context, worker string) error {
			st, err := r.ask(looking(r.at(ctx, worker, time.Minute, worker)), worker, contract.AdoptLoginActivity, r.step("", to))
			switch {
			case err == nil:
				done[worker] = true
				r.workers[worker].As = st.As
			case errorType(err) == contract.ConsumerFailedError:
				refused = err
			default:
				r.workers[worker].Held = reason(err)
			}
			return nil
		})
		switch {
		case err != nil:
			return err
		case refused != nil && may:
			return refused
		case r.back && may:
			return temporal.NewNonRetryableApplicationError("an operator wants the old login", contract.RotationRolledBackError, nil)
		case ctx.Err() != nil && may:
			return ctx.Err()
		}
		waiting := slices.DeleteFunc(workflow.DeterministicKeys(r.workers), func(w string) bool { return done[w] || r.isGone(ctx, w) })
		if len(waiting) == 0 {
			return nil
		}
		r.hold(ctx, "worker "+waiting[0]+" has not left the login of before: "+cmp.Or(r.workers[waiting[0]].Held, "not heard of"))
		if err := r.pause(ctx); err != nil && may {
			return err
		}
	}
}

// isGone reports whether a worker is not waited for: it is declared gone, or has not
// asked for work for long. What it may still have open at the servers is looked at then.
func (r *rotation) isGone(ctx workflow.Context, worker string) bool {
	w, gone := r.workers[worker], r.task.Rotation.Gone.Std()
	silent := workflow.Now(ctx).Sub(r.seen[worker])
	if r.byLook {
		// A round may take minutes, or Temporal not say who is there: nobody is gone by that.
		// And a worker at rest is not silent between two of its requests.
		silent, gone = r.looked.Sub(r.seen[worker]), max(gone, polled)
	}
	switch {
	case r.gone[worker]:
		w.Gone = "declared gone"
	case w.Gone != "" && silent < polled: // it is back
		w.Gone = ""
	case silent >= gone:
		w.Gone = "not heard of for " + silent.Round(time.Second).String()
	}
	return w.Gone != ""
}

// revoke disables a user at every target once none of them shows a session of it.
func (r *rotation) revoke(ctx workflow.Context, who contract.RotationPoint, may bool) error {
	for {
		var shown []string
		err := r.targets(ctx, func(ctx workflow.Context, target string) error {
			var s contract.LoginSessions
			err := workflow.ExecuteActivity(looking(patient(ctx, time.Minute, "look for sessions at "+target)), contract.LoginSessionsActivity, r.step(target, who)).Get(ctx, &s)
			switch {
			case err != nil:
				shown = append(shown, "target "+target+" cannot be asked: "+reason(err))
			case s.Count > 0 && !r.end && !r.task.Leaked:
				shown = append(shown, fmt.Sprintf("target %s shows %d sessions of %s: %s", target, s.Count, who.User, strings.Join(s.Of, "; ")))
			}
			return nil
		})
		switch {
		case err != nil && may:
			return err
		case r.back && may:
			return temporal.NewNonRetryableApplicationError("an operator wants the old login", contract.RotationRolledBackError, nil)
		case ctx.Err() != nil && may:
			return ctx.Err()
		}
		if len(shown) == 0 {
			break
		}
		slices.Sort(shown)
		r.hold(ctx, strings.Join(shown, "; "))
		if err := r.pause(ctx); err != nil && may {
			return err
		}
	}
	// From here it goes forward only, also if somebody cancels.
	r.revoked = may
	sure, _ := workflow.NewDisconnectedContext(ctx)
	waiting := map[string]bool{}
	for _, t := range r.res.Targets {
		waiting[t] = true
	}
	for {
		err := r.targets(sure, func(ctx workflow.Context, target string) error {
			if !waiting[target] {
				return nil
			}
			step := r.step(target, who)
			step.End = r.end || r.task.Leaked
			err := workflow.ExecuteActivity(looking(patient(ctx, time.Minute, "disable "+who.User+" at "+target)), contract.DisableLoginActivity, step).Get(ctx, nil)
			if err == nil {
				delete(waiting, target)
			}
			return err
		})
		for _, t := range workflow.DeterministicKeys(r.gone) {
			if name, is := strings.CutPrefix(t, "target/"); is && waiting[name] {
				r.left("user " + who.User + " may still log in at target " + name + ", which was declared gone")
				delete(waiting, name)
			}
		}
		if len(waiting) == 0 {
			return nil
		}
		r.hold(sure, "user "+who.User+" is not disabled everywhere: "+reason(err))
		_ = r.pause(sure)
	}
}

// compensate leaves everything as it was before.
func (r *rotation) compensate(ctx workflow.Context, why error) error {
	sure, _ := workflow.NewDisconnectedContext(ctx)
	r.enter(sure, contract.RotationCompensating)
	if r.task.To.Version > 0 { // something was staged, and may have been set
		_ = r.targets(sure, func(ctx workflow.Context, target string) error {
			err := workflow.ExecuteActivity(patient(ctx, 2*r.task.Rotation.Patience.Std(), "disable "+r.task.To.User+" at "+target), contract.DisableLoginActivity, r.step(target, r.task.To)).Get(ctx, nil)
			if err != nil {
				r.left("user " + r.task.To.User + " may still log in at target " + target + ": " + reason(err) + "; the next rotation sets it anew")
			}
			return nil
		})
	}
	r.res.Outcome = contract.CompensatedOutcome
	if temporal.IsCanceledError(why) {
		return why
	}
	return temporal.NewNonRetryableApplicationError("the rotation did not get to its promotion, and everything is as before: "+reason(why), contract.RotationFailedError, why)
}

// rollBack puts the old login in force again, as a generation of its own.
func (r *rotation) rollBack(ctx workflow.Context, why error) error {
	sure, _ := workflow.NewDisconnectedContext(ctx)
	r.enter(sure, contract.RotationRollingBack)
	back := r.task
	back.From, back.To = r.task.To, r.task.From
	back.To.Generation, back.To.Rotation, back.To.Lock = r.task.To.Generation+1, r.task.Run, r.task.Run
	var now contract.RotationPoint
	if err := workflow.ExecuteActivity(patient(sure, 0, "move the pointer back"), contract.PromoteLoginActivity, back).Get(sure, &now); err != nil {
		r.left("the pointer of " + r.res.Login.String() + " could not be moved back: " + reason(err))
		return temporal.NewNonRetryableApplicationError("the rotation failed, and could not be rolled back: both logins work: "+reason(why), contract.RotationRolledBackError, why)
	}
	now.User = r.task.From.User
	undone := r.task.To
	r.res.From, r.res.To = undone, now
	for _, name := range workflow.DeterministicKeys(r.workers) {
		w := r.workers[name]
		w.Held = ""
	}
	_ = r.adopt(sure, now, false)
	_ = r.revoke(sure, undone, false)
	r.res.Outcome = contract.RolledBackOutcome
	if temporal.IsCanceledError(why) {
		return why
	}
	return temporal.NewNonRetryableApplicationError("the rotation was rolled back, and the old login is in force: "+reason(why), contract.RotationRolledBackError, why)
}

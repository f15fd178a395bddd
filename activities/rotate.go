package activities

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/analytics"
	"syncline/dataplane/fault"
	"syncline/dataplane/login"
	"syncline/pipeline"
	"syncline/secrets"
	rotated "syncline/secrets/target"
	"syncline/secrets/target/servers"
)

// Values of secrets go from Vault to the servers and nowhere else: not into answers,
// heartbeats, logs or errors.

// stepped records a step of a rotation, however it ends.
func (a *Activities) stepped(ctx context.Context, in *contract.RotationTask, step, consumer string, generation int64, began time.Time, err error) {
	if ctx.Err() != nil || in.Plan {
		return // given up by Temporal, which lets another attempt tell; or nothing was done
	}
	row := &analytics.Rotations{Time: time.Now().UTC(), Secret: in.Rotation.Login.Path(), Run: in.Run, Generation: uint64(max(generation, 0)), Step: step,
		Result: analytics.RotationOK, Consumer: consumer, Micros: uint64(max(time.Since(began).Microseconds(), 0))}
	if err != nil {
		row.Result, row.Reason = analytics.RotationRetried, secrets.Redact(err.Error())
	}
	a.Analytics.Put(row)
}

func (a *Activities) rotor(in *contract.RotationTask) *secrets.Rotor {
	return a.Secrets.Rotor(in.Rotation.Login)
}

// OpenRotation locks the login, and finds out whether Vault, servers and their
// administrators can do what the rotation needs. Of a plan it locks nothing.
func (a *Activities) OpenRotation(ctx context.Context, in contract.RotationTask) (out contract.RotationOpened, err error) {
	began := time.Now()
	defer func() { a.stepped(ctx, &in, "preflight", "", out.From.Generation, began, err) }()
	err = brief(ctx, func(ctx context.Context) error {
		rotor := a.rotor(&in)
		if in.Init != "" && !in.Plan {
			if _, err := rotor.Init(ctx, in.Init); err != nil {
				return err
			}
		}
		if err := rotor.Allowed(ctx); err != nil {
			return err
		}
		p, err := rotor.Pointer(ctx)
		if in.Plan && in.Init != "" && fault.Is(err, secrets.CodePointerInvalid) {
			return a.planInit(ctx, &in, &out)
		}
		if err != nil {
			return err
		}
		if !in.Plan {
			broken := in.BreakLock
			if p.Lock != "" && p.Lock != in.Run && a.rotationEnded(ctx, in.Rotation.Login, p.Lock) {
				broken = p.Lock // its workflow ended without unlocking: somebody terminated it
			}
			if p, err = rotor.Lock(ctx, in.Run, broken); err != nil {
				return err
			}
		} else if p.Lock != "" && !a.rotationEnded(ctx, in.Rotation.Login, p.Lock) {
			return fault.Permanent(secrets.CodeLoginLocked, nil, "wait until it has ended", "rotation %s of %s is under way", p.Lock, in.Rotation.Login)
		}
		now, _, err := rotor.Login(ctx, p.Slot, p.Version)
		if err != nil {
			return err
		}
		idle, _, err := rotor.Login(ctx, p.Slot.Other(), 0)
		if err != nil {
			return err
		}
		if idle.User == now.User {
			return fault.Permanent(secrets.CodePointerInvalid, nil, "write another username into the idle slot: vault kv put", "both slots of %s are of user %s", in.Rotation.Login, now.User)
		}
		out.From, out.Idle = contract.RotationPoint{Pointer: p, At: p.At(), User: now.User}, idle.User
		return a.lookAtTargets(ctx, &in, now, &out)
	})
	return out, err
}

// planInit looks at a login that the rotation would make one of two.
func (a *Activities) planInit(ctx context.Context, in *contract.RotationTask, out *contract.RotationOpened) error {
	acc, err := a.Logins.Of(ctx, in.Rotation.Login)
	if err != nil {
		return err
	}
	now, err := acc.Login(ctx)
	if err != nil {
		return err
	}
	out.From = contract.RotationPoint{Pointer: secrets.Pointer{Slot: secrets.SlotA, Generation: now.Generation}, User: now.User}
	out.Idle = in.Init
	return a.lookAtTargets(ctx, in, now, out)
}

// lookAtTargets makes sure that every target can do what a rotation needs, and finds out
// where the login is used.
func (a *Activities) lookAtTargets(ctx context.Context, in *contract.RotationTask, now login.Login, out *contract.RotationOpened) (err error) {
	for i := range in.Rotation.Targets {
		t := &in.Rotation.Targets[i]
		out.Targets = append(out.Targets, t.Name)
		if err := a.atTarget(ctx, in, t.Name, func(ctx context.Context, tg rotated.Target) error {
			if err := tg.Check(ctx, now.User, out.Idle); err != nil {
				return err
			}
			_, err := tg.Try(ctx, now.User, secrets.NewSecret(now.Password))
			return err
		}); err != nil {
			return err
		}
	}
	out.Uses, err = a.loginUses(ctx, in.Rotation.Login)
	return err
}

// rotationEnded reports whether a rotation is known to have ended.
func (a *Activities) rotationEnded(ctx context.Context, l secrets.LoginRef, run string) bool {
	d, err := a.Client.DescribeWorkflowExecution(ctx, contract.RotationID(l), run)
	return err == nil && d.GetWorkflowExecutionInfo().GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
}

// brief runs a short step of the data plane, with heartbeats.
func brief(ctx context.Context, f func(context.Context) error) error {
	return long(ctx, func() any { return nil }, f)
}

// atTarget opens a target of a rotation as its administrator. What fails there names it.
func (a *Activities) atTarget(ctx context.Context, in *contract.RotationTask, name string, f func(context.Context, rotated.Target) error) error {
	i := slices.IndexFunc(in.Rotation.Targets, func(t pipeline.RotationTarget) bool { return t.Name == name })
	if i < 0 {
		return fault.Permanent("TargetMissing", nil, "name a target of the declaration", "the rotation has no target %q", name)
	}
	t := &in.Rotation.Targets[i]
	admin, err := a.Logins.Of(ctx, t.Admin)
	if err != nil {
		return fmt.Errorf("administrator of target %s: %w", name, err)
	}
	as, err := admin.Login(ctx)
	if err != nil {
		return err
	}
	defer admin.Opened(as.Generation)() // its connections are not counted otherwise
	tg, err := a.target(ctx, t, as)
	if err != nil {
		return err
	}
	defer tg.Close()
	return f(ctx, tg)
}

// target opens a target by a login.
func (a *Activities) target(ctx context.Context, t *pipeline.RotationTarget, as login.Login) (rotated.Target, error) {
	spec := rotated.Spec{Name: t.Name, Type: t.Type, Region: t.Region, Host: t.Host, Port: t.Port, Database: t.Database, SSLMode: t.SSLMode, SSLRootCert: t.SSLRootCert,
		Passwordless: t.Passwordless, Protocol: t.Protocol, Cluster: t.Cluster, Brokers: t.Brokers, Mechanism: t.Mechanism, AdminMechanism: t.AdminMechanism}
	var secure *tls.Config
	if t.TLS != nil {
		files, err := a.tls(ctx, t.TLS)
		if err != nil {
			return nil, err
		}
		if secure, err = files.Config(ctx); err != nil {
			return nil, err
		}
	}
	return servers.Open(spec, as, secure, nil)
}

// loginUses finds where these workers and their pipelines use a login.
func (a *Activities) loginUses(ctx context.Context, l secrets.LoginRef) (uses []contract.LoginUse, err error) {
	uses = []contract.LoginUse{}
	if a.AnalyticsStore != nil && a.AnalyticsLogin == l {
		uses = append(uses, contract.LoginUse{End: analyticsEnd})
	}
	names, err := a.runningPipelines(ctx)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		st, err := a.statusOf(ctx, name)
		if fault.Is(err, CodePipelineMissing) { // it ended meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		s := &st.Spec
		if s.Source.Login == l {
			uses = append(uses, contract.LoginUse{Pipeline: name, End: sourceEnd})
		}
		if s.Kafka.SASL != nil && s.Kafka.SASL.Login == l {
			uses = append(uses, contract.LoginUse{Pipeline: name, End: kafkaEnd})
		}
		for _, k := range s.Sinks {
			if k.Login == l {
				uses = append(uses, contract.LoginUse{Pipeline: name, End: sinkEnd(k.Name)})
			}
		}
	}
	return uses, nil
}

// FindConsumers lists the workers that are there: whoever polls the fleet's queue.
func (a *Activities) FindConsumers(ctx context.Context, in contract.RotationTask) (out []contract.Consumer, err error) {
	err = brief(ctx, func(ctx context.Context) error {
		queue := contract.FleetQueue(contract.QueuePrefix(activity.GetInfo(ctx).TaskQueue))
		d, err := a.Client.DescribeTaskQueueEnhanced(ctx, client.DescribeTaskQueueEnhancedOptions{
			TaskQueue: queue, ReportPollers: true, TaskQueueTypes: []client.TaskQueueType{client.TaskQueueTypeActivity},
		})
		if err != nil {
			return fault.Transient("TemporalUnreachable", err, "see which workers poll %s", queue)
		}
		last := map[string]time.Time{}
		//lint:ignore SA1019 nothing else tells the pollers of all partitions
		for _, v := range d.VersionsInfo {
			for _, p := range v.TypesInfo[client.TaskQueueTypeActivity].Pollers {
				if at := p.LastAccessTime; at.After(last[p.Identity]) {
					last[p.Identity] = at
				}
			}
		}
		for w, at := range last {
			out = append(out, contract.Consumer{Worker: w, Seen: at.UTC()})
		}
		slices.SortFunc(out, func(a, b contract.Consumer) int { return cmp.Compare(a.Worker, b.Worker) })
		return nil
	})
	return out, err
}

// StageLogin writes the new login to Vault: a password that is made here, once, and that
// a repetition finds there.
func (a *Activities) StageLogin(ctx context.Context, in contract.RotationTask) (out contract.RotationPoint, err error) {
	began := time.Now()
	defer func() { a.stepped(ctx, &in, "stage", "", in.To.Generation, began, err) }()
	err = brief(ctx, func(ctx context.Context) error {
		version, err := a.rotor(&in).Stage(ctx, in.To.Slot, in.To.Generation, in.Run, func() (login.Login, error) {
			return login.Login{User: in.To.User, Password: rotated.NewPassword(in.Rotation.Length).Reveal()}, nil
		})
		out = in.To
		out.Version = version
		return err
	})
	return out, err
}

// subject reads the login that a step is about.
func (a *Activities) subject(ctx context.Context, in *contract.RotationStep) (login.Login, error) {
	l, _, err := a.rotor(&in.RotationTask).Login(ctx, in.Subject.Slot, in.Subject.Version)
	l.Generation = in.Subject.Generation
	return l, err
}

// SetLogin sets the password of the idle user at a target, and logs in with it.
func (a *Activities) SetLogin(ctx context.Context, in contract.RotationStep) (err error) {
	began := time.Now()
	defer func() {
		a.stepped(ctx, &in.RotationTask, "set", "target/"+in.Target, in.Subject.Generation, began, err)
	}()
	return brief(ctx, func(ctx context.Context) error {
		l, err := a.subject(ctx, &in)
		if err != nil {
			return err
		}
		return a.atTarget(ctx, &in.RotationTask, in.Target, func(ctx context.Context, tg rotated.Target) error {
			if err := tg.Set(ctx, l.User, secrets.NewSecret(l.Password)); err != nil {
				return err
			}
			_, err := tg.Try(ctx, l.User, secrets.NewSecret(l.Password))
			return err
		})
	})
}

// PromoteLogin moves the pointer: the one moment at which the rotation happens. A move
// that has happened, whatever became of its answer, is a success.
func (a *Activities) PromoteLogin(ctx context.Context, in contract.RotationTask) (out contract.RotationPoint, err error) {
	began := time.Now()
	defer func() { a.stepped(ctx, &in, "promote", "", in.To.Generation, began, err) }()
	err = brief(ctx, func(ctx context.Context) error {
		to := in.To.Pointer
		to.Rotation, to.Lock = in.Run, in.Run
		moved, err := a.rotor(&in).Move(ctx, in.From.Written(in.From.At), to)
		out = contract.RotationPoint{Pointer: moved, At: moved.At(), User: in.To.User}
		return err
	})
	return out, err
}

// LoginSessions says what a target shows of a user.
func (a *Activities) LoginSessions(ctx context.Context, in contract.RotationStep) (out contract.LoginSessions, err error) {
	err = brief(ctx, func(ctx context.Context) error {
		return a.atTarget(ctx, &in.RotationTask, in.Target, func(ctx context.Context, tg rotated.Target) error {
			s, err := tg.Sessions(ctx, in.Subject.User)
			out = contract.LoginSessions{Target: in.Target, Known: s.Known, Count: len(s.Open)}
			for i, one := range s.Open {
				if i == 10 {
					break
				}
				out.Of = append(out.Of, whose(one))
			}
			return err
		})
	})
	return out, err
}

// whose says whose a session is, as well as the server tells.
func whose(s rotated.Session) string {
	text := cmp.Or(s.Application, "unnamed")
	if s.Address != "" {
		text += " from " + s.Address
	}
	if !s.Since.IsZero() {
		text += " since " + s.Since.UTC().Format(time.RFC3339)
	}
	return text
}

// DisableLogin makes sure that nobody can log in at a target as a user, by trying.
func (a *Activities) DisableLogin(ctx context.Context, in contract.RotationStep) (err error) {
	began := time.Now()
	defer func() {
		a.stepped(ctx, &in.RotationTask, "revoke", "target/"+in.Target, in.Subject.Generation, began, err)
	}()
	return brief(ctx, func(ctx context.Context) error {
		l, err := a.subject(ctx, &in)
		if err != nil {
			return err
		}
		return a.atTarget(ctx, &in.RotationTask, in.Target, func(ctx context.Context, tg rotated.Target) error {
			if err := tg.Disable(ctx, l.User); err != nil {
				return err
			}
			if in.End {
				if _, err := tg.End(ctx, l.User); err != nil {
					return err
				}
			}
			_, err := tg.Try(ctx, l.User, secrets.NewSecret(l.Password))
			switch {
			case err == nil:
				return fault.Transient("LoginStillWorks", nil, "user %s can still log in at target %s, though it was disabled there", l.User, in.Target)
			case fault.Is(err, rotated.CodeLogin):
				return nil
			}
			return err
		})
	})
}

// CloseRotation lets other rotations of the login begin.
func (a *Activities) CloseRotation(ctx context.Context, in contract.RotationTask) error {
	return brief(ctx, func(ctx context.Context) error {
		err := a.rotor(&in).Unlock(ctx, in.Run)
		if fault.Is(err, secrets.CodePointerInvalid) || fault.Is(err, secrets.CodeSecretMissing) { // there was never a lock
			return nil
		}
		return err
	})
}

// NoteRotation records how a rotation stands, or how it ended.
func (a *Activities) NoteRotation(_ context.Context, in contract.RotationNote) error {
	row := &analytics.Rotations{Time: time.Now().UTC(), Secret: in.Rotation.Login.Path(), Run: in.Run, Generation: uint64(max(in.Result.To.Generation, 0)),
		Step: analytics.RotationEnd, Result: analytics.RotationOK, Consumer: in.Who, Micros: uint64(max(time.Since(in.Result.Began).Microseconds(), 0)), Reason: in.Result.Outcome}
	switch {
	case in.Result.Held != "":
		row.Result, row.Reason = analytics.RotationHeld, in.Result.Held
	case in.Result.Failure != nil && in.Result.Outcome == contract.CompensatedOutcome && len(in.Result.Left) == 0:
		row.Result, row.Reason = analytics.RotationCompensated, in.Result.Failure.Message
	case in.Result.Failure != nil:
		row.Result, row.Reason = analytics.RotationFailed, in.Result.Failure.Message
	}
	row.Reason = secrets.Redact(row.Reason)
	a.Analytics.Put(row)
	return nil
}

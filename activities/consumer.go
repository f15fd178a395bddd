package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/dataplane/fault"
	"syncline/dataplane/login"
	"syncline/secrets"
	rotated "syncline/secrets/target"
)

// OnFleet are the activities of every worker, on a queue of its own.
func (a *Activities) OnFleet() map[string]any {
	return map[string]any{
		contract.LoginStateActivity:  a.LoginState,
		contract.VerifyLoginActivity: a.VerifyLogin,
		contract.AdoptLoginActivity:  a.AdoptLogin,
	}
}

func (a *Activities) consumer(st secrets.LoginState) contract.ConsumerState {
	return contract.ConsumerState{Worker: a.Worker, Region: a.Region, LoginState: st}
}

// LoginState says how this worker stands with a login, after a look at Vault.
func (a *Activities) LoginState(ctx context.Context, in contract.RotationTask) (contract.ConsumerState, error) {
	a.Logins.Look(ctx, in.Rotation.Login)
	return a.consumer(a.Logins.State(ctx, in.Rotation.Login)), nil
}

// VerifyLogin logs in at every target from where this worker runs, and does there what
// the pipelines need the login for.
func (a *Activities) VerifyLogin(ctx context.Context, in contract.RotationStep) (out contract.ConsumerState, err error) {
	began := time.Now()
	defer func() {
		a.stepped(ctx, &in.RotationTask, "verify", a.Worker, in.Subject.Generation, began, err)
	}()
	err = brief(ctx, func(ctx context.Context) error {
		l, err := a.subject(ctx, &in)
		if err != nil {
			return err
		}
		out = a.consumer(a.Logins.State(ctx, in.Rotation.Login))
		if out.As, err = a.tryEverywhere(ctx, &in, l); err != nil {
			return err
		}
		ctx = context.WithValue(ctx, candidateKey{}, candidate{in.Rotation.Login, login.NewHeld(l)})
		for _, u := range in.Uses {
			if err := a.exercise(ctx, u); err != nil {
				return fmt.Errorf("%s, as user %s: %w", u, l.User, err)
			}
		}
		return nil
	})
	return out, err
}

// tryEverywhere logs in at every target but those that were declared gone. It needs no
// administrator: the workers' policies need not let them read whose logins those are.
func (a *Activities) tryEverywhere(ctx context.Context, in *contract.RotationStep, l login.Login) (map[string]string, error) {
	as := map[string]string{}
	for i := range in.Rotation.Targets {
		t := &in.Rotation.Targets[i]
		if slices.Contains(in.Gone, t.Name) {
			continue
		}
		tg, err := a.target(ctx, t, l)
		if err != nil {
			return as, err
		}
		as[t.Name], err = tg.Try(ctx, l.User, secrets.NewSecret(l.Password))
		tg.Close()
		if err != nil {
			return as, err
		}
	}
	return as, nil
}

// candidate is a login that is tried before it is in force.
type candidate struct {
	ref secrets.LoginRef
	src login.Source
}

type candidateKey struct{}

// login gives the source of a login that may move; nil if none is named.
func (a *Activities) login(ctx context.Context, ref secrets.LoginRef) (login.Source, error) {
	if ref.IsZero() {
		return nil, nil
	}
	if c, ok := ctx.Value(candidateKey{}).(candidate); ok && c.ref == ref {
		return c.src, nil
	}
	acc, err := a.Logins.Of(ctx, ref)
	if err != nil { // without a nil of type *Account
		return nil, err
	}
	return acc, nil
}

// analyticsEnd is where workers record what they do.
const analyticsEnd = "analytics"

// exercise does what a login is needed for, and leaves no trace.
func (a *Activities) exercise(ctx context.Context, u contract.LoginUse) error {
	if u.End == analyticsEnd {
		if a.AnalyticsStore == nil || a.AnalyticsLogin != ctx.Value(candidateKey{}).(candidate).ref {
			return nil // this worker records nothing, or by another login
		}
		s, err := a.openAnalytics(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = s.Close() }() // nothing was written
		return s.Rights(ctx)
	}
	st, err := a.statusOf(ctx, u.Pipeline)
	if fault.Is(err, CodePipelineMissing) {
		return nil
	}
	if err != nil {
		return err
	}
	return a.rights(ctx, &st, u.End)
}

// AdoptLogin brings a generation into force in this worker, and waits until nothing is
// connected by an older one.
func (a *Activities) AdoptLogin(ctx context.Context, in contract.RotationStep) (out contract.ConsumerState, err error) {
	began := time.Now()
	defer func() {
		a.stepped(ctx, &in.RotationTask, "adopt", a.Worker, in.Subject.Generation, began, err)
	}()
	err = brief(ctx, func(ctx context.Context) error {
		bound, cancel := context.WithTimeout(ctx, adoptBound)
		defer cancel()
		st, err := a.Logins.Adopt(bound, in.Rotation.Login, in.Subject.Generation, func(secrets.LoginState) {})
		out = a.consumer(st)
		if err != nil {
			if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				return fault.Transient("LoginNotLeft", nil, "worker %s still has connections of an older login: %v by generation", a.Worker, st.Open)
			}
			return err
		}
		l, _, err := a.rotor(&in.RotationTask).Login(ctx, in.Subject.Slot, in.Subject.Version)
		if err != nil {
			return err
		}
		out.As, err = a.tryEverywhere(ctx, &in, l)
		if fault.Is(err, rotated.CodeLogin) {
			return temporal.NewNonRetryableApplicationError(fmt.Sprintf("worker %s: %s", a.Worker, secrets.Redact(err.Error())), contract.ConsumerFailedError, nil)
		}
		return err
	})
	return out, err
}

// adoptBound is how long one attempt of AdoptLogin waits: the workflow asks again.
const adoptBound = 40 * time.Second

package target

import (
	"context"

	"syncline/dataplane/fault"
	"syncline/dataplane/login"
	"syncline/dataplane/transport/kafka"
	"syncline/secrets"
)

// scramIterations is the least that Kafka takes; its own tools use it, too.
const scramIterations = 4096

// brokers are a Kafka cluster with SCRAM users.
type brokers struct{ o Options }

func openKafka(o Options) (Target, error) {
	b := &brokers{o}
	a, err := kafka.OpenUsers(b.options(o.Admin))
	if err != nil {
		return nil, fault.Permanent(CodeTargetConfig, err, "correct brokers and mechanism", "target %s cannot be connected to", o.Spec.Name)
	}
	a.Close()
	return b, nil
}

func (b *brokers) options(l login.Login) kafka.Options {
	return kafka.Options{Brokers: b.o.Spec.Brokers, Pipeline: "rotation", SASL: kafka.SASL{Mechanism: b.o.Spec.Mechanism, User: l.User, Password: l.Password}, TLS: b.o.TLS, Dial: b.o.Dial, RetryFor: -1}
}

// as runs f by a login.
func (b *brokers) as(ctx context.Context, l login.Login, f func(*kafka.Users) error) error {
	u, err := kafka.OpenUsers(b.options(l))
	if err != nil {
		return err
	}
	defer u.Close()
	err = f(u)
	switch {
	case err == nil:
		return nil
	case fault.Is(err, kafka.CodeLoginRefused):
		return refusedAs(l.User, b.o.Spec.Name, nil)
	case fault.Is(err, kafka.CodeAuth):
		return fault.Permanent(CodeTargetAdmin, err, "allow it ALTER and DESCRIBE on the cluster", "target %s does not let user %s change users", b.o.Spec.Name, l.User)
	}
	return unreachable(ctx, b.o.Spec.Name, err)
}

func (b *brokers) admin(ctx context.Context, f func(*kafka.Users) error) error {
	err := b.as(ctx, b.o.Admin, f)
	if fault.Is(err, CodeLoginRefused) {
		return fault.Permanent(CodeTargetAdmin, err, "correct the administrator's login in Vault", "target %s refuses its administrator", b.o.Spec.Name)
	}
	return err
}

// Check: users need not exist before they are set.
func (b *brokers) Check(ctx context.Context, _ ...string) error {
	if err := b.admin(ctx, func(u *kafka.Users) error { return u.Check(ctx) }); err != nil {
		return err
	}
	wrong, err := nobody()
	if err != nil {
		return err
	}
	_, err = b.Try(ctx, b.o.Admin.User, wrong)
	switch {
	case err == nil:
		return fault.Permanent(CodeTargetOpen, nil, "have the listener ask for SASL", "target %s lets users log in by any password", b.o.Spec.Name)
	case fault.Is(err, CodeLoginRefused):
		return nil
	}
	return err
}

func (b *brokers) Set(ctx context.Context, user string, password secrets.Secret) error {
	of, size := sha(b.o.Spec.Mechanism)
	salt, key, err := salted(of, size, scramIterations, password)
	if err != nil {
		return err
	}
	return b.admin(ctx, func(u *kafka.Users) error {
		return u.Set(ctx, user, b.o.Spec.Mechanism, scramIterations, salt, key)
	})
}

func (b *brokers) Disable(ctx context.Context, user string) error {
	return b.admin(ctx, func(u *kafka.Users) error { return u.Remove(ctx, user, b.o.Spec.Mechanism) })
}

// Try tries every broker: each learns of a user for itself.
func (b *brokers) Try(ctx context.Context, user string, password secrets.Secret) (string, error) {
	err := b.as(ctx, login.Login{User: user, Password: password.Reveal()}, func(u *kafka.Users) error { return u.Try(ctx) })
	if err != nil {
		return "", err
	}
	return "User:" + user, nil
}

// Sessions: brokers do not tell whose connections they have.
func (b *brokers) Sessions(context.Context, string) (Sessions, error) { return Sessions{}, nil }

// End: brokers end no connection; what was opened by a user that is gone ends when its
// connections.max.reauth.ms has passed, if that is set.
func (b *brokers) End(context.Context, string) (int, error) { return 0, nil }

func (b *brokers) Close() {}

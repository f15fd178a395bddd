package servers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"syncline/dataplane/certs"
	"syncline/dataplane/fault"
	"syncline/dataplane/login"
	"syncline/dataplane/transport/kafka"
	"syncline/dataplane/wire"
	"syncline/secrets"
	"syncline/secrets/target"
)

// spread bounds how long brokers may take to learn of a credential.
const spread = 20 * time.Second

// kafkaCluster is a Kafka cluster. It knows a user by its credential, and shows no
// sessions: brokers end them after connections.max.reauth.ms, if that is set, or never.
type kafkaCluster struct {
	spec   target.Spec
	admin  login.Login
	logins *kafka.Logins
}

func newKafka(s target.Spec, admin login.Login, secure *tls.Config, dial wire.Dial) (*kafkaCluster, error) {
	if s.Mechanism == "" {
		s.Mechanism = "scram-sha-512"
	}
	o := kafka.Options{Brokers: s.Brokers, TLS: certs.Fixed(secure), Dial: dial}
	if admin.User != "" { // else it is known by its certificate, or the listener asks for nothing
		o.SASL = kafka.SASL{Mechanism: s.AdminMechanism, User: admin.User, Password: admin.Password}
		if o.SASL.Mechanism == "" {
			o.SASL.Mechanism = s.Mechanism
		}
	}
	l, err := kafka.OpenLogins(o, s.Mechanism)
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", s.Name, err)
	}
	return &kafkaCluster{s, admin, l}, nil
}

func (k *kafkaCluster) Name() string { return k.spec.Name }

func (k *kafkaCluster) Close() { k.logins.Close() }

// Check does not ask that a user is there: it is its credential, which Set makes.
func (k *kafkaCluster) Check(ctx context.Context, users ...string) error {
	ctx, cancel := within(ctx)
	defer cancel()
	for _, user := range users {
		what := fmt.Sprintf("target %s: check", k.spec.Name)
		if _, err := k.logins.Check(ctx, user); err != nil {
			return k.named(err, what)
		}
		// Deleting what nobody has takes the right to alter, and alters nothing.
		if err := k.logins.Delete(ctx, "syncline-check-"+target.NewPassword(27).Reveal()); err != nil {
			return k.named(err, what)
		}
		_, err := k.try(ctx, user, target.NewPassword(32))
		switch {
		case err == nil:
			return fault.Permanent(target.CodeVoid, nil, "name brokers by a listener with SASL/SCRAM", "target %s lets %s in with a wrong password: to revoke one would be void", k.spec.Name, user)
		case !fault.Is(err, target.CodeLogin):
			return err
		}
	}
	return nil
}

func (k *kafkaCluster) Set(ctx context.Context, user string, password secrets.Secret) error {
	if err := fit(password); err != nil {
		return err
	}
	for _, r := range user {
		if r < ' ' || r > '~' {
			return fault.Permanent(target.CodeRefused, nil, "name users in ASCII", "target %s: brokers know no user of other characters than printable ASCII", k.spec.Name)
		}
	}
	ctx, cancel := within(ctx)
	defer cancel()
	what := fmt.Sprintf("target %s: set the password of %s", k.spec.Name, user)
	if err := k.logins.Set(ctx, user, password.Reveal()); err != nil {
		return k.named(err, what)
	}
	return k.learnt(ctx, what, func(took, brokers int) bool { return took == brokers }, user, password)
}

// Disable cannot try the password of before, which it does not know; that the brokers
// have let go of the credential shows in that they refuse one made for the purpose.
func (k *kafkaCluster) Disable(ctx context.Context, user string) error {
	ctx, cancel := within(ctx)
	defer cancel()
	what := fmt.Sprintf("target %s: disable %s", k.spec.Name, user)
	// First a password that nobody knows, which brokers tell by taking it that they have
	// forgotten the one of before; then none.
	nobodys := target.NewPassword(64)
	exists, err := k.logins.Check(ctx, user)
	if err != nil {
		return k.named(err, what)
	}
	if !exists {
		return nil
	}
	if err := k.logins.Set(ctx, user, nobodys.Reveal()); err != nil {
		return k.named(err, what)
	}
	if err := k.learnt(ctx, what, func(took, brokers int) bool { return took == brokers }, user, nobodys); err != nil {
		return err
	}
	if err := k.logins.Delete(ctx, user); err != nil {
		return k.named(err, what)
	}
	return k.learnt(ctx, what, func(took, _ int) bool { return took == 0 }, user, nobodys)
}

// learnt waits until all brokers answer a login as they should.
func (k *kafkaCluster) learnt(ctx context.Context, what string, as func(took, brokers int) bool, user string, password secrets.Secret) error {
	var took, brokers int
	ok, err := k.logins.Wait(ctx, spread, func() (bool, error) {
		var err error
		took, brokers, err = k.logins.Try(ctx, user, password.Reveal())
		if err != nil && !fault.Is(err, kafka.CodeAuth) {
			return false, err
		}
		return as(took, brokers), nil
	})
	if err != nil {
		return k.named(err, what)
	}
	if !ok {
		return fault.Transient(target.CodeSpread, nil, "%s: %d of %d brokers take it, after %s", what, took, brokers, spread)
	}
	return nil
}

func (k *kafkaCluster) Try(ctx context.Context, user string, password secrets.Secret) (string, error) {
	ctx, cancel := within(ctx)
	defer cancel()
	return k.try(ctx, user, password)
}

func (k *kafkaCluster) try(ctx context.Context, user string, password secrets.Secret) (string, error) {
	what := fmt.Sprintf("target %s: log in as %s", k.spec.Name, user)
	took, brokers, err := k.logins.Try(ctx, user, password.Reveal())
	switch {
	case brokers == 0 && err != nil: // the admin's own
		return "", k.named(err, what)
	case err == nil:
		return "User:" + user, nil
	case !fault.Is(err, kafka.CodeAuth):
		return "", fault.Transient(target.CodeUnreachable, err, "%s", what)
	case took > 0: // neither in nor out
		return "", fault.Transient(target.CodeSpread, err, "%s: %d of %d brokers take it", what, took, brokers)
	}
	return "", fault.Permanent(target.CodeLogin, err, "set the password again; the listener must have "+strings.ToUpper(k.spec.Mechanism), "%s", what)
}

// Sessions are not shown by brokers.
func (k *kafkaCluster) Sessions(context.Context, string) (target.Sessions, error) {
	return target.Sessions{}, nil
}

// End is nothing that a broker can be asked for.
func (k *kafkaCluster) End(_ context.Context, user string) (int, error) {
	return 0, fault.Permanent(target.CodeRefused, nil, "restart the clients, or the brokers one by one; connections.max.reauth.ms makes brokers end such sessions by themselves",
		"target %s cannot be asked to end the connections of %s", k.spec.Name, user)
}

// named says of an error of the admin's what it means here.
func (k *kafkaCluster) named(err error, what string) error {
	var f *fault.Error
	if !errors.As(err, &f) {
		return err
	}
	switch {
	case f.Code == kafka.CodeAuth && kafka.MayNot(err):
		return fault.Permanent(target.CodePrivilege, err, "allow User:"+k.admin.User+" DESCRIBE and ALTER on the cluster: kafka-acls.sh --add --cluster --operation Alter --operation Describe --allow-principal User:"+k.admin.User,
			"%s: %s may not change credentials", what, k.admin.User)
	case f.Code == kafka.CodeAuth:
		return fault.Permanent(target.CodeAdmin, err, "correct the admin login of the target, or admin_mechanism", "%s: log in as %s", what, k.admin.User)
	case f.Retry:
		return fault.Transient(target.CodeUnreachable, err, "%s", what)
	case kafka.Unable(err):
		return fault.Permanent(target.CodeRefused, err, "SCRAM credentials are changed by request since Kafka 2.7; with SASL/PLAIN alone, change the brokers' configuration", "%s", what)
	}
	return fault.Permanent(target.CodeRefused, err, "see the brokers' log", "%s", what)
}

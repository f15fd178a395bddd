package kafka

import (
	"context"
	"errors"
	"fmt"

	kgo "github.com/segmentio/kafka-go"

	"syncline/dataplane/fault"
)

// CodeLoginRefused: the brokers refuse user and password, and nothing else.
const CodeLoginRefused fault.Code = "KafkaLoginRefused"

// Users sets and removes the SCRAM credentials of a cluster's users.
type Users struct{ c *cluster }

// OpenUsers prepares connections; they are made by the first call.
func OpenUsers(o Options) (*Users, error) {
	c, err := connect(o)
	if err != nil {
		return nil, err
	}
	return &Users{c}, nil
}

// Close ends the connections.
func (u *Users) Close() { u.c.close() }

func (u *Users) failed(ctx context.Context, err error, what string) error {
	if errors.Is(err, kgo.SASLAuthenticationFailed) {
		return fault.Permanent(CodeLoginRefused, nil, "", "%s: the brokers refuse user %s", what, u.c.opts.SASL.User)
	}
	return classify(ctx, err, what)
}

// Try logs in at every broker.
func (u *Users) Try(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, u.c.opts.RequestTimeout)
	defer cancel()
	m, err := u.c.client.Metadata(ctx, &kgo.MetadataRequest{Topics: []string{}})
	if err != nil {
		return u.failed(ctx, err, "log in")
	}
	for _, b := range m.Brokers {
		one := kgo.Client{Addr: kgo.TCP(fmt.Sprintf("%s:%d", b.Host, b.Port)), Transport: u.c.transport}
		if _, err := one.ApiVersions(ctx, &kgo.ApiVersionsRequest{}); err != nil {
			return u.failed(ctx, err, fmt.Sprintf("log in at broker %d", b.ID))
		}
	}
	return nil
}

// hello finds the brokers: only this says that the login is refused, where a request to one
// of them says that there is none.
func (u *Users) hello(ctx context.Context) error {
	_, err := u.c.client.Metadata(ctx, &kgo.MetadataRequest{Topics: []string{}})
	return err
}

// Check makes sure that the login may look at users.
func (u *Users) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, u.c.opts.RequestTimeout)
	defer cancel()
	if err := u.hello(ctx); err != nil {
		return u.failed(ctx, err, "look at the users")
	}
	res, err := u.c.client.DescribeUserScramCredentials(ctx, &kgo.DescribeUserScramCredentialsRequest{})
	if err == nil && res.Error != nil {
		err = res.Error
	}
	return u.failed(ctx, err, "look at the users")
}

func mechanismOf(name string) kgo.ScramMechanism {
	if name == "scram-sha-256" {
		return kgo.ScramMechanismSha256
	}
	return kgo.ScramMechanismSha512
}

// Set makes a salted password (RFC 5802) a user's.
func (u *Users) Set(ctx context.Context, user, mechanism string, iterations int, salt, salted []byte) error {
	return u.alter(ctx, &kgo.AlterUserScramCredentialsRequest{Upsertions: []kgo.UserScramCredentialsUpsertion{
		{Name: user, Mechanism: mechanismOf(mechanism), Iterations: iterations, Salt: salt, SaltedPassword: salted},
	}}, "set a user's password")
}

// Remove takes a user's password away; one that has none stays as it is.
func (u *Users) Remove(ctx context.Context, user, mechanism string) error {
	err := u.alter(ctx, &kgo.AlterUserScramCredentialsRequest{Deletions: []kgo.UserScramCredentialsDeletion{
		{Name: user, Mechanism: mechanismOf(mechanism)},
	}}, "remove a user's password")
	if errors.Is(err, resourceNotFound) {
		return nil
	}
	return err
}

// resourceNotFound is the broker's answer about a credential that is not there.
const resourceNotFound = kgo.Error(91)

func (u *Users) alter(ctx context.Context, req *kgo.AlterUserScramCredentialsRequest, what string) error {
	ctx, cancel := context.WithTimeout(ctx, u.c.opts.RequestTimeout)
	defer cancel()
	if err := u.hello(ctx); err != nil {
		return u.failed(ctx, err, what)
	}
	res, err := u.c.client.AlterUserScramCredentials(ctx, req)
	if err != nil {
		return u.failed(ctx, err, what)
	}
	for _, r := range res.Results {
		if errors.Is(r.Error, resourceNotFound) {
			return r.Error
		}
		if r.Error != nil {
			return u.failed(ctx, r.Error, what)
		}
	}
	return nil
}

package kafka

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"net"
	"strconv"
	"strings"
	"time"

	kgo "github.com/segmentio/kafka-go"
)

// Logins changes the SCRAM credentials of users, which the brokers know them by.
type Logins struct {
	c         *cluster
	options   Options
	mechanism string
	kind      kgo.ScramMechanism
	hash      func() hash.Hash
}

// OpenLogins prepares connections of an admin, which change credentials of a mechanism:
// scram-sha-256 or scram-sha-512.
func OpenLogins(admin Options, mechanism string) (*Logins, error) {
	if admin.Pipeline == "" {
		admin.Pipeline = "rotation" // of no topic
	}
	l := &Logins{options: admin, mechanism: strings.ToLower(mechanism)}
	switch l.mechanism {
	case "scram-sha-256":
		l.kind, l.hash = kgo.ScramMechanismSha256, sha256.New
	case "scram-sha-512":
		l.kind, l.hash = kgo.ScramMechanismSha512, sha512.New
	default:
		return nil, fmt.Errorf("kafka: mechanism %q: want scram-sha-256 or scram-sha-512", mechanism)
	}
	var err error
	l.c, err = connect(admin)
	return l, err
}

// Close ends the admin's connections.
func (l *Logins) Close() { l.c.close() }

// Check asks for a user's credential, which takes a right of its own (DESCRIBE on the
// cluster), and reports whether it is there.
func (l *Logins) Check(ctx context.Context, user string) (exists bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.c.opts.RequestTimeout)
	defer cancel()
	what := "credential of " + user
	if _, err := l.brokers(ctx); err != nil { // else a refused login shows as a controller that is missing
		return false, err
	}
	res, err := l.c.client.DescribeUserScramCredentials(ctx, &kgo.DescribeUserScramCredentialsRequest{Users: []kgo.UserScramCredentialsUser{{Name: user}}})
	if err == nil {
		err = res.Error
	}
	if err != nil {
		return false, classify(ctx, err, what)
	}
	for _, r := range res.Results {
		if errors.Is(r.Error, kgo.ResourceNotFound) {
			continue
		}
		if r.Error != nil {
			return false, classify(ctx, r.Error, what)
		}
		exists = exists || len(r.CredentialInfos) > 0
	}
	return exists, nil
}

// Set gives a user a password, and takes away one of another mechanism. The brokers are
// told a salted hash of it, and learn of it one after the other.
func (l *Logins) Set(ctx context.Context, user, password string) error {
	const iterations = 8192
	salt := make([]byte, 32)
	_, _ = rand.Read(salt) // never fails
	salted, err := pbkdf2.Key(l.hash, password, salt, iterations, l.hash().Size())
	if err != nil {
		return errors.New("kafka: the password cannot be hashed")
	}
	if err := l.alter(ctx, "set the credential of "+user, &kgo.AlterUserScramCredentialsRequest{Upsertions: []kgo.UserScramCredentialsUpsertion{
		{Name: user, Mechanism: l.kind, Iterations: iterations, Salt: salt, SaltedPassword: salted}}}); err != nil {
		return err
	}
	other := kgo.ScramMechanismSha256
	if l.kind == other {
		other = kgo.ScramMechanismSha512
	}
	return l.delete(ctx, user, other)
}

// Delete takes a user's credentials away, of all mechanisms. One that is not there is
// no error.
func (l *Logins) Delete(ctx context.Context, user string) error {
	// One request each: of two deletions for a user, a missing one would fail the other.
	return errors.Join(l.delete(ctx, user, kgo.ScramMechanismSha256), l.delete(ctx, user, kgo.ScramMechanismSha512))
}

func (l *Logins) delete(ctx context.Context, user string, m kgo.ScramMechanism) error {
	return l.alter(ctx, "delete the credential of "+user, &kgo.AlterUserScramCredentialsRequest{Deletions: []kgo.UserScramCredentialsDeletion{{Name: user, Mechanism: m}}})
}

func (l *Logins) alter(ctx context.Context, what string, req *kgo.AlterUserScramCredentialsRequest) error {
	if _, err := l.brokers(ctx); err != nil {
		return err
	}
	err := l.c.retry(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, l.c.opts.RequestTimeout)
		defer cancel()
		res, err := l.c.client.AlterUserScramCredentials(ctx, req)
		if err != nil {
			return err
		}
		for _, r := range res.Results {
			if r.Error != nil && !errors.Is(r.Error, kgo.ResourceNotFound) {
				return r.Error
			}
		}
		return nil
	})
	return classify(ctx, err, what)
}

// Try logs a user in at each broker. It returns how many took the password; err is of
// the first that did not, CodeAuth if it refused.
func (l *Logins) Try(ctx context.Context, user, password string) (took, brokers int, err error) {
	all, err := l.brokers(ctx)
	if err != nil {
		return 0, 0, err
	}
	var failed error
	for _, addr := range all {
		if err := l.tryAt(ctx, addr, user, password); err == nil {
			took++
		} else if failed == nil || !isAuth(err) {
			failed = err
		}
	}
	return took, len(all), failed
}

func isAuth(err error) bool {
	var k kgo.Error
	return errors.As(err, &k) && (k == kgo.SASLAuthenticationFailed || k == kgo.UnsupportedSASLMechanism || k == kgo.IllegalSASLState)
}

func (l *Logins) brokers(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, l.c.opts.RequestTimeout)
	defer cancel()
	m, err := l.c.client.Metadata(ctx, &kgo.MetadataRequest{})
	if err != nil {
		return nil, classify(ctx, err, "brokers "+strings.Join(l.c.opts.Brokers, ", "))
	}
	var out []string
	for _, b := range m.Brokers {
		out = append(out, net.JoinHostPort(b.Host, strconv.Itoa(b.Port)))
	}
	return out, nil
}

// tryAt has a transport of its own, so that no connection of before serves.
func (l *Logins) tryAt(ctx context.Context, addr, user, password string) error {
	o := l.options
	o.Brokers, o.SASL, o.RetryFor = []string{addr}, SASL{l.mechanism, user, password}, -1
	c, err := connect(o)
	if err != nil {
		return err
	}
	defer c.close()
	ctx, cancel := context.WithTimeout(ctx, c.opts.RequestTimeout)
	defer cancel()
	_, err = c.client.Metadata(ctx, &kgo.MetadataRequest{})
	return classify(ctx, err, "log in at broker "+addr+" as "+user)
}

// Wait calls done every moment until it says so or fails, for a time.
func (l *Logins) Wait(ctx context.Context, limit time.Duration, done func() (bool, error)) (bool, error) {
	end := time.Now().Add(limit)
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		ok, err := done()
		if ok || err != nil || time.Now().Add(wait).After(end) {
			return ok, err
		}
		if !sleep(ctx, wait) {
			return false, ctx.Err()
		}
	}
}

// MayNot reports whether brokers know who asks, and refuse what is asked for.
func MayNot(err error) bool {
	return errors.Is(err, kgo.ClusterAuthorizationFailed) || errors.Is(err, kgo.TopicAuthorizationFailed) || errors.Is(err, kgo.GroupAuthorizationFailed)
}

// Unable reports whether brokers do not know a request.
func Unable(err error) bool { return errors.Is(err, kgo.UnsupportedVersion) }

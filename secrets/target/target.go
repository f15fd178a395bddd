// Package target sets, disables and tries logins at the servers where they exist, for a
// rotation.
//
// # States
//
// A user at a target is idle (nobody can log in as it), or set (its password is known). A
// password travels as what the server stores of it: a SCRAM verifier, a salted hash. So it
// is in no server's log, and in no statistics of statements.
//
//	idle ──Set──► set ──Disable──► idle
//
// Each call is idempotent, and its outcome is made sure of by whoever calls it, by Try.
//
// # Failure
//
// LoginRefused is the server's answer to a login that does not work, and nothing else;
// TargetUnreachable says nothing of it, and may be tried again. What an administrator
// lacks, or a user, is named with the statement that mends it.
package target

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"math/big"
	"time"

	"syncline/dataplane/certs"
	"syncline/dataplane/fault"
	"syncline/dataplane/login"
	"syncline/dataplane/wire"
	"syncline/secrets"
)

// The conditions of a target.
const (
	CodeLoginRefused      fault.Code = "LoginRefused"      // the server does not take user and password
	CodeTargetUnreachable fault.Code = "TargetUnreachable" // no answer; may pass
	CodeTargetAdmin       fault.Code = "TargetAdmin"       // the administrator's login is refused, or lacks a right
	CodeTargetUser        fault.Code = "TargetUser"        // a user is missing, or cannot be changed there
	CodeTargetOpen        fault.Code = "TargetOpen"        // it lets users in whatever their password is
	CodeTargetConfig      fault.Code = "TargetConfig"      // its settings cannot be used
)

// Types of targets.
const (
	Postgres   = "postgres"
	ClickHouse = "clickhouse"
	Kafka      = "kafka"
)

// Spec says which server it is. It holds no secret.
type Spec struct {
	Name, Type string

	Host                 string
	Port                 int
	Database             string
	SSLMode, SSLRootCert string // postgres
	Protocol, Cluster    string // clickhouse

	Brokers   []string // kafka
	Mechanism string   // kafka: scram-sha-256 or scram-sha-512
}

// Options of a target.
type Options struct {
	Spec  Spec
	Admin login.Login
	TLS   *certs.Certs // clickhouse, kafka; nil: none
	Dial  wire.Dial    // default wire.Plain
}

// Session is one that a server shows.
type Session struct {
	Application, Address string
	Since                time.Time
}

func (s Session) String() string {
	text := s.Application
	if text == "" {
		text = "unnamed"
	}
	if s.Address != "" {
		text += " from " + s.Address
	}
	if !s.Since.IsZero() {
		text += " since " + s.Since.UTC().Format(time.RFC3339)
	}
	return text
}

// Sessions are what a server shows of a user.
type Sessions struct {
	Known bool // whether it can tell at all
	Count int
	List  []Session
}

// Target is a server at which logins exist.
type Target interface {
	// Check makes sure that the administrator may do what a rotation needs with the users,
	// and that passwords count there.
	Check(ctx context.Context, users ...string) error
	// Set makes a password the user's, and lets it log in.
	Set(ctx context.Context, user string, password secrets.Secret) error
	// Disable lets nobody log in as the user. What is connected stays so.
	Disable(ctx context.Context, user string) error
	// Try logs in, and tells how the server names who did.
	Try(ctx context.Context, user string, password secrets.Secret) (as string, err error)
	// Sessions shows those of a user.
	Sessions(ctx context.Context, user string) (Sessions, error)
	// End ends them.
	End(ctx context.Context, user string) (ended int, err error)
	Close()
}

// Open checks the options. It does not connect.
func Open(o Options) (Target, error) {
	if o.Dial == nil {
		o.Dial = wire.Plain
	}
	switch o.Spec.Type {
	case Postgres:
		return openPostgres(o)
	case ClickHouse:
		return openClickHouse(o)
	case Kafka:
		return openKafka(o)
	}
	return nil, fault.Permanent(CodeTargetConfig, nil, "use postgres, clickhouse or kafka", "target %s is of type %q", o.Spec.Name, o.Spec.Type)
}

// letters are those that need no quoting in a URL, a shell or a statement.
const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// NewPassword makes one of so many letters and digits: 27 are 160 bits.
func NewPassword(length int) (secrets.Secret, error) {
	if length < 27 {
		return secrets.Secret{}, fmt.Errorf("a password of %d characters: want 27 or more, which are 160 bits", length)
	}
	text := make([]byte, length)
	for i := range text {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(letters))))
		if err != nil {
			return secrets.Secret{}, fmt.Errorf("make a password: %w", err)
		}
		text[i] = letters[n.Int64()]
	}
	return secrets.NewSecret(string(text)), nil
}

// nobody is a password that is forgotten at once.
func nobody() (secrets.Secret, error) { return NewPassword(64) }

// salted is SCRAM's salted password (RFC 5802), by a salt that is made here.
func salted(of func() hash.Hash, size, iterations int, password secrets.Secret) (salt, key []byte, err error) {
	salt = make([]byte, 16)
	if _, err := rand.Read(salt); err != nil {
		return nil, nil, fmt.Errorf("make a salt: %w", err)
	}
	key, err = pbkdf2.Key(of, password.Reveal(), salt, iterations, size)
	return salt, key, err
}

func sha(mechanism string) (func() hash.Hash, int) {
	if mechanism == "scram-sha-256" {
		return sha256.New, sha256.Size
	}
	return sha512.New, sha512.Size
}

func refusedAs(user, target string, cause error) error {
	return fault.Permanent(CodeLoginRefused, cause, "", "target %s does not let user %s log in", target, user)
}

func unreachable(ctx context.Context, target string, cause error) error {
	if ended := fault.Ended(ctx, CodeTargetUnreachable, "target "+target); ended != nil {
		return ended
	}
	return fault.Transient(CodeTargetUnreachable, cause, "target %s", target)
}

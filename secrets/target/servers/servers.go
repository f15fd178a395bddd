// Package servers reaches targets: it logs in with an admin login and changes those of
// users. Each call has a connection of its own, which ends with it: calls are rare, and
// an admin login that rotates too needs no care.
package servers

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/xdg-go/stringprep"

	"syncline/dataplane/fault"
	"syncline/dataplane/login"
	"syncline/dataplane/wire"
	"syncline/secrets"
	"syncline/secrets/target"
)

// callTimeout bounds one call where its caller does not.
const callTimeout = 30 * time.Second

// Open prepares a target; it connects when it is used. secure, if set, is used instead
// of what a Postgres target says of TLS, and makes the others use it. dial may be nil.
func Open(s target.Spec, admin login.Login, secure *tls.Config, dial wire.Dial) (target.Target, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if admin.User == "" && s.Type != target.Kafka {
		return nil, fmt.Errorf("target %q: the admin login names no user", s.Name)
	}
	if dial == nil {
		dial = wire.Plain
	}
	switch s.Type {
	case target.Postgres:
		return newPostgres(s, admin, secure, dial)
	case target.ClickHouse:
		return newClickHouse(s, admin, secure, dial)
	}
	return newKafka(s, admin, secure, dial)
}

// fit reports whether all clients send a password alike. Some apply SASLprep before
// they hash it, some another profile, some none: it must be the same in all.
func fit(password secrets.Secret) error {
	p := password.Reveal()
	const fix = "use printable ASCII characters, or let the rotation make the password"
	switch {
	case p == "":
		return fault.Permanent(target.CodePassword, nil, fix, "the password is empty")
	case len(p) > 512:
		return fault.Permanent(target.CodePassword, nil, fix, "the password has more than 512 bytes")
	case !utf8.ValidString(p):
		return fault.Permanent(target.CodePassword, nil, fix, "the password is no text in UTF-8")
	}
	for _, r := range p {
		if !unicode.IsPrint(r) {
			return fault.Permanent(target.CodePassword, nil, fix, "the password has characters that are not printed")
		}
	}
	// Its errors show what they refuse.
	if prepared, err := stringprep.SASLprep.Prepare(p); err != nil || prepared != p {
		return fault.Permanent(target.CodePassword, nil, fix, "the password has characters that clients send in another form")
	}
	return nil
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// scramVerifier is what Postgres keeps of a password (RFC 5803): who has it can check a
// login and not make one.
func scramVerifier(password string) (string, error) {
	const iterations = 4096
	salt := random(16)
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", errors.New("the password cannot be hashed")
	}
	sum := func(text string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	stored := sha256.Sum256(sum("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(sum("Server Key"))), nil
}

// within bounds a call.
func within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, callTimeout)
}

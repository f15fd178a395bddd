// Package target says at which servers a rotation sets, tries and revokes logins. It
// holds the description and the contract; package servers has those that connect.
//
// # States of a login at a target
//
//	set ──► Try lets in ──► Disable ──► Try refuses; sessions of before stay
//	 ▲                          │               │
//	 └──────── Set ─────────────┘               └──► End ──► none is left
//
// Set and Disable may be repeated: each leads to the same state from every other. A
// login is created with its rights by an operator, never by a rotation, except that
// Kafka knows a user by its credential alone, which Disable deletes.
//
// # Failure
//
// A server that cannot be asked is transient, and says nothing of a login: only
// CodeLoginRefused, which is final, means that a password is not taken. What an
// administrator has to grant or correct is final and shows the statement. A password
// travels as what a server keeps of it (a verifier or a hash), so that no log of
// statements has it; no error shows it.
package target

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"time"

	"syncline/dataplane/fault"
	"syncline/secrets"
)

// Conditions of a target.
const (
	// CodeUnreachable: the target does not answer, or is too busy to. Transient.
	CodeUnreachable fault.Code = "TargetUnreachable"
	// CodeAdmin: the target refuses the admin login.
	CodeAdmin fault.Code = "TargetAdminRefused"
	// CodePrivilege: a login may do less than a rotation needs.
	CodePrivilege fault.Code = "TargetPrivilege"
	// CodeReadOnly: the target is a replica, or keeps this user where no statement changes it.
	CodeReadOnly fault.Code = "TargetReadOnly"
	// CodeRefused: the target refuses a statement for another reason.
	CodeRefused fault.Code = "TargetRefused"
	// CodeVoid: the target lets users in without looking at passwords.
	CodeVoid fault.Code = "RevocationVoid"
	// CodeMissing: a user does not exist.
	CodeMissing fault.Code = "LoginMissing"
	// CodeLogin: the target refuses user and password.
	CodeLogin fault.Code = "LoginRefused"
	// CodeSpread: not all brokers have learnt of a changed credential yet. Transient.
	CodeSpread fault.Code = "LoginNotSpread"
	// CodePassword: the password is none that all clients send in the same form.
	CodePassword fault.Code = "PasswordUnfit"
)

// Target is a server or cluster at which logins exist. Safe for concurrent use.
type Target interface {
	Name() string
	// Check tells whether a rotation of these users would work: that the target answers,
	// that the users exist, that the admin login may set their passwords, and that a
	// wrong password is refused. It changes nothing.
	Check(ctx context.Context, users ...string) error
	// Set gives a user a password, with which it can log in when Set returns.
	Set(ctx context.Context, user string, password secrets.Secret) error
	// Disable keeps everybody from logging in as a user. Sessions that are open stay.
	Disable(ctx context.Context, user string) error
	// Try logs in, on connections of its own, and returns as whom the target knows them.
	Try(ctx context.Context, user string, password secrets.Secret) (as string, err error)
	// Sessions are those that the target shows at the moment.
	Sessions(ctx context.Context, user string) (Sessions, error)
	// End ends the sessions of a user that the target shows, and counts them.
	End(ctx context.Context, user string) (ended int, err error)
	Close()
}

// Sessions are who is logged in as a user.
type Sessions struct {
	// Known is whether the target shows all: without it, that Open is empty proves nothing.
	Known bool
	// Open are the sessions; where a target shows running queries only, those.
	Open []Session
	// Used is when the user last ran something, where the target tells; else zero.
	Used time.Time
}

// Session is one of them; what the target does not tell is empty.
type Session struct {
	ID          string    `json:"id"`
	Application string    `json:"application,omitempty"`
	Address     string    `json:"address,omitempty"`
	Since       time.Time `json:"since,omitzero"`
}

const (
	minPassword = 27 // characters of 6 bits: 162 bits
	maxPassword = 512
)

// NewPassword makes a password of length characters, at least 27, for at least 160 bits
// that nobody guesses. Its characters need no quoting in a URL, a shell or SQL.
func NewPassword(length int) secrets.Secret {
	length = min(max(length, minPassword), maxPassword)
	b := make([]byte, (length*6+7)/8)
	_, _ = rand.Read(b) // never fails
	text := []byte(base64.RawURLEncoding.EncodeToString(b))[:length]
	// A shell takes what begins with a dash for an option.
	for text[0] == '-' || text[0] == '_' {
		_, _ = rand.Read(b[:1])
		text[0] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[b[0]&63]
	}
	return secrets.NewSecret(string(text))
}

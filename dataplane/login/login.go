// Package login says who a connection logs in as, where that may change while the
// connection's owner lives: a rotation gives it another user and password, and what
// streams must neither stop nor fail for it.
//
// # States
//
// A Source has one Login in force, whose Generation grows with each change. A
// connection belongs to the generation that it was opened with, for good. Its owner
// moves by opening another and closing this one, at a point where nothing is lost:
//
//	connected(n) ──► Changed(n) is closed ──► opens n+1, ends what is in flight ──► closes n
//
// A generation is left when no connection of it is open, which is counted where sockets
// are opened and closed (Dial), so that nothing can be forgotten.
//
// # Failure
//
// A server that refuses a login may have been told of another meanwhile. Refused looks
// again, past every cache, and gives what is in force now; if that is what was refused,
// the refusal is final for the moment, and the owner's error. A Source that cannot
// reach where logins are kept goes on with what it has.
package login

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"

	"syncline/dataplane/wire"
)

// Login is what a server is told. It prints without its password.
type Login struct {
	User       string
	Password   string
	Generation int64 // grows with each change; 0: does not change
}

// Format keeps the password out of everything that prints a Login.
func (l Login) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "%s (generation %d)", l.User, l.Generation)
}

// MarshalJSON keeps the password out of JSON.
func (l Login) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, `{"user":%q,"generation":%d}`, l.User, l.Generation), nil
}

var _ fmt.Formatter = Login{}

// Source hands out the login in force. Safe for concurrent use.
type Source interface {
	// Login gives the login in force, from memory where there is one.
	Login(ctx context.Context) (Login, error)
	// Refused is told that a server refused l. It gives what is in force after another
	// look, which may be l again.
	Refused(ctx context.Context, l Login) (Login, error)
	// Changed is closed when another generation than this is in force.
	Changed(generation int64) <-chan struct{}
	// Opened counts a connection of a generation until closed is called.
	Opened(generation int64) (closed func())
}

// Dial opens connections that count as those of a login until they are closed.
func Dial(s Source, l Login, dial wire.Dial) wire.Dial {
	if dial == nil {
		dial = wire.Plain
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		// Before the dial: whoever waits for a generation to be left must not miss one
		// that is being opened.
		closed := s.Opened(l.Generation)
		c, err := dial(ctx, network, addr)
		if err != nil {
			closed()
			return nil, err
		}
		return &conn{Conn: c, closed: sync.OnceFunc(closed)}, nil
	}
}

type conn struct {
	net.Conn
	closed func()
}

// Close is counted also if it fails: there is no connection any more.
func (c *conn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

// SyscallConn lets drivers look whether an idle connection is still there.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	s, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, syscall.ENOTSUP
	}
	return s.SyscallConn()
}

var _ io.Closer = (*conn)(nil)

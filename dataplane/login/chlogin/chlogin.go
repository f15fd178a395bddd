// Package chlogin has connections to ClickHouse follow a login.Source, and certificates
// that are exchanged.
//
// # States
//
// The client library fixes user and password when a pool is opened. So there is a pool for
// the login in force, and the one before is closed when its last call has ended.
//
// # Failure
//
// A server that refuses a login has read nothing of the statement: it is sent once more,
// if another login is in force by then.
package chlogin

import (
	"context"
	"errors"
	"net"
	"net/http"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"syncline/dataplane/certs"
	"syncline/dataplane/login"
	"syncline/dataplane/wire"
)

// Options of Pools. Only Client is needed.
type Options struct {
	Client *ch.Options
	Login  login.Source // in place of the client's user and password; nil: these
	Dial   wire.Dial    // default wire.Plain
	Certs  *certs.Certs // nil: not encrypted; the client's TLS only says whether it is
	// Through wraps the transport of the HTTP protocol.
	Through func(*http.Transport) http.RoundTripper
}

// Pools are the connections to one server. Safe for concurrent use.
type Pools struct {
	o     Options
	pools *login.Pools[driver.Conn]
}

// Open makes what the client library finds wrong with the options an error. It does not
// connect.
func Open(ctx context.Context, o Options) (*Pools, error) {
	if o.Dial == nil {
		o.Dial = wire.Plain
	}
	p := &Pools{o: o}
	p.pools = login.NewPools(o.Login, login.PoolOptions[driver.Conn]{
		Open: p.open, Try: func(ctx context.Context, c driver.Conn) error { return c.Ping(ctx) }, Shut: func(c driver.Conn) { _ = c.Close() },
	})
	_, _, done, err := p.pools.Take(ctx)
	if err != nil {
		p.pools.Close()
		return nil, err
	}
	done()
	return p, nil
}

func (p *Pools) open(l login.Login) (driver.Conn, error) {
	co, dial := *p.o.Client, p.o.Dial
	if p.o.Login != nil {
		co.Auth.Username, co.Auth.Password = l.User, l.Password
		dial = login.Dial(p.o.Login, l, dial)
	}
	within := func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, co.DialTimeout)
		defer cancel()
		return dial(ctx, network, addr)
	}
	secure := p.o.Certs.Dial(within)
	co.DialContext = func(ctx context.Context, addr string) (net.Conn, error) {
		if co.Protocol == ch.HTTP { // whose transport encrypts
			return within(ctx, "tcp", addr)
		}
		return secure(ctx, "tcp", addr)
	}
	co.TransportFunc = func(t *http.Transport) (http.RoundTripper, error) {
		if p.o.Certs != nil {
			t.DialTLSContext = secure
		}
		if p.o.Through == nil {
			return t, nil
		}
		return p.o.Through(t), nil
	}
	return ch.Open(&co)
}

// Refused reports whether a server refused user or password.
func Refused(err error) bool {
	var ex *ch.Exception
	if errors.As(err, &ex) {
		return Refusal(ex.Code)
	}
	var he *ch.HTTPError
	return errors.As(err, &he) && (he.StatusCode == http.StatusUnauthorized || he.StatusCode == http.StatusForbidden)
}

// Refusal reports whether a code of ClickHouse's exceptions is that of a refused login:
// unknown user, password required, wrong password, authentication failed.
func Refusal(code int32) bool { return code == 192 || code == 193 || code == 194 || code == 516 }

// With runs f with the pool of the login in force.
func (p *Pools) With(ctx context.Context, f func(driver.Conn) error) error {
	for first := true; ; first = false {
		pool, l, done, err := p.pools.Take(ctx)
		if err != nil {
			return err
		}
		err = f(pool)
		done()
		if !Refused(err) || !first || !p.pools.Refused(ctx, l) {
			return err
		}
	}
}

// Query gives rows, whose pool stays open until they are closed.
func (p *Pools) Query(ctx context.Context, query string, args ...any) (driver.Rows, error) {
	for first := true; ; first = false {
		pool, l, done, err := p.pools.Take(ctx)
		if err != nil {
			return nil, err
		}
		rows, err := pool.Query(ctx, query, args...)
		if err == nil {
			return &held{rows, done}, nil
		}
		done()
		if !Refused(err) || !first || !p.pools.Refused(ctx, l) {
			return nil, err
		}
	}
}

type held struct {
	driver.Rows
	done func()
}

func (h *held) Close() error {
	defer h.done()
	return h.Rows.Close()
}

// Close closes the connections.
func (p *Pools) Close() { p.pools.Close() }

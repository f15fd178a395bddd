// Package pglogin has connections to Postgres follow a login.Source.
//
// # States
//
// Connections are opened with the login in force. When another comes into force, it is
// tried; then a pool's idle connections are closed at once, and those at work when they are
// released. A single connection is its owner's: it is opened by Connect, and Moved says
// when to open another.
//
// # Failure
//
// Certificates are read from their files for each connection, so that they may be exchanged
// meanwhile: first the file of authorities has the old and the new one, then the client's
// certificate and key are exchanged, then the old authority is removed.
//
// A login that does not work stops nothing: all go on with the one of before, and it is
// tried again. One that the server refuses although it worked is looked up again: a single
// connection is then tried once more; of a pool, the next connection has what works.
package pglogin

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"syncline/dataplane/login"
	"syncline/dataplane/wire"
)

// Refused reports whether a server refused user or password.
func Refused(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && refuses(pg)
}

// invalid_password and invalid_authorization_specification, which is also a user that may
// not log in.
func refuses(pg *pgconn.PgError) bool { return pg.Code == "28P01" || pg.Code == "28000" }

// use makes a connection that is to be opened one of a login.
func use(src login.Source, l login.Login, c *pgconn.Config, dial wire.Dial) {
	c.User, c.Password = l.User, l.Password
	c.DialFunc = pgconn.DialFunc(login.Dial(src, l, dial))
}

// renew takes the files of certificates that dsn names as they are now. What cannot be read,
// as while somebody writes it, stays as it was.
func renew(dsn string, c *pgconn.Config) {
	now, err := pgconn.ParseConfig(dsn)
	if err != nil || len(now.Fallbacks) != len(c.Fallbacks) {
		return
	}
	c.TLSConfig = now.TLSConfig
	for i, f := range now.Fallbacks {
		c.Fallbacks[i].TLSConfig = f.TLSConfig
	}
}

// Follower is the login that connections to one server are opened with: that in force, once
// it was tried. Safe for concurrent use. That of a nil Source never changes.
type Follower struct {
	src  login.Source
	dsn  string
	dial wire.Dial
	base *pgconn.Config

	stop func()

	mu    sync.Mutex
	login login.Login
	moved chan struct{}
	pool  *pgxpool.Pool
}

// New begins with the login in force. c was parsed from dsn, and is copied. Close ends it.
func New(src login.Source, dsn string, c *pgconn.Config, dial wire.Dial) *Follower {
	f := &Follower{src: src, dsn: dsn, dial: dial, base: c.Copy(), stop: func() {}, moved: make(chan struct{})}
	if src == nil {
		return f
	}
	ctx, cancel := context.WithCancel(context.Background())
	if l, err := src.Login(ctx); err == nil {
		f.login = l
	}
	var done sync.WaitGroup
	done.Go(func() { login.Adopt(ctx, src, f.login.Generation, f.move) })
	f.stop = func() {
		cancel()
		done.Wait()
	}
	return f
}

// Close ends following.
func (f *Follower) Close() { f.stop() }

// move makes a login the one to open connections with, if it works.
func (f *Follower) move(ctx context.Context, l login.Login) error {
	c := f.base.Copy()
	renew(f.dsn, c)
	use(f.src, l, c, f.dial)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, c)
	if err != nil {
		return err
	}
	_ = conn.Close(ctx)
	f.adopt(l)
	return nil
}

func (f *Follower) adopt(l login.Login) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.login.Generation == l.Generation {
		return
	}
	f.login = l
	close(f.moved)
	f.moved = make(chan struct{})
	if f.pool != nil {
		f.pool.Reset()
	}
}

func (f *Follower) current() login.Login {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.login
}

// Prepare has the connections of a pool that is to be opened be encrypted with the
// certificates that are there then, and log in with the login.
func (f *Follower) Prepare(c *pgxpool.Config) {
	c.BeforeConnect = func(ctx context.Context, cc *pgx.ConnConfig) error {
		renew(f.dsn, &cc.Config)
		if f.src == nil {
			return nil
		}
		l := f.current()
		use(f.src, l, &cc.Config, f.dial)
		// A pool does not tell whoever takes from it why a connection could not be opened.
		cc.OnPgError = func(_ *pgconn.PgConn, pg *pgconn.PgError) bool {
			if refuses(pg) {
				go f.refused(context.WithoutCancel(ctx), l)
			}
			return pg.Severity != "FATAL"
		}
		return nil
	}
}

// Reset has a pool's connections go with each move: those that are idle at once, the
// others when they are released.
func (f *Follower) Reset(pool *pgxpool.Pool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pool = pool
}

// refused looks for another login, and adopts it if it works.
func (f *Follower) refused(ctx context.Context, l login.Login) bool {
	now, err := f.src.Refused(ctx, l)
	return err == nil && now.Generation != l.Generation && f.move(ctx, now) == nil
}

// Connect opens a connection, and once more if the login is refused and another one works
// by then. It gives the generation.
func Connect[C any](ctx context.Context, f *Follower, c *pgconn.Config, open func(context.Context) (C, error)) (conn C, generation int64, err error) {
	for first := true; ; first = false {
		renew(f.dsn, c)
		if f.src == nil {
			conn, err = open(ctx)
			return conn, 0, err
		}
		l := f.current()
		use(f.src, l, c, f.dial)
		if conn, err = open(ctx); err == nil || !Refused(err) || !first || !f.refused(ctx, l) {
			return conn, l.Generation, err
		}
	}
}

// Generation is that of the login that connections are opened with.
func (f *Follower) Generation() int64 { return f.current().Generation }

// Moved is closed when connections are opened with another login than that of a generation.
func (f *Follower) Moved(generation int64) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.login.Generation == generation {
		return f.moved
	}
	done := make(chan struct{})
	close(done)
	return done
}

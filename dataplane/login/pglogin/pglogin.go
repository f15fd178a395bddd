// Package pglogin has connections to Postgres follow a login.Source.
//
// # States
//
// A pool opens connections with the login in force. When another comes into force, those
// that are idle are closed at once, and those at work when they are released. A single
// connection is its owner's: it is opened by Connect, and Moved says when to open another.
//
// # Failure
//
// Certificates are read from their files for each connection, so that they may be exchanged
// meanwhile: first the file of authorities has the old and the new one, then the client's
// certificate and key are exchanged, then the old authority is removed.
//
// A login that the server refuses is looked up again: a single connection is then tried
// once more, if it is another one by then; of a pool, the next connection has it.
package pglogin

import (
	"context"
	"errors"

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

// Pool prepares a pool that dsn was parsed into. Its connections are encrypted with the
// certificates that are there when they are opened, and have the login in force; nil: that
// of the DSN. Follow has the pool move.
func Pool(c *pgxpool.Config, dsn string, src login.Source, dial wire.Dial) {
	c.BeforeConnect = func(ctx context.Context, cc *pgx.ConnConfig) error {
		renew(dsn, &cc.Config)
		if src == nil {
			return nil
		}
		l, err := src.Login(ctx)
		if err != nil {
			return err
		}
		use(src, l, &cc.Config, dial)
		// A pool does not tell whoever takes from it why a connection could not be opened.
		cc.OnPgError = func(_ *pgconn.PgConn, pg *pgconn.PgError) bool {
			if refuses(pg) {
				go func() { _, _ = src.Refused(context.WithoutCancel(ctx), l) }()
			}
			return pg.Severity != "FATAL"
		}
		return nil
	}
}

// Follow closes what a pool has open by a login when another comes into force, until stop
// is called.
func Follow(pool *pgxpool.Pool, src login.Source) (stop func()) {
	if src == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	l, err := src.Login(ctx)
	if err != nil { // only a Source that has none yet; the pool's own look tells why
		l.Generation = 0
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		login.Follow(ctx, src, l.Generation, func(login.Login) { pool.Reset() })
	}()
	return func() {
		cancel()
		<-done
	}
}

// Connect opens a connection with the login in force, and once more if that is refused
// and another is in force by then. With nil it opens it with the DSN's. It gives the generation.
func Connect[C any](ctx context.Context, src login.Source, dsn string, c *pgconn.Config, dial wire.Dial, open func(context.Context) (C, error)) (conn C, generation int64, err error) {
	renew(dsn, c)
	if src == nil {
		conn, err = open(ctx)
		return conn, 0, err
	}
	l, err := src.Login(ctx)
	if err != nil {
		return conn, 0, err
	}
	use(src, l, c, dial)
	if conn, err = open(ctx); err == nil || !Refused(err) {
		return conn, l.Generation, err
	}
	now, rerr := src.Refused(ctx, l)
	if rerr != nil || now.Generation == l.Generation {
		return conn, l.Generation, err
	}
	use(src, now, c, dial)
	conn, err = open(ctx)
	return conn, now.Generation, err
}

// Moved is closed when another login than that of a generation is in force; nil, which
// never is, without a Source.
func Moved(src login.Source, generation int64) <-chan struct{} {
	if src == nil {
		return nil
	}
	return src.Changed(generation)
}

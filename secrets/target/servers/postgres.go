package servers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"syncline/dataplane/fault"
	"syncline/dataplane/login"
	"syncline/dataplane/wire"
	"syncline/secrets"
	"syncline/secrets/target"
)

// postgres is a Postgres server. Its roles are those of all its databases. Sessions at
// replicas are not among those that the primary shows.
type postgres struct {
	spec   target.Spec
	config *pgx.ConnConfig
	admin  login.Login
}

func newPostgres(s target.Spec, admin login.Login, secure *tls.Config, dial wire.Dial) (*postgres, error) {
	q := url.Values{"host": {s.Host}, "port": {"5432"}, "dbname": {"postgres"}, "user": {admin.User}, "password": {"none"}}
	if s.Port != 0 {
		q.Set("port", strconv.Itoa(s.Port))
	}
	if s.Database != "" {
		q.Set("dbname", s.Database)
	}
	if s.SSLMode != "" {
		q.Set("sslmode", s.SSLMode)
	}
	if s.SSLRootCert != "" {
		q.Set("sslrootcert", s.SSLRootCert)
	}
	c, err := pgx.ParseConfig("postgres://?" + q.Encode())
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", s.Name, err)
	}
	if secure != nil {
		c.TLSConfig, c.Fallbacks = secure.Clone(), nil
		if c.TLSConfig.ServerName == "" {
			c.TLSConfig.ServerName = s.Host
		}
	}
	c.ConnectTimeout = 10 * time.Second
	c.DialFunc = pgconn.DialFunc(dial)
	c.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	c.RuntimeParams = map[string]string{"application_name": "syncline/rotation", "search_path": "pg_catalog", "client_encoding": "UTF8", "standard_conforming_strings": "on"}
	return &postgres{s, c, admin}, nil
}

func (p *postgres) Name() string { return p.spec.Name }

func (p *postgres) Close() {}

func (p *postgres) connect(ctx context.Context, user, password string) (*pgx.Conn, error) {
	c := p.config.Copy()
	c.User, c.Password = user, password
	return pgx.ConnectConfig(ctx, c)
}

// asAdmin runs f on a connection of the admin login.
func (p *postgres) asAdmin(ctx context.Context, what string, f func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := within(ctx)
	defer cancel()
	what = fmt.Sprintf("target %s: %s", p.spec.Name, what)
	conn, err := p.connect(ctx, p.admin.User, p.admin.Password)
	if err != nil {
		if refusedLogin(err) {
			return fault.Permanent(target.CodeAdmin, stated(err), "correct the admin login of the target, or pg_hba.conf", "%s: log in as %s", what, p.admin.User)
		}
		return p.classify(ctx, err, what)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return p.classify(ctx, f(ctx, conn), what)
}

func (p *postgres) Check(ctx context.Context, users ...string) error {
	err := p.asAdmin(ctx, "check", func(ctx context.Context, conn *pgx.Conn) error {
		var replica bool
		if err := conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&replica); err != nil {
			return err
		}
		if replica {
			return p.replica(nil)
		}
		var errs []error
		for _, user := range users {
			if err := p.mayAlter(ctx, conn, user); err != nil {
				errs = append(errs, p.classify(ctx, err, fmt.Sprintf("target %s: role %s", p.spec.Name, user)))
			}
		}
		return first(errs)
	})
	if err != nil || p.spec.Passwordless {
		return err
	}
	// A role that may not log in is refused before its password is looked at, which is
	// as good: whoever sets a password tries it, and a wrong one after that.
	for _, user := range users {
		_, err := p.Try(ctx, user, target.NewPassword(32))
		switch {
		case err == nil:
			return fault.Permanent(target.CodeVoid, nil,
				"let pg_hba.conf ask for scram-sha-256 from where the workers connect; or declare the target passwordless, so that NOLOGIN alone revokes",
				"target %s lets %s in with a wrong password: to revoke one would be void", p.spec.Name, user)
		case !fault.Is(err, target.CodeLogin):
			return err
		}
	}
	return nil
}

// mayAlter gives a role a password and takes that back.
func (p *postgres) mayAlter(ctx context.Context, conn *pgx.Conn, user string) error {
	var exists, super, admin, creates, mine bool
	var version int
	if err := conn.QueryRow(ctx, `SELECT count(r.oid) > 0, coalesce(bool_or(r.rolsuper), false), a.rolsuper, a.rolcreaterole,
			coalesce(bool_or(pg_has_role(a.oid, r.oid, 'MEMBER WITH ADMIN OPTION')), false), current_setting('server_version_num')::int
		FROM pg_roles a LEFT JOIN pg_roles r ON r.rolname = $1 WHERE a.rolname = current_user GROUP BY a.oid, a.rolsuper, a.rolcreaterole`, user).
		Scan(&exists, &super, &admin, &creates, &mine, &version); err != nil {
		return err
	}
	if !exists {
		return p.missing(nil, user)
	}
	err := p.alter(ctx, conn, user, "", true)
	if state(err) != "42501" {
		return err
	}
	me, it := ident(p.admin.User), ident(user)
	var lacks string
	switch {
	case super && !admin:
		lacks = "ALTER ROLE " + it + " NOSUPERUSER; (only superusers change superusers)"
	case !creates && version >= 160000 && !mine:
		lacks = "ALTER ROLE " + me + " CREATEROLE; GRANT " + it + " TO " + me + " WITH ADMIN OPTION, INHERIT FALSE, SET FALSE;"
	case !creates:
		lacks = "ALTER ROLE " + me + " CREATEROLE;"
	case version >= 160000:
		lacks = "GRANT " + it + " TO " + me + " WITH ADMIN OPTION, INHERIT FALSE, SET FALSE;"
	default:
		lacks = "make " + me + " a superuser; (before Postgres 16 only these change roles with REPLICATION)"
	}
	return fault.Permanent(target.CodePrivilege, stated(err), lacks, "target %s: %s may not set the password of %s", p.spec.Name, p.admin.User, user)
}

// alter gives a role a password, or, if that is empty, one that nobody knows. What the
// server is told, and may log, is a verifier.
func (p *postgres) alter(ctx context.Context, conn *pgx.Conn, user, password string, undo bool) error {
	option := "LOGIN"
	if password == "" {
		password, option = target.NewPassword(64).Reveal(), "NOLOGIN"
	}
	verifier, err := scramVerifier(password)
	if err != nil {
		return err
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	// A lock that somebody forgot must not hold up a rotation without a word.
	if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '10s'"); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "ALTER ROLE "+ident(user)+" WITH "+option+" PASSWORD '"+verifier+"'"); err != nil || undo {
		return err
	}
	return tx.Commit(ctx)
}

func (p *postgres) Set(ctx context.Context, user string, password secrets.Secret) error {
	if err := fit(password); err != nil {
		return err
	}
	return p.asAdmin(ctx, "set the password of "+user, func(ctx context.Context, conn *pgx.Conn) error {
		err := p.alter(ctx, conn, user, password.Reveal(), false)
		if state(err) == "42704" {
			return p.missing(err, user)
		}
		return err
	})
}

func (p *postgres) Disable(ctx context.Context, user string) error {
	return p.asAdmin(ctx, "disable "+user, func(ctx context.Context, conn *pgx.Conn) error {
		err := p.alter(ctx, conn, user, "", false)
		if state(err) == "42704" {
			return nil // nobody can log in as it
		}
		return err
	})
}

func (p *postgres) Try(ctx context.Context, user string, password secrets.Secret) (string, error) {
	ctx, cancel := within(ctx)
	defer cancel()
	what := fmt.Sprintf("target %s: log in as %s", p.spec.Name, user)
	conn, err := p.connect(ctx, user, password.Reveal())
	if err != nil {
		if refusedLogin(err) {
			return "", fault.Permanent(target.CodeLogin, stated(err), "set the password again, or correct pg_hba.conf", "%s", what)
		}
		return "", p.classify(ctx, err, what)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var as string
	err = conn.QueryRow(ctx, "SELECT session_user").Scan(&as)
	return as, p.classify(ctx, err, what)
}

func (p *postgres) Sessions(ctx context.Context, user string) (target.Sessions, error) {
	out := target.Sessions{Known: true}
	err := p.asAdmin(ctx, "sessions of "+user, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT pid::text, coalesce(application_name, ''), coalesce(host(client_addr), ''), backend_start
			FROM pg_stat_activity WHERE usename = $1 AND pid <> pg_backend_pid() ORDER BY backend_start, pid`, user)
		if err != nil {
			return err
		}
		out.Open, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (target.Session, error) {
			var s target.Session
			var since *time.Time
			err := row.Scan(&s.ID, &s.Application, &s.Address, &since)
			if since != nil { // shown to members and pg_read_all_stats alone
				s.Since = *since
			}
			return s, err
		})
		return err
	})
	if err != nil {
		return target.Sessions{}, err
	}
	return out, nil
}

func (p *postgres) End(ctx context.Context, user string) (ended int, err error) {
	err = p.asAdmin(ctx, "end the sessions of "+user, func(ctx context.Context, conn *pgx.Conn) error {
		err := conn.QueryRow(ctx, `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 5000))
			FROM pg_stat_activity WHERE usename = $1 AND pid <> pg_backend_pid()`, user).Scan(&ended)
		if state(err) == "42501" {
			return fault.Permanent(target.CodePrivilege, stated(err), "GRANT pg_signal_backend TO "+ident(p.admin.User)+"; or membership in "+ident(user),
				"target %s: %s may not end sessions of %s", p.spec.Name, p.admin.User, user)
		}
		return err
	})
	return ended, err
}

func (p *postgres) missing(cause error, user string) error {
	it := ident(user)
	return fault.Permanent(target.CodeMissing, stated(cause),
		"CREATE ROLE "+it+" NOLOGIN; GRANT … TO "+it+"; with what the other login has: GRANT the role that owns the tables, and REPLICATION at a source",
		"target %s has no role %s", p.spec.Name, user)
}

func (p *postgres) replica(cause error) error {
	return fault.Permanent(target.CodeReadOnly, stated(cause), "name the primary in host, or let the address lead there", "target %s is a replica or read-only: no password can be set there", p.spec.Name)
}

// classify names err, which came up while doing what.
func (p *postgres) classify(ctx context.Context, err error, what string) error {
	var f *fault.Error
	if err == nil || errors.As(err, &f) {
		return err
	}
	if ended := fault.Ended(ctx, target.CodeUnreachable, what); ended != nil {
		return ended
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return fault.Transient(target.CodeUnreachable, stated(err), "%s", what)
	}
	switch {
	case pg.Code == "25006":
		return p.replica(err)
	case pg.Code == "42501":
		return fault.Permanent(target.CodePrivilege, stated(err), "grant what the message names", "%s", what)
	case pg.Code == "08P01" && strings.Contains(pg.Message, "startup parameter"):
		return fault.Permanent(target.CodeRefused, stated(err), "name the server itself in host and port", "%s: the address leads to a pooler, which has logins of its own", what)
	case strings.HasPrefix(pg.Code, "08"), strings.HasPrefix(pg.Code, "53"), strings.HasPrefix(pg.Code, "57P"), strings.HasPrefix(pg.Code, "40"), pg.Code == "55P03", pg.Code == "57014",
		pg.Code == "XX000" && strings.Contains(pg.Message, "concurrently"): // another rotation alters the role
		return fault.Transient(target.CodeUnreachable, stated(err), "%s", what)
	}
	return fault.Permanent(target.CodeRefused, stated(err), "see the server's log", "%s", what)
}

// refusedLogin reports whether a server looked at user and password, and refused.
func refusedLogin(err error) bool { s := state(err); return s == "28P01" || s == "28000" }

func state(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// stated keeps of an error what cannot hold a secret: a server's message without its
// details, and the cause of a failed connection.
func stated(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return fmt.Errorf("%s (SQLSTATE %s)", pg.Message, pg.Code)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op
	}
	return err
}

func ident(s string) string { return pgx.Identifier{s}.Sanitize() }

func first(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	return errors.Join(errs...)
}

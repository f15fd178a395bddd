package target

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
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
	"syncline/dataplane/login/pglogin"
	"syncline/secrets"
)

type postgres struct{ o Options }

func openPostgres(o Options) (Target, error) {
	p := &postgres{o}
	if _, err := p.config("x", "x"); err != nil {
		return nil, fault.Permanent(CodeTargetConfig, nil, "correct host, port, database, sslmode and sslrootcert", "target %s cannot be connected to", o.Spec.Name)
	}
	return p, nil
}

func (p *postgres) config(user, password string) (*pgx.ConnConfig, error) {
	s := p.o.Spec
	q := url.Values{"application_name": {"syncline rotation"}, "connect_timeout": {"10"}}
	for k, v := range map[string]string{"sslmode": s.SSLMode, "sslrootcert": s.SSLRootCert} {
		if v != "" {
			q.Set(k, v)
		}
	}
	u := url.URL{Scheme: "postgres", Path: "/" + s.Database}
	if strings.HasPrefix(s.Host, "/") { // the folder of a Unix socket
		q.Set("host", s.Host)
		q.Set("port", strconv.Itoa(s.Port))
	} else {
		u.Host = net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
	}
	u.RawQuery = q.Encode()
	c, err := pgx.ParseConfig(u.String())
	if err != nil {
		return nil, err
	}
	c.User, c.Password = user, password
	if s.Database == "" {
		c.Database = user
	}
	c.DialFunc = pgconn.DialFunc(p.o.Dial)
	c.DefaultQueryExecMode = pgx.QueryExecModeExec
	return c, nil
}

// connect logs in. Its errors say which user it was.
func (p *postgres) connect(ctx context.Context, user string, password secrets.Secret) (*pgx.Conn, error) {
	c, err := p.config(user, password.Reveal())
	if err != nil {
		return nil, fault.Permanent(CodeTargetConfig, nil, "correct its settings", "target %s", p.o.Spec.Name)
	}
	conn, err := pgx.ConnectConfig(ctx, c)
	switch {
	case err == nil:
		return conn, nil
	case pglogin.Refused(err):
		return nil, refusedAs(user, p.o.Spec.Name, said(err))
	}
	return nil, unreachable(ctx, p.o.Spec.Name, said(err))
}

// said is what the server answered, without what the driver puts around it.
func said(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return fmt.Errorf("%s (SQLSTATE %s)", pg.Message, pg.Code)
	}
	return err
}

// admin runs f as the administrator.
func (p *postgres) admin(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := p.connect(ctx, p.o.Admin.User, secrets.NewSecret(p.o.Admin.Password))
	if fault.Is(err, CodeLoginRefused) {
		return fault.Permanent(CodeTargetAdmin, err, "correct the administrator's login in Vault", "target %s refuses its administrator", p.o.Spec.Name)
	}
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		_ = conn.Close(end)
	}()
	err = f(conn)
	var pg *pgconn.PgError
	switch {
	case err == nil || fault.CodeOf(err) != "":
		return err
	case !errors.As(err, &pg):
		return unreachable(ctx, p.o.Spec.Name, err)
	case pg.Code == "42501":
		return fault.Permanent(CodeTargetAdmin, said(err), "let the administrator be a superuser, or CREATEROLE with ADMIN OPTION on both users", "target %s does not let its administrator change users", p.o.Spec.Name)
	case pg.Code == "42704":
		return fault.Permanent(CodeTargetUser, said(err), "create it, with the rights of the other", "target %s has no such user", p.o.Spec.Name)
	case pg.Code == "25006":
		return fault.Permanent(CodeTargetConfig, said(err), "name the primary: users are changed there alone", "target %s is read-only", p.o.Spec.Name)
	}
	return fault.Transient(CodeTargetUnreachable, said(err), "target %s", p.o.Spec.Name)
}

func (p *postgres) Check(ctx context.Context, users ...string) error {
	err := p.admin(ctx, func(c *pgx.Conn) error {
		var replica bool
		if err := c.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&replica); err != nil {
			return err
		}
		if replica {
			return fault.Permanent(CodeTargetConfig, nil, "name the primary: users are changed there alone", "target %s is a standby", p.o.Spec.Name)
		}
		for _, u := range users {
			var there, may, super bool
			err := c.QueryRow(ctx, `SELECT r.oid IS NOT NULL, me.rolsuper OR me.rolcreaterole AND (current_setting('server_version_num')::int < 160000
					OR EXISTS (SELECT 1 FROM pg_auth_members m WHERE m.roleid = r.oid AND m.admin_option AND pg_has_role(me.oid, m.member, 'USAGE'))), coalesce(r.rolsuper, false)
				FROM pg_roles me LEFT JOIN pg_roles r ON r.rolname = $1 WHERE me.rolname = current_user`, u).Scan(&there, &may, &super)
			switch {
			case err != nil:
				return err
			case !there:
				return fault.Permanent(CodeTargetUser, nil, "CREATE ROLE "+pgx.Identifier{u}.Sanitize()+" LOGIN, with the rights of the other user", "target %s has no user %s", p.o.Spec.Name, u)
			case !may:
				return fault.Permanent(CodeTargetAdmin, nil, "GRANT "+pgx.Identifier{u}.Sanitize()+" TO "+pgx.Identifier{p.o.Admin.User}.Sanitize()+" WITH ADMIN OPTION, and let that have CREATEROLE",
					"target %s does not let its administrator change user %s", p.o.Spec.Name, u)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	// What pg_hba.conf says counts, and only the server knows it.
	wrong, err := nobody()
	if err != nil {
		return err
	}
	for _, u := range users {
		conn, err := p.connect(ctx, u, wrong)
		if err == nil {
			_ = conn.Close(ctx)
			return fault.Permanent(CodeTargetOpen, nil, "have pg_hba.conf ask these users for scram-sha-256, from where the workers are", "target %s lets user %s log in by any password", p.o.Spec.Name, u)
		}
		if !fault.Is(err, CodeLoginRefused) {
			return err
		}
	}
	return nil
}

// verifier is what Postgres stores of a password; see its documentation of pg_authid.
func verifier(password secrets.Secret) (string, error) {
	const iterations = 4096
	salt, key, err := salted(sha256.New, sha256.Size, iterations, password)
	if err != nil {
		return "", err
	}
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	stored := sha256.Sum256(mac(key, "Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(mac(key, "Server Key"))), nil
}

func (p *postgres) alter(ctx context.Context, user, login string, password secrets.Secret) error {
	v, err := verifier(password)
	if err != nil {
		return err
	}
	return p.admin(ctx, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, fmt.Sprintf("ALTER ROLE %s %s PASSWORD '%s'", pgx.Identifier{user}.Sanitize(), login, v))
		return err
	})
}

func (p *postgres) Set(ctx context.Context, user string, password secrets.Secret) error {
	return p.alter(ctx, user, "LOGIN", password)
}

func (p *postgres) Disable(ctx context.Context, user string) error {
	pw, err := nobody()
	if err != nil {
		return err
	}
	return p.alter(ctx, user, "NOLOGIN", pw)
}

func (p *postgres) Try(ctx context.Context, user string, password secrets.Secret) (as string, err error) {
	conn, err := p.connect(ctx, user, password)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := conn.QueryRow(ctx, "SELECT session_user::text").Scan(&as); err != nil {
		return "", unreachable(ctx, p.o.Spec.Name, said(err))
	}
	return as, nil
}

func (p *postgres) Sessions(ctx context.Context, user string) (out Sessions, err error) {
	out.Known = true
	err = p.admin(ctx, func(c *pgx.Conn) error {
		rows, err := c.Query(ctx, `SELECT coalesce(application_name, ''), coalesce(host(client_addr), 'a local socket'), backend_start
			FROM pg_stat_activity WHERE usename = $1 ORDER BY backend_start`, user)
		if err != nil {
			return err
		}
		out.List, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (s Session, err error) {
			return s, r.Scan(&s.Application, &s.Address, &s.Since)
		})
		out.Count = len(out.List)
		return err
	})
	return out, err
}

func (p *postgres) End(ctx context.Context, user string) (ended int, err error) {
	err = p.admin(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1", user).Scan(&ended)
	})
	return ended, err
}

func (p *postgres) Close() {}

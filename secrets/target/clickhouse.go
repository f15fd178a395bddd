package target

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"syncline/dataplane/fault"
	"syncline/secrets"
)

type clickhouse struct{ o Options }

func openClickHouse(o Options) (Target, error) { return &clickhouse{o}, nil }

// as runs f by a login, on connections of its own.
func (c *clickhouse) as(ctx context.Context, user string, password secrets.Secret, f func(driver.Conn) error) error {
	s := c.o.Spec
	o := &ch.Options{
		Addr: []string{net.JoinHostPort(s.Host, strconv.Itoa(s.Port))}, Protocol: ch.HTTP, DialTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		Auth: ch.Auth{Database: s.Database, Username: user, Password: password.Reveal()},
		DialContext: func(ctx context.Context, addr string) (net.Conn, error) {
			return c.o.TLS.Dial(c.o.Dial)(ctx, "tcp", addr)
		},
		MaxOpenConns: 1, MaxIdleConns: 1,
	}
	if s.Protocol == "native" {
		o.Protocol = ch.Native
	}
	if c.o.TLS != nil {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12} // says that there is some
		o.TransportFunc = func(t *http.Transport) (http.RoundTripper, error) {
			t.DialTLSContext = c.o.TLS.Dial(c.o.Dial)
			return t, nil
		}
	}
	conn, err := ch.Open(o)
	if err != nil {
		return fault.Permanent(CodeTargetConfig, nil, "correct its settings", "target %s cannot be connected to", s.Name)
	}
	defer func() { _ = conn.Close() }()
	err = f(conn)
	var ex *ch.Exception
	var he *ch.HTTPError
	switch {
	case err == nil || fault.CodeOf(err) != "":
		return err
	case errors.As(err, &ex):
		switch ex.Code {
		case 192, 193, 194, 516:
			return refusedAs(user, s.Name, fmt.Errorf("ClickHouse code %d", ex.Code))
		case 497:
			return fault.Permanent(CodeTargetAdmin, fmt.Errorf("ClickHouse code %d", ex.Code), "GRANT ALTER USER, SHOW USERS ON *.* TO it", "target %s does not let user %s change users", s.Name, user)
		case 495, 514:
			return fault.Permanent(CodeTargetUser, fmt.Errorf("ClickHouse code %d", ex.Code), "create it by CREATE USER: what is in users.xml cannot be changed by statements", "target %s cannot change the user", s.Name)
		}
		return fault.Transient(CodeTargetUnreachable, fmt.Errorf("ClickHouse code %d", ex.Code), "target %s", s.Name)
	case errors.As(err, &he) && (he.StatusCode == 401 || he.StatusCode == 403):
		return refusedAs(user, s.Name, fmt.Errorf("HTTP status %d", he.StatusCode))
	}
	return unreachable(ctx, s.Name, innermost(err))
}

// innermost is the cause without the URL that net/http puts before it.
func innermost(err error) error {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err
}

func (c *clickhouse) admin(ctx context.Context, f func(driver.Conn) error) error {
	err := c.as(ctx, c.o.Admin.User, secrets.NewSecret(c.o.Admin.Password), f)
	if fault.Is(err, CodeLoginRefused) {
		return fault.Permanent(CodeTargetAdmin, err, "correct the administrator's login in Vault", "target %s refuses its administrator", c.o.Spec.Name)
	}
	return err
}

func (c *clickhouse) Check(ctx context.Context, users ...string) error {
	err := c.admin(ctx, func(conn driver.Conn) error {
		for _, u := range users {
			var n uint64
			if err := conn.QueryRow(ctx, "SELECT count() FROM system.users WHERE name = "+literal(u)).Scan(&n); err != nil {
				return err
			}
			if n == 0 {
				return fault.Permanent(CodeTargetUser, nil, "CREATE USER "+ident(u)+", with the grants of the other user", "target %s has no user %s", c.o.Spec.Name, u)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	wrong, err := nobody()
	if err != nil {
		return err
	}
	for _, u := range users {
		_, err := c.Try(ctx, u, wrong)
		if err == nil {
			return fault.Permanent(CodeTargetOpen, nil, "ALTER USER "+ident(u)+" IDENTIFIED WITH sha256_password BY …", "target %s lets user %s log in by any password", c.o.Spec.Name, u)
		}
		if !fault.Is(err, CodeLoginRefused) {
			return err
		}
	}
	return nil
}

// Set sends a salted hash.
func (c *clickhouse) Set(ctx context.Context, user string, password secrets.Secret) error {
	salt := make([]byte, 32)
	if _, err := rand.Read(salt); err != nil {
		return fmt.Errorf("make a salt: %w", err)
	}
	text := strings.ToUpper(hex.EncodeToString(salt))
	sum := sha256.Sum256([]byte(password.Reveal() + text))
	on := ""
	if c.o.Spec.Cluster != "" {
		on = " ON CLUSTER " + ident(c.o.Spec.Cluster)
	}
	return c.admin(ctx, func(conn driver.Conn) error {
		return conn.Exec(ctx, fmt.Sprintf("ALTER USER %s%s IDENTIFIED WITH sha256_hash BY '%s' SALT '%s'", ident(user), on, strings.ToUpper(hex.EncodeToString(sum[:])), text))
	})
}

func (c *clickhouse) Disable(ctx context.Context, user string) error {
	pw, err := nobody()
	if err != nil {
		return err
	}
	return c.Set(ctx, user, pw)
}

func (c *clickhouse) Try(ctx context.Context, user string, password secrets.Secret) (as string, err error) {
	err = c.as(ctx, user, password, func(conn driver.Conn) error { return conn.QueryRow(ctx, "SELECT currentUser()").Scan(&as) })
	return as, err
}

// Sessions are the statements that run: of idle connections the server does not tell.
func (c *clickhouse) Sessions(ctx context.Context, user string) (out Sessions, err error) {
	out.Known = true
	err = c.admin(ctx, func(conn driver.Conn) error {
		rows, err := conn.Query(ctx, "SELECT http_user_agent || client_name, toString(address), now() - toIntervalSecond(toUInt32(elapsed)) FROM system.processes WHERE user = "+literal(user))
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var s Session
			if err := rows.Scan(&s.Application, &s.Address, &s.Since); err != nil {
				return err
			}
			out.List = append(out.List, s)
		}
		out.Count = len(out.List)
		return rows.Err()
	})
	return out, err
}

func (c *clickhouse) End(ctx context.Context, user string) (ended int, err error) {
	s, err := c.Sessions(ctx, user)
	if err != nil || s.Count == 0 {
		return 0, err
	}
	return s.Count, c.admin(ctx, func(conn driver.Conn) error { return conn.Exec(ctx, "KILL QUERY WHERE user = "+literal(user)+" ASYNC") })
}

func (c *clickhouse) Close() {}

func literal(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

func ident(s string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(s) + "`"
}

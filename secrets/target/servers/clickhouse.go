package servers

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"syncline/dataplane/fault"
	"syncline/dataplane/login"
	"syncline/dataplane/wire"
	"syncline/secrets"
	"syncline/secrets/target"
)

// clickhouse is a ClickHouse server, or by ON CLUSTER all of one. It shows queries that
// run, and no connection that is idle: one that logged in before goes on unseen until
// its owner closes it. So Sessions never says that it knows.
type clickhouse struct {
	spec    target.Spec
	options ch.Options
	admin   login.Login
}

func newClickHouse(s target.Spec, admin login.Login, secure *tls.Config, dial wire.Dial) (*clickhouse, error) {
	port, protocol := 9000, ch.Native
	switch {
	case s.Protocol == "http" && secure != nil:
		port, protocol = 8443, ch.HTTP
	case s.Protocol == "http":
		port, protocol = 8123, ch.HTTP
	case secure != nil:
		port = 9440
	}
	if s.Port != 0 {
		port = s.Port
	}
	database := s.Database
	if database == "" {
		database = "default"
	}
	o := ch.Options{
		Protocol: protocol, Addr: []string{net.JoinHostPort(s.Host, strconv.Itoa(port))}, Auth: ch.Auth{Database: database},
		TLS: secure, DialTimeout: 10 * time.Second, ReadTimeout: callTimeout, MaxOpenConns: 1, MaxIdleConns: 1,
	}
	o.DialContext = func(ctx context.Context, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, o.DialTimeout)
		defer cancel()
		c, err := dial(ctx, "tcp", addr)
		if err != nil || secure == nil || protocol == ch.HTTP { // HTTP brings its own TLS
			return c, err
		}
		conf := secure.Clone()
		if conf.ServerName == "" {
			conf.ServerName = s.Host
		}
		t := tls.Client(c, conf)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return t, nil
	}
	return &clickhouse{s, o, admin}, nil
}

func (c *clickhouse) Name() string { return c.spec.Name }

func (c *clickhouse) Close() {}

// as runs f on a connection of a login.
func (c *clickhouse) as(ctx context.Context, user, password string, f func(context.Context, driver.Conn) error) error {
	ctx, cancel := within(ctx)
	defer cancel()
	o := c.options
	o.Auth.Username, o.Auth.Password = user, password
	pool, err := ch.Open(&o)
	if err != nil {
		return err
	}
	defer func() { _ = pool.Close() }()
	return f(ctx, pool)
}

func (c *clickhouse) asAdmin(ctx context.Context, what string, f func(context.Context, driver.Conn) error) error {
	what = fmt.Sprintf("target %s: %s", c.spec.Name, what)
	err := c.as(ctx, c.admin.User, c.admin.Password, f)
	if refusedByClickHouse(err) {
		return fault.Permanent(target.CodeAdmin, told(err), "correct the admin login of the target", "%s: log in as %s", what, c.admin.User)
	}
	return c.classify(ctx, err, what)
}

func (c *clickhouse) onCluster() string {
	if c.spec.Cluster == "" {
		return ""
	}
	return " ON CLUSTER " + chIdent(c.spec.Cluster)
}

func (c *clickhouse) Check(ctx context.Context, users ...string) error {
	err := c.asAdmin(ctx, "check", func(ctx context.Context, conn driver.Conn) error {
		var errs []error
		for _, user := range users {
			var storage string
			err := conn.QueryRow(ctx, "SELECT storage FROM system.users WHERE name = "+chText(user)+" LIMIT 1").Scan(&storage)
			switch {
			case code(err) == 497:
				return fault.Permanent(target.CodePrivilege, told(err), "GRANT"+c.onCluster()+" SHOW USERS ON *.* TO "+chIdent(c.admin.User),
					"target %s: %s may not see users", c.spec.Name, c.admin.User)
			case err != nil && strings.Contains(err.Error(), "no rows"):
				errs = append(errs, c.missing(nil, user))
				continue
			case err != nil:
				return err
			case strings.Contains(storage, "users_xml") || strings.Contains(storage, "users.xml"):
				errs = append(errs, c.fixed(nil, user))
				continue
			}
			if !c.mayAlter(ctx, conn, user) {
				errs = append(errs, c.mayNotAlter(nil, user))
			}
		}
		return first(errs)
	})
	if err != nil {
		return err
	}
	for _, user := range users {
		_, err := c.Try(ctx, user, target.NewPassword(32))
		switch {
		case err == nil:
			return fault.Permanent(target.CodeVoid, nil, "name the server itself in host and port, not a proxy that logs in for everybody",
				"target %s lets %s in with a wrong password: to revoke one would be void", c.spec.Name, user)
		case !fault.Is(err, target.CodeLogin):
			return err
		}
	}
	return nil
}

// mayAlter asks, since there is no statement that alters a user by nothing. A server that
// cannot be asked (older than 24.11) is given the benefit of the doubt: Set tells.
func (c *clickhouse) mayAlter(ctx context.Context, conn driver.Conn, user string) bool {
	known := false
	for _, on := range []string{"*.*", chIdent(user)} { // rights on single users came later
		var may uint8
		if err := conn.QueryRow(ctx, "CHECK GRANT ALTER USER ON "+on).Scan(&may); err != nil {
			continue
		}
		if known = true; may != 0 {
			return true
		}
	}
	return !known
}

func (c *clickhouse) mayNotAlter(cause error, user string) error {
	return fault.Permanent(target.CodePrivilege, told(cause), "GRANT"+c.onCluster()+" ALTER USER ON *.* TO "+chIdent(c.admin.User),
		"target %s: %s may not set the password of %s", c.spec.Name, c.admin.User, user)
}

func (c *clickhouse) alterFault(ctx context.Context, err error, user string) error {
	switch code(err) {
	case 192:
		return c.missing(err, user)
	case 495:
		return c.fixed(err, user)
	case 497:
		return c.mayNotAlter(err, user)
	}
	return c.classify(ctx, err, fmt.Sprintf("target %s: set the password of %s", c.spec.Name, user))
}

// alter gives a user a hash, which is all that the server is told. Host and settings of
// the user stay, and no other way to log in is left.
func (c *clickhouse) alter(ctx context.Context, conn driver.Conn, user, password string) error {
	return conn.Exec(ctx, c.statement(user, password))
}

func (c *clickhouse) statement(user, password string) string {
	salt := hex.EncodeToString(random(32))
	hash := sha256.Sum256([]byte(password + salt))
	return "ALTER USER " + chIdent(user) + c.onCluster() + " IDENTIFIED WITH sha256_hash BY '" + hex.EncodeToString(hash[:]) + "' SALT '" + salt + "'"
}

func (c *clickhouse) Set(ctx context.Context, user string, password secrets.Secret) error {
	if err := fit(password); err != nil {
		return err
	}
	return c.asAdmin(ctx, "set the password of "+user, func(ctx context.Context, conn driver.Conn) error {
		if err := c.alter(ctx, conn, user, password.Reveal()); err != nil {
			return c.orLogin(ctx, err, user)
		}
		return nil
	})
}

func (c *clickhouse) Disable(ctx context.Context, user string) error {
	return c.asAdmin(ctx, "disable "+user, func(ctx context.Context, conn driver.Conn) error {
		err := c.alter(ctx, conn, user, target.NewPassword(64).Reveal())
		switch {
		case err == nil:
			return nil
		case code(err) == 192 && !refusedByClickHouse(err):
			return nil // nobody can log in as it
		}
		return c.orLogin(ctx, err, user)
	})
}

// orLogin names a failed ALTER, and leaves to asAdmin what is one of its login.
func (c *clickhouse) orLogin(ctx context.Context, err error, user string) error {
	if refusedByClickHouse(err) {
		return err
	}
	return c.alterFault(ctx, err, user)
}

func (c *clickhouse) Try(ctx context.Context, user string, password secrets.Secret) (as string, err error) {
	what := fmt.Sprintf("target %s: log in as %s", c.spec.Name, user)
	err = c.as(ctx, user, password.Reveal(), func(ctx context.Context, conn driver.Conn) error {
		return conn.QueryRow(ctx, "SELECT currentUser()").Scan(&as)
	})
	if refusedByClickHouse(err) {
		return "", fault.Permanent(target.CodeLogin, told(err), "set the password again; the user's HOST must allow this address", "%s", what)
	}
	return as, c.classify(ctx, err, what)
}

func (c *clickhouse) from(table string) string {
	if c.spec.Cluster == "" {
		return "system." + table
	}
	return "clusterAllReplicas(" + chText(c.spec.Cluster) + ", system." + table + ")"
}

func (c *clickhouse) Sessions(ctx context.Context, user string) (target.Sessions, error) {
	var out target.Sessions
	err := c.asAdmin(ctx, "sessions of "+user, func(ctx context.Context, conn driver.Conn) error {
		// A query that a server sent on to others is told once.
		rows, err := conn.Query(ctx, `SELECT query_id, if(client_name != '', client_name, http_user_agent), toString(address), toDateTime(now() - toIntervalSecond(toUInt64(elapsed)), 'UTC')
			FROM `+c.from("processes")+` WHERE user = `+chText(user)+` AND is_initial_query ORDER BY query_id`)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var s target.Session
			if err := rows.Scan(&s.ID, &s.Application, &s.Address, &s.Since); err != nil {
				return err
			}
			s.Address = strings.TrimPrefix(s.Address, "::ffff:")
			out.Open = append(out.Open, s)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		// Not all servers keep a log of queries, nor may all admins read it.
		var used time.Time
		if err := conn.QueryRow(ctx, "SELECT max(event_time) FROM "+c.from("query_log")+" WHERE user = "+chText(user)+" AND event_date >= today() - 7").Scan(&used); err == nil && used.Unix() > 0 {
			out.Used = used
		}
		return nil
	})
	if err != nil {
		return target.Sessions{}, err
	}
	return out, nil
}

func (c *clickhouse) End(ctx context.Context, user string) (ended int, err error) {
	err = c.asAdmin(ctx, "end the queries of "+user, func(ctx context.Context, conn driver.Conn) error {
		// A KILL that finds none has no answer over the native protocol, as a lost connection.
		var running uint64
		if err := conn.QueryRow(ctx, "SELECT count() FROM "+c.from("processes")+" WHERE user = "+chText(user)).Scan(&running); err != nil || running == 0 {
			return err
		}
		rows, err := conn.Query(ctx, "KILL QUERY"+c.onCluster()+" WHERE user = "+chText(user)+" ASYNC")
		if code(err) == 497 {
			return fault.Permanent(target.CodePrivilege, told(err), "GRANT"+c.onCluster()+" KILL QUERY, SELECT ON system.processes TO "+chIdent(c.admin.User),
				"target %s: %s may not end queries", c.spec.Name, c.admin.User)
		}
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			ended++
		}
		return rows.Err()
	})
	return ended, err
}

func (c *clickhouse) missing(cause error, user string) error {
	it := chIdent(user)
	return fault.Permanent(target.CodeMissing, told(cause),
		"CREATE USER "+it+c.onCluster()+" IDENTIFIED WITH sha256_hash BY '"+strings.Repeat("0", 64)+"'; GRANT … TO "+it+"; with what the other login has",
		"target %s has no user %s", c.spec.Name, user)
}

func (c *clickhouse) fixed(cause error, user string) error {
	return fault.Permanent(target.CodeReadOnly, told(cause), "take it out of users.xml, and CREATE USER "+chIdent(user)+" with the same rights, kept by the server's local_directory",
		"target %s: user %s is defined in a file of the server, where no statement changes it", c.spec.Name, user)
}

func (c *clickhouse) classify(ctx context.Context, err error, what string) error {
	var f *fault.Error
	if err == nil || errors.As(err, &f) {
		return err
	}
	if ended := fault.Ended(ctx, target.CodeUnreachable, what); ended != nil {
		return ended
	}
	switch code(err) {
	case 0, 159, 202, 209, 210, 241, 242, 394, 425, 745, 999:
		return fault.Transient(target.CodeUnreachable, told(err), "%s", what)
	case 497:
		return fault.Permanent(target.CodePrivilege, told(err), "grant what the statement needs; see the server's log", "%s", what)
	case 701: // CLUSTER_DOESNT_EXIST
		return fault.Permanent(target.CodeRefused, told(err), "correct cluster", "%s", what)
	}
	return fault.Permanent(target.CodeRefused, told(err), "see the server's log", "%s", what)
}

// refusedByClickHouse reports whether a server refused user and password. A statement
// on a user that is not there has one of these codes only if it is ours, which says so.
func refusedByClickHouse(err error) bool {
	switch code(err) {
	case 193, 194, 516:
		return true
	}
	var he *ch.HTTPError
	return errors.As(err, &he) && (he.StatusCode == 401 || he.StatusCode == 403) && code(err) == 0
}

func code(err error) int32 {
	var ex *ch.Exception
	if errors.As(err, &ex) {
		return ex.Code
	}
	return 0
}

// told keeps of an error its number: a message may repeat a statement.
func told(err error) error {
	var ex *ch.Exception
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ex):
		return fmt.Errorf("ClickHouse code %d", ex.Code)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op
	}
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) { // net/http puts a URL before it
		err = next
	}
	return err
}

func chIdent(s string) string { return "`" + chEscape(s, "`") + "`" }

func chText(s string) string { return "'" + chEscape(s, "'") + "'" }

func chEscape(s, quote string) string {
	return strings.NewReplacer(`\`, `\\`, quote, `\`+quote, "\x00", `\0`).Replace(s)
}

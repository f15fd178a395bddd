package activities

import (
	"cmp"
	"context"
	"maps"
	"net"
	"net/url"
	"strconv"
	"strings"

	"syncline/pipeline"
	"syncline/secrets"
)

// dsn returns a connection string, with secrets resolved: it goes to a driver
// and nowhere else.
type dsnParts struct {
	ref      secrets.Ref
	scheme   string
	host     string
	port     int
	user     string
	password secrets.Ref
	database string
	query    url.Values
}

func (a *Activities) dsn(ctx context.Context, p dsnParts) (string, error) {
	if !p.ref.IsZero() {
		s, err := a.Secrets.Resolve(ctx, p.ref)
		return s.Reveal(), err
	}
	u := url.URL{Scheme: p.scheme, Host: net.JoinHostPort(p.host, strconv.Itoa(p.port)), Path: "/" + p.database, RawQuery: p.query.Encode()}
	if strings.HasPrefix(p.host, "/") { // the folder of a Unix socket, which no URL takes as its host
		u.Host = ""
		q := url.Values{"host": {p.host}, "port": {strconv.Itoa(p.port)}}
		maps.Copy(q, p.query)
		u.RawQuery = q.Encode()
	}
	switch {
	case !p.password.IsZero():
		s, err := a.Secrets.Resolve(ctx, p.password)
		if err != nil {
			return "", err
		}
		u.User = url.UserPassword(p.user, s.Reveal())
	case p.user != "":
		u.User = url.User(p.user)
	}
	return u.String(), nil
}

func postgresQuery(sslmode, rootCert, cert, key string) url.Values {
	q := url.Values{}
	for k, v := range map[string]string{"sslmode": sslmode, "sslrootcert": rootCert, "sslcert": cert, "sslkey": key} {
		if v != "" {
			q.Set(k, v)
		}
	}
	return q
}

func (a *Activities) sourceDSN(ctx context.Context, s pipeline.Source) (string, error) {
	return a.dsn(ctx, dsnParts{ref: s.DSN, scheme: "postgres", host: s.Host, port: cmp.Or(s.Port, 5432), user: s.User,
		password: s.Password, database: s.Database, query: postgresQuery(s.SSLMode, s.SSLRootCert, s.SSLCert, s.SSLKey)})
}

func (a *Activities) sinkDSN(ctx context.Context, s pipeline.Sink) (string, error) {
	p := dsnParts{ref: s.DSN, host: s.Host, user: s.User, password: s.Password, database: s.Database}
	switch {
	case s.Type == pipeline.SinkPostgres:
		p.scheme, p.port, p.query = "postgres", cmp.Or(s.Port, 5432), postgresQuery(s.SSLMode, s.SSLRootCert, s.SSLCert, s.SSLKey)
	case s.Protocol == "native" && s.TLS != nil: // the session's own configuration turns it on
		p.scheme, p.port = "clickhouse", cmp.Or(s.Port, 9440)
	case s.Protocol == "native":
		p.scheme, p.port = "clickhouse", cmp.Or(s.Port, 9000)
	case s.TLS != nil:
		p.scheme, p.port = "https", cmp.Or(s.Port, 8443)
	default:
		p.scheme, p.port = "http", cmp.Or(s.Port, 8123)
	}
	return a.dsn(ctx, p)
}

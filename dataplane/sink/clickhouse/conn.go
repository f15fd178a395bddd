package clickhouse

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	chproto "github.com/ClickHouse/ch-go/proto"
	ch "github.com/ClickHouse/clickhouse-go/v2"
	chcolumn "github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"syncline/dataplane/fault"
)

// conn is a pool of connections to one server, over HTTP or the native protocol.
type conn struct {
	pool     driver.Conn
	http     bool
	compress ch.CompressionMethod
	timeout  time.Duration
}

// settings of every statement. Each guards against an answer that says "done"
// before it is true, or against rows being dropped without a word.
func settings(given ch.Settings) ch.Settings {
	s := ch.Settings{
		"async_insert":       0,        // acknowledged means written
		"wait_end_of_query":  1,        // a failure is the status, never the tail of an answer that began well
		"insert_deduplicate": 0,        // equal blocks are not duplicates: a load may start over
		"mutations_sync":     2,        // ALTER … DELETE returns when it is done on all replicas
		"max_query_size":     16 << 20, // lists of keys
		"final":              0,
	}
	for k, v := range given {
		if _, ours := s[k]; !ours {
			s[k] = v
		}
	}
	return s
}

func openConn(dsn string, secure *tls.Config, o *Options) (*conn, error) {
	// The client library refuses https without this, as if the scheme did not say it.
	if u, err := url.Parse(dsn); err == nil && u.Scheme == "https" && !u.Query().Has("secure") {
		q := u.Query()
		q.Set("secure", "true")
		u.RawQuery = q.Encode()
		dsn = u.String()
	}
	co, err := ch.ParseDSN(dsn)
	scheme, _, _ := strings.Cut(dsn, "://")
	if err != nil || !slices.Contains([]string{"http", "https", "clickhouse", "tcp"}, scheme) {
		return nil, errors.New("use http(s)://user:password@host:8123 or clickhouse://user:password@host:9000")
	}
	c := &conn{http: co.Protocol == ch.HTTP, timeout: o.Timeout}
	co.Settings = settings(co.Settings)
	if !c.http {
		delete(co.Settings, "wait_end_of_query") // of the HTTP interface alone
	}
	if secure != nil {
		co.TLS = secure
	}
	if co.DialTimeout == 0 {
		co.DialTimeout = 10 * time.Second
	}
	if co.ReadTimeout == 0 {
		co.ReadTimeout = o.Timeout
	}
	if co.MaxOpenConns == 0 {
		co.MaxOpenConns, co.MaxIdleConns = 16, 16
	}
	if co.Compression != nil {
		c.compress = co.Compression.Method
	}
	co.TransportFunc = func(t *http.Transport) (http.RoundTripper, error) { return &tap{t}, nil }
	c.pool, err = ch.Open(co)
	return c, err
}

// written is what the server reports of an INSERT.
type written struct {
	rows  int64
	known bool
}

type writtenKey struct{}

// tap reads the summary that ends an answer over HTTP, which the client library
// passes over.
type tap struct{ next http.RoundTripper }

func (t *tap) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.next.RoundTrip(r)
	if w, ok := r.Context().Value(writtenKey{}).(*written); ok && err == nil {
		var s struct {
			Rows json.Number `json:"written_rows"`
		}
		if json.Unmarshal([]byte(res.Header.Get("X-ClickHouse-Summary")), &s) == nil {
			if n, e := s.Rows.Int64(); e == nil {
				w.rows, w.known = n, true
			}
		}
	}
	return res, err
}

func (c *conn) context(ctx context.Context, w *written, opts ...ch.QueryOption) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	if w == nil {
		w = &written{}
	}
	if c.http {
		ctx = context.WithValue(ctx, writtenKey{}, w)
	} else {
		var rows atomic.Int64
		opts = append(opts, ch.WithProgress(func(p *ch.Progress) {
			if n := rows.Add(int64(p.WroteRows)); n > 0 {
				w.rows, w.known = n, true
			}
		}))
	}
	if len(opts) > 0 {
		ctx = ch.Context(ctx, opts...)
	}
	return ctx, cancel
}

// exec runs a statement and returns what it wrote. what names it in an error.
func (c *conn) exec(ctx context.Context, what, query string) (written, error) {
	var w written
	ctx, cancel := c.context(ctx, &w)
	defer cancel()
	return w, wrap(ctx, c.pool.Exec(ctx, query), what)
}

// query calls row for each row of the answer.
func (c *conn) query(ctx context.Context, what, query string, row func(scan func(...any) error) error) error {
	ctx, cancel := c.context(ctx, nil)
	defer cancel()
	rows, err := c.pool.Query(ctx, query)
	if err != nil {
		return wrap(ctx, err, what)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return wrap(ctx, err, what)
		}
	}
	return wrap(ctx, rows.Err(), what)
}

// insert writes a block with one INSERT and checks that the server took every
// row. It returns the bytes sent.
func (c *conn) insert(ctx context.Context, t target, rows int, parts []part, buf []byte) (int64, []byte, error) {
	what := "INSERT into " + t.String()
	var w written
	var sent int64
	var err error
	if c.http {
		sent, buf, err = c.insertHTTP(ctx, &w, t, rows, parts, buf)
	} else {
		sent, buf, err = c.insertNative(ctx, &w, t, rows, parts, buf)
	}
	if err != nil {
		return 0, buf, wrap(ctx, err, what)
	}
	// The count includes the rows of materialized views, so more is not an error.
	if w.known && w.rows < int64(rows) {
		return 0, buf, fault.Transient(CodeShortWrite, nil, "%s: the server wrote %d of %d rows", what, w.rows, rows)
	}
	return sent, buf, nil
}

func insertQuery(t target, parts []part) string {
	names := make([]string, len(parts))
	for i, p := range parts {
		names[i] = p.name
	}
	return "INSERT INTO " + t.String() + " (" + idents(names) + ")"
}

func (c *conn) insertHTTP(ctx context.Context, w *written, t target, rows int, parts []part, buf []byte) (int64, []byte, error) {
	buf = encodeNative(buf[:0], rows, parts)
	body := buf
	var opts []ch.QueryOption
	if c.compress == ch.CompressionLZ4 || c.compress == ch.CompressionZSTD {
		cw := compress.NewWriter(0, compress.Method(c.compress))
		if err := cw.Compress(buf); err != nil {
			return 0, buf, err
		}
		body = cw.Data
		opts = append(opts, ch.WithSettings(ch.Settings{"decompress": 1}))
	}
	ctx, cancel := c.context(ctx, w, opts...)
	defer cancel()
	return int64(len(body)), buf, c.pool.InsertFormat(ctx, "Native", insertQuery(t, parts), bytes.NewReader(body))
}

// insertNative hands the encoded columns to the client library's, which read
// their own wire form: no value is converted twice.
func (c *conn) insertNative(ctx context.Context, w *written, t target, rows int, parts []part, buf []byte) (int64, []byte, error) {
	ctx, cancel := c.context(ctx, w)
	defer cancel()
	query := insertQuery(t, parts)
	for _, p := range parts {
		if !plainName(p.name) { // the library compares names that it cuts out of the statement
			query = "INSERT INTO " + t.String()
		}
	}
	batch, err := c.pool.PrepareBatch(ctx, query)
	if err != nil {
		return 0, buf, err
	}
	defer func() { _ = batch.Close() }()
	byName := map[string]part{}
	for _, p := range parts {
		byName[p.name] = p
	}
	var sent int64
	for _, col := range batch.Columns() {
		p, ok := byName[col.Name()]
		if !ok || !sameType(p.typ, string(col.Type())) {
			return 0, buf, fault.Transient(CodeConfig, nil, "column %q of %s is of another type than a moment ago, or is not one that Syncline fills; "+
				"over HTTP the server would convert", col.Name(), t)
		}
		buf = p.data.encode(p.data.prefix(buf[:0]))
		sent += int64(len(buf))
		r := chproto.NewReader(bytes.NewReader(buf))
		if s, ok := col.(chcolumn.CustomSerialization); ok {
			if err := s.ReadStatePrefix(r); err != nil {
				return 0, buf, err
			}
		}
		if err := col.Decode(r, rows); err != nil {
			return 0, buf, err
		}
	}
	return sent, buf, batch.Send()
}

// sameType compares types as written; the server puts a blank behind commas.
func sameType(a, b string) bool {
	strip := func(s string) string { return strings.ReplaceAll(s, " ", "") }
	return strip(a) == strip(b)
}

func (c *conn) close() error { return c.pool.Close() }

package clickhouse

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	chproto "github.com/ClickHouse/ch-go/proto"
	ch "github.com/ClickHouse/clickhouse-go/v2"
	chcolumn "github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"syncline/dataplane/certs"
	"syncline/dataplane/fault"
	"syncline/dataplane/login"
	"syncline/dataplane/login/chlogin"
	"syncline/dataplane/wire"
)

// conn is a pool of connections to one server, over HTTP or the native protocol: one for
// each login that is in force.
type conn struct {
	pools    *chlogin.Pools
	http     bool
	compress ch.CompressionMethod
	timeout  time.Duration
	options  chlogin.Options // of the pools
	others   *others
}

// others are connections with other compressions: one is a connection's, not a statement's.
type others struct {
	mu sync.Mutex
	by map[ch.CompressionMethod]*conn
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
		// Of numbers in JSON, the digits and nothing else.
		"output_format_json_quote_64bit_integers": 0,
		"output_format_json_quote_denormals":      0,
	}
	for k, v := range given {
		if _, ours := s[k]; !ours {
			s[k] = v
		}
	}
	return s
}

// compressions by the names of Options.Compression.
var compressions = map[string]ch.CompressionMethod{"none": ch.CompressionNone, "lz4": ch.CompressionLZ4, "zstd": ch.CompressionZSTD}

func openConn(dsn string, secure *certs.Certs, dial wire.Dial, as login.Source, o *Options) (*conn, error) {
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
	if m, given := compressions[o.Compression]; given {
		co.Compression = &ch.Compression{Method: m}
	}
	c := &conn{http: co.Protocol == ch.HTTP, timeout: o.Timeout, others: &others{by: map[ch.CompressionMethod]*conn{}}}
	if co.Compression != nil {
		c.compress = co.Compression.Method
	}
	switch c.compress {
	case ch.CompressionNone, ch.CompressionLZ4, ch.CompressionLZ4HC, ch.CompressionZSTD:
	default:
		if !c.http { // the library would find out at the first connection
			return nil, errors.New("use compress=lz4, compress=lz4hc or compress=zstd over the native protocol")
		}
	}
	co.Settings = settings(co.Settings)
	if !c.http {
		delete(co.Settings, "wait_end_of_query") // of the HTTP interface alone
	}
	if secure == nil {
		secure = certs.Fixed(co.TLS)
	} else {
		co.TLS = &tls.Config{MinVersion: tls.VersionTLS12} // says that there is some; handshakes are by secure
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
	c.options = chlogin.Options{Client: co, Login: as, Dial: dial, Certs: secure, Through: func(t *http.Transport) http.RoundTripper { return &tap{t} }}
	c.pools, err = chlogin.Open(context.Background(), c.options)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// compressing returns connections with a compression of compressions; "" is their own.
func (c *conn) compressing(name string) (*conn, error) {
	m, given := compressions[name]
	if !given && name != "" {
		return nil, fault.Permanent(CodeConfig, nil, "use none, lz4 or zstd", "compression %q is not known to this release", name)
	}
	if !given || m == c.compress {
		return c, nil
	}
	c.others.mu.Lock()
	defer c.others.mu.Unlock()
	if o := c.others.by[m]; o != nil {
		return o, nil
	}
	co := *c.options.Client
	co.Compression = &ch.Compression{Method: m}
	with := c.options
	with.Client = &co
	pools, err := chlogin.Open(context.Background(), with)
	if err != nil {
		return nil, fault.Permanent(CodeConfig, err, "correct the DSN", "connections with compression %s cannot be made", name)
	}
	o := &conn{pools: pools, http: c.http, compress: m, timeout: c.timeout}
	c.others.by[m] = o
	return o, nil
}

// written is what the server reports of an INSERT. Over HTTP that is said of each.
// Over the native protocol it is said of INSERT … SELECT alone.
type written struct {
	rows  int64
	known bool
}

// report takes in what the server reports, which after a cancelled statement may
// come from a goroutine of the client library that nobody waits for.
type report struct {
	rows  atomic.Int64
	known atomic.Bool
}

func (r *report) add(rows int64) { r.rows.Add(rows); r.known.Store(true) }

func (r *report) written() written { return written{r.rows.Load(), r.known.Load()} }

type reportKey struct{}

// compressedKey is in the context of an INSERT over HTTP whose body is compressed.
type compressedKey struct{}

// tap reads the summary that ends an answer over HTTP, which the client library
// passes over, and says of an INSERT that its body is compressed.
type tap struct{ next *http.Transport }

// CloseIdleConnections is what the client library calls when a pool is closed.
func (t *tap) CloseIdleConnections() { t.next.CloseIdleConnections() }

func (t *tap) RoundTrip(r *http.Request) (*http.Response, error) {
	// What the client library asks of a server when it connects for an INSERT is not
	// compressed, so that this is no setting of the INSERT's context.
	if q := r.URL.Query(); r.Context().Value(compressedKey{}) != nil && q.Has("query") {
		q.Set("decompress", "1")
		r = r.Clone(r.Context())
		r.URL.RawQuery = q.Encode()
	}
	res, err := t.next.RoundTrip(r)
	if w, ok := r.Context().Value(reportKey{}).(*report); ok && err == nil {
		var s struct {
			Rows json.Number `json:"written_rows"`
		}
		if json.Unmarshal([]byte(res.Header.Get("X-ClickHouse-Summary")), &s) == nil {
			if n, e := s.Rows.Int64(); e == nil {
				w.add(n)
			}
		}
	}
	return res, err
}

func (c *conn) context(ctx context.Context, w *report, opts ...ch.QueryOption) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	switch {
	case w == nil:
	case c.http:
		ctx = context.WithValue(ctx, reportKey{}, w)
	default:
		opts = append(opts, ch.WithProgress(func(p *ch.Progress) { w.add(int64(p.WroteRows)) }))
	}
	if len(opts) > 0 {
		ctx = ch.Context(ctx, opts...)
	}
	return ctx, cancel
}

// exec runs a statement and returns what it wrote. what names it in an error.
func (c *conn) exec(ctx context.Context, what, query string) (written, error) {
	var w report
	in, cancel := c.context(ctx, &w)
	defer cancel()
	if err := c.pools.With(in, func(pool driver.Conn) error { return pool.Exec(in, query) }); err != nil {
		return written{}, wrap(ctx, err, what)
	}
	return w.written(), nil
}

// query calls row for each row of the answer.
func (c *conn) query(ctx context.Context, what, query string, row func(scan func(...any) error) error) error {
	in, cancel := c.context(ctx, nil)
	defer cancel()
	err := c.pools.With(in, func(pool driver.Conn) error {
		rows, err := pool.Query(in, query)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		// Before Close, which would read the answer to its end.
		defer cancel()
		for rows.Next() {
			if err := row(rows.Scan); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	return wrap(ctx, err, what)
}

// insert writes a block with one INSERT and checks that the server took every
// row. It returns the bytes sent.
func (c *conn) insert(ctx context.Context, t target, rows int, parts []part, buf []byte) (int64, []byte, error) {
	what := "INSERT into " + t.String()
	var w report
	var sent int64
	var err error
	if c.http {
		sent, buf, err = c.insertHTTP(ctx, &w, t, rows, parts, buf)
	} else {
		sent, buf, err = c.insertNative(ctx, t, rows, parts, buf)
	}
	if err != nil {
		return 0, buf, wrap(ctx, err, what)
	}
	// The count includes the rows of materialized views, so more is not an error.
	// Over the native protocol there is none, and a block arrives whole or not at all.
	if w := w.written(); c.http && w.known && w.rows < int64(rows) {
		return 0, buf, fault.Transient(CodeShortWrite, nil, "%s: the server wrote %d of %d rows", what, w.rows, rows)
	}
	return sent, buf, nil
}

// jsonSettings are those of an INSERT into columns of type JSON: texts stay texts, and
// of paths that are there twice the first counts, where the server would refuse the block.
var jsonSettings = ch.Settings{
	"input_format_try_infer_dates":              0,
	"input_format_try_infer_datetimes":          0,
	"input_format_json_read_bools_as_numbers":   0,
	"input_format_json_read_bools_as_strings":   0,
	"input_format_json_read_numbers_as_strings": 0,
	"type_json_skip_duplicated_paths":           1,
}

func insertSettings(parts []part) ch.Settings {
	for _, p := range parts {
		if p.json {
			return maps.Clone(jsonSettings)
		}
	}
	return ch.Settings{}
}

func insertQuery(t target, parts []part) string {
	names := make([]string, len(parts))
	for i, p := range parts {
		names[i] = p.name
	}
	// Without a blank before the parenthesis: behind one, the client library compares
	// the names, as it cuts them out, with the table's, and knows nothing of escapes.
	return "INSERT INTO " + t.String() + "(" + idents(names) + ")"
}

func (c *conn) insertHTTP(ctx context.Context, w *report, t target, rows int, parts []part, buf []byte) (int64, []byte, error) {
	buf = encodeNative(buf[:0], rows, parts)
	body := buf
	with := insertSettings(parts)
	if c.compress == ch.CompressionLZ4 || c.compress == ch.CompressionZSTD {
		cw := compress.NewWriter(0, compress.Method(c.compress))
		if err := cw.Compress(buf); err != nil {
			return 0, buf, err
		}
		body = cw.Data
		ctx = context.WithValue(ctx, compressedKey{}, true)
	}
	ctx, cancel := c.context(ctx, w, ch.WithSettings(with))
	defer cancel()
	err := c.pools.With(ctx, func(pool driver.Conn) error {
		return pool.InsertFormat(ctx, "Native", insertQuery(t, parts), bytes.NewReader(body))
	})
	return int64(len(body)), buf, err
}

// insertNative hands the encoded columns to the client library's, which read
// their own wire form: no value is converted twice.
func (c *conn) insertNative(ctx context.Context, t target, rows int, parts []part, buf []byte) (int64, []byte, error) {
	in := follow(ch.Context(ctx, ch.WithSettings(insertSettings(parts))), c.timeout)
	defer in.release()
	var sent int64
	err := c.pools.With(ctx, func(pool driver.Conn) (err error) {
		sent, buf, err = sendNative(in, pool, t, rows, parts, buf)
		return err
	})
	return sent, buf, err
}

func sendNative(in context.Context, pool driver.Conn, t target, rows int, parts []part, buf []byte) (int64, []byte, error) {
	batch, err := pool.PrepareBatch(in, insertQuery(t, parts))
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
		have := string(col.Type())
		if !ok || !sameType(p.typ, have) {
			return 0, buf, fault.Transient(CodeConfig, nil, "column %q of %s is of another type than a moment ago, or is not one that Syncline fills; "+
				"over HTTP the server would convert", col.Name(), t)
		}
		buf = p.encode(buf[:0])
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

func (c *conn) close() error {
	c.pools.Close()
	c.others.mu.Lock()
	defer c.others.mu.Unlock()
	for _, o := range c.others.by {
		o.pools.Close()
	}
	clear(c.others.by)
	return nil
}

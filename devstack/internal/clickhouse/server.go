package clickhouse

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"sync"
)

// Server answers ClickHouse's HTTP interface.
type Server struct {
	engine *Engine
	log    *slog.Logger
}

// NewServer serves an engine.
func NewServer(e *Engine, log *slog.Logger) *Server { return &Server{engine: e, log: log} }

// maxQuery is how much of a body is looked at for a statement; what exceeds it
// must be the data of an INSERT.
const maxQuery = 1 << 20

// appendSize is the size of the pieces in which an INSERT's data goes to the engine.
const appendSize = 1 << 20

// parameters of the interface itself; all others are settings of the query.
var interfaceParams = map[string]bool{
	"query": true, "query_id": true, "database": true, "default_format": true, "user": true, "password": true,
	"quota_key": true, "stacktrace": true, "compress": true, "decompress": true, "buffer_size": true,
	"wait_end_of_query": true, "session_id": true, "session_timeout": true, "session_check": true,
	"client_protocol_version": true, "role": true, "close_session": true, "enable_http_compression": true,
	"http_zlib_compression_level": true, "network_compression_method": true, "network_zstd_compression_level": true,
	"send_progress_in_http_headers": true, "http_headers_progress_interval_ms": true, "http_wait_end_of_query": true,
	// Inserts here are always synchronous, which keeps what an asynchronous one promises.
	"async_insert": true, "wait_for_async_insert": true, "wait_for_async_insert_timeout": true, "async_insert_busy_timeout_ms": true,
	// Nobody logs queries here.
	"log_queries": true, "log_comment": true,
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/ping", "/replicas_status":
		_, _ = io.WriteString(w, "Ok.\n")
		return
	case "/", "":
	default:
		http.Error(w, "There is no handle "+r.URL.Path, http.StatusNotFound)
		return
	}
	q := &request{server: s, w: w, r: r, values: r.URL.Query()}
	if err := q.run(); err != nil {
		q.fail(err)
	}
	if q.peeked != nil {
		q.peeked.Reset(nil)
		readers.Put(q.peeked)
	}
}

// request is one statement on its way.
type request struct {
	server *Server
	w      http.ResponseWriter
	r      *http.Request
	values map[string][]string
	out    *output
	tag    string
	peeked *bufio.Reader
}

func (q *request) value(name string) string {
	if v := q.values[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func (q *request) run() error {
	if strings.HasPrefix(q.r.Header.Get("Content-Type"), "multipart/form-data") {
		return engineError("Code: 48. DB::Exception: External tables are not supported by the development server. (NOT_IMPLEMENTED)")
	}
	body, err := requestBody(q.r)
	if err != nil {
		return engineError("Code: 36. DB::Exception: " + err.Error() + ". (BAD_ARGUMENTS)")
	}
	query, st, data, err := q.read(body)
	if err != nil {
		return err
	}
	if st.verb == "" {
		if q.r.Method == http.MethodGet && query == "" {
			_, _ = io.WriteString(q.w, "Ok.\n")
			return nil
		}
		return engineError("Code: 62. DB::Exception: Empty query. (SYNTAX_ERROR)")
	}
	if st.fromInput {
		// The engine would take it and insert nothing.
		return engineError("Code: 48. DB::Exception: INSERT ... SELECT FROM input() is not supported by the development server. (NOT_IMPLEMENTED)")
	}
	database := q.database()
	c, err := q.server.engine.acquire(q.r.Context(), database)
	if err != nil {
		return err
	}
	defer q.server.engine.release(c)
	if err := q.prepare(c, database); err != nil {
		return err
	}
	h := q.w.Header()
	h.Set("X-ClickHouse-Query-Id", q.queryID())
	h.Set("X-ClickHouse-Server-Display-Name", "devstack")
	h.Set("X-ClickHouse-Timezone", "UTC")
	q.out = newOutput(q.w, q.r)
	if st.leaky {
		defer c.reconnect()
	}
	var params params
	for name, v := range q.values {
		if p, ok := strings.CutPrefix(name, "param_"); ok {
			if params == nil {
				params = map[string]string{}
			}
			params[p] = v[0]
		}
	}
	switch {
	case data != nil:
		err = q.insert(c, st, data)
	case st.reads():
		stop := q.server.engine.killWith(q.r.Context(), c)
		err = q.query(c, query, st, params)
		stop()
	default:
		err = q.execute(c, query, params)
	}
	if err != nil {
		return err
	}
	return q.out.close()
}

// read takes the statement from the query parameter and the body, and an
// INSERT's data, if it comes apart from the statement, as a reader.
func (q *request) read(body io.Reader) (query string, st statement, data io.Reader, err error) {
	query = q.value("query")
	if query != "" {
		if st = parse(query); st.takesData {
			inline := query[st.dataStart:]
			if st.dataFormat == "" {
				st.dataFormat = q.inputFormat()
			}
			return query, st, io.MultiReader(strings.NewReader(inline), body), nil
		}
	}
	peeked := q.reader(body)
	head, err := peeked.Peek(maxQuery)
	switch {
	case err == nil && query == "":
		// Too long for a statement: it must be an INSERT that carries its data.
		if st = parse(string(head)); st.takesData && st.dataFormat != "" {
			_, _ = peeked.Discard(st.dataStart)
			return "", st, peeked, nil
		}
	case err != nil && !errors.Is(err, io.EOF):
		return "", st, nil, fmt.Errorf("read the request: %w", err)
	}
	rest, err := io.ReadAll(peeked)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", st, nil, fmt.Errorf("read the request: %w", err)
	}
	if query != "" && len(rest) > 0 {
		query += "\n"
	}
	query += string(rest)
	return query, parse(query), nil, nil
}

// readers are as large as the longest statement, and most requests are small.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, maxQuery) }}

// reader reads the body until the request is over.
func (q *request) reader(body io.Reader) *bufio.Reader {
	q.peeked = readers.Get().(*bufio.Reader)
	q.peeked.Reset(body)
	return q.peeked
}

func (q *request) inputFormat() string {
	if f := q.r.Header.Get("X-ClickHouse-Format"); f != "" {
		return f
	}
	if f := q.value("default_format"); f != "" && q.value("client_protocol_version") == "" {
		return f
	}
	return "Values"
}

func (q *request) outputFormat(st statement) string {
	for _, f := range []string{st.format, q.value("default_format"), q.r.Header.Get("X-ClickHouse-Format")} {
		if f != "" {
			return f
		}
	}
	return "TabSeparated"
}

func (q *request) queryID() string {
	if id := q.value("query_id"); id != "" {
		return id
	}
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// prepare gives the connection the request's database and settings.
// database is the one that the request names.
func (q *request) database() string {
	return cmp.Or(q.value("database"), q.r.Header.Get("X-ClickHouse-Database"), defaultDatabase)
}

func (q *request) prepare(c *conn, database string) error {
	settings := map[string]string{}
	for name, v := range q.values {
		if !interfaceParams[name] && !strings.HasPrefix(name, "param_") && name != "" {
			settings[name] = v[0]
		}
	}
	return c.prepare(database, settings)
}

// insert sends data in pieces. The engine writes at the end, so an error of the
// client's connection leaves nothing behind.
func (q *request) insert(c *conn, st statement, data io.Reader) error {
	buf := make([]byte, appendSize)
	var end error
	written, err := c.insert([]byte(strings.TrimSpace(st.insertHead)), st.dataFormat, func() ([]byte, error) {
		n := 0
		for n < len(buf) && end == nil {
			var got int
			got, end = data.Read(buf[n:])
			n += got
		}
		// A body that is cut short ends with another error than io.EOF.
		if end != nil && !errors.Is(end, io.EOF) {
			return nil, fmt.Errorf("read the INSERT's data: %w", end)
		}
		return buf[:n], nil
	})
	if err != nil {
		return err
	}
	q.summary(written)
	return nil
}

func (q *request) summary(written stats) {
	q.w.Header().Set("X-ClickHouse-Summary", fmt.Sprintf(
		`{"read_rows":"0","read_bytes":"0","written_rows":"%d","written_bytes":"%d","total_rows_to_read":"0","result_rows":"%d","result_bytes":"%d"}`,
		written.rows, written.bytes, written.rows, written.bytes))
}

// plainFormats have neither head nor tail, so that chunks can be put together.
var plainFormats = map[string]bool{
	"native": true, "tabseparated": true, "tsv": true, "tabseparatedraw": true, "tsvraw": true, "csv": true,
	"jsoneachrow": true, "jsoncompacteachrow": true, "jsonstringseachrow": true, "rowbinary": true, "rawblob": true,
	"lineasstring": true, "ndjson": true, "jsonlines": true, "null": true,
}

// query streams the answer of a SELECT.
func (q *request) query(c *conn, query string, st statement, p params) error {
	format := q.outputFormat(st)
	q.describe(format)
	if !plainFormats[strings.ToLower(format)] {
		out, _, err := c.exec([]byte(query), format, p)
		if err != nil {
			return err
		}
		_, err = q.out.Write(out)
		return err
	}
	revision := 0
	if strings.EqualFold(format, "Native") {
		revision, _ = strconv.Atoi(q.value("client_protocol_version"))
	}
	return c.stream([]byte(query), format, p, func(chunk []byte) error {
		if err := q.r.Context().Err(); err != nil {
			return err
		}
		return q.writeChunk(chunk, revision)
	})
}

func (q *request) writeChunk(chunk []byte, revision int) error {
	parts, err := upgradeBlocks(chunk, revision)
	if err != nil {
		return resultError(err)
	}
	for _, p := range parts {
		if _, err := q.out.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// resultError is for a result that cannot be passed on.
func resultError(err error) error {
	return engineError("Code: 48. DB::Exception: Result type: " + err.Error() + ". (NOT_IMPLEMENTED)")
}

// execute runs everything else: DDL, INSERT … SELECT, SHOW, DESCRIBE.
func (q *request) execute(c *conn, query string, p params) error {
	format := q.outputFormat(statement{format: parseTail(query)})
	out, written, err := c.exec([]byte(query), format, p)
	if err != nil {
		return err
	}
	q.summary(written)
	if len(out) == 0 {
		return nil
	}
	q.describe(format)
	revision := 0
	if strings.EqualFold(format, "Native") {
		revision, _ = strconv.Atoi(q.value("client_protocol_version"))
	}
	return q.writeChunk(out, revision)
}

// parseTail finds the FORMAT of SHOW, DESCRIBE and the like.
func parseTail(query string) string {
	words := strings.Fields(strings.TrimRight(query, " \t\r\n;"))
	if n := len(words); n > 2 && strings.EqualFold(words[n-2], "FORMAT") {
		return words[n-1]
	}
	return ""
}

func (q *request) describe(format string) {
	h := q.w.Header()
	h.Set("X-ClickHouse-Format", format)
	kind := "application/octet-stream"
	switch f := strings.ToLower(format); {
	case strings.HasPrefix(f, "tabseparated"), strings.HasPrefix(f, "tsv"):
		kind = "text/tab-separated-values; charset=UTF-8"
	case strings.HasPrefix(f, "csv"):
		kind = "text/csv; charset=UTF-8"
	case strings.HasPrefix(f, "json"):
		kind = "application/json; charset=UTF-8"
	case strings.HasPrefix(f, "pretty"), f == "vertical", f == "values":
		kind = "text/plain; charset=UTF-8"
	}
	h.Set("Content-Type", kind)
	q.tag = q.queryID()[:min(16, len(q.queryID()))]
}

// fail answers with the exception.
func (q *request) fail(err error) {
	var e *Error
	if !errors.As(err, &e) {
		if q.r.Context().Err() != nil {
			q.server.log.Info("client went away")
			panic(http.ErrAbortHandler)
		}
		e = &Error{Code: 210, Message: "Code: 210. DB::Exception: " + err.Error() + ". (NETWORK_ERROR)"}
	}
	q.server.log.Info("query failed", "code", e.Code)
	msg := e.Message + "\n"
	if q.out != nil && q.out.started {
		// The status has gone: the exception goes into the body, and the
		// connection is cut so that no client takes the answer for complete.
		tag := fmt.Sprintf("%-16.16s", q.tag)
		block := fmt.Sprintf("\r\n__exception__\r\n%s\r\n%s%d %s\r\n__exception__\r\n", tag, msg, len(msg), tag)
		_, _ = q.out.Write([]byte(block))
		_ = q.out.close()
		if f, ok := q.w.(http.Flusher); ok {
			f.Flush()
		}
		panic(http.ErrAbortHandler)
	}
	h := q.w.Header()
	h.Del("Content-Encoding")
	h.Set("X-ClickHouse-Exception-Code", strconv.Itoa(e.Code))
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	q.w.WriteHeader(status(e.Code))
	_, _ = io.WriteString(q.w, msg)
}

// status is ClickHouse's choice for the exceptions that are met often.
func status(code int) int {
	switch code {
	case 60, 81, 46, 115: // unknown table, database, function, setting
		return http.StatusNotFound
	case 62, 26, 27, 6, 36, 38, 41, 43, 53, 47, 457: // syntax, parsing, types, names
		return http.StatusBadRequest
	case 48:
		return http.StatusNotImplemented
	case 159:
		return http.StatusRequestTimeout
	}
	return http.StatusInternalServerError
}

// prepare changes only what differs from the request before.
func (c *conn) prepare(database string, settings map[string]string) error {
	// The engine writes JSON columns in a layout that clients have given up.
	settings["output_format_native_write_json_as_string"] = "1"
	settings["log_comment"] = c.tag
	if c.database != database {
		c.database = ""
		if _, _, err := c.exec([]byte("USE "+quoteName(database)), "Null", nil); err != nil {
			return err
		}
		c.database = database
	}
	var set []string
	for name := range c.settings {
		if _, ok := settings[name]; !ok {
			set = append(set, name+" = DEFAULT")
		}
	}
	for name, v := range settings {
		if c.settings[name] != v {
			set = append(set, name+" = "+quoteString(v))
		}
	}
	if len(set) == 0 {
		return nil
	}
	sort.Strings(set)
	var sql bytes.Buffer
	sql.WriteString("SET ")
	sql.WriteString(strings.Join(set, ", "))
	if _, _, err := c.exec(sql.Bytes(), "Null", nil); err != nil {
		// Part of the list may be set: start from a fresh connection.
		c.reconnect()
		return err
	}
	c.settings = settings
	return nil
}

package clickhouse

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/ch-go/compress"
)

// Times that a client has, as a server has them by default.
const (
	helloTimeout = 30 * time.Second
	idleTimeout  = time.Hour
	dataTimeout  = 5 * time.Minute
	// grace is how long statements may go on when the server is to end.
	grace = 5 * time.Second
)

// TCPServer answers ClickHouse's native protocol.
type TCPServer struct {
	engine  *Engine
	log     *slog.Logger
	version [3]uint64

	mu    sync.Mutex
	conns map[*tcpConn]bool
}

// NewTCPServer serves an engine.
func NewTCPServer(ctx context.Context, e *Engine, log *slog.Logger) (*TCPServer, error) {
	s := &TCPServer{engine: e, log: log, conns: map[*tcpConn]bool{}}
	c, err := e.acquire(ctx, defaultDatabase)
	if err != nil {
		return nil, err
	}
	defer e.release(c)
	out, _, err := c.exec([]byte("SELECT version()"), "TSVRaw", nil)
	if err != nil {
		return nil, fmt.Errorf("the engine's version: %w", err)
	}
	if _, err := fmt.Sscanf(string(out), "%d.%d.%d", &s.version[0], &s.version[1], &s.version[2]); err != nil {
		return nil, fmt.Errorf("the engine's version %q: %w", out, err)
	}
	return s, nil
}

// Serve answers clients until ctx ends; statements that run then have a moment to end.
func (s *TCPServer) Serve(ctx context.Context, l net.Listener) error {
	var wg sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		t := &tcpConn{server: s, conn: c, in: bufio.NewReaderSize(c, 64<<10)}
		t.out = wireWriter{bufio.NewWriterSize(deadlineWriter{c}, 64<<10)}
		s.mu.Lock()
		s.conns[t] = true
		s.mu.Unlock()
		wg.Go(func() {
			t.serve(ctx)
			_ = c.Close()
			s.mu.Lock()
			delete(s.conns, t)
			s.mu.Unlock()
		})
	}
	s.shut(time.Now().Add(grace))
	wg.Wait()
	return nil
}

// shut closes connections that rest at once and the others at a time.
func (s *TCPServer) shut(at time.Time) {
	for {
		s.mu.Lock()
		left := len(s.conns)
		late := time.Now().After(at)
		for t := range s.conns {
			if late || !t.busy.Load() {
				_ = t.conn.Close()
			}
		}
		s.mu.Unlock()
		if left == 0 || late {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// deadlineWriter gives a client that does not read up.
type deadlineWriter struct{ net.Conn }

func (d deadlineWriter) Write(p []byte) (int, error) {
	if err := d.SetWriteDeadline(time.Now().Add(dataTimeout)); err != nil {
		return 0, err
	}
	return d.Conn.Write(p)
}

// tcpConn is one client.
type tcpConn struct {
	server   *TCPServer
	conn     net.Conn
	in       *bufio.Reader
	out      wireWriter
	database string
	busy     atomic.Bool

	// Of the statement that runs.
	compressed io.Reader        // the client's blocks, if it compresses
	frames     *compress.Writer // the server's
	block      []byte           // scratch
	cancelled  atomic.Bool      // the client has said so
	unread     bool             // blocks of the client follow that nobody has asked for
}

// serve reads packets until the client goes, or sends what cannot be understood.
func (t *tcpConn) serve(ctx context.Context) {
	err := t.greet()
	for err == nil && ctx.Err() == nil {
		err = t.packet(ctx)
	}
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return
	}
	t.server.log.Info("connection ended", "err", err)
	t.out.exception(exceptionOf(err))
	_ = t.out.out.Flush()
}

// greet does what precedes the first statement.
func (t *tcpConn) greet() error {
	if err := t.conn.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	w := wireReader{in: t.in}
	switch first := w.byte(); {
	case w.err != nil:
		return w.err
	case first == 'G' || first == 'P' || first == 'H': // GET, POST, PUT, HEAD
		_, err := io.WriteString(t.conn, "HTTP/1.0 400 Bad Request\r\n\r\nThis port speaks the native protocol, not HTTP.\r\n")
		return errors.Join(io.EOF, err)
	case first != clientHello:
		return fmt.Errorf("%w: it begins with %d", errProtocol, first)
	}
	h, err := readHello(&w)
	if err != nil {
		return err
	}
	if h.revision < revision {
		return fmt.Errorf("%w: version %d of it is older than ClickHouse 23.3's, which the development server speaks", errProtocol, h.revision)
	}
	t.database = h.database
	if t.database == "" {
		t.database = defaultDatabase
	}
	t.out.hello(t.server.version)
	if err := t.out.out.Flush(); err != nil {
		return err
	}
	w.name() // quota key
	return w.err
}

func (t *tcpConn) packet(ctx context.Context) error {
	if err := t.conn.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
		return err
	}
	w := wireReader{in: t.in}
	kind := w.uvarint()
	if w.err != nil {
		return w.err
	}
	t.busy.Store(true)
	defer t.busy.Store(false)
	if err := t.conn.SetReadDeadline(time.Now().Add(dataTimeout)); err != nil {
		return err
	}
	switch kind {
	case clientPing:
		t.out.uvarint(serverPong)
		return t.out.out.Flush()
	case clientCancel: // of what has ended meanwhile
		return nil
	case clientQuery:
		q, err := readQuery(&w)
		if err != nil {
			return err
		}
		return t.statement(ctx, q)
	}
	return fmt.Errorf("%w: packet %d", errProtocol, kind)
}

// statement answers one query. Its own errors go to the client; an error that it
// returns ends the connection.
func (t *tcpConn) statement(ctx context.Context, q nativeQuery) error {
	t.cancelled.Store(false)
	t.unread = false
	t.compressed, t.frames = nil, nil
	if q.compressed {
		t.compressed = &onceReader{r: compress.NewReader(t.in)}
		t.frames = compress.NewWriter(compress.LevelZero, frameMethod(q.settings["network_compression_method"]))
	}
	external, err := t.skipBlocks()
	if err != nil {
		return err
	}
	err = t.run(ctx, q, external)
	var e *Error
	switch {
	case err == nil, t.cancelled.Load():
		t.out.uvarint(serverEndOfStream)
		return t.out.out.Flush()
	case !errors.As(err, &e):
		return err
	}
	t.server.log.Info("query failed", "code", e.Code)
	t.out.exception(e)
	if err := t.out.out.Flush(); err != nil {
		return err
	}
	if t.unread {
		if _, err := t.skipBlocks(); err != nil && !errors.Is(err, errCancelled) {
			return err
		}
	}
	return nil
}

func frameMethod(name string) compress.Method {
	switch strings.ToUpper(name) {
	case "ZSTD":
		return compress.ZSTD
	case "NONE":
		return compress.None
	case "LZ4HC":
		return compress.LZ4HC
	}
	return compress.LZ4
}

// exceptionOf makes an exception of what went wrong in the front itself.
func exceptionOf(err error) *Error {
	switch {
	case errors.Is(err, errOpaque), errors.Is(err, errLarge):
		return engineError("Code: 48. DB::Exception: " + err.Error() + ". (NOT_IMPLEMENTED)")
	case errors.Is(err, errProtocol):
		return engineError("Code: 101. DB::Exception: " + err.Error() + ". (UNEXPECTED_PACKET_FROM_CLIENT)")
	}
	return engineError("Code: 210. DB::Exception: " + err.Error() + ". (NETWORK_ERROR)")
}

func notImplemented(what string) error {
	return engineError("Code: 48. DB::Exception: " + what + " not supported by the development server. (NOT_IMPLEMENTED)")
}

func (t *tcpConn) run(ctx context.Context, q nativeQuery, external bool) error {
	st := parse(q.sql)
	switch {
	case external:
		return notImplemented("External tables are")
	case st.verb == "":
		return engineError("Code: 62. DB::Exception: Empty query. (SYNTAX_ERROR)")
	case st.fromInput:
		return notImplemented("INSERT ... SELECT FROM input() is")
	}
	for name := range q.settings {
		if interfaceParams[name] {
			delete(q.settings, name)
		}
	}
	if st.takesData && strings.Trim(q.sql[st.dataStart:], " \t\r\n;") == "" {
		return t.insert(ctx, q, st)
	}
	c, err := t.take(ctx, q)
	if err != nil {
		return err
	}
	defer t.server.engine.release(c)
	if st.leaky {
		defer c.reconnect()
	}
	if st.reads() {
		return t.read(ctx, c, q, st)
	}
	return t.execute(ctx, c, q, st)
}

// take waits for one of the engine's connections and prepares it.
func (t *tcpConn) take(ctx context.Context, q nativeQuery) (*conn, error) {
	c, err := t.server.engine.acquire(ctx, t.database)
	if err != nil {
		return nil, err
	}
	settings := map[string]string{} // of its own: the connection keeps it
	for k, v := range q.settings {
		settings[k] = v
	}
	if err := c.prepare(t.database, settings); err != nil {
		t.server.engine.release(c)
		return nil, err
	}
	return c, nil
}

// watch ends the context that it gives when the client cancels or goes away.
// Nothing else may read from the client until stop returns.
func (t *tcpConn) watch(ctx context.Context) (_ context.Context, stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	// As long as the statement takes.
	err := t.conn.SetReadDeadline(time.Time{})
	go func() {
		defer close(done)
		b, err := t.in.Peek(1)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded): // told to stop
		case err != nil:
			cancel()
		case b[0] == clientCancel:
			_, _ = t.in.Discard(1)
			t.cancelled.Store(true)
			cancel()
		}
	}()
	return ctx, func() error {
		err := errors.Join(err, t.conn.SetReadDeadline(time.Unix(1, 0)))
		<-done
		cancel()
		return errors.Join(err, t.conn.SetReadDeadline(time.Now().Add(dataTimeout)))
	}
}

// read streams the answer of a SELECT.
func (t *tcpConn) read(ctx context.Context, c *conn, q nativeQuery, st statement) error {
	sql := q.sql
	if st.format != "" { // formats are the client's business
		sql = sql[:st.formatStart] + sql[st.formatEnd:]
	}
	ctx, stop := t.watch(ctx)
	unkill := t.server.engine.killWith(ctx, c)
	sent := false
	err := c.stream([]byte(sql), "Native", q.params, func(chunk []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		sent = true
		return t.sendBlocks(chunk)
	})
	unkill()
	if err := errors.Join(err, stop()); err != nil {
		return err
	}
	if sent {
		return nil
	}
	// A client learns the columns from a block even if there are no rows.
	return t.sendShape(c, strings.TrimRight(sql, " \t\r\n;"), q.params)
}

// execute runs everything else: DDL, INSERT … SELECT, SHOW, DESCRIBE.
func (t *tcpConn) execute(ctx context.Context, c *conn, q nativeQuery, st statement) error {
	begun := time.Now()
	sql := q.sql
	if f := parseTail(sql); f != "" && st.verb != "INSERT" {
		sql = strings.TrimRight(sql, " \t\r\n;")
		sql = strings.TrimRight(strings.TrimSuffix(sql, f), " \t\r\n")
		sql = sql[:len(sql)-len("FORMAT")]
	}
	// Definitions go on without their client.
	stop := func() error { return nil }
	unkill := func() {}
	if st.verb == "INSERT" {
		ctx, stop = t.watch(ctx)
		unkill = t.server.engine.killWith(ctx, c)
	}
	out, written, err := c.exec([]byte(sql), "Native", q.params)
	unkill()
	if err := errors.Join(err, stop()); err != nil {
		return err
	}
	switch st.verb {
	case "INSERT":
		t.out.progress(written, time.Since(begun))
	case "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "CHECK":
		if len(out) == 0 {
			return t.sendNames(c, sql, q.params)
		}
	}
	return t.sendBlocks(out)
}

// sendBlocks sends each block of the engine in a packet.
func (t *tcpConn) sendBlocks(chunk []byte) error {
	for len(chunk) > 0 {
		parts, rest, err := upgradeBlock(chunk, revision)
		if err != nil {
			return resultError(err)
		}
		chunk = rest
		if err := t.sendBlock(parts); err != nil {
			return err
		}
	}
	return t.out.out.Flush()
}

func (t *tcpConn) sendBlock(parts [][]byte) error {
	t.out.uvarint(serverData)
	t.out.string("")
	if t.frames == nil {
		for _, p := range parts {
			_, _ = t.out.out.Write(p)
		}
		return nil
	}
	t.block = t.block[:0]
	for _, p := range parts {
		t.block = append(t.block, p...)
	}
	for b := t.block; len(b) > 0; {
		n := min(len(b), frameSize)
		if err := t.frames.Compress(b[:n]); err != nil {
			return fmt.Errorf("compress: %w", err)
		}
		_, _ = t.out.out.Write(t.frames.Data)
		b = b[n:]
	}
	return nil
}

// shapeColumn is a name and a type.
type shapeColumn [2]string

// sendShape sends a block without rows that has the columns of a query.
func (t *tcpConn) sendShape(c *conn, sql string, p params) error {
	out, _, err := c.exec([]byte("DESCRIBE (\n"+sql+"\n)"), "JSONCompactEachRow", p)
	if err != nil {
		return err
	}
	var columns []shapeColumn
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var row []string
		if err := d.Decode(&row); err != nil || len(row) < 2 {
			return fmt.Errorf("the engine's description %q: %w", out, errors.Join(errShort, err))
		}
		columns = append(columns, shapeColumn{row[0], row[1]})
	}
	return t.sendHead(columns)
}

// sendNames does the same for statements that cannot be described: it runs them again.
func (t *tcpConn) sendNames(c *conn, sql string, p params) error {
	out, _, err := c.exec([]byte(sql), "JSONCompactEachRowWithNamesAndTypes", p)
	if err != nil || len(out) == 0 {
		return err
	}
	var names, types []string
	d := json.NewDecoder(strings.NewReader(string(out)))
	if err := errors.Join(d.Decode(&names), d.Decode(&types)); err != nil || len(names) != len(types) {
		return fmt.Errorf("the engine's names %q: %w", out, errors.Join(errShort, err))
	}
	columns := make([]shapeColumn, len(names))
	for i := range names {
		columns[i] = shapeColumn{names[i], types[i]}
	}
	return t.sendHead(columns)
}

func (t *tcpConn) sendHead(columns []shapeColumn) error {
	b := append([]byte(nil), blockInfo...)
	b = binary.AppendUvarint(b, uint64(len(columns)))
	b = append(b, 0) // rows
	for _, c := range columns {
		for _, s := range c {
			b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
		}
		b = append(b, 0) // no custom serialization
	}
	if err := t.sendBlock([][]byte{b}); err != nil {
		return err
	}
	return t.out.out.Flush()
}

// insert tells the client the columns, takes its blocks, and answers when they
// are on the disk. The engine writes at the end, so a client that goes away
// leaves nothing behind.
func (t *tcpConn) insert(ctx context.Context, q nativeQuery, st statement) error {
	head := strings.TrimSpace(st.insertHead)
	if err := t.sample(ctx, q, head); err != nil {
		return err
	}
	t.unread = true
	// A client may take its time for the first block; the engine's connections
	// are too few to wait for it.
	first, err := t.nextBlock()
	if err != nil {
		return err
	}
	if first == nil {
		return nil
	}
	c, err := t.take(ctx, q)
	if err != nil {
		return err
	}
	defer t.server.engine.release(c)
	rest := first
	_, err = c.insert([]byte(head), "Native", func() (_ []byte, err error) {
		if len(rest) == 0 {
			if rest, err = t.nextBlock(); err != nil {
				return nil, err
			}
		}
		piece := rest[:min(len(rest), appendSize)]
		rest = rest[len(piece):]
		return piece, nil
	})
	return err
}

// sample sends the block that shows the columns of an INSERT.
func (t *tcpConn) sample(ctx context.Context, q nativeQuery, head string) error {
	c, err := t.take(ctx, q)
	if err != nil {
		return err
	}
	defer t.server.engine.release(c)
	shape := insertShape(head)
	if shape == "" {
		return engineError("Code: 62. DB::Exception: Syntax error: an INSERT without a table. (SYNTAX_ERROR)")
	}
	err = t.sendShape(c, shape, q.params)
	var e *Error
	if errors.As(err, &e) {
		// The engine has its own words for what is wrong with an INSERT.
		if _, own := c.insert([]byte(head), "Native", func() ([]byte, error) { return nil, nil }); own != nil {
			return own
		}
	}
	return err
}

var errCancelled = errors.New("cancelled by the client")

// nextBlock reads the client's next block with rows as the engine takes it, or
// nothing at the end.
func (t *tcpConn) nextBlock() ([]byte, error) {
	for {
		columns, rows, err := t.readBlock()
		switch {
		case err != nil:
			return nil, err
		case columns == 0:
			t.unread = false
			return nil, nil
		case rows > 0:
			return t.block, nil
		}
	}
}

// readBlock reads a packet with a block, into t.block.
func (t *tcpConn) readBlock() (columns, rows uint64, err error) {
	if err := t.conn.SetReadDeadline(time.Now().Add(dataTimeout)); err != nil {
		return 0, 0, err
	}
	w := wireReader{in: t.in}
	switch kind := w.uvarint(); {
	case w.err != nil:
		return 0, 0, w.err
	case kind == clientCancel:
		t.unread = false
		t.cancelled.Store(true)
		return 0, 0, errCancelled
	case kind != clientData:
		return 0, 0, fmt.Errorf("%w: packet %d instead of data", errProtocol, kind)
	}
	w.name() // table
	if w.err != nil {
		return 0, 0, w.err
	}
	var src io.Reader = t.in
	if t.compressed != nil {
		src = t.compressed
	}
	t.block, columns, rows, err = downgradeBlock(t.block[:0], src)
	return columns, rows, err
}

// skipBlocks passes blocks up to the empty one and tells whether there were others.
func (t *tcpConn) skipBlocks() (some bool, err error) {
	for {
		columns, _, err := t.readBlock()
		if err != nil || columns == 0 {
			return some, err
		}
		some = true
	}
}

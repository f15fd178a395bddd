package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/ebitengine/purego"
)

// library is the C interface of libchdb, as far as the front uses it.
type library struct {
	connect       func(argc int32, argv **byte) *uintptr
	closeConn     func(conn *uintptr)
	query         func(conn uintptr, q *byte, n uintptr, format *byte, fn uintptr, names **byte, nameLens *uintptr, values **byte, valueLens *uintptr, count uintptr) uintptr
	streamQuery   func(conn uintptr, q *byte, n uintptr, format *byte, fn uintptr, names **byte, nameLens *uintptr, values **byte, valueLens *uintptr, count uintptr) uintptr
	streamFetch   func(conn, result uintptr) uintptr
	streamCancel  func(conn, result uintptr)
	destroyResult func(result uintptr)
	buffer        func(result uintptr) *byte
	length        func(result uintptr) uintptr
	resultError   func(result uintptr) string
	rowsRead      func(result uintptr) uint64
	rowsWritten   func(result uintptr) uint64
	bytesWritten  func(result uintptr) uint64
	insert        func(conn uintptr, q *byte, n uintptr, format *byte, fn uintptr) uintptr
	insertAppend  func(stream uintptr, data *byte, n uintptr) int32
	insertDone    func(stream uintptr) uintptr
	insertCancel  func(stream uintptr)
	insertError   func(stream uintptr) string
	insertDestroy func(stream uintptr)
	setSignals    func(enabled int32)
}

func load(path string) (*library, error) {
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	l := &library{}
	for name, fn := range map[string]any{
		"chdb_connect":                     &l.connect,
		"chdb_close_conn":                  &l.closeConn,
		"chdb_query_with_params_n":         &l.query,
		"chdb_stream_query_with_params_n":  &l.streamQuery,
		"chdb_stream_fetch_result":         &l.streamFetch,
		"chdb_stream_cancel_query":         &l.streamCancel,
		"chdb_destroy_query_result":        &l.destroyResult,
		"chdb_result_buffer":               &l.buffer,
		"chdb_result_length":               &l.length,
		"chdb_result_error":                &l.resultError,
		"chdb_result_rows_read":            &l.rowsRead,
		"chdb_result_rows_written":         &l.rowsWritten,
		"chdb_result_bytes_written":        &l.bytesWritten,
		"chdb_stream_insert_n":             &l.insert,
		"chdb_stream_append":               &l.insertAppend,
		"chdb_stream_done":                 &l.insertDone,
		"chdb_stream_cancel_insert":        &l.insertCancel,
		"chdb_stream_insert_error":         &l.insertError,
		"chdb_destroy_insert_stream":       &l.insertDestroy,
		"chdb_set_signal_handlers_enabled": &l.setSignals,
	} {
		sym, err := purego.Dlsym(handle, name)
		if err != nil {
			return nil, fmt.Errorf("%s does not export %s: %w", path, name, err)
		}
		purego.RegisterFunc(fn, sym)
	}
	return l, nil
}

// Error is an exception of the engine.
type Error struct {
	Code    int
	Message string
}

func (e *Error) Error() string { return e.Message }

var codePattern = regexp.MustCompile(`Code: (\d+)\.`)

// engineError turns the engine's text into an Error; the text goes out as it is.
func engineError(msg string) *Error {
	msg = strings.TrimSpace(msg)
	code := 1002 // UNKNOWN_EXCEPTION
	if m := codePattern.FindStringSubmatch(msg); m != nil {
		code, _ = strconv.Atoi(m[1])
	}
	return &Error{Code: code, Message: msg}
}

var namePattern = regexp.MustCompile(` \([A-Z0-9_]+\)( \(version [^)]*\))?$`)

// nativeMessage is the engine's text as it goes over the native protocol, where
// the code has a field of its own.
func nativeMessage(msg string) string {
	if m := codePattern.FindStringIndex(msg); m != nil && m[0] == 0 {
		msg = strings.TrimSpace(msg[m[1]:])
	}
	return namePattern.ReplaceAllString(msg, "")
}

// defaultDatabase is the one of statements that name none.
const defaultDatabase = "default"

// Engine is ClickHouse in this process: several connections to one folder, each
// used by one request at a time.
type Engine struct {
	lib  *library
	free chan struct{} // one for each of idle

	mu   sync.Mutex
	idle []*conn // the one that is idle for longest first
	all  []*conn
	// killer ends statements of the others, which are all busy when it matters.
	killer *conn
}

// EngineOptions tell where the engine's code and data are.
type EngineOptions struct {
	Library     string
	Dir         string
	Connections int
}

// conn runs the engine's calls on a thread of its own: the engine keeps state
// per thread, and a goroutine may move between threads.
type conn struct {
	lib  *library
	ptr  *uintptr
	work chan func()

	open func() error // on the connection's thread
	tag  string       // log_comment of its statements

	database string
	settings map[string]string
}

// OpenEngine boots the engine.
func OpenEngine(o EngineOptions) (*Engine, error) {
	lib, err := load(o.Library)
	if err != nil {
		return nil, err
	}
	// Go's runtime needs its own handlers (preemption, nil checks).
	lib.setSignals(0)
	e := &Engine{lib: lib, free: make(chan struct{}, o.Connections)}
	for i := range o.Connections + 1 {
		c := &conn{lib: lib, work: make(chan func()), tag: fmt.Sprintf("front-%d", i)}
		opened := make(chan error, 1)
		c.open = func() error { return c.connect(o.Dir) }
		go func() {
			runtime.LockOSThread()
			err := c.open()
			opened <- err
			if err != nil {
				return
			}
			for f := range c.work {
				f()
			}
		}()
		if err := <-opened; err != nil {
			return nil, err
		}
		if i == o.Connections {
			e.killer = c
			break
		}
		e.all = append(e.all, c)
		e.release(c)
	}
	return e, nil
}

func (c *conn) connect(dir string) error {
	args := []string{
		"clickhouse", "--path=" + dir,
		// Profiling uses signals, which belong to Go's runtime here.
		"--query_profiler_real_time_period_ns=0", "--query_profiler_cpu_time_period_ns=0",
		// As a server has it.
		"--implicit_select=0",
		// Compiling costs more than all that statements on development data take.
		"--compile_expressions=0", "--compile_aggregate_expressions=0", "--compile_sort_description=0",
	}
	argv := make([]*byte, len(args)+1)
	for i, a := range args {
		argv[i] = cstring(a)
	}
	c.ptr = c.lib.connect(int32(len(args)), &argv[0])
	runtime.KeepAlive(argv)
	c.database, c.settings = defaultDatabase, nil
	if c.ptr == nil {
		return errors.New("the engine refused to open " + dir + " (is another process using it?)")
	}
	return nil
}

// reconnect forgets what a statement has set. The engine's other connections
// keep it running meanwhile.
func (c *conn) reconnect() {
	c.on(func() {
		c.lib.closeConn(c.ptr)
		if err := c.open(); err != nil {
			panic(err) // the folder is ours and the engine runs: a broken process
		}
	})
}

// acquire waits for a free connection, and prefers one that is in the database:
// to change that is a statement of its own. Of several it takes the one that is
// idle for longest, since the engine keeps what a killed statement held until the
// next one on its connection.
func (e *Engine) acquire(ctx context.Context, database string) (*conn, error) {
	select {
	case <-e.free:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	i := max(0, slices.IndexFunc(e.idle, func(c *conn) bool { return c.database == database }))
	c := e.idle[i]
	e.idle = slices.Delete(e.idle, i, i+1)
	return c, nil
}

func (e *Engine) release(c *conn) {
	e.mu.Lock()
	e.idle = append(e.idle, c)
	e.mu.Unlock()
	e.free <- struct{}{}
}

// killPause is how long a statement has to end before it is killed again: it may
// not have begun the first time.
const killPause = 50 * time.Millisecond

// killWith kills the statement that runs on c when ctx ends. stop must be called
// before c runs another.
func (e *Engine) killWith(ctx context.Context, c *conn) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-done:
			return
		case <-ctx.Done():
		}
		for {
			// It fails if the statement has just ended, which is as good.
			_, _, _ = e.killer.exec([]byte("KILL QUERY WHERE Settings['log_comment'] = "+quoteString(c.tag)+" ASYNC"), "Null", nil)
			select {
			case <-done:
				return
			case <-time.After(killPause):
			}
		}
	}()
	return func() { close(done); <-ended }
}

// on runs f on the connection's thread.
func (c *conn) on(f func()) {
	done := make(chan struct{})
	c.work <- func() { defer close(done); f() }
	<-done
}

// params are the values of {name:Type} placeholders.
type params map[string]string

type cparams struct {
	names, values       []*byte
	nameLens, valueLens []uintptr
}

func (p params) c() *cparams {
	c := &cparams{}
	for k, v := range p {
		c.names, c.nameLens = append(c.names, cstring(k)), append(c.nameLens, uintptr(len(k)))
		c.values, c.valueLens = append(c.values, cstring(v)), append(c.valueLens, uintptr(len(v)))
	}
	// The call takes pointers even for none.
	c.names, c.values = append(c.names, nil), append(c.values, nil)
	c.nameLens, c.valueLens = append(c.nameLens, 0), append(c.valueLens, 0)
	return c
}

func (c *conn) start(call func(uintptr, *byte, uintptr, *byte, uintptr, **byte, *uintptr, **byte, *uintptr, uintptr) uintptr, query []byte, format string, p params) uintptr {
	q, f, cp := cbytes(query), cstring(format), p.c()
	r := call(*c.ptr, q, uintptr(len(query)), f, uintptr(len(format)), &cp.names[0], &cp.nameLens[0], &cp.values[0], &cp.valueLens[0], uintptr(len(p)))
	runtime.KeepAlive(q)
	runtime.KeepAlive(f)
	runtime.KeepAlive(cp)
	return r
}

// take copies a result's data out and frees it.
func (c *conn) take(r uintptr) (data []byte, err error) {
	if r == 0 {
		return nil, engineError("Code: 1002. the engine gave no result")
	}
	defer c.lib.destroyResult(r)
	if msg := c.lib.resultError(r); msg != "" {
		return nil, engineError(msg)
	}
	if n := c.lib.length(r); n > 0 {
		data = append([]byte(nil), unsafe.Slice(c.lib.buffer(r), n)...)
	}
	return data, nil
}

// exec runs a statement and returns its whole output.
func (c *conn) exec(query []byte, format string, p params) (out []byte, written stats, err error) {
	c.on(func() {
		r := c.start(c.lib.query, query, format, p)
		if r != 0 {
			written = stats{rows: c.lib.rowsWritten(r), bytes: c.lib.bytesWritten(r)}
		}
		out, err = c.take(r)
	})
	return out, written, err
}

type stats struct{ rows, bytes uint64 }

// stream runs a query and gives its output in chunks, each a whole document of
// the format. An error of give ends the query.
func (c *conn) stream(query []byte, format string, p params, give func([]byte) error) error {
	var handle uintptr
	var err error
	c.on(func() {
		handle = c.start(c.lib.streamQuery, query, format, p)
		if handle == 0 {
			err = engineError("Code: 1002. the engine gave no result")
			return
		}
		if msg := c.lib.resultError(handle); msg != "" {
			err = engineError(msg)
			c.lib.destroyResult(handle)
		}
	})
	if err != nil {
		return err
	}
	defer c.on(func() { c.lib.destroyResult(handle) })
	for {
		var chunk []byte
		c.on(func() { chunk, err = c.take(c.lib.streamFetch(*c.ptr, handle)) })
		if err != nil {
			return err
		}
		if len(chunk) == 0 {
			return nil
		}
		if err := give(chunk); err != nil {
			c.on(func() { c.lib.streamCancel(*c.ptr, handle) })
			return err
		}
	}
}

// insert sends data, which next returns piece by piece until it is empty, into
// the table of an INSERT that has no FORMAT clause.
func (c *conn) insert(query []byte, format string, next func() ([]byte, error)) (written stats, err error) {
	var s uintptr
	fail := func() error {
		if msg := c.lib.insertError(s); msg != "" {
			return engineError(msg)
		}
		return nil
	}
	c.on(func() {
		q, f := cbytes(query), cstring(format)
		s = c.lib.insert(*c.ptr, q, uintptr(len(query)), f, uintptr(len(format)))
		runtime.KeepAlive(q)
		runtime.KeepAlive(f)
		err = fail()
	})
	defer c.on(func() { c.lib.insertDestroy(s) })
	if err != nil {
		return stats{}, err
	}
	for {
		data, err := next()
		if err != nil {
			c.on(func() { c.lib.insertCancel(s) })
			return stats{}, err
		}
		if len(data) == 0 {
			break
		}
		c.on(func() {
			if c.lib.insertAppend(s, &data[0], uintptr(len(data))) != 0 {
				err = fail()
				if err == nil {
					err = engineError("Code: 1002. the engine refused the data")
				}
			}
			runtime.KeepAlive(data)
		})
		if err != nil {
			// The stream's end holds the engine's full message.
			c.on(func() {
				if r := c.lib.insertDone(s); r != 0 {
					if _, e := c.take(r); e != nil {
						err = e
					}
				}
			})
			return stats{}, err
		}
	}
	c.on(func() {
		r := c.lib.insertDone(s)
		if r != 0 {
			written = stats{rows: c.lib.rowsWritten(r), bytes: c.lib.bytesWritten(r)}
		}
		_, err = c.take(r)
	})
	return written, err
}

func cstring(s string) *byte { return cbytes([]byte(s)) }

// cbytes gives a pointer to a copy that ends in a zero byte.
func cbytes(b []byte) *byte {
	out := make([]byte, len(b)+1)
	copy(out, b)
	return &out[0]
}

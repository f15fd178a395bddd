package clickhouse

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/sink/sinktest"
	"syncline/testsuite/stack"
)

// TestAFencedLaneMovesNoWatermark claims the lane between the last look at the
// ledger and the statement that moves the watermark.
func TestAFencedLaneMovesNoWatermark(t *testing.T) {
	overBoth(t, func(t *testing.T, protocol string) {
		s := openTest(t, protocol, Options{}, "")
		sch := sinktest.Schema("fenced", 1, sinktest.Col("id", sinktest.Int4))
		add(t, s, sch, sink.TableOptions{})
		x := claim(t, s)
		mark := func(offset int64) error {
			return x.mark(t.Context(), []sink.Watermark{{Partition: sink.Partition{Table: sch.Table}, Pos: sinktest.Pos(int(offset)), Offset: offset}}, nil)
		}
		if err := mark(5); err != nil {
			t.Fatal(err)
		}
		claim(t, s)
		if err := mark(6); !fault.Is(err, sink.CodeFenced) {
			t.Fatalf("a superseded lane's watermark: %v", err)
		}
		if w, err := s.Watermarks(t.Context()); err != nil || len(w) != 1 || w[0].Offset != 5 {
			t.Fatalf("%+v %v", w, err)
		}
	})
}

// TestReleasedContextsDoNotEnd: a batch that was sent must not feel what becomes
// of its caller.
func TestReleasedContextsDoNotEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	live, sent, late := follow(ctx, time.Hour), follow(ctx, time.Hour), follow(t.Context(), time.Millisecond)
	sent.release()
	cancel()
	select {
	case <-live.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("it does not follow")
	}
	<-late.Done()
	if !errors.Is(live.Err(), context.Canceled) || !errors.Is(late.Err(), context.DeadlineExceeded) || sent.Err() != nil {
		t.Errorf("%v, %v, %v", live.Err(), late.Err(), sent.Err())
	}
	select {
	case <-sent.Done():
		t.Error("ended after its release")
	default:
	}
	if d, ok := sent.Deadline(); !ok || time.Until(d) < time.Minute {
		t.Errorf("deadline %v", d)
	}
}

func TestNativeFaults(t *testing.T) {
	t.Parallel()
	s := openTest(t, "native", Options{}, "")
	ctx := t.Context()
	unreachable := func(what string, err error) {
		t.Helper()
		if !fault.Is(err, sink.CodeUnreachable) || !fault.Retryable(err) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", what, err)
		}
	}
	http, err := url.Parse(stack.ClickHouse(t))
	if err != nil {
		t.Fatal(err)
	}
	for what, address := range map[string]string{"nobody listens": "127.0.0.1:1", "the port of HTTP": http.Host} {
		k, err := Open(Config{DSN: "clickhouse://user:hunter2@" + address + "/?dial_timeout=500ms", Pipeline: "p"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = k.Tables(ctx)
		unreachable(what, err)
		_ = k.Close()
	}
	if _, err := Open(Config{DSN: "clickhouse://x/?compress=gzip", Pipeline: "p"}); !fault.Is(err, CodeConfig) || fault.Retryable(err) {
		t.Errorf("a compression that the protocol lacks: %v", err)
	}
	one := []part{signed("id", 1)}
	if _, err := s.insert(ctx, target{s.opts.Database, "nothing"}, 1, one); !fault.Is(err, CodeTableMissing) {
		t.Errorf("a missing table: %v", err)
	}
	if _, err := s.conn.exec(ctx, "create", "CREATE TABLE "+target{s.opts.Database, "narrow"}.String()+" (id Int32) ENGINE = Null"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.insert(ctx, target{s.opts.Database, "narrow"}, 1, one); !fault.Is(err, CodeConfig) || !fault.Retryable(err) {
		t.Errorf("a type that differs: %v", err)
	}
	none := func(func(...any) error) error { return nil }
	for query, c := range map[string]struct {
		code  fault.Code
		retry bool
	}{
		"SELECT 'hunter2' + no_column":                                                         {CodeQuery, false},
		"SELECT 'hunter2', 1 FROM nowhere":                                                     {CodeTableMissing, false},
		"SELECT 'hunter2', throwIf(1, 'hunter2', toInt16(252))":                                {CodeBusy, true},
		"SELECT throwIf(number = 200000) FROM numbers(1000000) SETTINGS max_block_size = 1000": {CodeQuery, false},
	} {
		err := s.conn.query(ctx, "SELECT a test", query+allowCodes(query), none)
		if fault.CodeOf(err) != c.code || fault.Retryable(err) != c.retry || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", query, err)
		}
	}
	// An answer that is given up is not read to its end, which this one has not.
	enough := errors.New("enough")
	if err := s.conn.query(ctx, "SELECT numbers", "SELECT number FROM system.numbers", func(func(...any) error) error { return fault.Permanent("Test", enough, "", "row") }); !errors.Is(err, enough) {
		t.Errorf("given up: %v", err)
	}
	const endless = "SELECT count() FROM system.numbers"
	cut, cancel := context.WithCancel(ctx)
	time.AfterFunc(200*time.Millisecond, cancel)
	if err := s.conn.query(cut, "SELECT for ever", endless, none); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	short := *s.conn
	short.timeout = 300 * time.Millisecond
	unreachable("no answer in time", short.query(ctx, "SELECT for ever", endless, none))
	if n := strings1(t, s, "SELECT 'still there'"); len(n) != 1 {
		t.Error(n)
	}
}

// allowCodes lets throwIf choose its code.
func allowCodes(query string) string {
	if strings.Contains(query, "252") {
		return " SETTINGS allow_custom_error_code_in_throwif = 1"
	}
	return ""
}

// proxy passes bytes on until its connections are cut.
type proxy struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (p *proxy) cut() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	n, p.conns = len(p.conns), nil
	return n
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l}
	t.Cleanup(func() { _ = l.Close(); p.cut() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
			go func() { _, _ = io.Copy(in, out); _ = in.Close() }()
		}
	}()
	return p
}

// TestNativeConnectionsBreak cuts idle connections, and one under a statement.
func TestNativeConnectionsBreak(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(stack.ClickHouseNative(t))
	if err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, u.Host)
	k, err := Open(Config{DSN: "clickhouse://" + p.Addr().String() + "/", Pipeline: "p"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	for range 3 {
		want(t, strings1(t, k, "SELECT 'here'"), "here")
		if p.cut() == 0 {
			t.Fatal("no connection to cut")
		}
		time.Sleep(20 * time.Millisecond) // the end arrives
	}
	time.AfterFunc(300*time.Millisecond, func() { p.cut() })
	err = k.conn.query(t.Context(), "SELECT for ever", "SELECT count() FROM system.numbers", func(func(...any) error) error { return nil })
	if !fault.Is(err, sink.CodeUnreachable) || !fault.Retryable(err) {
		t.Fatalf("cut under a statement: %v", err)
	}
	want(t, strings1(t, k, "SELECT 'here'"), "here")
}

// TestNativeTakesOddNames has columns that the client library cannot cut out of a statement.
func TestNativeTakesOddNames(t *testing.T) {
	t.Parallel()
	s := openTest(t, "native", Options{}, "")
	sch := sinktest.Schema("odd", 1, sinktest.Col("id", sinktest.Int4), sinktest.Col("on (sale), `no`", sinktest.Bool), sinktest.Col("FORMAT", sinktest.TextT))
	tab := add(t, s, sch, sink.TableOptions{Name: "values (x) FORMAT y"})
	if err := s.FinishLoad(t.Context(), sch.Table); err != nil {
		t.Fatal(err)
	}
	// A column that is not Syncline's has its default.
	if _, err := s.conn.exec(t.Context(), "alter", "ALTER TABLE "+s.target(sch.Table, tab.Options).String()+" ADD COLUMN own String DEFAULT 'x'"); err != nil {
		t.Fatal(err)
	}
	x := claim(t, s)
	if a, err := x.Apply(t.Context(), sinktest.Batch(tab, 1, sinktest.Put(sch, 1, "1", "t", "values"), sinktest.Put(sch, 1, "2", "f", sinktest.NULL))); err != nil || len(a.Dead) > 0 {
		t.Fatal(a, err)
	}
	want(t, rowsOf(t, s, sch, tab.Options), "1|t|values", "2|f|NULL")
	want(t, strings1(t, s, "SELECT DISTINCT own FROM "+s.target(sch.Table, tab.Options).String()), "x")
}

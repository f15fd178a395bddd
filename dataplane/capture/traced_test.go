package capture

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"syncline/dataplane/change"
	"syncline/dataplane/trace"
)

// ackedLog is a fakeLog whose acknowledgements can be waited for.
type ackedLog struct {
	fakeLog
	traces []string // of the records
	moved  chan struct{}
}

func newAckedLog() *ackedLog { return &ackedLog{moved: make(chan struct{})} }

func (l *ackedLog) Append(ctx context.Context, c *change.Change) (uint64, error) {
	l.traces = append(l.traces, c.Trace)
	return l.fakeLog.Append(ctx, c)
}

func (l *ackedLog) WaitAcked(ctx context.Context, n uint64) error {
	for {
		l.mu.Lock()
		acked, err, moved := l.acked, l.err, l.moved
		l.mu.Unlock()
		if acked >= n || err != nil {
			return err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *ackedLog) ack(n uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked, l.err = n, err
	close(l.moved)
	l.moved = make(chan struct{})
}

func pipelineTracer(ratio float64) (*trace.Pipeline, *tracetest.SpanRecorder) {
	rec := tracetest.NewSpanRecorder()
	p := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(rec), sdktrace.WithIDGenerator(trace.IDs{}))
	return trace.New(p, ratio, func(s string) string { return s }).Pipeline("orders"), rec
}

func txChange(commit change.LSN, ordinal uint32, table string, last bool) *change.Change {
	return &change.Change{Table: change.TableID{Schema: "public", Name: table}, Op: change.Insert, XID: 42, Last: last,
		Pos: change.Position{Epoch: 1, Commit: commit, Ordinal: ordinal}, CommitTime: time.Now()}
}

func mustAppend(t *testing.T, l Log, cs ...*change.Change) (seq uint64) {
	t.Helper()
	for _, c := range cs {
		was := c.Trace
		var err error
		if seq, err = l.Append(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if c.Trace != was {
			t.Error("the source's change was written to")
		}
	}
	return seq
}

// All changes of a sampled transaction carry one traceparent, and its span lasts
// until the last of them is acknowledged.
func TestSampledTransactionsAreMarked(t *testing.T) {
	log := newAckedLog()
	p, rec := pipelineTracer(1)
	traced := Trace(log, p)
	first := mustAppend(t, traced, txChange(100, 1, "a", false), txChange(100, 2, "b", false), txChange(100, 3, "a", true))
	mustAppend(t, traced, txChange(200, 1, "a", true))
	log.ack(first-1, nil)
	if n := len(rec.Ended()); n != 0 {
		t.Fatalf("%d spans before the acknowledgement", n)
	}
	before := time.Now()
	log.ack(first, nil)
	for end := time.Now().Add(10 * time.Second); len(rec.Ended()) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no span after the acknowledgement")
		}
	}
	s := rec.Ended()[0]
	attrs := map[string]string{}
	for _, kv := range s.Attributes() {
		attrs[string(kv.Key)] = kv.Value.String()
	}
	if s.EndTime().Before(before) || attrs["syncline.position"] != "1:0/64:3" || attrs["syncline.lsn"] != "0/64" || attrs["syncline.xid"] != "42" ||
		attrs["syncline.changes"] != "3" || attrs["syncline.tables"] != `["public.a","public.b"]` || attrs["syncline.pipeline"] != "orders" {
		t.Errorf("%v", attrs)
	}
	if tr := log.traces; tr[0] == "" || tr[0] != tr[1] || tr[1] != tr[2] || tr[3] == "" || tr[3] == tr[0] || !strings.Contains(tr[0], s.SpanContext().SpanID().String()) {
		t.Errorf("traceparents %q, span %s", tr, s.SpanContext().SpanID())
	}
	log.ack(0, errors.New("the log has stopped"))
	traced.Finish()
	if n := len(rec.Ended()); n != 1 {
		t.Errorf("%d spans: one for what was not acknowledged", n)
	}
}

// After a crash the same transactions are marked in the same way, whatever share it is.
func TestAResendIsMarkedAlike(t *testing.T) {
	var runs [2][]string
	for i := range runs {
		log := newAckedLog()
		log.auto = true
		p, _ := pipelineTracer(0.5)
		traced := Trace(log, p)
		for n := range 200 {
			if i == 1 && n < 50 {
				continue // confirmed before the crash
			}
			mustAppend(t, traced, txChange(change.LSN(n+1)*8, 1, "a", false), txChange(change.LSN(n+1)*8, 2, "a", true))
		}
		log.ack(1<<40, nil)
		traced.Finish()
		runs[i] = log.traces
	}
	if !slices.Equal(runs[0][100:], runs[1]) {
		t.Error("the resend differs")
	}
	if n := len(slices.DeleteFunc(slices.Clone(runs[0]), func(s string) bool { return s == "" })); n < 100 || n > 300 {
		t.Errorf("%d of 400 changes are marked at ratio 0.5", n)
	}
}

// What is not sampled goes on as it came: the very same change.
func TestUnsampledChangesAreLeftAlone(t *testing.T) {
	log := newAckedLog()
	p, rec := pipelineTracer(0)
	traced := Trace(log, p)
	theirs := txChange(100, 1, "a", true)
	theirs.Trace = "told by the application"
	mustAppend(t, traced, theirs, txChange(200, 1, "a", true))
	log.ack(2, nil)
	traced.Finish()
	if !slices.Equal(log.traces, []string{"told by the application", ""}) || len(rec.Ended()) != 0 {
		t.Errorf("%q, %d spans", log.traces, len(rec.Ended()))
	}
}

// An application may tell its traceparent after its first change: a transaction that
// is not sampled by then becomes a part of that trace from there on.
func TestToldLate(t *testing.T) {
	const app = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	log := newAckedLog()
	p, rec := pipelineTracer(1e-9)
	traced := Trace(log, p)
	first, second := txChange(100, 1, "a", false), txChange(100, 2, "a", true)
	second.Trace = app
	mustAppend(t, traced, first, second, txChange(200, 1, "a", true))
	log.ack(3, nil)
	traced.Finish()
	if tr := log.traces; tr[0] != "" || !strings.HasPrefix(tr[1], app[:36]) || tr[1] == app || tr[2] != "" {
		t.Errorf("%q", tr)
	}
	if n := len(rec.Ended()); n != 1 {
		t.Errorf("%d spans", n)
	}
}

// sinkLog only takes: what is measured is the tracing.
type sinkLog struct {
	AckedLog
	n uint64
}

func (l *sinkLog) Append(context.Context, *change.Change) (uint64, error) { l.n++; return l.n, nil }
func (l *sinkLog) WaitAcked(context.Context, uint64) error                { return nil }

// Per change, in transactions of one change: the worst case.
func BenchmarkTraced(b *testing.B) {
	run := func(name string, wrap func(*sinkLog) (Log, func())) {
		b.Run(name, func(b *testing.B) {
			log, finish := wrap(&sinkLog{})
			defer finish()
			c := txChange(0, 1, "a", true)
			b.ReportAllocs()
			for b.Loop() {
				c.Pos.Commit += 8
				if _, err := log.Append(b.Context(), c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("off", func(l *sinkLog) (Log, func()) { return l, func() {} })
	for name, ratio := range map[string]float64{"0": 0, "0.001": 0.001, "1": 1} {
		run(name, func(l *sinkLog) (Log, func()) {
			sdk := sdktrace.NewTracerProvider(sdktrace.WithBatcher(tracetest.NewNoopExporter()), sdktrace.WithIDGenerator(trace.IDs{}))
			t := Trace(l, trace.New(sdk, ratio, func(s string) string { return s }).Pipeline("orders"))
			return t, t.Finish
		})
	}
}

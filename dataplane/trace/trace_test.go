package trace

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"
	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// recorded is a pipeline's tracer and the spans that it made.
func recorded(ratio float64, name string) (*Pipeline, *tracetest.SpanRecorder) {
	rec := tracetest.NewSpanRecorder()
	p := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(rec), sdktrace.WithSampler(sdktrace.AlwaysSample()), sdktrace.WithIDGenerator(IDs{}))
	redact := func(s string) string { return strings.ReplaceAll(s, "hunter2", "***") }
	return New(p, ratio, redact).Pipeline(name), rec
}

func positions() *rapid.Generator[change.Position] {
	return rapid.Custom(func(t *rapid.T) change.Position {
		return change.Position{Epoch: rapid.Uint32().Draw(t, "epoch"), Commit: change.LSN(rapid.Uint64().Draw(t, "commit"))}
	})
}

// Two processes that share nothing decide alike, on the same ids; and they are
// other ids for another pipeline, transaction or epoch.
func TestIDsFollowFromThePosition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ratio := rapid.Float64Range(0.01, 1).Draw(t, "ratio")
		pos := positions().Draw(t, "pos")
		a, _ := recorded(ratio, "orders")
		b, _ := recorded(ratio, "orders")
		x, yes := a.Sample(pos, "")
		y, too := b.Sample(pos, "")
		if yes != too || x.Traceparent() != y.Traceparent() {
			t.Fatalf("%v %v, %v %v", x, yes, y, too)
		}
		other, _ := recorded(1, "order")
		next, epoch := pos, pos
		next.Commit++
		epoch.Epoch++
		mine := a.Derived(pos)
		for _, sc := range []oteltrace.SpanContext{other.Derived(pos), a.Derived(next), a.Derived(epoch)} {
			if sc.TraceID() == mine.TraceID() || sc.SpanID() == mine.SpanID() {
				t.Fatalf("shared ids: %v, %v", mine, sc)
			}
		}
		if yes && (x.context.TraceID() != mine.TraceID() || x.context.SpanID() != mine.SpanID() || !x.context.IsSampled() || mine.IsSampled()) {
			t.Fatalf("%v, derived %v", x, mine)
		}
	})
}

// The share is the ratio, and a sampler of OpenTelemetry's further on agrees.
func TestSharesAreThoseOfTraceIDRatioBased(t *testing.T) {
	const n = 200_000
	for _, ratio := range []float64{0, 0.001, 0.1, 0.5, 1} {
		p, _ := recorded(ratio, "p")
		standard := sdktrace.TraceIDRatioBased(ratio)
		got := 0
		for i := range n {
			pos := change.Position{Epoch: 1, Commit: change.LSN(i) * 8}
			_, yes := p.Sample(pos, "")
			if yes {
				got++
			}
			want := standard.ShouldSample(sdktrace.SamplingParameters{ParentContext: context.Background(), TraceID: p.Derived(pos).TraceID()}).Decision == sdktrace.RecordAndSample
			if yes != want {
				t.Fatalf("ratio %v: %s is %v, the standard's sampler says %v", ratio, pos, yes, want)
			}
		}
		if dev := 5 * math.Sqrt(n*ratio*(1-ratio)); math.Abs(float64(got)-n*ratio) > dev {
			t.Errorf("ratio %v: %d of %d, want within %.0f", ratio, got, n, dev)
		}
	}
}

func TestTraceparentComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, _ := recorded(1, rapid.String().Draw(t, "name"))
		tx, ok := p.Sample(positions().Draw(t, "pos"), "")
		if !ok {
			t.Fatal("not sampled")
		}
		s := tx.Traceparent()
		sc, told := p.Told(s)
		if len(s) != traceparentLen || !told || !sc.Equal(tx.context) {
			t.Fatalf("%s: %v, want %v", s, sc, tx.context)
		}
	})
	rapid.Check(t, func(t *rapid.T) { // what an application may write
		s := rapid.StringMatching(`[0-9a-fA-F]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[a-z]*)?|.{0,60}`).Draw(t, "text")
		if sc, ok := parse(s); ok && format(sc)[3:53] != s[3:53] {
			t.Fatalf("%q was read as %s", s, format(sc))
		}
	})
	for _, bad := range []string{
		"", "00-aa-bb-01", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
	} {
		if sc, ok := parse(bad); ok {
			t.Errorf("%q was read as %v", bad, sc)
		}
	}
	if _, ok := parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later"); !ok {
		t.Error("a later version was refused")
	}
}

// A transaction that tells its application's trace continues it, by its decision.
func TestApplicationsDecide(t *testing.T) {
	const app = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"
	pos := change.Position{Epoch: 1, Commit: 800}
	rare, rec := recorded(1e-9, "p")
	tx, ok := rare.Sample(pos, app+"1")
	if !ok || !strings.HasPrefix(tx.Traceparent(), app[:36]) || strings.HasPrefix(tx.Traceparent(), app[:53]) {
		t.Errorf("%s %v: want the application's trace, and a span of our own", tx.Traceparent(), ok)
	}
	rare.Captured(tx, Captured{Position: pos, Committed: time.Now(), Acked: time.Now()})
	s := rec.Ended()[0]
	if got := format(s.SpanContext()); got != tx.Traceparent() || s.Parent().SpanID().String() != app[36:52] {
		t.Errorf("span %s, want %s below %s", got, tx.Traceparent(), app)
	}
	all, _ := recorded(1, "p")
	if _, ok := all.Sample(pos, app+"0"); ok {
		t.Error("sampled against the application's decision")
	}
	if _, ok := all.Sample(pos, "no traceparent"); !ok {
		t.Error("what is not a traceparent decides")
	}
	off, _ := recorded(0, "p")
	if _, ok := off.Sample(pos, app+"1"); ok {
		t.Error("sampled at ratio 0")
	}
	if _, ok := off.Told(app + "1"); ok {
		t.Error("told at ratio 0")
	}
}

// One transaction, two sinks: one trace.
func TestApplySpansAreChildrenOfCapture(t *testing.T) {
	p, rec := recorded(1, "orders")
	pos := change.Position{Epoch: 1, Commit: 0x100, Ordinal: 2}
	tx, _ := p.Sample(pos, "")
	at := time.Now()
	p.Captured(tx, Captured{Position: pos, XID: 7, Changes: 2, Tables: []string{"public.t"}, Committed: at, Acked: at.Add(-time.Second)}) // the source's clock is ahead
	told, _ := p.Told(tx.Traceparent())
	p.Applied(Batch{Began: at, Ended: at.Add(time.Second)}, []Applied{{Capture: told, Position: pos, Read: at, Tables: []string{"public.t"}, Changes: 2}})
	spans := rec.Ended()
	if len(spans) != 3 {
		t.Fatalf("%d spans", len(spans))
	}
	capture, apply, batch := spans[0], spans[1], spans[2]
	if capture.Name() != SpanCapture || capture.Parent().IsValid() || capture.EndTime().Before(capture.StartTime()) {
		t.Errorf("capture: parent %v, %v to %v", capture.Parent(), capture.StartTime(), capture.EndTime())
	}
	if apply.Name() != SpanApply || apply.Parent().SpanID() != capture.SpanContext().SpanID() || apply.SpanContext().TraceID() != capture.SpanContext().TraceID() {
		t.Errorf("apply is below %v, want %v", apply.Parent(), capture.SpanContext())
	}
	if l := batch.Links(); batch.Name() != SpanBatch || len(l) != 1 || !l[0].SpanContext.Equal(apply.SpanContext()) {
		t.Errorf("links of the batch: %v", l)
	}
}

// At ratio 0 there are errors, which show codes and neither causes nor secrets.
func TestErrorsAreAlwaysTraced(t *testing.T) {
	p, rec := recorded(0, "orders")
	cause := errors.New(`invalid input syntax for type integer: "a customer's name"`)
	inner := fault.Transient("SinkBusy", cause, "the sink at postgres://u:hunter2@h is busy")
	err := fmt.Errorf("apply of \"a customer's name\": %w", fault.Permanent("TableMismatch", inner, "", "table public.t"))
	pos := change.Position{Epoch: 1, Commit: 0x100, Ordinal: 1}
	p.BatchFailed(Batch{Began: time.Now(), Ended: time.Now(), Changes: 3}, err, []oteltrace.SpanContext{p.Derived(pos)})
	p.Retry("claim lane", errors.New("a customer's name"))
	p.AttemptFailed("deliver", time.Now(), err)
	p.DeadLetter(p.Derived(pos), "RowRejected", pos, change.TableID{Schema: "public", Name: "t"}, 1, 2)
	p.Applied(Batch{}, nil)
	want := map[string]string{SpanBatch: "TableMismatch", SpanRetry: NoCode, SpanAttempt: "TableMismatch", SpanDeadLetter: "RowRejected"}
	for _, s := range rec.Ended() {
		attrs := map[string]string{}
		for _, kv := range s.Attributes() {
			attrs[string(kv.Key)] = kv.Value.String()
		}
		text := fmt.Sprint(s.Status().Description, attrs, s.Events())
		if s.Status().Code != codes.Error || attrs[string(AttrCode)] != want[s.Name()] || attrs[string(AttrPipeline)] != "orders" {
			t.Errorf("%s: %s", s.Name(), text)
		}
		if strings.Contains(text, "customer") || strings.Contains(text, "hunter2") {
			t.Errorf("%s shows too much: %s", s.Name(), text)
		}
		switch s.Name() {
		case SpanBatch:
			if len(s.Links()) != 1 || s.Links()[0].SpanContext.TraceID() != p.Derived(pos).TraceID() || s.Status().Description != "TableMismatch: table public.t: SinkBusy: the sink at postgres://u:***@h is busy" {
				t.Errorf("%v %s", s.Links(), text)
			}
		case SpanDeadLetter:
			if s.SpanContext().TraceID() != p.Derived(pos).TraceID() || s.Parent().SpanID() != p.Derived(pos).SpanID() {
				t.Error("a dead letter is not in its transaction's trace")
			}
		}
		delete(want, s.Name())
	}
	if len(want) > 0 {
		t.Errorf("no spans of %v", want)
	}
}

// Tracing that is turned off may be used like any other.
func TestOff(t *testing.T) {
	p := (*Tracer)(nil).Pipeline("orders")
	err := errors.New("x")
	if _, ok := p.Sample(change.Position{Epoch: 1, Commit: 1}, ""); ok || p != nil {
		t.Error("sampled")
	}
	if _, ok := p.Told("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"); ok {
		t.Error("told")
	}
	p.Captured(Transaction{}, Captured{})
	p.DeadLetter(p.Derived(change.Position{Epoch: 1, Commit: 1}), "x", change.Position{}, change.TableID{}, 0, 0)
	p.Applied(Batch{}, []Applied{{}})
	p.BatchFailed(Batch{}, err, nil)
	p.Retry("x", err)
	p.AttemptFailed("x", time.Now(), err)
}

func TestRandomIDsAreValid(t *testing.T) {
	tid, sid := IDs{}.NewIDs(t.Context())
	if !tid.IsValid() || !sid.IsValid() || !(IDs{}).NewSpanID(t.Context(), tid).IsValid() {
		t.Errorf("%v %v", tid, sid)
	}
}

func BenchmarkSample(b *testing.B) {
	for _, ratio := range []float64{0, 0.001, 1} {
		b.Run(fmt.Sprint(ratio), func(b *testing.B) {
			p, _ := recorded(ratio, "orders")
			b.ReportAllocs()
			for i := range b.N {
				p.Sample(change.Position{Epoch: 1, Commit: change.LSN(i)}, "")
			}
		})
	}
}

package deliver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/trace"
)

// traced are options of a lane whose spans are recorded.
func traced(ratio float64) (Options, *tracetest.SpanRecorder) {
	rec := tracetest.NewSpanRecorder()
	p := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(rec), sdktrace.WithSampler(sdktrace.AlwaysSample()), sdktrace.WithIDGenerator(trace.IDs{}))
	o := quick(0, 1)
	o.Trace = trace.New(p, ratio, func(s string) string { return s }).Pipeline("orders")
	return o, rec
}

func named(rec *tracetest.SpanRecorder, name string) (out []sdktrace.ReadOnlySpan) {
	for _, s := range rec.Ended() {
		if s.Name() == name {
			out = append(out, s)
		}
	}
	return out
}

func attr(s sdktrace.ReadOnlySpan, key string) string {
	for _, kv := range s.Attributes() {
		if string(kv.Key) == key {
			return kv.Value.String()
		}
	}
	return ""
}

// mark makes the changes of a transaction carry its traceparent, as capture does.
func (st *stand) mark(t *testing.T, p *trace.Pipeline, lsn change.LSN) string {
	t.Helper()
	tx, ok := p.Sample(change.Position{Epoch: 1, Commit: lsn}, "")
	if !ok {
		t.Fatal("not sampled")
	}
	for _, cs := range st.log.parts {
		for _, c := range cs {
			if c.Pos.Commit == lsn {
				c.Trace = tx.Traceparent()
			}
		}
	}
	return tx.Traceparent()
}

// A sampled transaction over two tables is one span; the rest of the batch is none.
func TestApplySpansOfSampledTransactions(t *testing.T) {
	st := newStand(tableA, tableC)
	st.row(tableA, 100, 1, 1, "x")
	st.row(tableA, 200, 1, 2, "x")
	st.row(tableC, 200, 2, 2, "x")
	st.row(tableC, 300, 1, 3, "x")
	o, rec := traced(1)
	o.Transactional = true // one batch holds it whole
	parent := st.mark(t, o.Trace, 200)
	st.log.progress(1, 1000, st.n)
	stop := st.start(t, o, Observer{})
	until(t, "all", func() bool { return st.at(tableA) >= 300 && st.at(tableC) >= 300 })
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	spans := named(rec, trace.SpanApply)
	if len(spans) != 1 {
		t.Fatalf("%d apply spans, want 1 of 3 transactions", len(spans))
	}
	s := spans[0]
	if p := s.Parent(); !strings.Contains(parent, p.SpanID().String()) || !strings.Contains(parent, s.SpanContext().TraceID().String()) {
		t.Errorf("it is below %s, want %s", p.SpanID(), parent)
	}
	if attr(s, "syncline.changes") != "2" || attr(s, "syncline.position") != "1:0/C8:1" || attr(s, "syncline.offset") != "1" || attr(s, "syncline.partition") != "0" ||
		!strings.Contains(attr(s, "syncline.tables"), tableA.String()) || !strings.Contains(attr(s, "syncline.tables"), tableC.String()) {
		t.Errorf("%v", s.Attributes())
	}
	if s.StartTime().Year() < 2020 || s.EndTime().Before(s.StartTime()) {
		t.Errorf("from %v to %v", s.StartTime(), s.EndTime())
	}
	linked := 0
	for _, b := range named(rec, trace.SpanBatch) {
		for _, l := range b.Links() {
			if l.SpanContext.Equal(s.SpanContext()) {
				linked++
			}
		}
	}
	if linked != 1 {
		t.Errorf("%d batches link to it", linked)
	}
}

// A transaction that was applied before, and is sent again, is not applied again.
func TestDuplicatesHaveNoSpan(t *testing.T) {
	st := newStand(tableA)
	st.row(tableA, 100, 1, 1, "x")
	o, rec := traced(1)
	st.mark(t, o.Trace, 100)
	p := sink.Partition{Table: tableA}
	st.log.append(p, st.log.parts[p][0])
	st.row(tableA, 200, 1, 1, "y")
	stop := st.start(t, o, Observer{})
	until(t, "all", func() bool { return st.at(tableA) == 200 })
	_ = stop()
	if n := len(named(rec, trace.SpanApply)); n != 1 {
		t.Errorf("%d apply spans", n)
	}
}

// A TRUNCATE is applied apart from batches.
func TestTruncatesAreTraced(t *testing.T) {
	st := newStand(tableA)
	st.log.append(sink.Partition{Table: tableA}, &change.Change{Table: tableA, Schema: st.s[tableA].Version(), Op: change.Truncate, Pos: change.Position{Epoch: 1, Commit: 100, Ordinal: 1}})
	o, rec := traced(1)
	st.mark(t, o.Trace, 100)
	stop := st.start(t, o, Observer{})
	until(t, "the truncation", func() bool { return st.at(tableA) == 100 })
	_ = stop()
	if s := named(rec, trace.SpanApply); len(s) != 1 || attr(s[0], "syncline.tables") == "" {
		t.Errorf("%v", s)
	}
}

// At ratio 0 a dead letter, a batch that is tried again, a table that is refused and
// a lane that was taken over each leave a span; what goes well leaves none.
func TestErrorsAreTracedUnsampled(t *testing.T) {
	tests := map[string]struct {
		plant func(*stand)
		span  string
		code  string
		wait  func(*stand) bool
	}{
		"dead letter": {func(st *stand) {
			st.sink.poison = "bad"
			st.row(tableA, 100, 1, 1, "bad")
		}, trace.SpanDeadLetter, string(sink.CodeRowRejected), func(st *stand) bool { return st.at(tableA) == 100 }},
		"refused table": {func(st *stand) {
			st.sink.refuse[tableA] = fault.Permanent(sink.CodeTableMismatch, nil, "", "column")
			st.row(tableA, 100, 1, 1, "x")
		}, trace.SpanBatch, string(sink.CodeTableMismatch), func(st *stand) bool { return st.state(tableA) == sink.Gated }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			st := newStand(tableA)
			tt.plant(st)
			o, rec := traced(0)
			stop := st.start(t, o, Observer{})
			until(t, "the fault", func() bool { return tt.wait(st) && len(named(rec, tt.span)) > 0 })
			_ = stop()
			want := o.Trace.Derived(change.Position{Epoch: 1, Commit: 100}).TraceID()
			for _, s := range rec.Ended() {
				linked := s.SpanContext().TraceID() == want || len(s.Links()) == 1 && s.Links()[0].SpanContext.TraceID() == want
				if s.Name() != tt.span || attr(s, "syncline.code") != tt.code || !linked {
					t.Errorf("%s: %v links %v trace %s, want one that leads to %s", s.Name(), s.Attributes(), s.Links(), s.SpanContext().TraceID(), want)
				}
			}
		})
	}

	t.Run("retried and fenced", func(t *testing.T) {
		st := newStand(tableA)
		st.row(tableA, 100, 1, 1, "x")
		o, rec := traced(0)
		o.RetryFor = time.Minute
		done := make(chan error, 1)
		go func() { done <- Run(t.Context(), o, st.log, st.sink, nil, Observer{}) }()
		until(t, "first change", func() bool { return st.at(tableA) == 100 })
		if n := len(rec.Ended()); n != 0 {
			t.Errorf("%d spans of a batch that went well", n)
		}
		st.sink.mu.Lock()
		st.sink.refuse[tableA] = fault.Transient("SinkBusy", nil, "busy")
		st.sink.mu.Unlock()
		st.row(tableA, 200, 1, 1, "y")
		until(t, "a retry", func() bool { return len(named(rec, trace.SpanBatch)) > 0 })
		if s := named(rec, trace.SpanBatch)[0]; attr(s, "syncline.code") != "SinkBusy" || attr(s, "syncline.retry") != "true" {
			t.Errorf("%v", s.Attributes())
		}
		if _, err := st.sink.Claim(t.Context(), 0, 1); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !fault.Is(err, sink.CodeFenced) {
			t.Fatal(err)
		}
		spans := named(rec, trace.SpanBatch)
		if s := spans[len(spans)-1]; attr(s, "syncline.code") != string(sink.CodeFenced) {
			t.Errorf("%v", s.Attributes())
		}
	})
}

// What it costs beside BenchmarkDeliver.
func BenchmarkDeliverTraced(b *testing.B) {
	for _, ratio := range []float64{0, 0.001, 0.1} {
		b.Run(fmt.Sprint(ratio), func(b *testing.B) {
			p := sdktrace.NewTracerProvider(sdktrace.WithBatcher(tracetest.NewNoopExporter()), sdktrace.WithIDGenerator(trace.IDs{}))
			t := trace.New(p, ratio, func(s string) string { return s }).Pipeline("orders")
			benchDeliver(b, Options{Trace: t}, Observer{}, func(c *change.Change) {
				if tx, ok := t.Sample(c.Pos, ""); ok {
					c.Trace = tx.Traceparent()
				}
			})
		})
	}
}

// A transaction whose changes wait has a span when they take effect, by tier, and one
// for those that did not wait.
func TestWhatWaitedIsTraced(t *testing.T) {
	st := newStand(tableA)
	st.row(tableA, 100, 1, 0, "now: past the load")
	st.row(tableA, 110, 1, 1, "hourly: 1")
	st.row(tableA, 110, 2, 2, "now: 2")
	st.row(tableA, 110, 3, 3, "daily: 3")
	st.row(tableA, 110, 4, 4, "hourly: 4")
	o, rec := traced(1)
	o.Tiers = byValue{}
	parent := st.mark(t, o.Trace, 110)
	stop := st.start(t, o, Observer{})
	until(t, "streaming goes ahead", func() bool { return st.markOf(tableA).Ahead.Waits == 3 })
	if s := named(rec, trace.SpanApply); len(s) != 1 || attr(s[0], "syncline.tier") != "" || attr(s[0], "syncline.changes") != "1" {
		t.Fatalf("before the run: %v", s)
	}
	read := time.Now()
	_ = st.sink.SetDue(t.Context(), tableA, sink.AllTiers, change.Position{Epoch: 1, Commit: 111})
	st.row(tableA, 120, 1, 9, "now: 9") // only then is it known that the transaction is whole
	until(t, "what waited", func() bool { return !st.markOf(tableA).Behind() })
	_ = stop()
	got := map[string]string{}
	for _, s := range named(rec, trace.SpanApply) {
		tier := attr(s, "syncline.tier")
		got[tier] += attr(s, "syncline.changes") + " of " + attr(s, "syncline.tables")
		if !strings.Contains(parent, s.Parent().SpanID().String()) || tier != "" && s.StartTime().Before(read) {
			t.Errorf("%s: below %s, from %v", tier, s.Parent().SpanID(), s.StartTime())
		}
	}
	tables := ` of ["` + tableA.String() + `"]`
	if len(got) != 3 || got[""] != "1"+tables || got["hourly"] != "2"+tables || got["daily"] != "1"+tables {
		t.Errorf("%v", got)
	}
}

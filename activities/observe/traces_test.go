package observe

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.uber.org/zap"

	"syncline/dataplane/change"
	"syncline/dataplane/trace"
	"syncline/testsuite/otlp"
)

func options(t *testing.T, ratio float64, env map[string]string) TraceOptions {
	t.Helper()
	o := TraceOptions{Ratio: ratio}
	if err := o.Read(func(n string) string { return env[n] }); err != nil {
		t.Fatal(err)
	}
	return o
}

// A transaction's capture and apply spans, made by three processes that share
// nothing, arrive as one trace that leads to the workflow's runs.
func TestSpansArriveByOTLP(t *testing.T) {
	for _, protocol := range []string{"grpc", "http/protobuf", ""} {
		t.Run(protocol, func(t *testing.T) {
			col := otlp.New(t)
			env := map[string]string{
				"OTEL_EXPORTER_OTLP_ENDPOINT": col.HTTP(), "OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_HEADERS": "x-team=data",
				"OTEL_SERVICE_NAME": "named-by-user", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
			}
			if protocol == "grpc" {
				env["OTEL_EXPORTER_OTLP_ENDPOINT"] = col.GRPC()
			}
			for k, v := range env {
				t.Setenv(k, v)
			}
			o := options(t, 1, env)
			pos := change.Position{Epoch: 1, Commit: 0x100, Ordinal: 1}
			now := time.Now()
			process := func(worker string, attrs []attribute.KeyValue, f func(*trace.Pipeline)) {
				tr, err := NewTraces(t.Context(), o, worker, "v1", zap.NewNop())
				if err != nil {
					t.Fatal(err)
				}
				f(tr.Tracer().Pipeline("orders", attrs...))
				tr.Close(10 * time.Second)
			}
			var parent string
			process("w1", []attribute.KeyValue{attribute.String("temporalRunID", "run-1")}, func(p *trace.Pipeline) {
				tx, ok := p.Sample(pos, "")
				if !ok {
					t.Fatal("not sampled at ratio 1")
				}
				parent = tx.Traceparent()
				p.Captured(tx, trace.Captured{Position: pos, Changes: 1, Tables: []string{"public.t"}, Committed: now, Acked: now})
			})
			for _, sink := range []string{"pg", "ch"} {
				process("w-"+sink, []attribute.KeyValue{attribute.String("temporalRunID", "run-1"), trace.AttrSink.String(sink)}, func(p *trace.Pipeline) {
					sc, ok := p.Told(parent)
					if !ok {
						t.Fatal("not told")
					}
					p.Applied(trace.Batch{Began: now, Ended: now}, []trace.Applied{{Capture: sc, Position: pos, Read: now}})
				})
			}
			captures, applies := col.Spans(trace.SpanCapture), col.Spans(trace.SpanApply)
			if len(captures) != 1 || len(applies) != 2 || len(col.Spans("")) != 5 {
				t.Fatalf("want one capture, two applies, two batches:\n%s", col)
			}
			root := captures[0]
			sinks := map[string]bool{}
			for _, s := range append(applies, root) {
				sinks[s.Attrs["syncline.sink"]] = true
				if s.Trace != root.Trace || s.Name == trace.SpanApply && s.Parent != root.ID || s.Attrs["temporalRunID"] != "run-1" || s.Attrs["syncline.pipeline"] != "orders" {
					t.Errorf("%+v", s)
				}
				if s.Resource["service.name"] != "named-by-user" || s.Resource["deployment.environment"] != "test" || s.Resource["service.version"] != "v1" || !strings.HasPrefix(s.Resource["service.instance.id"], "w") {
					t.Errorf("resource %v", s.Resource)
				}
			}
			if names := slices.Sorted(maps.Keys(sinks)); root.Parent != "" || !slices.Equal(names, []string{"", "ch", "pg"}) {
				t.Errorf("sinks %q, root below %q", names, root.Parent)
			}
			if h := col.Header("x-team"); h != "data" {
				t.Errorf("header %q", h)
			}
		})
	}
}

// A collector that takes connections and says nothing costs spans, not time.
func TestADeadCollectorHoldsNothingUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) {
			env := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:hunter2@" + l.Addr().String(), "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
			for k, v := range env {
				t.Setenv(k, v)
			}
			var text lockedBuffer // the exporter may speak after the end
			tr, err := NewTraces(t.Context(), options(t, 0, env), "w", "", NewLogger(&text, zap.DebugLevel))
			if err != nil {
				t.Fatal(err)
			}
			p := tr.Tracer().Pipeline("orders")
			began := time.Now()
			const n = 5 * spanQueue
			for range n {
				p.Retry("x", fmt.Errorf("x"))
			}
			each := time.Since(began) / n
			began = time.Now()
			tr.Close(200 * time.Millisecond)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("closing took %s", took)
			}
			if each > time.Millisecond {
				t.Errorf("a span took %s", each)
			}
			if s := text.String(); !strings.Contains(s, "not sent") || strings.Contains(s, "hunter2") {
				t.Errorf("log: %s", s)
			}
		})
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestTraceOptions(t *testing.T) {
	const at = "OTEL_EXPORTER_OTLP_ENDPOINT"
	for _, tt := range []struct {
		env  string // name=value, separated by spaces
		on   bool
		grpc bool
	}{
		{env: ""},
		{env: "OTEL_EXPORTER_OTLP_PROTOCOL=http/json"}, // meant for somebody else
		{env: at + "=http://c:4318", on: true},
		{env: at + "=https://c OTEL_EXPORTER_OTLP_PROTOCOL=grpc", on: true, grpc: true},
		{env: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://c/x OTEL_EXPORTER_OTLP_PROTOCOL=grpc OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf", on: true},
		{env: at + "=http://c OTEL_SDK_DISABLED=true"},
		{env: at + "=http://c OTEL_TRACES_EXPORTER=none"},
	} {
		env := map[string]string{}
		for f := range strings.FieldsSeq(tt.env) {
			k, v, _ := strings.Cut(f, "=")
			env[k] = v
		}
		o := options(t, 0.5, env)
		if o.On != tt.on || o.GRPC != tt.grpc || o.Ratio != 0.5 {
			t.Errorf("%s: %+v", tt.env, o)
		}
		tr, err := NewTraces(t.Context(), TraceOptions{}, "", "", zap.NewNop())
		if err != nil || tr != nil || tr.Tracer() != nil {
			t.Errorf("off: %v %v", tr, err)
		}
		tr.Close(time.Second)
	}
	env := map[string]string{at: "u:hunter2@collector:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json", "OTEL_TRACES_EXPORTER": "zipkin"}
	var o TraceOptions
	read := map[string]bool{}
	err := o.Read(func(n string) string { read[n] = true; return env[n] })
	for _, want := range []string{at + " is not a URL", `"http/json", not grpc or http/protobuf`, `OTEL_TRACES_EXPORTER is "zipkin"`} {
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v lacks %q, or shows the password", err, want)
		}
	}
	for _, v := range OTelVariables() {
		delete(read, v.Name)
	}
	if len(read) > 0 {
		t.Errorf("variables that are not in the reference: %v", read)
	}
}

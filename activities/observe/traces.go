package observe

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/zap"

	"syncline/dataplane/trace"
	"syncline/secrets"
)

// TraceOptions say what is traced, and whether and how spans are sent. Where to,
// and with which headers and certificates, the exporters read for themselves.
type TraceOptions struct {
	Ratio float64 // of transactions
	On    bool    // an endpoint is set, and nothing turns it off
	GRPC  bool    // else HTTP with protobuf
}

// OTelVariable is one of OpenTelemetry's own variables.
type OTelVariable struct{ Name, Meaning string }

// OTelVariables lists what is read of the environment to send spans, by us or by the exporters.
func OTelVariables() []OTelVariable {
	return []OTelVariable{
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "Collector, as `http://host:4317` for gRPC or `http://host:4318` for HTTP, or `https://…`. Without it nothing is traced."},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "The same for traces alone, with the whole path for HTTP."},
		{"OTEL_EXPORTER_OTLP_PROTOCOL", "`grpc` or `http/protobuf`; default `http/protobuf`."},
		{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "The same for traces alone."},
		{"OTEL_EXPORTER_OTLP_HEADERS", "Headers of every request, `name=value,…`, such as a key."},
		{"OTEL_EXPORTER_OTLP_CERTIFICATE", "File of the authority that signed the collector's certificate; `…_CLIENT_CERTIFICATE` and `…_CLIENT_KEY` for one of the worker's own."},
		{"OTEL_EXPORTER_OTLP_COMPRESSION", "`gzip`; default none."},
		{"OTEL_SERVICE_NAME", "Default `syncline-worker`."},
		{"OTEL_RESOURCE_ATTRIBUTES", "More about where the worker runs, `name=value,…`."},
		{"OTEL_TRACES_EXPORTER", "`none` turns traces off; else `otlp`."},
		{"OTEL_SDK_DISABLED", "`true` turns traces off."},
	}
}

// TraceReference is a Markdown table of OTelVariables.
func TraceReference() string {
	var b strings.Builder
	b.WriteString("| variable | meaning |\n|---|---|\n")
	for _, v := range OTelVariables() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", v.Name, v.Meaning)
	}
	return b.String()
}

// Read takes what OpenTelemetry's standard variables say, and reports every mistake.
func (o *TraceOptions) Read(env func(string) string) error {
	var errs []error
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} {
		v := env(name)
		if v == "" {
			continue
		}
		o.On = true
		// The value is not repeated: it may hold a password.
		if u, err := url.Parse(v); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			errs = append(errs, fmt.Errorf("%s is not a URL such as http://collector:4317", name))
		}
	}
	name := "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
	if env(name) == "" {
		name = "OTEL_EXPORTER_OTLP_PROTOCOL"
	}
	switch v := env(name); v {
	case "grpc":
		o.GRPC = true
	case "", "http/protobuf": // the standard's default
	default:
		errs = append(errs, fmt.Errorf("%s is %q, not grpc or http/protobuf", name, v))
	}
	switch v := env("OTEL_TRACES_EXPORTER"); v {
	case "", "otlp":
	case "none":
		o.On = false
	default:
		errs = append(errs, fmt.Errorf("OTEL_TRACES_EXPORTER is %q, not otlp or none", v))
	}
	if strings.EqualFold(env("OTEL_SDK_DISABLED"), "true") {
		o.On = false
	}
	if !o.On {
		return nil // variables that are meant for others do not concern us
	}
	return errors.Join(errs...)
}

// Traces is the sending of spans; nil if it is off.
type Traces struct {
	provider *sdktrace.TracerProvider
	tracer   *trace.Tracer
	log      *zap.Logger
}

// spanQueue bounds the spans that wait to be sent; what comes on top is lost. A
// batch to a sink may bring a thousand at once.
const spanQueue = 8192

// NewTraces starts to send spans, if it is on. It does not wait for the collector.
func NewTraces(ctx context.Context, o TraceOptions, identity, build string, log *zap.Logger) (*Traces, error) {
	if !o.On {
		return nil, nil
	}
	quiet := &rarely{log: log, every: time.Minute}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(quiet.warn))
	client := otlptracehttp.NewClient()
	if o.GRPC {
		client = otlptracegrpc.NewClient()
	}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("trace exporter (OTEL_EXPORTER_OTLP_…): %w", err)
	}
	about := []attribute.KeyValue{
		attribute.String("service.name", "syncline-worker"),
		attribute.String("service.instance.id", identity),
	}
	if build != "" {
		about = append(about, attribute.String("service.version", build))
	}
	// The last one wins: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
	res, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(about...), resource.WithFromEnv())
	if err != nil {
		quiet.warn(fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)) // the rest of it counts
	}
	// The data plane has decided before it makes a span.
	p := sdktrace.NewTracerProvider(sdktrace.WithResource(res), sdktrace.WithSampler(sdktrace.AlwaysSample()), sdktrace.WithIDGenerator(trace.IDs{}),
		sdktrace.WithBatcher(exporter, sdktrace.WithMaxQueueSize(spanQueue), sdktrace.WithBatchTimeout(time.Second)))
	return &Traces{provider: p, tracer: trace.New(p, o.Ratio, secrets.Redact), log: log}, nil
}

// Tracer is what the data plane makes spans with; nil if it is off.
func (t *Traces) Tracer() *trace.Tracer {
	if t == nil {
		return nil
	}
	return t.tracer
}

// Close sends what waits, for at most so long.
func (t *Traces) Close(within time.Duration) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		t.log.Warn("the last spans were not sent", zap.Error(err))
	}
}

// rarely logs that spans do not arrive, without filling the log with it.
type rarely struct {
	log   *zap.Logger
	every time.Duration
	mu    sync.Mutex
	next  time.Time
}

func (r *rarely) warn(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); !now.Before(r.next) {
		r.next = now.Add(r.every)
		r.log.Warn("traces: spans are lost or incomplete", zap.Error(err))
	}
}

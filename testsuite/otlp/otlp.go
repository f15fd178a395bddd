// Package otlp is a collector of traces for tests: it takes what exporters send
// over gRPC and over HTTP, and keeps it in a form that is easy to look at.
package otlp

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// Span is one span as it arrived.
type Span struct {
	Name, Trace, ID, Parent string   // ids in hexadecimal, Parent "" if it is a root
	Links                   []string // trace ids
	Attrs, Resource         map[string]string
	Failed                  bool // status Error
	Message                 string
	Start, End              time.Time
}

// Collector keeps all spans that it was sent.
type Collector struct {
	collector.UnimplementedTraceServiceServer
	grpc string
	http *httptest.Server

	mu      sync.Mutex
	spans   []Span
	headers map[string]string // of the last request, names in lower case
}

// New starts a collector that ends with the test.
func New(t testing.TB) *Collector {
	t.Helper()
	c := &Collector{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.grpc = "http://" + l.Addr().String()
	s := grpc.NewServer()
	collector.RegisterTraceServiceServer(s, c)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(l); err != nil {
			t.Errorf("collector: %v", err)
		}
	})
	c.http = httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(func() {
		s.Stop()
		serving.Wait()
		c.http.Close()
	})
	return c
}

// GRPC and HTTP are what OTEL_EXPORTER_OTLP_ENDPOINT is set to.
func (c *Collector) GRPC() string { return c.grpc }

// HTTP is the same for http/protobuf.
func (c *Collector) HTTP() string { return c.http.URL }

// Export implements the collector's service.
func (c *Collector) Export(ctx context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	headers := map[string]string{}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		for k, v := range md {
			headers[k] = strings.Join(v, ",")
		}
	}
	c.take(req, headers)
	return &collector.ExportTraceServiceResponse{}, nil
}

func (c *Collector) serve(w http.ResponseWriter, r *http.Request) {
	var in io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(in)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		in = z
	}
	b, err := io.ReadAll(in)
	var req collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(b, &req)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint(r.URL.Path, " ", err), http.StatusBadRequest)
		return
	}
	headers := map[string]string{}
	for k, v := range r.Header {
		headers[strings.ToLower(k)] = strings.Join(v, ",")
	}
	c.take(&req, headers)
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func (c *Collector) take(req *collector.ExportTraceServiceRequest, headers map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headers = headers
	for _, rs := range req.ResourceSpans {
		res := attrs(rs.GetResource().GetAttributes())
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				out := Span{
					Name: s.Name, Trace: hex.EncodeToString(s.TraceId), ID: hex.EncodeToString(s.SpanId), Parent: hex.EncodeToString(s.ParentSpanId),
					Attrs: attrs(s.Attributes), Resource: res,
					Failed: s.GetStatus().GetCode() == traces.Status_STATUS_CODE_ERROR, Message: s.GetStatus().GetMessage(),
					Start: time.Unix(0, int64(s.StartTimeUnixNano)), End: time.Unix(0, int64(s.EndTimeUnixNano)),
				}
				for _, l := range s.Links {
					out.Links = append(out.Links, hex.EncodeToString(l.TraceId))
				}
				c.spans = append(c.spans, out)
			}
		}
	}
}

func attrs(in []*common.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range in {
		out[kv.Key] = value(kv.Value)
	}
	return out
}

func value(v *common.AnyValue) string {
	switch x := v.GetValue().(type) {
	case *common.AnyValue_StringValue:
		return x.StringValue
	case *common.AnyValue_IntValue:
		return fmt.Sprint(x.IntValue)
	case *common.AnyValue_BoolValue:
		return fmt.Sprint(x.BoolValue)
	case *common.AnyValue_ArrayValue:
		var parts []string
		for _, e := range x.ArrayValue.GetValues() {
			parts = append(parts, value(e))
		}
		return strings.Join(parts, ",")
	}
	return v.String()
}

// Spans returns the spans with a name, all if it is "".
func (c *Collector) Spans(name string) (out []Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if name == "" || s.Name == name {
			out = append(out, s)
		}
	}
	return out
}

// Header returns a header of the last request.
func (c *Collector) Header(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.headers[strings.ToLower(name)]
}

// String shows all spans, for failures.
func (c *Collector) String() string {
	var b strings.Builder
	for _, s := range c.Spans("") {
		fmt.Fprintf(&b, "%s trace %s id %s parent %q failed %v %q links %v\n  %v\n", s.Name, s.Trace, s.ID, s.Parent, s.Failed, s.Message, s.Links, s.Attrs)
	}
	return b.String()
}

package trace

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	oteltrace "go.opentelemetry.io/otel/trace"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// The names of spans.
const (
	SpanCapture    = "capture"
	SpanApply      = "apply"
	SpanBatch      = "apply batch"
	SpanDeadLetter = "dead letter"
	SpanRetry      = "retry"
	SpanAttempt    = "attempt failed"
)

// The names of attributes; those of the workflow are the activities' to add.
const (
	AttrPipeline  attribute.Key = "syncline.pipeline"
	AttrSink      attribute.Key = "syncline.sink"
	AttrLane      attribute.Key = "syncline.lane"
	AttrTables    attribute.Key = "syncline.tables"
	AttrTier      attribute.Key = "syncline.tier"
	AttrPartition attribute.Key = "syncline.partition"
	AttrOffset    attribute.Key = "syncline.offset"
	AttrPosition  attribute.Key = "syncline.position"
	AttrLSN       attribute.Key = "syncline.lsn"
	AttrXID       attribute.Key = "syncline.xid"
	AttrChanges   attribute.Key = "syncline.changes"
	AttrRows      attribute.Key = "syncline.rows"
	AttrBytes     attribute.Key = "syncline.bytes"
	AttrStep      attribute.Key = "syncline.step"
	AttrCode      attribute.Key = "syncline.code"
	AttrRetry     attribute.Key = "syncline.retry"
	AttrErrorType attribute.Key = "error.type" // OpenTelemetry's own, with the same value as AttrCode
)

// Bounds of what one span or batch tells, whatever it holds.
const (
	MaxTables  = 16
	MaxLinks   = 64
	MaxLetters = 16 // dead letters of one batch that get a span each
)

// Tracer makes spans; nil is tracing turned off.
type Tracer struct {
	t      oteltrace.Tracer
	bound  uint64
	redact func(string) string
}

// New returns a tracer that samples a share of the transactions. The provider must
// sample everything that it is given and use IDs. redact is for messages of faults.
func New(p oteltrace.TracerProvider, ratio float64, redact func(string) string) *Tracer {
	return &Tracer{t: p.Tracer("syncline/dataplane"), bound: bound(ratio), redact: redact}
}

// Pipeline returns the tracer of one attempt of a loop; attrs go on all its spans.
func (t *Tracer) Pipeline(name string, attrs ...attribute.KeyValue) *Pipeline {
	if t == nil {
		return nil
	}
	return &Pipeline{tracer: t, origin: originOf(name), attrs: append([]attribute.KeyValue{AttrPipeline.String(name)}, attrs...)}
}

// Pipeline makes the spans of one pipeline. It may be used by several goroutines.
type Pipeline struct {
	tracer *Tracer
	origin origin
	attrs  []attribute.KeyValue
}

// Transaction is a source transaction that is sampled.
type Transaction struct {
	context oteltrace.SpanContext // of its capture span
	parent  oteltrace.SpanContext // the application's, if it told one
}

// Traceparent is what its changes carry.
func (t Transaction) Traceparent() string { return format(t.context) }

// Sample decides about the transaction at a position. told is the traceparent that
// it came with, if any.
func (p *Pipeline) Sample(pos change.Position, told string) (Transaction, bool) {
	if p == nil || p.tracer.bound == 0 {
		return Transaction{}, false
	}
	if told != "" {
		if parent, ok := parse(told); ok {
			if !parent.IsSampled() {
				return Transaction{}, false
			}
			c := p.origin.context(pos, oteltrace.FlagsSampled).WithTraceID(parent.TraceID())
			return Transaction{c, parent}, true
		}
	}
	if p.origin.word(wordLow, pos)>>1 >= p.tracer.bound {
		return Transaction{}, false
	}
	return Transaction{context: p.origin.context(pos, oteltrace.FlagsSampled)}, true
}

// Told returns the context that a change carries, if its transaction is sampled.
func (p *Pipeline) Told(traceparent string) (oteltrace.SpanContext, bool) {
	if p == nil || p.tracer.bound == 0 || traceparent == "" {
		return oteltrace.SpanContext{}, false
	}
	sc, ok := parse(traceparent)
	return sc, ok && sc.IsSampled()
}

// Derived is the context that the capture span of the transaction at a position
// has, or would have if it were sampled.
func (p *Pipeline) Derived(pos change.Position) oteltrace.SpanContext {
	if p == nil {
		return oteltrace.SpanContext{}
	}
	return p.origin.context(pos, 0)
}

// Captured is a transaction on its way into the log.
type Captured struct {
	Position         change.Position // of its last change
	XID              uint32
	Changes          int
	Tables           []string
	Committed, Acked time.Time // by the source's clock and by ours
}

// Captured makes the capture span of a transaction.
func (p *Pipeline) Captured(t Transaction, c Captured) {
	if p == nil {
		return
	}
	ctx := context.Background()
	if t.parent.IsValid() {
		ctx = oteltrace.ContextWithRemoteSpanContext(ctx, t.parent)
	}
	p.span(withIDs(ctx, t.context), SpanCapture, oteltrace.SpanKindProducer, c.Committed, c.Acked, nil, nil,
		AttrPosition.String(c.Position.String()), AttrLSN.String(c.Position.Commit.String()), AttrXID.Int64(int64(c.XID)),
		AttrChanges.Int(c.Changes), AttrTables.StringSlice(c.Tables))
}

// Applied is a lane's part of a sampled transaction in one batch.
type Applied struct {
	Capture   oteltrace.SpanContext
	Position  change.Position // of its first change, as all below
	Partition int
	Offset    int64
	Read      time.Time
	Tables    []string
	Tier      string // that it waited for; "": none
	Changes   int
}

// Batch is one commit to a sink.
type Batch struct {
	Began, Ended         time.Time
	Changes, Rows, Bytes int
}

// Applied makes the apply spans of a batch, and the batch's own if there are any.
func (p *Pipeline) Applied(b Batch, txs []Applied) {
	if p == nil || len(txs) == 0 {
		return
	}
	links := make([]oteltrace.SpanContext, 0, min(len(txs), MaxLinks))
	for i := range txs {
		t := &txs[i]
		attrs := []attribute.KeyValue{AttrPosition.String(t.Position.String()), AttrPartition.Int(t.Partition), AttrOffset.Int64(t.Offset),
			AttrTables.StringSlice(t.Tables), AttrChanges.Int(t.Changes)}
		if t.Tier != "" {
			attrs = append(attrs, AttrTier.String(t.Tier))
		}
		sc := p.span(oteltrace.ContextWithRemoteSpanContext(context.Background(), t.Capture), SpanApply, oteltrace.SpanKindConsumer, t.Read, b.Ended, nil, nil, attrs...)
		if len(links) < MaxLinks {
			links = append(links, sc)
		}
	}
	p.span(context.Background(), SpanBatch, oteltrace.SpanKindInternal, b.Began, b.Ended, links, nil, batchAttrs(b)...)
}

// BatchFailed makes the span of a batch, or of one attempt at it, that a sink did
// not take. of are its transactions, as far as they fit into links.
func (p *Pipeline) BatchFailed(b Batch, err error, of []oteltrace.SpanContext) {
	if p != nil && err != nil {
		p.span(context.Background(), SpanBatch, oteltrace.SpanKindInternal, b.Began, b.Ended, of, err, batchAttrs(b)...)
	}
}

func batchAttrs(b Batch) []attribute.KeyValue {
	return []attribute.KeyValue{AttrChanges.Int(b.Changes), AttrRows.Int(b.Rows), AttrBytes.Int(b.Bytes)}
}

// DeadLetter makes the span of a change that was set aside, in its transaction's trace.
func (p *Pipeline) DeadLetter(capture oteltrace.SpanContext, code fault.Code, pos change.Position, table change.TableID, partition int, offset int64) {
	if p == nil {
		return
	}
	now := time.Now()
	p.span(oteltrace.ContextWithRemoteSpanContext(context.Background(), capture), SpanDeadLetter, oteltrace.SpanKindInternal, now, now, nil,
		&fault.Error{Code: code, What: "a change of table " + table.String() + " was set aside"},
		AttrPosition.String(pos.String()), AttrTables.StringSlice([]string{table.String()}), AttrPartition.Int(partition), AttrOffset.Int64(offset))
}

// Retry makes the span of a step that failed and is tried again.
func (p *Pipeline) Retry(step string, err error) {
	if p != nil && err != nil {
		now := time.Now()
		p.span(context.Background(), SpanRetry, oteltrace.SpanKindInternal, now, now, nil, err, AttrStep.String(step))
	}
}

// AttemptFailed makes the span of a loop's attempt that ended with an error.
func (p *Pipeline) AttemptFailed(loop string, began time.Time, err error) {
	if p != nil && err != nil {
		p.span(context.Background(), SpanAttempt, oteltrace.SpanKindInternal, began, time.Now(), nil, err, AttrStep.String(loop))
	}
}

func (p *Pipeline) span(ctx context.Context, name string, kind oteltrace.SpanKind, from, to time.Time, links []oteltrace.SpanContext, err error, attrs ...attribute.KeyValue) oteltrace.SpanContext {
	o := make([]oteltrace.SpanStartOption, 0, 5)
	o = append(o, oteltrace.WithTimestamp(from), oteltrace.WithSpanKind(kind), oteltrace.WithAttributes(p.attrs...), oteltrace.WithAttributes(attrs...))
	if len(links) > 0 {
		all := make([]oteltrace.Link, len(links))
		for i, sc := range links {
			all[i].SpanContext = sc
		}
		o = append(o, oteltrace.WithLinks(all...))
	}
	_, s := p.tracer.t.Start(ctx, name, o...)
	if err != nil {
		code, text := p.tell(err)
		s.SetAttributes(AttrCode.String(code), AttrErrorType.String(code), AttrRetry.Bool(fault.Retryable(err)))
		s.SetStatus(codes.Error, text)
	}
	if to.Before(from) { // two clocks
		to = from
	}
	s.End(oteltrace.WithTimestamp(to))
	return s.SpanContext()
}

// NoCode stands for the code of an error that has none.
const NoCode = "Error"

// tell returns an error's code and what may be shown of it: what its faults say of
// themselves. Errors of drivers below them may quote rows.
func (p *Pipeline) tell(err error) (code, text string) {
	var says []string
	for e := err; ; {
		var f *fault.Error
		if !errors.As(e, &f) {
			break
		}
		if code == "" {
			code = string(f.Code)
		}
		says = append(says, string(f.Code)+": "+f.What)
		e = f.Err
	}
	if code == "" {
		return NoCode, "an error without a code: the worker's log has its text"
	}
	return code, p.tracer.redact(strings.Join(says, ": "))
}

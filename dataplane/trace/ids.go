package trace

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/rand/v2"

	"github.com/cespare/xxhash/v2"
	oteltrace "go.opentelemetry.io/otel/trace"

	"syncline/dataplane/change"
)

// origin is what the ids of a transaction are derived from.
type origin struct{ seed uint64 }

func originOf(pipeline string) origin { return origin{xxhash.Sum64String(pipeline)} }

// word is one of the numbers that a transaction's ids consist of.
func (o origin) word(which byte, pos change.Position) uint64 {
	var b [21]byte
	binary.BigEndian.PutUint64(b[:], o.seed)
	binary.BigEndian.PutUint32(b[8:], pos.Epoch)
	binary.BigEndian.PutUint64(b[12:], uint64(pos.Commit))
	b[20] = which
	return xxhash.Sum64(b[:])
}

const (
	wordLow byte = iota // of the trace id, which sampling goes by
	wordHigh
	wordSpan
)

// context is the span context of a transaction's capture span.
func (o origin) context(pos change.Position, flags oteltrace.TraceFlags) oteltrace.SpanContext {
	var c oteltrace.SpanContextConfig
	binary.BigEndian.PutUint64(c.TraceID[:], o.word(wordHigh, pos))
	binary.BigEndian.PutUint64(c.TraceID[8:], o.word(wordLow, pos))
	binary.BigEndian.PutUint64(c.SpanID[:], max(o.word(wordSpan, pos), 1)) // all zero means none
	c.TraceFlags, c.Remote = flags, true
	return oteltrace.NewSpanContext(c)
}

// bound is the ratio as TraceIDRatioBased compares it, with 63 bits of the trace id.
func bound(ratio float64) uint64 {
	if !(ratio > 0) {
		return 0
	}
	return uint64(min(ratio, 1) * (1 << 63))
}

// traceparentLen is the length of version 00.
const traceparentLen = 55

// format returns the W3C traceparent of a span context.
func format(sc oteltrace.SpanContext) string {
	b := make([]byte, 0, traceparentLen)
	tid, sid := sc.TraceID(), sc.SpanID()
	b = hex.AppendEncode(append(b, "00-"...), tid[:])
	b = hex.AppendEncode(append(b, '-'), sid[:])
	return string(hex.AppendEncode(append(b, '-'), []byte{byte(sc.TraceFlags() & oteltrace.FlagsSampled)}))
}

// parse reads a traceparent of version 00, or the beginning of a later one; what
// is not one is no context at all, as the standard has it.
func parse(s string) (oteltrace.SpanContext, bool) {
	var none oteltrace.SpanContext
	if len(s) < traceparentLen || s[2] != '-' || s[35] != '-' || s[52] != '-' || len(s) > traceparentLen && (s[:2] == "00" || s[55] != '-') {
		return none, false
	}
	var b [26]byte // version, trace id, span id, flags
	at := 0
	for _, part := range []string{s[:2], s[3:35], s[36:52], s[53:55]} {
		for i := range len(part) {
			if c := part[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') { // upper case is not allowed
				return none, false
			}
		}
		n, err := hex.Decode(b[at:], []byte(part))
		if err != nil {
			return none, false
		}
		at += n
	}
	c := oteltrace.SpanContextConfig{TraceFlags: oteltrace.TraceFlags(b[25]) & oteltrace.FlagsSampled, Remote: true}
	copy(c.TraceID[:], b[1:17])
	copy(c.SpanID[:], b[17:25])
	sc := oteltrace.NewSpanContext(c)
	return sc, b[0] != 0xff && sc.IsValid()
}

type idsKey struct{}

// withIDs makes IDs give a span started with ctx the ids of sc.
func withIDs(ctx context.Context, sc oteltrace.SpanContext) context.Context {
	return context.WithValue(ctx, idsKey{}, sc)
}

// IDs is the generator of ids that the worker must give to the SDK: it hands out
// those that a transaction's capture span has by derivation, and random ones.
type IDs struct{}

// NewIDs implements the SDK's IDGenerator.
func (IDs) NewIDs(ctx context.Context) (oteltrace.TraceID, oteltrace.SpanID) {
	if sc, ok := ctx.Value(idsKey{}).(oteltrace.SpanContext); ok {
		return sc.TraceID(), sc.SpanID()
	}
	var tid oteltrace.TraceID
	binary.BigEndian.PutUint64(tid[:], random())
	binary.BigEndian.PutUint64(tid[8:], random())
	return tid, randomSpan()
}

// NewSpanID implements the SDK's IDGenerator.
func (IDs) NewSpanID(ctx context.Context, _ oteltrace.TraceID) oteltrace.SpanID {
	if sc, ok := ctx.Value(idsKey{}).(oteltrace.SpanContext); ok {
		return sc.SpanID()
	}
	return randomSpan()
}

func randomSpan() (sid oteltrace.SpanID) {
	binary.BigEndian.PutUint64(sid[:], random())
	return sid
}

// random is never zero: an id of zeros is none.
func random() uint64 { return 1 + rand.Uint64N(math.MaxUint64) }

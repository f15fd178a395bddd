package kafka

import (
	"context"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/transport/debezium"
)

// tracesOf are the traceparent headers of a record.
func tracesOf(t interface{ Fatal(...any) }, r *rawRecord) (out []string) {
	if err := r.eachHeader(func(k, v []byte) bool {
		if string(k) == headerTrace {
			out = append(out, string(v))
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// What a change carries is in the record's header for others and in the envelope
// for delivery, which does not look at headers; a change without it has neither.
func TestTraceparentRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parent := rapid.OneOf(rapid.Just(""), rapid.StringMatching(`00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]`)).Draw(t, "traceparent")
		c := testChange(rapid.IntRange(0, 1000).Draw(t, "n"), "k", rapid.StringN(0, 40, -1).Draw(t, "data"))
		c.Trace = parent
		c.Origin = rapid.SampledFrom([]string{"", "other"}).Draw(t, "origin")
		w := &Writer{c: &cluster{opts: Options{Pipeline: rapid.SampledFrom([]string{"p", "part"}).Draw(t, "pipeline")}}}
		w.setHeaders(c)
		buf, _ := appendRecord(newBatch(nil), nil, 0, []byte(c.Key), change.Encode(nil, c), w.headers)
		wire, err := sealBatch(buf, nil, 1, 0, CompressNone)
		if err != nil {
			t.Fatal(err)
		}
		it, err := openBatch(wire[4:])
		if err != nil {
			t.Fatal(err)
		}
		raw, err := it.next()
		if err != nil {
			t.Fatal(err)
		}
		got := tracesOf(t, &raw)
		if parent == "" && len(got) != 0 || parent != "" && (len(got) != 1 || got[0] != parent) {
			t.Fatalf("headers %q, want %q", got, parent)
		}
		var back change.Change
		rec, ok, err := (&reader{fd: &feed{}}).decode(&raw, &back)
		if err != nil || !ok || rec.Change.Trace != parent {
			t.Fatalf("%v %v: %q, want %q", ok, err, rec.Change.Trace, parent)
		}
	})
}

// In both forms of records, and acknowledged when the writer says so.
func TestTracedRecords(t *testing.T) {
	t.Parallel()
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	o := testOptions(t)
	o.Debezium = &debezium.Options{}
	ensure(t, o, TopicOptions{Partitions: 1}, orders)
	w := openWriter(t, o, WriterOptions{})
	s := &change.Schema{Table: orders, Key: []int{0}, Columns: []change.Column{
		{Name: "id", Type: change.Type{Name: "text", Kind: change.Base, Base: "text", Mod: -1}},
		{Name: "note", Type: change.Type{Name: "text", Kind: change.Base, Base: "text", Mod: -1}}}}
	if err := w.PutSchema(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	var seq uint64
	for i, trace := range []string{parent, ""} {
		c := testChange(i, "a", "x")
		c.Schema, c.Trace = s.Version(), trace
		var err error
		if seq, err = w.Append(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WaitAcked(t.Context(), seq); err != nil {
		t.Fatal(err)
	}
	if n, err := w.Acked(); n != seq || err != nil {
		t.Errorf("acknowledged %d of %d, %v", n, seq, err)
	}
	for _, topic := range []string{o.Prefix + o.Pipeline + ".shop.orders", o.Prefix + o.Pipeline + "-debezium.shop.orders"} {
		recs := records(t, w, partition{topic, 0}, 2)
		if a, b := tracesOf(t, &recs[0]), tracesOf(t, &recs[1]); len(a) != 1 || a[0] != parent || len(b) != 0 {
			t.Errorf("%s: %q and %q", topic, a, b)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.WaitAcked(gone, seq+1); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	waiting := make(chan error, 1)
	go func() { waiting <- w.WaitAcked(t.Context(), seq+1) }()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; err == nil {
		t.Error("a writer that is closed acknowledges")
	}
}

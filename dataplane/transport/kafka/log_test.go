package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/transport/debezium"
)

func mustAppend(t testing.TB, w *Writer, cs ...*change.Change) {
	t.Helper()
	var seq uint64
	for _, c := range cs {
		var err error
		if seq, err = w.Append(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	waitAcked(t, w, seq)
}

func want(t testing.TB, err error, code fault.Code, retry bool) {
	t.Helper()
	if fault.CodeOf(err) != code || fault.Retryable(err) != retry {
		t.Errorf("got %v (retry %v), want %s (retry %v)", err, fault.Retryable(err), code, retry)
	}
}

func TestTruncateGoesToAllPartitions(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	ensure(t, o, TopicOptions{Partitions: 3}, orders)
	w := openWriter(t, o, WriterOptions{})
	mustAppend(t, w, testChange(0, "a", "x"), &change.Change{Table: orders, Op: change.Truncate, Pos: change.Position{Epoch: 1, Commit: 5, Ordinal: 1}}, testChange(99, "a", "x"))
	l := openLog(t, o, LogOptions{})
	home := testChange(0, "a", "").Partition(3)
	for p := range 3 {
		n := 1
		if p == home {
			n = 3
		}
		recs := readAll(t, l, orders, p, -1, n)
		if c := recs[n/2].Change; c.Op != change.Truncate || c.Pos != (change.Position{Epoch: 1, Commit: 5, Ordinal: 1}) {
			t.Errorf("partition %d has %+v", p, c)
		}
	}
}

func TestLargeChangeInParts(t *testing.T) {
	for _, compression := range []Compression{CompressNone, CompressZstd} {
		t.Run(fmt.Sprint(compression), func(t *testing.T) {
			t.Parallel()
			o := testOptions(t)
			const limit = 32 << 10
			ensure(t, o, TopicOptions{Partitions: 1, MaxMessageBytes: limit}, orders)
			wo := WriterOptions{MaxMessageBytes: limit, MaxChangeBytes: 3 << 20, Compression: compression}
			w := openWriter(t, o, wo)
			big := func(n, size int) *change.Change {
				data := make([]byte, size)
				for i := range data {
					data[i] = byte('a' + (i*i+n)%26)
				}
				return testChange(n, fmt.Sprint(n), string(data))
			}
			cs := []*change.Change{big(0, 10), big(1, 2<<20), big(2, limit), big(3, limit-600), big(4, 1), big(5, 100_000)}
			mustAppend(t, w, cs...)
			_, err := w.Append(t.Context(), big(6, 4<<20))
			want(t, err, CodeChangeTooLarge, false)
			l := openLog(t, o, LogOptions{})
			recs := readAll(t, l, orders, 0, -1, len(cs))
			for i, r := range recs {
				if string(r.Change.Key) != string(cs[i].Key) || !bytes.Equal(r.Change.New[1].Data, cs[i].New[1].Data) {
					t.Errorf("change %d came back different (%d bytes)", i, len(r.Change.New[1].Data))
				}
				if i > 0 && r.Offset != recs[i-1].Next {
					t.Errorf("change %d begins at %d, its predecessor ends at %d", i, r.Offset, recs[i-1].Next)
				}
				again := readAll(t, l, orders, 0, r.Next, min(1, len(cs)-1-i)) // a reader may begin at every Next
				if len(again) > 0 && string(again[0].Change.Key) != string(cs[i+1].Key) {
					t.Errorf("reading on from %d gives another change", r.Next)
				}
			}
			if n := recs[1].Next - recs[1].Offset; n < (2<<20)/limit {
				t.Errorf("a change of 2 MiB has %d parts", n)
			}
		})
	}
}

// A writer dies within a large change, another sends it again from its first
// part; a third, stopped meanwhile, still writes. No change may get lost, no
// reader may begin within one.
func TestUnfinishedParts(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	const limit = 16 << 10
	ensure(t, o, TopicOptions{Partitions: 1, MaxMessageBytes: limit}, orders)
	w := openWriter(t, o, WriterOptions{MaxMessageBytes: limit})
	mustAppend(t, w, testChange(10, "k", "before"))
	topic, err := TopicName(o.Prefix, o.Pipeline, orders)
	if err != nil {
		t.Fatal(err)
	}
	p := partition{topic, 0}
	big := testChange(20, "k", strings.Repeat("y", 3*limit))
	whole := change.Encode(nil, big)
	part := func(attempt string, i, n int) {
		t.Helper()
		cut := func(i int) int { return min(i*limit/2, len(whole)) }
		value := whole[cut(i):cut(i+1)]
		if i == n-1 {
			value = whole[cut(i):]
		}
		_, err := w.c.put(t.Context(), p, []byte(big.Key), value, []header{
			{headerPosition, []byte(big.Pos.String())}, {headerAttempt, []byte(attempt)}, {headerPart, fmt.Appendf(nil, "%d/%d", i, n)}})
		if err != nil {
			t.Fatal(err)
		}
	}
	const n = 7
	part("dead", 0, n) // offset 1
	part("dead", 1, n)
	mustAppend(t, w, testChange(5, "k", "a superseded writer repeats itself")) // offset 3
	part("live", 0, n)
	part("live", 1, n)
	part("live", 1, n) // a request that was repeated
	part("stale", 0, n)
	for i := 2; i < n; i++ {
		part("live", i, n)
		part("stale", i-1, n)
	}
	mustAppend(t, w, testChange(30, "k", "after"))
	part("stale", n-1, n)
	mustAppend(t, w, testChange(40, "k", "last"))

	l := openLog(t, o, LogOptions{})
	recs := readAll(t, l, orders, 0, -1, 5)
	var got []string
	for _, r := range recs {
		got = append(got, fmt.Sprintf("%s@%d→%d", r.Change.Pos, r.Offset, r.Next))
	}
	if g := strings.Join(got, " "); g != "1:0/2:1@0→1 1:0/1:6@3→1 1:0/3:1@4→17 1:0/4:1@18→19 1:0/5:1@20→21" {
		t.Errorf("read %s", g)
	}
	if !bytes.Equal(recs[2].Change.New[1].Data, big.New[1].Data) {
		t.Error("the change in parts came back different")
	}
	if first := readAll(t, l, orders, 0, recs[1].Next, 2); first[1].Change.Pos != big.Pos {
		t.Errorf("from %d the change in parts is lost: %s", recs[1].Next, first[1].Change.Pos)
	}
}

func TestOffsetGoneAndTopicMissing(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	ensure(t, o, TopicOptions{Partitions: 2}, orders)
	w := openWriter(t, o, WriterOptions{})
	c := testChange(1, "a", "x")
	mustAppend(t, w, c)
	n := c.Partition(2)
	l := openLog(t, o, LogOptions{})
	_, err := l.Open(t.Context(), sink.Partition{Table: orders, N: n}, 2)
	want(t, err, deliver.CodeOffsetGone, false)
	_, err = l.Open(t.Context(), sink.Partition{Table: orders, N: 2}, -1)
	want(t, err, CodePartitions, false)
	r, err := l.Open(t.Context(), sink.Partition{Table: orders, N: n}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()

	quick := o
	quick.RetryFor = 300 * time.Millisecond
	lq := openLog(t, quick, LogOptions{SchemaWait: 50 * time.Millisecond})
	_, err = lq.Open(t.Context(), sink.Partition{Table: change.TableID{Schema: "shop", Name: "nowhere"}}, -1)
	want(t, err, deliver.CodeTopicMissing, false)
	_, err = lq.Schema(t.Context(), 99)
	want(t, err, CodeSchemaUnknown, true)
	wq := openWriter(t, quick, WriterOptions{})
	_, err = wq.Append(t.Context(), &change.Change{Table: change.TableID{Schema: "shop", Name: "nowhere"}, Op: change.Insert, Key: "k"})
	want(t, err, deliver.CodeTopicMissing, false)
	if _, err := wq.Append(t.Context(), testChange(2, "b", "x")); err != nil { // the writer goes on
		t.Error(err)
	}

	// The topic is deleted and made again: an open reader and a new one both say so.
	a, err := OpenAdmin(o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.DeleteTopics(t.Context(), orders); err != nil {
		t.Fatal(err)
	}
	ensure(t, o, TopicOptions{Partitions: 2}, orders)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = r.Read(ctx, 10)
	want(t, err, deliver.CodeOffsetGone, false)
	_, err = r.Read(ctx, 10)
	want(t, err, deliver.CodeOffsetGone, false)
	_, err = l.Open(t.Context(), sink.Partition{Table: orders, N: n}, 1)
	want(t, err, deliver.CodeOffsetGone, false)
}

// Topics that exist follow the declaration in what it owns, keep what an operator
// has set besides, and the pipeline's own topics keep their retention.
func TestSettingsFollowTheDeclaration(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.Debezium = &debezium.Options{}
	ensure(t, o, TopicOptions{Partitions: 1, Retention: 24 * time.Hour, MaxMessageBytes: 1 << 20}, orders)
	a, err := OpenAdmin(o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	table, err := TopicName(o.Prefix, o.Pipeline, orders)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.c.client.IncrementalAlterConfigs(t.Context(), &kgo.IncrementalAlterConfigsRequest{Resources: []kgo.IncrementalAlterConfigsRequestResource{{
		ResourceType: kgo.ResourceTypeTopic, ResourceName: table, Configs: []kgo.IncrementalAlterConfigsRequestConfig{{Name: "segment.bytes", Value: "33554432"}}}}}); err != nil {
		t.Fatal(err)
	}
	check := func(topic string, want map[string]string) {
		t.Helper()
		r, err := a.c.client.DescribeConfigs(t.Context(), &kgo.DescribeConfigsRequest{Resources: []kgo.DescribeConfigRequestResource{{ResourceType: kgo.ResourceTypeTopic, ResourceName: topic}}})
		if err != nil || r.Resources[0].Error != nil {
			t.Fatalf("%v %+v", err, r)
		}
		seen := 0
		for _, e := range r.Resources[0].ConfigEntries {
			if v, ok := want[e.ConfigName]; ok {
				seen++
				if v != e.ConfigValue {
					t.Errorf("%s of %s is %s, want %s", e.ConfigName, topic, e.ConfigValue, v)
				}
			}
		}
		if seen != len(want) {
			t.Errorf("%d of %d settings of %s", seen, len(want), topic)
		}
	}
	for _, c := range []struct {
		to                  TopicOptions
		retention, messages string
		index               string
	}{
		{TopicOptions{Partitions: 1, Retention: 48 * time.Hour, MaxMessageBytes: 2 << 20}, "172800000", "2097152", "259200000"},
		{TopicOptions{Partitions: 1, Retention: -1, MaxMessageBytes: 2 << 20}, "-1", "2097152", "-1"},
		{TopicOptions{Partitions: 1, Retention: time.Hour, MaxMessageBytes: 1 << 20}, "3600000", "1048576", "90000000"},
	} {
		for range 2 { // again: nothing differs
			if err := a.EnsureTopics(t.Context(), c.to, []change.TableID{orders}, nil); err != nil {
				t.Fatal(err)
			}
		}
		check(table, map[string]string{"retention.ms": c.retention, "max.message.bytes": c.messages, "segment.bytes": "33554432", "cleanup.policy": "delete"})
		check(a.c.opts.debeziumTopic(orders), map[string]string{"retention.ms": c.retention, "max.message.bytes": c.messages})
		check(ProgressTopic(o.Prefix, o.Pipeline), map[string]string{"retention.ms": "-1", "max.message.bytes": c.messages})
		check(IndexTopic(o.Prefix, o.Pipeline), map[string]string{"retention.ms": c.index, "retention.bytes": "-1", "cleanup.policy": "delete"})
		check(SchemasTopic(o.Prefix, o.Pipeline), map[string]string{"max.message.bytes": c.messages, "cleanup.policy": "compact"})
	}
}

func TestPartitionsAreFixed(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	ensure(t, o, TopicOptions{Partitions: 2}, orders)
	ensure(t, o, TopicOptions{Partitions: 2}, orders) // idempotent
	a, err := OpenAdmin(o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	want(t, a.EnsureTopics(t.Context(), TopicOptions{Partitions: 4}, []change.TableID{orders}, nil), CodePartitions, false)
	_, err = OpenWriter(t.Context(), o, WriterOptions{Partitions: func(change.TableID) int { return 4 }})
	want(t, err, CodePartitions, false)
	topics, err := a.Topics(t.Context())
	if err != nil || len(topics) != 1 || topics[0].Table != orders || topics[0].Partitions != 2 {
		t.Errorf("topics: %+v, %v", topics, err)
	}
	if n, err := a.Check(t.Context()); err != nil || n < 1 {
		t.Errorf("%d brokers, %v", n, err)
	}
	if err := a.DeleteTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.RetryFor = -1
	_, err = OpenWriter(t.Context(), o, WriterOptions{})
	want(t, err, deliver.CodeTopicMissing, false)
}

func TestUnreachable(t *testing.T) {
	o := Options{Brokers: []string{"127.0.0.1:1"}, Pipeline: "p", RetryFor: 200 * time.Millisecond}
	a, err := OpenAdmin(o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	_, err = a.Check(t.Context())
	want(t, err, CodeUnreachable, true)
	_, err = OpenWriter(t.Context(), o, WriterOptions{})
	want(t, err, CodeUnreachable, true)
	_, err = OpenLog(t.Context(), o, LogOptions{})
	want(t, err, CodeUnreachable, true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, cause := range []error{io.EOF, net.ErrClosed, kgo.RequestTimedOut, kgo.UnknownTopicOrPartition, protocol.ErrNoTopic} {
		if err := classify(ctx, cause, "doing it"); !errors.Is(err, context.Canceled) || fault.CodeOf(err) != "" {
			t.Errorf("%v after the caller has given up: %v", cause, err)
		}
	}
}

func TestWindowBlocks(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	ensure(t, o, TopicOptions{Partitions: 1}, orders)
	w := openWriter(t, o, WriterOptions{WindowBytes: 10_000, Linger: time.Hour})
	var err error
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	n := 0
	for ; err == nil; n++ {
		_, err = w.Append(ctx, testChange(n, "k", strings.Repeat("z", 1000)))
	}
	if !errors.Is(err, context.DeadlineExceeded) || n < 9 || n > 11 {
		t.Errorf("%d changes of 1 kB in a window of 10 kB, then %v", n, err)
	}
}

// Latency of a single change through an otherwise idle log of many partitions.
func TestLatencyWhenIdle(t *testing.T) {
	o := testOptions(t)
	const parts = 64
	ensure(t, o, TopicOptions{Partitions: parts}, orders)
	w := openWriter(t, o, WriterOptions{})
	l := openLog(t, o, LogOptions{})
	got := make(chan time.Time, 1000)
	for p := range parts {
		r, err := l.Open(t.Context(), sink.Partition{Table: orders, N: p}, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		go func() {
			for {
				recs, err := r.Read(t.Context(), 100)
				if err != nil {
					return
				}
				for range recs {
					got <- time.Now()
				}
			}
		}()
	}
	var worst, sum time.Duration
	const n = 50
	for i := range n {
		start := time.Now()
		if _, err := w.Append(t.Context(), testChange(i, fmt.Sprint(i), "x")); err != nil {
			t.Fatal(err)
		}
		d := (<-got).Sub(start)
		worst, sum = max(worst, d), sum+d
	}
	t.Logf("mean %v, worst %v", sum/n, worst)
	if sum/n > 100*time.Millisecond {
		t.Errorf("a change takes %v on average", sum/n)
	}
}

package kafka

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// network lets a test cut connections.
type network struct {
	mu    sync.Mutex
	conns map[net.Conn]bool
	down  bool
}

func (n *network) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	n.mu.Lock()
	down := n.down
	n.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("the test cut the network")}
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conns == nil {
		n.conns = map[net.Conn]bool{}
	}
	n.conns[c] = true
	return c, nil
}

func (n *network) cut(down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = down
	for c := range n.conns {
		_ = c.Close()
	}
	clear(n.conns)
}

// checkPrefix reads a partition until it has all of want and fails if a change
// is missing before a later one: what a watermark would skip as a duplicate must
// have come before.
func checkPrefix(t *testing.T, l *Log, part int, want []*change.Change) {
	t.Helper()
	r, err := l.Open(t.Context(), sink.Partition{Table: orders, N: part}, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	seen, again := 0, 0
	for seen < len(want) {
		recs, err := r.Read(ctx, 1000)
		if err != nil {
			if fault.Retryable(err) && ctx.Err() == nil {
				continue
			}
			t.Fatalf("partition %d, %d of %d changes: %v", part, seen, len(want), err)
		}
		for _, rec := range recs {
			switch {
			case seen < len(want) && rec.Change.Pos == want[seen].Pos:
				seen++
			case seen > 0 && !want[seen-1].Pos.Before(rec.Change.Pos):
				again++
			default:
				t.Fatalf("partition %d: %s follows change %d of %d", part, rec.Change.Pos, seen, len(want))
			}
		}
	}
	t.Logf("partition %d: %d changes, %d repeated", part, seen, again)
}

// Connections that break at any moment lose nothing and leave the order intact.
func TestConnectionsBreak(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	ensure(t, o, TopicOptions{Partitions: 3}, orders)
	var n network
	cut := o
	cut.Dial = n.dial
	w := openWriter(t, cut, WriterOptions{Compression: CompressZstd, BatchBytes: 2048, Linger: time.Millisecond})
	l := openLog(t, cut, LogOptions{PartitionBytes: 4096})
	// A storm ends: on a busy machine no answer at all might come through an endless one.
	storm := func() (wait func()) {
		var wg sync.WaitGroup
		wg.Go(func() {
			for range 60 {
				time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
				n.cut(false)
			}
		})
		return wg.Wait
	}
	writing := storm()
	want := map[int][]*change.Change{}
	var seq uint64
	for i := range 4000 {
		c := testChange(i, fmt.Sprint(i%50), strings.Repeat("v", i%200))
		want[c.Partition(3)] = append(want[c.Partition(3)], c)
		var err error
		if seq, err = w.Append(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if i%20 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	waitAcked(t, w, seq)
	writing()
	reading := storm()
	for p := range 3 {
		checkPrefix(t, l, p, want[p])
	}
	reading()
}

// An outage that lasts stops the writer with a transient fault; its successor
// sends again. Readers report the outage and go on after it.
func TestOutage(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	ensure(t, o, TopicOptions{Partitions: 1}, orders)
	var n network
	cut := o
	cut.Dial, cut.RetryFor = n.dial, 300*time.Millisecond
	w := openWriter(t, cut, WriterOptions{})
	l := openLog(t, cut, LogOptions{})
	r, err := l.Open(t.Context(), sink.Partition{Table: orders}, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var cs []*change.Change
	for i := range 20 {
		cs = append(cs, testChange(i, "k", "x"))
	}
	mustAppend(t, w, cs[:10]...)
	n.cut(true)
	for _, c := range cs[10:15] {
		_, _ = w.Append(t.Context(), c)
	}
	eventually(t, func() bool { _, err := w.Acked(); return err != nil })
	acked, err := w.Acked()
	wantCode := func(err error) { t.Helper(); want(t, err, CodeUnreachable, true) }
	wantCode(err)
	if acked != 10 {
		t.Errorf("%d acknowledged, want 10", acked)
	}
	if _, err = w.Append(t.Context(), cs[15]); err == nil {
		t.Error("a stopped log took a change")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got := 0
	for err = nil; err == nil; { // what was fetched before comes first
		recs, e := r.Read(ctx, 100)
		got, err = got+len(recs), e
	}
	wantCode(err)
	n.cut(false)
	w2 := openWriter(t, cut, WriterOptions{})
	mustAppend(t, w2, cs[5:]...)
	checkPrefix(t, l, 0, cs)
	for got < 25 { // the same reader goes on where it was
		recs, err := r.Read(ctx, 100)
		if err != nil && !fault.Retryable(err) {
			t.Fatal(err)
		}
		got += len(recs)
	}
}

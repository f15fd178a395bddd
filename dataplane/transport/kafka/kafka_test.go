package kafka

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/sink"
	"syncline/testsuite/stack"
)

var orders = change.TableID{Schema: "shop", Name: "orders"}

// testOptions gives the test a pipeline of its own.
func testOptions(t testing.TB) Options {
	o := Options{Brokers: stack.Kafka(t), Prefix: "test.", Pipeline: stack.Name(t)}
	t.Cleanup(func() {
		a, err := OpenAdmin(o)
		if err != nil {
			t.Error(err)
			return
		}
		defer a.Close()
		if err := a.DeleteTopics(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return o
}

func ensure(t testing.TB, o Options, to TopicOptions, tables ...change.TableID) {
	t.Helper()
	a, err := OpenAdmin(o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.EnsureTopics(t.Context(), to, tables, nil); err != nil {
		t.Fatal(err)
	}
}

func openWriter(t testing.TB, o Options, wo WriterOptions) *Writer {
	t.Helper()
	w, err := OpenWriter(t.Context(), o, wo)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func openLog(t testing.TB, o Options, lo LogOptions) *Log {
	t.Helper()
	l, err := OpenLog(t.Context(), o, lo)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func testChange(n int, key string, data string) *change.Change {
	k, err := change.MakeKey(&change.Schema{Columns: []change.Column{{Type: change.Type{Base: "text"}}}, Key: []int{0}}, change.Row{change.TextValue(key)})
	if err != nil {
		panic(err)
	}
	return &change.Change{Table: orders, Op: change.Insert, Schema: 7, Pos: change.Position{Epoch: 1, Commit: change.LSN(n/10 + 1), Ordinal: uint32(n%10 + 1)},
		XID: uint32(n), CommitTime: time.UnixMicro(int64(n)).UTC(), Key: k, New: change.Row{change.TextValue(key), change.TextValue(data)}}
}

func waitAcked(t testing.TB, w *Writer, seq uint64) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		n, err := w.Acked()
		if err != nil {
			t.Fatal(err)
		}
		if n >= seq {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("acknowledged %d of %d", n, seq)
		}
	}
}

// readAll reads n records of a partition.
func readAll(t testing.TB, l *Log, table change.TableID, part int, offset int64, n int) []deliver.Record {
	t.Helper()
	r, err := l.Open(t.Context(), sink.Partition{Table: table, N: part}, offset)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out []deliver.Record
	for len(out) < n {
		recs, err := r.Read(ctx, 500)
		if err != nil {
			t.Fatalf("after %d of %d records: %v", len(out), n, err)
		}
		out = append(out, recs...)
	}
	return out
}

func TestWriteRead(t *testing.T) {
	for _, compression := range []Compression{CompressNone, CompressLZ4, CompressZstd} {
		t.Run(fmt.Sprint(compression), func(t *testing.T) {
			t.Parallel()
			o := testOptions(t)
			ensure(t, o, TopicOptions{Partitions: 4}, orders)
			w := openWriter(t, o, WriterOptions{Compression: compression, BatchBytes: 8192})
			const n = 1000
			want := map[int][]*change.Change{}
			var seq uint64
			for i := range n {
				c := testChange(i, fmt.Sprint(i%97), strings.Repeat("v", i%300))
				want[c.Partition(4)] = append(want[c.Partition(4)], c)
				var err error
				if seq, err = w.Append(t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
			if seq != n {
				t.Fatalf("sequence number %d after %d changes", seq, n)
			}
			waitAcked(t, w, seq)
			l := openLog(t, o, LogOptions{})
			for p := range 4 {
				recs := readAll(t, l, orders, p, -1, len(want[p]))
				if len(recs) != len(want[p]) {
					t.Fatalf("partition %d has %d records, want %d", p, len(recs), len(want[p]))
				}
				for i, r := range recs {
					if r.Offset != int64(i) || r.Next != int64(i+1) {
						t.Fatalf("record %d at offset %d, next %d", i, r.Offset, r.Next)
					}
					if got, exp := change.Encode(nil, r.Change), change.Encode(nil, want[p][i]); !bytes.Equal(got, exp) {
						t.Fatalf("partition %d record %d is\n%+v\nwant\n%+v", p, i, r.Change, want[p][i])
					}
				}
			}
		})
	}
}

func BenchmarkThroughput(b *testing.B) {
	o := testOptions(b)
	ensure(b, o, TopicOptions{Partitions: 8}, orders)
	w := openWriter(b, o, WriterOptions{Compression: CompressZstd})
	cs := make([]*change.Change, 10_000)
	for i := range cs {
		cs[i] = testChange(i, fmt.Sprint(i), strings.Repeat(fmt.Sprintf("%07x-", i*7919), 17))
	}
	size := len(change.Encode(nil, cs[0]))
	var seq uint64
	counts := make([]int, 8)
	b.ResetTimer()
	start := time.Now()
	for i := range b.N {
		c := cs[i%len(cs)]
		counts[c.Partition(8)]++
		var err error
		if seq, err = w.Append(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
	waitAcked(b, w, seq)
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "written/s")
	b.ReportMetric(float64(size), "bytes")
	l := openLog(b, o, LogOptions{})
	start = time.Now()
	done := make(chan error)
	for p := range 8 {
		go func() {
			r, err := l.Open(b.Context(), sink.Partition{Table: orders, N: p}, -1)
			for n := 0; err == nil && n < counts[p]; {
				var recs []deliver.Record
				recs, err = r.Read(b.Context(), 1000)
				n += len(recs)
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "read/s")
}

package kafka

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"syncline/dataplane/capture"
	"syncline/dataplane/change"
	"syncline/dataplane/transport/debezium"
)

func TestSchemas(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	ensure(t, o, TopicOptions{}, orders)
	w := openWriter(t, o, WriterOptions{})
	s := &change.Schema{Table: orders, Columns: []change.Column{{Name: "id", Type: change.Type{Name: "integer", Kind: change.Base, Base: "int4", OID: 23, Mod: -1}, NotNull: true}}, Key: []int{0}}
	for range 2 {
		if err := w.PutSchema(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	l := openLog(t, o, LogOptions{})
	got, err := l.Schema(t.Context(), s.Version())
	if err != nil || got.Version() != s.Version() || got.Table != orders {
		t.Fatalf("%+v, %v", got, err)
	}
	later := *s
	later.Full = true
	found := make(chan error, 1)
	go func() {
		_, err := l.Schema(t.Context(), later.Version())
		found <- err
	}()
	if err := w.PutSchema(t.Context(), &later); err != nil {
		t.Fatal(err)
	}
	if err := <-found; err != nil {
		t.Error(err)
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	items := change.TableID{Schema: "shop", Name: "Items"}
	ensure(t, o, TopicOptions{Partitions: 2}, orders, items)
	w := openWriter(t, o, WriterOptions{})
	if _, ok, err := w.LastProgress(t.Context()); ok || err != nil {
		t.Fatalf("progress in a new log: %v, %v", ok, err)
	}
	l := openLog(t, o, LogOptions{})
	if _, ok := l.Progress(); ok {
		t.Error("progress in a new log")
	}
	a, b := testChange(1, "a", "x"), testChange(2, "b", "x")
	mustAppend(t, w, a, b)
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	if err := w.PutProgress(t.Context(), capture.Progress{Epoch: 1, Through: 100, At: at}); err != nil {
		t.Fatal(err)
	}
	counts := make([]int64, 2)
	counts[a.Partition(2)]++
	counts[b.Partition(2)]++
	eventually(t, func() bool { p, ok := l.Progress(); return ok && p.Through == 100 })
	p, _ := l.Progress()
	if !p.At.Equal(at) || fmt.Sprint(p.Offsets["shop.orders"]) != fmt.Sprint(counts) || fmt.Sprint(p.Offsets["shop.Items"]) != "[0 0]" {
		t.Errorf("progress %+v, want offsets %v", p, counts)
	}
	// A successor knows where the partitions end; a superseded writer's late record does not count.
	w2 := openWriter(t, o, WriterOptions{})
	for _, q := range []capture.Progress{{Epoch: 1, Through: 300}, {Epoch: 1, Through: 200}} {
		if err := w2.PutProgress(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	last, ok, err := w2.LastProgress(t.Context())
	if err != nil || !ok || last.Through != 300 || fmt.Sprint(last.Offsets["shop.orders"]) != fmt.Sprint(counts) {
		t.Errorf("last progress %+v, %v, %v", last, ok, err)
	}
	eventually(t, func() bool { p, _ := l.Progress(); return p.Through == 300 })
	if fresh, ok := openLog(t, o, LogOptions{}).Progress(); !ok || fresh.Through != 300 {
		t.Errorf("a new log has progress %+v, %v", fresh, ok)
	}
}

func eventually(t testing.TB, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within 10 s")
		}
	}
}

// records reads n raw records of a partition.
func records(t testing.TB, w *Writer, p partition, n int64) (out []rawRecord) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := w.c.scan(ctx, p, 0, n, func(r rawRecord) error { out = append(out, r); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDebeziumBesideOurs(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.Debezium = &debezium.Options{}
	ensure(t, o, TopicOptions{Partitions: 2}, orders)
	w := openWriter(t, o, WriterOptions{Compression: CompressZstd, BatchBytes: 1024})
	s := &change.Schema{Table: orders, Key: []int{0}, Columns: []change.Column{
		{Name: "id", Type: change.Type{Name: "text", Kind: change.Base, Base: "text", Mod: -1}},
		{Name: "note", Type: change.Type{Name: "text", Kind: change.Base, Base: "text", Mod: -1}}}}
	c := testChange(1, "a", "x")
	c.Schema = s.Version()
	if _, err := w.Append(t.Context(), c); err == nil {
		t.Error("a change was taken before its schema")
	}
	if err := w.PutSchema(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	del := testChange(2, "a", "")
	del.Schema, del.Op, del.New, del.Old = s.Version(), change.Delete, nil, change.Row{change.TextValue("a"), {}}
	mustAppend(t, w, c, del)
	n := c.Partition(2)
	recs := records(t, w, partition{o.Prefix + o.Pipeline + "-debezium.shop.orders", int32(n)}, 3) // acknowledged: they are there
	if len(recs) != 3 || string(recs[0].key) != `{"id":"a"}` || !strings.Contains(string(recs[0].value), `"after":{"id":"a","note":"x"}`) ||
		!strings.Contains(string(recs[1].value), `"op":"d"`) || string(recs[2].key) != `{"id":"a"}` || recs[2].value != nil {
		t.Errorf("%+v", recs)
	}
	ours := records(t, w, partition{o.Prefix + o.Pipeline + ".shop.orders", int32(n)}, 2)
	var headers []string
	if err := ours[1].eachHeader(func(k, v []byte) bool { headers = append(headers, string(k)+"="+string(v)); return true }); err != nil {
		t.Error(err)
	}
	if h := strings.Join(headers, " "); h != "position=1:0/1:3 op=d schema="+s.Version().String()+" pipeline="+o.Pipeline {
		t.Errorf("headers %s", h)
	}
	a, err := OpenAdmin(o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.DeleteTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	all, err := a.all(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name := range all {
		if strings.Contains(name, o.Pipeline) {
			t.Errorf("topic %s is left", name)
		}
	}
}

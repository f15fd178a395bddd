package clickhouse

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/pgtext"
	"syncline/dataplane/sink"
	"syncline/dataplane/sink/sinktest"
)

func benchSchema() *change.Schema {
	return sinktest.Schema("orders", 1, sinktest.Col("id", sinktest.Int8), sinktest.Col("customer", sinktest.Int4),
		sinktest.Col("total", sinktest.Builtin("numeric(12,2)", "numeric", 1700, 12<<16+2+4)),
		sinktest.Col("placed", sinktest.Builtin("timestamp with time zone", "timestamptz", 1184, -1)),
		sinktest.Col("note", sinktest.TextT), sinktest.Col("paid", sinktest.Bool))
}

func benchText(rows int) []byte {
	var b strings.Builder
	for i := range rows {
		fmt.Fprintf(&b, "%d\t%d\t%d.%02d\t2024-05-%02d 10:%02d:07.12345+00\tcustomer's note %d\tt\n", i, i%1000, i, i%100, i%28+1, i%60, i%50)
	}
	return []byte(b.String())
}

// BenchmarkColumns converts a COPY stream into an encoded block.
func BenchmarkColumns(b *testing.B) {
	s, err := Open(Config{DSN: "http://localhost:8123", Pipeline: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	sch := benchSchema()
	l, problem := s.newLayout(sch, sink.TableOptions{})
	if problem != "" {
		b.Fatal(problem)
	}
	const rows = 10_000
	text := benchText(rows)
	blk := newBlock(l)
	var buf []byte
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		blk.reset()
		w := pgtext.NewCopyWriter(len(sch.Columns), 1<<20, func(row change.Row) error { return blk.add(row, "", stamp{}, nil) })
		if _, err := w.Write(text); err != nil {
			b.Fatal(err)
		}
		buf = encodeNative(buf[:0], blk.rows, blk.parts())
	}
	b.ReportMetric(float64(rows*b.N)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkLoad loads two million rows through the whole path into a real server.
func BenchmarkLoad(b *testing.B) {
	dsn := os.Getenv("SYNCLINE_CLICKHOUSE_URL")
	if dsn == "" {
		b.Skip("SYNCLINE_CLICKHOUSE_URL is not set")
	}
	const rows = 500_000
	text := benchText(rows)
	name := fmt.Sprintf("bench_%d", time.Now().UnixNano())
	s, err := Open(Config{DSN: dsn, Pipeline: name, Options: Options{Ledger: name, Database: name}})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	ctx := b.Context()
	if err := s.Init(ctx); err != nil {
		b.Fatal(err)
	}
	defer func() { _, _ = s.conn.exec(ctx, "drop", "DROP DATABASE "+name) }()
	sch := benchSchema()
	if err := s.AddTable(ctx, sink.Table{ID: sch.Table, Schema: sch, Epoch: 1, Partitions: 1}); err != nil {
		b.Fatal(err)
	}
	if _, err := s.PlanChunks(ctx, sch.Table, make([]sink.Chunk, 1000)); err != nil {
		b.Fatal(err)
	}
	n := 0
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := s.LoadChunk(ctx, sch.Table, n, sinktest.Loaded(1), textCopy(text, rows), nil); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric(float64(rows*b.N)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkApply applies batches of 500 rows.
func BenchmarkApply(b *testing.B) {
	dsn := os.Getenv("SYNCLINE_CLICKHOUSE_URL")
	if dsn == "" {
		b.Skip("SYNCLINE_CLICKHOUSE_URL is not set")
	}
	name := fmt.Sprintf("bench_%d", time.Now().UnixNano())
	s, err := Open(Config{DSN: dsn, Pipeline: name, Options: Options{Ledger: name, Database: name}})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	ctx := b.Context()
	if err := s.Init(ctx); err != nil {
		b.Fatal(err)
	}
	defer func() { _, _ = s.conn.exec(ctx, "drop", "DROP DATABASE "+name) }()
	sch := benchSchema()
	t := sink.Table{ID: sch.Table, Schema: sch, Epoch: 1, Partitions: 1}
	if err := s.AddTable(ctx, t); err != nil {
		b.Fatal(err)
	}
	if err := s.FinishLoad(ctx, sch.Table); err != nil {
		b.Fatal(err)
	}
	x, err := s.Claim(ctx, 0, 1)
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		var rows []sink.Row
		for range 500 {
			n++
			rows = append(rows, sinktest.Put(sch, n, fmt.Sprint(n%5000), "1", "2.50", "2024-05-06 01:02:03+00", "note", "t"))
		}
		if _, err := x.Apply(ctx, sinktest.Batch(t, int64(n), rows...)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(500*b.N)/b.Elapsed().Seconds(), "rows/s")
}

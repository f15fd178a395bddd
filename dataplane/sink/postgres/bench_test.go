package postgres_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/sink/postgres"
	"syncline/dataplane/sink/sinktest"
	"syncline/testsuite/stack"
)

func accounts() *change.Schema {
	return sinktest.Schema("pgbench_accounts", 1, sinktest.Col("aid", sinktest.Int4), sinktest.Col("bid", sinktest.Int4),
		sinktest.Col("abalance", sinktest.Int4), sinktest.Col("filler", sinktest.Builtin("character(84)", "bpchar", 1042, 88)))
}

const benchRows = 500_000

// copyOut returns a CopyFunc that reads a query on its own connection, as the source's reader does.
func copyOut(dsn, query string) sink.CopyFunc {
	return func(ctx context.Context, w io.Writer, binary bool) (int64, error) {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return 0, err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		format := "text"
		if binary {
			format = "binary"
		}
		tag, err := conn.PgConn().CopyTo(ctx, w, "COPY ("+query+") TO STDOUT (FORMAT "+format+")")
		return tag.RowsAffected(), err
	}
}

func fill(b testing.TB, dsn string) {
	exec(b, dsn, "CREATE SCHEMA src", "CREATE TABLE src.pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84))",
		fmt.Sprintf("INSERT INTO src.pgbench_accounts SELECT g, 1, 0, '' FROM generate_series(1, %d) g", benchRows), "VACUUM ANALYZE src.pgbench_accounts")
}

// BenchmarkApply applies batches of 5000 rows to a table of half a million. Per
// "rows/s" is what one lane reaches; native apply is one process, too.
func BenchmarkApply(b *testing.B) {
	dsn := stack.Database(b, stack.SinkPostgres(b))
	fill(b, dsn)
	s := accounts()
	k := open(b, dsn, "bench", postgres.Options{})
	defer k.Close()
	t := sink.Table{ID: s.Table, Partitions: 1, Epoch: 1, Schema: s}
	must(b, k.Init(b.Context()))
	must(b, k.AddTable(b.Context(), t))
	_, err := k.PlanChunks(b.Context(), t.ID, []sink.Chunk{{N: 0}})
	must(b, err)
	_, err = k.LoadChunk(b.Context(), t.ID, 0, sinktest.Loaded(1), copyOut(dsn, "SELECT * FROM src.pgbench_accounts"), nil)
	must(b, err)
	must(b, k.FinishLoad(b.Context(), t.ID))
	x, err := k.Claim(b.Context(), 0, 1)
	must(b, err)
	defer x.Close()
	const rows = 5000
	next := benchRows
	for _, c := range []struct {
		name string
		row  func(n int) sink.Row
	}{
		{"update", func(n int) sink.Row {
			return sinktest.Put(s, n, fmt.Sprint(1+rand.IntN(benchRows/rows)*rows+n%rows), "1", fmt.Sprint(n), "")
		}},
		{"partial", func(n int) sink.Row {
			return sinktest.Put(s, n, fmt.Sprint(1+rand.IntN(benchRows/rows)*rows+n%rows), "1", fmt.Sprint(n), sinktest.Unchanged)
		}},
		{"insert", func(n int) sink.Row { next++; return sinktest.Put(s, n, fmt.Sprint(next), "1", fmt.Sprint(n), "") }},
		{"delete", func(n int) sink.Row { next--; return sinktest.Del(s, n, fmt.Sprint(next+1)) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			n := 0
			for b.Loop() {
				b.StopTimer()
				put := make([]sink.Row, 0, rows)
				for range rows {
					n++
					put = append(put, c.row(n))
				}
				batch := sinktest.Batch(t, int64(n), put...)
				b.StartTimer()
				a, err := x.Apply(b.Context(), batch)
				must(b, err)
				if a.Written+a.Deleted != rows {
					b.Fatalf("%+v", a)
				}
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// BenchmarkLoad loads a table in one or two chunks at a time, and compares with a
// COPY that is piped into a COPY on one connection each, with the key in place.
func BenchmarkLoad(b *testing.B) {
	dsn := stack.Database(b, stack.SinkPostgres(b))
	fill(b, dsn)
	s := accounts()
	b.Run("pipe", func(b *testing.B) {
		for b.Loop() {
			exec(b, dsn, "DROP TABLE IF EXISTS pgbench_accounts", "CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84))")
			conn := connect(b, dsn)
			r, w := io.Pipe()
			go func() {
				_, err := copyOut(dsn, "SELECT * FROM src.pgbench_accounts")(b.Context(), w, true)
				w.CloseWithError(err)
			}()
			_, err := conn.PgConn().CopyFrom(b.Context(), r, "COPY pgbench_accounts FROM STDIN (FORMAT binary)")
			must(b, err)
			must(b, conn.Close(b.Context()))
		}
		b.ReportMetric(float64(benchRows*b.N)/b.Elapsed().Seconds(), "rows/s")
	})
	for _, parallel := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("chunks%d", parallel), func(b *testing.B) {
			k := open(b, dsn, "bench", postgres.Options{Connections: 6})
			defer k.Close()
			must(b, k.Init(b.Context()))
			var finish time.Duration
			for b.Loop() {
				exec(b, dsn, "DROP TABLE IF EXISTS pgbench_accounts")
				must(b, k.Forget(b.Context()))
				t := sink.Table{ID: s.Table, Partitions: 1, Epoch: 1, Schema: s}
				must(b, k.AddTable(b.Context(), t))
				var cut []sink.Chunk
				for n := range 8 {
					cut = append(cut, sink.Chunk{N: n})
				}
				_, err := k.PlanChunks(b.Context(), t.ID, cut)
				must(b, err)
				todo := make(chan int, len(cut))
				for n := range cut {
					todo <- n
				}
				close(todo)
				var wg sync.WaitGroup
				for range parallel {
					wg.Go(func() {
						for n := range todo {
							q := fmt.Sprintf("SELECT * FROM src.pgbench_accounts WHERE aid > %d AND aid <= %d", benchRows/8*n, benchRows/8*(n+1))
							if _, err := k.LoadChunk(b.Context(), t.ID, n, sinktest.Loaded(1), copyOut(dsn, q), nil); err != nil {
								b.Error(err)
							}
						}
					})
				}
				wg.Wait()
				at := time.Now()
				must(b, k.FinishLoad(b.Context(), t.ID))
				finish += time.Since(at)
			}
			b.ReportMetric(float64(benchRows*b.N)/b.Elapsed().Seconds(), "rows/s")
			b.ReportMetric(finish.Seconds()/float64(b.N), "s/finish")
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

package deliver

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/sink/clickhouse"
	"syncline/dataplane/sink/postgres"
	"syncline/testsuite/check"
	"syncline/testsuite/stack"
)

// noRows is a chunk of an empty table.
func noRows(_ context.Context, w io.Writer, binary bool) (int64, error) {
	if !binary {
		return 0, nil
	}
	_, err := w.Write([]byte("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff"))
	return 0, err
}

// The model's history, with its crashing capture, TRUNCATEs and new columns, goes
// through lanes that end and overlap at random into real sinks.
func TestRealSinksEndUpLikeTheSource(t *testing.T) { intoSinks(t, false) }

// The same, while changes wait by rules that change with every life of a lane.
func TestRealSinksEndUpLikeTheSourceWhenChangesWait(t *testing.T) { intoSinks(t, true) }

func intoSinks(t *testing.T, tiered bool) {
	t.Run("postgres", func(t *testing.T) {
		dsn := stack.Database(t, stack.SinkPostgres(t))
		s, err := postgres.Open(postgres.Config{DSN: dsn, Pipeline: "model", Options: postgres.Options{TakeoverWait: 100 * time.Millisecond}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		intoSink(t, s, &check.Postgres{DSN: dsn}, tiered, func() map[string]int64 {
			conn, err := pgx.Connect(t.Context(), dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close(context.Background()) }()
			out := map[string]int64{}
			var there bool
			if err := conn.QueryRow(t.Context(), "SELECT to_regclass('shop.events_daily') IS NOT NULL").Scan(&there); err != nil || !there {
				return out
			}
			rows, err := conn.Query(t.Context(), "SELECT x, rows FROM shop.events_daily")
			if err != nil {
				t.Fatal(err)
			}
			var x string
			var n int64
			if _, err := pgx.ForEachRow(rows, []any{&x, &n}, func() error { out[x] = n; return nil }); err != nil {
				t.Fatal(err)
			}
			return out
		})
	})
	t.Run("clickhouse", func(t *testing.T) {
		dsn := stack.ClickHouseDatabase(t)
		u, err := url.Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		db := strings.Trim(u.Path, "/")
		s, err := clickhouse.Open(clickhouse.Config{DSN: dsn, Pipeline: "model", Options: clickhouse.Options{Ledger: db, Database: db}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		intoSink(t, s, &check.ClickHouse{URL: dsn, Database: db}, tiered, func() map[string]int64 {
			o, err := ch.ParseDSN(dsn)
			if err != nil {
				t.Fatal(err)
			}
			conn, err := ch.Open(o)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			out := map[string]int64{}
			var there uint8
			if err := conn.QueryRow(t.Context(), "EXISTS events_daily").Scan(&there); err != nil || there == 0 {
				return out
			}
			rows, err := conn.Query(t.Context(), "SELECT x, rows FROM events_daily")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = rows.Close() }()
			for rows.Next() {
				var x *string
				var n int64
				if err := rows.Scan(&x, &n); err != nil {
					t.Fatal(err)
				}
				out[*x] = n
			}
			if err := rows.Err(); err != nil {
				t.Fatal(err)
			}
			return out
		})
	})
}

// intoSink delivers to a sink. kept are the rows in aggregates of tableB, each of which is a
// group of its own.
func intoSink(t *testing.T, s sink.Sink, side check.Side, tiered bool, kept func() map[string]int64) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := s.Init(ctx); err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := newWorldLoaded(seed, 80, 1)
	for id, mt := range w.sink.tables {
		err := s.AddTable(ctx, sink.Table{ID: id, Schema: mt.info.Schema, Partitions: w.parts[id], Epoch: 1, Options: mt.info.Options})
		if err == nil {
			_, err = s.PlanChunks(ctx, id, []sink.Chunk{{N: 0}})
		}
		if err == nil {
			_, err = s.LoadChunk(ctx, id, 0, sink.Loaded{Snapshot: mt.chunks[0].Snapshot, LSN: mt.chunks[0].LSN}, noRows, nil)
		}
		if err == nil {
			err = s.FinishLoad(ctx, id)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	go w.capture(func() { time.Sleep(time.Millisecond) })
	arrived := func() bool {
		marks, err := s.Watermarks(ctx)
		n := 0
		for _, m := range marks {
			if m.Pos.Commit >= w.through-1 {
				n++
			}
		}
		return err == nil && n == w.parts[tableA]+w.parts[tableB]
	}
	var wg sync.WaitGroup
	var swept atomic.Int64
	var waited atomic.Bool // until then nothing is due, however slow the machine is
	if tiered {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil && !arrived(); {
				marks, err := s.Watermarks(ctx)
				if err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				at := commitLSN(0)
				if waited.Load() || slices.ContainsFunc(marks, sink.Watermark.Behind) {
					waited.Store(true)
					if i++; i < 8 {
						at = commitLSN(10 * i)
					} else {
						at = w.through
					}
				}
				for id := range w.parts {
					if err := s.SetDue(ctx, id, sink.AllTiers, change.Position{Epoch: 1, Commit: at}); err != nil && ctx.Err() == nil {
						t.Error(err)
					}
				}
				time.Sleep(200 * time.Millisecond)
			}
		})
	}
	for lane := range 2 {
		wg.Go(func() {
			if lane == 0 && seed%2 == 0 { // a lane may meet a definition long after another has gone beyond it
				time.Sleep(2 * time.Second)
			}
			for lives := 0; ctx.Err() == nil && !arrived(); lives++ {
				life := time.Hour
				if lives < 8 {
					life = time.Duration(50+rand.IntN(400)) * time.Millisecond
				}
				run, end := context.WithTimeout(ctx, life)
				go func() {
					for run.Err() == nil && !arrived() {
						time.Sleep(50 * time.Millisecond)
					}
					end()
				}()
				o := quick(lane, 2)
				o.RetryFor, o.PollTables, o.tick = 10*time.Second, 50*time.Millisecond, 10*time.Millisecond
				var obs Observer
				if tiered {
					sets := ruleSets
					if !waited.Load() {
						sets = ruleSets[:3] // by which something does
					}
					o.Tiers, o.SweepRows = sets[rand.IntN(len(sets))], 5
					if rand.IntN(2) == 0 {
						o.Tiers = scattered(keeping)
					}
					obs.Swept = func(_ change.TableID, _ string, _ time.Duration, n int) { swept.Add(int64(n)) }
				}
				err := Run(run, o, w.log, s, w.placer, obs)
				end()
				var f *fault.Error
				if errors.As(err, &f) && !f.Retry && f.Code != sink.CodeFenced {
					t.Errorf("lane %d ended with %v", lane, err)
					cancel()
				}
			}
		})
	}
	wg.Wait()
	if !arrived() {
		marks, err := s.Watermarks(t.Context())
		tables, terr := s.Tables(t.Context())
		for i := range tables {
			t.Logf("%s is %s: %s", tables[i].ID, tables[i].State, tables[i].Reason)
		}
		t.Fatalf("not finished in time, through %s: %v %v", w.through, marks, errors.Join(err, terr))
	}
	if tiered && swept.Load() == 0 {
		t.Error("nothing waited")
	}
	for _, id := range []change.TableID{tableA, tableB} { // nothing is wrong with any row
		if keys := parkedAt(t, s, id); len(keys) > 0 {
			t.Errorf("%s: keys %v are parked", id, keys)
		}
	}
	tables, err := check.TablesOf(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	for i := range tables {
		have := map[string][]check.Value{}
		n := 0
		err := side.Rows(ctx, &tables[i], func(r []check.Value) error {
			n++
			have[r[0].Text] = append([]check.Value(nil), r...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(have) != n {
			t.Errorf("%s: %d rows of %d keys", tables[i].ID(), n, len(have))
		}
		if tables[i].ID() == tableB {
			in := kept()
			for pos := range w.appends {
				there := in[pos.String()]
				if have[pos.String()] != nil {
					there++
				}
				if there != 1 {
					t.Errorf("append-only row %s is there %d times", pos, there)
				}
			}
			if n+len(in) != len(w.appends) {
				t.Errorf("%d append-only rows, and %d in aggregates, want %d", n, len(in), len(w.appends))
			}
			if tiered {
				t.Logf("of %d append-only rows %d are in aggregates", len(w.appends), len(in))
			}
			continue
		}
		if n != len(w.final) {
			t.Errorf("%d rows, want %d", n, len(w.final))
		}
		for _, want := range w.final {
			row := have[string(want["id"].Data)]
			if row == nil {
				t.Errorf("row %s is missing", want["id"].Data)
				continue
			}
			for c, col := range tables[i].Schema.Columns {
				v := want[col.Name]
				if (v.Kind == change.Null) != row[c].Null || string(v.Data) != row[c].Text {
					t.Errorf("row %s column %s: have %v, want %s", want["id"].Data, col.Name, row[c], v.Data)
				}
			}
		}
	}
}

func parkedAt(t *testing.T, s sink.Sink, id change.TableID) []change.Key {
	t.Helper()
	ses, err := s.Claim(t.Context(), 0, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ses.Close() }()
	keys, err := ses.Parked(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

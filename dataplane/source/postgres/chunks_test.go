package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// keyCases are tables with keys of all sorts, n rows each.
var keyCases = []struct {
	name, columns, rows string
	chunks              int // at least
}{
	{"ints", "k int PRIMARY KEY, v text", "SELECT g, repeat('x', 100) FROM generate_series(1, 5000) g", 4},
	{"digits", "k int PRIMARY KEY, v text", "SELECT CASE WHEN g % 2 = 0 THEN g ELSE -g * 100003 % 1000000 END, repeat('x', 100) FROM generate_series(1, 5000) g", 4},
	{"uuids", "k uuid PRIMARY KEY, v text", "SELECT md5(g::text)::uuid, repeat('x', 100) FROM generate_series(1, 5000) g", 4},
	{"texts", `k text COLLATE "en-x-icu" PRIMARY KEY, v text`, "SELECT CASE g % 3 WHEN 0 THEN upper(md5(g::text)) ELSE md5(g::text) || E'\\'\\\\é' END, repeat('x', 100) FROM generate_series(1, 5000) g", 4},
	{"ctexts", `k text COLLATE "C" PRIMARY KEY, v text`, "SELECT CASE g % 3 WHEN 0 THEN upper(md5(g::text)) ELSE md5(g::text) END, repeat('x', 100) FROM generate_series(1, 5000) g", 4},
	{"citexts", "k public.citext PRIMARY KEY, v text", "SELECT CASE g % 2 WHEN 0 THEN upper(md5(g::text)) ELSE md5(g::text) END, repeat('x', 100) FROM generate_series(1, 5000) g", 4},
	{"chars", "k char(40) PRIMARY KEY, v text", "SELECT md5(g::text), repeat('x', 100) FROM generate_series(1, 5000) g", 4},
	{"composite", `"B" text, a int, v text, "c d" numeric, PRIMARY KEY ("c d", "B", a)`, "SELECT 'b' || g % 7, g, repeat('x', 100), (g % 11) / 10.0 FROM generate_series(1, 5000) g", 4},
	{"skewed", "k bigint PRIMARY KEY, v text", "SELECT CASE WHEN g <= 4990 THEN g ELSE g * 1000000000000 END, repeat('x', 100) FROM generate_series(1, 5000) g", 4},
	{"skewed_size", "k int PRIMARY KEY, v text", "SELECT g, repeat(md5(g::text), CASE WHEN g < 30 THEN 200 ELSE 1 END) FROM generate_series(1, 3000) g", 3},
	{"times", "k timestamptz PRIMARY KEY, v text", "SELECT CASE g WHEN 1 THEN '-infinity' WHEN 2 THEN 'infinity' ELSE '2024-01-01'::timestamptz + g * interval '1.001 s' END, repeat('x', 100) FROM generate_series(1, 5000) g", 4},
	{"floats", "k float8 PRIMARY KEY, v text", "SELECT CASE g WHEN 1 THEN 'NaN' WHEN 2 THEN '-Infinity' ELSE sqrt(g) END, repeat('x', 100) FROM generate_series(1, 5000) g", 4},
	{"enums", "k mood, n int, v text, PRIMARY KEY (k, n)", "SELECT (ARRAY['zeta', 'alpha', 'mid'])[g % 3 + 1]::mood, g, repeat('x', 100) FROM generate_series(1, 5000) g", 4},
	{"byteas", "k bytea PRIMARY KEY, v text", "SELECT decode(md5(g::text), 'hex'), repeat('x', 100) FROM generate_series(1, 5000) g", 4},
	{"bools", "k bool PRIMARY KEY, v text", "SELECT g = 1, repeat('x', 90000) FROM generate_series(1, 2) g", 1},
	{"empty", "k int PRIMARY KEY, v text", "SELECT 1, 'x' WHERE false", 1},
	{"one", "k int PRIMARY KEY, v text", "SELECT 1, 'x'", 1},
	{"emptied", "k int PRIMARY KEY, v text", "SELECT g, repeat('x', 100) FROM generate_series(1, 5000) g", 1},
	{"keyless", "k int, v text", "SELECT g % 10, repeat('x', 100) FROM generate_series(1, 5000) g", 1},
	{"parts", "k int, r int, v text, PRIMARY KEY (r, k)) PARTITION BY LIST (r", "SELECT g, g % 2, repeat('x', 100) FROM generate_series(1, 5000) g", 4},
}

func (r *rig) makeKeyCases() {
	r.exec("CREATE EXTENSION citext; CREATE TYPE mood AS ENUM ('zeta', 'alpha', 'mid')")
	for _, c := range keyCases {
		name := quoteIdent("K " + c.name)
		r.exec("CREATE TABLE " + name + " (" + c.columns + ")")
		if c.name == "parts" {
			r.exec("CREATE TABLE parts_0 PARTITION OF " + name + " FOR VALUES IN (0); CREATE TABLE parts_1 (v text, r int NOT NULL, k int NOT NULL); ALTER TABLE " +
				name + " ATTACH PARTITION parts_1 FOR VALUES IN (1)")
		}
		r.exec("INSERT INTO " + name + " " + c.rows)
		if c.name == "emptied" {
			r.exec("DELETE FROM " + name)
		}
	}
	r.exec("ANALYZE")
}

func caseTable(name string) PublishedTable {
	return PublishedTable{ID: change.TableID{Schema: "public", Name: "K " + name}}
}

// Chunks of every kind of key hold all rows of the snapshot exactly once, while
// the tables are written to, and a key is placed in the chunk that it was copied
// with.
func TestChunksHoldEveryRowOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.makeKeyCases()
	ex, err := r.s.Export(r.ctx())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ex.Close() })
	want := map[string]int{}
	for _, c := range keyCases {
		var n int
		r.scan(&n, "SELECT count(*) FROM "+quoteIdent("K "+c.name))
		want[c.name] = n
	}
	// After the snapshot, everything changes.
	for _, c := range keyCases {
		r.exec("DELETE FROM " + quoteIdent("K "+c.name) + " WHERE ctid IN (SELECT ctid FROM " + quoteIdent("K "+c.name) + " LIMIT 100)")
	}
	r.exec(`INSERT INTO "K ints" SELECT g, 'new' FROM generate_series(-1000, 0) g; INSERT INTO "K one" SELECT g, 'new' FROM generate_series(2, 1000) g`)
	for _, c := range keyCases {
		t.Run(c.name, func(t *testing.T) {
			schemas, err := r.s.Describe(r.ctx(), []PublishedTable{caseTable(c.name)})
			if err != nil {
				t.Fatal(err)
			}
			s := schemas[0]
			chunks, err := r.s.PlanChunks(r.ctx(), s, ChunkOptions{ChunkBytes: 100_000, Snapshot: ex.Name})
			if err != nil {
				t.Fatal(err)
			}
			if len(chunks) < c.chunks {
				t.Errorf("%d chunks", len(chunks))
			}
			checkChain(t, chunks)
			seen := map[string]bool{}
			sizes := make([]int, len(chunks))
			for i, ch := range chunks {
				rows := r.copyAll(s, []sink.Chunk{ch}, ex.Name)
				var keys []change.Key
				for _, row := range rows {
					k := fmt.Sprint(row)
					if len(s.Key) > 0 {
						key, err := change.MakeKey(s, row)
						if err != nil {
							t.Fatal(err)
						}
						keys, k = append(keys, key), string(key)
						if seen[k] {
							t.Fatalf("a row is in two chunks")
						}
					}
					seen[k] = true
					for _, v := range row {
						sizes[i] += len(v.Data)
					}
				}
				if len(s.Key) == 0 {
					if len(rows) != want[c.name] {
						t.Errorf("%d rows", len(rows))
					}
					return
				}
				placed, err := r.s.Place(r.ctx(), s, chunks, keys)
				if err != nil {
					t.Fatal(err)
				}
				for j, p := range placed {
					if p != ch.N {
						t.Fatalf("row %d of chunk %d %v was placed in chunk %d %v: %v", j, ch.N, ch, p, chunks[p], rows[j][:2])
					}
				}
			}
			if len(seen) != want[c.name] {
				t.Errorf("%d rows, want %d", len(seen), want[c.name])
			}
			for i, n := range sizes {
				if len(chunks) >= 4 && n > 400_000 {
					t.Errorf("chunk %d of %d has %d bytes", i, len(chunks), n)
				}
			}
		})
	}
}

// Append-only tables, whose changes carry no key, are cut by the one that their
// rows have.
func TestAppendOnlyChunks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.makeKeyCases()
	r.exec(`CREATE TABLE "K unique" (v text, a int NOT NULL, "B" text NOT NULL, n int, UNIQUE (n), UNIQUE ("B", a)); INSERT INTO "K unique" SELECT repeat('x', 100), g, 'b' || g % 7, g FROM generate_series(1, 5000) g;
		CREATE TABLE "K unusable" (v text, a int NOT NULL, b int, c int NOT NULL, UNIQUE (a, b), UNIQUE (a) DEFERRABLE); CREATE UNIQUE INDEX ON "K unusable" (a) WHERE a > 0; CREATE UNIQUE INDEX ON "K unusable" ((a + c));
		CREATE INDEX ON "K unusable" (c); INSERT INTO "K unusable" SELECT repeat('x', 100), g, g, g FROM generate_series(1, 5000) g; ANALYZE`)
	want := map[string][]string{"ints": {"k"}, "composite": {"c d", "B", "a"}, "parts": {"r", "k"}, "citexts": {"k"}, "unique": {"B", "a"}, "unusable": nil, "keyless": nil, "empty": nil}
	for name, by := range want {
		t.Run(name, func(t *testing.T) {
			p := caseTable(name)
			p.AppendOnly = true
			schemas, err := r.s.Describe(r.ctx(), []PublishedTable{p})
			if err != nil {
				t.Fatal(err)
			}
			s := schemas[0]
			chunks, err := r.s.PlanChunks(r.ctx(), s, ChunkOptions{ChunkBytes: 100_000})
			if err != nil {
				t.Fatal(err)
			}
			checkChain(t, chunks)
			if (len(chunks) >= 4) != (by != nil) {
				t.Fatalf("%d chunks", len(chunks))
			}
			seen, rows := map[change.Key]int{}, 0
			for _, ch := range chunks {
				if !slices.Equal(ch.By, by) {
					t.Fatalf("cut by %v, want %v", ch.By, by)
				}
				ranges, keyed := ch.Ranges(s)
				if keyed != (by != nil) {
					t.Fatal("keyed", keyed)
				}
				var keys []change.Key
				for _, row := range r.copyAll(s, []sink.Chunk{ch}, "") {
					rows++
					if !keyed {
						continue
					}
					k, err := change.MakeKey(ranges, row)
					if err != nil {
						t.Fatal(err)
					}
					keys = append(keys, k)
					seen[k]++
				}
				placed, err := r.s.Place(r.ctx(), s, chunks, keys)
				if err != nil {
					t.Fatal(err)
				}
				for i, n := range placed {
					if n != ch.N {
						t.Fatalf("key %s of chunk %d was placed in chunk %d", keys[i], ch.N, n)
					}
				}
			}
			var n int
			r.scan(&n, "SELECT count(*) FROM "+quoteIdent("K "+name))
			if rows != n || by != nil && len(seen) != n {
				t.Errorf("%d rows, %d keys, want %d", rows, len(seen), n)
			}
			if by == nil {
				return
			}
			other := *s
			other.Columns = slices.Clone(s.Columns)
			for i := range other.Columns {
				other.Columns[i].Name += " renamed"
			}
			if _, err := r.s.Place(r.ctx(), &other, chunks, []change.Key{"x"}); !fault.Is(err, sink.CodeSchemaGate) {
				t.Errorf("placed by columns that are not there: %v", err)
			}
			if _, err := r.s.CopyChunk("", &other, chunks[1], "", nil)(r.ctx(), io.Discard, false); !fault.Is(err, sink.CodeSchemaGate) {
				t.Errorf("copied by columns that are not there: %v", err)
			}
		})
	}
}

func checkChain(t *testing.T, chunks []sink.Chunk) {
	t.Helper()
	for i, c := range chunks {
		if c.N != i || (i == 0) != (len(c.After) == 0) || (i == len(chunks)-1) != (len(c.UpTo) == 0) {
			t.Fatalf("chunk %d: %+v", i, c)
		}
		if i > 0 && fmt.Sprint(c.After) != fmt.Sprint(chunks[i-1].UpTo) {
			t.Fatalf("chunk %d does not begin where the one before ends", i)
		}
	}
	b, err := json.Marshal(chunks)
	if err != nil {
		t.Fatal(err)
	}
	var back []sink.Chunk
	if err := json.Unmarshal(b, &back); err != nil || fmt.Sprint(back) != fmt.Sprint(chunks) {
		t.Fatalf("chunks do not survive JSON: %v", err)
	}
}

// Large tables are sampled, not walked; the cut is about even all the same.
func TestSampledCut(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`CREATE TABLE s (k int PRIMARY KEY, v text) WITH (fillfactor = 10); INSERT INTO s SELECT g, repeat('x', 700) FROM generate_series(1, 20000) g;
		CREATE TABLE p (k int PRIMARY KEY, v text) PARTITION BY RANGE (k); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10000) WITH (fillfactor = 10);
		CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10000) TO (1000000) WITH (fillfactor = 10); INSERT INTO p SELECT * FROM s`)
	for _, name := range []string{"s", "p"} {
		schemas, err := r.s.Describe(r.ctx(), []PublishedTable{table(name)})
		if err != nil {
			t.Fatal(err)
		}
		var pages int
		r.scan(&pages, "SELECT (sum(pg_relation_size(oid)) / 8192)::int FROM pg_class WHERE relkind = 'r' AND relname LIKE $1 || '%'", name)
		if pages <= exactPages {
			t.Fatalf("%d pages: too small to be sampled", pages)
		}
		chunks, err := r.s.PlanChunks(r.ctx(), schemas[0], ChunkOptions{ChunkBytes: int64(pages) * 8192 / 10, Where: "k > 10000"})
		if err != nil {
			t.Fatal(err)
		}
		checkChain(t, chunks)
		if len(chunks) < 9 {
			t.Errorf("%s: %d chunks", name, len(chunks))
		}
		var total int64
		for _, c := range chunks {
			n, err := r.s.CopyChunk("", schemas[0], c, "k > 10000 -- filtered", nil)(r.ctx(), io.Discard, true)
			if err != nil {
				t.Fatal(err)
			}
			if n > 3000 {
				t.Errorf("%s: chunk %d has %d of 10000 rows", name, c.N, n)
			}
			total += n
		}
		if total != 10_000 {
			t.Errorf("%s: %d rows", name, total)
		}
	}
}

func TestSnapshotGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
	schemas, err := r.s.Describe(r.ctx(), []PublishedTable{table("t")})
	if err != nil {
		t.Fatal(err)
	}
	ex, err := r.s.Export(r.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if err := ex.Alive(r.ctx()); err != nil {
		t.Error(err)
	}
	copyIn := func(name string) error {
		_, err := r.s.CopyChunk(name, schemas[0], sink.Chunk{}, "", nil)(r.ctx(), io.Discard, false)
		return err
	}
	if err := copyIn(ex.Name); err != nil {
		t.Error(err)
	}
	r.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '" + appName(r.s.o.Pipeline, "snapshot") + "'")
	deadline := time.Now().Add(20 * time.Second)
	for ex.Alive(r.ctx()) == nil && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	wantFault(t, ex.Alive(r.ctx()), CodeSnapshotGone, false)
	for copyIn(ex.Name) == nil && time.Now().Before(deadline) { // the server cleans up after it says farewell
		time.Sleep(10 * time.Millisecond)
	}
	wantFault(t, copyIn(ex.Name), CodeSnapshotGone, false)
	wantFault(t, copyIn("not-a-snapshot"), CodeSnapshotGone, false)
	if err := ex.Close(); err != nil {
		t.Error(err)
	}
	wantFault(t, ex.Alive(r.ctx()), CodeSnapshotGone, false)
	r.exec("DROP TABLE t")
	wantFault(t, copyIn(""), CodeTableMissing, false)
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, fault.Permanent("TheSink", nil, "", "") }

func TestCopyReportsWhoFailed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 20000) g")
	schemas, err := r.s.Describe(r.ctx(), []PublishedTable{table("t")})
	if err != nil {
		t.Fatal(err)
	}
	copyTo := r.s.CopyChunk("", schemas[0], sink.Chunk{}, "", nil)
	if _, err := copyTo(r.ctx(), failingWriter{}, false); !fault.Is(err, "TheSink") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := copyTo(ctx, io.Discard, false); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	// The server ends a query that is cancelled with an error of its own.
	ctx, cancel = context.WithCancel(r.ctx())
	ended := make(chan error, 1)
	go func() {
		_, err := r.s.CopyChunk("", schemas[0], sink.Chunk{}, "pg_sleep(600) IS NOT NULL", nil)(ctx, io.Discard, false)
		ended <- err
	}()
	for busy := false; !busy; {
		r.scan(&busy, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep')")
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) || fault.CodeOf(err) != "" {
		t.Errorf("cancelled in the middle: %v", err)
	}
}

// A snapshot's rows and the changes it does not see are together every row,
// under concurrent writers: this is what bootstrap rests on.
func TestSnapshotAndStreamMeet(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.smallDecodingMemory()
	r.exec("CREATE TABLE t (id int PRIMARY KEY, n int)")
	r.publish(table("t"))
	st := r.stream(StreamOptions{})
	var stop atomic.Bool
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			c, err := pgx.Connect(context.Background(), r.dsn)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.Close(context.Background()) }()
			for i := 0; !stop.Load(); i++ {
				sql := fmt.Sprintf("BEGIN; INSERT INTO t VALUES (%d, 0); UPDATE t SET n = n + 1 WHERE id %% 3 = %d AND id > %d; DELETE FROM t WHERE id = %d; COMMIT",
					i*3+w, w, (i-5)*3, (i-3)*3+w)
				if i%10 == 0 {
					sql = strings.Replace(sql, "COMMIT", "ROLLBACK", 1)
				}
				if _, err := c.Exec(context.Background(), sql); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	var exports []*Exported
	for range 5 {
		time.Sleep(30 * time.Millisecond)
		ex, err := r.s.Export(r.ctx())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ex.Close() })
		exports = append(exports, ex)
	}
	time.Sleep(30 * time.Millisecond)
	stop.Store(true)
	wg.Wait()
	cs, _ := r.drain(st)
	schema := cs[0].schema
	final := map[string]string{}
	for _, row := range r.copyAll(schema, nil, "") {
		final[string(row[0].Data)] = string(row[1].Data)
	}
	for _, ex := range exports {
		rows := map[string]string{}
		for _, row := range r.copyAll(schema, nil, ex.Name) {
			rows[string(row[0].Data)] = string(row[1].Data)
		}
		skipped := 0
		for _, c := range cs {
			if ex.Snapshot.Sees(c.XID) {
				skipped++
				if c.Pos.Commit >= ex.LSN {
					t.Fatalf("a transaction that the snapshot sees commits at %s, not before %s", c.Pos.Commit, ex.LSN)
				}
				continue
			}
			if c.Op == change.Delete {
				delete(rows, string(c.Old[0].Data))
			} else {
				rows[string(c.New[0].Data)] = string(c.New[1].Data)
			}
		}
		if fmt.Sprint(rows) != fmt.Sprint(final) {
			t.Errorf("snapshot %s, %d of %d changes skipped: %d rows, want %d", ex.Snapshot, skipped, len(cs), len(rows), len(final))
		}
	}
}

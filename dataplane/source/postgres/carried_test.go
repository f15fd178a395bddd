package postgres

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// Each case changes a table after its load; asked about column c, the source must
// know whether older rows hold values that the log lacks, and not cry wolf.
func TestCarried(t *testing.T) {
	tests := []struct {
		name  string
		sqls  []string // each in its own transaction
		gated bool
	}{
		{"no default", []string{"ALTER TABLE t ADD c int", "UPDATE t SET c = 1 WHERE id < 50"}, false},
		{"backfilled", []string{"ALTER TABLE t ADD c int", "UPDATE t SET c = id", "ALTER TABLE t ALTER c SET NOT NULL"}, false},
		{"backfilled in the same transaction", []string{"BEGIN; ALTER TABLE t ADD c int; UPDATE t SET c = id; ALTER TABLE t ALTER c SET NOT NULL; COMMIT"}, false},
		{"backfilled in a savepoint", []string{"BEGIN; SAVEPOINT a; ALTER TABLE t ADD c int; RELEASE a; SAVEPOINT b; UPDATE t SET c = id; RELEASE b; COMMIT"}, false},
		{"default set later", []string{"ALTER TABLE t ADD c int", "ALTER TABLE t ALTER c SET DEFAULT 5", "INSERT INTO t (id) VALUES (1000)"}, false},
		{"default set in the same transaction", []string{"BEGIN; ALTER TABLE t ADD c int; ALTER TABLE t ALTER c SET DEFAULT random() * 9; COMMIT", "INSERT INTO t (id) VALUES (1000)"}, false},
		{"backfilled, and reindexed since", []string{"ALTER TABLE t ADD c int", "UPDATE t SET c = id WHERE id < 50", "REINDEX TABLE t"}, false},
		{"all backfilled, and compacted since", []string{"ALTER TABLE t ADD c int", "VACUUM FULL t", "UPDATE t SET c = id"}, false},
		{"compacted", []string{"ALTER TABLE t ADD c int", "INSERT INTO t VALUES (1000, 'x', 3)", "VACUUM FULL t"}, false},
		{"compacted before", []string{"VACUUM FULL t", "ALTER TABLE t ADD c int", "INSERT INTO t VALUES (1000, 'x', 3)"}, false},
		{"part of it in the ALTER's transaction, compacted since", []string{"BEGIN; ALTER TABLE t ADD c int; UPDATE t SET c = 1 WHERE id % 2 = 0; COMMIT", "VACUUM FULL t"}, false},
		{"a part backfilled with a type of rows", []string{"CREATE TYPE two AS (a int, b int)", "ALTER TABLE t ADD c two", "UPDATE t SET c = (NULL, 1) WHERE id < 50", "REINDEX TABLE t"}, false},

		{"random", []string{"ALTER TABLE t ADD c float8 DEFAULT random()"}, true},
		{"a sequence", []string{"ALTER TABLE t ADD c serial", "UPDATE t SET a = 'new' WHERE id > 10"}, true},
		{"identity", []string{"ALTER TABLE t ADD c int GENERATED ALWAYS AS IDENTITY"}, true},
		{"random, and the default is gone", []string{"ALTER TABLE t ADD c float8 DEFAULT random()", "ALTER TABLE t ALTER c DROP DEFAULT"}, true},
		{"random, the default replaced, and compacted", []string{"ALTER TABLE t ADD c float8 DEFAULT random()", "ALTER TABLE t ALTER c SET DEFAULT 1", "VACUUM FULL t", "VACUUM FREEZE t", "REINDEX TABLE t"}, true},
		{"random, in savepoints", []string{"BEGIN; SAVEPOINT a; ALTER TABLE t ADD c float8 DEFAULT random(); RELEASE a; SAVEPOINT b; ALTER TABLE t ALTER c DROP DEFAULT; RELEASE b; COMMIT"}, true},
		{"random, and all but one row updated", []string{"ALTER TABLE t ADD c float8 DEFAULT random()", "UPDATE t SET c = 1 WHERE id > 1"}, true},
		{"random, and rows without a value since", []string{"ALTER TABLE t ADD c float8 DEFAULT random()", "INSERT INTO t VALUES (0, 'x', NULL)", "UPDATE t SET c = NULL WHERE id < 90"}, true},
		{"a type of rows", []string{"CREATE TYPE two AS (a int, b float8)", "ALTER TABLE t ADD c two DEFAULT ROW(NULL, random())"}, true},
		{"a constant, compacted", []string{"ALTER TABLE t ADD c int DEFAULT 5", "VACUUM FULL t"}, true},
		{"a constant, compacted, its default gone", []string{"ALTER TABLE t ADD c int DEFAULT 5", "CLUSTER t USING t_pkey", "ALTER TABLE t ALTER c DROP DEFAULT", "UPDATE t SET c = 6 WHERE id < 90"}, true},
		{"a constant, written by another ALTER", []string{"ALTER TABLE t ADD c int DEFAULT 5", "ALTER TABLE t ADD d float8 DEFAULT random()"}, true},
		{"computed by a change of type", []string{"ALTER TABLE t ADD c int", "ALTER TABLE t ALTER c TYPE bigint USING id * 2"}, true},
		{"gone", []string{"ALTER TABLE t ADD c int", "ALTER TABLE t DROP c"}, true},
	}
	shared := newRig(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := *shared
			r.t = t
			for _, kind := range []string{"plain", "partitioned"} {
				if all := strings.Join(tt.sqls, ""); kind == "partitioned" && (strings.Contains(all, "CLUSTER") || strings.Contains(all, "IDENTITY")) {
					continue // Postgres 15 refuses them
				}
				r.exec(`DROP TABLE IF EXISTS t, other; DROP TYPE IF EXISTS two`)
				if kind == "plain" {
					r.exec(`CREATE TABLE t (id int PRIMARY KEY, a text)`)
				} else {
					r.exec(`CREATE TABLE t (id int PRIMARY KEY, a text) PARTITION BY RANGE (id); CREATE TABLE "T a" PARTITION OF t FOR VALUES FROM (0) TO (50);
						CREATE TABLE t_b PARTITION OF t FOR VALUES FROM (50) TO (5000); CREATE TABLE t_none PARTITION OF t DEFAULT`)
				}
				r.exec(`INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 100) i`)
				chunks := r.loadedNow()
				straddler, err := pgx.Connect(r.ctx(), r.dsn)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := straddler.Exec(r.ctx(), "CREATE TABLE other (id int); INSERT INTO other VALUES (1); BEGIN; INSERT INTO other VALUES (2)"); err != nil {
					t.Fatal(err)
				}
				for _, sql := range tt.sqls {
					r.exec(sql)
				}
				// Older by its number than the ALTER, and yet in the log with the new column.
				_, _ = straddler.Exec(r.ctx(), "INSERT INTO t (id, a) VALUES (2000, 'late'); COMMIT")
				_ = straddler.Close(r.ctx())

				for how, cs := range map[string][]sink.Chunk{"loaded before": chunks, "nothing known": nil} {
					err := r.s.Carried(r.ctx(), &change.Schema{Table: table("t").ID}, []string{"c"}, cs)
					if tt.gated != fault.Is(err, sink.CodeSchemaGate) && (tt.gated || cs != nil) || err != nil && !fault.Is(err, sink.CodeSchemaGate) {
						t.Errorf("%s, %s: %v", kind, how, err)
					}
				}
			}
		})
	}
}

// loadedNow is a chunk whose snapshot shows that all before it had ended: other
// tests' transactions on the same server may take a moment to.
func (r *rig) loadedNow() []sink.Chunk {
	r.t.Helper()
	var before uint64
	r.scan(&before, "SELECT pg_current_xact_id()::text::int8")
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var text string
		r.scan(&text, "SELECT pg_current_snapshot()::text")
		snap, err := change.ParseSnapshot(text)
		if err != nil {
			r.t.Fatal(err)
		}
		if snap.XMin > before {
			return []sink.Chunk{{Done: true, Snapshot: snap}}
		}
		if time.Now().After(end) {
			r.t.Fatalf("transactions from before %d are still running: %s", before, text)
		}
	}
}

// Without what the load tells, common migrations still pass, after a look at all rows.
func TestCarriedWithoutALoad(t *testing.T) {
	r := newRig(t)
	r.exec(`CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 100) i`)
	r.exec(`ALTER TABLE t ADD c int`)
	r.exec(`UPDATE t SET c = id WHERE id < 50`)
	ask := func(cs []sink.Chunk) error {
		return r.s.Carried(r.ctx(), &change.Schema{Table: table("t").ID}, []string{"c"}, cs)
	}
	if err := ask(nil); err != nil {
		t.Error(err)
	}
	r.exec(`CREATE TABLE e (id int PRIMARY KEY); INSERT INTO e VALUES (1)`)
	loaded := r.loadedNow()
	for _, sql := range []string{"TRUNCATE e", "ALTER TABLE e ADD c serial", "INSERT INTO e VALUES (2)"} {
		r.exec(sql)
	}
	if err := r.s.Carried(r.ctx(), &change.Schema{Table: table("e").ID}, []string{"c"}, loaded); err != nil {
		t.Errorf("emptied since: %v", err)
	}
	// A snapshot in which the column is there already proves nothing.
	r.exec(`ALTER TABLE t ADD d float8 DEFAULT random()`)
	late := r.loadedNow()
	if err := r.s.Carried(r.ctx(), &change.Schema{Table: table("t").ID}, []string{"d"}, late); !fault.Is(err, sink.CodeSchemaGate) {
		t.Errorf("loaded after the ALTER: %v", err)
	}
}

func TestCarriedDoesNotGuess(t *testing.T) {
	r := newRig(t)
	r.exec(`CREATE TABLE t (id int PRIMARY KEY, a text); ALTER TABLE t ADD c int;
		INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 200000) i`)
	r.s.carriedLimit = time.Millisecond
	err := r.s.Carried(r.ctx(), &change.Schema{Table: table("t").ID}, []string{"c"}, nil)
	if !fault.Is(err, sink.CodeSchemaGate) || !strings.Contains(err.Error(), "could not be told") {
		t.Errorf("%v", err)
	}
	if err := r.s.Carried(r.ctx(), &change.Schema{Table: table("none").ID}, []string{"c"}, nil); !fault.Is(err, CodeTableMissing) {
		t.Errorf("no table: %v", err)
	}
}

// A column that comes between the plan of a load and its snapshot would be in
// neither chunk nor stream.
func TestSameColumns(t *testing.T) {
	r := newRig(t)
	r.exec(`CREATE TABLE t (id int PRIMARY KEY, a text, g int GENERATED ALWAYS AS (1) STORED)`)
	schemas, err := r.s.Describe(r.ctx(), []PublishedTable{table("t")})
	if err != nil {
		t.Fatal(err)
	}
	before, err := r.s.Export(r.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = before.Close() }()
	ask := func(snapshot string) error { return r.s.SameColumns(r.ctx(), snapshot, schemas[0]) }
	if err := ask(""); err != nil {
		t.Error(err)
	}
	r.exec(`ALTER TABLE t ADD b int`)
	if err := ask(""); !fault.Is(err, sink.CodeSchemaGate) || !strings.Contains(err.Error(), `was given column "b"`) {
		t.Errorf("added: %v", err)
	}
	if err := ask(before.Name); err != nil {
		t.Errorf("in a snapshot of before: %v", err)
	}
	r.exec(`ALTER TABLE t DROP b, DROP a`)
	if err := ask(""); !fault.Is(err, sink.CodeSchemaGate) || !strings.Contains(err.Error(), `lost column "a"`) {
		t.Errorf("dropped: %v", err)
	}
}

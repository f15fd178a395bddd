package e2e

import (
	"fmt"
	"testing"

	"syncline/activities/contract"
)

// hugeRows makes a transaction several times as large as all that a worker may
// hold. The benchmark has the variant of five million rows.
const hugeRows = 150_000

// memoryBound is what a worker may ever take: the figure that README promises.
const memoryBound = 512 << 20

// TestHugeTransaction: a transaction larger than memory neither blocks what is
// committed meanwhile nor costs memory, and takes effect as a whole.
func TestHugeTransaction(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fast = true // the race detector multiplies memory
	r.exec("CREATE SCHEMA huge", "CREATE TABLE huge.rows (id integer PRIMARY KEY, n integer NOT NULL, pad text NOT NULL)",
		"CREATE TABLE huge.small (id integer PRIMARY KEY, n integer NOT NULL)", "INSERT INTO huge.small SELECT i, 0 FROM generate_series(1, 100) i",
		// The source hands over transactions in progress as soon as they pass this.
		"DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET logical_decoding_work_mem = ''1MB''', current_database()); END $$")
	w := r.start()
	p := r.pipe("  include: [huge.*]\nstream: {memory_limit: 16MiB, status_interval: 200ms, heartbeat_interval: 1s}\n")
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)

	tx, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	do := func(sql string, args ...any) {
		t.Helper()
		if _, err := tx.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	const pad = "INSERT INTO huge.rows SELECT i, 0, repeat(md5(i::text), 12) FROM generate_series($1::int, $2::int) i"
	do(pad, 1, hugeRows/2)
	do("SAVEPOINT s")
	do("UPDATE huge.rows SET n = -1 WHERE id <= 5000")
	do("ROLLBACK TO s") // what a subtransaction took back never arrives
	do("UPDATE huge.small SET n = n + 1")
	// Others commit while it is open, and are delivered.
	if v := r.one(r.source, "UPDATE huge.small SET n = 100 WHERE id > 100 RETURNING n::text"); v != "" {
		t.Fatalf("updated a row that is not there: %s", v)
	}
	r.one(r.source, "INSERT INTO huge.small VALUES (1000, 7) RETURNING n::text")
	p.converged(id("huge.small"), id("huge.rows"))
	if n := r.one(r.sinkDSN, "SELECT count(*)::text || ' ' || sum(n)::text FROM huge.small"); n != "101 7" {
		t.Errorf("during the transaction, small has %s (rows, sum), want 101 7: nothing of it, all beside it", n)
	}
	do(pad, hugeRows/2+1, hugeRows)
	do("UPDATE huge.rows SET n = n + 1 WHERE id % 10 = 0")
	do("DELETE FROM huge.rows WHERE id % 100 = 1")
	if n := r.one(r.sinkDSN, "SELECT count(*)::text FROM huge.rows"); n != "0" {
		t.Errorf("%s rows are at the sink before the commit", n)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows := p.equal(2)
	if n := rows["huge.rows"]; n != hugeRows-hugeRows/100 {
		t.Errorf("%d rows, want %d", n, hugeRows-hugeRows/100)
	}
	if most := w.hwm(); most > memoryBound {
		t.Errorf("the worker took up to %d MiB, want at most %d", most>>20, memoryBound>>20)
	} else {
		t.Logf("the worker took up to %d MiB for a transaction of %d changes", most>>20, hugeRows+hugeRows/10+hugeRows/100)
	}
	if n := r.one(r.sinkDSN, "SELECT sum(n)::text FROM huge.rows"); n != fmt.Sprint(hugeRows/10) {
		t.Errorf("sum %s", n)
	}
}

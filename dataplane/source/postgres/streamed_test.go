package postgres

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
)

func (r *rig) smallDecodingMemory() {
	r.t.Helper()
	var db string
	r.scan(&db, "SELECT current_database()")
	r.exec("ALTER DATABASE " + quoteIdent(db) + " SET logical_decoding_work_mem = '64kB'")
}

func (r *rig) begin() (pgx.Tx, func(sql string)) {
	r.t.Helper()
	c, err := pgx.Connect(r.ctx(), r.dsn)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close(context.Background()) })
	tx, err := c.Begin(r.ctx())
	if err != nil {
		r.t.Fatal(err)
	}
	return tx, func(sql string) {
		r.t.Helper()
		if _, err := tx.Exec(r.ctx(), sql); err != nil {
			r.t.Fatalf("%s: %v", sql, err)
		}
	}
}

func (r *rig) commit(tx pgx.Tx) {
	r.t.Helper()
	if err := tx.Commit(r.ctx()); err != nil {
		r.t.Fatal(err)
	}
}

// Transactions larger than the source's decoding memory arrive before they
// commit, interleaved, with rolled back parts, and are spilled to disk; what
// comes out is whole transactions in commit order.
func TestStreamedTransactions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.smallDecodingMemory()
	r.exec("CREATE TABLE big (id int PRIMARY KEY, v text); CREATE TABLE other (id int PRIMARY KEY, v text)")
	r.publish(table("big"), table("other"))
	dir := t.TempDir()
	stale := dir + "/" + r.slot + "-99" + spillSuffix
	if err := os.WriteFile(stale, []byte("left by a killed worker"), 0o600); err != nil {
		t.Fatal(err)
	}
	st := r.stream(StreamOptions{SpillDir: dir, MemoryLimit: 32 << 10})
	if _, err := os.Stat(stale); err == nil {
		t.Error("a stale spill file was kept")
	}

	a, execA := r.begin()
	b, execB := r.begin()
	c, execC := r.begin()
	const rows = 3000
	fill := func(table string, from int) string {
		return fmt.Sprintf("INSERT INTO %s SELECT g, repeat('x', 50) FROM generate_series(%d, %d) g", table, from, from+rows-1)
	}
	execA(fill("big", 0))
	execB(fill("other", 0))
	execC(fill("big", 100_000))
	execA("SAVEPOINT s1")
	execA(fill("big", 10_000))
	execA("SAVEPOINT s2")
	execA(fill("big", 20_000))
	execA("ROLLBACK TO s1") // takes s2, which is part of it, along
	execA(fill("big", 30_000))
	execA("SAVEPOINT s3")
	execA(fill("big", 40_000))
	execA("RELEASE s3")
	execB("UPDATE other SET v = 'y' WHERE id < 10")
	// What is under way arrives before it commits, and does not stay in memory.
	for st.Spilled() == 0 {
		if cs, _ := r.drain(st); len(cs) > 0 {
			t.Fatal("a change of an open transaction was returned")
		}
	}
	r.exec("INSERT INTO big VALUES (-1, 'small, in between')")
	r.commit(b)
	if err := c.Rollback(r.ctx()); err != nil {
		t.Fatal(err)
	}
	r.commit(a)
	cs, schemas := r.drain(st)
	var xids []uint32
	count := map[uint32]int{}
	for i, c := range cs {
		if len(xids) == 0 || xids[len(xids)-1] != c.XID {
			xids = append(xids, c.XID)
		}
		count[c.XID]++
		if int(c.Pos.Ordinal) != count[c.XID] {
			t.Fatalf("change %d of transaction %d has ordinal %d", count[c.XID], c.XID, c.Pos.Ordinal)
		}
		if i > 0 && !cs[i-1].Pos.Before(c.Pos) {
			t.Fatalf("%s does not come after %s", c.Pos, cs[i-1].Pos)
		}
		if c.Last != (i == len(cs)-1 || cs[i+1].XID != c.XID) {
			t.Fatalf("change %d: last is %v", i, c.Last)
		}
	}
	if cs[0].Key.String() != `("-1")` {
		t.Errorf("the transaction in between came as %s", text(cs[0].Change))
	}
	cs, xids = cs[1:], xids[1:]
	if len(xids) != 2 || count[xids[0]] != rows+10 || count[xids[1]] != 3*rows {
		t.Errorf("transactions %v with %v changes", xids, count)
	}
	for _, c := range cs[rows+10:] {
		var id int
		if _, err := fmt.Sscan(string(c.New[0].Data), &id); err != nil {
			t.Fatal(err)
		}
		if id >= 10_000 && id < 30_000 || id >= 100_000 {
			t.Fatalf("row %d was rolled back", id)
		}
	}
	if len(schemas) != 2 {
		t.Errorf("%d schemas", len(schemas))
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("spill files left: %v %v", left, err)
	}
}

// A definition that changes inside a streamed transaction, and after it, is
// resolved in order.
func TestStreamedSchemaChange(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.smallDecodingMemory()
	r.exec("CREATE TABLE big (id int PRIMARY KEY, v text)")
	r.publish(table("big"))
	st := r.stream(StreamOptions{MemoryLimit: 16 << 10})
	tx, exec := r.begin()
	exec("INSERT INTO big SELECT g, repeat('x', 50) FROM generate_series(1, 3000) g")
	exec("SAVEPOINT s")
	exec("ALTER TABLE big ADD gone int")
	exec("INSERT INTO big SELECT g, repeat('x', 50), g FROM generate_series(3001, 6000) g")
	exec("ROLLBACK TO s")
	exec("ALTER TABLE big ADD extra numeric(5,1)")
	exec("INSERT INTO big SELECT g, repeat('x', 50), 1.5 FROM generate_series(6001, 9000) g")
	r.commit(tx)
	r.exec("ALTER TABLE big DROP extra; INSERT INTO big VALUES (10000, 'z')")
	cs, _ := r.drain(st)
	widths := map[int]int{}
	for _, c := range cs {
		if len(c.New) != len(c.schema.Columns) {
			t.Fatalf("%d values, %d columns", len(c.New), len(c.schema.Columns))
		}
		widths[len(c.New)]++
	}
	if widths[2] != 3001 || widths[3] != 3000 || len(widths) != 2 {
		t.Errorf("rows by number of columns: %v", widths)
	}
	if n := cs[4000].schema.Columns[2].Type.Name; n != "numeric(5,1)" {
		t.Errorf("type of a dropped column: %s", n)
	}
}

func TestTypesThatChangeUnderUs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE e (id int PRIMARY KEY, m mood)")
	r.publish(table("e"))
	st := r.stream(StreamOptions{})
	r.exec("INSERT INTO e VALUES (1, 'sad')")
	r.drain(st)
	r.exec("ALTER TYPE mood ADD VALUE 'happy'")
	r.exec("INSERT INTO e VALUES (2, 'happy')")
	cs, schemas := r.drain(st)
	if len(schemas) != 1 || strings.Join(schemas[0].Columns[1].Type.Labels, ",") != "sad,happy" || cs[0].Schema != schemas[0].Version() {
		t.Errorf("schemas %+v", schemas)
	}
	// A label that has another name by the time we look.
	r.exec("ALTER TYPE mood ADD VALUE 'angry'")
	r.exec("INSERT INTO e VALUES (3, 'angry')")
	r.exec("ALTER TYPE mood RENAME VALUE 'angry' TO 'furious'")
	_, schemas = r.drain(st)
	if len(schemas) != 1 || strings.Join(schemas[0].Columns[1].Type.Labels, ",") != "sad,happy,furious,angry" {
		t.Errorf("schemas %+v", schemas)
	}
	// A column whose type is gone.
	r.exec("ALTER TABLE e ADD o mood; UPDATE e SET o = 'sad' WHERE id = 1; ALTER TABLE e DROP o")
	r.exec("DROP TABLE e; DROP TYPE mood")
	cs, _ = r.drain(st)
	expect(t, cs, `u("1") 1,sad,sad.`)
}

func TestMessagesTraceAndOrigin(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE TABLE m (id int PRIMARY KEY)")
	r.publish(table("m"))
	st := r.stream(StreamOptions{})
	origin := "origin_" + r.slot
	r.exec("SELECT pg_replication_origin_create('" + origin + "'); SELECT pg_replication_origin_session_setup('" + origin + "')")
	r.exec(`BEGIN; SELECT pg_logical_emit_message(true, 'traceparent', '00-aa-bb-01'); INSERT INTO m VALUES (1);
		SELECT pg_logical_emit_message(false, 'other', 'x'); COMMIT`)
	r.exec("SELECT pg_replication_origin_session_reset(); SELECT pg_replication_origin_drop('" + origin + "')")
	r.exec("INSERT INTO m VALUES (2)")
	cs, _ := r.drain(st)
	if len(cs) != 2 || cs[0].Trace != "00-aa-bb-01" || cs[0].Origin != origin || cs[1].Trace != "" || cs[1].Origin != "" {
		t.Errorf("%+v", cs)
	}
}

// An idle slot moves forward by heartbeats, if they are confirmed.
func TestHeartbeatMovesTheSlot(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE TABLE h (id int PRIMARY KEY); CREATE TABLE outside (id int)")
	r.publish(table("h"))
	st := r.stream(StreamOptions{HeartbeatInterval: 50 * time.Millisecond})
	before, err := r.s.Slot(r.ctx(), r.slot)
	if err != nil {
		t.Fatal(err)
	}
	r.exec("INSERT INTO outside SELECT generate_series(1, 1000)")
	var end string
	r.scan(&end, "SELECT pg_current_wal_lsn()::text")
	until, err := change.ParseLSN(end)
	if err != nil {
		t.Fatal(err)
	}
	ctx := r.ctx()
	for {
		ev, err := st.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if ev.Change != nil || ev.Schema != nil {
			t.Fatalf("unexpected %+v", ev)
		}
		if err := st.Confirm(ctx, ev.Through); err != nil {
			t.Fatal(err)
		}
		if ev.Through > until && !ev.At.IsZero() {
			break
		}
	}
	for {
		after, err := r.s.Slot(r.ctx(), r.slot)
		if err != nil {
			t.Fatal(err)
		}
		if after.Confirmed > until && after.Confirmed > before.Confirmed {
			return
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			t.Fatalf("the slot stays at %s", after.Confirmed)
		}
	}
}

// What was not confirmed comes again, with the same positions.
func TestRestartResendsWithEqualPositions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.smallDecodingMemory()
	r.exec("CREATE TABLE t (id int PRIMARY KEY, v text)")
	r.publish(table("t"))
	st := r.stream(StreamOptions{})
	r.exec("INSERT INTO t VALUES (1, 'a'); UPDATE t SET id = 2")
	r.exec("INSERT INTO t SELECT g, repeat('x', 60) FROM generate_series(10, 3000) g")
	first, _ := r.drain(st)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	second, _ := r.drain(r.stream(StreamOptions{TakeOver: true}))
	if len(first) != len(second) {
		t.Fatalf("%d changes, then %d", len(first), len(second))
	}
	for i := range first {
		if first[i].Pos != second[i].Pos || text(first[i].Change) != text(second[i].Change) || first[i].Schema != second[i].Schema {
			t.Fatalf("%s %s, then %s %s", first[i].Pos, text(first[i].Change), second[i].Pos, text(second[i].Change))
		}
	}
}

// A transaction many times larger than the memory limit passes without the
// memory growing with it, before its commit and after.
func TestLargeTransactionNeedsLittleMemory(t *testing.T) {
	r := newRig(t) // alone: it measures the process
	r.smallDecodingMemory()
	r.exec("CREATE TABLE big (id int PRIMARY KEY, v text)")
	r.publish(table("big"))
	st := r.stream(StreamOptions{MemoryLimit: 4 << 20})
	const rows = 200_000
	r.exec(fmt.Sprintf("INSERT INTO big SELECT g, repeat(md5(g::text), 8) FROM generate_series(1, %d) g", rows))
	var peak uint64
	var m runtime.MemStats
	ctx := r.ctx()
	for n := 0; n < rows; {
		ev, err := st.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if ev.Change == nil {
			continue
		}
		if n++; n%20_000 == 1 {
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse)
		}
	}
	if peak > 48<<20 {
		t.Errorf("%d MiB in use for a transaction of %d MiB", peak>>20, rows*260>>20)
	}
	t.Logf("peak %d MiB", peak>>20)
}

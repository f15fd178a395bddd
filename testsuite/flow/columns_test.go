package flow

import (
	"strings"
	"testing"

	"syncline/dataplane/change"
)

// Columns are added while changes flow. Rows that no change touches afterwards
// have the column's default at the source without a record in the log.
func TestColumnsAddedWithDefaults(t *testing.T) {
	f := newFlow(t)
	f.exec(`CREATE TYPE mood AS ENUM ('sad', 'happy');
		CREATE TABLE t (id int PRIMARY KEY, a text);
		CREATE TABLE part (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
		CREATE TABLE part_a PARTITION OF part FOR VALUES FROM (0) TO (500);
		CREATE TABLE part_b PARTITION OF part FOR VALUES FROM (500) TO (10000);
		INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 1000) i; INSERT INTO part SELECT * FROM t`)
	f.load(4, change.TableID{Schema: "public", Name: "t"}, change.TableID{Schema: "public", Name: "part"})
	f.exec(`INSERT INTO t SELECT i, 'new' FROM generate_series(1001, 1500) i`)
	// Without waiting: partitions come to the new columns one after the other.
	f.exec(`ALTER TABLE t ADD n int DEFAULT 5, ADD s text NOT NULL DEFAULT 'it''s "x" \', ADD p numeric(10,2) DEFAULT 1.50,
			ADD at timestamptz DEFAULT now(), ADD m mood DEFAULT 'happy', ADD tags text[] NOT NULL DEFAULT '{a,b}', ADD j jsonb NOT NULL DEFAULT '{}', ADD none text;
		ALTER TABLE part ADD n int NOT NULL DEFAULT 5`)
	f.exec(`UPDATE t SET n = 6, s = 'set' WHERE id % 10 = 0; UPDATE t SET n = NULL WHERE id % 10 = 1; INSERT INTO t (id, a) VALUES (2000, 'x'); DELETE FROM t WHERE id % 10 = 2;
		UPDATE part SET n = n + 1 WHERE id % 3 = 0; UPDATE t SET id = id + 5000 WHERE id % 10 = 3`)
	f.equal()
	// The default at the source is another now, what older rows have is not.
	f.exec(`ALTER TABLE t ALTER n SET DEFAULT 7; ALTER TABLE t ADD n2 bigint DEFAULT -1; INSERT INTO t (id) VALUES (3000)`)
	f.equal()
}

// Older rows may have values that no record of the log brings. Then the table
// stops, and loaded again it is right; everything else flows on.
func TestColumnsAddedWithoutAConstant(t *testing.T) {
	f := newFlow(t)
	var ids []change.TableID
	names := []string{"random", "numbered", "compacted", "filled", "migrated", "part", "part_random"}
	for _, n := range names {
		ids = append(ids, change.TableID{Schema: "public", Name: n})
		if !strings.HasPrefix(n, "part") {
			f.exec(`CREATE TABLE ` + n + ` (id int PRIMARY KEY, a text); INSERT INTO ` + n + ` SELECT i, 'row ' || i FROM generate_series(1, 1000) i`)
			continue
		}
		f.exec(`CREATE TABLE ` + n + ` (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
			CREATE TABLE ` + n + `_a PARTITION OF ` + n + ` FOR VALUES FROM (0) TO (500); CREATE TABLE ` + n + `_b PARTITION OF ` + n + ` FOR VALUES FROM (500) TO (10000);
			INSERT INTO ` + n + ` SELECT i, 'row ' || i FROM generate_series(1, 1000) i`)
	}
	f.exec(`ALTER TABLE filled REPLICA IDENTITY FULL`)
	f.load(4, ids...)
	// None of these brings anything that the log does not have.
	f.exec(`ALTER TABLE filled ADD n int; ALTER TABLE filled ALTER n SET DEFAULT 7`)
	f.exec(`BEGIN; ALTER TABLE migrated ADD n int, ADD r float8; UPDATE migrated SET n = id * 2, r = random(); ALTER TABLE migrated ALTER n SET NOT NULL; ALTER TABLE migrated ALTER r SET DEFAULT random(); COMMIT`)
	f.exec(`ALTER TABLE part ADD n int; UPDATE part SET n = id WHERE id % 2 = 0; INSERT INTO filled (id) VALUES (2000); UPDATE filled SET n = id WHERE id < 100`)
	f.exec(`ALTER TABLE filled ALTER n TYPE int`)
	f.exec(`VACUUM FULL filled`)
	f.exec(`UPDATE filled SET n = 8 WHERE id < 10`)
	f.equal()

	f.exec(`ALTER TABLE random ADD r float8 DEFAULT random(); INSERT INTO random (id) VALUES (2000)`)
	f.exec(`ALTER TABLE numbered ADD n bigserial; UPDATE numbered SET a = 'x' WHERE id = 5`)
	f.exec(`ALTER TABLE compacted ADD n int DEFAULT 5`)
	f.exec(`VACUUM FULL compacted`)
	f.exec(`UPDATE compacted SET n = 6 WHERE id = 5`)
	f.exec(`ALTER TABLE part_random ADD r float8 DEFAULT random(); UPDATE part_random SET a = 'x' WHERE id = 5`)
	for i, n := range []string{"random", "numbered", "compacted", "part_random"} {
		id := change.TableID{Schema: "public", Name: n}
		for name, why := range f.gated(id) {
			if !strings.Contains(why, "SchemaGate") || !strings.Contains(why, "starter resync-table") || !strings.Contains(why, "not in the log") {
				t.Errorf("%s at %s: %s", n, name, why)
			}
		}
		f.resync(id, uint32(i+2))
	}
	f.exec(`UPDATE random SET r = 1 WHERE id = 7; UPDATE numbered SET n = 1 WHERE id = 7; UPDATE compacted SET n = 1 WHERE id = 7; DELETE FROM part_random WHERE id = 7; INSERT INTO part VALUES (3000, 'x', 1)`)
	f.equal()
}

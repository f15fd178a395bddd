package flow

import (
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

package postgres

import (
	"testing"
)

// The constant that older rows have in a column that was added is in the schema,
// until the server rewrites the table.
func TestMissingValuesOfAddedColumns(t *testing.T) {
	r := newRig(t)
	r.exec(`CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN short AS varchar(5);
		CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);
		CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
		CREATE TABLE part_a PARTITION OF part FOR VALUES FROM (0) TO (10);
		CREATE TABLE part_b PARTITION OF part FOR VALUES FROM (10) TO (20); INSERT INTO part VALUES (1), (11)`)
	r.publish(table("t"), table("part"))
	st := r.stream(StreamOptions{})
	r.exec(`ALTER TABLE t ADD i int DEFAULT 5, ADD nn text NOT NULL DEFAULT 'it''s "x", \', ADD empty text DEFAULT '', ADD none int,
		ADD n numeric(10,2) DEFAULT 1.5, ADD ts timestamptz DEFAULT '2026-03-01 14:00+02', ADD arr text[] DEFAULT '{a,NULL,"b c"}', ADD nested int[] DEFAULT '{{1,2},{3,4}}',
		ADD m mood DEFAULT 'happy', ADD s short DEFAULT 'abc', ADD j jsonb DEFAULT '{"a": [1]}', ADD b bytea DEFAULT '\x00ff', ADD bx box[] DEFAULT '{(1,1),(0,0)}',
		ADD stable timestamptz DEFAULT now();
		ALTER TABLE t ALTER i SET DEFAULT 6;
		ALTER TABLE part ADD c int DEFAULT 7;
		INSERT INTO t VALUES (2); INSERT INTO part VALUES (2)`)
	var now string
	r.scan(&now, "SELECT stable::text FROM t WHERE id = 1")
	want := map[string]string{"i": "5", "nn": `it's "x", \`, "empty": "", "n": "1.50", "ts": "2026-03-01 12:00:00+00", "arr": `{a,NULL,"b c"}`, "nested": "{{1,2},{3,4}}",
		"m": "happy", "s": "abc", "j": `{"a": [1]}`, "b": `\x00ff`, "bx": "{(1,1),(0,0)}", "c": "7", "stable": ""}
	cs, schemas := r.drain(st)
	if len(cs) != 2 || len(schemas) != 2 {
		t.Fatalf("%d changes, %d schemas", len(cs), len(schemas))
	}
	found := 0
	for _, s := range schemas {
		for _, c := range s.Columns {
			w, ok := want[c.Name]
			switch {
			case ok && c.Missing == nil:
				t.Errorf("column %s has no missing value", c.Name)
			case !ok && c.Missing != nil:
				t.Errorf("column %s: %q", c.Name, *c.Missing)
			case ok && c.Name != "stable" && *c.Missing != w:
				t.Errorf("column %s: %q, want %q", c.Name, *c.Missing, w)
			}
			if ok {
				found++
			}
		}
	}
	if found != len(want) {
		t.Errorf("%d of %d columns", found, len(want))
	}

	// A default that is not constant rewrites the table, and what rows have is in them alone.
	r.exec(`ALTER TABLE t ADD v float8 DEFAULT random(); INSERT INTO t VALUES (3)`)
	_, schemas = r.drain(st)
	if len(schemas) != 1 {
		t.Fatalf("%d schemas", len(schemas))
	}
	for _, c := range schemas[0].Columns {
		if c.Missing != nil {
			t.Errorf("column %s of a rewritten table: %q", c.Name, *c.Missing)
		}
	}
}

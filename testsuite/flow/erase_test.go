package flow

import (
	"context"
	"testing"

	"syncline/dataplane/change"
	"syncline/dataplane/transport/debezium"
	"syncline/dataplane/transport/kafka"
)

// What a key has in the log is found in both of its forms, and gone once the log has let
// its records go.
func TestTracesOfALog(t *testing.T) {
	f := newFlow(t)
	f.kafka.Debezium = &debezium.Options{Server: f.name + "-dbz"}
	id := change.TableID{Schema: "public", Name: "t"}
	f.exec(`CREATE TABLE t (id bigint, part text, a text, PRIMARY KEY (id, part)); INSERT INTO t SELECT i, 'x', 'old' FROM generate_series(1, 20) i`)
	schemas := f.prepare(1, published(id)...)
	f.add(1, schemas...)
	f.capture()
	f.exec(`UPDATE t SET a = 'new' WHERE id <= 10; DELETE FROM t WHERE id = 7; INSERT INTO t VALUES (7, 'y', 'other')`)
	keys, err := f.source.CanonicalKeys(f.ctx, schemas[0], [][]string{{"007", "x"}, {"15", "x"}})
	f.ok(err)
	if want, err := change.MakeKey(schemas[0], change.Row{change.TextValue("7"), change.TextValue("x"), change.TextValue("")}); err != nil || keys[0] != want {
		t.Fatalf("key %q, want %q, %v", keys[0], want, err)
	}
	if _, err := f.source.CanonicalKeys(f.ctx, schemas[0], [][]string{{"planted", "x"}}); err == nil || err.Error() != `KeyText: a key of table public.t has a value that is none of its column's type (fix: write it as the source shows it)` {
		t.Errorf("error %v", err)
	}
	log, err := kafka.OpenLog(f.ctx, f.kafka, kafka.LogOptions{})
	f.ok(err)
	defer log.Close()
	var found []kafka.LogTrace
	look := func(ctx context.Context) {
		found, err = log.Traces(ctx, schemas[0], 1, keys, func(int64) {})
		f.ok(err)
	}
	f.await("all is in the log", func(ctx context.Context) (bool, error) {
		look(ctx)
		return found[0].Records >= 12, nil
	})
	// An update and a deletion; in Debezium's form a tombstone as well.
	if len(found) != 2 || found[0].Found != 2 || found[1].Found != 3 || found[1].Records < 13 {
		t.Errorf("found %+v", found)
	}
	f.expire(id)
	f.await("they are gone", func(ctx context.Context) (bool, error) {
		look(ctx)
		return found[0].Found == 0, nil
	})
	if found[1].Found != 3 {
		t.Errorf("of the other topic %+v", found[1])
	}
}

// The records of a table without a key are told apart by their rows, of whatever definition.
func TestTracesOfRowsInALog(t *testing.T) {
	f := newFlow(t)
	f.kafka.Debezium = &debezium.Options{Server: f.name + "-dbz"}
	id := change.TableID{Schema: "public", Name: "m"}
	f.exec(`CREATE TABLE m (id bigint PRIMARY KEY, host text)`)
	table := published(id)
	table[0].AppendOnly = true
	schemas := f.prepare(1, table...)
	f.add(1, schemas...)
	f.capture()
	f.exec(`INSERT INTO m VALUES (1, 'a'), (2, 'b'), (3, NULL), (4, 'a')`)
	f.exec(`ALTER TABLE m ADD first int; ALTER TABLE m DROP COLUMN host; ALTER TABLE m ADD host text; INSERT INTO m VALUES (5, 1, 'a'), (6, 2, 'b')`)
	f.exec(`ALTER TABLE m DROP COLUMN host; INSERT INTO m VALUES (7, 1)`)
	at := *schemas[0]
	at.Key = []int{at.Column("host")}
	keys, err := f.source.CanonicalKeys(f.ctx, &at, [][]string{{"a"}, {"nobody"}})
	f.ok(err)
	log, err := kafka.OpenLog(f.ctx, f.kafka, kafka.LogOptions{})
	f.ok(err)
	defer log.Close()
	var found []kafka.LogTrace
	f.await("all is in the log", func(ctx context.Context) (bool, error) {
		found, err = log.TracesOfRows(ctx, &at, 1, keys, func(int64) {})
		return err == nil && found[0].Records >= 7, err
	})
	if len(found) != 2 || found[0].Found != 3 || found[1].Found < 7 || found[1].Found != found[1].Records {
		t.Errorf("found %+v", found)
	}
}

// Rows are counted by any columns, of those that a condition is true of.
func TestCountKeys(t *testing.T) {
	f := newFlow(t)
	id := change.TableID{Schema: "public", Name: "m"}
	f.exec(`CREATE TABLE m (id bigint PRIMARY KEY, host text, "c0" uuid); INSERT INTO m SELECT i, CASE WHEN i % 4 > 0 THEN 'h' || i % 4 END, '00000000-0000-0000-0000-000000000001' FROM generate_series(1, 40) i`)
	schemas := f.prepare(1, published(id)...)
	for _, c := range []struct {
		key   []int
		where string
		rows  [][]string
		want  int64
	}{
		{[]int{0}, "", [][]string{{"007"}, {"8"}, {"99"}}, 2},
		{[]int{1}, "", [][]string{{"h1"}, {"h2"}}, 20},
		{[]int{1}, "id <= 8 -- of the first", [][]string{{"h1"}}, 2},
		{[]int{2, 1}, "id <> 3", [][]string{{"00000000-0000-0000-0000-000000000001", "h3"}, {"00000000-0000-0000-0000-000000000002", "h1"}}, 9},
	} {
		s := *schemas[0]
		s.Key = c.key
		keys, err := f.source.CanonicalKeys(f.ctx, &s, c.rows)
		f.ok(err)
		if n, err := f.source.CountKeys(f.ctx, &s, c.where, keys); err != nil || n != c.want {
			t.Errorf("%v where %q: %d, %v", c.rows, c.where, n, err)
		}
	}
}

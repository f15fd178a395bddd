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

package debezium

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	kgo "github.com/segmentio/kafka-go"

	"syncline/dataplane/capture"
	"syncline/dataplane/change"
	"syncline/dataplane/source/postgres"
	"syncline/dataplane/transport/debezium"
	"syncline/dataplane/transport/kafka"
	"syncline/testsuite/stack"
)

const ddl = `
CREATE SCHEMA shop;
CREATE TYPE shop.mood AS ENUM ('sad', 'happy');
CREATE DOMAIN shop.positive AS int CHECK (VALUE > 0);
CREATE TABLE shop."Orders" (
  region text, id int8, code numeric(6,2), small int2, n int4 NOT NULL, price numeric(10,2), free numeric, r4 float4, r8 float8,
  ok bool, raw bytea, day date, t time, t3 time(3), ttz timetz, ts timestamp, ts3 timestamp(3), tsz timestamptz, span interval,
  uid uuid, doc jsonb, tags text[], nums int[], flag bit(1), bits bit(12), mood shop.mood, qty shop.positive, during int4range,
  addr inet, big text, gen int GENERATED ALWAYS AS (n * 2) STORED,
  PRIMARY KEY (id, region, code));
ALTER TABLE shop."Orders" ALTER big SET STORAGE EXTERNAL`

const insert = `INSERT INTO shop."Orders" VALUES ('eu', 42, 1.50, -3, 7, 1234.50, 0.001, 0.5, 0.1, true, '\x00ff', '2026-03-01',
  '12:00:00.25', '12:00:00.251', '12:00:00.5+05:30', '2026-03-01 12:00:00.25', '1969-12-31 23:59:59.999', '2026-03-01 12:00:00.25+00',
  '1 day', 'b3c1d1de-0000-4000-8000-000000000001', '{"a": "ü"}', '{a,NULL,"b c"}', '{1,NULL,3}', '1', '101000000001', 'happy', 5, '[1,5)',
  '10.0.0.1/8', repeat('0123456789', 1000))`

// record is one record as a consumer parses it.
type record struct {
	key, value map[string]any // nil: null
	headers    map[string]map[string]any
	raw        kgo.Message
}

func (r record) payload() map[string]any { return r.value["payload"].(map[string]any) }

func TestTopicsOfALiveCapture(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dsn := stack.Database(t, stack.Postgres(t))
	name := stack.Name(t)
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
	}
	exec(ddl)
	table := change.TableID{Schema: "shop", Name: "Orders"}
	end := start(ctx, t, dsn, name, table)

	began := time.Now()
	exec(insert)
	exec(`UPDATE shop."Orders" SET price = -0.01, tags = NULL`)
	exec(`UPDATE shop."Orders" SET id = 43, code = 2.50`)
	exec(`DELETE FROM shop."Orders"`)
	exec(`BEGIN; ` + insert + `; TRUNCATE shop."Orders"; COMMIT`)
	exec(`INSERT INTO shop."Orders" (region, id, code, n, price) VALUES ('eu', 1, 1, 1, 'NaN')`)
	end(conn)

	topic := "test." + name + "-debezium.shop.Orders"
	got := read(ctx, t, topic, 10)
	prefix := strings.TrimPrefix(strings.TrimSuffix(topic, ".shop.Orders"), "test.")
	ops := ""
	for i, r := range got {
		switch {
		case r.value == nil:
			ops += " tombstone"
			if r.key == nil || !reflect.DeepEqual(r.key, got[i-1].key) {
				t.Errorf("record %d: a tombstone for %v after the deletion of %v", i, r.key, got[i-1].key)
			}
			continue
		case r.key != nil:
			conforms(t, fmt.Sprintf("record %d key", i), r.key["schema"].(map[string]any), r.key["payload"])
		}
		schema := r.value["schema"].(map[string]any)
		conforms(t, fmt.Sprintf("record %d value", i), schema, r.value["payload"])
		if n := schema["name"]; n != prefix+".shop.Orders.Envelope" {
			t.Errorf("record %d: schema %v", i, n)
		}
		ops += " " + r.payload()["op"].(string)
		src := r.payload()["source"].(map[string]any)
		if src["connector"] != "postgresql" || src["name"] != prefix || src["schema"] != "shop" || src["table"] != "Orders" || src["snapshot"] != "false" {
			t.Errorf("record %d: source %v", i, src)
		}
		at, _ := src["ts_ms"].(json.Number).Int64()
		if d := time.UnixMilli(at).Sub(began); d < -time.Minute || d > time.Minute {
			t.Errorf("record %d: committed %v after the test began", i, d)
		}
	}
	if want := " c u d tombstone c d tombstone c t c"; ops != want {
		t.Fatalf("records%s, want%s", ops, want)
	}

	key := func(r record) string { return compact(t, r.key["payload"]) }
	first, moved := `{"code":"AJY=","id":42,"region":"eu"}`, `{"code":"APo=","id":43,"region":"eu"}`
	for i, want := range []string{first, first, first, first, moved, moved, moved, first} {
		if k := key(got[i]); k != want {
			t.Errorf("record %d: key %s, want %s", i, k, want)
		}
	}
	if got[8].key != nil {
		t.Errorf("a truncation with key %v", got[8].key)
	}
	for i, r := range got {
		switch {
		case i == 2 && len(r.headers) == 1 && compact(t, r.headers["__debezium.newkey"]["payload"]) == moved:
		case i == 4 && len(r.headers) == 1 && compact(t, r.headers["__debezium.oldkey"]["payload"]) == first:
		case i != 2 && i != 4 && len(r.headers) == 0:
		default:
			t.Errorf("record %d: headers %v", i, r.headers)
		}
	}

	image := func(i int, which string) map[string]any {
		m, _ := got[i].payload()[which].(map[string]any)
		return m
	}
	wantRow := map[string]any{}
	if err := json.Unmarshal([]byte(`{"region": "eu", "id": 42, "code": "AJY=", "small": -3, "n": 7, "price": "AeI6", "free": {"scale": 3, "value": "AQ=="},
		"r4": 0.5, "r8": 0.1, "ok": true, "raw": "AP8=", "day": 20513, "t": 43200250000, "t3": 43200251, "ttz": "06:30:00.500000Z", "ts": 1772366400250000,
		"ts3": -1, "tsz": "2026-03-01T12:00:00.250000Z", "span": 86400000000, "uid": "b3c1d1de-0000-4000-8000-000000000001", "doc": "{\"a\": \"ü\"}",
		"tags": ["a", null, "b c"], "nums": [1, null, 3], "flag": true, "bits": "AQo=", "mood": "happy", "qty": 5, "during": "[1,5)", "addr": "10.0.0.1/8",
		"big": "`+strings.Repeat("0123456789", 1000)+`"}`), &wantRow); err != nil {
		t.Fatal(err)
	}
	sameRow(t, "insert", image(0, "after"), wantRow)
	wantRow["price"], wantRow["tags"], wantRow["big"] = "/w==", nil, "__debezium_unavailable_value"
	sameRow(t, "update", image(1, "after"), wantRow)
	wantRow["id"], wantRow["code"], wantRow["big"] = 43.0, "APo=", strings.Repeat("0123456789", 1000)
	if b := image(4, "after")["big"]; b != wantRow["big"] { // a consumer has no row at the new key to keep it from; it is NULL if the row had gone meanwhile
		wantRow["big"] = nil
	}
	sameRow(t, "key change", image(4, "after"), wantRow)
	for i, which := range map[int]string{0: "before", 1: "before", 2: "after", 4: "before", 5: "after", 8: "after"} {
		if m := image(i, which); m != nil {
			t.Errorf("record %d: %s %v", i, which, m)
		}
	}
	before := image(2, "before")
	if compact(t, map[string]any{"code": before["code"], "id": before["id"], "region": before["region"]}) != first || before["price"] != nil || compact(t, before["n"]) != "0" {
		t.Errorf("old image of the deletion: %v", before)
	}
	if last := image(9, "after"); last["price"] != nil || last["mood"] != nil {
		t.Errorf("NaN and NULL: %v", last)
	}
}

// start captures the table into Kafka. The function it returns waits until what
// is committed by then is in the log, and ends the capture.
func start(ctx context.Context, t *testing.T, dsn, name string, table change.TableID) func(*pgx.Conn) {
	t.Helper()
	src, err := postgres.NewServer(postgres.ServerOptions{DSN: dsn, Pipeline: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	if err := src.EnsurePublication(ctx, name, []postgres.PublishedTable{{ID: table}}); err != nil {
		t.Fatal(err)
	}
	slot, err := src.CreateSlot(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	o := kafka.Options{Brokers: stack.Kafka(t), Prefix: "test.", Pipeline: name, Debezium: &debezium.Options{Database: "shop", WithSchema: true, Truncate: true}}
	a, err := kafka.OpenAdmin(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.DeleteTopics(context.Background()); err != nil {
			t.Error(err)
		}
		_ = a.Close()
	})
	if err := a.EnsureTopics(ctx, kafka.TopicOptions{Partitions: 1}, []change.TableID{table}, nil); err != nil {
		t.Fatal(err)
	}
	w, err := kafka.OpenWriter(ctx, o, kafka.WriterOptions{Compression: kafka.CompressZstd})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	stream, err := src.NewStream(postgres.StreamOptions{Slot: name, Publication: name, Epoch: 1, SpillDir: t.TempDir(), HeartbeatInterval: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stream.Close() })
	status := make(chan change.LSN, 1)
	obs := capture.Observer{Status: func(s capture.Status) {
		select {
		case <-status:
		default:
		}
		status <- s.Acked
	}}
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- capture.Run(run, stream, w, capture.Options{Epoch: 1, CreatedAt: slot.Confirmed, StatusInterval: 50 * time.Millisecond}, obs)
	}()
	return func(conn *pgx.Conn) {
		t.Helper()
		defer stop()
		var text string
		if err := conn.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&text); err != nil {
			t.Fatal(err)
		}
		until, err := change.ParseLSN(text)
		if err != nil {
			t.Fatal(err)
		}
		for {
			select {
			case at := <-status:
				if at < until {
					continue
				}
				stop()
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				return
			case err := <-done:
				t.Fatalf("capture ended: %v", err)
			case <-ctx.Done():
				t.Fatal("capture did not catch up")
			}
		}
	}
}

// read returns the records of a topic of one partition, and fails if there are
// not exactly n.
func read(ctx context.Context, t *testing.T, topic string, n int) []record {
	t.Helper()
	leader, err := kgo.DialLeader(ctx, "tcp", stack.Kafka(t)[0], topic, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, end, err := leader.ReadOffsets()
	_ = leader.Close()
	if err != nil {
		t.Fatal(err)
	}
	r := kgo.NewReader(kgo.ReaderConfig{Brokers: stack.Kafka(t), Topic: topic, MaxWait: 100 * time.Millisecond})
	defer func() { _ = r.Close() }()
	var out []record
	for {
		m, err := r.ReadMessage(ctx)
		if err != nil {
			t.Fatalf("after %d records: %v", len(out), err)
		}
		rec := record{raw: m, key: parse(t, m.Key), value: parse(t, m.Value), headers: map[string]map[string]any{}}
		for _, h := range m.Headers {
			rec.headers[h.Key] = parse(t, h.Value)
		}
		out = append(out, rec)
		if m.Offset+1 >= end {
			break
		}
	}
	if len(out) != n {
		t.Fatalf("%d records, want %d", len(out), n)
	}
	return out
}

func parse(t *testing.T, b []byte) map[string]any {
	t.Helper()
	if b == nil {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		t.Fatalf("not JSON: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		t.Fatal("more than one JSON value")
	}
	return m
}

func compact(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v) // members in order of their names
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func sameRow(t *testing.T, what string, got, want map[string]any) {
	t.Helper()
	for name, w := range want {
		g, ok := got[name]
		if a, b := compact(t, g), compact(t, w); !ok || a != b {
			t.Errorf("%s: column %s is %.80s, want %.80s", what, name, a, b)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: column %s was not expected", what, name)
		}
	}
}

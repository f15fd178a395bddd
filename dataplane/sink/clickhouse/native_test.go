package clickhouse

import (
	"os"
	"testing"

	ch "github.com/ClickHouse/clickhouse-go/v2"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink/sinktest"
)

// TestNativeProtocol inserts over the native protocol. The server may be as old
// as 18.16 (Debian's), which lacks types that whole tables need: this is a check
// of the protocol, not of the sink.
func TestNativeProtocol(t *testing.T) {
	dsn := os.Getenv("SYNCLINE_CLICKHOUSE_NATIVE")
	if dsn == "" {
		t.Skip("SYNCLINE_CLICKHOUSE_NATIVE (clickhouse://host:port) is not set")
	}
	o := Options{}
	if err := o.setDefaults(); err != nil {
		t.Fatal(err)
	}
	co, err := ch.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := ch.Open(co) // without our settings, of which an old server knows few
	if err != nil {
		t.Fatal(err)
	}
	c := &conn{pool: pool, timeout: o.Timeout}
	defer func() { _ = c.close() }()
	ctx := t.Context()
	at := target{"default", "native_test"}
	drop := func() {
		if _, err := c.exec(ctx, "drop", "DROP TABLE IF EXISTS "+at.String()); err != nil {
			t.Fatal(err)
		}
	}
	drop()
	defer drop()
	if _, err := c.exec(ctx, "create", "CREATE TABLE "+at.String()+" (id Int64, s Nullable(String), d Nullable(Decimal(20, 4)), a Array(Nullable(Int32)), u UUID) ENGINE = MergeTree ORDER BY id"); err != nil {
		t.Fatal(err)
	}
	null := map[string]bool{"s": true, "d": true}
	var parts []part
	for _, x := range []struct {
		name   string
		typ    change.Type
		values []string
	}{
		{"id", sinktest.Int8, []string{"1", "2", "3"}},
		{"s", sinktest.TextT, []string{"a", "", "ü"}},
		{"d", money, []string{"1.5000", "-12345678901234.5678", "NaN"}},
		{"a", arrayOf(sinktest.Int4), []string{"{1,NULL,3}", "{}", "{-7}"}},
		{"u", sinktest.Builtin("uuid", "uuid", 2950, -1), []string{"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"}},
	} {
		m := mapType(&x.typ, &o)
		e := m.encoder(null[x.name])
		for _, v := range x.values {
			if _, err := e.text([]byte(v)); err != nil {
				t.Fatal(err)
			}
		}
		parts = append(parts, part{x.name, m.wireName(null[x.name]), e})
	}
	sent, buf, err := c.insert(ctx, at, 3, parts, nil)
	if err != nil || sent == 0 {
		t.Fatal(sent, err)
	}
	var got []string
	err = c.query(ctx, "select", "SELECT concat(toString(id), '|', assumeNotNull(s), '|', ifNull(toString(d), 'NULL'), '|', toString(length(a)), '|', toString(u)) FROM "+at.String()+" ORDER BY id",
		func(scan func(...any) error) error {
			var v string
			err := scan(&v)
			got = append(got, v)
			return err
		})
	if err != nil {
		t.Fatal(err)
	}
	want(t, got, "1|a|1.5000|3|a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "2||-12345678901234.5678|0|00000000-0000-0000-0000-000000000000", "3|ü|NULL|1|ffffffff-ffff-ffff-ffff-ffffffffffff")
	parts[0].typ = "Int32"
	if _, _, err := c.insert(ctx, at, 3, parts, buf); !fault.Is(err, CodeConfig) {
		t.Fatalf("a type that differs: %v", err)
	}
	if _, _, err := c.insert(ctx, target{"default", "nothing"}, 3, parts, buf); !fault.Is(err, CodeTableMissing) {
		t.Fatalf("a missing table: %v", err)
	}
}

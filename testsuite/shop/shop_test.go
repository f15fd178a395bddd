package shop

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/testsuite/stack"
)

func TestSeedAndLoad(t *testing.T) {
	dsn := stack.Database(t, stack.Postgres(t))
	const scale = 0.01
	sizes, err := Seed(t.Context(), dsn, scale)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	digest := func() (s string) {
		for _, tb := range Tables {
			var d string
			q := `SELECT md5(string_agg(x::text, '' ORDER BY x::text)) FROM shop.` + pgx.Identifier{tb}.Sanitize() + ` x`
			if err := conn.QueryRow(t.Context(), q).Scan(&d); err != nil {
				t.Fatal(err)
			}
			s += d
		}
		return s
	}
	first := digest()
	if _, err := Seed(t.Context(), dsn, scale); err != nil { // in place of the first
		t.Fatal(err)
	}
	if digest() != first {
		t.Error("two seeds differ")
	}
	var items int64
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM shop.order_items").Scan(&items); err != nil || items != sizes.Items {
		t.Fatalf("%d items, want %d: %v", items, sizes.Items, err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	counts, err := Load(ctx, dsn, LoadOptions{Rate: 500, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	if c := counts; c.Inserts == 0 || c.Updates == 0 || c.Deletes == 0 || c.KeyUpdates == 0 || c.Changes() < 1000 || c.Changes() > 3500 {
		t.Errorf("%+v", counts)
	}
	var total string
	if err := conn.QueryRow(t.Context(), "SELECT sum(balance)::text FROM shop.accounts").Scan(&total); err != nil || total != sizes.Total() {
		t.Errorf("accounts hold %s, want %s: %v", total, sizes.Total(), err)
	}
	t.Logf("%+v", counts)
}

func BenchmarkSeed(b *testing.B) {
	dsn := stack.Database(b, stack.Postgres(b))
	for b.Loop() {
		if _, err := Seed(b.Context(), dsn, 1); err != nil {
			b.Fatal(err)
		}
	}
}

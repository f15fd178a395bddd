package shop

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/jackc/pgx/v5"
)

//go:embed schema.sql
var schemaSQL string

//go:embed keys.sql
var keysSQL string

// Tables are the shop's tables, by size.
var Tables = []string{"order_items", "orders", "payments", "events", "customers", "addresses", "transfers", "inventory", "accounts", "Products"}

// Sizes are the numbers of rows at a scale. Scale 1 has a million order items.
type Sizes struct {
	Customers, Addresses, Products, Inventory, Orders, Items, Payments, Accounts, Transfers, Events int64
}

// SizesOf returns the sizes at a scale above 0; every table has some rows.
func SizesOf(scale float64) Sizes {
	n := func(at1, least int64) int64 { return max(least, int64(float64(at1)*scale)) }
	s := Sizes{Customers: n(60_000, 50), Products: n(4_000, 20), Orders: n(250_000, 100), Payments: n(120_000, 60), Accounts: n(5_000, 20), Transfers: n(20_000, 10), Events: n(100_000, 50)}
	s.Addresses = s.Customers
	s.Inventory = 3 * s.Products
	s.Items = 4 * s.Orders
	return s
}

// OpeningBalance is what every account is seeded with.
const OpeningBalance = 1000

// Total returns what all accounts hold together, always.
func (s Sizes) Total() string { return fmt.Sprintf("%d.00", s.Accounts*OpeningBalance) }

// fills are the statements of the seed, with the place of their number of rows.
// Nothing in them depends on a clock or on chance.
var fills = []struct {
	rows func(Sizes) int64
	sql  string
}{
	{func(s Sizes) int64 { return s.Customers }, `INSERT INTO shop.customers
		SELECT i, 'Customer' || i || '@Example.org', 'Customer ' || substr(md5(i::text), 1, 6),
			CASE WHEN i % 3 > 0 THEN '+49 30 ' || i % 900000 END,
			(ARRAY['glad','neutral','cross']::shop.mood[])[1 + i % 4], i % 17 = 0,
			CASE i % 5 WHEN 0 THEN NULL WHEN 1 THEN '{}' WHEN 2 THEN ARRAY['new', NULL, 'a "quoted", one'] ELSE ARRAY['regular'] END,
			CASE WHEN i % 2 = 0 THEN hstore(ARRAY['locale', 'size'], ARRAY[CASE WHEN i % 4 = 0 THEN 'de' END, (i % 7)::text]) END,
			('10.' || i % 256 || '.' || (i / 256) % 256 || '.1')::inet, date '1950-01-01' + (i * 37 % 20000)::int,
			(i % 500) / 100.0::real, (i * 7919 % 100000) / 100.0, timestamptz '2024-01-01 00:00:00Z' + i * interval '1 minute 0.123456 second', 1
		FROM generate_series(1, $1::bigint) i`},
	{func(s Sizes) int64 { return s.Addresses }, `INSERT INTO shop.addresses
		SELECT i, CASE WHEN i % 2 = 0 THEN 'home' ELSE 'work' END, ARRAY['Street ' || i % 1000, CASE WHEN i % 7 = 0 THEN 'c/o Ä. Ö. Ü.' ELSE '' END],
			lpad((i % 100000)::text, 5, '0'), CASE WHEN i % 11 > 0 THEN 'City ' || i % 300 END, point(i % 180, (i % 90) + 0.5),
			daterange(date '2020-01-01' + (i % 1000)::int, CASE WHEN i % 3 = 0 THEN date '2025-01-01' END), 1
		FROM generate_series(1, $1::bigint) i`},
	{func(s Sizes) int64 { return s.Products }, `INSERT INTO shop."Products" (sku, name, price, weight, dimensions, "On Sale", warranty, specs, picture, description)
		SELECT 'SKU-' || lpad(i::text, 6, '0'), 'Product ' || i, (i * 31 % 100000) / 100.0, CASE WHEN i % 9 = 0 THEN 'NaN' ELSE i / 7.0 END,
			ROW(i % 50, i % 60, i % 70)::shop.size, i % 6 = 0, (i % 36) * interval '1 month' + (i % 5) * interval '1 day 03:00:00.5',
			jsonb_build_object('colour', (ARRAY['red','green','blue'])[1 + i % 3], 'parts', i % 9, 'list', jsonb_build_array(i, NULL, 'x')),
			CASE WHEN i % 4 = 0 THEN decode(md5(i::text) || md5((i + 1)::text), 'hex') END,
			(SELECT string_agg(md5(i || '/' || n), ' ') FROM generate_series(1, 20 + (i % 5) * 40) n)
		FROM generate_series(1, $1::bigint) i`},
	{func(s Sizes) int64 { return s.Products }, `INSERT INTO shop.inventory
		SELECT 'SKU-' || lpad(i::text, 6, '0'), w, 1000 + (i * w) % 500, time '08:00' + (i % 36000) * interval '1 second', (i % 64)::int::bit(6), 1
		FROM generate_series(1, $1::bigint) i, generate_series(1, 3) w`},
	{func(s Sizes) int64 { return s.Orders }, `INSERT INTO shop.orders
		SELECT i, 1 + (i * 7919) % (SELECT count(*) FROM shop.customers), (ARRAY['new','paid','sent','returned']::shop.order_status[])[1 + i % 4],
			timestamptz '2024-01-01 00:00:00Z' + i * interval '31.000001 second', CASE WHEN i % 2 = 0 THEN timestamp '2024-02-01 12:00' + i * interval '1 minute' END,
			(i * 131 % 1000000) / 100.0, CASE WHEN i % 10 = 0 THEN 1 / (1 + i % 9)::numeric END, CASE i % 8 WHEN 0 THEN '' WHEN 1 THEN 'Please ring twice' || E'\n\t\\ "now"' END, 1
		FROM generate_series(1, $1::bigint) i`},
	{func(s Sizes) int64 { return s.Orders }, `INSERT INTO shop.order_items
		SELECT i, l, 'SKU-' || lpad((1 + (i * 13 + l * 7) % (SELECT count(*) FROM shop."Products"))::text, 6, '0'), 1 + (i + l) % 5, ((i * l) % 10000) / 100.0, 1
		FROM generate_series(1, $1::bigint) i, generate_series(1, 4) l`},
	{func(s Sizes) int64 { return s.Payments }, `INSERT INTO shop.payments
		SELECT md5('payment' || i)::uuid, 1 + i % (SELECT count(*) FROM shop.orders), (i * 131 % 1000000) / 100.0, (ARRAY['card','cash','invoice'])[1 + i % 3],
			CASE WHEN i % 3 = 0 THEN ('08:00:2b:01:02:' || lpad(to_hex(i % 256), 2, '0'))::macaddr END,
			CASE WHEN i % 20 > 0 THEN timestamptz '2024-01-01 00:00:00Z' + i * interval '47 second' ELSE 'infinity' END,
			CASE WHEN i % 2 = 0 THEN ('{"no": ' || i || ',  "ok":true}')::json END, 1
		FROM generate_series(1, $1::bigint) i`},
	{func(s Sizes) int64 { return s.Accounts }, `INSERT INTO shop.accounts SELECT i, 'Owner ' || i, 1000, 1 FROM generate_series(1, $1::bigint) i`},
	{func(s Sizes) int64 { return s.Transfers }, `INSERT INTO shop.transfers
		SELECT i, 1 + i % (SELECT count(*) FROM shop.accounts), 1 + (i + 1) % (SELECT count(*) FROM shop.accounts), 0, timestamptz '2024-01-01 00:00:00Z' + i * interval '1 second'
		FROM generate_series(1, $1::bigint) i`},
	{func(s Sizes) int64 { return s.Events }, `INSERT INTO shop.events
		SELECT i, date '2024-01-01' + (i % 270)::int, (ARRAY['view','search','login'])[1 + i % 3], jsonb_build_object('n', i, 'agent', md5((i % 100)::text)),
			(i % 3600) * interval '1 second', tstzrange(timestamptz '2024-01-01 00:00:00Z' + i * interval '1 second', NULL), ARRAY[i % 10, NULL, -(i % 3)]
		FROM generate_series(1, $1::bigint) i`},
}

// Seed makes the shop in the database, in place of one that is there.
func Seed(ctx context.Context, dsn string, scale float64) (Sizes, error) {
	sizes := SizesOf(scale)
	if scale <= 0 {
		return sizes, fmt.Errorf("scale %v: want a number above 0", scale)
	}
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return sizes, fmt.Errorf("connect to the shop: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	// One transaction for data and schema, so that a seed is there in full or not at
	// all; keys come last, since checking them row by row takes longer than the rows.
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = off; SET LOCAL client_min_messages = warning; SET LOCAL timezone = 'UTC'; SET LOCAL maintenance_work_mem = '256MB'"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DROP SCHEMA IF EXISTS shop CASCADE; DROP SCHEMA IF EXISTS shop_parts CASCADE"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, schemaSQL); err != nil {
			return fmt.Errorf("create tables: %w", err)
		}
		for i, f := range fills {
			if _, err := tx.Exec(ctx, f.sql, f.rows(sizes)); err != nil {
				return fmt.Errorf("fill %d: %w", i, err)
			}
		}
		if _, err := tx.Exec(ctx, keysSQL); err != nil {
			return fmt.Errorf("add keys: %w", err)
		}
		for _, s := range []struct{ table, column string }{{"customers", "id"}, {"orders", "id"}, {"transfers", "id"}, {"events", "id"}} {
			q := fmt.Sprintf("SELECT setval(pg_get_serial_sequence('shop.%s', '%s'), (SELECT max(%s) FROM shop.%s))", s.table, s.column, s.column, s.table)
			if _, err := tx.Exec(ctx, q); err != nil {
				return fmt.Errorf("set sequence of %s: %w", s.table, err)
			}
		}
		return nil
	})
	if err != nil {
		return sizes, fmt.Errorf("seed the shop: %w", err)
	}
	if _, err := conn.Exec(ctx, "ANALYZE"); err != nil {
		return sizes, fmt.Errorf("analyze the shop: %w", err)
	}
	return sizes, nil
}

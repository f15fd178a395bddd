package shop

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"
)

// shopper makes up transactions.
type shopper struct {
	r                                     *rand.Rand
	customers, orders, products, accounts int64
	fresh                                 int64 // next id of an order that this session makes
}

// survey looks at how large the shop is.
func (s *shopper) survey(ctx context.Context, conn *pgx.Conn) error {
	err := conn.QueryRow(ctx, `SELECT (SELECT max(id) FROM shop.customers), (SELECT max(id) FROM shop.orders),
		(SELECT count(*) FROM shop."Products"), (SELECT max(id) FROM shop.accounts)`).Scan(&s.customers, &s.orders, &s.products, &s.accounts)
	if err != nil {
		return err
	}
	if s.accounts < 2 || s.products == 0 {
		return fmt.Errorf("the shop is empty: seed it first")
	}
	return nil
}

func (s *shopper) sku() string { return fmt.Sprintf("SKU-%06d", 1+s.r.Int64N(s.products)) }

// next makes up one transaction.
func (s *shopper) next() *work {
	w := &work{}
	switch p := s.r.IntN(100); {
	case p < 22:
		s.order(w)
	case p < 47:
		s.transfer(w)
	case p < 60:
		w.add(upd, 1, `UPDATE shop.customers SET rating = $2, mood = (ARRAY['glad','neutral','cross',NULL]::shop.mood[])[$3], tags = array_append(tags[1:5], $4), version = version + 1 WHERE id = $1`,
			1+s.r.Int64N(s.customers), s.r.Float32()*5, 1+s.r.IntN(4), fmt.Sprint("tag", s.r.IntN(100)))
	case p < 70: // leaves the long text alone
		w.add(upd, 1, `UPDATE shop."Products" SET price = $2, "On Sale" = NOT "On Sale", specs = specs || jsonb_build_object('seen', $3::int), version = version + 1 WHERE sku = $1`,
			s.sku(), float64(s.r.IntN(100000))/100, s.r.IntN(1000))
	case p < 73:
		w.add(upd, 1, `UPDATE shop."Products" SET description = CASE $2 % 10 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE (SELECT string_agg(md5($2 || '/' || n), ' ') FROM generate_series(1, 20 + $2 % 150) n) END, version = version + 1 WHERE sku = $1`,
			s.sku(), s.r.IntN(1_000_000))
	case p < 80:
		s.address(w)
	case p < 86: // one that was made before, with all that hangs on it
		id := 1 + s.r.Int64N(s.orders+s.fresh)
		w.add(del, 1, `DELETE FROM shop.payments WHERE order_id = $1`, id)
		w.add(del, 4, `DELETE FROM shop.order_items WHERE order_id = $1`, id)
		w.add(del, 1, `DELETE FROM shop.orders WHERE id = $1`, id)
	case p < 92:
		w.add(upd, 1, `UPDATE shop.orders SET status = (ARRAY['new','paid','sent','returned']::shop.order_status[])[$2], discount = CASE WHEN $2 = 4 THEN NULL ELSE $3::numeric / 7 END, note = CASE $2 WHEN 1 THEN NULL WHEN 2 THEN '' ELSE note END, version = version + 1 WHERE id = $1`,
			1+s.r.Int64N(s.orders), 1+s.r.IntN(4), s.r.IntN(1000))
		w.add(upd, 1, `UPDATE shop.order_items SET quantity = quantity + 1, version = version + 1 WHERE order_id = $1 AND line = 1`, 1+s.r.Int64N(s.orders))
	case p < 98:
		w.add(ins, 1, `INSERT INTO shop.events (day, kind, body, took, during, numbers) VALUES (date '2024-01-01' + $1::int, 'load', jsonb_build_object('n', $2::int), $2 * interval '1 millisecond', tstzrange(now(), NULL), ARRAY[$2, NULL])`,
			s.r.IntN(270), s.r.IntN(1_000_000))
		if s.r.IntN(4) == 0 { // from one partition to another: a deletion and an insertion
			w.add(keyUpd, 2, `UPDATE shop.events SET day = date '2024-01-01' + $2::int WHERE id = $1`, 1+s.r.Int64N(100), s.r.IntN(270))
		}
	default: // renames a product, which renames it in the inventory
		sku := s.sku()
		w.add(keyUpd, 2, `UPDATE shop."Products" SET sku = CASE WHEN sku LIKE '%-x' THEN left(sku, -2) ELSE sku || '-x' END, version = version + 1 WHERE sku IN ($1, $1 || '-x')`, sku)
	}
	return w
}

func (s *shopper) order(w *work) {
	items := 1 + s.r.IntN(5)
	s.fresh++
	w.add(ins, 1, `INSERT INTO shop.orders (customer_id, status, placed_at, deliver_by, total, discount, note) VALUES ($1, 'new', clock_timestamp(), 'infinity', $2, $3, $4)`,
		1+s.r.Int64N(s.customers), float64(s.r.IntN(1_000_000))/100, nullable(s.r, s.r.Float64()), nullable(s.r, fmt.Sprint("note ", s.r.IntN(1000))))
	w.add(ins, items, `INSERT INTO shop.order_items SELECT currval('shop.orders_id_seq'), l, $2, 1 + l, l * 1.25, 1 FROM generate_series(1, $1::int) l`, items, s.sku())
	w.add(ins, 1, `INSERT INTO shop.payments VALUES (gen_random_uuid(), currval('shop.orders_id_seq'), $1, 'card', NULL, clock_timestamp(), '{"by" : "load"}', 1)`, float64(s.r.IntN(1_000_000))/100)
	w.add(upd, 1, `UPDATE shop.inventory SET quantity = quantity - 1, counted = localtime, version = version + 1 WHERE sku = $1 AND warehouse = $2`, s.sku(), 1+s.r.IntN(3))
}

// transfer moves money, and keeps the total. Accounts are locked in their order.
func (s *shopper) transfer(w *work) {
	a, b := 1+s.r.Int64N(s.accounts), 1+s.r.Int64N(s.accounts-1)
	if b >= a {
		b++
	}
	cents := int64(1 + s.r.IntN(5000))
	move := func(id, by int64) {
		w.add(upd, 1, `UPDATE shop.accounts SET balance = balance + $2::numeric / 100, version = version + 1 WHERE id = $1`, id, by)
	}
	if a < b {
		move(a, -cents)
		move(b, cents)
	} else {
		move(b, cents)
		move(a, -cents)
	}
	w.add(ins, 1, `INSERT INTO shop.transfers (payer, payee, amount, at) VALUES ($1, $2, $3::numeric / 100, clock_timestamp())`, a, b, cents)
}

// address changes one: its values, its key, or whether it is there.
func (s *shopper) address(w *work) {
	id := 1 + s.r.Int64N(s.customers)
	switch s.r.IntN(4) {
	case 0:
		w.add(keyUpd, 2, `UPDATE shop.addresses SET kind = 'moved ' || $2::int, version = version + 1 WHERE customer_id = $1 AND kind = (SELECT min(kind) FROM shop.addresses WHERE customer_id = $1)`, id, s.r.IntN(1_000_000))
	case 1:
		w.add(ins, 1, `INSERT INTO shop.addresses VALUES ($1, 'new ' || $2::int, ARRAY['Street', NULL], 'X', NULL, NULL, 'empty', 1) ON CONFLICT DO NOTHING`, id, s.r.IntN(1000))
	case 2:
		w.add(del, 1, `DELETE FROM shop.addresses WHERE customer_id = $1 AND kind LIKE 'new %'`, id)
	default:
		w.add(upd, 1, `UPDATE shop.addresses SET city = $2, place = NULL, version = version + 1 WHERE customer_id = $1`, id, nullable(s.r, "Elsewhere"))
	}
}

func nullable[T any](r *rand.Rand, v T) *T {
	if r.IntN(4) == 0 {
		return nil
	}
	return &v
}

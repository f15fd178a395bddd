// Package pgside runs the statements of package digest at a Postgres server. It is
// what the source and the Postgres sink have in common when tables are verified: each
// brings its own connections, its own names of tables and its own kinds of errors.
package pgside

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/digest"
	"syncline/dataplane/verify"
)

// Querier is a connection or a transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// settings are those that digests and capture rely on, for a session that may have
// others. Parallel workers would make one walk take several cores of the server.
const settings = `SELECT set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, YMD', true), set_config('IntervalStyle', 'postgres', true),
	set_config('bytea_output', 'hex', true), set_config('extra_float_digits', '3', true), set_config('lc_monetary', 'C', true),
	set_config('max_parallel_workers_per_gather', '0', true), set_config('jit', 'off', true)`

// Begin prepares a transaction, and reports whether the server's encoding is another than UTF-8.
func Begin(ctx context.Context, tx pgx.Tx) (recode bool, err error) {
	if _, err := tx.Exec(ctx, settings); err != nil {
		return false, err
	}
	err = tx.QueryRow(ctx, "SELECT current_setting('server_encoding') NOT IN ('UTF8', 'SQL_ASCII')").Scan(&recode)
	return recode, err
}

// Sum digests a part of a table.
func Sum(ctx context.Context, q Querier, p *digest.Postgres, s digest.Scope) (digest.Sum, error) {
	if len(p.InGo()) > 0 {
		var sum digest.Summer
		err := stream(ctx, q, p, s, func(_ []string, d digest.Digest) error { return sum.Add(d) })
		return sum.Sum(), err
	}
	sql, args := p.Sum(s)
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return digest.Sum{}, err
	}
	return pgx.CollectExactlyOneRow(rows, func(r pgx.CollectableRow) (d digest.Sum, err error) {
		return d, r.Scan(&d.Rows, &d.A, &d.B)
	})
}

// Keys gives the key and the digest of each row of a part.
func Keys(ctx context.Context, q Querier, p *digest.Postgres, schema *change.Schema, s digest.Scope, each func(change.Key, digest.Digest) error) error {
	return stream(ctx, q, p, s, func(key []string, d digest.Digest) error {
		k, err := verify.KeyOf(schema, key)
		if err != nil {
			return err
		}
		return each(k, d)
	})
}

// stream gives the texts of the key and the digest of each row, which is finished here
// where columns are compared in Go.
func stream(ctx context.Context, q Querier, p *digest.Postgres, s digest.Scope, each func([]string, digest.Digest) error) error {
	sql, args := p.Keys(s)
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	var key []string
	var texts []*string
	var d string
	inGo := digest.Texts{Forms: p.InGo(), Finish: p.Finish()}
	into := []any{&key, &d}
	if len(inGo.Forms) > 0 {
		into = append(into, &texts)
	}
	_, err = pgx.ForEachRow(rows, into, func() error {
		if len(inGo.Forms) > 0 {
			return each(key, inGo.Row(d, texts))
		}
		return each(key, digest.Digest(d))
	})
	return err
}

// Next returns the key that ends a part of so many rows; nil if fewer are left.
func Next(ctx context.Context, q Querier, p *digest.Postgres, after []string, n int) (upTo []string, err error) {
	sql, args := p.Next(after, n)
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	upTo, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[[]string])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return upTo, err
}

// Read returns those of the rows that are there.
func Read(ctx context.Context, q Querier, p *digest.Postgres, schema *change.Schema, keys []change.Key) ([]verify.Row, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	lists := make([][]string, len(schema.Key))
	for _, k := range keys {
		texts, err := k.Values()
		if err != nil || len(texts) != len(lists) {
			return nil, fmt.Errorf("a key of table %s is damaged", schema.Table)
		}
		for n := range texts {
			lists[n] = append(lists[n], texts[n])
		}
	}
	args := []any{pgx.QueryResultFormats{pgx.TextFormatCode}}
	for _, l := range lists {
		args = append(args, l)
	}
	rows, err := q.Query(ctx, p.Read(), args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (verify.Row, error) {
		raw := r.RawValues()
		out := verify.Row{Version: string(raw[0]), Values: make(change.Row, len(raw)-1)}
		for i, v := range raw[1:] {
			if v != nil {
				out.Values[i] = change.TextValue(string(v))
			}
		}
		var err error
		out.Key, err = change.MakeKey(schema, out.Values)
		return out, err
	})
}

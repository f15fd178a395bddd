package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// CodeKeyText: a text is no value of the column that it is to be a key of.
const CodeKeyText fault.Code = "KeyText"

// CanonicalKeys makes keys of texts, each a row's in the order of the key's columns, in
// the form that the source gives their values.
func (s *Server) CanonicalKeys(ctx context.Context, schema *change.Schema, rows [][]string) ([]change.Key, error) {
	casts := make([]string, len(schema.Key))
	for i, k := range schema.Key {
		casts[i] = fmt.Sprintf("$%d::text::%s::text", i+1, schema.Columns[k].Type.Name)
	}
	out := make([]change.Key, 0, len(rows))
	err := s.inTx(ctx, "", func(tx pgx.Tx) error {
		for _, texts := range rows {
			args, dest := make([]any, len(texts)), make([]any, len(texts))
			values := make([]string, len(texts))
			for i := range texts {
				args[i], dest[i] = texts[i], &values[i]
			}
			if err := tx.QueryRow(ctx, "SELECT "+strings.Join(casts, ", "), args...).Scan(dest...); err != nil {
				return err
			}
			full := make(change.Row, len(schema.Columns))
			for i, k := range schema.Key {
				full[k] = change.TextValue(values[i])
			}
			key, err := change.MakeKey(schema, full)
			if err != nil {
				return err
			}
			out = append(out, key)
		}
		return nil
	})
	var pg *pgconn.PgError
	if errors.As(err, &pg) && strings.HasPrefix(pg.Code, "22") { // its text quotes the value
		return nil, fault.Permanent(CodeKeyText, nil, "write it as the source shows it", "a key of table %s has a value that is none of its column's type", schema.Table)
	}
	if err != nil {
		return nil, classify(ctx, err, "read keys of table %s", schema.Table)
	}
	return out, nil
}

// CountKeys counts the rows that have the keys, of those that a condition is true of ("" for
// all). The key may be of any columns.
func (s *Server) CountKeys(ctx context.Context, schema *change.Schema, where string, keys []change.Key) (n int64, err error) {
	if len(keys) == 0 {
		return 0, nil
	}
	lists := make([][]string, len(schema.Key))
	for _, k := range keys {
		texts, err := k.Values()
		if err != nil || len(texts) != len(lists) {
			return 0, fmt.Errorf("a key of table %s is damaged", schema.Table)
		}
		for i := range texts {
			lists[i] = append(lists[i], texts[i])
		}
	}
	var args []any
	var params, names, same []string
	for i, k := range schema.Key {
		c := &schema.Columns[k]
		args, params, names = append(args, lists[i]), append(params, fmt.Sprintf("$%d::text[]", i+1)), append(names, fmt.Sprintf("c%d", i))
		same = append(same, fmt.Sprintf("r.%s = k.c%d::%s", quoteIdent(c.Name), i, c.Type.Name))
	}
	err = s.inTx(ctx, "", func(tx pgx.Tx) error {
		from, err := fromClause(ctx, tx, schema.Table)
		if err != nil {
			return err
		}
		if where != "" {
			from += " WHERE (" + where + "\n)"
		}
		return tx.QueryRow(ctx, fmt.Sprintf(`SELECT count(*) FROM (SELECT %s FROM %s) AS r WHERE EXISTS (SELECT FROM unnest(%s) AS k (%s) WHERE %s)`,
			keyList(schema), from, strings.Join(params, ", "), strings.Join(names, ", "), strings.Join(same, " AND ")), args...).Scan(&n)
	})
	if err != nil {
		return 0, classify(ctx, err, "count rows of table %s", schema.Table)
	}
	return n, nil
}

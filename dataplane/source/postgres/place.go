package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// Place returns for each key the N of the chunk that holds it. The chunks must
// be all of a plan; the source compares, as only it knows its collations. With
// Carried it makes Server a deliver.Source.
func (s *Server) Place(ctx context.Context, schema *change.Schema, chunks []sink.Chunk, keys []change.Key) ([]int, error) {
	out := make([]int, len(keys))
	first := -1
	var bounded []sink.Chunk
	for _, c := range chunks {
		if len(c.After) == 0 {
			first = c.N
		} else {
			bounded = append(bounded, c)
		}
	}
	if first < 0 {
		return nil, fmt.Errorf("place keys of table %s: no chunk without a lower bound", schema.Table)
	}
	if len(bounded) == 0 || len(keys) == 0 {
		for i := range out {
			out[i] = first
		}
		return out, nil
	}
	ranges, ok := bounded[0].Ranges(schema)
	if !ok {
		return nil, fault.Permanent(sink.CodeSchemaGate, nil, fixGate, "table %s: the columns that its chunks are ranges of are not in its definition", schema.Table)
	}
	err := s.inTx(ctx, "", func(tx pgx.Tx) error { return place(ctx, tx, ranges, bounded, first, keys, out) })
	if err != nil {
		return nil, classify(ctx, err, "place keys of table %s", schema.Table)
	}
	return out, nil
}

// place sorts lower bounds and keys together at the source. A key belongs to
// the greatest bound below it; one equal to a bound sorts before it, since lower
// bounds are exclusive.
func place(ctx context.Context, tx pgx.Tx, schema *change.Schema, bounded []sink.Chunk, first int, keys []change.Key, out []int) error {
	from, err := fromClause(ctx, tx, schema.Table)
	if err != nil {
		return err
	}
	width := len(schema.Key)
	cols := make([][]string, 2*width) // keys, then bounds
	for _, k := range keys {
		vs, err := k.Values()
		if err != nil || len(vs) != width {
			return fmt.Errorf("key of %d columns, want %d", len(vs), width)
		}
		for i, v := range vs {
			cols[i] = append(cols[i], v)
		}
	}
	for _, c := range bounded {
		if len(c.After) != width {
			return fmt.Errorf("chunk %d has a bound of %d columns, want %d", c.N, len(c.After), width)
		}
		for i, v := range c.After {
			cols[width+i] = append(cols[width+i], v)
		}
	}
	part := func(kind, firstParam int) string {
		var names, params, casts []string
		for i, k := range schema.Key {
			names = append(names, fmt.Sprintf("v%d", i))
			params = append(params, fmt.Sprintf("$%d::text[]", firstParam+i))
			casts = append(casts, fmt.Sprintf("v%d::%s", i, schema.Columns[k].Type.Name))
		}
		return fmt.Sprintf("SELECT %d, n, %s FROM unnest(%s) WITH ORDINALITY u(%s, n)",
			kind, strings.Join(casts, ", "), strings.Join(params, ", "), strings.Join(names, ", "))
	}
	var order, empty []string
	for i, k := range schema.Key {
		order = append(order, fmt.Sprintf("c%d", i))
		empty = append(empty, quoteIdent(schema.Columns[k].Name))
	}
	// The first part has no rows: it gives the columns their types and collations.
	sql := fmt.Sprintf(`WITH e(kind, n, %[1]s) AS (
		SELECT 0, 0::int8, %[2]s FROM %[3]s WHERE false
		UNION ALL %[4]s UNION ALL %[5]s)
		SELECT kind, n, count(*) FILTER (WHERE kind = 1) OVER (ORDER BY %[1]s, kind ROWS UNBOUNDED PRECEDING) FROM e`,
		strings.Join(order, ", "), strings.Join(empty, ", "), from, part(0, 1), part(1, 1+width))
	args := make([]any, len(cols))
	for i := range cols {
		args[i] = cols[i]
	}
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	rank := make([]int, len(keys))
	byRank := make([]int, len(bounded)+1)
	byRank[0] = first
	var kind, n, below int64
	_, err = pgx.ForEachRow(rows, []any{&kind, &n, &below}, func() error {
		if kind == 1 {
			byRank[below] = bounded[n-1].N
		} else {
			rank[n-1] = int(below)
		}
		return nil
	})
	for i, r := range rank {
		out[i] = byRank[r]
	}
	return err
}

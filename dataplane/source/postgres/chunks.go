package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// ChunkOptions says how a table is cut.
type ChunkOptions struct {
	ChunkBytes int64  // about so much of the table's size on disk; default 64 MiB
	MaxChunks  int    // default 10,000: chunks grow beyond that
	Where      string // the table's row filter
	Snapshot   string // to read in; "": its own
}

const (
	exactPages      = 4096 // tables up to 32 MiB are walked, larger ones sampled
	pagesPerChunk   = 64
	samplesPerChunk = 100
	maxSamples      = 200_000
)

// PlanChunks cuts a table into ranges of its primary key of about equal size on
// disk, in the source's own order of keys. The first chunk has no lower bound
// and the last no upper one, so that together they hold every key there can be,
// once. An append-only table, whose schema has no key, is cut by the one that its
// rows have at the source; a table without any is one chunk.
func (s *Server) PlanChunks(ctx context.Context, schema *change.Schema, o ChunkOptions) ([]sink.Chunk, error) {
	if o.ChunkBytes <= 0 {
		o.ChunkBytes = 64 << 20
	}
	if o.MaxChunks <= 0 {
		o.MaxChunks = 10_000
	}
	var cuts [][]string
	var by sink.Chunk
	err := s.inTx(ctx, o.Snapshot, func(tx pgx.Tx) error {
		var err error
		if len(schema.Key) == 0 {
			if by.By, err = rowKey(ctx, tx, schema); err != nil {
				return err
			}
		}
		if ranges, ok := by.Ranges(schema); ok {
			cuts, err = planCuts(ctx, tx, ranges, o)
		}
		return err
	})
	if err != nil {
		return nil, classify(ctx, err, "plan chunks of table %s", schema.Table)
	}
	chunks := make([]sink.Chunk, len(cuts)+1)
	for i := range chunks {
		chunks[i].N = i
		if len(cuts) > 0 {
			chunks[i].By = by.By
		}
		if i > 0 {
			chunks[i].After = cuts[i-1]
		}
		if i < len(cuts) {
			chunks[i].UpTo = cuts[i]
		}
	}
	return chunks, nil
}

// rowKey finds columns of which each row has a value that no other row has: those
// of the primary key, or of another unique index over columns that are NOT NULL.
func rowKey(ctx context.Context, tx pgx.Tx, s *change.Schema) ([]string, error) {
	names := make([]string, len(s.Columns))
	for i := range s.Columns {
		names[i] = s.Columns[i].Name
	}
	var key []string
	err := tx.QueryRow(ctx, `SELECT coalesce((SELECT k.names FROM pg_index i CROSS JOIN LATERAL (
			SELECT array_agg(a.attname::text ORDER BY u.n) AS names, bool_and(coalesce(a.attnotnull AND a.attname = ANY ($2::text[]), false)) AS usable
			FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(attnum, n)
			LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum AND u.attnum > 0 WHERE u.n <= i.indnkeyatts) k
		WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND k.usable
		ORDER BY i.indisprimary DESC, i.indexrelid LIMIT 1), '{}')`, quoteTable(s.Table), names).Scan(&key)
	return key, err
}

func planCuts(ctx context.Context, tx pgx.Tx, schema *change.Schema, o ChunkOptions) ([][]string, error) {
	from, err := fromClause(ctx, tx, schema.Table)
	if err != nil {
		return nil, err
	}
	var bytes, pages int64
	var rows float64
	err = tx.QueryRow(ctx, `
		SELECT coalesce(sum(pg_table_size(c.oid)), 0)::int8, coalesce(sum(pg_relation_size(c.oid) / 8192), 0)::int8,
			coalesce(sum(greatest(c.reltuples, 0)), 0)::float8
		FROM pg_class c WHERE c.relkind = 'r' AND c.oid IN (SELECT to_regclass($1)::oid UNION ALL SELECT relid FROM pg_partition_tree(to_regclass($1)))`,
		quoteTable(schema.Table)).Scan(&bytes, &pages, &rows)
	if err != nil {
		return nil, err
	}
	n := (bytes + o.ChunkBytes - 1) / o.ChunkBytes
	n = min(n, int64(o.MaxChunks))
	if n < 2 {
		return nil, nil
	}
	if rows == 0 { // never analysed
		rows = float64(pages) * 100
	}
	sample := ""
	var and []string
	if pages > exactPages && pages > n*pagesPerChunk {
		want := max(n*pagesPerChunk, exactPages/4)
		sample = fmt.Sprintf(" TABLESAMPLE SYSTEM (%.6f)", min(100, 100*float64(want)/float64(pages)))
		rows *= float64(want) / float64(pages)
	}
	if limit := float64(min(n*samplesPerChunk*10, maxSamples)); rows > limit {
		and = append(and, fmt.Sprintf("random() < %.9f", limit/rows))
	}
	if o.Where != "" {
		and = append(and, "("+o.Where+"\n)")
	}
	if len(and) > 0 {
		sample += " WHERE " + strings.Join(and, " AND ")
	}
	// Weights are sizes as stored: a TOASTed value is not fetched for it.
	var size, texts []string
	for _, c := range schema.Columns {
		size = append(size, "coalesce(pg_column_size("+quoteIdent(c.Name)+"), 0)")
	}
	for i, k := range schema.Key {
		// Without a name of its own, the text would be what ORDER BY means by the column's.
		texts = append(texts, fmt.Sprintf(`%s::text AS "syncline text %d"`, quoteIdent(schema.Columns[k].Name), i))
	}
	sql := fmt.Sprintf("SELECT (24 + %s)::int8, %s FROM %s%s ORDER BY %s",
		strings.Join(size, " + "), strings.Join(texts, ", "), from, sample, keyList(schema))
	r, err := tx.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return cut(r, len(schema.Key), int(n))
}

// cut reads weighted keys in order and returns the n-1 that divide the total.
func cut(r pgx.Rows, width, n int) ([][]string, error) {
	defer r.Close()
	var keys []string
	var sums []int64
	var total, w int64
	dest := make([]any, width+1)
	vals := make([]string, width)
	dest[0] = &w
	for i := range vals {
		dest[i+1] = &vals[i]
	}
	for r.Next() {
		if err := r.Scan(dest...); err != nil {
			return nil, err
		}
		total += w
		keys, sums = append(keys, vals...), append(sums, total)
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	var cuts [][]string
	next := 1
	for i := range sums {
		if i == len(sums)-1 {
			break // nothing of the sample would be above it
		}
		if float64(sums[i]) >= float64(total)*float64(next)/float64(n) {
			cuts = append(cuts, append([]string(nil), keys[i*width:(i+1)*width]...))
			for next < n && float64(sums[i]) >= float64(total)*float64(next)/float64(n) {
				next++
			}
			if next == n {
				break
			}
		}
	}
	return cuts, nil
}

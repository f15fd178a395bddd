package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// Sizes measures tables with their indexes, TOAST and partitions. Pipelines share the
// ledger's tables: each counts an equal part of them.
func (s *Sink) Sizes(ctx context.Context) ([]sink.Size, error) {
	tables, err := s.Tables(ctx)
	if err != nil {
		return nil, err
	}
	ids := make([]change.TableID, 0, len(tables)+1)
	schemas, names := make([]string, 0, len(tables)), make([]string, 0, len(tables))
	for _, t := range tables {
		at := name(t.ID, t.Options)
		ids, schemas, names = append(ids, t.ID), append(schemas, at.Schema), append(names, at.Name)
	}
	rows, err := s.pool.Query(ctx, `SELECT u.n, sum(pg_total_relation_size(coalesce(p.relid, c.oid)))::bigint
			FROM unnest($1::text[], $2::text[]) WITH ORDINALITY u (nsp, rel, n)
			JOIN pg_namespace x ON x.nspname = u.nsp JOIN pg_class c ON c.relnamespace = x.oid AND c.relname = u.rel AND c.relkind IN ('r', 'p')
			LEFT JOIN LATERAL pg_partition_tree(c.oid) p ON true
			GROUP BY u.n
		UNION ALL
		SELECT $3::bigint, (sum(pg_total_relation_size(c.oid)) / greatest((SELECT count(DISTINCT pipeline) FROM syncline.tables), 1))::bigint
			FROM pg_class c WHERE c.relnamespace = 'syncline'::regnamespace AND c.relkind = 'r'`, schemas, names, len(ids)+1)
	if err != nil {
		return nil, s.wrap(ctx, err, "measure the tables")
	}
	ids = append(ids, change.TableID{})
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (z sink.Size, err error) {
		var n, bytes *int64 // a table may go meanwhile
		if err = row.Scan(&n, &bytes); err == nil && bytes != nil {
			z = sink.Size{Table: ids[*n-1], Bytes: *bytes}
		}
		return z, err
	})
	return out, s.wrap(ctx, err, "measure the tables")
}

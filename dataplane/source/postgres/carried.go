package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

const (
	fixGate = "resync the table: starter resync-table"
	// carriedLimit bounds each look at a table's rows for Carried.
	carriedLimit = 5 * time.Minute
)

// Carried returns nil if the log carries every value that the table's rows have in
// columns which were added after the chunks were loaded, and otherwise (or if it
// cannot be told) CodeSchemaGate. A definition that has a constant for older rows
// (change.Column.Missing) need not be asked about.
//
// Values that the log lacks come about in two ways. ADD COLUMN with a default that
// differs by row writes the table anew; so does an ALTER that gives the column
// another form. Or older rows have a constant, and VACUUM FULL or CLUSTER wrote it
// into them, whereupon the catalog forgot it. Three observations tell, the cheap
// ones first:
//
//   - Whatever writes a table anew also replaces the pg_class rows of its indexes
//     and its TOAST table. If one of them is from before the load, nothing did.
//   - A row that no transaction has written since the load has in the column what
//     all rows of its kind have: NULL, unless it is such a constant.
//   - What the log carries was written after the last change of the table's
//     definition (or, rarely, before one that wrote no rows: a false alarm).
//
// "Before the load" is before the oldest transaction that a chunk's snapshot did
// not see the end of, so that a long transaction beside the ALTER misleads none of
// them. VACUUM FULL keeps a row's xmin.
func (s *Server) Carried(ctx context.Context, schema *change.Schema, columns []string, chunks []sink.Chunk) error {
	var since uint64
	for _, c := range chunks {
		since = max(since, c.Snapshot.XMin)
	}
	p := probe{schema: schema, limit: carriedLimit}
	if s.carriedLimit > 0 {
		p.limit = s.carriedLimit
	}
	err := s.inTx(ctx, "", func(tx pgx.Tx) error {
		p.tx = tx
		if err := p.find(ctx, since); err != nil {
			return err
		}
		for _, rel := range p.rels {
			for _, name := range columns {
				if err := p.column(ctx, rel, name); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return classify(ctx, err, "see what rows of table %s have in new columns", schema.Table)
}

// probe looks at the files of one table: itself or its partitions.
type probe struct {
	tx     pgx.Tx
	schema *change.Schema
	limit  time.Duration
	since  string // transactions before it had ended when the table was loaded; "" if unknown
	rels   []file
}

type file struct {
	oid       uint32
	name      string // quoted
	untouched bool   // not written anew since the load
}

func (p *probe) find(ctx context.Context, since uint64) error {
	var next uint64
	if err := p.tx.QueryRow(ctx, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8").Scan(&next); err != nil {
		return err
	}
	if since >= 3 && since <= next && next-since < 1<<31 { // farther apart, 32 bits do not tell before from after
		p.since = fmt.Sprint(uint32(since))
	}
	// age() of a transaction that is farther than 2^31 back is negative.
	rows, err := p.tx.Query(ctx, `
		SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname), EXISTS (SELECT FROM pg_class d
			WHERE (d.oid = c.reltoastrelid OR d.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = c.oid)) AND age(d.xmin) > age(nullif($2, '')::xid))
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND c.oid IN (SELECT to_regclass($1)::oid UNION ALL SELECT relid FROM pg_partition_tree(to_regclass($1)))
		ORDER BY 1`, quoteTable(p.schema.Table), p.since)
	if err != nil {
		return err
	}
	p.rels, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (f file, err error) {
		return f, r.Scan(&f.oid, &f.name, &f.untouched)
	})
	if err == nil && len(p.rels) == 0 {
		_, err = fromClause(ctx, p.tx, p.schema.Table) // a partitioned table may have no partition
	}
	return err
}

// column returns nil if the file's rows have nothing in the column that the log lacks.
func (p *probe) column(ctx context.Context, rel file, name string) error {
	var present, later bool
	// The newest change of the definition is where the smallest age is; that of a
	// row of the catalog which is too old to tell counts as none.
	var newest *int32
	err := p.tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = $1 AND attname = $2 AND NOT attisdropped),
			coalesce((SELECT age(xmin) <= age(nullif($3, '')::xid) FROM pg_attribute WHERE attrelid = $1 AND attname = $2 AND NOT attisdropped), false),
			(SELECT min(a) FROM (
				SELECT age(xmin) AS a FROM pg_attribute WHERE attrelid = $1 AND attname = $2 AND NOT attisdropped
				UNION ALL SELECT age(d.xmin) FROM pg_class c JOIN pg_class d
					ON d.oid IN (c.oid, c.reltoastrelid) OR d.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = c.oid)
				WHERE c.oid = $1) ages WHERE a >= 0)`, rel.oid, name, p.since).Scan(&present, &later, &newest)
	if err != nil {
		return err
	}
	if !present {
		return fault.Permanent(sink.CodeSchemaGate, nil, fixGate, "table %s: column %q was added, and is not at the source any more", p.schema.Table, name)
	}
	since := p.since
	if !later { // the load should have known the column: it proves nothing about it
		since = ""
	}
	if rel.untouched && since != "" {
		return nil
	}
	// IS DISTINCT FROM asks whether there is a value; of a row type, IS NOT NULL asks for its fields.
	has := quoteIdent(name) + " IS DISTINCT FROM NULL"
	old, fresh := "false", "false"
	if since != "" {
		old = "age(xmin) > age('" + since + "'::xid)"
	}
	if newest != nil {
		fresh = fmt.Sprintf("age(xmin) BETWEEN 0 AND %d", *newest-1)
	}
	isOld, value, found, err := p.row(ctx, rel, name, old, has, "("+old+") OR ("+has+" AND NOT ("+fresh+"))")
	switch {
	case err != nil || !found || isOld && !value:
		return err
	case !isOld && since != "":
		// Rows of the ALTER's own transaction look like those that it wrote anew. One
		// row that is as old as the load, and NULL, clears all of them.
		if isOld, value, found, err = p.row(ctx, rel, name, old, has, old); err != nil || found && isOld && !value {
			return err
		}
	}
	return fault.Permanent(sink.CodeSchemaGate, nil, fixGate,
		"table %s: rows from before the new column %q have values in it that are not in the log (a default that differs by row, or one that was written into the rows since)", p.schema.Table, name)
}

// row looks at the first row that a condition holds for.
func (p *probe) row(ctx context.Context, rel file, name, old, has, where string) (isOld, value, found bool, err error) {
	if _, err = p.tx.Exec(ctx, fmt.Sprintf("SET LOCAL statement_timeout = %d", max(p.limit.Milliseconds(), 1))); err != nil {
		return
	}
	sql := strings.Join([]string{"SELECT", old + ",", has, "FROM ONLY", rel.name, "WHERE", where, "LIMIT 1"}, " ")
	switch err = p.tx.QueryRow(ctx, sql).Scan(&isOld, &value); {
	case errors.Is(err, pgx.ErrNoRows):
		return false, false, false, nil
	case sqlState(err) == "57014" && ctx.Err() == nil:
		err = fault.Permanent(sink.CodeSchemaGate, nil, fixGate,
			"table %s: within %s it could not be told whether rows from before the new column %q have values in it that are not in the log", p.schema.Table, p.limit, name)
	}
	return isOld, value, err == nil, err
}

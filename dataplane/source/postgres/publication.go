package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// PublishedTable is what a pipeline takes of one table.
type PublishedTable struct {
	ID         change.TableID
	Columns    []string // none: all
	Where      string   // row filter, an SQL expression; "": all rows
	AppendOnly bool     // inserts only, and no key
}

// appendPublication is the second publication of a pipeline, for tables that are
// append-only. It publishes no updates and deletes: Postgres would make the
// source's own updates of a table without a key fail otherwise.
func appendPublication(name string) string { return name + "_append" }

const (
	publishAll    = "insert, update, delete, truncate"
	publishAppend = "insert, truncate"
)

// EnsurePublication makes the publication hold exactly these tables, creating it
// if need be, and then waits until every transaction that wrote to a newly added
// table before has ended: what such a transaction wrote is not in the stream,
// so that a snapshot must not be taken before. Idempotent.
func (s *Server) EnsurePublication(ctx context.Context, name string, tables []PublishedTable) error {
	err := s.ensurePublication(ctx, name, tables)
	return classify(ctx, err, "publication %q", name)
}

func (s *Server) ensurePublication(ctx context.Context, name string, tables []PublishedTable) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	before, err := publishedOIDs(ctx, conn, name)
	if err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := setPublication(ctx, tx, name, tables); err != nil {
			return err
		}
		return checkPublication(ctx, tx, name, tables)
	})
	if err != nil {
		return err
	}
	after, err := publishedOIDs(ctx, conn, name)
	if err != nil {
		return err
	}
	added := slices.DeleteFunc(after, func(oid uint32) bool { return slices.Contains(before, oid) })
	return waitForWriters(ctx, conn, added)
}

// CheckPublication reports what EnsurePublication would refuse, and changes nothing.
func (s *Server) CheckPublication(ctx context.Context, name string, tables []PublishedTable) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return classify(ctx, err, "publication %q", name)
	}
	defer conn.Release()
	err = func() error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
		// A look must not queue behind somebody's ALTER TABLE and hold up others behind itself.
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '3s'"); err != nil {
			return err
		}
		if err := setPublication(ctx, tx, name, tables); err != nil {
			return err
		}
		return checkPublication(ctx, tx, name, tables)
	}()
	return classify(ctx, err, "publication %q", name)
}

func setPublication(ctx context.Context, tx pgx.Tx, name string, tables []PublishedTable) error {
	for _, p := range []struct {
		name, publish string
		appendOnly    bool
	}{{name, publishAll, false}, {appendPublication(name), publishAppend, true}} {
		var specs []string
		for _, t := range tables {
			if t.AppendOnly != p.appendOnly {
				continue
			}
			spec, err := publishedSpec(ctx, tx, t)
			if err != nil {
				return err
			}
			specs = append(specs, spec)
		}
		var exists, all bool
		if err := tx.QueryRow(ctx, `SELECT count(*) > 0, coalesce(bool_or(puballtables), false) FROM pg_publication WHERE pubname = $1`,
			p.name).Scan(&exists, &all); err != nil {
			return err
		}
		if all {
			return fault.Permanent(CodePublicationMissing, nil, "choose another publication name",
				"publication %q is for all tables and cannot be given a list", p.name)
		}
		with := fmt.Sprintf("(publish = %s, publish_via_partition_root = true)", quoteLiteral(p.publish))
		sql := "CREATE PUBLICATION " + quoteIdent(p.name) + " WITH " + with
		if exists {
			sql = "ALTER PUBLICATION " + quoteIdent(p.name) + " SET " + with
		} else if p.appendOnly && len(specs) == 0 {
			continue
		}
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
		if len(specs) == 0 {
			if err := emptyPublication(ctx, tx, p.name); err != nil {
				return err
			}
			continue
		}
		if _, err := tx.Exec(ctx, "ALTER PUBLICATION "+quoteIdent(p.name)+" SET TABLE "+strings.Join(specs, ", ")); err != nil {
			return filterFault(ctx, err, tables)
		}
	}
	return nil
}

// filterFault tells an expression that a publication does not take from other refusals.
func filterFault(ctx context.Context, err error, tables []PublishedTable) error {
	switch sqlState(err) {
	case "42601", "42703", "42883", "42804", "0A000", "42P10", "42P17", "22P02":
		var names []string
		for _, t := range tables {
			if t.Where != "" || len(t.Columns) > 0 {
				names = append(names, t.ID.String())
			}
		}
		return fault.Permanent(CodeFilter, classify(ctx, err, "publish"),
			"correct the row filter or column list; filters take built-in immutable functions and the table's own columns only",
			"row filter or columns of one of the tables %s", strings.Join(names, ", "))
	}
	return err
}

// emptyPublication removes all tables: SET TABLE needs at least one.
func emptyPublication(ctx context.Context, tx pgx.Tx, name string) error {
	rows, err := tx.Query(ctx, `SELECT n.nspname::text, c.relname::text FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
		JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $1`, name)
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowToStructByPos[change.TableID])
	if err != nil || len(ids) == 0 {
		return err
	}
	var names []string
	for _, id := range ids {
		names = append(names, quoteTable(id))
	}
	_, err = tx.Exec(ctx, "ALTER PUBLICATION "+quoteIdent(name)+" DROP TABLE "+strings.Join(names, ", "))
	return err
}

func publishedSpec(ctx context.Context, q querier, t PublishedTable) (string, error) {
	spec, err := fromClause(ctx, q, t.ID)
	if err != nil {
		return "", err
	}
	if len(t.Columns) > 0 {
		cols := make([]string, len(t.Columns))
		for i, c := range t.Columns {
			cols[i] = quoteIdent(c)
		}
		spec += " (" + strings.Join(cols, ", ") + ")"
	}
	if t.Where != "" {
		spec += " WHERE (" + t.Where + "\n)"
	}
	return spec, nil
}

// checkPublication refuses what Postgres accepts here, but then punishes at the
// source: it would make the application's own updates and deletes fail.
func checkPublication(ctx context.Context, tx pgx.Tx, name string, tables []PublishedTable) error {
	rows, err := tx.Query(ctx, `
		SELECT n.nspname::text, c.relname::text, c.relreplident::text,
			EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident)),
			coalesce((SELECT array_agg(a.attname::text) FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])
				WHERE i.indrelid = c.oid AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END), '{}'),
			c.relreplident <> 'i' AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND NOT i.indimmediate)
		FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
		JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE p.pubname = $1 ORDER BY 1, 2`, name)
	if err != nil {
		return err
	}
	type row struct {
		Schema, Name, Identity string
		Keyed                  bool
		Columns                []string
		Deferrable             bool
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return err
	}
	for _, r := range found {
		id := change.TableID{Schema: r.Schema, Name: r.Name}
		if r.Deferrable {
			// It is no replica identity, so updates would fail; and with REPLICA IDENTITY
			// FULL two rows may share a key for a while, which no copy by key survives.
			return fault.Permanent(CodeTableWithoutKey, nil,
				"make the primary key not deferrable, or set REPLICA IDENTITY USING INDEX on a unique index that is not",
				"the primary key of table %s is deferrable: within a transaction it does not tell rows apart", id)
		}
		if !r.Keyed || (r.Identity != "f" && len(r.Columns) == 0) {
			return fault.Permanent(CodeTableWithoutKey, nil,
				"give it a primary key (or REPLICA IDENTITY USING INDEX on a unique index), or declare it append_only",
				"table %s has no key to tell its rows apart (replica identity %q)", id, r.Identity)
		}
		i := slices.IndexFunc(tables, func(t PublishedTable) bool { return t.ID == id && !t.AppendOnly })
		if i < 0 {
			continue
		}
		if err := checkIdentity(ctx, tx, tables[i], r.Identity == "f", r.Columns); err != nil {
			return err
		}
	}
	return nil
}

func checkIdentity(ctx context.Context, tx pgx.Tx, t PublishedTable, full bool, identity []string) error {
	if len(t.Columns) > 0 && (full || slices.ContainsFunc(identity, func(c string) bool { return !slices.Contains(t.Columns, c) })) {
		return fault.Permanent(CodeIdentityColumns, nil, "add the key to the columns (with REPLICA IDENTITY FULL: take all columns)",
			"the column list of table %s leaves out columns of its replica identity: updates at the source would fail", t.ID)
	}
	if t.Where == "" || full {
		return nil
	}
	used, err := filterColumns(ctx, tx, t)
	if err != nil {
		return err
	}
	outside := slices.DeleteFunc(used, func(c string) bool { return slices.Contains(identity, c) })
	if len(outside) > 0 {
		return fault.Permanent(CodeIdentityColumns, nil, "filter by key columns, or ALTER TABLE … REPLICA IDENTITY FULL",
			"the row filter of table %s uses columns outside its replica identity (%s): updates at the source would fail",
			t.ID, strings.Join(outside, ", "))
	}
	return nil
}

// filterColumns asks the server which columns a filter uses, with a publication
// that is never committed.
func filterColumns(ctx context.Context, tx pgx.Tx, t PublishedTable) ([]string, error) {
	sub, err := tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Rollback(context.WithoutCancel(ctx)) }()
	const probe = "syncline_filter_probe"
	t.Columns = nil
	spec, err := publishedSpec(ctx, sub, t)
	if err != nil {
		return nil, err
	}
	if _, err := sub.Exec(ctx, "CREATE PUBLICATION "+probe+" FOR TABLE "+spec); err != nil {
		return nil, err
	}
	rows, err := sub.Query(ctx, `SELECT DISTINCT a.attname::text FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
		JOIN pg_depend d ON d.classid = 'pg_publication_rel'::regclass AND d.objid = r.oid AND d.refobjid = r.prrelid AND d.refobjsubid > 0
		JOIN pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = d.refobjsubid WHERE p.pubname = $1 ORDER BY 1`, probe)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// waitForWriters waits until the transactions that hold a write lock on any of
// the tables, or of their partitions, now, have ended.
func waitForWriters(ctx context.Context, conn *pgxpool.Conn, tables []uint32) error {
	if len(tables) == 0 {
		return nil
	}
	var holders []string
	err := conn.QueryRow(ctx, `SELECT coalesce(array_agg(DISTINCT l.virtualtransaction), '{}') FROM pg_locks l
		WHERE l.locktype = 'relation' AND l.granted AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
		AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND l.relation IN (SELECT t FROM unnest($1::oid[]) t UNION ALL SELECT p.relid FROM unnest($1::oid[]) t, pg_partition_tree(t) p)`,
		tables).Scan(&holders)
	for len(holders) > 0 && err == nil {
		if err = pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
		err = conn.QueryRow(ctx, `SELECT coalesce(array_agg(DISTINCT virtualtransaction), '{}') FROM pg_locks
			WHERE virtualtransaction = ANY($1)`, holders).Scan(&holders)
	}
	return err
}

func publishedOIDs(ctx context.Context, q querier, name string) ([]uint32, error) {
	rows, err := q.Query(ctx, `SELECT r.prrelid FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
		WHERE p.pubname IN ($1, $2)`, name, appendPublication(name))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uint32])
}

// DropPublication drops the pipeline's publications; it is fine if there are none.
// Drop the slot first: it cannot be read without them.
func (s *Server) DropPublication(ctx context.Context, name string) error {
	_, err := s.pool.Exec(ctx, "DROP PUBLICATION IF EXISTS "+quoteIdent(name)+", "+quoteIdent(appendPublication(name)))
	return classify(ctx, err, "drop publication %q", name)
}

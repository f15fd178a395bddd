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
	"syncline/dataplane/sink"
)

// longestName is how many bytes a name has at most.
const longestName = 63

// A view runs with the rights of its owner, but the functions in it with those of its
// reader.
const ledgerV7 = `
ALTER TABLE syncline.repairs ADD COLUMN held_at timestamptz;
COMMENT ON COLUMN syncline.repairs.held_at IS 'when the key was quarantined';

CREATE FUNCTION syncline.key_values(p_key text) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
	SELECT array_agg(CASE WHEN strpos(q.m[1], E'\\') = 0 THEN q.m[1] ELSE (
		SELECT string_agg(CASE
			WHEN t.m[1] !~ E'^\\\\' THEN t.m[1]
			WHEN t.m[1] ~ E'^\\\\[xuU].' THEN chr(('x' || lpad(substr(t.m[1], 3), 8, '0'))::bit(32)::int)
			ELSE translate(substr(t.m[1], 2), 'abfnrtv', E'\x07\b\f\n\r\t\x0b')
		END, '' ORDER BY t.n)
		FROM regexp_matches(q.m[1], E'(\\\\x[0-9a-f]{2}|\\\\u[0-9a-f]{4}|\\\\U[0-9a-f]{8}|\\\\.|[^\\\\]+)', 'g') WITH ORDINALITY AS t (m, n)
	) END ORDER BY q.n)
	FROM regexp_matches(p_key, E'"((?:[^"\\\\]|\\\\.)*)"', 'g') WITH ORDINALITY AS q (m, n)
$$;
COMMENT ON FUNCTION syncline.key_values IS 'the texts of the columns of a key of syncline.repairs';
GRANT EXECUTE ON FUNCTION syncline.key_values TO PUBLIC;
`

func heldName(id change.TableID, o sink.TableOptions) change.TableID {
	at := name(id, o)
	at.Name = sink.HeldName(at.Name, longestName)
	return at
}

// heldSQL is the query of a table's view; "" if the table has no key. Equal keys of one
// column may have several texts, of which the ledger has one: cast to the column's type
// they are equal. A barrier keeps a reader's conditions from seeing keys of other tables.
func (s *Sink) heldSQL(id change.TableID, sc *change.Schema, o sink.TableOptions, r *relation) string {
	if appends(sc, o) || r == nil {
		return ""
	}
	names := sc.KeyNames()
	var pick []string
	for n, col := range names {
		c := r.column(col)
		if c == nil {
			return ""
		}
		pick = append(pick, fmt.Sprintf("(syncline.key_values(r.key))[%d]::%s AS %s", n+1, c.castType(), ident(col)))
	}
	since, repair, state, reason := sink.HeldColumns(names)
	return fmt.Sprintf(`SELECT %s, coalesce(r.held_at, r.planned_at) AS %s, r.repair AS %s, r.state AS %s, r.reason AS %s
		FROM syncline.repairs r WHERE r.pipeline = %s AND r.source_table = %s AND r.held`,
		strings.Join(pick, ", "), ident(since), ident(repair), ident(state), ident(reason), literal(s.pipeline), literal(id.String()))
}

// ShowHeld makes the views of held keys, or drops them.
func (s *Sink) ShowHeld(ctx context.Context, show bool) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended('syncline held views', 5971))"); err != nil {
			return err
		}
		stale, err := s.heldViews(ctx, tx)
		if err != nil {
			return err
		}
		if show {
			rows, err := tx.Query(ctx, tablesSQL, s.pipeline)
			if err != nil {
				return err
			}
			tables, err := pgx.CollectRows(rows, scanTable)
			if err != nil {
				return err
			}
			for _, t := range tables {
				if t.State == sink.Removed {
					continue
				}
				r, err := s.relation(ctx, tx, name(t.ID, t.Options))
				if err != nil {
					return err
				}
				query := s.heldSQL(t.ID, t.Schema, t.Options, r)
				if query == "" {
					continue
				}
				at := heldName(t.ID, t.Options)
				was, mine := stale[at]
				delete(stale, at)
				if mark := sink.HeldMark(s.pipeline, t.ID, query); was != mark {
					if err := s.makeHeld(ctx, tx, at, mine, query, mark); err != nil {
						return err
					}
				}
			}
		}
		for at := range stale {
			if _, err := tx.Exec(ctx, "DROP VIEW "+quoted(at)); err != nil {
				return err
			}
		}
		return nil
	})
	return s.wrap(ctx, err, "show the keys that are held")
}

// heldViews are those of the pipeline that exist, with their comments.
func (s *Sink) heldViews(ctx context.Context, q querier) (map[change.TableID]string, error) {
	rows, err := q.Query(ctx, `SELECT n.nspname, c.relname, d.description FROM pg_description d
		JOIN pg_class c ON d.classoid = 'pg_class'::regclass AND d.objoid = c.oid AND d.objsubid = 0 JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'v' AND starts_with(d.description, $1)`, sink.HeldComment(s.pipeline))
	if err != nil {
		return nil, err
	}
	out := map[change.TableID]string{}
	var at change.TableID
	var mark string
	_, err = pgx.ForEachRow(rows, []any{&at.Schema, &at.Name, &mark}, func() error {
		out[at] = mark
		return nil
	})
	return out, err
}

// makeHeld makes a view, over an older one if it is mine. One whose columns have become
// others has to be dropped first, and with it go the rights on it.
func (s *Sink) makeHeld(ctx context.Context, tx pgx.Tx, at change.TableID, mine bool, query, mark string) error {
	var readers []string
	if mine {
		rows, err := tx.Query(ctx, `SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END FROM pg_class c
			JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) AS a
			WHERE n.nspname = $1 AND c.relname = $2 AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner`, at.Schema, at.Name)
		if err != nil {
			return err
		}
		if readers, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DROP VIEW "+quoted(at)); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, "CREATE VIEW "+quoted(at)+" WITH (security_barrier = true) AS "+query)
	var pe *pgconn.PgError
	if errors.As(err, &pe) && pe.Code == "42P07" {
		return heldNameTaken(at)
	}
	if err != nil {
		return err
	}
	sql := "COMMENT ON VIEW " + quoted(at) + " IS " + literal(mark)
	if len(readers) > 0 {
		sql += "; GRANT SELECT ON " + quoted(at) + " TO " + strings.Join(readers, ", ")
	}
	_, err = tx.Exec(ctx, sql)
	return err
}

func heldNameTaken(at change.TableID) error {
	return fault.Permanent(sink.CodeViewName, nil, "rename it, map the table to another name (target), or set quarantine_views of the sink to false",
		"%s exists at the sink, and is to be the view of held keys", at)
}

// HeldView tells the name of a table's view, and whether something else has it.
func (s *Sink) HeldView(ctx context.Context, sc *change.Schema, o sink.TableOptions) (string, string, error) {
	if appends(sc, o) {
		return "", "", nil
	}
	at := heldName(sc.Table, o)
	r, err := s.relation(ctx, s.pool, at)
	if err != nil || r == nil {
		return at.String(), "", s.wrap(ctx, err, "look for %s", at)
	}
	mine, err := s.heldViews(ctx, s.pool)
	if _, ok := mine[at]; err != nil || ok {
		return at.String(), "", s.wrap(ctx, err, "look for %s", at)
	}
	return at.String(), heldNameTaken(at).Error(), nil
}

// dropHeld drops the views of the pipeline; only that at one name, if it is given.
func (s *Sink) dropHeld(ctx context.Context, tx pgx.Tx, only *change.TableID) error {
	views, err := s.heldViews(ctx, tx)
	for at := range views {
		if err == nil && (only == nil || *only == at) {
			_, err = tx.Exec(ctx, "DROP VIEW "+quoted(at))
		}
	}
	return err
}

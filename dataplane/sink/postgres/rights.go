package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// Rights does what lanes, loads and repairs do with the login, to the ledger and to
// tables of the sink, by statements that concern no row and in a transaction that is
// rolled back, and names every right that is missing with the statement that grants it.
// TRUNCATE and ownership are looked up: exercised, they would hold up readers. Tables
// that are not there yet are not looked at; their schemas are.
func (s *Sink) Rights(ctx context.Context, tables ...change.TableID) error {
	var missing []error
	if err := s.rights(ctx, &missing, tables); err != nil {
		return s.wrap(ctx, err, "rights")
	}
	return errors.Join(missing...)
}

// rightsOf is what is looked up of a table.
type rightsOf struct {
	Schema, Name, Owner string
	Owned, Truncates    bool
	Columns             []string // that can be written
	Ledger              bool
}

func (s *Sink) rights(ctx context.Context, missing *[]error, tables []change.TableID) error {
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '3s'"); err != nil {
		return err
	}
	var role, database string
	var creates bool
	if err := tx.QueryRow(ctx, "SELECT current_user::text, current_database()::text, has_database_privilege(current_database(), 'CREATE')").Scan(&role, &database, &creates); err != nil {
		return err
	}
	me := ident(role)
	lacks := func(cause error, fix, format string, args ...any) {
		*missing = append(*missing, fault.Permanent(sink.CodePrivilege, cause, fix, "role %q may not %s", role, fmt.Sprintf(format, args...)))
	}
	if !creates {
		lacks(nil, "GRANT CREATE ON DATABASE "+ident(database)+" TO "+me, "create schemas in database %s", database)
	}
	// refused runs a statement, and takes a refusal for an answer.
	refused := func(sql string) (cause, err error) {
		err = pgx.BeginFunc(ctx, tx, func(sub pgx.Tx) error {
			_, err := sub.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
			return err
		})
		var pe *pgconn.PgError
		if errors.As(err, &pe) && pe.Code == "42501" {
			return errors.New(pe.Message), nil
		}
		return nil, err
	}

	schemas, names := []string{}, []string{}
	for _, id := range tables {
		schemas, names = append(schemas, id.Schema), append(names, id.Name)
	}
	rows, err := tx.Query(ctx, `SELECT n.nspname::text, c.relname::text, pg_get_userbyid(c.relowner)::text, pg_has_role(c.relowner, 'USAGE'), has_table_privilege(c.oid, 'TRUNCATE'),
			coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), '{}'),
			n.nspname = 'syncline'
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') AND (n.nspname = 'syncline' OR EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS u (s, t) WHERE u.s = n.nspname AND u.t = c.relname))
		ORDER BY 1, 2`, schemas, names)
	if err != nil {
		return err
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[rightsOf])
	if err != nil {
		return err
	}
	owners, byOwner := []string{}, map[string][]string{}
	usable := map[string]bool{}
	for _, t := range found {
		id := change.TableID{Schema: t.Schema, Name: t.Name}
		q := quoted(id)
		may, known := usable[t.Schema]
		if !known {
			if err := tx.QueryRow(ctx, "SELECT has_schema_privilege($1, 'USAGE')", t.Schema).Scan(&may); err != nil {
				return err
			}
			if usable[t.Schema] = may; !may {
				lacks(nil, "GRANT USAGE ON SCHEMA "+ident(t.Schema)+" TO "+me, "use schema %s", t.Schema)
			}
			// A load makes tables beside those of before, and a release changes the ledger.
			cause, err := refused("CREATE TABLE " + ident(t.Schema) + "." + ident("syncline_rights_"+rand.Text()) + " ()")
			if err != nil {
				return err
			}
			if cause != nil {
				lacks(cause, "GRANT CREATE ON SCHEMA "+ident(t.Schema)+" TO "+me, "create tables in schema %s", t.Schema)
			}
		}
		if may && len(t.Columns) > 0 {
			cols := identList(t.Columns)
			var set, rights []string
			for _, c := range t.Columns {
				set = append(set, ident(c)+" = DEFAULT")
			}
			var first error
			for _, x := range []struct{ right, sql string }{
				{"SELECT", "SELECT " + cols + " FROM " + q + " LIMIT 0"},
				{"INSERT", "INSERT INTO " + q + " (" + cols + ") OVERRIDING SYSTEM VALUE SELECT " + cols + " FROM " + q + " WHERE false"},
				{"UPDATE", "UPDATE " + q + " SET " + strings.Join(set, ", ") + " WHERE false"},
				{"DELETE", "DELETE FROM " + q + " WHERE false"},
			} {
				cause, err := refused(x.sql)
				if err != nil {
					return err
				}
				if cause != nil {
					rights = append(rights, x.right)
					first = cause
				}
			}
			if !t.Truncates {
				rights = append(rights, "TRUNCATE")
			}
			if len(rights) > 0 {
				list := strings.Join(rights, ", ")
				lacks(first, "GRANT "+list+" ON "+q+" TO "+me, "%s table %s", list, id)
			}
		}
		if !t.Owned {
			if byOwner[t.Owner] == nil {
				owners = append(owners, t.Owner)
			}
			byOwner[t.Owner] = append(byOwner[t.Owner], id.String())
		}
	}
	for _, o := range owners {
		// What one login makes is its own, unless it takes the common role when it logs in.
		lacks(nil, "let a role that both logins are members of own them: GRANT "+ident(o)+" TO "+me+"; and for what is made later ALTER ROLE "+me+" SET role = …",
			"alter %d tables that %s alone owns: %s", len(byOwner[o]), o, strings.Join(byOwner[o][:min(10, len(byOwner[o]))], ", "))
	}
	var functions []string
	if err := tx.QueryRow(ctx, `SELECT coalesce(array_agg(p.oid::regprocedure::text ORDER BY 1), '{}') FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE n.nspname = 'syncline' AND NOT has_function_privilege(p.oid, 'EXECUTE')`).Scan(&functions); err != nil {
		return err
	}
	if len(functions) > 0 {
		lacks(nil, "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA syncline TO "+me, "call %s", strings.Join(functions, ", "))
	}
	return nil
}

package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// rightsBatch is how many tables are read from with one statement.
const rightsBatch = 100

// Rights does what a running pipeline does with the login, in a transaction that is
// rolled back and on a replication connection that begins no stream, and names every
// right that is missing with the statement that grants it. Publication, slot and
// tables must be there. That tables are owned is looked up: to publish one takes a
// lock that holds up its writers.
func (s *Server) Rights(ctx context.Context, publication, slot string, tables []change.TableID) error {
	replication, _, err := s.connectReplication(ctx)
	if err == nil {
		_, err = replication.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
		_ = replication.Close(context.WithoutCancel(ctx))
		err = classify(ctx, err, "identify the source on a replication connection")
	}
	var missing []error
	if err != nil {
		if fault.CodeOf(err) != CodeNoReplication {
			return err
		}
		missing = append(missing, err)
	}
	err = s.rights(ctx, &missing, publication, slot, tables)
	if err != nil {
		return classify(ctx, err, "rights at the source")
	}
	return errors.Join(missing...)
}

func (s *Server) rights(ctx context.Context, missing *[]error, publication, slot string, tables []change.TableID) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var role, database string
	// A look must not queue behind somebody's ALTER TABLE. With row_security off, a
	// policy that hides rows is an error.
	if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '3s'; SET LOCAL row_security = off", pgx.QueryExecModeSimpleProtocol); err != nil {
		return err
	}
	if err := tx.QueryRow(ctx, "SELECT current_user::text, current_database()::text").Scan(&role, &database); err != nil {
		return err
	}
	if _, err := readSlot(ctx, tx, slot); err != nil {
		return err
	}
	// try runs statements, and takes a refusal for a missing right.
	try := func(fix, what, sql string) (refused bool, err error) {
		err = pgx.BeginFunc(ctx, tx, func(sub pgx.Tx) error {
			_, err := sub.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
			return err
		})
		if sqlState(err) != "42501" {
			return false, err
		}
		var pg *pgconn.PgError
		_ = errors.As(err, &pg)
		if strings.Contains(pg.Message, "row-level security") {
			fix = "ALTER ROLE " + quoteIdent(role) + " BYPASSRLS"
		}
		if fix != "" {
			*missing = append(*missing, fault.Permanent(CodePrivilege, withoutValues(pg), fix, "%s: role %q may not %s", database, role, what))
		}
		return true, nil
	}
	// What heartbeats, positions and snapshots call.
	for _, call := range []string{
		"pg_logical_emit_message(true, 'syncline.rights', '')", "pg_current_wal_insert_lsn()", "pg_current_wal_lsn()", "pg_export_snapshot()",
		"(pg_control_system()).system_identifier", "(pg_control_checkpoint()).timeline_id",
	} {
		name, _, _ := strings.Cut(strings.TrimPrefix(call, "("), "(")
		call = "SELECT " + call
		if strings.HasPrefix(name, "pg_export") { // not within a savepoint
			var may bool
			if err := tx.QueryRow(ctx, "SELECT has_function_privilege('pg_export_snapshot()', 'EXECUTE')").Scan(&may); err != nil {
				return err
			}
			if may {
				continue
			}
		}
		if _, err := try("GRANT EXECUTE ON FUNCTION "+name+" TO "+quoteIdent(role), "call "+name, call); err != nil {
			return err
		}
	}
	for _, p := range []string{publication, appendPublication(publication)} {
		var exists bool
		if err := tx.QueryRow(ctx, "SELECT count(*) > 0 FROM pg_publication WHERE pubname = $1", p).Scan(&exists); err != nil {
			return err
		}
		if !exists {
			if p == publication {
				return fault.Permanent(CodePublicationMissing, nil, "apply the pipeline again, then resync the tables", "publication %q", p)
			}
			continue
		}
		sql := "ALTER PUBLICATION " + quoteIdent(p) + " SET (publish_via_partition_root = true)"
		if _, err := try("let a role that both logins are members of own it: ALTER PUBLICATION "+quoteIdent(p)+" OWNER TO …; GRANT … TO "+quoteIdent(role),
			fmt.Sprintf("change publication %q", p), sql); err != nil {
			return err
		}
	}
	read := func(id change.TableID) string { return "SELECT * FROM " + quoteTable(id) + " LIMIT 0" }
	for some := range slices.Chunk(tables, rightsBatch) {
		var all []string
		for _, id := range some {
			all = append(all, read(id))
		}
		refused, err := try("", "", strings.Join(all, "; "))
		if err != nil {
			return err
		}
		for _, id := range some {
			if !refused {
				break
			}
			if _, err := try("GRANT USAGE ON SCHEMA "+quoteIdent(id.Schema)+" TO "+quoteIdent(role)+"; GRANT SELECT ON "+quoteTable(id)+" TO "+quoteIdent(role), "read table "+id.String(), read(id)); err != nil {
				return err
			}
		}
	}
	return s.owned(ctx, tx, missing, role, tables)
}

// owned finds the tables that the role could not put into a publication again.
func (s *Server) owned(ctx context.Context, tx pgx.Tx, missing *[]error, role string, tables []change.TableID) error {
	var schemas, names []string
	for _, id := range tables {
		schemas, names = append(schemas, id.Schema), append(names, id.Name)
	}
	rows, err := tx.Query(ctx, `SELECT pg_get_userbyid(c.relowner)::text, array_agg(n.nspname || '.' || c.relname ORDER BY 1)::text[]
		FROM unnest($1::text[], $2::text[]) AS u (s, t) JOIN pg_namespace n ON n.nspname = u.s JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = u.t
		WHERE NOT pg_has_role(c.relowner, 'USAGE') GROUP BY 1 ORDER BY 1`, append([]string{}, schemas...), append([]string{}, names...))
	if err != nil {
		return err
	}
	var owner string
	var theirs []string
	_, err = pgx.ForEachRow(rows, []any{&owner, &theirs}, func() error {
		n := len(theirs)
		*missing = append(*missing, fault.Permanent(CodePrivilege, nil, "GRANT "+quoteIdent(owner)+" TO "+quoteIdent(role),
			"role %q may not publish %d tables of %q: %s", role, n, owner, strings.Join(theirs[:min(n, 10)], ", ")))
		return nil
	})
	return err
}

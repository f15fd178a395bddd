package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// Rights does with the sink's login what a pipeline needs it for, in a transaction that is
// rolled back: it writes to the ledger and to each table of the pipeline. A table that has
// to be changed is one that its role owns.
func (s *Sink) Rights(ctx context.Context) error {
	tables, err := s.Tables(ctx)
	if err != nil {
		return err
	}
	undo := errors.New("roll back")
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		for _, of := range []string{"lanes", "tables", "chunks", "watermarks", "dead_letters", "findings", "repairs"} {
			// Rights are looked at before rows are, of which there is none.
			if _, err := tx.Exec(ctx, "DELETE FROM syncline."+of+" WHERE false"); err != nil {
				return err
			}
			var lacks *string
			err := tx.QueryRow(ctx, `SELECT string_agg(p, ', ') FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) p
				WHERE NOT has_table_privilege('syncline.' || $1, p)`, of).Scan(&lacks)
			if err == nil && lacks != nil {
				err = fault.Permanent(sink.CodePrivilege, nil, "GRANT "+*lacks+" ON syncline."+of+" TO it", "the sink's role lacks %s on syncline.%s", *lacks, of)
			}
			if err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, "SELECT nextval('syncline.tokens') WHERE false"); err != nil {
			return err
		}
		for i := range tables {
			t := &tables[i]
			to := pgx.Identifier{t.Options.Schema, t.Options.Name}.Sanitize()
			var there, may bool
			err := tx.QueryRow(ctx, `SELECT c.oid IS NOT NULL, coalesce(pg_has_role(c.relowner, 'USAGE'), false)
				FROM (SELECT to_regclass($1) AS oid) x LEFT JOIN pg_class c ON c.oid = x.oid`, to).Scan(&there, &may)
			switch {
			case err != nil:
				return err
			case there && !may:
				return fault.Permanent(sink.CodePrivilege, nil, "let a role that both users are members of own it, and be what they act as: ALTER ROLE … SET role",
					"table %s belongs to another role than the sink's", to)
			}
		}
		return undo
	})
	if errors.Is(err, undo) {
		return nil
	}
	return s.wrap(ctx, err, "use the rights of the sink's role")
}

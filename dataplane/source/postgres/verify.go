package postgres

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/digest"
	"syncline/dataplane/fault"
	"syncline/dataplane/verify"
	"syncline/dataplane/verify/pgside"
)

var _ verify.Source = (*Server)(nil)

// digesting runs f in a transaction in which the table can be digested.
func (s *Server) digesting(ctx context.Context, t *verify.Subject, what string, f func(tx pgx.Tx, p *digest.Postgres) error) error {
	err := s.inTx(ctx, "", func(tx pgx.Tx) error {
		recode, err := pgside.Begin(ctx, tx)
		if err != nil {
			return err
		}
		from, err := fromClause(ctx, tx, t.Schema.Table)
		if err != nil {
			return err
		}
		p := &digest.Postgres{From: from, Key: t.Schema.Key, Where: t.Where, Recode: recode}
		if t.Shape != nil {
			p.From, p.Where = t.Shape.Relation(from, t.Where), ""
		}
		for i := range t.Schema.Columns {
			c := &t.Schema.Columns[i]
			col := digest.PostgresColumn{Name: quoteIdent(c.Name), Cast: c.Type.Name, Form: digest.Text}
			if root := c.Type.Root(); root.Kind == change.Base {
				col.Base = root.Base
			}
			if i < len(t.Forms) {
				col.Form = t.Forms[i]
			}
			if t.Shape != nil && slices.Contains(t.Shape.Masked(), i) { // its text has a mark
				col.Base = "text"
				col.Finish = func(text []byte) []byte { return t.Shape.Finish(i, text) }
			}
			p.Columns = append(p.Columns, col)
		}
		return f(tx, p)
	})
	return classify(ctx, err, "%s table %s", what, t.Schema.Table)
}

// Position is one that every commit which an earlier statement saw is below. It makes
// a commit behind it, so that a ledger need not wait for one of an idle source.
func (s *Server) Position(ctx context.Context) (change.LSN, error) {
	var text string
	if err := s.pool.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&text); err != nil {
		return 0, classify(ctx, err, "read the source's position")
	}
	if err := s.Heartbeat(ctx); err != nil {
		return 0, err
	}
	return change.ParseLSN(text)
}

// ActiveSessions returns how many sessions of clients, other than its own, run a statement.
func (s *Server) ActiveSessions(ctx context.Context) (active int, err error) {
	var hidden bool
	err = s.pool.QueryRow(ctx, `SELECT count(*) FILTER (WHERE state = 'active'), coalesce(bool_or(query = '<insufficient privilege>'), false)
		FROM pg_catalog.pg_stat_activity WHERE (backend_type = 'client backend' OR backend_type IS NULL) AND pid <> pg_backend_pid()`).Scan(&active, &hidden)
	if err == nil && hidden {
		return 0, fault.Permanent(CodePrivilege, nil, "GRANT pg_read_all_stats to the role, or set no limit of sessions", "the role does not see which sessions are active at the source")
	}
	return active, classify(ctx, err, "count the source's active sessions")
}

// Sum digests a part of a table.
func (s *Server) Sum(ctx context.Context, t *verify.Subject, part digest.Scope) (out digest.Sum, err error) {
	err = s.digesting(ctx, t, "digest", func(tx pgx.Tx, p *digest.Postgres) (err error) {
		out, err = pgside.Sum(ctx, tx, p, part)
		return err
	})
	return out, err
}

// Keys gives the key and the digest of each row of a part.
func (s *Server) Keys(ctx context.Context, t *verify.Subject, part digest.Scope, each func(change.Key, digest.Digest) error) error {
	return s.digesting(ctx, t, "digest", func(tx pgx.Tx, p *digest.Postgres) error {
		return pgside.Keys(ctx, tx, p, t.Schema, part, each)
	})
}

// Next returns the key that ends a part of so many rows; nil if fewer are left.
func (s *Server) Next(ctx context.Context, t *verify.Subject, after []string, rows int) (upTo []string, err error) {
	err = s.digesting(ctx, t, "walk", func(tx pgx.Tx, p *digest.Postgres) (err error) {
		upTo, err = pgside.Next(ctx, tx, p, after, rows)
		return err
	})
	return upTo, err
}

// ReadAt returns those of the rows that are there, and the snapshot that they were read in.
func (s *Server) ReadAt(ctx context.Context, t *verify.Subject, keys []change.Key) (out []verify.Row, seen change.Snapshot, err error) {
	err = s.digesting(ctx, t, "read rows of", func(tx pgx.Tx, p *digest.Postgres) (err error) {
		var text string
		if err = tx.QueryRow(ctx, "SELECT pg_current_snapshot()::text").Scan(&text); err != nil {
			return err
		}
		if seen, err = change.ParseSnapshot(text); err != nil {
			return err
		}
		out, err = read(ctx, tx, p, t, keys)
		return err
	})
	return out, seen, err
}

// Read returns those of the rows that are there.
func (s *Server) Read(ctx context.Context, t *verify.Subject, keys []change.Key) (out []verify.Row, err error) {
	err = s.digesting(ctx, t, "read rows of", func(tx pgx.Tx, p *digest.Postgres) (err error) {
		out, err = read(ctx, tx, p, t, keys)
		return err
	})
	return out, err
}

func read(ctx context.Context, tx pgx.Tx, p *digest.Postgres, t *verify.Subject, keys []change.Key) ([]verify.Row, error) {
	out, err := pgside.Read(ctx, tx, p, t.Schema, keys)
	if err == nil && t.Shape != nil {
		for i := range out {
			t.Shape.FinishRow(out[i].Values)
		}
	}
	return out, err
}

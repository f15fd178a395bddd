package postgres

import (
	"context"
	"errors"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/trail"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Mend writes rows of held keys in one transaction. The locks of their records keep a
// lane from releasing them, and a table from being reset, meanwhile.
func (s *Sink) Mend(ctx context.Context, repair string, b sink.TableBatch) (out sink.Applied, err error) {
	if len(b.Rows) == 0 {
		return out, nil
	}
	id := b.Schema.Table
	x := &session{s: s}
	if err := x.connect(ctx); err != nil {
		return out, err
	}
	defer func() { _ = x.Close() }()
	out, err = x.mend(ctx, repair, b)
	return out, s.wrap(ctx, err, "mend rows of table %s", id)
}

func (x *session) mend(ctx context.Context, repair string, b sink.TableBatch) (out sink.Applied, err error) {
	id := b.Schema.Table
	batch := &sink.Batch{Tables: []sink.TableBatch{b}}
	ops, rejects, err := x.plan(ctx, batch)
	if err != nil {
		return out, err
	}
	err = pgx.BeginFunc(ctx, x.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock_shared(syncline.table_lock($1, $2))", x.s.pipeline, id.String()); err != nil {
			return err
		}
		keys := make([]change.Key, len(b.Rows))
		for i := range b.Rows {
			keys[i] = b.Rows[i].Key
		}
		tag, err := tx.Exec(ctx, `SELECT FROM syncline.repairs WHERE`+ofKeys+` AND held AND state <> 'releasing' AND lease_until > now() FOR UPDATE`,
			x.s.pipeline, repair, id.String(), keyTexts(keys))
		if err != nil {
			return err
		}
		if tag.RowsAffected() < int64(len(keys)) {
			return notHeld(id, repair)
		}
		for i := range ops {
			bad, bytes, err := x.try(ctx, batch, &ops[i], ops[i].rows)
			if err != nil {
				return err
			}
			rejects = append(rejects, bad...)
			out.Bytes += bytes
			if n := len(ops[i].rows) - len(bad); ops[i].kind == opDelete {
				out.Deleted += n
			} else {
				out.Written += n
			}
		}
		return nil
	})
	for _, r := range rejects {
		row := &b.Rows[r.row]
		out.Dead = append(out.Dead, sink.DeadLetter{Partition: sink.Partition{Table: id}, Key: row.Key, Pos: row.Pos, Code: sink.CodeRowRejected, Reason: r.reason})
	}
	return out, err
}

// AppendTrail adds entries to the pipeline's audit trail, as one.
func (s *Sink) AppendTrail(ctx context.Context, entries []trail.Entry) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended('syncline trail ' || $1, 5971))", s.pipeline); err != nil {
			return err
		}
		var n int64
		var hash string
		err := tx.QueryRow(ctx, "SELECT n, hash FROM syncline.audit_trail WHERE pipeline = $1 ORDER BY n DESC LIMIT 1", s.pipeline).Scan(&n, &hash)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		for i := range entries {
			e := entries[i]
			if err := e.Seal(n, hash); err != nil {
				return err
			}
			tag, err := tx.Exec(ctx, `INSERT INTO syncline.audit_trail (pipeline, n, id, at, repair, actor, action, source_table, detail, prev, hash)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::json, $10, $11) ON CONFLICT (pipeline, id) DO NOTHING`,
				s.pipeline, e.N, e.ID, e.At, e.Repair, e.Actor, e.Action, e.Table, orNull(e.Detail), e.Prev, e.Hash)
			if err != nil {
				return err
			}
			if tag.RowsAffected() > 0 {
				n, hash = e.N, e.Hash
			}
		}
		return nil
	})
	var pe *pgconn.PgError
	if errors.As(err, &pe) && pe.ConstraintName == "audit_trail_pkey" {
		err = fault.Transient(CodeConflict, err, "the audit trail grew meanwhile")
	}
	return s.wrap(ctx, err, "append to the audit trail")
}

// Trail gives the pipeline's entries in order.
func (s *Sink) Trail(ctx context.Context, each func(trail.Entry) error) error {
	rows, err := s.pool.Query(ctx, `SELECT n, id, at, repair, actor, action, source_table, detail::text, prev, hash
		FROM syncline.audit_trail WHERE pipeline = $1 ORDER BY n`, s.pipeline)
	if err != nil {
		return s.wrap(ctx, err, "read the audit trail")
	}
	defer rows.Close()
	for rows.Next() {
		var e trail.Entry
		var detail *string
		if err := rows.Scan(&e.N, &e.ID, &e.At, &e.Repair, &e.Actor, &e.Action, &e.Table, &detail, &e.Prev, &e.Hash); err != nil {
			return s.wrap(ctx, err, "read the audit trail")
		}
		if detail != nil {
			e.Detail = []byte(*detail)
		}
		if err := each(e); err != nil {
			return err
		}
	}
	return s.wrap(ctx, rows.Err(), "read the audit trail")
}

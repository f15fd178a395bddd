package postgres

import (
	"context"
	"errors"
	"time"

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
		if err := x.s.shareTable(ctx, tx, id); err != nil {
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
		add, err := s.untold(ctx, tx, entries)
		if err != nil || len(add) == 0 {
			return err
		}
		var text [7][]string
		ns, at, detail := make([]int64, len(add)), make([]time.Time, len(add)), make([]*string, len(add))
		for i := range add {
			e := &add[i]
			if err := e.Seal(n, hash); err != nil {
				return err
			}
			n, hash = e.N, e.Hash
			ns[i], at[i], detail[i] = e.N, e.At, orNull(e.Detail)
			for c, v := range []string{e.ID, e.Repair, e.Actor, e.Action, e.Table, e.Prev, e.Hash} {
				text[c] = append(text[c], v)
			}
		}
		_, err = tx.Exec(ctx, `INSERT INTO syncline.audit_trail (pipeline, n, id, at, repair, actor, action, source_table, detail, prev, hash)
			SELECT $1, u.n, u.id, u.at, u.repair, u.actor, u.action, u.source_table, u.detail::json, u.prev, u.hash
			FROM unnest($2::bigint[], $3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[])
				AS u (n, id, at, repair, actor, action, source_table, detail, prev, hash)`,
			s.pipeline, ns, text[0], at, text[1], text[2], text[3], text[4], detail, text[5], text[6])
		return err
	})
	var pe *pgconn.PgError
	if errors.As(err, &pe) && pe.ConstraintName == "audit_trail_pkey" {
		err = fault.Transient(CodeConflict, err, "the audit trail grew meanwhile")
	}
	return s.wrap(ctx, err, "append to the audit trail")
}

// untold returns the entries that are not in the trail, each once.
func (s *Sink) untold(ctx context.Context, tx pgx.Tx, entries []trail.Entry) ([]trail.Entry, error) {
	ids := make([]string, len(entries))
	for i := range entries {
		ids[i] = entries[i].ID
	}
	rows, err := tx.Query(ctx, "SELECT id FROM syncline.audit_trail WHERE pipeline = $1 AND id = ANY ($2::text[])", s.pipeline, ids)
	if err != nil {
		return nil, err
	}
	there, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	told := make(map[string]bool, len(entries))
	for _, id := range there {
		told[id] = true
	}
	var out []trail.Entry
	for _, e := range entries {
		if !told[e.ID] {
			told[e.ID] = true
			out = append(out, e)
		}
	}
	return out, nil
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

package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// carriedOut is the partition number that marks a barrier as passed.
const carriedOut = -1

// Truncate records that a partition has come to a TRUNCATE. The last partition to
// come empties the table; then each goes on. Until then none has delivered a row
// from behind the barrier, so none is lost.
func (x *session) Truncate(ctx context.Context, mark sink.Watermark, partitions int) (done bool, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	err = pgx.BeginFunc(ctx, x.s.pool, func(tx pgx.Tx) error {
		done, err = x.truncate(ctx, tx, mark, partitions)
		return err
	})
	if err != nil {
		if x.lost != nil {
			err = x.lost
		}
		return false, x.s.wrap(ctx, err, "truncate table %s", mark.Table)
	}
	return done, nil
}

func (x *session) truncate(ctx context.Context, tx pgx.Tx, mark sink.Watermark, partitions int) (bool, error) {
	if err := x.hold(ctx, tx); err != nil {
		return false, err
	}
	if err := x.s.lockTable(ctx, tx, mark.Table); err != nil {
		return false, err
	}
	t, err := x.s.table(ctx, tx, mark.Table)
	if err != nil {
		return false, err
	}
	if e, ok := x.epochs[mark.Table]; t.State != sink.Streaming || ok && e != t.Epoch {
		return false, fault.Permanent(sink.CodeNotStreaming, nil, "read the tables again", "table %s is %s in epoch %d", mark.Table, t.State, t.Epoch)
	}
	ws, err := x.s.watermarks(ctx, tx, []sink.Partition{mark.Partition})
	if err != nil {
		return false, err
	}
	if !ws[0].Pos.Before(mark.Pos) {
		return true, nil
	}
	id, pos := mark.Table.String(), mark.Pos
	args := []any{x.s.pipeline, id, int64(pos.Epoch), pos.Commit.String(), int64(pos.Ordinal)}
	const at = " pipeline = $1 AND source_table = $2 AND epoch = $3 AND lsn = $4::text::pg_lsn AND ordinal = $5"
	const arrive = `INSERT INTO syncline.barriers (pipeline, source_table, epoch, lsn, ordinal, partition)
		VALUES ($1, $2, $3, $4::text::pg_lsn, $5, $6) ON CONFLICT DO NOTHING`
	if _, err := tx.Exec(ctx, arrive, append(args, mark.N)...); err != nil {
		return false, err
	}
	var arrived int
	var passed bool
	if err := tx.QueryRow(ctx, "SELECT count(*) FILTER (WHERE partition >= 0), coalesce(bool_or(partition < 0), false) FROM syncline.barriers WHERE"+at, args...).Scan(&arrived, &passed); err != nil {
		return false, err
	}
	if !passed {
		if arrived < partitions {
			return false, nil
		}
		target := name(mark.Table, t.Options)
		r, err := x.s.relation(ctx, tx, target)
		if err != nil {
			return false, err
		}
		if r == nil {
			return false, fault.Permanent(sink.CodeTableMismatch, nil, "restore the table, or resync it", "table %s is not at the sink", target)
		}
		if err := emptyTable(ctx, tx, target, r); err != nil {
			return false, err
		}
		if err := x.s.emptyPartials(ctx, tx, mark.Table); err != nil {
			return false, err
		}
		// What is streamed from here on is complete without the chunks.
		if _, err := tx.Exec(ctx, "DELETE FROM syncline.chunks WHERE pipeline = $1 AND source_table = $2", x.s.pipeline, id); err != nil {
			return false, err
		}
		// What was set aside before it is gone, too; held keys have no row now.
		if _, err := tx.Exec(ctx, `UPDATE syncline.dead_letters SET resolved_at = now(), resolution = 'truncated'
			WHERE pipeline = $1 AND source_table = $2 AND resolved_at IS NULL AND (epoch, lsn, ordinal) < ($3, $4::text::pg_lsn, $5)`, args...); err != nil {
			return false, err
		}
		if _, err := tx.Exec(ctx, `UPDATE syncline.repairs SET epoch = $3, lsn = $4::text::pg_lsn, ordinal = $5, snapshot = '', updated_at = now()
			WHERE pipeline = $1 AND source_table = $2 AND held AND (epoch, lsn, ordinal) < ($3, $4::text::pg_lsn, $5)`, args...); err != nil {
			return false, err
		}
		if _, err := tx.Exec(ctx, arrive, append(args, carriedOut)...); err != nil {
			return false, err
		}
	}
	_, err = tx.Exec(ctx, `INSERT INTO syncline.watermarks (pipeline, source_table, partition, epoch, lsn, ordinal, "offset")
		VALUES ($1, $2, $6, $3, $4::text::pg_lsn, $5, $7)
		ON CONFLICT (pipeline, source_table, partition) DO UPDATE SET epoch = EXCLUDED.epoch, lsn = EXCLUDED.lsn,
			ordinal = EXCLUDED.ordinal, "offset" = EXCLUDED."offset", moved_at = now(), `+aheadSQL, append(args, mark.N, mark.Offset)...)
	if err != nil {
		return false, err
	}
	// Once all are past it nobody asks for the barrier again.
	_, err = tx.Exec(ctx, `DELETE FROM syncline.barriers WHERE`+at+` AND (SELECT count(*) FROM syncline.watermarks w
		WHERE w.pipeline = $1 AND w.source_table = $2 AND (w.epoch, w.lsn, w.ordinal) >= ($3, $4::text::pg_lsn, $5)) >= $6`, append(args, partitions)...)
	return true, err
}

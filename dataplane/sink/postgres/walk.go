package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// SaveWalk records how far a verification has come with a table.
func (s *Sink) SaveWalk(ctx context.Context, table change.TableID, w sink.Walk) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO syncline.verifications (pipeline, source_table, run, epoch, state, offsets, saved_at)
		VALUES ($1, $2, $3, $4, $5::text::json, $6, clock_timestamp())
		ON CONFLICT (pipeline, source_table, run) DO UPDATE SET epoch = excluded.epoch, state = excluded.state, offsets = excluded.offsets, saved_at = excluded.saved_at`,
		s.pipeline, table.String(), w.Run, int64(w.Epoch), string(w.State), w.Offsets)
	return s.wrap(ctx, err, "record how far the verification of table %s is", table)
}

// LoadWalk returns how far a verification has come with a table.
func (s *Sink) LoadWalk(ctx context.Context, run string, table change.TableID) (sink.Walk, error) {
	return s.walk(ctx, table, "AND run = $3", run)
}

// LastWalk returns the newest walk of a table that has offsets.
func (s *Sink) LastWalk(ctx context.Context, table change.TableID) (sink.Walk, error) {
	return s.walk(ctx, table, "AND offsets IS NOT NULL ORDER BY saved_at DESC, run DESC LIMIT 1")
}

func (s *Sink) walk(ctx context.Context, table change.TableID, which string, args ...any) (w sink.Walk, err error) {
	var epoch int64
	err = s.pool.QueryRow(ctx, "SELECT run, epoch, state::text, offsets FROM syncline.verifications WHERE pipeline = $1 AND source_table = $2 "+which,
		append([]any{s.pipeline, table.String()}, args...)...).Scan(&w.Run, &epoch, &w.State, &w.Offsets)
	if errors.Is(err, pgx.ErrNoRows) {
		return sink.Walk{}, nil
	}
	w.Epoch = uint32(epoch)
	return w, s.wrap(ctx, err, "read how far the verification of table %s is", table)
}

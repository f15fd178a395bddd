package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/pgtext"
	"syncline/dataplane/sink"
	"syncline/tiers/aggregate"
)

// PlanChunks records the cut of a table, or returns the one that is recorded.
func (s *Sink) PlanChunks(ctx context.Context, id change.TableID, cut []sink.Chunk) (out []sink.Chunk, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var planned bool
		err := tx.QueryRow(ctx, "SELECT planned FROM syncline.tables WHERE pipeline = $1 AND source_table = $2 FOR UPDATE", s.pipeline, id.String()).Scan(&planned)
		if errors.Is(err, pgx.ErrNoRows) {
			return unknownTable(id)
		}
		if err != nil {
			return err
		}
		if !planned {
			_, err = tx.CopyFrom(ctx, pgx.Identifier{"syncline", "chunks"}, []string{"pipeline", "source_table", "n", "cut_by", "after", "up_to"},
				pgx.CopyFromSlice(len(cut), func(i int) ([]any, error) {
					return []any{s.pipeline, id.String(), int32(cut[i].N), cut[i].By, cut[i].After, cut[i].UpTo}, nil
				}))
			if err != nil {
				return err
			}
			if _, err = tx.Exec(ctx, "UPDATE syncline.tables SET planned = true, updated_at = now() WHERE pipeline = $1 AND source_table = $2", s.pipeline, id.String()); err != nil {
				return err
			}
		}
		out, err = s.chunks(ctx, tx, id, "")
		return err
	})
	return out, s.wrap(ctx, err, "plan the chunks of table %s", id)
}

// Chunk returns one chunk of the plan.
func (s *Sink) Chunk(ctx context.Context, id change.TableID, n int) (sink.Chunk, *change.Schema, error) {
	t, err := s.Table(ctx, id)
	if err != nil {
		return sink.Chunk{}, nil, err
	}
	c, err := s.chunk(ctx, s.pool, id, n)
	return c, t.Schema, err
}

func (s *Sink) chunk(ctx context.Context, q querier, id change.TableID, n int) (sink.Chunk, error) {
	cs, err := s.chunks(ctx, q, id, " AND n = $3", n)
	if err == nil && len(cs) == 0 {
		err = fault.Permanent(CodeUnknownTable, nil, "plan the table's chunks first", "chunk %d of table %s is not planned", n, id)
	}
	if err != nil {
		return sink.Chunk{}, s.wrap(ctx, err, "read chunk %d of table %s", n, id)
	}
	return cs[0], nil
}

// LoadChunk copies a chunk and records it as done, in one transaction.
func (s *Sink) LoadChunk(ctx context.Context, id change.TableID, n int, seen sink.Loaded, copy sink.CopyFunc, progress func(int64)) (sink.Chunk, error) {
	c, err := s.loadChunk(ctx, id, n, seen, copy, progress)
	return c, s.wrap(ctx, err, "load chunk %d of table %s", n, id)
}

func (s *Sink) loadChunk(ctx context.Context, id change.TableID, n int, seen sink.Loaded, copy sink.CopyFunc, progress func(int64)) (sink.Chunk, error) {
	if seen.Sort != nil {
		c, err := s.chunk(ctx, s.pool, id, n)
		if err == nil && !c.Done {
			err = s.MakePartials(ctx, id, seen.Sort.Plans)
		}
		if err != nil || c.Done {
			return c, err
		}
	}
	// One connection for everything: a second one while this is held would let
	// loaders that run side by side wait for each other.
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return sink.Chunk{}, err
	}
	defer conn.Release()
	c, err := s.chunk(ctx, conn, id, n)
	if err != nil || c.Done {
		return c, err
	}
	attempt, err := s.takeChunk(ctx, conn.Conn(), id, n)
	if err != nil {
		return c, err
	}
	err = pgx.BeginFunc(ctx, conn.Conn(), func(tx pgx.Tx) error {
		t, err := s.table(ctx, tx, id)
		if err != nil {
			return err
		}
		if t.State != sink.Loading {
			return fault.Permanent(sink.CodeNotStreaming, nil, "load a table again by a resync", "table %s is %s, not loading", id, t.State)
		}
		var done, mine bool
		err = tx.QueryRow(ctx, `SELECT done, attempt = $4 FROM syncline.chunks WHERE pipeline = $1 AND source_table = $2 AND n = $3 FOR UPDATE`,
			s.pipeline, id.String(), n, attempt).Scan(&done, &mine)
		if err != nil || done {
			return err
		}
		if !mine {
			return fault.Permanent(CodeChunkTaken, nil, "stop this attempt; the newer one goes on", "a newer attempt loads the chunk")
		}
		p := newPipe(progress)
		rows, bytes, err := s.copyRows(ctx, tx, t, p, copy, seen.Sort.Sorter(id, n, attempt, func(plan *aggregate.Plan, rows []change.Row) error {
			return p.between(func() error { return s.copyPartials(ctx, tx, t, p, plan, rows) })
		}))
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE syncline.chunks SET done = true, snapshot = $4, lsn = $5::text::pg_lsn, rows = $6, bytes = $7,
				backend = NULL, backend_start = NULL, finished_at = now()
			WHERE pipeline = $1 AND source_table = $2 AND n = $3`,
			s.pipeline, id.String(), n, seen.Snapshot.String(), seen.LSN.String(), rows, bytes)
		return err
	})
	if err != nil {
		return c, err
	}
	return s.chunk(ctx, conn, id, n)
}

// takeChunk ends the backend of an earlier attempt at the chunk: its worker is
// gone or stopped, and its open transaction would block this one for ever.
func (s *Sink) takeChunk(ctx context.Context, conn *pgx.Conn, id change.TableID, n int) (attempt int, err error) {
	err = conn.QueryRow(ctx, `
		WITH old AS (
			SELECT backend, backend_start FROM syncline.chunks WHERE pipeline = $1 AND source_table = $2 AND n = $3
		), ended AS (
			SELECT count(pg_terminate_backend(a.pid)) FROM old
			JOIN pg_stat_activity a ON a.pid = old.backend AND a.backend_start = old.backend_start AND a.pid <> pg_backend_pid()
		)
		SELECT count FROM ended`, s.pipeline, id.String(), n).Scan(&attempt)
	if err != nil {
		return 0, err
	}
	err = conn.QueryRow(ctx, `
		UPDATE syncline.chunks SET attempt = attempt + 1, backend = pg_backend_pid(),
			backend_start = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
		WHERE pipeline = $1 AND source_table = $2 AND n = $3 RETURNING attempt`, s.pipeline, id.String(), n).Scan(&attempt)
	return attempt, err
}

// copyRows pipes the source's COPY into the sink's. What sorter takes of the rows, if there
// is one, is among those that are returned.
func (s *Sink) copyRows(ctx context.Context, tx pgx.Tx, t record, p *pipe, copy sink.CopyFunc, sorter *sink.Sorter) (rows, bytes int64, err error) {
	target := name(t.ID, t.Options)
	r, err := s.relation(ctx, tx, target)
	if err != nil {
		return 0, 0, err
	}
	if r == nil {
		return 0, 0, fault.Permanent(sink.CodeTableMismatch, nil, "resync the table", "table %s is not at the sink", target)
	}
	binary := sorter == nil // the text of values tells which rows are the table's
	for i := range t.Schema.Columns {
		c := r.column(t.Schema.Columns[i].Name)
		if c == nil {
			return 0, 0, fault.Permanent(sink.CodeTableMismatch, nil, "restore the column, or resync the table",
				"table %s at the sink has no column %q", target, t.Schema.Columns[i].Name)
		}
		binary = binary && binaryEqual(&t.Schema.Columns[i].Type, c)
	}
	into := quoted(target)
	over := t.Options.Existing == sink.KeepRows && !appends(t.Schema, t.Options) && r.keyed(t.Schema.KeyNames())
	if over {
		// Rows of equal key are replaced, which COPY cannot do.
		into = "pg_temp.syncline_chunk"
		sql := fmt.Sprintf("CREATE TEMP TABLE syncline_chunk ON COMMIT DROP AS SELECT %s FROM %s WITH NO DATA", columnList(t.Schema), quoted(target))
		if _, err := tx.Exec(ctx, sql); err != nil {
			return 0, 0, err
		}
	}
	format := "text"
	if binary {
		format = "binary"
	}
	if sorter != nil {
		copy = sorted(len(t.Schema.Columns), sorter, copy)
	}
	rows, bytes, err = pump(ctx, tx.Conn().PgConn(), fmt.Sprintf("COPY %s (%s) FROM STDIN (FORMAT %s)", into, columnList(t.Schema), format), binary, copy, p)
	rows += sorter.Rows()
	if err != nil {
		return 0, 0, copyFault(err)
	}
	if over {
		tg := newTarget(t.Schema, t.Options, r)
		if _, err := tx.Exec(ctx, tg.upsertFrom(into)); err != nil {
			return 0, 0, err
		}
	}
	return rows, bytes, nil
}

// longestRow is what the text of a row may be long: Postgres has no longer values.
const longestRow = 1 << 30

// sorted copies rows of the table alone, as text: sorter has the others, and is closed
// behind the last.
func sorted(columns int, sorter *sink.Sorter, copy sink.CopyFunc) sink.CopyFunc {
	return func(ctx context.Context, w io.Writer, _ bool) (int64, error) {
		var in *pgtext.CopyWriter
		var line []byte
		in = pgtext.NewCopyWriter(columns, longestRow, func(row change.Row) error {
			if taken, err := sorter.Take(row); err != nil || taken {
				return err
			}
			line = append(append(line[:0], in.Line()...), '\n')
			_, err := w.Write(line)
			return err
		})
		rows, err := copy(ctx, in, false)
		if err == nil {
			err = in.Close()
		}
		if err == nil && in.Rows() != rows {
			err = fault.Transient(CodeFailed, nil, "the source sent %d rows, of which %d arrived", rows, in.Rows())
		}
		if err == nil {
			err = sorter.Close()
		}
		return rows - sorter.Rows(), err
	}
}

func pump(ctx context.Context, conn *pgconn.PgConn, sql string, binary bool, copy sink.CopyFunc, p *pipe) (int64, int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var rows, taken int64
	var rerr error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		rows, rerr = copy(ctx, p, binary)
		p.finish(rerr)
	}()
	var err error
	for more := true; more && err == nil; more = err == nil && p.yields() {
		var tag pgconn.CommandTag
		tag, err = conn.CopyFrom(ctx, p, sql)
		taken += tag.RowsAffected()
	}
	if err != nil {
		p.stop(err)
		cancel() // the reader may be waiting for its server
	}
	<-ended
	switch {
	case err != nil && rerr != nil && !errors.Is(rerr, err) && !errors.Is(rerr, context.Canceled):
		return 0, 0, rerr // the source failed first; the sink only reports that the copy was given up
	case err != nil:
		return 0, 0, err
	case taken != rows:
		return 0, 0, fault.Transient(CodeFailed, nil, "the source sent %d rows, the sink counted %d", rows, taken)
	}
	return rows, p.n, nil
}

var copyContext = regexp.MustCompile(`^COPY [^,]+, line \d+(, column "?[^":]+"?)?`)

// copyFault names line and column of a row that the sink does not take; the rest
// of Postgres's context repeats values.
func copyFault(err error) error {
	pe, ok := rejects(err)
	if !ok {
		return err
	}
	what := describe(pe)
	if where := copyContext.FindString(strings.SplitN(pe.Where, "\n", 2)[0]); where != "" {
		what += " at " + where
	}
	return fault.Permanent(sink.CodeRowRejected, nil, "correct the row at the source or the sink's definition, then resync the table",
		"the sink does not take a row: %s", what)
}

// BeginLog records from where the table's delivery begins.
func (s *Sink) BeginLog(ctx context.Context, id change.TableID, log []sink.LogRange, again bool) error {
	from, ends := make([]int64, len(log)), make([]int64, len(log))
	for i, r := range log {
		from[i], ends[i] = r.From, r.End
	}
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := s.lockTable(ctx, tx, id); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO syncline.watermarks (pipeline, source_table, partition, epoch, lsn, ordinal, "offset")
			SELECT $1, $2, n - 1, 0, '0/0', 0, f FROM unnest($3::bigint[]) WITH ORDINALITY AS a (f, n) ON CONFLICT DO NOTHING`, s.pipeline, id.String(), from); err != nil || !again {
			return err
		}
		// Once it is planned, chunks may have been read in an older snapshot.
		_, err := tx.Exec(ctx, `UPDATE syncline.watermarks w SET "offset" = a.f, moved_at = now(),
				ahead_epoch = NULL, ahead_lsn = NULL, ahead_ordinal = NULL, ahead_offset = NULL, waits = NULL, oldest = NULL, rules = NULL, backlogs = NULL
			FROM unnest($3::bigint[], $4::bigint[]) WITH ORDINALITY AS a (f, e, n)
			WHERE w.pipeline = $1 AND w.source_table = $2 AND w.partition = a.n - 1 AND (w."offset" < a.f OR coalesce(w.ahead_offset, w."offset") > a.e)
			AND EXISTS (SELECT FROM syncline.tables t WHERE t.pipeline = $1 AND t.source_table = $2 AND t.state = 'loading' AND NOT t.planned)`,
			s.pipeline, id.String(), from, ends)
		return err
	})
	return s.wrap(ctx, err, "begin the log of table %s", id)
}

// FinishLoad builds the primary key of a table that Syncline created and sets
// the table to streaming.
func (s *Sink) FinishLoad(ctx context.Context, id change.TableID) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := s.lockTable(ctx, tx, id); err != nil {
			return err
		}
		t, err := s.table(ctx, tx, id)
		if err != nil || t.State == sink.Streaming {
			return err
		}
		var planned bool
		if err := tx.QueryRow(ctx, "SELECT planned FROM syncline.tables WHERE pipeline = $1 AND source_table = $2", s.pipeline, id.String()).Scan(&planned); err != nil {
			return err
		}
		if t.State != sink.Loading {
			return fault.Permanent(sink.CodeNotStreaming, nil, "resync the table", "table %s is %s, not loading", id, t.State)
		}
		if !planned || t.Done < t.Chunks {
			return fault.Transient(CodeLoadIncomplete, nil, "table %s has %d of %d chunks (planned: %t)", id, t.Done, t.Chunks, planned)
		}
		if err := s.buildKey(ctx, tx, t); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "ANALYZE "+quoted(name(id, t.Options))); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO syncline.watermarks (pipeline, source_table, partition, epoch, lsn, ordinal, "offset")
			SELECT $1, $2, n, 0, '0/0', 0, -1 FROM generate_series(0, $3::int - 1) n ON CONFLICT DO NOTHING`, s.pipeline, id.String(), t.Partitions); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE syncline.tables SET state = 'streaming', chunks = $3, rows = $4, bytes = $5,
				loaded_to = $6::text::pg_lsn, updated_at = now() WHERE pipeline = $1 AND source_table = $2`,
			s.pipeline, id.String(), t.Chunks, t.Rows, t.Bytes, t.LoadedTo.String())
		return err
	})
	return s.wrap(ctx, err, "finish the load of table %s", id)
}

// endLoaders ends the backends that load chunks of a table which is given up: a
// stopped worker's open COPY would keep the table locked.
func (s *Sink) endLoaders(ctx context.Context, tx pgx.Tx, id change.TableID) error {
	_, err := tx.Exec(ctx, `SELECT pg_terminate_backend(a.pid) FROM syncline.chunks c
		JOIN pg_stat_activity a ON a.pid = c.backend AND a.backend_start = c.backend_start AND a.pid <> pg_backend_pid()
		WHERE c.pipeline = $1 AND c.source_table = $2 AND NOT c.done`, s.pipeline, id.String())
	return err
}

// buildKey adds the primary key. Sorting all rows once is faster than placing
// each in the index as it comes, most of all for keys that arrive in no order.
func (s *Sink) buildKey(ctx context.Context, tx pgx.Tx, t record) error {
	if !t.created || appends(t.Schema, t.Options) {
		return nil
	}
	target := name(t.ID, t.Options)
	r, err := s.relation(ctx, tx, target)
	if err != nil || r == nil || r.keyed(t.Schema.KeyNames()) {
		return err
	}
	if _, err := tx.Exec(ctx, "SELECT set_config('maintenance_work_mem', greatest(pg_size_bytes(current_setting('maintenance_work_mem')), 256 * 1024 * 1024)::text || 'B', true)"); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "ALTER TABLE "+quoted(target)+" ADD PRIMARY KEY ("+identList(t.Schema.KeyNames())+")")
	return err
}

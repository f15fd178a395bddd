package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// querier is a connection, a transaction or the pool.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// tablesSQL sums up chunks only while a table is loading: lanes poll it, and a
// finished load keeps its sums in the table's own row.
const tablesSQL = `
SELECT t.source_table, t.state, t.reason, t.partitions, t.epoch, t.schema, t.options, t.created, t.schema_epoch, t.schema_lsn::text, t.schema_ordinal, t.holds,
	t.due_epoch, t.due_lsn::text, t.due_tiers,
	CASE WHEN c.n IS NULL THEN t.chunks ELSE c.n END,
	coalesce(c.done, t.chunks), coalesce(c.rows, t.rows), coalesce(c.bytes, t.bytes), coalesce(c.lsn, t.loaded_to)::text
FROM syncline.tables t
LEFT JOIN LATERAL (
	SELECT count(*)::int AS n, (count(*) FILTER (WHERE k.done))::int AS done,
		coalesce(sum(k.rows), 0)::bigint AS rows, coalesce(sum(k.bytes), 0)::bigint AS bytes,
		coalesce(max(k.lsn), '0/0') AS lsn
	FROM syncline.chunks k WHERE k.pipeline = t.pipeline AND k.source_table = t.source_table
) c ON t.state = 'loading'
WHERE t.pipeline = $1`

// record is a row of syncline.tables.
type record struct {
	sink.Table
	created  bool
	schemaAt change.Position // of the change that brought the schema; zero if it is that of the load
}

// dueTier is where what waits in one tier is to be applied up to.
type dueTier struct {
	Epoch uint32 `json:"epoch"`
	LSN   string `json:"lsn"`
}

func scanTable(row pgx.CollectableRow) (record, error) {
	var r record
	var id, state, lsn, schemaLSN, due string
	var schema, options []byte
	var dueEpoch uint32
	var tiers map[string]dueTier
	err := row.Scan(&id, &state, &r.Reason, &r.Partitions, &r.Epoch, &schema, &options, &r.created, &r.schemaAt.Epoch, &schemaLSN, &r.schemaAt.Ordinal, &r.Holds,
		&dueEpoch, &due, &tiers, &r.Chunks, &r.Done, &r.Rows, &r.Bytes, &lsn)
	if err != nil {
		return r, err
	}
	r.State = sink.State(state)
	if r.ID, err = change.ParseTableID(id); err != nil {
		return r, err
	}
	if r.LoadedTo, err = change.ParseLSN(lsn); err != nil {
		return r, err
	}
	if r.schemaAt.Commit, err = change.ParseLSN(schemaLSN); err != nil {
		return r, err
	}
	tiers[sink.AllTiers] = dueTier{dueEpoch, due}
	for tier, d := range tiers {
		at := change.Position{Epoch: d.Epoch}
		if at.Commit, err = change.ParseLSN(d.LSN); err != nil {
			return r, err
		}
		if at.IsZero() {
			continue
		}
		if r.Due == nil {
			r.Due = map[string]change.Position{}
		}
		r.Due[tier] = at
	}
	r.Schema = new(change.Schema)
	return r, errors.Join(json.Unmarshal(schema, r.Schema), json.Unmarshal(options, &r.Options))
}

// Tables returns the pipeline's tables.
func (s *Sink) Tables(ctx context.Context) ([]sink.Table, error) {
	rows, err := s.pool.Query(ctx, tablesSQL+" ORDER BY t.source_table", s.pipeline)
	if err != nil {
		return nil, s.wrap(ctx, err, "read the tables")
	}
	rs, err := pgx.CollectRows(rows, scanTable)
	if err != nil {
		return nil, s.wrap(ctx, err, "read the tables")
	}
	out := make([]sink.Table, len(rs))
	for i := range rs {
		out[i] = rs[i].Table
	}
	return out, nil
}

// Table returns one of the pipeline's tables.
func (s *Sink) Table(ctx context.Context, id change.TableID) (sink.Table, error) {
	r, err := s.table(ctx, s.pool, id)
	return r.Table, s.wrap(ctx, err, "read table %s", id)
}

// table returns the ledger's record of a table, or an UnknownTable fault.
func (s *Sink) table(ctx context.Context, q querier, id change.TableID) (record, error) {
	rows, err := q.Query(ctx, tablesSQL+" AND t.source_table = $2", s.pipeline, id.String())
	if err != nil {
		return record{}, err
	}
	r, err := pgx.CollectExactlyOneRow(rows, scanTable)
	if errors.Is(err, pgx.ErrNoRows) {
		return record{}, unknownTable(id)
	}
	return r, err
}

const watermarksSQL = `SELECT source_table, partition, epoch, lsn::text, ordinal, "offset",
	coalesce(ahead_epoch, 0), coalesce(ahead_lsn, '0/0')::text, coalesce(ahead_ordinal, 0), coalesce(ahead_offset, 0), coalesce(waits, 0),
	coalesce((extract(epoch FROM oldest) * 1000000)::bigint, 0), coalesce(rules, ''), backlogs
FROM syncline.watermarks WHERE pipeline = $1`

func scanWatermark(row pgx.CollectableRow) (w sink.Watermark, err error) {
	var id, lsn, ahead string
	var epoch, ordinal int64
	h := &w.Ahead
	var parts *backlogs
	if err = row.Scan(&id, &w.N, &epoch, &lsn, &ordinal, &w.Offset, &h.Pos.Epoch, &ahead, &h.Pos.Ordinal, &h.Offset, &h.Waits, &h.Oldest, &h.Rules, &parts); err != nil {
		return w, err
	}
	if parts != nil {
		h.Tied, h.Tiers = parts.Tied, parts.Tiers
	}
	if h.Pos.Commit, err = change.ParseLSN(ahead); err != nil {
		return w, err
	}
	w.Pos.Epoch, w.Pos.Ordinal = uint32(epoch), uint32(ordinal)
	if w.Table, err = change.ParseTableID(id); err != nil {
		return w, err
	}
	w.Pos.Commit, err = change.ParseLSN(lsn)
	return w, err
}

// Watermarks returns all of the pipeline's.
func (s *Sink) Watermarks(ctx context.Context) ([]sink.Watermark, error) {
	rows, err := s.pool.Query(ctx, watermarksSQL+" ORDER BY 1, 2", s.pipeline)
	if err != nil {
		return nil, s.wrap(ctx, err, "read the watermarks")
	}
	ws, err := pgx.CollectRows(rows, scanWatermark)
	return ws, s.wrap(ctx, err, "read the watermarks")
}

// watermarks returns those of the partitions, in their order.
func (s *Sink) watermarks(ctx context.Context, q querier, ps []sink.Partition) ([]sink.Watermark, error) {
	ids, ns := make([]string, len(ps)), make([]int, len(ps))
	out := make([]sink.Watermark, len(ps))
	for i, p := range ps {
		ids[i], ns[i] = p.Table.String(), p.N
		out[i] = sink.Watermark{Partition: p, Offset: -1}
	}
	rows, err := q.Query(ctx, watermarksSQL+` AND (source_table, partition) IN (SELECT * FROM unnest($2::text[], $3::int[]))`, s.pipeline, ids, ns)
	if err != nil {
		return nil, err
	}
	ws, err := pgx.CollectRows(rows, scanWatermark)
	for _, w := range ws {
		if i := slices.Index(ps, w.Partition); i >= 0 {
			out[i] = w
		}
	}
	return out, err
}

const chunksSQL = `SELECT n, cut_by, after, up_to, done, snapshot, lsn::text, rows, bytes FROM syncline.chunks WHERE pipeline = $1 AND source_table = $2`

func scanChunk(row pgx.CollectableRow) (c sink.Chunk, err error) {
	var snapshot, lsn string
	if err = row.Scan(&c.N, &c.By, &c.After, &c.UpTo, &c.Done, &snapshot, &lsn, &c.Rows, &c.Bytes); err != nil {
		return c, err
	}
	if snapshot != "" {
		if c.Snapshot, err = change.ParseSnapshot(snapshot); err != nil {
			return c, err
		}
	}
	c.LSN, err = change.ParseLSN(lsn)
	return c, err
}

func (s *Sink) chunks(ctx context.Context, q querier, id change.TableID, filter string, args ...any) ([]sink.Chunk, error) {
	rows, err := q.Query(ctx, chunksSQL+filter+" ORDER BY n", append([]any{s.pipeline, id.String()}, args...)...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanChunk)
}

// Forget removes the pipeline from the ledger; rows stay, and so does the audit trail.
func (s *Sink) Forget(ctx context.Context) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := s.dropHeld(ctx, tx, nil); err != nil {
			return err
		}
		for _, t := range []string{"lanes", "barriers", "chunks", "watermarks", "dead_letters", "findings", "verifications", "repairs", "erasures", "tables"} {
			if _, err := tx.Exec(ctx, "DELETE FROM syncline."+t+" WHERE pipeline = $1", s.pipeline); err != nil {
				return err
			}
		}
		return nil
	})
	return s.wrap(ctx, err, "forget the pipeline")
}

package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// errDamagedKey is without the key, which is row data.
var errDamagedKey = errors.New("damaged key in syncline.repairs")

func notHeld(id change.TableID, repair string) error {
	return fault.Permanent(sink.CodeNotHeld, nil, "plan the repair anew", "repair %s does not hold all of its keys of table %s", repair, id)
}

// putSQL records keys; one that is not held gets there by Hold only. Their columns are
// a JSON array, since arrays of arrays have to be of one length.
const putSQL = `INSERT INTO syncline.repairs AS r (pipeline, repair, source_table, key, state, kind, columns, made_from, why, before, after, epoch, lsn, ordinal, snapshot, reason)
SELECT $1, $2, $3, u.key, u.state, u.kind, ARRAY(SELECT json_array_elements_text(u.columns::json)), u.made_from, u.why, u.before::json, u.after::json, u.epoch, u.lsn::pg_lsn, u.ordinal, u.snapshot, u.reason
FROM unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::bigint[], $13::text[], $14::bigint[], $15::text[], $16::text[], $17::boolean[])
	AS u (key, state, kind, columns, made_from, why, before, after, epoch, lsn, ordinal, snapshot, reason, held)
WHERE NOT u.held OR EXISTS (SELECT FROM syncline.repairs o WHERE o.pipeline = $1 AND o.repair = $2 AND o.source_table = $3 AND md5(o.key) = md5(u.key) AND o.held)
ON CONFLICT (pipeline, repair, source_table, md5(key)) DO UPDATE SET state = EXCLUDED.state, kind = EXCLUDED.kind, columns = EXCLUDED.columns,
	made_from = EXCLUDED.made_from, why = EXCLUDED.why, before = EXCLUDED.before, after = EXCLUDED.after, epoch = EXCLUDED.epoch, lsn = EXCLUDED.lsn,
	ordinal = EXCLUDED.ordinal, snapshot = EXCLUDED.snapshot, reason = EXCLUDED.reason, updated_at = now()
WHERE EXCLUDED.state IN ('suspected', 'released', 'failed') OR r.held`

// PutRepair records keys of a table under a repair, as one. The lock keeps it from
// meeting, in another order, a Hold of the same keys.
func (s *Sink) PutRepair(ctx context.Context, repair string, id change.TableID, keys []sink.RepairKey) error {
	n := len(keys)
	if n == 0 {
		return nil
	}
	var text [9][]string
	for i := range text {
		text[i] = make([]string, 0, n)
	}
	before, after, held := make([]*string, n), make([]*string, n), make([]bool, n)
	epochs, ordinals := make([]int64, n), make([]int64, n)
	for i := range keys {
		k := &keys[i]
		columns, err := json.Marshal(append([]string{}, k.Columns...))
		if err != nil {
			return fmt.Errorf("encode a key of repair %s: %w", repair, err)
		}
		snapshot := ""
		if k.Snapshot.XMax > 0 {
			snapshot = k.Snapshot.String()
		}
		for c, v := range []string{k.Key.String(), string(k.State), k.Kind, string(columns), k.From, k.Why, k.At.Commit.String(), snapshot, k.Reason} {
			text[c] = append(text[c], v)
		}
		before[i], after[i], held[i] = orNull(k.Before), orNull(k.After), k.State.Held()
		epochs[i], ordinals[i] = int64(k.At.Epoch), int64(k.At.Ordinal)
	}
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := s.shareTable(ctx, tx, id); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, putSQL, s.pipeline, repair, id.String(), text[0], text[1], text[2], text[3], text[4], text[5], before, after, epochs, text[6], ordinals, text[7], text[8], held)
		if err == nil && tag.RowsAffected() < int64(n) {
			err = notHeld(id, repair)
		}
		return err
	})
	return s.wrap(ctx, err, "record a repair of table %s", id)
}

// shareTable keeps a table's holds, and the table, as they are until the end of tx.
func (s *Sink) shareTable(ctx context.Context, tx pgx.Tx, id change.TableID) error {
	_, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock_shared(syncline.table_lock($1, $2))", s.pipeline, id.String())
	return err
}

func orNull(j json.RawMessage) *string {
	if len(j) == 0 {
		return nil
	}
	text := string(j)
	return &text
}

// Repair returns keys of a table that a repair has, in the order of the index.
func (s *Sink) Repair(ctx context.Context, repair string, id change.TableID, part sink.RepairPart) ([]sink.RepairKey, error) {
	q, args := `SELECT key, state, kind, columns, made_from, why, before::text, after::text, epoch, lsn::text, ordinal, snapshot, reason
		FROM syncline.repairs WHERE`+ofRepair, []any{s.pipeline, repair, id.String()}
	add := func(condition string, arg any) {
		args = append(args, arg)
		q += fmt.Sprintf(condition, len(args))
	}
	if len(part.States) > 0 {
		add(" AND state = ANY ($%d::text[])", part.States)
	}
	if part.After != "" {
		add(" AND md5(key) > md5($%d::text)", part.After.String())
	}
	q += " ORDER BY md5(key)"
	if part.Most > 0 {
		add(" LIMIT $%d", part.Most)
	}
	rows, err := s.pool.Query(ctx, q, args...)
	if err != nil {
		return nil, s.wrap(ctx, err, "read the repair of table %s", id)
	}
	ks, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k sink.RepairKey, err error) {
		var key, state, lsn, snapshot string
		var before, after *string
		var epoch, ordinal int64
		if err = row.Scan(&key, &state, &k.Kind, &k.Columns, &k.From, &k.Why, &before, &after, &epoch, &lsn, &ordinal, &snapshot, &k.Reason); err != nil {
			return k, err
		}
		k.State = sink.RepairState(state)
		if before != nil {
			k.Before = json.RawMessage(*before)
		}
		if after != nil {
			k.After = json.RawMessage(*after)
		}
		k.Key, k.At, k.Snapshot, err = heldAt(key, epoch, lsn, ordinal, snapshot)
		return k, err
	})
	return ks, s.wrap(ctx, err, "read the repair of table %s", id)
}

// CountRepair counts a repair's keys of a table by state.
func (s *Sink) CountRepair(ctx context.Context, repair string, id change.TableID) (map[sink.RepairState]int, error) {
	out := map[sink.RepairState]int{}
	rows, err := s.pool.Query(ctx, "SELECT state, count(*) FROM syncline.repairs WHERE"+ofRepair+" GROUP BY state", s.pipeline, repair, id.String())
	if err == nil {
		var state string
		var n int
		_, err = pgx.ForEachRow(rows, []any{&state, &n}, func() error {
			out[sink.RepairState(state)] = n
			return nil
		})
	}
	return out, s.wrap(ctx, err, "count the repair of table %s", id)
}

func heldAt(key string, epoch int64, lsn string, ordinal int64, snapshot string) (k change.Key, at change.Position, seen change.Snapshot, err error) {
	if k, err = change.ParseKey(key); err != nil {
		return k, at, seen, errDamagedKey
	}
	at.Epoch, at.Ordinal = uint32(epoch), uint32(ordinal)
	if at.Commit, err = change.ParseLSN(lsn); err == nil && snapshot != "" {
		seen, err = change.ParseSnapshot(snapshot)
	}
	return k, at, seen, err
}

func keyTexts(keys []change.Key) []string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = k.String()
	}
	return out
}

// What a repair has of a table, by $1 to $3, and of that some keys, by $4.
const (
	ofRepair = ` pipeline = $1 AND repair = $2 AND source_table = $3`
	ofKeys   = ofRepair + ` AND md5(key) IN (SELECT md5(k) FROM unnest($4::text[]) AS k)`
)

// analyzeFrom is from how many keys on the server has to know that they are there: of a
// table that it takes for empty it compares each key with each.
const analyzeFrom = 500

// Hold takes keys of a repair out of delivery, or keeps them out for longer. The lock
// waits for batches that are under way; the counter has later ones refused.
func (s *Sink) Hold(ctx context.Context, repair string, id change.TableID, keys []change.Key, lease time.Duration) error {
	which, args := ofRepair, []any{s.pipeline, repair, id.String()}
	if keys != nil {
		which, args = ofKeys, append(args, keyTexts(keys))
	}
	many := false
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := s.lockTable(ctx, tx, id); err != nil {
			return err
		}
		t, err := s.table(ctx, tx, id)
		if err != nil {
			return err
		}
		if t.State != sink.Streaming {
			return fault.Permanent(sink.CodeNotStreaming, nil, "wait until it streams", "table %s is %s", id, t.State)
		}
		until := fmt.Sprintf("lease_until = now() + make_interval(secs => $%d)", len(args)+1)
		timed := append(slices.Clone(args), lease.Seconds())
		if _, err := tx.Exec(ctx, "UPDATE syncline.repairs SET "+until+" WHERE"+which+" AND held", timed...); err != nil {
			return err
		}
		fresh, err := tx.Exec(ctx, "UPDATE syncline.repairs SET state = 'quarantined', held_at = now(), updated_at = now(), "+until+" WHERE"+which+" AND state = 'suspected'", timed...)
		if err != nil || fresh.RowsAffected() == 0 {
			return err
		}
		many = fresh.RowsAffected() > analyzeFrom
		return s.raiseHolds(ctx, tx, id)
	})
	if err == nil && many {
		_, err = s.pool.Exec(ctx, "ANALYZE syncline.repairs")
	}
	var pe *pgconn.PgError
	if errors.As(err, &pe) && pe.ConstraintName == "repairs_held" {
		err = fault.Transient(sink.CodeHeld, nil, "another repair holds keys of table %s", id)
	}
	return s.wrap(ctx, err, "hold keys of table %s", id)
}

func (s *Sink) raiseHolds(ctx context.Context, tx pgx.Tx, id change.TableID) error {
	_, err := tx.Exec(ctx, "UPDATE syncline.tables SET holds = holds + 1, updated_at = now() WHERE pipeline = $1 AND source_table = $2", s.pipeline, id.String())
	return err
}

// LetGo sets keys that the repair holds to Releasing, with a reason if they failed.
func (s *Sink) LetGo(ctx context.Context, repair string, id change.TableID, failed map[change.Key]string, keys []change.Key) error {
	texts, reasons := keyTexts(keys), make([]string, len(keys))
	for i, k := range keys {
		reasons[i] = failed[k]
	}
	named := make(map[change.Key]bool, len(keys))
	for _, k := range keys {
		named[k] = true
	}
	for k, why := range failed {
		if !named[k] {
			texts, reasons = append(texts, k.String()), append(reasons, why)
		}
	}
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := s.lockTable(ctx, tx, id); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `UPDATE syncline.repairs r SET state = 'releasing', reason = CASE WHEN u.reason = '' THEN r.reason ELSE u.reason END, updated_at = now()
			FROM unnest($4::text[], $5::text[]) AS u (key, reason)
			WHERE r.pipeline = $1 AND r.repair = $2 AND r.source_table = $3 AND md5(r.key) = md5(u.key) AND r.held AND r.state <> 'releasing'`,
			s.pipeline, repair, id.String(), texts, reasons)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		return s.raiseHolds(ctx, tx, id)
	})
	return s.wrap(ctx, err, "let go keys of table %s", id)
}

// LetGoAll sets all keys that the repair holds in some states to Releasing.
func (s *Sink) LetGoAll(ctx context.Context, repair string, id change.TableID, reason string, states ...sink.RepairState) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := s.lockTable(ctx, tx, id); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `UPDATE syncline.repairs SET state = 'releasing', reason = CASE WHEN $4 = '' THEN reason ELSE $4 END, updated_at = now()
			WHERE`+ofRepair+` AND held AND state <> 'releasing' AND state = ANY ($5::text[])`, s.pipeline, repair, id.String(), reason, states)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		return s.raiseHolds(ctx, tx, id)
	})
	return s.wrap(ctx, err, "let go keys of table %s", id)
}

// Lapsed returns the keys of a table that are held although their lease went by.
func (s *Sink) Lapsed(ctx context.Context, id change.TableID) ([]change.Key, error) {
	rows, err := s.pool.Query(ctx, "SELECT key FROM syncline.repairs WHERE pipeline = $1 AND source_table = $2 AND held AND lease_until <= now()", s.pipeline, id.String())
	if err != nil {
		return nil, s.wrap(ctx, err, "read the held keys of table %s", id)
	}
	ks, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (change.Key, error) {
		var text string
		if err := row.Scan(&text); err != nil {
			return "", err
		}
		k, err := change.ParseKey(text)
		if err != nil {
			err = errDamagedKey
		}
		return k, err
	})
	return ks, s.wrap(ctx, err, "read the held keys of table %s", id)
}

// Holds returns the keys of a table that are held.
func (s *Sink) Holds(ctx context.Context, id change.TableID) ([]sink.Hold, error) {
	rows, err := s.pool.Query(ctx, `SELECT key, repair, state, epoch, lsn::text, ordinal, snapshot, lease_until <= now(), reason
		FROM syncline.repairs WHERE pipeline = $1 AND source_table = $2 AND held ORDER BY key COLLATE "C"`, s.pipeline, id.String())
	if err != nil {
		return nil, s.wrap(ctx, err, "read the held keys of table %s", id)
	}
	hs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h sink.Hold, err error) {
		var key, state, lsn, snapshot string
		var epoch, ordinal int64
		if err = row.Scan(&key, &h.Repair, &state, &epoch, &lsn, &ordinal, &snapshot, &h.Lapsed, &h.Reason); err != nil {
			return h, err
		}
		h.State = sink.RepairState(state)
		h.Key, h.At, h.Snapshot, err = heldAt(key, epoch, lsn, ordinal, snapshot)
		return h, err
	})
	return hs, s.wrap(ctx, err, "read the held keys of table %s", id)
}

// Letters returns the open dead letters of the keys, by position.
func (s *Sink) Letters(ctx context.Context, id change.TableID, keys []change.Key) ([]sink.DeadLetter, error) {
	rows, err := s.pool.Query(ctx, `SELECT key, partition, "offset", epoch, lsn::text, ordinal, code, reason, payload FROM syncline.dead_letters
		WHERE pipeline = $1 AND source_table = $2 AND key = ANY ($3) AND resolved_at IS NULL ORDER BY epoch, lsn, ordinal`, s.pipeline, id.String(), keyTexts(keys))
	if err != nil {
		return nil, s.wrap(ctx, err, "read the dead letters of table %s", id)
	}
	ds, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d sink.DeadLetter, err error) {
		var key, lsn, code string
		var epoch, ordinal int64
		if err = row.Scan(&key, &d.N, &d.Offset, &epoch, &lsn, &ordinal, &code, &d.Reason, &d.Payload); err != nil {
			return d, err
		}
		d.Table, d.Code = id, fault.Code(code)
		d.Key, d.Pos, _, err = heldAt(key, epoch, lsn, ordinal, "")
		return d, err
	})
	return ds, s.wrap(ctx, err, "read the dead letters of table %s", id)
}

// ForgetRepairs removes those that hold no key, but for the newest.
func (s *Sink) ForgetRepairs(ctx context.Context, keep int) error {
	_, err := s.pool.Exec(ctx, `DELETE FROM syncline.repairs WHERE pipeline = $1 AND repair NOT IN (
		SELECT repair FROM syncline.repairs WHERE pipeline = $1 GROUP BY repair ORDER BY max(planned_at) DESC, repair DESC LIMIT $2)
		AND repair NOT IN (SELECT repair FROM syncline.repairs WHERE pipeline = $1 AND held)`, s.pipeline, max(keep, 0))
	return s.wrap(ctx, err, "forget older repairs")
}

const (
	settledSQL = `UPDATE syncline.dead_letters d SET resolved_at = now(), resolution = 'repaired'
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) AS a (t, n, e, l, o)
WHERE d.pipeline = $1 AND d.source_table = a.t AND d.partition = a.n::int AND d.epoch = a.e::bigint AND d.lsn = a.l::pg_lsn AND d.ordinal = a.o::bigint AND d.resolved_at IS NULL`
	releasedSQL = "SELECT syncline.release_keys($1, $2::text[], $3::text[], $4::text[], $5::text[])"
)

// sendReleased sends what a batch says of keys that repairs let go.
func sendReleased(p *pipeline, pipe string, b *sink.Batch) {
	if len(b.Settled) > 0 {
		var a [5]textArray
		for i := range a {
			a[i].reset()
		}
		for _, d := range b.Settled {
			addAll(a[:], d.Table.String(), strconv.Itoa(d.N), strconv.FormatUint(uint64(d.Pos.Epoch), 10), d.Pos.Commit.String(), strconv.FormatUint(uint64(d.Pos.Ordinal), 10))
		}
		p.query(settledSQL, append([][]byte{[]byte(pipe)}, allBytes(a[:])...), []int16{0, 1, 1, 1, 1, 1})
	}
	if len(b.Released) > 0 {
		var a [4]textArray
		for i := range a {
			a[i].reset()
		}
		for _, r := range b.Released {
			addAll(a[:], r.Table.String(), r.Repair, r.Key.String(), r.Reason)
		}
		p.query(releasedSQL, append([][]byte{[]byte(pipe)}, allBytes(a[:])...), []int16{0, 1, 1, 1, 1})
	}
}

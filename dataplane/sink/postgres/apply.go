package postgres

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// flushBytes is how much is encoded before it is sent, so that the server works
// on the first statements while the last are still being encoded.
const flushBytes = 256 << 10

const (
	// A position never moves back; the offset is the lane's to choose.
	moveSQL = `ON CONFLICT (pipeline, source_table, partition) DO UPDATE SET
	(epoch, lsn, ordinal) = (SELECT m.epoch, m.lsn, m.ordinal FROM (VALUES (w.epoch, w.lsn, w.ordinal), (EXCLUDED.epoch, EXCLUDED.lsn, EXCLUDED.ordinal)) AS m (epoch, lsn, ordinal)
		ORDER BY m.epoch DESC, m.lsn DESC, m.ordinal DESC LIMIT 1),
	"offset" = EXCLUDED."offset", moved_at = now(), ` + aheadSQL
	// Where nothing waits they are NULL.
	aheadSQL = `ahead_epoch = EXCLUDED.ahead_epoch, ahead_lsn = EXCLUDED.ahead_lsn, ahead_ordinal = EXCLUDED.ahead_ordinal, ahead_offset = EXCLUDED.ahead_offset,
	waits = EXCLUDED.waits, oldest = EXCLUDED.oldest, rules = EXCLUDED.rules, backlogs = EXCLUDED.backlogs`
	marksSQL = `INSERT INTO syncline.watermarks AS w (pipeline, source_table, partition, epoch, lsn, ordinal, "offset")
SELECT $1, a.t, a.n::int, a.e::bigint, a.l::pg_lsn, a.o::bigint, a.f::bigint
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) AS a (t, n, e, l, o, f)
` + moveSQL
	// The same for marks of which some are behind what was streamed.
	aheadMarksSQL = `INSERT INTO syncline.watermarks AS w (pipeline, source_table, partition, epoch, lsn, ordinal, "offset",
	ahead_epoch, ahead_lsn, ahead_ordinal, ahead_offset, waits, oldest, rules, backlogs)
SELECT $1, a.t, a.n::int, a.e::bigint, a.l::pg_lsn, a.o::bigint, a.f::bigint,
	nullif(a.ae, '')::bigint, nullif(a.al, '')::pg_lsn, nullif(a.ao, '')::bigint, nullif(a.af, '')::bigint,
	nullif(a.w, '')::bigint, timestamptz 'epoch' + nullif(a.s, '')::bigint * interval '1 microsecond', nullif(a.r, ''), nullif(a.b, '')::jsonb
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
	$8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[]) AS a (t, n, e, l, o, f, ae, al, ao, af, w, s, r, b)
` + moveSQL
	// A change that comes again, after its table was loaded anew, is open again.
	deadSQL = `INSERT INTO syncline.dead_letters (pipeline, source_table, partition, "offset", key, epoch, lsn, ordinal, code, reason, payload)
SELECT DISTINCT ON (a.t, a.n, a.e, a.l, a.o) $1, a.t, a.n::int, a.f::bigint, a.k, a.e::bigint, a.l::pg_lsn, a.o::bigint, a.c, a.r, p.v
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[]) WITH ORDINALITY AS a (t, n, f, k, e, l, o, c, r, i)
JOIN unnest($11::bytea[]) WITH ORDINALITY AS p (v, i) USING (i)
ON CONFLICT (pipeline, source_table, partition, epoch, lsn, ordinal) DO UPDATE SET "offset" = EXCLUDED."offset",
	code = EXCLUDED.code, reason = EXCLUDED.reason, payload = EXCLUDED.payload, resolved_at = NULL, resolution = NULL`
)

// Apply commits the batch: in one round trip if all of it is good.
func (x *session) Apply(ctx context.Context, b *sink.Batch) (sink.Applied, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.lost != nil {
		return sink.Applied{}, x.lost
	}
	if err := x.connect(ctx); err != nil {
		return sink.Applied{}, err
	}
	if x.doubt != nil {
		if done, err := x.settle(ctx, b.Marks); done != nil || err != nil {
			if done == nil {
				done = new(sink.Applied)
			}
			return *done, err
		}
	}
	ops, rejects, err := x.plan(ctx, b)
	if err != nil {
		return sink.Applied{}, err
	}
	var applied sink.Applied
	if len(rejects) == 0 {
		applied, err = x.applyFast(ctx, b, ops)
	}
	if _, bad := isRejected(err); bad || len(rejects) > 0 {
		applied, err = x.applySlow(ctx, b, ops, rejects)
	}
	if err == nil {
		x.seq++
		return applied, nil
	}
	return sink.Applied{}, x.failed(ctx, err, b, applied)
}

func isRejected(err error) (*pgconn.PgError, bool) {
	if err == nil {
		return nil, false
	}
	return rejects(err)
}

// failed says what an error of Apply means for the session.
func (x *session) failed(ctx context.Context, err error, b *sink.Batch, applied sink.Applied) error {
	x.targets = map[*change.Schema]*target{} // the table may have been altered
	var pe *pgconn.PgError
	if errors.As(err, &pe) && pe.SeverityUnlocalized == "ERROR" && !x.conn.IsClosed() {
		err = x.s.wrap(ctx, err, "apply on lane %d", x.lane)
		if fault.Is(err, sink.CodeFenced) || fault.Is(err, sink.CodeSessionLost) {
			x.lost = err
		}
		return err
	}
	x.doubt = &doubt{marks: slices.Clone(b.Marks), applied: applied}
	return x.s.wrap(ctx, err, "apply on lane %d", x.lane)
}

// applyFast sends everything at once. Without BEGIN, what lies between two Syncs
// of the protocol is one transaction: it is committed by the last, or not at all.
func (x *session) applyFast(ctx context.Context, b *sink.Batch, ops []op) (out sink.Applied, err error) {
	p := x.pipeline(ctx)
	x.sendHold(p, b)
	out.Tables = make([]int64, len(b.Tables))
	for i := range ops {
		o, before := &ops[i], p.bytes
		params, err := x.bind(o, &b.Tables[o.table], o.rows)
		if err != nil {
			p.abandon()
			return out, err
		}
		p.query(o.sql, params, nil)
		out.Tables[o.table] += p.bytes - before
		if o.kind == opDelete {
			out.Deleted += len(o.rows)
		} else {
			out.Written += len(o.rows)
		}
	}
	sendMarks(p, x.s.pipeline, b.Marks)
	sendReleased(p, x.s.pipeline, b)
	sendDead(p, x.s.pipeline, b.Dead)
	err = p.sync()
	out.Bytes = p.bytes
	return out, err
}

// sendHold sends the fencing check and the locks of the batch's tables.
func (x *session) sendHold(p *pipeline, b *sink.Batch) {
	var ids []change.TableID
	loads := map[change.TableID]uint32{} // as the batch knows them, else as the session was told
	held := map[change.TableID]int64{}   // of tables with rows: others write nothing that a hold is about
	for i := range b.Marks {
		ids = append(ids, b.Marks[i].Table)
	}
	for i := range b.Tables {
		id := b.Tables[i].Schema.Table
		ids = append(ids, id)
		if e := b.Tables[i].Epoch; e > 0 {
			loads[id] = e
		}
		if len(b.Tables[i].Rows) > 0 {
			held[id] = b.Tables[i].Holds
		}
	}
	for i := range b.Released {
		ids = append(ids, b.Released[i].Table)
	}
	slices.SortFunc(ids, func(a, b change.TableID) int {
		if a.Schema != b.Schema {
			return compareStrings(a.Schema, b.Schema)
		}
		return compareStrings(a.Name, b.Name)
	})
	ids = slices.Compact(ids)
	var tables, epochs, holds textArray
	tables.reset()
	epochs.reset()
	holds.reset()
	for _, id := range ids {
		tables.addString(id.String())
		epoch := int64(-1)
		if e, ok := loads[id]; ok {
			epoch = int64(e)
		} else if e, ok := x.epochs[id]; ok {
			epoch = int64(e)
		}
		epochs.addString(strconv.FormatInt(epoch, 10))
		n, ok := held[id]
		if !ok {
			n = -1
		}
		holds.addString(strconv.FormatInt(n, 10))
	}
	async := "t"
	if x.s.opts.Durable {
		async = "f"
	}
	p.query(holdTextSQL, [][]byte{[]byte(x.s.pipeline), itoa(int64(x.lane)), itoa(x.token), itoa(x.seq), []byte(async), tables.bytes(), epochs.bytes(), holds.bytes()},
		[]int16{0, 0, 0, 0, 0, 1, 1, 1})
}

// holdTextSQL takes numbers as texts, like every other array here.
const holdTextSQL = "SELECT syncline.enter_lane($1::text, $2::int, $3::bigint, $4::bigint, $5::boolean, $6::text[], ($7::text[])::bigint[], ($8::text[])::bigint[])"

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func itoa(n int64) []byte { return strconv.AppendInt(nil, n, 10) }

func sendMarks(p *pipeline, pipe string, marks []sink.Watermark) {
	if len(marks) == 0 {
		return
	}
	sql, format, n := marksSQL, []int16{0, 1, 1, 1, 1, 1, 1}, 6
	if slices.ContainsFunc(marks, sink.Watermark.Behind) {
		sql, format, n = aheadMarksSQL, []int16{0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 14
	}
	var all [14]textArray
	a := all[:n]
	for i := range a {
		a[i].reset()
	}
	for _, m := range marks {
		addAll(a, m.Table.String(), strconv.Itoa(m.N), strconv.FormatUint(uint64(m.Pos.Epoch), 10), m.Pos.Commit.String(),
			strconv.FormatUint(uint64(m.Pos.Ordinal), 10), strconv.FormatInt(m.Offset, 10))
		switch h := &m.Ahead; {
		case n == 6:
		case m.Behind():
			addAll(a[6:], strconv.FormatUint(uint64(h.Pos.Epoch), 10), h.Pos.Commit.String(), strconv.FormatUint(uint64(h.Pos.Ordinal), 10),
				strconv.FormatInt(h.Offset, 10), strconv.FormatInt(h.Waits, 10), strconv.FormatInt(h.Oldest, 10), h.Rules, backlogsText(h))
		default:
			addAll(a[6:], "", "", "", "", "", "", "", "")
		}
	}
	p.query(sql, append([][]byte{[]byte(pipe)}, allBytes(a)...), format)
}

// backlogs is the part of what is ahead that one column holds.
type backlogs struct {
	Tied  bool           `json:"tied,omitempty"`
	Tiers []sink.Backlog `json:"tiers"`
}

func backlogsText(h *sink.Ahead) string {
	if len(h.Tiers) == 0 {
		return ""
	}
	text, err := json.Marshal(backlogs{h.Tied, h.Tiers})
	if err != nil { // numbers, texts and positions always have a form
		return ""
	}
	return string(text)
}

func sendDead(p *pipeline, pipe string, dead []sink.DeadLetter) {
	if len(dead) == 0 {
		return
	}
	var a [9]textArray
	for i := range a {
		a[i].reset()
	}
	payload := []byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, byteaOID, 0, 0, 0, 0, 0, 0, 0, 1}
	binary.BigEndian.PutUint32(payload[12:], uint32(len(dead)))
	for _, d := range dead {
		addAll(a[:], d.Table.String(), strconv.Itoa(d.N), strconv.FormatInt(d.Offset, 10), d.Key.String(),
			strconv.FormatUint(uint64(d.Pos.Epoch), 10), d.Pos.Commit.String(), strconv.FormatUint(uint64(d.Pos.Ordinal), 10),
			string(d.Code), d.Reason)
		payload = binary.BigEndian.AppendUint32(payload, uint32(len(d.Payload)))
		payload = append(payload, d.Payload...)
	}
	params := append([][]byte{[]byte(pipe)}, allBytes(a[:])...)
	p.query(deadSQL, append(params, payload), []int16{0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1})
}

const byteaOID = 17

func addAll(a []textArray, vs ...string) {
	for i, v := range vs {
		a[i].addString(v)
	}
}

func allBytes(a []textArray) [][]byte {
	out := make([][]byte, len(a))
	for i := range a {
		out[i] = a[i].bytes()
	}
	return out
}

// applySlow applies the batch with its bad rows set aside: each statement runs
// under a savepoint, and one that fails is tried in halves.
func (x *session) applySlow(ctx context.Context, b *sink.Batch, ops []op, set []rejected) (out sink.Applied, err error) {
	if b.Encode == nil {
		return out, fmt.Errorf("a row is rejected and the batch cannot encode it for a dead letter")
	}
	if err := x.exec(ctx, "BEGIN"); err != nil {
		return out, err
	}
	committed := false
	defer func() {
		if !committed && !x.conn.IsClosed() {
			_ = x.exec(context.WithoutCancel(ctx), "ROLLBACK") // if it fails, the connection is gone, and the transaction with it
		}
	}()
	p := x.pipeline(ctx)
	x.sendHold(p, b)
	if err := p.sync(); err != nil {
		return out, err
	}
	out.Tables = make([]int64, len(b.Tables))
	for i := range ops {
		bad, bytes, err := x.try(ctx, b, &ops[i], ops[i].rows)
		if err != nil {
			return out, err
		}
		set = append(set, bad...)
		out.Bytes += bytes
		out.Tables[ops[i].table] += bytes
		if n := len(ops[i].rows) - len(bad); ops[i].kind == opDelete {
			out.Deleted += n
		} else {
			out.Written += n
		}
	}
	slices.SortFunc(set, func(a, b rejected) int { return (a.table-b.table)<<32 + a.row - b.row })
	for _, r := range set {
		if p := b.Tables[r.table].Partials; p != nil {
			return out, sink.PartialsRejected(p, errors.New(r.reason))
		}
		d := b.Encode(r.table, r.row)
		d.Code, d.Reason = sink.CodeRowRejected, r.reason
		out.Dead = append(out.Dead, d)
	}
	p = x.pipeline(ctx)
	sendMarks(p, x.s.pipeline, b.Marks)
	sendReleased(p, x.s.pipeline, b) // a settled letter may come back as one that is rejected
	sendDead(p, x.s.pipeline, b.Dead)
	sendDead(p, x.s.pipeline, out.Dead)
	p.query("COMMIT", nil, nil)
	if err := p.sync(); err != nil {
		return out, err
	}
	committed = true
	return out, nil
}

// try runs o for some of its rows and returns those that the table does not take.
func (x *session) try(ctx context.Context, b *sink.Batch, o *op, rows []int) (bad []rejected, bytes int64, err error) {
	params, err := x.bind(o, &b.Tables[o.table], rows)
	if err != nil {
		return nil, 0, err
	}
	p := x.pipeline(ctx)
	p.query("SAVEPOINT part", nil, nil)
	p.query(o.sql, params, nil)
	p.query("RELEASE part", nil, nil)
	err = p.sync()
	bytes = p.bytes
	if err == nil {
		return nil, bytes, nil
	}
	pe, reject := rejects(err)
	if !reject || x.conn.IsClosed() {
		return nil, bytes, err
	}
	if err := x.exec(ctx, "ROLLBACK TO part"); err != nil {
		return nil, bytes, err
	}
	if len(rows) == 1 {
		return []rejected{{o.table, rows[0], describe(pe)}}, bytes, nil
	}
	for _, half := range [][]int{rows[:len(rows)/2], rows[len(rows)/2:]} {
		more, n, err := x.try(ctx, b, o, half)
		bytes += n
		if err != nil {
			return nil, bytes, err
		}
		bad = append(bad, more...)
	}
	return bad, bytes, nil
}

func (x *session) exec(ctx context.Context, sql string) error {
	_, err := x.conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

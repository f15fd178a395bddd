package clickhouse

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/tiers/aggregate"
)

// session is one lane's hold on the sink.
type session struct {
	*Sink
	token int64
	nonce string
	lane  int
	lanes int

	// When the ledger was last seen to agree: with the lane, and with tables. Used by
	// the calls that go one at a time.
	held  time.Time
	ready map[loadKey]time.Time
	puts  int64 // writes of watermarks, of which a later one counts

	mu      sync.Mutex
	layouts map[layoutKey]*layout
	adopted map[sink.Partition]bool
}

// loadKey is one load of a table, as its holds were. They say nothing of a batch that
// has no rows of it.
type loadKey struct {
	table change.TableID
	epoch uint32
	holds int64
}

const anyHolds = -1

func loadOf(t *sink.TableBatch) loadKey {
	k := loadKey{t.Schema.Table, t.Epoch, anyHolds}
	if len(t.Rows) > 0 {
		k.holds = t.Holds
	}
	return k
}

type layoutKey struct {
	version change.Version
	at      target
	order   string
	appends bool
	plan    *aggregate.Plan
}

var _ sink.Session = (*session)(nil)

// Claim takes a lane under a token above all of the pipeline's. Whoever finds
// another under its token tries the next, so that no two hold the same.
func (s *Sink) Claim(ctx context.Context, lane, lanes int) (sink.Session, error) {
	if lane < 0 || lanes < 1 || lane >= lanes {
		return nil, fault.Permanent(CodeConfig, nil, "use lanes from 0 on", "lane %d of %d", lane, lanes)
	}
	x := &session{Sink: s, nonce: rand.Text(), lane: lane, lanes: lanes, ready: map[loadKey]time.Time{}, layouts: map[layoutKey]*layout{}, adopted: map[sink.Partition]bool{}}
	for {
		var last int64
		q := fmt.Sprintf("SELECT max(token) FROM %s WHERE %s", s.ledger("lanes"), s.mine())
		if err := s.conn.query(ctx, "SELECT the lanes", q, func(scan func(...any) error) error { return scan(&last) }); err != nil {
			return nil, err
		}
		x.token = last + 1
		_, err := s.insert(ctx, s.ledger("lanes"), 1, []part{strs("pipeline", s.pipeline), signed("token", x.token), strs("nonce", x.nonce),
			numbers("lane", 4, uint64(lane)), numbers("lanes", 4, uint64(lanes))})
		if err != nil {
			return nil, err
		}
		var holders uint64
		q = fmt.Sprintf("SELECT count() FROM %s WHERE %s AND token = %d", s.ledger("lanes"), s.mine(), x.token)
		if err := s.conn.query(ctx, "SELECT the lanes", q, func(scan func(...any) error) error { return scan(&holders) }); err != nil {
			return nil, err
		}
		if holders == 1 {
			if last > 0 {
				err = outwait(ctx)
			}
			return x, err
		}
	}
}

// Token returns the fencing token.
func (x *session) Token() int64 { return x.token }

// Close releases nothing: connections belong to the sink.
func (x *session) Close() error { return nil }

// fencedBy counts what has taken the lane from this session: later claims of the
// lane, or of a different number of lanes; and a ledger that has forgotten the
// session, with its pipeline.
func (x *session) fencedBy() string {
	return fmt.Sprintf("SELECT toInt64(countIf(token > %[1]d AND (lanes != %[2]d OR lane = %[3]d))) + (countIf(token = %[1]d AND nonce = %[4]s) = 0) FROM %[5]s WHERE %[6]s AND token >= %[1]d",
		x.token, x.lanes, x.lane, lit(x.nonce), x.ledger("lanes"), x.mine())
}

func (x *session) fenced() error {
	return fault.Permanent(sink.CodeFenced, nil, "nothing: the newer attempt goes on", "lane %d of %d of pipeline %s was claimed above token %d", x.lane, x.lanes, x.pipeline, x.token)
}

// streaming counts those of the tables that are streaming in no later epoch than
// the batch has them in, and without keys held or let go since its rows were planned.
func (x *session) streaming(tables []sink.TableBatch) (query string, want int) {
	seen := map[string]uint32{}
	for i := range tables {
		seen[tables[i].Schema.Table.String()] = tables[i].Epoch
	}
	var states, defs []string
	for tab, epoch := range seen {
		states = append(states, lit(tab))
		if epoch > 0 {
			defs = append(defs, fmt.Sprintf("(tab = %s AND JSONExtractUInt(body, 'epoch') > %d)", lit(tab), epoch))
		}
	}
	if len(states) == 0 {
		return "0", 0
	}
	late := ""
	if len(defs) > 0 {
		late = fmt.Sprintf(" - countIf(aspect = '%s' AND (%s))", aspectDef, strings.Join(defs, " OR "))
	}
	var holds []string
	for i := range tables {
		if len(tables[i].Rows) > 0 {
			holds = append(holds, fmt.Sprintf("(tab = %s AND ver != %d)", lit(tables[i].Schema.Table.String()), tables[i].Holds))
		}
	}
	if len(holds) > 0 {
		late += fmt.Sprintf(" - countIf(aspect = '%s' AND (%s))", aspectHolds, strings.Join(holds, " OR "))
	}
	return fmt.Sprintf("SELECT toInt64(countIf(aspect = '%s' AND JSONExtractString(body, 'state') = '%s'))%s FROM %s FINAL WHERE %s AND tab IN (%s)",
		aspectState, sink.Streaming, late, x.ledger("tables"), x.mine(), strings.Join(states, ", ")), len(states)
}

// check returns CodeFenced if the lane was taken, or the pipeline forgotten, and
// CodeNotStreaming if one of the tables is not to be delivered.
func (x *session) check(ctx context.Context, tables []sink.TableBatch) error {
	began := time.Now()
	x.held = time.Time{}
	clear(x.ready)
	var taken, ready int64
	live, want := x.streaming(tables)
	q := fmt.Sprintf("SELECT toInt64((%s)), toInt64((%s))", x.fencedBy(), live)
	err := x.conn.query(ctx, "SELECT the lanes", q, func(scan func(...any) error) error { return scan(&taken, &ready) })
	switch {
	case err != nil:
		return err
	case taken > 0:
		return x.fenced()
	case ready != int64(want):
		return fault.Permanent(sink.CodeNotStreaming, nil, "read the tables again", "a table of the batch is not streaming, or in a later epoch, or keys of it were held or let go")
	}
	x.agreed(began, tables)
	return nil
}

// Tables returns the pipeline's tables, of all states.
func (x *session) Tables(ctx context.Context) ([]sink.Table, error) {
	rs, err := x.records(ctx, "")
	if err != nil {
		return nil, err
	}
	return x.tables(ctx, rs, false)
}

// Chunks returns the finished chunks of a table.
func (x *session) Chunks(ctx context.Context, id change.TableID) ([]sink.Chunk, error) {
	r, err := x.record(ctx, id)
	if err != nil {
		return nil, err
	}
	floor, err := x.floor(ctx, id.String())
	if err != nil {
		return nil, err
	}
	if r.def.loadPosition(maxChunks-1, maxAttempt).Before(floor) {
		return nil, nil // truncated since: what follows in the log is complete in itself
	}
	p, err := x.plan(ctx, r)
	if err != nil {
		return nil, err
	}
	var out []sink.Chunk
	for _, c := range p.chunks {
		if c.Done {
			out = append(out, c)
		}
	}
	return out, nil
}

// Watermarks returns those of the partitions. Those that the lane delivers are
// written once more under its token, so that nothing that an earlier holder still
// brings in changes what the lane goes on from.
func (x *session) Watermarks(ctx context.Context, ps []sink.Partition) ([]sink.Watermark, error) {
	all, err := x.Sink.Watermarks(ctx)
	if err != nil {
		return nil, err
	}
	have := make(map[sink.Partition]sink.Watermark, len(all))
	for _, w := range all {
		have[w.Partition] = w
	}
	out := make([]sink.Watermark, len(ps))
	var adopt []sink.Watermark
	x.mu.Lock()
	for i, p := range ps {
		w, ok := have[p]
		if !ok {
			w = sink.Watermark{Partition: p, Offset: -1}
		}
		out[i] = w
		if p.N%x.lanes == x.lane && !x.adopted[p] {
			adopt = append(adopt, w)
		}
	}
	x.mu.Unlock()
	if err := x.mark(ctx, adopt, nil); err != nil {
		return nil, err
	}
	x.mu.Lock()
	for _, w := range adopt {
		x.adopted[w.Partition] = true
	}
	x.mu.Unlock()
	return out, nil
}

// Parked returns the keys of a table that have dead letters.
func (x *session) Parked(ctx context.Context, id change.TableID) ([]change.Key, error) {
	var out []change.Key
	q := fmt.Sprintf("SELECT DISTINCT key FROM %s WHERE %s AND key != ''", x.ledger("dead_letters"), x.where(id.String()))
	err := x.conn.query(ctx, "SELECT the dead letters of table "+id.String(), q, func(scan func(...any) error) error {
		var k string
		if err := scan(&k); err != nil {
			return err
		}
		out = append(out, change.Key(k))
		return nil
	})
	return out, err
}

// Gate takes a streaming table out of delivery.
func (x *session) Gate(ctx context.Context, id change.TableID, reason string) error {
	if err := x.check(ctx, nil); err != nil {
		return err
	}
	r, err := x.record(ctx, id)
	if err != nil || r.state.State != sink.Streaming {
		return err
	}
	return x.setAspect(ctx, id.String(), aspectState, state{State: sink.Gated, Reason: reason, Epoch: r.def.Epoch})
}

// Truncate removes rows older than the TRUNCATE. Rows that other partitions have
// yet to bring before they come to it are below the floor, so nobody sees them,
// and go when their partition gets here.
func (x *session) Truncate(ctx context.Context, mark sink.Watermark, _ int) (bool, error) {
	if err := x.check(ctx, nil); err != nil {
		return false, err
	}
	// Of two marks of a session the later counts, so one that is behind is not written.
	if at, err := x.Watermarks(ctx, []sink.Partition{mark.Partition}); err != nil || !at[0].Pos.Before(mark.Pos) {
		return err == nil, err
	}
	r, err := x.record(ctx, mark.Table)
	if err != nil {
		return false, err
	}
	l, problem := x.newLayout(r.schema, r.def.Options)
	if problem != "" {
		return false, fault.Permanent(sink.CodeTableMismatch, nil, "change the sink's table", "table %s: %s", mark.Table, problem)
	}
	if r.state.State != sink.Streaming {
		return false, fault.Permanent(sink.CodeNotStreaming, nil, "read the tables again", "table %s is %s", mark.Table, r.state.State)
	}
	tab := mark.Table.String()
	floor, err := x.floor(ctx, tab)
	if err != nil {
		return false, err
	}
	pos := raise(mark.Pos, r.def.Epoch)
	if floor.Before(pos) {
		if err := x.raiseFloor(ctx, tab, pos); err != nil {
			return false, err
		}
	}
	if err := x.refreshView(ctx, l, tab); err != nil {
		return false, err
	}
	if err := x.deleteRows(ctx, l.at, colVersion+" < "+versionLit(pos)); err != nil {
		return false, err
	}
	if err := x.cutPartials(ctx, tab, pos); err != nil {
		return false, err
	}
	return true, x.mark(ctx, []sink.Watermark{mark}, nil)
}

// raise gives a position at least the epoch of the table's load.
func raise(p change.Position, epoch uint32) change.Position {
	p.Epoch = max(p.Epoch, epoch)
	return p
}

// mark moves watermarks in one statement that writes nothing if the lane was
// taken or a table is not to be delivered. What a stale session still brings in has a lower token and loses.
func (x *session) mark(ctx context.Context, marks []sink.Watermark, tables []sink.TableBatch) error {
	if len(marks) == 0 {
		return nil
	}
	began := time.Now()
	live, want := x.streaming(tables)
	w, err := x.put(ctx, marks, fmt.Sprintf("(%s) = 0 AND (%s) = %d", x.fencedBy(), live, want))
	if err != nil {
		return err
	}
	if w.known && w.rows > 0 {
		x.agreed(began, tables)
		return nil
	}
	if err := x.check(ctx, tables); err != nil || !w.known {
		return err
	}
	return x.fenced()
}

// put writes watermarks under the session's token if a condition holds.
func (x *session) put(ctx context.Context, marks []sink.Watermark, condition string) (written, error) {
	var rows strings.Builder
	for i, m := range marks {
		if i > 0 {
			rows.WriteString(", ")
		}
		ahead := ""
		if m.Behind() {
			text, err := json.Marshal(m.Ahead)
			if err != nil {
				return written{}, fmt.Errorf("encode a watermark of table %s: %w", m.Table, err)
			}
			ahead = string(text)
		}
		fmt.Fprintf(&rows, "(%s, %d, %s, %d, %s)", lit(m.Table.String()), m.N, lit(m.Pos.String()), m.Offset, lit(ahead))
	}
	x.puts++
	return x.conn.exec(ctx, "INSERT of watermarks", fmt.Sprintf(`INSERT INTO %s (pipeline, tab, part, pos, offset, ahead, token, ver)
		SELECT %s, tab, part, pos, offset, ahead, %d, bitShiftLeft(toUInt128(%d), 64) + %d
		FROM values('tab String, part UInt32, pos String, offset Int64, ahead String', %s) WHERE %s`,
		x.ledger("watermarks"), lit(x.pipeline), x.token, x.token, x.puts, rows.String(), condition))
}

// layout returns how rows of a batch lie in their table as it is now.
func (x *session) layout(ctx context.Context, t *sink.TableBatch) (*layout, error) {
	sch, o := t.Schema, t.Options
	k := layoutKey{sch.Version(), x.target(sch.Table, o), strings.Join(o.OrderBy, "\x00"), o.AppendOnly, t.Partials}
	x.mu.Lock()
	l := x.layouts[k]
	x.mu.Unlock()
	if l != nil {
		return l, nil
	}
	if t.Partials != nil {
		if err := x.makePartials(ctx, t.Partials, t.Options); err != nil {
			return nil, err
		}
	}
	l, err := x.fitting(ctx, sch, o)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	x.layouts[k] = l
	x.mu.Unlock()
	return l, nil
}

// fitting is a layout of which the table has every column.
func (s *Sink) fitting(ctx context.Context, sch *change.Schema, o sink.TableOptions) (*layout, error) {
	l, problem := s.newLayout(sch, o)
	if problem == "" {
		e, err := s.inspect(ctx, l.at)
		if err != nil {
			return nil, err
		}
		if e == nil {
			return nil, fault.Permanent(CodeTableMissing, nil, "restore it, or resync the table", "table %s does not exist", l.at)
		}
		var missing []int
		missing, problem = l.adopt(e)
		if problem == "" && len(missing) > 0 {
			problem = fmt.Sprintf("it lacks column %q", l.cols[missing[0]].name)
		}
	}
	if problem != "" {
		return nil, fault.Permanent(sink.CodeTableMismatch, nil, "change the sink's table, or resync the table", "table %s cannot take rows of %s: %s", l.at, sch.Table, problem)
	}
	return l, nil
}

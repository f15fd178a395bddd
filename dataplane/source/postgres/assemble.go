package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"syncline/dataplane/capture"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/source/postgres/pgoutput"
)

// resolver is what assembling needs to ask the source.
type resolver interface {
	// resolve returns the definition of a relation, as of the transaction's commit or later.
	resolve(ctx context.Context, r *pgoutput.Relation, xid uint32) (*change.Schema, error)
	// fill replaces the Unchanged values of a row by what its key has at the source
	// now, or at any time after the transaction committed.
	fill(ctx context.Context, s *change.Schema, row change.Row, xid uint32) error
}

// assembler turns protocol messages into events: it follows transactions,
// resolves relations, splits key changes, and keeps one change back until it
// knows whether that is the transaction's last.
type assembler struct {
	epoch  uint32
	source resolver
	spools *spools

	rels      map[uint32]*relation
	announced map[change.Version]bool
	tx        transaction
	streaming uint32 // top-level transaction of the open stream block, 0 if none
	replaying *replay

	pending *cell // built, but not known to be the last of its transaction
	queue   []queued
	head    int
	out     *cell // handed to the caller by the last next
	free    []*cell
	scratch pgoutput.Message
}

// relation is a table as the messages that follow describe it.
type relation struct {
	message *pgoutput.Relation
	schema  *change.Schema
	version change.Version
	labels  []map[string]struct{} // by column: known labels of an enum, nil for others
	enums   bool
}

// transaction is the one whose changes are being returned.
type transaction struct {
	open    bool
	xid     uint32
	commit  change.LSN
	time    time.Time
	end     change.LSN // known from the start only in a replay
	ordinal uint32
	origin  string
	trace   string
}

// cell is a change with the bytes it points into. Cells are used again.
type cell struct {
	raw []byte
	msg pgoutput.Message
	ch  change.Change
}

type queued struct {
	ev   capture.Event
	cell *cell
}

const keepCell = 1 << 20 // larger buffers are let go with their row

func newAssembler(epoch uint32, source resolver, sp *spools) *assembler {
	return &assembler{epoch: epoch, source: source, spools: sp, rels: map[uint32]*relation{}, announced: map[change.Version]bool{}}
}

// pop returns the next event that is ready. The change of the event before it
// is no longer valid.
func (a *assembler) pop() (capture.Event, bool) {
	if a.out != nil {
		a.release(a.out)
		a.out = nil
	}
	if a.head == len(a.queue) {
		a.queue, a.head = a.queue[:0], 0
		return capture.Event{}, false
	}
	q := a.queue[a.head]
	a.head++
	a.out = q.cell
	return q.ev, true
}

func (a *assembler) release(c *cell) {
	if cap(c.raw) > keepCell {
		c.raw = nil
	}
	if len(a.free) < 8 {
		a.free = append(a.free, c)
	}
}

func (a *assembler) cell() *cell {
	if n := len(a.free); n > 0 {
		c := a.free[n-1]
		a.free = a.free[:n-1]
		return c
	}
	return &cell{}
}

// idle reports whether nothing is under way, so that a keepalive's position is
// the end of everything that was returned.
func (a *assembler) idle() bool {
	return !a.tx.open && a.pending == nil && a.replaying == nil && a.head == len(a.queue)
}

// keepalive says that the server has decoded up to lsn.
func (a *assembler) keepalive(lsn change.LSN, at time.Time) {
	a.queue = append(a.queue, queued{ev: capture.Event{Through: lsn, At: at}})
}

// receive takes one message from the server.
func (a *assembler) receive(ctx context.Context, raw []byte) error {
	if len(raw) == 0 {
		return protocol("empty message")
	}
	if a.streaming != 0 && raw[0] != byte(pgoutput.StreamStop) {
		return a.spools.add(a.streaming, raw)
	}
	switch pgoutput.Kind(raw[0]) {
	case pgoutput.Insert, pgoutput.Update, pgoutput.Delete:
		return a.row(ctx, raw, false)
	}
	m := &a.scratch
	if err := pgoutput.Decode(raw, false, m); err != nil {
		return protocolError(err)
	}
	switch m.Kind {
	case pgoutput.Begin:
		if a.tx.open {
			return protocol("a transaction began inside another")
		}
		a.begin(m, 0)
		return nil
	case pgoutput.Commit:
		if !a.tx.open || a.tx.commit != m.Commit {
			return protocol("a commit that is not of the open transaction")
		}
		a.commit(m.End)
		return nil
	case pgoutput.StreamStart:
		if a.tx.open {
			return protocol("a stream block inside a transaction")
		}
		a.streaming = m.XID
		return nil
	case pgoutput.StreamStop:
		a.streaming = 0
		return nil
	case pgoutput.StreamAbort:
		return a.spools.abort(m.XID, m.SubXID)
	case pgoutput.StreamCommit:
		if a.tx.open {
			return protocol("a streamed commit inside a transaction")
		}
		rp, err := a.spools.commit(m.XID)
		if err != nil {
			return err
		}
		a.begin(m, m.End)
		if rp == nil {
			a.commit(m.End)
			return nil
		}
		a.replaying = rp
		return nil
	}
	return a.inside(ctx, m)
}

// replay takes the next message of a transaction that was streamed. Call it
// while replaying is set, in place of receive.
func (a *assembler) replay(ctx context.Context) error {
	raw, err := a.replaying.next()
	if errors.Is(err, io.EOF) {
		p := a.replaying.p
		a.replaying = nil
		a.commit(a.tx.end)
		return a.spools.discard(p)
	}
	if err != nil {
		return err
	}
	switch pgoutput.Kind(raw[0]) {
	case pgoutput.Insert, pgoutput.Update, pgoutput.Delete:
		return a.row(ctx, raw, true)
	}
	m := &a.scratch
	if err := pgoutput.Decode(raw, true, m); err != nil {
		return protocolError(err)
	}
	// A relation stays known when the subtransaction that first used it is rolled back.
	if m.Kind != pgoutput.RelationKind && m.XID != 0 && a.replaying.rolledBack(m.XID) {
		return nil
	}
	return a.inside(ctx, m)
}

func (a *assembler) begin(m *pgoutput.Message, end change.LSN) {
	a.tx = transaction{open: true, xid: m.XID, commit: m.Commit, time: m.Time, end: end}
}

// commit ends the open transaction: the change that was kept back is its last.
func (a *assembler) commit(end change.LSN) {
	ev := capture.Event{Through: end, At: a.tx.time}
	c := a.pending
	if c != nil {
		c.ch.Last = true
		ev.Change = &c.ch
	}
	a.queue = append(a.queue, queued{ev, c})
	a.pending, a.tx = nil, transaction{}
}

// inside handles what may come within a transaction, other than rows.
func (a *assembler) inside(ctx context.Context, m *pgoutput.Message) error {
	switch m.Kind {
	case pgoutput.RelationKind:
		return a.relation(ctx, m.Relation)
	case pgoutput.TypeKind:
	case pgoutput.Origin:
		a.tx.origin = m.Name
	case pgoutput.Logical:
		if m.Transact && string(m.Prefix) == TracePrefix {
			a.tx.trace = string(m.Content)
		}
	case pgoutput.Truncate:
		if !a.tx.open {
			return protocol("a change outside a transaction")
		}
		for _, id := range m.RelIDs {
			r := a.rels[id]
			if r == nil {
				return protocol("a change of a relation that was not described")
			}
			c := a.cell()
			a.fill(c, r, change.Truncate)
			a.emit(c, r)
		}
	default:
		return protocol(fmt.Sprintf("message %q out of place", byte(m.Kind)))
	}
	return nil
}

func (a *assembler) relation(ctx context.Context, m *pgoutput.Relation) error {
	s, err := a.source.resolve(ctx, m, a.tx.xid)
	if err != nil {
		return err
	}
	a.rels[m.ID] = newRelation(m, s)
	return nil
}

func newRelation(m *pgoutput.Relation, s *change.Schema) *relation {
	r := &relation{message: m, schema: s, version: s.Version(), labels: make([]map[string]struct{}, len(s.Columns))}
	for i := range s.Columns {
		t := s.Columns[i].Type.Root()
		if t.Kind != change.Enum {
			continue
		}
		r.enums = true
		r.labels[i] = make(map[string]struct{}, len(t.Labels))
		for _, l := range t.Labels {
			r.labels[i][l] = struct{}{}
		}
	}
	return r
}

// emit queues the change that was kept back, announces the schema of the new
// one if that is due, and keeps the new one back in turn.
func (a *assembler) emit(c *cell, r *relation) {
	if a.pending != nil {
		a.queue = append(a.queue, queued{capture.Event{Change: &a.pending.ch}, a.pending})
	}
	if !a.announced[r.version] {
		a.announced[r.version] = true
		a.queue = append(a.queue, queued{ev: capture.Event{Schema: r.schema}})
	}
	a.pending = c
}

func (a *assembler) fill(c *cell, r *relation, op change.Op) {
	a.tx.ordinal++
	c.ch = change.Change{
		Table: r.schema.Table, Schema: r.version, Op: op,
		Pos: change.Position{Epoch: a.epoch, Commit: a.tx.commit, Ordinal: a.tx.ordinal},
		XID: a.tx.xid, CommitTime: a.tx.time, Origin: a.tx.origin, Trace: a.tx.trace,
	}
}

func protocol(what string) error {
	return protocolError(errors.New(what))
}

// A fresh connection begins with whole messages again, so a retry may help.
func protocolError(err error) error {
	return fault.Transient(CodeProtocol, err, "the source's replication stream")
}

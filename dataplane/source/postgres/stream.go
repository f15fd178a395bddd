package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"syncline/dataplane/capture"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/source/postgres/pgoutput"
)

const (
	captureRole      = "capture" // last part of the application_name of walsenders
	poolRole         = "worker"  // the same of ordinary connections
	walSenderTimeout = 30 * time.Second
	statusEvery      = 5 * time.Second  // at least, so that the server keeps the connection
	silenceLimit     = 45 * time.Second // nothing heard, though every status asks for an answer
	releaseWait      = 15 * time.Second

	// HeartbeatPrefix marks the messages that let an idle slot advance.
	HeartbeatPrefix = "syncline"
	// TracePrefix marks a message, in a transaction, that carries the W3C
	// traceparent of the changes after it.
	TracePrefix = "traceparent"
)

// StreamOptions says which slot to read, and how.
type StreamOptions struct {
	Slot        string
	Publication string
	Epoch       uint32
	// MemoryLimit is for transactions that are streamed before they commit; beyond
	// it they go to files. Default 64 MiB.
	MemoryLimit int64
	// SpillDir is for those files; they are named after the slot and removed at the
	// start and the end. Default: a folder in the system's temporary one.
	SpillDir string
	// HeartbeatInterval: after so long without a commit, one is made. Default 10 s; negative: never.
	HeartbeatInterval time.Duration
	// TakeOver ends a connection of this pipeline's own that still holds the slot.
	TakeOver bool
	// SystemID and Timeline are what an earlier start found; "" and 0: not compared.
	SystemID string
	Timeline int32
}

// Stream is the stream of a slot, a capture.Source. Start, Next and Close are
// for one goroutine; Confirm, ServerEnd and Spilled may be called from others.
type Stream struct {
	s *Server
	o StreamOptions

	conn  *pgconn.PgConn
	login int64 // generation of the login that conn was opened with
	asm   *assembler

	system    pglogrepl.IdentifySystemResult
	through   change.LSN // last returned
	writeMu   sync.Mutex
	confirmed atomic.Uint64
	serverEnd atomic.Uint64
	spilled   atomic.Int64
	lastTx    atomic.Int64  // when a commit was last returned, Unix nanoseconds
	reading   atomic.Bool   // Next waits for the server
	heard     atomic.Uint64 // messages received

	stopTend context.CancelFunc
	tended   chan struct{}
	// stopWatch releases the context of the last Next.
	watched   context.Context
	stopWatch func() bool
}

var (
	_ capture.Source     = (*Stream)(nil)
	_ capture.Identified = (*Stream)(nil)
)

// NewStream checks the options; it does not connect.
func (s *Server) NewStream(o StreamOptions) (*Stream, error) {
	if !slotName.MatchString(o.Slot) || o.Publication == "" {
		return nil, fmt.Errorf("stream: slot %q and publication %q must be named", o.Slot, o.Publication)
	}
	if o.MemoryLimit <= 0 {
		o.MemoryLimit = 64 << 20
	}
	if o.SpillDir == "" {
		o.SpillDir = filepath.Join(os.TempDir(), "syncline-spill")
	}
	if o.HeartbeatInterval == 0 {
		o.HeartbeatInterval = 10 * time.Second
	}
	return &Stream{s: s, o: o}, nil
}

// Start begins at the slot's confirmed position and returns it.
func (t *Stream) Start(ctx context.Context) (change.LSN, error) {
	confirmed, err := t.start(ctx)
	if err != nil {
		return 0, classify(ctx, err, "read replication slot %q", t.o.Slot)
	}
	return confirmed, nil
}

func (t *Stream) start(ctx context.Context) (change.LSN, error) {
	pubs, err := t.prepare(ctx)
	if err != nil {
		return 0, err
	}
	sp, err := newSpools(t.o.SpillDir, t.o.Slot, t.o.MemoryLimit)
	if err != nil {
		return 0, err
	}
	t.asm = newAssembler(t.o.Epoch, &lookup{s: t.s, catalog: newCatalog(t.s.pool), publication: t.o.Publication}, sp)
	if err := t.open(ctx); err != nil {
		return 0, err
	}
	if err := CompareSystem(t.o.SystemID, t.o.Timeline, t.system.SystemID, t.system.Timeline); err != nil {
		return 0, err
	}
	err = pglogrepl.StartReplication(ctx, t.conn, t.o.Slot, 0, pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication,
		PluginArgs: []string{
			"proto_version '2'", "streaming 'on'", "messages 'on'", "publication_names " + quoteLiteral(strings.Join(pubs, ",")),
		},
	})
	if err != nil {
		return 0, t.explain(ctx, err)
	}
	// Read after the slot is ours: nobody else can move it from here on.
	slot, err := readSlot(ctx, t.s.pool, t.o.Slot)
	if err != nil {
		return 0, err
	}
	t.through = slot.Confirmed
	t.confirmed.Store(uint64(slot.Confirmed))
	t.serverEnd.Store(uint64(slot.ServerLSN))
	t.lastTx.Store(time.Now().UnixNano())
	tendCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	t.stopTend, t.tended = stop, make(chan struct{})
	go t.tend(tendCtx)
	return slot.Confirmed, nil
}

// Open connects and logs in, which Start does otherwise. While another stream reads the
// slot it shows that this one could.
func (t *Stream) Open(ctx context.Context) error {
	return classify(ctx, t.open(ctx), "open a stream of replication slot %q", t.o.Slot)
}

func (t *Stream) open(ctx context.Context) (err error) {
	if t.conn != nil {
		return nil
	}
	if t.conn, t.login, err = t.s.connectReplication(ctx); err != nil {
		t.conn = nil
		return err
	}
	t.system, err = pglogrepl.IdentifySystem(ctx, t.conn)
	return err
}

// Moved is closed when another login is in force than that which the stream logged in with.
func (t *Stream) Moved() <-chan struct{} { return t.s.as.Moved(t.login) }

// prepare checks what START_REPLICATION would refuse, with better names, and
// returns the quoted names of the publications.
func (t *Stream) prepare(ctx context.Context) ([]string, error) {
	var level string
	var pubs []string
	if err := t.s.pool.QueryRow(ctx, "SELECT current_setting('wal_level')").Scan(&level); err != nil {
		return nil, err
	}
	if level != "logical" {
		return nil, walLevel(nil)
	}
	slot, err := readSlot(ctx, t.s.pool, t.o.Slot)
	if err != nil {
		return nil, err
	}
	if err := t.s.ours(ctx, slot); err != nil {
		return nil, err
	}
	if slot.ActivePID != 0 {
		if !t.o.TakeOver {
			return nil, inUse(slot)
		}
		if err := t.s.release(ctx, t.o.Slot); err != nil {
			return nil, err
		}
	}
	err = t.s.pool.QueryRow(ctx, `SELECT coalesce(array_agg(pubname::text ORDER BY pubname), '{}') FROM pg_publication
		WHERE pubname IN ($1, $2)`, t.o.Publication, appendPublication(t.o.Publication)).Scan(&pubs)
	if err != nil {
		return nil, err
	}
	if len(pubs) == 0 || pubs[0] != t.o.Publication {
		return nil, fault.Permanent(CodePublicationMissing, nil, "apply the pipeline again, then resync the tables",
			"publication %q does not exist", t.o.Publication)
	}
	for i := range pubs {
		pubs[i] = quoteIdent(pubs[i])
	}
	return pubs, nil
}

// explain finds the named condition behind an error of the stream.
func (t *Stream) explain(ctx context.Context, err error) error {
	if sqlState(err) == "" {
		return err
	}
	if slot, e := readSlot(ctx, t.s.pool, t.o.Slot); e == nil {
		if e := slot.usable(); e != nil {
			return e
		}
		if sqlState(err) == "55006" && slot.ActivePID != 0 {
			return inUse(slot)
		}
	} else if fault.Is(e, CodeSlotMissing) {
		return e
	}
	return err
}

// CompareSystem compares what IDENTIFY_SYSTEM answers with what it answered
// before; "" and 0 of before match anything.
func CompareSystem(wasID string, wasTimeline int32, id string, timeline int32) error {
	if wasID != "" && wasID != id {
		return fault.Permanent(CodeSourceChanged, nil, "point the pipeline back at its source, or destroy it and apply it anew",
			"the source is another cluster (system identifier %s, was %s)", id, wasID)
	}
	if wasTimeline != 0 && wasTimeline != timeline {
		return fault.Permanent(CodeTimeline, nil, "resync the tables, which raises the epoch",
			"the source was promoted (timeline %d, was %d)", timeline, wasTimeline)
	}
	return nil
}

// Expect sets what an earlier start found, before Start.
func (t *Stream) Expect(id string, timeline int32) { t.o.SystemID, t.o.Timeline = id, timeline }

// System returns the identity of the cluster that Start connected to.
func (t *Stream) System() (id string, timeline int32) { return t.system.SystemID, t.system.Timeline }

// ServerEnd returns the end of the source's WAL as far as it told us.
func (t *Stream) ServerEnd() change.LSN { return change.LSN(t.serverEnd.Load()) }

// Spilled returns the bytes of transactions in progress that are on disk.
func (t *Stream) Spilled() int64 { return t.spilled.Load() }

// Next blocks for the next event.
func (t *Stream) Next(ctx context.Context) (capture.Event, error) {
	for {
		if ev, ok := t.asm.pop(); ok {
			if ev.Through > t.through {
				t.through = ev.Through
			}
			return ev, nil
		}
		if err := t.step(ctx); err != nil {
			if ctx.Err() != nil {
				return capture.Event{}, context.Cause(ctx)
			}
			return capture.Event{}, classify(ctx, t.explain(ctx, err), "stream of replication slot %q", t.o.Slot)
		}
	}
}

// step takes one message, from a transaction in replay or from the server.
func (t *Stream) step(ctx context.Context) error {
	if t.asm.replaying != nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		return t.asm.replay(ctx)
	}
	t.watch(ctx)
	t.reading.Store(true)
	msg, err := t.conn.Frontend().Receive()
	t.reading.Store(false)
	if err != nil {
		return err
	}
	t.heard.Add(1)
	switch m := msg.(type) {
	case *pgproto3.CopyData:
		return t.copyData(ctx, m.Data)
	case *pgproto3.ErrorResponse:
		return pgconn.ErrorResponseToPgError(m)
	case *pgproto3.CopyDone, *pgproto3.CommandComplete, *pgproto3.ReadyForQuery:
		return errors.New("the server ended the stream")
	}
	return nil // notices and parameter changes
}

// watch makes the end of ctx interrupt a blocked read. A context is watched
// once, not per message: this is the hot path.
func (t *Stream) watch(ctx context.Context) {
	if t.watched == ctx {
		return
	}
	if t.stopWatch != nil {
		t.stopWatch()
	}
	t.watched = ctx
	conn := t.conn.Conn()
	t.stopWatch = context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
}

func (t *Stream) copyData(ctx context.Context, b []byte) error {
	if len(b) == 0 {
		return protocol("empty message")
	}
	switch b[0] {
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		k, err := pglogrepl.ParsePrimaryKeepaliveMessage(b[1:])
		if err != nil {
			return protocolError(err)
		}
		end := change.LSN(k.ServerWALEnd)
		t.sawEnd(end)
		if t.asm.idle() && end > t.through {
			t.asm.keepalive(end, k.ServerTime)
		}
		if k.ReplyRequested {
			return t.sendStatus(false)
		}
		return nil
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(b[1:])
		if err != nil {
			return protocolError(err)
		}
		t.sawEnd(change.LSN(x.ServerWALEnd))
		if err := t.asm.receive(ctx, x.WALData); err != nil {
			return err
		}
		switch pgoutput.Kind(x.WALData[0]) {
		case pgoutput.Commit, pgoutput.StreamCommit:
			t.lastTx.Store(time.Now().UnixNano())
		case pgoutput.StreamStop, pgoutput.StreamAbort:
			t.spilled.Store(t.asm.spools.spilled())
		}
		return nil
	}
	return protocol(fmt.Sprintf("unknown message %q", b[0]))
}

func (t *Stream) sawEnd(lsn change.LSN) {
	if uint64(lsn) > t.serverEnd.Load() {
		t.serverEnd.Store(uint64(lsn))
	}
}

// Confirm tells the source that everything through lsn is safe.
func (t *Stream) Confirm(ctx context.Context, lsn change.LSN) error {
	for {
		was := t.confirmed.Load()
		if uint64(lsn) <= was || t.confirmed.CompareAndSwap(was, uint64(lsn)) {
			break
		}
	}
	return classify(ctx, t.sendStatus(false), "confirm to replication slot %q", t.o.Slot)
}

func (t *Stream) sendStatus(ask bool) error {
	t.writeMu.Lock()
	defer t.writeMu.Unlock()
	lsn := pglogrepl.LSN(t.confirmed.Load())
	if err := t.conn.Conn().SetWriteDeadline(time.Now().Add(silenceLimit)); err != nil {
		return err
	}
	return pglogrepl.SendStandbyStatusUpdate(context.Background(), t.conn,
		pglogrepl.StandbyStatusUpdate{WALWritePosition: lsn, ReplyRequested: ask})
}

// Close ends the stream and removes its files. The slot stays.
func (t *Stream) Close() error {
	if t.stopTend != nil {
		t.stopTend()
		<-t.tended
		t.stopTend = nil
	}
	if t.stopWatch != nil {
		t.stopWatch()
		t.stopWatch = nil
	}
	var errs []error
	if t.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		_ = t.conn.Conn().SetDeadline(time.Time{})
		_ = t.conn.Close(ctx) // a lost connection cannot be closed politely
	}
	if t.asm != nil {
		if t.asm.replaying != nil {
			errs = append(errs, t.asm.spools.discard(t.asm.replaying.p))
		}
		errs = append(errs, t.asm.spools.close())
		t.asm = nil
	}
	return errors.Join(errs...)
}

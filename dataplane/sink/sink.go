// Package sink says what every sink is and keeps. A sink holds rows and, beside
// them, its own ledger: which tables it takes and in which state, how their
// load is cut into chunks, how far each partition of the log has taken effect,
// which fencing token each lane has, the changes that were set aside, and what
// verifications found. The ledger is schema "syncline" in a SQL sink, database
// "syncline" in ClickHouse.
//
// # States of a table
//
//	loading ──► streaming ──► removed
//	                │  ▲
//	                ▼  │ (an operator approves)
//	              gated
//
// Chunks are copied while a table is loading; lanes deliver it only while it is
// streaming. A table is gated by a change of its schema that is not additive,
// or by an error that concerns it alone; the others go on.
//
// # Tiers
//
// Changes may wait for their tier's time. A watermark stays before the first that does,
// and Ahead says how far the others are streamed, and for each tier before which place
// its changes have taken effect. SetDue has what waits in a tier applied.
//
// A tier may keep aggregates of rows instead of the rows. Their partials (package
// tiers/aggregate) come in batches like rows, and go to a table beside the table; a view
// shows them merged. A run of the tier is written once, or in a sink without transactions
// once for each attempt: of the attempts the view takes one, as the columns of the run
// tell. So does a load (Sorting): what a chunk brings of such rows is partials that are
// committed with the chunk, and where there are no transactions it is removed with the rows
// of an attempt that does not count. TRUNCATE, ResetTable and RemoveTable are of the
// partials as well.
//
// # Failure
//
// Apply commits rows and watermarks together or not at all (ClickHouse, which
// has no transactions, writes rows that are idempotent by version, then the
// watermark). An attempt that was superseded gets CodeFenced. A row that a sink
// can never take is set aside as a dead letter in the same commit; every other
// error leaves the batch unapplied and may be retried.
package sink

import (
	"context"
	"io"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/tiers/aggregate"
)

// Conditions that every sink names in the same way.
const (
	// CodeFenced: a newer attempt has claimed the lane. Permanent for this attempt.
	CodeFenced fault.Code = "Fenced"
	// CodeSchemaGate: the change of schema is not additive; an operator decides.
	CodeSchemaGate fault.Code = "SchemaGate"
	// CodeTableMismatch: the sink's existing table cannot hold the source's rows.
	CodeTableMismatch fault.Code = "TableMismatch"
	// CodeTableNotEmpty: the sink's table has rows and on_existing is refuse.
	CodeTableNotEmpty fault.Code = "TableNotEmpty"
	// CodeUnreachable: no connection to the sink. Transient.
	CodeUnreachable fault.Code = "SinkUnreachable"
	// CodeAuth: the sink refuses the credentials. Transient while they rotate.
	CodeAuth fault.Code = "SinkAuthFailed"
	// CodeNotStreaming: a table of the batch is no longer streaming, so a resync may
	// be loading it; nothing of the batch was applied. Delivery drops the table and
	// applies the rest.
	CodeNotStreaming fault.Code = "TableNotStreaming"
	// CodePrivilege: the sink's role lacks a right.
	CodePrivilege fault.Code = "SinkPrivilege"
	// CodeSessionLost: the sink restarted without what this session committed last.
	// Transient: claim the lane again, read the watermarks and go on from there.
	CodeSessionLost fault.Code = "SessionLost"
)

// State of a table at a sink.
type State string

// The states of a table; see the package comment.
const (
	Loading   State = "loading"
	Streaming State = "streaming"
	Gated     State = "gated"
	Removed   State = "removed"
)

// Existing says what to do with rows that the sink's table holds before a load.
type Existing string

// The choices for Existing.
const (
	Refuse   Existing = "refuse"   // report CodeTableNotEmpty
	Clear    Existing = "truncate" // empty the table first
	KeepRows Existing = "append"   // load over what is there; rows of equal key are replaced
)

// Table is a sink's record of one table of a pipeline.
type Table struct {
	ID         change.TableID `json:"id"`
	State      State          `json:"state"`
	Reason     string         `json:"reason,omitempty"` // why it is gated; no row values
	Partitions int            `json:"partitions"`       // of its topic
	Epoch      uint32         `json:"epoch"`            // of its load
	Schema     *change.Schema `json:"schema"`           // as created or last altered
	Options    TableOptions   `json:"options"`          //
	Chunks     int            `json:"chunks"`           // planned; 0 until planned
	Done       int            `json:"done"`             // finished
	Rows       int64          `json:"rows"`             // loaded by finished chunks, as rows or into aggregates
	Bytes      int64          `json:"bytes"`            // of those rows on the wire
	LoadedTo   change.LSN     `json:"loaded_to"`        // highest LSN of its chunks: consistent once every watermark is past it
	Holds      int64          `json:"holds,omitempty"`  // rises whenever keys of it are held or are to be let go (Repairs)
	// Due is where what waits for its tier's time is to be applied up to (SetDue), by tier;
	// of every tier under AllTiers.
	Due map[string]change.Position `json:"due,omitempty"`
}

// DueOf returns where what waits in a tier is to be applied up to.
func (t *Table) DueOf(tier string) change.Position {
	due := t.Due[AllTiers]
	if of := t.Due[tier]; due.Before(of) {
		due = of
	}
	return due
}

// TableOptions is what the declaration says of a table at this sink.
type TableOptions struct {
	Schema     string   `json:"schema,omitempty"`   // schema or database at the sink; default: the source's schema name
	Name       string   `json:"name,omitempty"`     // default: the source's table name
	OrderBy    []string `json:"order_by,omitempty"` // ClickHouse ordering key; default: the primary key
	AppendOnly bool     `json:"append_only,omitempty"`
	Existing   Existing `json:"existing,omitempty"` // default Refuse
}

// Chunk is one range of a table's primary key, loaded by one COPY. The bounds
// are row data: they stay in the ledger and never enter workflow history.
type Chunk struct {
	N int `json:"n"` // from 0
	// By are the columns of the bounds, if the schema has no key: an append-only
	// table's changes carry none, but its rows may have one at the source.
	By       []string        `json:"by,omitempty"`
	After    []string        `json:"after,omitempty"` // exclusive lower bound, one text per key column; none: from the start
	UpTo     []string        `json:"up_to,omitempty"` // inclusive upper bound; none: to the end
	Done     bool            `json:"done"`
	Snapshot change.Snapshot `json:"snapshot"` // what the chunk's reader saw; set when done
	LSN      change.LSN      `json:"lsn"`      // at or after every commit that Snapshot sees
	Rows     int64           `json:"rows"`
	Bytes    int64           `json:"bytes"`
}

// Ranges returns the definition with the columns that the chunk is a range of as
// its key; ok is false if it has no such columns.
func (c *Chunk) Ranges(s *change.Schema) (_ *change.Schema, ok bool) {
	if len(c.By) == 0 {
		return s, len(s.Key) > 0
	}
	cut := *s
	cut.Key = nil
	for _, name := range c.By {
		i := s.Column(name)
		if i < 0 {
			return nil, false
		}
		cut.Key = append(cut.Key, i)
	}
	return &cut, true
}

// Partition is one partition of a table's topic.
type Partition struct {
	Table change.TableID `json:"table"`
	N     int            `json:"n"`
}

// LogRange is what the log holds of a partition before a load begins.
type LogRange struct {
	From int64 // at or before the first record that the load may not hold
	End  int64 // after the last record
}

// Row is what one key of a table becomes (or, for an append-only table, one
// appended row).
type Row struct {
	Op     change.Op       // Insert or Update: write New; Delete: remove Key
	Pos    change.Position // of the last change merged into it
	Commit time.Time       // of that change's transaction, on the source's clock
	Key    change.Key
	New    change.Row // values may be Unchanged: keep what the sink has
	Old    change.Row // image before the first change merged into it, where the log carried one
}

// TableBatch holds rows of one table that share a schema: at most one per key,
// except for append-only tables, whose rows are all there, in order.
type TableBatch struct {
	Schema  *change.Schema
	Options TableOptions
	Epoch   uint32 // of the table's load: a sink that keeps versions raises those of Rows to it, so that no older row beats a reloaded one
	Holds   int64  // Table.Holds, as it was when Rows were planned
	Rows    []Row
	// Partials: Rows are partial aggregates of the table, by this plan. They go to a table
	// of their own, which the sink makes together with its view if there is none.
	Partials *aggregate.Plan
}

// DeadLetter is a change that was set aside, with its reason. Payload is the
// encoded change (dataplane/change), so that it can be retried or edited.
type DeadLetter struct {
	Partition
	Offset  int64
	Key     change.Key
	Pos     change.Position
	Code    fault.Code // RowRejected, or ParkedBehind for later changes of such a key
	Reason  string     // no row values
	Payload []byte
}

// Codes of dead letters.
const (
	CodeRowRejected  fault.Code = "RowRejected"
	CodeParkedBehind fault.Code = "ParkedBehind"
)

// Batch is what Apply commits as one.
type Batch struct {
	Tables []TableBatch
	Marks  []Watermark  // where the batch leaves each partition that it moves
	Dead   []DeadLetter // set aside before the sink saw them
	// Settled are dead letters that Tables make good, by partition and position, and
	// Released the keys that a repair lets go with it.
	Settled  []DeadLetter
	Released []Release
	// Compression of the rows on their way, where a client compresses: none, lz4 or zstd;
	// "": as the sink is set up.
	Compression string
	// Encode gives the payload of a row that the sink rejects, for its dead letter.
	Encode func(table int, row int) DeadLetter
}

// Release ends a repair's hold of a key: it is Failed if there is a Reason, else Released.
type Release struct {
	Table  change.TableID
	Key    change.Key
	Repair string
	Reason string
}

// Applied is what Apply did.
type Applied struct {
	Written, Deleted int
	Dead             []DeadLetter // rows that the sink set aside, beyond Batch.Dead
	Bytes            int64        // sent to the sink, as far as its client can tell
	Tables           []int64      // of these, what the rows of each of Batch.Tables took; nil: not known
}

// Session is one lane's hold on a sink, under one fencing token.
type Session interface {
	// Token returns the fencing token of the session.
	Token() int64
	// Tables returns the pipeline's tables, of all states; how far a load has come
	// need not be told before it is over. Unlike the other methods it may be called
	// while another call is under way.
	Tables(ctx context.Context) ([]Table, error)
	// Chunks returns the finished chunks of a table with their bounds and snapshots.
	Chunks(ctx context.Context, table change.TableID) ([]Chunk, error)
	// Watermarks returns those of the partitions; a partition never delivered has Offset -1.
	Watermarks(ctx context.Context, ps []Partition) ([]Watermark, error)
	// Parked returns the keys of a table that have dead letters.
	Parked(ctx context.Context, table change.TableID) ([]change.Key, error)
	// Apply commits the batch; it keeps no reference to it. In the same commit it makes
	// sure that the lane's token is current, every table of the batch is streaming
	// (CodeNotStreaming), because a table may be reset while a batch is under way, and
	// no key was held meanwhile (again CodeNotStreaming; see Repairs).
	Apply(ctx context.Context, b *Batch) (Applied, error)
	// Truncate records that mark's partition has come to a TRUNCATE at mark.Pos.
	// It empties the table when all have (or, in a sink that keeps versions, removes
	// older rows at once), and reports whether the partition may go on, with its
	// watermark moved. Call it again until it does. What is streamed after a TRUNCATE is
	// complete in itself, so emptying the table also removes its chunks from the ledger.
	Truncate(ctx context.Context, mark Watermark, partitions int) (done bool, err error)
	// Evolve makes the sink's table able to hold rows of the schema, which a change at
	// a position has; CodeSchemaGate if that takes more than adding columns. Of two
	// schemas the one met at the higher position is the newer: a slower partition may
	// come with an older one after a faster one has gone on, and that adds nothing.
	// Rows that are there have a new column's Missing in it, or else NULL: the caller
	// knows that this is what they should have.
	Evolve(ctx context.Context, table Table, s *change.Schema, at change.Position) error
	// Gate takes a table out of delivery, with a reason.
	Gate(ctx context.Context, table change.TableID, reason string) error
	Close() error
}

// CopyFunc writes the rows of a chunk to w, as Postgres COPY output in the
// binary or the text format, and returns their number. The column order is the
// schema's.
type CopyFunc func(ctx context.Context, w io.Writer, binary bool) (rows int64, err error)

// Loaded is what a chunk's reader saw, recorded with the chunk, and how the rows are told
// apart that it brings.
type Loaded struct {
	Snapshot change.Snapshot
	LSN      change.LSN
	Sort     *Sorting // nil: all are rows of the table
}

// Sink is one pipeline's view of a sink.
type Sink interface {
	Findings
	Repairs
	HeldViews
	Walks
	Sizes
	Erasures
	// Init creates or migrates the ledger.
	Init(ctx context.Context) error
	// Check reports what a plan should say of the table: whether it exists, fits, has rows.
	Check(ctx context.Context, s *change.Schema, o TableOptions) (TableCheck, error)
	// AddTable creates the sink's table if there is none, or checks the existing one,
	// and records it as loading. Idempotent; a table that is streaming is left alone.
	AddTable(ctx context.Context, t Table) error
	// Redefine gives a table that is loading, and whose chunks are not planned, a
	// newer definition, with which it is then loaded; one that is farther is left
	// alone. It adds columns; CodeTableMismatch if the sink's table still does not fit.
	Redefine(ctx context.Context, table change.TableID, s *change.Schema) error
	// BeginLog records from where a table's delivery begins, for its partitions from 0
	// on, before anything of the load is read: what expires from the log from then on
	// is missed when delivery begins. A partition without a watermark gets one at From.
	// With again, which is for a load that was begun anew and is not planned yet, a
	// watermark whose offset is not within the range goes to From too; positions stay.
	BeginLog(ctx context.Context, table change.TableID, log []LogRange, again bool) error
	// PlanChunks records the cut of a table and returns it; if one is recorded
	// already, it returns that one instead.
	PlanChunks(ctx context.Context, table change.TableID, cut []Chunk) ([]Chunk, error)
	// Chunk returns one chunk of the plan, and the definition with which the table is loaded.
	Chunk(ctx context.Context, table change.TableID, n int) (Chunk, *change.Schema, error)
	// MakePartials makes what a load needs beside the table: the tables of the partial
	// aggregates that its rows may go into, with their views. Before its first chunk.
	MakePartials(ctx context.Context, table change.TableID, plans []*aggregate.Plan) error
	// LoadChunk copies a chunk and records it as done, as one. A chunk that is done
	// already is left alone and returned as it is. progress may be nil; it is told
	// the bytes so far.
	LoadChunk(ctx context.Context, table change.TableID, n int, seen Loaded, copy CopyFunc, progress func(bytes int64)) (Chunk, error)
	// FinishLoad builds indexes and constraints and sets the table to streaming.
	// Watermarks of its partitions that do not exist yet (BeginLog makes them) start at offset -1.
	FinishLoad(ctx context.Context, table change.TableID) error
	// ResetTable empties the table and its chunk plan for another load in a higher
	// epoch; its watermarks stay. It fences off every session, so that no batch that
	// is under way lands after the table was emptied; lanes claim again at once. (A
	// sink that refuses just such a batch, with CodeNotStreaming, leaves them alone.)
	ResetTable(ctx context.Context, table change.TableID, epoch uint32) error
	// RemoveTable stops delivery of the table; its rows stay unless drop is set and
	// this pipeline created the table: what was there before is never dropped. It
	// fences off every session, as ResetTable does.
	RemoveTable(ctx context.Context, table change.TableID, drop bool) error
	// Table returns one of the pipeline's tables.
	Table(ctx context.Context, id change.TableID) (Table, error)
	// Tables returns the pipeline's tables.
	Tables(ctx context.Context) ([]Table, error)
	// Watermarks returns all of the pipeline's.
	Watermarks(ctx context.Context) ([]Watermark, error)
	// SetDue asks the table's lanes to apply what waits in a tier, or in AllTiers, of all
	// commits below a position's (its ordinal is of no account). What is due never goes
	// back: a position that is not higher changes nothing.
	SetDue(ctx context.Context, table change.TableID, tier string, at change.Position) error
	// Claim takes a lane of lanes under a new, higher fencing token; every older
	// session of the lane, and of a different number of lanes, is fenced off.
	Claim(ctx context.Context, lane, lanes int) (Session, error)
	// Forget removes the pipeline from the ledger, and its views of held keys; rows stay.
	Forget(ctx context.Context) error
	Close() error
}

// TableCheck is what Check found.
type TableCheck struct {
	Exists  bool            `json:"exists"`
	Rows    bool            `json:"rows"` // has at least one
	Columns []ColumnMapping `json:"columns"`
	Problem string          `json:"problem,omitempty"` // why the existing table cannot be used
	Notes   []string        `json:"notes,omitempty"`   // for example unique indexes that are built as plain ones
}

// ColumnMapping is where a column's values go.
type ColumnMapping struct {
	Column string `json:"column"`
	Source string `json:"source"`          // type at the source
	Sink   string `json:"sink"`            // type at the sink
	Lossy  string `json:"lossy,omitempty"` // what is lost, if anything
}

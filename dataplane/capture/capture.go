// Package capture moves committed changes from a source to the log.
//
// # States
//
//	starting ──► compared ──► streaming ──► stopped
//
// Before it streams, capture compares where the source will begin with the last
// progress record in the log: newer Postgres silently begins at the slot's
// confirmed position, so a slot that somebody advanced would be a loss that
// nobody sees. It reports CodeSlotAhead instead. The record also names the server
// and its timeline, and a source that can tell (Identified) refuses another one.
//
// # Failure
//
// The source is told that a position is safe only after every record up to it
// is acknowledged by all in-sync replicas and a progress record says so. A
// crash therefore resends; the positions let every reader recognise that.
// Memory is bounded by Options: when the log is slow, reading pauses.
package capture

import (
	"context"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// CodeSlotAhead: the slot was confirmed past what the log holds; changes are
// missing and only a resync brings them back.
const CodeSlotAhead fault.Code = "SlotAhead"

// Event is one step of a source's stream. Exactly one of Schema, Change and
// Through is set, but that Through may come with the last change's commit.
type Event struct {
	Schema  *change.Schema // a table's definition, before the first change that uses it
	Change  *change.Change // valid until the next call of Next unless copied; Pos, Schema, Key set
	Through change.LSN     // set at the end of a transaction and on keepalives: all up to here was returned
	At      time.Time      // source clock, with Through
}

// Source is the stream of a slot.
type Source interface {
	// Start begins at the slot's confirmed position and returns it.
	Start(ctx context.Context) (confirmed change.LSN, err error)
	// Next blocks for the next event.
	Next(ctx context.Context) (Event, error)
	// Confirm tells the source that everything through lsn is safe. It never moves back.
	Confirm(ctx context.Context, lsn change.LSN) error
	Close() error
}

// Identified is a Source whose positions mean something on one server only: a
// promoted standby or another cluster has positions that look alike and are not.
type Identified interface {
	// Expect makes Start refuse any other server; called before it. "" and 0 match all.
	Expect(system string, timeline int32)
	// System is the server that Start connected to.
	System() (system string, timeline int32)
}

// Progress says that everything through LSN is in the log, below Offsets.
type Progress struct {
	Epoch   uint32     `json:"epoch"`
	Through change.LSN `json:"through"`
	At      time.Time  `json:"at"` // source clock
	// System and Timeline say whose positions these are; "" and 0 if the source cannot tell.
	System   string `json:"system,omitempty"`
	Timeline int32  `json:"timeline,omitempty"`
	// End is how far the source's own log went, as it told: nothing that was captured
	// by then was committed after it. 0 if the source does not say.
	End change.LSN `json:"end,omitempty"`

	Offsets map[string][]int64 `json:"offsets"` // by table (TableID.String()), next offset per partition
}

// Log is where changes go.
type Log interface {
	// PutSchema makes a definition known; durable on return.
	PutSchema(ctx context.Context, s *change.Schema) error
	// Append hands a change over; it copies what it keeps, blocks while the window is
	// full, and returns a sequence number that grows by one per change.
	Append(ctx context.Context, c *change.Change) (seq uint64, err error)
	// Acked returns the highest n such that every change with a sequence number up to
	// n is acknowledged by all in-sync replicas, and the error that stopped the log.
	Acked() (n uint64, err error)
	// PutProgress writes a progress record; durable on return. The log fills in Offsets.
	PutProgress(ctx context.Context, p Progress) error
	// LastProgress returns the record with the highest position, if there is one.
	LastProgress(ctx context.Context) (Progress, bool, error)
	Close() error
}

// Package replay tells what the log alone says of rows (Keys), and rebuilds a table
// from a part of it (Rebuild).
//
// # States of a key
//
//	unknown ──► partial (a value was never sent) ──► complete (a row, or deleted)
//
// A partition is read from some way before a sink's watermark up to it, and
// again from twice as far back, until each key is complete or the log's beginning
// is reached. What makes a key complete is an insertion, a deletion, a TRUNCATE, or
// an update whose values were all sent; later updates that leave values out take
// them from there. The reads overlap, which costs at most as much again as the last
// one, and in return nothing has to be kept of an earlier read but its keys.
//
// # What a read may trust
//
// A partition holds a prefix of its changes, mixed with repetitions (see
// transport/kafka): whoever begins within one cannot tell a writer's repetition, if
// another writes ahead of it at that time, from news. So the first records of a
// read only move the position that is known; the window grows by as many. And what
// lies right before a watermark may be no more than the beginning of a repetition, so
// a read counts only if it comes to the watermark's position.
//
// # A table
//
//	begun (a ledger of its own) ──► delivered ──► at the window's end ──► forgotten
//
// A rebuild is delivery itself, of one table, from a log that ends: what is outside
// the window is left out, and when all partitions were read a progress moves their
// watermarks to its end. Its ledger has another pipeline's name, so the live table
// and its lanes know nothing of it, and an attempt that fails leaves off where the
// next goes on. Rows that only the table's load brought are not in it; a change that
// needs a value of such a row is set aside.
//
// # Failure
//
// What the log does not hold is not an error but a state with its reason. Absence
// never means deleted.
package replay

import (
	"context"

	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// CodeBadRequest: the request contradicts itself.
const CodeBadRequest fault.Code = "BadReplayRequest"

// Log is what rows are told from. Its methods may be called concurrently.
type Log interface {
	// Range returns the first offset of a partition and the one after its last.
	Range(ctx context.Context, p sink.Partition) (first, end int64, err error)
	// Open and Schema are delivery's.
	Open(ctx context.Context, p sink.Partition, offset int64) (deliver.Reader, error)
	Schema(ctx context.Context, v change.Version) (*change.Schema, error)
}

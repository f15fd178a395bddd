// Package deliver moves changes from the log to one sink.
package deliver

import (
	"context"

	"syncline/dataplane/capture"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// Conditions of the log that delivery names.
const (
	// CodeOffsetGone: the log no longer holds the next offset; only a resync helps.
	CodeOffsetGone fault.Code = "OffsetGone"
	// CodeTopicMissing: a topic that should exist does not.
	CodeTopicMissing fault.Code = "TopicMissing"
)

// Record is a change at its place in the log.
type Record struct {
	Change *change.Change
	Offset int64
	Next   int64 // the offset after it (a change may span several records)
	Bytes  int   // of its encoded form
}

// Log is what delivery reads from.
type Log interface {
	// Schema returns a definition by version.
	Schema(ctx context.Context, v change.Version) (*change.Schema, error)
	// Open reads a partition from offset, or from its first record if offset is -1.
	// It reports CodeOffsetGone if the log begins after offset or ends before it.
	Open(ctx context.Context, p sink.Partition, offset int64) (Reader, error)
	// Progress returns the newest progress record, without blocking; ok is false until there is one.
	Progress() (p capture.Progress, ok bool)
	Close() error
}

// Reader reads one partition.
type Reader interface {
	// Read blocks until at least one record is there and returns up to max.
	Read(ctx context.Context, max int) ([]Record, error)
	// Lag returns how many records are left, as of the last Read.
	Lag() int64
	Close() error
}

// Placer finds the chunks that hold keys, in the source's own order of keys.
type Placer interface {
	// Place returns for each key the N of the chunk whose bounds hold it.
	Place(ctx context.Context, s *change.Schema, chunks []sink.Chunk, keys []change.Key) ([]int, error)
}

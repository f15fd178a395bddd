// Package deliver moves changes from the log to one sink.
//
// # States of a lane
//
//	claiming ──► polling tables ──► per table: opened ──► closed (left streaming, or gated)
//	                                  per partition: reading ⇄ waiting (TRUNCATE barrier, a fault that may pass)
//
// A sink is fed by a number of lanes; lane k takes the partitions p with
// p % lanes == k of every table that is streaming. Lanes share nothing but the
// sink's ledger, so they may run anywhere.
//
// One goroutine per partition reads ahead into a buffer bounded in bytes, one
// plans (dataplane/apply decides and merges), one commits. While a batch is
// being committed the next one grows from whatever has arrived: there is no
// linger, so batches are small when the sink is quick and large when it is not,
// and two batches at most are in memory.
//
// # Watermarks
//
// A partition's watermark is the position of its last change and the offset
// after it, committed with the rows. A partition without traffic is moved by
// progress records: capture says that everything it returned up to Through, the
// end of the last complete transaction, lies below certain offsets. A commit
// record may begin exactly at Through, so a partition read up to its offset has
// taken in every change with a commit LSN below Through, and its watermark
// becomes (epoch, Through-1, highest ordinal). That is written at most once per
// Options.IdleMark.
//
// # Tiers
//
// By Options.Tiers changes of a table wait for their tier's time: the lane goes over
// them without applying them. The partition's watermark stays before the first that
// waits, and beside it, in the same commit, the ledger keeps how far streaming is ahead
// (sink.Ahead), with the rules that tell what waits from what was streamed. A lane that
// opens the partition streams on from there.
//
// When what waits is due (sink.Sink.SetDue, read with the tables' states), a sweep reads
// from the watermark to where streaming is, with a reader of its own, merges what waits
// by key, and hands it over in batches that take turns with those of the stream. Each
// moves the watermark, so that a sweep that ends early is gone on with. The last state of
// a key wins: what a later streamed change has overtaken is left out. The sweep knows
// these from reading ahead; of what is streamed meanwhile the lane notes the keys, with
// the batch that each is in, and leaves out what a committed one overtook. If there are
// too many to remember, the sweep reads the rest of the log anew for each batch.
//
// A streamed change that leaves values out must not pass one of its key that waits: the
// partition waits for a sweep, at once, and so it does at a TRUNCATE. Which keys wait is
// known by a filter of bounded size that may say yes too often; after a restart it says
// yes to all until the next sweep. Where rows are only added nothing is overtaken.
//
// Nothing waits that is before the end of its table's load. A table that was loaded again
// has in its load what waited. If the rules are not those by which changes
// wait, the partition goes on by the old ones, is swept at once, and takes the new ones
// when nothing waits; for the last records before that its stream stops.
//
// A tier may keep aggregates of rows instead of the rows (Tiers.Aggregates), of tables that
// are only added to. A batch of a sweep then has partials, one for each group, beside the
// rows of other tiers; memory is bounded by the number of groups and not of changes. In a
// sink without transactions an attempt that fails may leave partials behind, and the next
// may cover another range: both begin at the watermark, so that their first aggregated
// change is the same, and of attempts that begin there, or further on, the newest counts. A
// row that cannot be aggregated exactly is set aside (sink.CodeAggregateValue).
//
// A change that waits of a key with dead letters, or that is held, is set aside when it
// is swept: its position says where it comes among those of the key.
//
// # Changes that a sink does not hold
//
// The log may be one sink's view (dataplane/shaped): rows that the sink is not to hold come
// and go there, and a record that is Withheld moves its partition and does nothing else.
//
// # New columns
//
// Rows that are older than a column have its constant default, which is in the
// definition, or NULL. If the definition has no constant, the source is asked
// whether they hold something else, which the log will never bring; then the
// table is gated. Until the answer is there the partition waits, and the lane's
// other tables go on.
//
// # Keys under repair
//
// A repair holds keys in the ledger, which raises the table's Holds: a batch with rows
// that was planned before is refused, and the table is opened again from its
// watermarks. From then on changes of a held key are set aside, in order, as dead
// letters with CodeQuarantined. When the key is to be let go, or its repair's lease went
// by, the lane applies what was set aside and ends the hold in one commit, before it
// reads the table again. In whole transactions, too, a held key stays behind.
//
// # Failure
//
// A transient fault of the sink is retried here with growing pauses, within
// Options.RetryFor, and then returned. CodeFenced is returned at once: another
// attempt has the lane; and so is CodeSessionLost: only a new claim helps. A permanent fault that concerns one table gates that
// table, with the reason in the ledger, and the others go on; a batch that fails
// is applied table by table to find out which one it is. A row that the sink
// sets aside parks its key: later changes of the key become dead letters behind
// it, in order. When ctx ends, the batch that is being committed gets
// Options.Grace to finish.
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
	// CodeUnplaced: the chunk of a key cannot be told, so neither can whether the
	// load holds its change.
	CodeUnplaced fault.Code = "KeyUnplaced"
)

// Record is a change at its place in the log. It belongs to whoever read it.
type Record struct {
	Change *change.Change
	Offset int64
	Next   int64 // the offset after it (a change may span several records)
	Bytes  int   // of its encoded form
	// Withheld: the sink is to know nothing of the change but its place.
	Withheld bool

	read int64 // when, in Unix nanoseconds; only of changes that are traced
}

// Log is what delivery reads from. Its methods may be called concurrently.
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

// Source is asked what only the source knows. Its methods may be called concurrently.
type Source interface {
	// Place returns for each key the N of the chunk whose bounds hold it, in the
	// source's own order of keys.
	Place(ctx context.Context, s *change.Schema, chunks []sink.Chunk, keys []change.Key) ([]int, error)
	// Carried returns nil if the log carries every value that rows have in columns
	// which were added after the chunks were loaded; CodeSchemaGate if it does not, or
	// if that cannot be told. It may take minutes.
	Carried(ctx context.Context, s *change.Schema, columns []string, chunks []sink.Chunk) error
}

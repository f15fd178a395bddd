package deliver

import (
	"errors"
	"fmt"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/trace"
)

// Options of a lane. Zero values mean the defaults.
type Options struct {
	Lane, Lanes    int           // this lane, and how many there are
	Epoch          uint32        // of what is captured now: changes of older ones are of a slot that was given up, and loads of after it hold them
	MaxBatchRows   int           // changes in a batch; default 20,000
	MaxBatchBytes  int           // encoded bytes in a batch; default 16 MiB
	MaxBufferBytes int           // encoded bytes read ahead, beyond one read per partition; default 32 MiB
	ReadMax        int           // records per read; default 512
	PollTables     time.Duration // how often table states are read; default 500 ms
	IdleMark       time.Duration // how often watermarks of idle partitions are written; default 1 s
	RetryFor       time.Duration // how long a transient fault is retried here; default 30 s
	Grace          time.Duration // what a batch under way gets when ctx ends; default 5 s

	// Transactional applies whole source transactions: a batch ends where a
	// transaction ends, over all tables. It takes one lane, waits for progress
	// records, and lets a transaction exceed the limits of a batch. A TRUNCATE and a
	// change of schema still stand between what is before and after them.
	Transactional bool

	// Tiers tells which changes wait for their tier's time; nil: none does. It cannot go
	// with Transactional.
	Tiers      Tiers
	SweepRows  int // rows in a batch of what waited; default MaxBatchRows
	SweepBytes int // encoded bytes of them; default MaxBatchBytes
	// Compression of batches of what waited, by tier, as in sink.Batch; of tiers that it does
	// not have, the sink's. A batch of several tiers has the strongest of theirs.
	Compression map[string]string

	Trace *trace.Pipeline // nil: not traced

	// SourceAhead tells how much the source's clock is ahead of ours, so that lags are
	// measured on one clock. Nil: not at all.
	SourceAhead func() time.Duration

	known int           // keys whose later changes a sweep remembers; of more it reads again for each batch
	noted int           // keys that are noted while it reads, before the partition waits
	tick  time.Duration // how often waiting partitions are tried again
	pause time.Duration // before the first retry
}

func (o *Options) validate() error {
	if o.Lanes == 0 {
		o.Lanes = 1
	}
	var errs []error
	if o.Lane < 0 || o.Lane >= o.Lanes {
		errs = append(errs, fmt.Errorf("lane %d of %d: want 0 to %d", o.Lane, o.Lanes, o.Lanes-1))
	}
	if o.Transactional && o.Lanes != 1 {
		errs = append(errs, fmt.Errorf("whole transactions take 1 lane, not %d", o.Lanes))
	}
	if o.Transactional && o.Tiers != nil {
		errs = append(errs, errors.New("whole transactions have no tiers: some of their changes would wait"))
	}
	for _, n := range []struct {
		v        *int
		name     string
		standard int
	}{
		{&o.MaxBatchRows, "batch rows", 20_000},
		{&o.MaxBatchBytes, "batch bytes", 16 << 20},
		{&o.MaxBufferBytes, "buffer bytes", 32 << 20},
		{&o.ReadMax, "records per read", 512},
		{&o.known, "known keys", 250_000},
		{&o.noted, "noted keys", 100_000},
		{&o.SweepRows, "rows of what waited", 0},
		{&o.SweepBytes, "bytes of what waited", 0},
	} {
		if *n.v < 0 {
			errs = append(errs, fmt.Errorf("%s: %d is negative", n.name, *n.v))
		}
		if *n.v == 0 {
			*n.v = n.standard
		}
	}
	if o.SweepRows == 0 {
		o.SweepRows = o.MaxBatchRows
	}
	if o.SweepBytes == 0 {
		o.SweepBytes = o.MaxBatchBytes
	}
	for _, d := range []struct {
		v        *time.Duration
		name     string
		standard time.Duration
	}{
		{&o.PollTables, "table poll", 500 * time.Millisecond},
		{&o.IdleMark, "idle watermark", time.Second},
		{&o.RetryFor, "retry time", 30 * time.Second},
		{&o.Grace, "grace", 5 * time.Second},
		{&o.tick, "tick", 100 * time.Millisecond},
		{&o.pause, "pause", 50 * time.Millisecond},
	} {
		if *d.v < 0 {
			errs = append(errs, fmt.Errorf("%s: %s is negative", d.name, *d.v))
		}
		if *d.v == 0 {
			*d.v = d.standard
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fault.Permanent("BadOptions", err, "correct the stream settings", "delivery options")
	}
	return nil
}

// Observer is told what a lane does. Nil functions are not called. They are
// called from the lane's goroutines, one at a time per function except Retry,
// and must not block.
type Observer struct {
	Applied    func(t change.TableID, op change.Op, n int) // changes that took effect
	Duplicates func(t change.TableID, n int)               // resent changes that were dropped
	Contained  func(t change.TableID, n int)               // changes that the table's load had brought
	Dead       func(t change.TableID, code fault.Code, n int)
	Batch      func(rows, bytes int, took time.Duration)                   // rows after merging; bytes as sent to the sink
	Used       func(t change.TableID, tier string, u Used)                 // a table's part of a batch; tier "" of what did not wait
	Lag        func(t change.TableID, d time.Duration, n int)              // n changes became visible d after their commit
	Swept      func(t change.TableID, tier string, d time.Duration, n int) // the same of n changes that waited for their tier's time
	Moved      func(p sink.Partition, from, to int64, pos change.Position) // records from an offset to before another are done with
	Opened     func(t change.TableID, loadedTo change.LSN)
	Closed     func(t sink.Table, state sink.State, reason string) // t as it was opened
	Retry      func(what string, err error, wait time.Duration)
	Status     func(Status) // about once a second
}

// Used is what was moved for a table.
type Used struct {
	Changes int   // that took effect
	Read    int64 // encoded bytes of records; a change that waits is read twice
	Text    int64 // bytes of the values of rows that were written, after merging
	Sent    int64 // to the sink for them, as far as it tells
}

// Status of a lane: positions and counts only, fit for a heartbeat.
type Status struct {
	Lane        int             `json:"lane"`
	Token       int64           `json:"token"`
	Changes     int64           `json:"changes"`    // took effect since the lane was claimed
	Rate        float64         `json:"rate"`       // of them, per second, lately
	P50         float64         `json:"p50_ms"`     // commit to visible, lately
	P99         float64         `json:"p99_ms"`     //
	Duplicates  int64           `json:"duplicates"` // dropped
	Contained   int64           `json:"contained"`  // skipped, since the load brought them
	Dead        int64           `json:"dead"`       // set aside
	Quarantined int64           // changes that wait for a repair of their key
	Swept       int64           `json:"swept"`                // changes that took effect after they had waited for their tier's time
	Waits       int64           `json:"waits"`                // changes that do
	WaitsSince  time.Time       `json:"waits_since,omitzero"` // no later than when the first of them was committed, on the source's clock
	Backlog     int64           `json:"backlog"`              // records not yet applied, as far as known
	Bytes       int64           `json:"backlog_bytes"`        // of them: what is read ahead, and the rest by the mean size of records
	Oldest      change.Position `json:"oldest"`               // lowest watermark of the open partitions
	Through     change.LSN      `json:"through"`              // newest progress of capture that the log told of
	Behind      int             `json:"partitions_behind"`    // open partitions that are not streamed to Through
	Tables      []TableStatus   `json:"tables"`
}

// TableStatus is the part of one table in a lane's Status.
type TableStatus struct {
	Table      change.TableID  `json:"table"`
	Pos        change.Position `json:"pos"`        // lowest watermark of the lane's partitions
	Consistent bool            `json:"consistent"` // all of them are past the load
	Backlog    int64           `json:"backlog"`
	Waits      int64           `json:"waits,omitempty"`      // changes that wait for their tier's time
	WaitsSince time.Time       `json:"waits_since,omitzero"` // no later than when the first of them was committed
	Waiting    bool            `json:"waiting,omitempty"`    // a partition waits at a TRUNCATE or for a fault to pass
	// Tiers says it of each in which something waits, and under sink.AllTiers of what an
	// older release did not tell apart.
	Tiers map[string]TierStatus `json:"tiers,omitempty"`
}

// TierStatus is what waits in a tier.
type TierStatus struct {
	Waits int64     `json:"waits"`
	Since time.Time `json:"since"` // no later than when the first of it was committed
}

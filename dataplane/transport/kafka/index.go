package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"syncline/dataplane/capture"
	"syncline/dataplane/change"
)

// entry is a record of the index: a progress record, with what makes it fit for
// a search. Offsets say that everything below Through is below them, not the
// reverse: what capture has appended ahead is there too.
type entry struct {
	capture.Progress
	Seen   change.LSN `json:"seen"`   // the commit of every change below Offsets is before it
	Latest time.Time  `json:"latest"` // the highest At so far: the source's clock may be set back
}

// indexTail is how many records of the index a look takes in: a writer that was
// superseded may have written after its successor.
const indexTail = 16

// indexer writes the index's records.
type indexer struct {
	exists bool // the topic
	loaded bool // latest is known
	latest time.Time
	wrote  time.Time
}

// put adds a record once every has passed. read is the last change that the
// writer has appended.
func (x *indexer) put(ctx context.Context, c *cluster, p capture.Progress, read change.Position, every time.Duration) error {
	// A writer before us may have appended what we have not read again yet. Only the
	// source can say that it was not beyond End.
	if !x.exists || p.End == 0 || read.Epoch > p.Epoch || !x.wrote.IsZero() && time.Since(x.wrote) < every {
		return nil
	}
	topic := partition{IndexTopic(c.opts.Prefix, c.opts.Pipeline), 0}
	if !x.loaded {
		ends, err := c.ends(ctx, []partition{topic})
		if err != nil {
			return err
		}
		first, end := ends[topic][0], ends[topic][1]
		err = c.scan(ctx, topic, max(first, end-indexTail), end, func(r rawRecord) error {
			e, err := decodeEntry(topic, r)
			if e.Latest.After(x.latest) {
				x.latest = e.Latest
			}
			return err
		})
		if err != nil {
			return err
		}
		x.loaded = true
	}
	if p.At.After(x.latest) {
		x.latest = p.At
	}
	e := entry{Progress: p, Seen: max(p.End, p.Through), Latest: x.latest}
	if read.Epoch == p.Epoch {
		e.Seen = max(e.Seen, read.Commit+1)
	}
	value, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if _, err := c.put(ctx, topic, nil, value, nil); err != nil {
		return err
	}
	x.wrote = time.Now()
	return nil
}

func decodeEntry(p partition, r rawRecord) (e entry, err error) {
	if err := json.Unmarshal(r.value, &e); err != nil {
		return e, damaged(p, r.offset, err)
	}
	return e, nil
}

// Index finds places in the log by position and by the source's clock. Kafka's
// own timestamps are of the writing, and move when a log is copied.
type Index struct {
	c *cluster
	p partition
}

// OpenIndex prepares a connection; it is made by the first look-up.
func OpenIndex(o Options) (*Index, error) {
	c, err := connect(o)
	if err != nil {
		return nil, err
	}
	return &Index{c, partition{IndexTopic(o.Prefix, o.Pipeline), 0}}, nil
}

// Close ends the connections.
func (x *Index) Close() error { x.c.close(); return nil }

// Place is a place in the log.
type Place struct {
	Found bool
	Why   string // why it was not found
	// Pos is the place as a position: that asked for, or the one that a time stands for.
	Pos     change.Position
	Through change.LSN // of the record that was found
	At      time.Time  // of that record, on the source's clock
	// Offsets are where to begin or to end, by table and partition. A table that is
	// not among them had no topic yet: its place is the beginning.
	Offsets map[change.TableID][]int64
}

// Before returns the last place that no change after at lies below: who reads
// from its offsets meets all of them.
func (x *Index) Before(ctx context.Context, at change.Position) (Place, error) {
	prev, next, err := x.search(ctx, func(e *entry) bool { return e.beyond(at) })
	if err != nil {
		return Place{}, err
	}
	return begin(prev, next, at)
}

// BeforeTime returns the last place before any record of the index tells of a
// commit at t or later.
func (x *Index) BeforeTime(ctx context.Context, t time.Time) (Place, error) {
	prev, next, err := x.search(ctx, func(e *entry) bool { return !e.Latest.Before(t) })
	if err != nil || prev == nil {
		p, _ := begin(prev, next, change.Position{})
		return p, err
	}
	// Capture had read on when it wrote that record.
	return x.Before(ctx, prev.done())
}

// After returns the first place below whose offsets every change up to at lies.
func (x *Index) After(ctx context.Context, at change.Position) (Place, error) {
	return x.end(ctx, func(e *entry) bool { return !e.done().Before(at) }, &at)
}

// AfterTime returns the first place of which the index tells a commit at t or later.
func (x *Index) AfterTime(ctx context.Context, t time.Time) (Place, error) {
	return x.end(ctx, func(e *entry) bool { return !e.Latest.Before(t) }, nil)
}

func (x *Index) end(ctx context.Context, f func(*entry) bool, at *change.Position) (Place, error) {
	prev, next, err := x.search(ctx, f)
	switch {
	case err != nil:
		return Place{}, err
	case next != nil && at != nil:
		return next.place(*at)
	case next != nil:
		return next.place(next.done())
	case prev != nil:
		return Place{Why: fmt.Sprintf("the index ends at %s (%s)", prev.done(), prev.At.UTC().Format(time.RFC3339))}, nil
	}
	return Place{Why: noIndex}, nil
}

const noIndex = "the index is empty; capture writes it from its next progress on"

func begin(prev, next *entry, at change.Position) (Place, error) {
	switch {
	case prev != nil:
		return prev.place(at)
	case next != nil:
		return Place{Why: fmt.Sprintf("the index begins later, at %s (%s)", next.done(), next.At.UTC().Format(time.RFC3339))}, nil
	}
	return Place{Why: noIndex}, nil
}

// done is the position up to which all is in the log: a commit record may begin
// exactly at Through.
func (e *entry) done() change.Position {
	return change.Position{Epoch: e.Epoch, Commit: max(e.Through, 1) - 1, Ordinal: math.MaxUint32}
}

// beyond reports whether a change after at may lie below the entry's offsets.
func (e *entry) beyond(at change.Position) bool {
	last := change.Position{Epoch: e.Epoch, Commit: max(e.Seen, 1) - 1, Ordinal: math.MaxUint32}
	return at.Before(last)
}

func (e *entry) place(at change.Position) (Place, error) {
	p := Place{Found: true, Pos: at, Through: e.Through, At: e.At, Offsets: make(map[change.TableID][]int64, len(e.Offsets))}
	for name, next := range e.Offsets {
		id, err := change.ParseTableID(name)
		if err != nil {
			return Place{}, fmt.Errorf("index: %w", err)
		}
		p.Offsets[id] = next
	}
	return p, nil
}

// search returns the first record for which f is true and the one before it. f
// must stay true once it is, but for late writers' records.
func (x *Index) search(ctx context.Context, f func(*entry) bool) (prev, next *entry, err error) {
	var all map[string]topicInfo
	err = x.c.retry(ctx, func() (err error) { all, err = x.c.topics(ctx, x.p.topic); return err })
	if err != nil {
		return nil, nil, classify(ctx, err, "topic "+x.p.topic)
	}
	if _, ok := all[x.p.topic]; !ok {
		return nil, nil, nil // the pipeline is older than indexes, and has not been captured since
	}
	ends, err := x.c.ends(ctx, []partition{x.p})
	if err != nil {
		return nil, nil, err
	}
	return find(ends[x.p][0], ends[x.p][1], f, func(from, to int64, most int, g func(int64, *entry)) error {
		enough := errors.New("enough")
		err := x.c.scan(ctx, x.p, from, to, func(r rawRecord) error {
			if r.offset >= to || most == 0 {
				return enough
			}
			e, err := decodeEntry(x.p, r)
			if err != nil {
				return err
			}
			most--
			g(r.offset, &e)
			return nil
		})
		if errors.Is(err, enough) {
			err = nil
		}
		return err
	})
}

// find looks for the first record in [first, end) for which f is true. read hands
// g the records from an offset on, before another, at most so many. Offsets may
// have gaps.
func find(first, end int64, f func(*entry) bool, read func(from, to int64, most int, g func(int64, *entry)) error) (prev, next *entry, err error) {
	lo, hi := first, end // no record below lo is a hit; from hi on nothing need be looked at
	for hi-lo > 4*indexTail {
		mid := lo + (hi-lo)/2
		last, hit := int64(-1), int64(-1)
		err := read(max(first, mid-indexTail+1), hi, indexTail, func(at int64, e *entry) {
			last = at
			if hit < 0 && f(e) {
				hit = at
			}
		})
		switch {
		case err != nil:
			return nil, nil, err
		case hit > mid: // behind a gap
			lo, hi = mid, hit+1
		case hit >= 0:
			lo, hi = min(lo, hit), hit+1
		case last < mid: // a gap up to hi
			hi = mid
		default:
			lo = last + 1
		}
	}
	// The record before may lie before a gap.
	for back := int64(indexTail); ; back *= 4 {
		from := max(first, lo-back)
		prev, next = nil, nil
		err := read(from, hi, math.MaxInt, func(_ int64, e *entry) {
			switch {
			case next != nil:
			case f(e):
				next = e
			default:
				prev = e
			}
		})
		if err != nil || prev != nil || from == first {
			return prev, next, err
		}
	}
}

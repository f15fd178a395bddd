package replay

import (
	"context"
	"errors"
	"math"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// Request says whose changes are looked for.
type Request struct {
	Table      change.TableID
	Partitions int          // of its topic
	Keys       []change.Key // at most a few ten thousand: the state of each is in memory
	// To are a sink's watermarks, by partition: what lies before their offsets is looked
	// at. Their positions tell whether a writer's repetition is all that was read.
	To []sink.Watermark
	// From is an offset from which to look at the latest, by partition, as the index
	// may tell. Nil: near To.
	From []int64
	// Load is the table's last load, the zero value if it had none. What it may hold
	// does not make a row complete.
	Load Load

	Window int64         // records of the first read; default 4096
	Settle int64         // records of a read that only tell its position; default 4096, negative: none
	Most   int64         // records that are read at most, by and large, over all partitions; 0: down to the log's first
	Wait   time.Duration // how long an end that holds no whole change is waited for; default 1 s
}

// Load is how far a load may have seen changes.
type Load struct {
	Epoch uint32 // of what was captured meanwhile, which need not be the load's own
	To    change.LSN
}

func (l Load) holds(p change.Position) bool {
	return p.Epoch < l.Epoch || p.Epoch == l.Epoch && p.Commit <= l.To
}

// State is what the log says of a key.
type State struct {
	Complete bool // the log alone tells the row
	Deleted  bool
	Row      change.Row
	Schema   change.Version // of Row
	Pos      change.Position
	Commit   time.Time
	Changes  int    // how many were replayed
	Why      string // why it is not complete: one of the constants
}

// Why a row is not complete.
const (
	NoChange   = "no change of the key is in the log"
	Expired    = "no change of the key is left in the log, which begins later"
	TooFar     = "no change of the key is among the last in the log, and reading more of it costs more than reading the row"
	Behind     = "the log ends before the offset that was asked for"
	NeverSent  = "a value was never sent (unchanged TOAST)"
	BeforeLoad = "its changes are before the end of the table's load, which may hold them"
	Redefined  = "the table's definition changed, and a value that was not sent again was of the old one"
)

// Stats tell what it cost.
type Stats struct {
	Records, Bytes int64
	Reads          int           // windows, over all partitions
	From           map[int]int64 // the lowest offset that was read, by partition
}

// Keys tells what the log says of the keys.
func Keys(ctx context.Context, log Log, r Request) (map[change.Key]State, Stats, error) {
	st := Stats{From: map[int]int64{}}
	if r.Partitions < 1 || len(r.To) != r.Partitions || r.From != nil && len(r.From) != r.Partitions {
		return nil, st, fault.Permanent(CodeBadRequest, nil, "give an offset for each partition of the table's topic",
			"table %s has %d partitions; there are %d ends and %d beginnings", r.Table, r.Partitions, len(r.To), len(r.From))
	}
	if r.Window <= 0 {
		r.Window = 4096
	}
	if r.Settle == 0 {
		r.Settle = 4096
	}
	r.Settle = max(r.Settle, 0)
	if r.Wait <= 0 {
		r.Wait = time.Second
	}
	by := map[int][]change.Key{}
	for _, k := range r.Keys {
		if k == "" {
			return nil, st, fault.Permanent(CodeBadRequest, nil, "replay the table: rows without a key cannot be told apart", "table %s: an empty key", r.Table)
		}
		n := k.Partition(r.Partitions)
		by[n] = append(by[n], k)
	}
	out := make(map[change.Key]State, len(r.Keys))
	for n := range r.Partitions { // in order, so that a run is like another
		if keys := by[n]; len(keys) > 0 {
			reach := int64(math.MaxInt64)
			if r.Most > 0 { // each read is of twice as much: the last is half of all
				reach = max(r.Most*int64(len(keys))/int64(2*len(r.Keys)), 1)
			}
			if err := partition(ctx, log, &r, n, keys, reach, out, &st); err != nil {
				return nil, st, err
			}
		}
	}
	return out, st, nil
}

// partition tells the keys of one partition, by its last records at the most so far back.
func partition(ctx context.Context, log Log, r *Request, n int, keys []change.Key, reach int64, out map[change.Key]State, st *Stats) error {
	p := sink.Partition{Table: r.Table, N: n}
	first, end, err := log.Range(ctx, p)
	if err != nil {
		return err
	}
	to, mark := r.To[n].Offset, r.To[n].Pos
	left := make(map[change.Key]*row, len(keys))
	for _, k := range keys {
		left[k] = nil
	}
	none := NoChange
	switch {
	case to > end:
		for k := range left {
			out[k] = State{Why: Behind}
		}
		return nil
	case first > 0:
		none = Expired
	}
	// What was read holds nothing of the keys that are left from until on, and went up to
	// the watermark: there is no need to read it again.
	until, known := to, false
	for window := r.Window; ; window *= 2 {
		from := to - window - r.Settle
		if r.From != nil && r.From[n] >= 0 {
			from = min(from, r.From[n]-r.Settle-(window-r.Window))
		}
		from = max(from, first, r.To[n].Offset-reach)
		over := from <= first
		if far := from == r.To[n].Offset-reach; far && !over {
			over, none = true, TooFar
		}
		whole := known || mark.IsZero() // what was read goes up to the watermark
		if !known {
			until = to
		}
		if from < until {
			f := fold{log: log, load: r.Load, keys: left}
			if from > first {
				f.settle = r.Settle
			}
			end, err := f.read(ctx, p, from, until, r.Wait, st)
			if !known {
				to = end
			}
			if err != nil {
				if fault.Is(err, deliver.CodeOffsetGone) { // it expired meanwhile
					if now, _, rerr := log.Range(ctx, p); rerr == nil && now > first {
						first, none = now, Expired
						forget(left)
						known = false
						continue
					}
				}
				return err
			}
			// A mark that progress moved was beyond every repetition: capture tells of what it
			// has appended itself.
			whole = whole || !f.mark.Before(mark) || mark.Ordinal == math.MaxUint32
			st.Reads++
			if low, ok := st.From[n]; !ok || from < low {
				st.From[n] = from
			}
		}
		silent := r.Settle == 0 && whole
		for k, w := range left {
			silent = silent && (w == nil || w.state(none).Complete)
			s := State{Why: none}
			if whole {
				s = w.state(none)
			}
			if s.Complete || over {
				out[k] = s
				delete(left, k)
			} else {
				left[k] = nil
			}
		}
		if len(left) == 0 {
			return nil
		}
		if known = silent; known {
			until = min(until, from)
		}
	}
}

func forget(m map[change.Key]*row) {
	for k := range m {
		m[k] = nil
	}
}

// read folds the records of [from, to). It returns to, or a lower offset behind
// which there is no whole change.
func (f *fold) read(ctx context.Context, p sink.Partition, from, to int64, wait time.Duration, st *Stats) (_ int64, err error) {
	r, err := f.log.Open(ctx, p, from)
	if err != nil {
		return to, err
	}
	last := from
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		rctx, cancel := context.WithTimeout(ctx, wait)
		recs, err := r.Read(rctx, 512)
		cancel()
		if err != nil {
			// The last records may be the beginning of a change whose writer died.
			if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				if r.Lag() == 0 {
					return last, nil
				}
				continue
			}
			return to, err
		}
		for i := range recs {
			rec := &recs[i]
			if rec.Offset >= to {
				return to, nil
			}
			last = max(last, rec.Offset+1)
			st.Records++
			st.Bytes += int64(rec.Bytes)
			if rec.Withheld { // of a row that the sink did not hold before it either
				if f.mark.Before(rec.Change.Pos) {
					f.mark = rec.Change.Pos
				}
			} else if err := f.add(ctx, rec.Change); err != nil {
				return to, err
			}
			if max(rec.Next, last) >= to {
				return to, nil
			}
		}
	}
}

package replay

import (
	"context"
	"errors"
	"sync"
	"time"

	"syncline/dataplane/capture"
	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/sink"
)

// window is delivery's view of a table's log between two places. When all
// partitions have been read it tells of a progress that moves their watermarks to
// its end, as capture's moves those of idle partitions.
type window struct {
	log          Log
	since, until change.Position
	ends         []int64
	wait         time.Duration

	mu    sync.Mutex
	tails map[sink.Partition]int64 // of partitions that were read to their end: the offset that delivery comes to
}

var _ deliver.Log = (*window)(nil)

// end is where all watermarks come to.
func (w *window) end() change.Position {
	return change.Position{Epoch: w.until.Epoch, Commit: w.until.Commit, Ordinal: ^uint32(0)}
}

// Schema implements deliver.Log.
func (w *window) Schema(ctx context.Context, v change.Version) (*change.Schema, error) {
	return w.log.Schema(ctx, v)
}

// Open implements deliver.Log.
func (w *window) Open(ctx context.Context, p sink.Partition, offset int64) (deliver.Reader, error) {
	r, err := w.log.Open(ctx, p, offset)
	if err != nil {
		return nil, err
	}
	return &windowReader{Reader: r, w: w, p: p, tail: max(offset, 0), over: offset >= w.ends[p.N] || w.ends[p.N] <= 0}, nil
}

// Progress implements deliver.Log.
func (w *window) Progress() (capture.Progress, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.tails) < len(w.ends) {
		return capture.Progress{}, false
	}
	p := capture.Progress{Epoch: w.until.Epoch, Through: w.until.Commit + 1, Offsets: map[string][]int64{}}
	for part, tail := range w.tails {
		id := part.Table.String()
		if p.Offsets[id] == nil {
			p.Offsets[id] = make([]int64, len(w.ends))
		}
		p.Offsets[id][part.N] = tail
	}
	return p, true
}

// Close implements deliver.Log. The log under it is its owner's.
func (w *window) Close() error { return nil }

type windowReader struct {
	deliver.Reader
	w    *window
	p    sink.Partition
	tail int64 // after the last record that was handed on
	over bool
}

// Read implements deliver.Reader.
func (r *windowReader) Read(ctx context.Context, most int) ([]deliver.Record, error) {
	if recs, err := r.some(ctx, most); err != nil || len(recs) > 0 {
		return recs, err
	}
	r.w.mu.Lock()
	r.w.tails[r.p] = r.tail
	r.w.mu.Unlock()
	<-ctx.Done()
	return nil, ctx.Err()
}

// some returns the next records of the window, none when it is over.
func (r *windowReader) some(ctx context.Context, most int) ([]deliver.Record, error) {
	for !r.over {
		rctx, cancel := context.WithTimeout(ctx, r.w.wait)
		recs, err := r.Reader.Read(rctx, most)
		cancel()
		if err != nil {
			// The last records may be the beginning of a change whose writer died.
			if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				r.over = r.Reader.Lag() == 0
				continue
			}
			return nil, err
		}
		out := recs[:0]
		for _, rec := range recs {
			if rec.Offset >= r.w.ends[r.p.N] {
				r.over = true
				break
			}
			if pos := rec.Change.Pos; r.w.since.Before(pos) && !r.w.until.Before(pos) {
				out = append(out, rec)
			}
			r.over = r.over || rec.Next >= r.w.ends[r.p.N]
		}
		if len(out) > 0 {
			r.tail = out[len(out)-1].Next
			return out, nil
		}
	}
	return nil, nil
}

// Lag implements deliver.Reader.
func (r *windowReader) Lag() int64 {
	if r.over {
		return 0
	}
	return r.Reader.Lag()
}

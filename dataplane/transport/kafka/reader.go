package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
)

// eachRecord calls f for the records of a set from offset on, and returns the
// offset after the set.
func eachRecord(p partition, set []byte, offset int64, f func(rawRecord) error) (next int64, err error) {
	next = offset
	for len(set) > 0 {
		n, after, err := batchSpan(set)
		if err != nil || n == 0 {
			return next, damaged(p, next, errors.Join(err, errors.New("not a whole batch")))
		}
		it, err := openBatch(set[:n])
		if err != nil {
			return next, damaged(p, next, err)
		}
		for {
			r, err := it.next()
			if err == io.EOF {
				break
			}
			if err != nil {
				return next, damaged(p, next, err)
			}
			if r.offset < offset {
				continue // a fetch begins with the batch that holds the offset
			}
			if err := f(r); err != nil {
				return next, err
			}
		}
		set, next = set[n:], max(next, after)
	}
	return next, nil
}

// reader implements deliver.Reader.
type reader struct {
	fd     *feed
	offset int64 // the next record to look at
	set    []byte
	it     recordIter
	inside bool  // it is being walked
	after  int64 // offset after the batch that is being walked
	runs   map[string]*run
	err    error  // for the next Read; stays if it cannot pass
	stop   func() // ends a fetcher of its own; nil: it has none
}

var _ deliver.Reader = (*reader)(nil)

// Read implements deliver.Reader.
func (r *reader) Read(ctx context.Context, limit int) ([]deliver.Record, error) {
	if limit < 1 {
		return nil, fmt.Errorf("read of %d records", limit)
	}
	if err := r.err; err != nil {
		if fault.Retryable(err) {
			r.err = nil
		}
		return nil, err
	}
	var out []deliver.Record
	var slab []change.Change
	for {
		for r.inside && len(out) < limit {
			raw, err := r.it.next()
			if err == io.EOF {
				r.inside = false
				r.offset = max(r.offset, r.after)
				break
			}
			if err != nil {
				return r.part(out, damaged(r.fd.partition, r.offset, err))
			}
			if raw.offset < r.offset {
				continue
			}
			if len(slab) == 0 {
				slab = make([]change.Change, min(limit-len(out), r.it.left+1))
			}
			rec, ok, err := r.decode(&raw, &slab[0])
			if err != nil {
				return r.part(out, err)
			}
			r.offset = raw.offset + 1
			if ok {
				rec.Next = r.resume()
				out = append(out, rec)
				slab = slab[1:]
			}
		}
		if len(out) == limit {
			return out, nil
		}
		if len(r.set) == 0 {
			if len(out) > 0 && !r.fd.ready() {
				return out, nil
			}
			set, err := r.fd.next(ctx)
			if err != nil {
				return r.part(out, err)
			}
			r.set = set
		}
		if err := r.open(); err != nil {
			return r.part(out, err)
		}
	}
}

// part returns what was read before an error, which the next Read reports.
func (r *reader) part(out []deliver.Record, err error) ([]deliver.Record, error) {
	if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) && (len(out) > 0 || !fault.Retryable(err)) {
		r.err = err
	}
	if len(out) == 0 {
		return nil, err
	}
	return out, nil
}

// open begins the next batch of the set.
func (r *reader) open() error {
	n, after, err := batchSpan(r.set)
	if err == nil && n == 0 {
		err = errors.New("not a whole batch")
	}
	if err != nil {
		return damaged(r.fd.partition, r.offset, err)
	}
	b := r.set[:n]
	r.set = r.set[n:]
	if r.it, err = openBatch(b); err != nil {
		return damaged(r.fd.partition, r.offset, err)
	}
	r.inside, r.after = true, after
	return nil
}

// run is a change that arrives in parts.
type run struct {
	start int64 // offset of its first part
	pos   change.Position
	parts int
	have  int
	value []byte
	size  int
}

// resume is the offset to start from after what was returned so far: not
// within a change of which parts are still to come.
func (r *reader) resume() int64 {
	next := r.offset
	for _, run := range r.runs {
		next = min(next, run.start)
	}
	return next
}

// decode turns a record into c; ok is false for a part that completes nothing.
func (r *reader) decode(raw *rawRecord, c *change.Change) (rec deliver.Record, ok bool, err error) {
	value, start, size := raw.value, raw.offset, len(raw.key)+len(raw.value)
	if n := bytes.Count(raw.headers, []byte(headerPart)); n > 0 { // rare: look closer
		var part, attempt, pos []byte
		err := raw.eachHeader(func(k, v []byte) bool {
			switch string(k) {
			case headerPart:
				part = v
			case headerAttempt:
				attempt = v
			case headerPosition:
				pos = v
			}
			return true
		})
		if err != nil {
			return rec, false, damaged(r.fd.partition, raw.offset, err)
		}
		if part != nil {
			whole, err := r.assemble(raw, string(part), string(attempt), string(pos))
			if err != nil {
				return rec, false, damaged(r.fd.partition, raw.offset, err)
			}
			if whole == nil {
				return rec, false, nil
			}
			value, start, size = whole.value, whole.start, whole.size
		}
	}
	if err := change.Decode(value, c); err != nil {
		return rec, false, damaged(r.fd.partition, raw.offset, err)
	}
	for id, run := range r.runs {
		if !c.Pos.Before(run.pos) { // it has come whole: this attempt was given up
			delete(r.runs, id)
		}
	}
	return deliver.Record{Change: c, Offset: start, Next: raw.offset + 1, Bytes: size}, true, nil
}

// assemble adds a part, and returns the run when it is complete. A part whose
// beginning was not seen is of an attempt that was superseded, or of a change
// whose beginning the log no longer holds; both are passed over.
func (r *reader) assemble(raw *rawRecord, part, attempt, pos string) (*run, error) {
	i, n, err := parsePart(part)
	if err != nil {
		return nil, err
	}
	if i == 0 {
		p, err := change.ParsePosition(pos)
		if err != nil {
			return nil, err
		}
		if r.runs == nil {
			r.runs = map[string]*run{}
		}
		r.runs[attempt] = &run{start: raw.offset, pos: p, parts: n}
	}
	run := r.runs[attempt]
	if run == nil {
		return nil, nil
	}
	if run.parts != n || run.have > i {
		if run.parts == n {
			return nil, nil // a batch that was sent twice
		}
		return nil, fmt.Errorf("part %d/%d of a change in %d parts", i, n, run.parts)
	}
	if run.have < i {
		return nil, fmt.Errorf("part %d/%d follows part %d", i, n, run.have-1)
	}
	run.have++
	run.value = append(run.value, raw.value...)
	run.size += len(raw.key) + len(raw.value)
	if run.have < n {
		return nil, nil
	}
	delete(r.runs, attempt)
	return run, nil
}

func parsePart(s string) (i, n int, err error) {
	a, b, ok := bytes.Cut([]byte(s), []byte("/"))
	i, err1 := strconv.Atoi(string(a))
	n, err2 := strconv.Atoi(string(b))
	if !ok || err1 != nil || err2 != nil || i < 0 || i >= n || n < 2 {
		return 0, 0, fmt.Errorf("part %q: want i/n", s)
	}
	return i, n, nil
}

// Lag implements deliver.Reader.
func (r *reader) Lag() int64 {
	r.fd.f.mu.Lock()
	defer r.fd.f.mu.Unlock()
	return max(r.fd.end-r.offset, 0)
}

// Close implements deliver.Reader.
func (r *reader) Close() error {
	r.fd.f.remove(r.fd)
	if r.stop != nil {
		r.stop()
	}
	return nil
}

// ready reports whether next would return a set at once.
func (fd *feed) ready() bool {
	fd.f.mu.Lock()
	defer fd.f.mu.Unlock()
	return len(fd.sets) > 0
}

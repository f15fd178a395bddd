package deliver

import (
	"context"
	"sync"
)

// buffer bounds what readers read ahead of the planner, in bytes. A partition
// may always hold one read, whatever the others hold: otherwise a partition that
// waits at a barrier could keep out the one that it waits for.
type buffer struct {
	mu    sync.Mutex
	used  int
	limit int
	freed chan struct{} // closed and replaced when there is room again
	ready chan struct{} // holds one token when something was pushed
}

func newBuffer(limit int) *buffer {
	return &buffer{limit: limit, freed: make(chan struct{}), ready: make(chan struct{}, 1)}
}

// queue is the part of the buffer of one partition.
type queue struct {
	b      *buffer
	reads  [][]Record // oldest first
	bytes  int
	count  int
	closed bool
}

// push adds a read, waiting for room.
func (q *queue) push(ctx context.Context, recs []Record) error {
	n := 0
	for i := range recs {
		n += recs[i].Bytes
	}
	b := q.b
	b.mu.Lock()
	for !q.closed && q.count > 0 && b.used >= b.limit {
		freed := b.freed
		b.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
		b.mu.Lock()
	}
	if !q.closed {
		q.reads = append(q.reads, recs)
		q.bytes += n
		q.count += len(recs)
		b.used += n
	}
	b.mu.Unlock()
	select {
	case b.ready <- struct{}{}:
	default:
	}
	return nil
}

// head returns the records of the oldest read that are left; nil if there are none.
func (q *queue) head() []Record {
	q.b.mu.Lock()
	defer q.b.mu.Unlock()
	if len(q.reads) == 0 {
		return nil
	}
	return q.reads[0]
}

// advance drops the first n records of head.
func (q *queue) advance(n int) {
	if n == 0 {
		return
	}
	b := q.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if q.closed {
		return
	}
	freed := 0
	for i := range n {
		freed += q.reads[0][i].Bytes
		q.reads[0][i] = Record{}
	}
	if q.reads[0] = q.reads[0][n:]; len(q.reads[0]) == 0 {
		q.reads[0] = nil
		q.reads = q.reads[1:]
	}
	q.count -= n
	q.free(freed)
}

// close drops everything and lets a waiting push return.
func (q *queue) close() {
	q.b.mu.Lock()
	defer q.b.mu.Unlock()
	q.closed = true
	q.reads, q.count = nil, 0
	q.free(q.bytes)
}

func (q *queue) free(n int) {
	q.bytes -= n
	q.b.used -= n
	close(q.b.freed)
	q.b.freed = make(chan struct{})
}

// empty reports whether nothing is queued in any partition.
func (b *buffer) empty() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used == 0
}

// length returns how many records are queued.
func (q *queue) length() int {
	q.b.mu.Lock()
	defer q.b.mu.Unlock()
	return q.count
}

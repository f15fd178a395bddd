package kafka

import (
	"context"
	"slices"
	"sync"
	"time"
)

// lane is a partition that the Writer writes to.
type lane struct {
	partition
	open     *batch   // being filled
	sealed   []*batch // full, waiting
	inflight *batch
	next     int64 // offset after the last acknowledged record
	active   bool  // has any batch
}

// first returns the sequence number of the oldest change that is not acknowledged.
func (l *lane) first() uint64 {
	switch {
	case l.inflight != nil:
		return l.inflight.first
	case len(l.sealed) > 0:
		return l.sealed[0].first
	}
	return l.open.first
}

type batch struct {
	buf   []byte
	count int
	first uint64 // sequence number of its first change
	born  time.Time
}

// batcher collects records into batches, one open per lane, and sends them: at
// most one per lane at a time.
type batcher struct {
	c    *cluster
	opts *WriterOptions

	mu     sync.Mutex
	lanes  []*lane // those with batches
	seq    uint64  // of the last change
	acked  uint64
	used   int // bytes that count against the window
	err    error
	space  chan struct{} // closed and replaced when used falls, acked rises or err is set
	spare  [][]byte
	body   []byte // scratch
	rotate int    // where the next request begins to look, so that no lane starves

	wake chan struct{}
	wg   sync.WaitGroup
}

func newBatcher(c *cluster, opts *WriterOptions) *batcher {
	return &batcher{c: c, opts: opts, space: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// room waits, with mu held, until the window has room or the log has stopped.
func (b *batcher) room(ctx context.Context) error {
	for b.err == nil && b.used >= b.opts.WindowBytes {
		space := b.space
		b.mu.Unlock()
		var err error
		select {
		case <-space:
		case <-ctx.Done():
			err = ctx.Err()
		}
		b.mu.Lock()
		if err != nil {
			return err
		}
	}
	return b.err
}

// add appends a record of change seq to a lane; mu is held.
func (b *batcher) add(l *lane, seq uint64, key, value []byte, headers []header) {
	size := len(key) + len(value) + recordOverhead(headers)
	if l.open != nil && len(l.open.buf)+size > b.opts.BatchBytes {
		l.sealed = append(l.sealed, l.open)
		l.open = nil
		b.signal()
	}
	if l.open == nil {
		l.open = &batch{buf: newBatch(b.take()), first: seq, born: time.Now()}
		if !l.active {
			l.active = true
			b.lanes = append(b.lanes, l)
			b.signal()
		}
	}
	before := len(l.open.buf)
	l.open.buf, b.body = appendRecord(l.open.buf, b.body, l.open.count, key, value, headers)
	l.open.count++
	b.used += len(l.open.buf) - before
}

func recordOverhead(headers []header) int {
	n := 32
	for i := range headers {
		n += len(headers[i].key) + len(headers[i].value) + 6
	}
	return n
}

func (b *batcher) take() []byte {
	if n := len(b.spare); n > 0 {
		buf := b.spare[n-1]
		b.spare = b.spare[:n-1]
		return buf
	}
	return nil
}

func (b *batcher) give(buf []byte) {
	if cap(buf) <= 2*b.opts.BatchBytes && len(b.spare) < 16 {
		b.spare = append(b.spare, buf)
	}
}

func (b *batcher) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// run sends batches until ctx ends or the log stops.
func (b *batcher) run(ctx context.Context) {
	slots := make(chan struct{}, b.opts.InFlight)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		var ready []*lane
		for {
			var wait time.Duration
			ready, wait = b.collect()
			if len(ready) > 0 {
				break
			}
			timer.Reset(wait)
			select {
			case <-b.wake:
			case <-timer.C:
			case <-ctx.Done():
				return
			}
		}
		b.wg.Go(func() {
			b.send(ctx, ready)
			<-slots
			b.signal()
		})
	}
}

// collect moves a request's worth of batches into flight, or says how long
// there will be nothing to send.
func (b *batcher) collect() ([]*lane, time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return nil, time.Hour
	}
	now, wait := time.Now(), time.Hour
	var ready []*lane
	bytes, n := 0, len(b.lanes)
	for i := range n {
		l := b.lanes[(b.rotate+i)%n]
		if l.inflight != nil {
			continue
		}
		switch {
		case len(l.sealed) > 0:
			l.inflight = l.sealed[0]
			l.sealed = slices.Delete(l.sealed, 0, 1)
		case l.open != nil:
			if left := b.opts.Linger - now.Sub(l.open.born); left > 0 {
				wait = min(wait, left)
				continue
			}
			l.inflight, l.open = l.open, nil
		default:
			continue
		}
		ready = append(ready, l)
		if bytes += len(l.inflight.buf); bytes >= b.opts.RequestBytes {
			b.rotate = (b.rotate + i + 1) % n
			break
		}
	}
	return ready, wait
}

// send writes what is in flight in the lanes.
func (b *batcher) send(ctx context.Context, lanes []*lane) {
	byPartition := make(map[partition]*lane, len(lanes))
	out := make([]*outgoing, len(lanes))
	millis := time.Now().UnixMilli() // not the commit's: retention must not delete a backlog that was just written
	var spare [][]byte
	for i, l := range lanes {
		byPartition[l.partition] = l
		var buf []byte
		if b.opts.Compression != CompressNone {
			b.mu.Lock()
			buf = b.take()
			b.mu.Unlock()
		}
		wire, err := sealBatch(l.inflight.buf, buf, l.inflight.count, millis, b.opts.Compression)
		if err != nil {
			b.stop(err)
			return
		}
		out[i] = &outgoing{partition: l.partition, wire: wire}
		if &wire[0] != &l.inflight.buf[0] {
			spare = append(spare, wire)
		}
	}
	err := b.c.produce(ctx, out, func(o *outgoing) {
		b.mu.Lock()
		defer b.mu.Unlock()
		l := byPartition[o.partition]
		l.next = o.base + int64(l.inflight.count)
		b.used -= len(l.inflight.buf) - 4 - batchHeader
		b.give(l.inflight.buf)
		l.inflight = nil
		b.settle()
	})
	if err != nil {
		b.stop(err)
		return
	}
	b.mu.Lock()
	for _, buf := range spare {
		b.give(buf)
	}
	b.mu.Unlock()
}

// settle drops idle lanes, moves acked, and lets waiting writers on; mu is held.
func (b *batcher) settle() {
	acked := b.seq
	b.lanes = slices.DeleteFunc(b.lanes, func(l *lane) bool {
		if l.inflight == nil && l.open == nil && len(l.sealed) == 0 {
			l.active = false
			return true
		}
		acked = min(acked, l.first()-1)
		return false
	})
	b.acked = max(b.acked, acked)
	if b.rotate >= len(b.lanes) {
		b.rotate = 0
	}
	close(b.space)
	b.space = make(chan struct{})
}

// stop ends writing for good; the first reason stays.
func (b *batcher) stop(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
		close(b.space)
		b.space = make(chan struct{})
	}
}

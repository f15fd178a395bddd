package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	kgo "github.com/segmentio/kafka-go"

	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
)

// Long polls end together, on the ticks of one clock, so that partitions which
// became idle at different times share the next request.
const (
	tick    = 500 * time.Millisecond
	minWait = 20 * time.Millisecond
	// pace lets partitions that become hungry one after the other share a request.
	pace = time.Millisecond
)

// feed is what the fetcher keeps for one open partition.
type feed struct {
	partition
	f *fetcher

	// guarded by f.mu
	offset   int64 // to fetch next
	sets     [][]byte
	bytes    int
	end      int64 // of the partition, as last seen
	err      error
	inflight bool
	closed   bool
	since    time.Time     // when its requests began to fail
	notify   chan struct{} // one token: sets or err changed
}

// fetcher keeps the open partitions of a Log supplied.
type fetcher struct {
	c        *cluster
	budget   int // bytes that all feeds may hold
	maxBytes int // of one partition in one response

	mu    sync.Mutex
	feeds []*feed
	held  int

	wake chan struct{}
	wg   sync.WaitGroup
}

func newFetcher(c *cluster, budget, maxBytes int) *fetcher {
	return &fetcher{c: c, budget: budget, maxBytes: maxBytes, wake: make(chan struct{}, 1)}
}

// add opens a partition; nil if it is open.
func (f *fetcher) add(p partition, offset, end int64) *feed {
	fd := &feed{partition: p, f: f, offset: offset, end: end, notify: make(chan struct{}, 1)}
	f.mu.Lock()
	if slices.ContainsFunc(f.feeds, func(o *feed) bool { return o.partition == p }) {
		f.mu.Unlock()
		return nil
	}
	f.feeds = append(f.feeds, fd)
	f.mu.Unlock()
	f.signal()
	return fd
}

func (f *fetcher) remove(fd *feed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fd.closed = true
	f.held -= fd.bytes
	fd.sets, fd.bytes = nil, 0
	f.feeds = slices.DeleteFunc(f.feeds, func(x *feed) bool { return x == fd })
}

func (f *fetcher) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// next waits for the next record set of fd.
func (fd *feed) next(ctx context.Context) ([]byte, error) {
	for {
		fd.f.mu.Lock()
		if len(fd.sets) > 0 {
			set := fd.sets[0]
			fd.sets[0] = nil
			fd.sets = fd.sets[1:]
			fd.bytes -= len(set)
			fd.f.held -= len(set)
			fd.f.mu.Unlock()
			fd.f.signal()
			return set, nil
		}
		if err := fd.err; err != nil {
			if fault.Retryable(err) { // the next call tries again
				fd.err, fd.since = nil, time.Time{}
				fd.f.signal()
			}
			fd.f.mu.Unlock()
			return nil, err
		}
		fd.f.mu.Unlock()
		select {
		case <-fd.notify:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (fd *feed) tell() {
	select {
	case fd.notify <- struct{}{}:
	default:
	}
}

// run issues fetches until ctx ends.
func (f *fetcher) run(ctx context.Context) {
	defer f.wg.Wait()
	for {
		select {
		case <-f.wake:
		case <-ctx.Done():
			return
		}
		hungry := f.hungry()
		if len(hungry) == 0 {
			continue
		}
		f.wg.Go(func() { f.dispatch(ctx, hungry) })
		if !sleep(ctx, pace) {
			return
		}
	}
}

// hungry takes the feeds that want more and have no request out.
func (f *fetcher) hungry() []*feed {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held >= f.budget {
		return nil // a Read makes room and wakes us
	}
	var out []*feed
	for _, fd := range f.feeds {
		if !fd.inflight && fd.err == nil && fd.bytes < f.maxBytes {
			fd.inflight = true
			out = append(out, fd)
		}
	}
	return out
}

// dispatch fetches for the feeds, one request per leader.
func (f *fetcher) dispatch(ctx context.Context, feeds []*feed) {
	ps := make([]partition, len(feeds))
	for i, fd := range feeds {
		ps[i] = fd.partition
	}
	leaders, err := f.c.leaders(ctx, ps)
	if err != nil {
		f.failed(ctx, feeds, err)
		return
	}
	groups := map[int32][]*feed{}
	var lost []*feed
	for _, fd := range feeds {
		if leader, ok := leaders[fd.partition]; ok && leader >= 0 {
			groups[leader] = append(groups[leader], fd)
		} else {
			lost = append(lost, fd)
		}
	}
	for leader, group := range groups {
		f.wg.Go(func() { f.fetch(ctx, leader, group) })
	}
	if len(lost) > 0 {
		f.failed(ctx, lost, kgo.UnknownTopicOrPartition)
	}
}

func (f *fetcher) fetch(ctx context.Context, leader int32, feeds []*feed) {
	now := time.Now()
	wait := now.Truncate(tick).Add(tick).Sub(now)
	if wait < minWait {
		wait += tick
	}
	f.mu.Lock()
	room := max(f.budget-f.held, 1<<20)
	at := make(map[partition]*feed, len(feeds))
	byTopic := map[string][]fetchPartition{}
	for _, fd := range feeds {
		at[fd.partition] = fd
		byTopic[fd.topic] = append(byTopic[fd.topic], fetchPartition{fd.n, fd.offset, int32(f.maxBytes)})
	}
	f.mu.Unlock()
	req := &fetchRequest{toLeader: toLeader{leader}, client: f.c.opts.ClientID,
		maxWait: int32(wait / time.Millisecond), maxBytes: int32(min(room, 16<<20))}
	for name, ps := range byTopic {
		req.topics = append(req.topics, fetchTopic{name, ps})
	}
	m, err := f.c.roundTrip(ctx, wait, req)
	if err == nil {
		if res := m.(*fetchResponse); res.err != 0 {
			err = res.err
		} else {
			f.deal(ctx, at, res)
			return
		}
	}
	f.failed(ctx, feeds, err)
}

// deal hands out a response.
func (f *fetcher) deal(ctx context.Context, at map[partition]*feed, res *fetchResponse) {
	var lost []*feed
	var why error
	f.mu.Lock()
	for i := range res.partitions {
		p := &res.partitions[i]
		fd := at[p.partition]
		if fd == nil || fd.closed {
			continue
		}
		switch {
		case p.err == kgo.OffsetOutOfRange:
			fd.err = offsetGone(fd.partition, fd.offset, p.start, p.end)
			fd.tell()
		case p.err != 0:
			lost, why = append(lost, fd), p.err
			delete(at, p.partition)
			continue
		default:
			fd.since = time.Time{}
			fd.end = p.end
			f.take(fd, p.set)
		}
		fd.inflight = false
		delete(at, p.partition)
	}
	for _, fd := range at { // left out of the response: ask again
		fd.inflight = false
	}
	f.mu.Unlock()
	f.signal()
	if len(lost) > 0 {
		f.failed(ctx, lost, why)
	}
}

// take stores the whole batches of a set and moves the offset past them; f.mu is held.
func (f *fetcher) take(fd *feed, set []byte) {
	whole := 0
	for whole < len(set) {
		n, next, err := batchSpan(set[whole:])
		if err != nil {
			fd.err = damaged(fd.partition, fd.offset, err)
			break
		}
		if n == 0 {
			if whole == 0 { // brokers send at least one whole batch, whatever its size
				fd.err = damaged(fd.partition, fd.offset, fmt.Errorf("%d bytes are not a whole batch", len(set)))
			}
			break
		}
		whole += n
		fd.offset = max(fd.offset, next)
	}
	if whole > 0 {
		fd.sets = append(fd.sets, set[:whole:whole])
		fd.bytes += whole
		f.held += whole
	}
	if whole > 0 || fd.err != nil {
		fd.tell()
	}
}

// failed lets feeds try again after a pause, or reports err once it has lasted.
func (f *fetcher) failed(ctx context.Context, feeds []*feed, err error) {
	if ctx.Err() != nil {
		return
	}
	passing := passing(err)
	f.mu.Lock()
	for _, fd := range feeds {
		if fd.since.IsZero() {
			fd.since = time.Now()
		}
		if !passing || time.Since(fd.since) > f.c.opts.RetryFor {
			fd.err = classify(ctx, err, fd.String())
			fd.tell()
		}
	}
	f.mu.Unlock()
	sleep(ctx, 100*time.Millisecond)
	f.c.refresh()
	f.mu.Lock()
	for _, fd := range feeds {
		fd.inflight = false
	}
	f.mu.Unlock()
	f.signal()
}

func offsetGone(p partition, offset, start, end int64) error {
	return fault.Permanent(deliver.CodeOffsetGone, errors.New("the log does not hold it"),
		"resync the table; give the topics a longer retention, or find out who deleted the topic",
		"%s: next offset is %d, the log holds %d to %d", p, offset, start, end)
}

// scan reads the records of [from, to) of a partition.
func (c *cluster) scan(ctx context.Context, p partition, from, to int64, f func(rawRecord) error) error {
	if from >= to {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ft := newFetcher(c, 4<<20, 1<<20)
	fd := ft.add(p, from, to)
	done := make(chan struct{})
	go func() { defer close(done); ft.run(ctx) }()
	defer func() { cancel(); <-done }()
	for {
		set, err := fd.next(ctx)
		if err != nil {
			return err
		}
		var next int64
		if next, err = eachRecord(p, set, from, f); err != nil {
			return err
		}
		if next >= to {
			return nil
		}
	}
}

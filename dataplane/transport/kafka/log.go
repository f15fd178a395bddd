package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"syncline/dataplane/capture"
	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// LogOptions bound what reading costs.
type LogOptions struct {
	BufferBytes    int           // fetched and not yet read, over all readers; default 64 MiB
	PartitionBytes int           // fetched ahead of one reader; default 1 MiB
	SchemaWait     time.Duration // for a definition that should be there; default 10s
}

// Log is delivery's log.
type Log struct {
	c      *cluster
	opts   LogOptions
	f      *fetcher
	run    context.Context // until Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	schemas  map[change.Version]*change.Schema
	more     chan struct{} // closed and replaced when schemas grows or err is set
	progress capture.Progress
	known    bool
	err      error // lasting, of `_schemas` or `_progress`
}

var _ deliver.Log = (*Log)(nil)

// OpenLog connects and reads all definitions and the last progress.
func OpenLog(ctx context.Context, o Options, lo LogOptions) (*Log, error) {
	setDefault(&lo.BufferBytes, 64<<20)
	setDefault(&lo.PartitionBytes, 1<<20)
	setDefault(&lo.SchemaWait, 10*time.Second)
	if lo.BufferBytes < 0 || lo.PartitionBytes < 0 || lo.SchemaWait < 0 {
		return nil, errors.New("kafka: log options below zero")
	}
	c, err := connect(o)
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.Background())
	l := &Log{c: c, opts: lo, f: newFetcher(c, lo.BufferBytes, lo.PartitionBytes), run: run, cancel: cancel,
		schemas: map[change.Version]*change.Schema{}, more: make(chan struct{})}
	l.wg.Go(func() { l.f.run(run) })
	schemas := partition{SchemasTopic(o.Prefix, o.Pipeline), 0}
	progress := partition{ProgressTopic(o.Prefix, o.Pipeline), 0}
	err = l.tail(ctx, run, schemas, -1, l.onSchema)
	if err == nil {
		err = l.tail(ctx, run, progress, progressTail, l.onProgress)
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// tail reads the last records of a partition (all if last is negative) until
// its present end before it returns, and goes on in the background.
func (l *Log) tail(ctx, run context.Context, p partition, last int64, f func(partition, rawRecord) error) error {
	if _, err := l.c.topic(ctx, p.topic); err != nil {
		return err
	}
	ends, err := l.c.ends(ctx, []partition{p})
	if err != nil {
		return err
	}
	from, end := ends[p][0], ends[p][1]
	if last >= 0 {
		from = max(from, end-last)
	}
	fd := l.f.add(p, from, end)
	next := from
	step := func(ctx context.Context) error {
		set, err := fd.next(ctx)
		if err != nil {
			return err
		}
		next, err = eachRecord(p, set, next, func(r rawRecord) error { return f(p, r) })
		return err
	}
	for next < end {
		if err := step(ctx); err != nil {
			return err
		}
	}
	l.wg.Go(func() {
		for {
			err := step(run)
			if run.Err() != nil {
				return
			}
			if err != nil && !fault.Retryable(err) {
				l.mu.Lock()
				l.err = errors.Join(l.err, err)
				l.tell()
				l.mu.Unlock()
				return
			}
		}
	})
	return nil
}

func (l *Log) tell() {
	close(l.more)
	l.more = make(chan struct{})
}

func (l *Log) onSchema(p partition, r rawRecord) error {
	if r.value == nil {
		return nil
	}
	v, err := change.ParseVersion(string(r.key))
	if err != nil {
		return damaged(p, r.offset, err)
	}
	s, err := change.DecodeSchema(r.value)
	if err != nil {
		return damaged(p, r.offset, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.schemas[v] == nil {
		l.schemas[v] = s
		l.tell()
	}
	return nil
}

func (l *Log) onProgress(p partition, r rawRecord) error {
	var q capture.Progress
	if err := json.Unmarshal(r.value, &q); err != nil {
		return damaged(p, r.offset, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.known || !newer(l.progress, q) {
		l.progress, l.known = q, true
	}
	return nil
}

// Schema implements deliver.Log.
func (l *Log) Schema(ctx context.Context, v change.Version) (*change.Schema, error) {
	deadline := time.NewTimer(l.opts.SchemaWait)
	defer deadline.Stop()
	for {
		l.mu.Lock()
		s, err, more := l.schemas[v], l.err, l.more
		l.mu.Unlock()
		if s != nil || err != nil {
			return s, err
		}
		select {
		case <-more:
		case <-deadline.C:
			return nil, fault.Transient(CodeSchemaUnknown, nil, "no definition %s in topic %s; capture writes all of them again when it starts",
				v, SchemasTopic(l.c.opts.Prefix, l.c.opts.Pipeline))
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Range returns the first offset of a partition and the one after its last.
func (l *Log) Range(ctx context.Context, sp sink.Partition) (first, end int64, err error) {
	_, first, end, err = l.partition(ctx, sp)
	return first, end, err
}

// Open implements deliver.Log.
func (l *Log) Open(ctx context.Context, sp sink.Partition, offset int64) (deliver.Reader, error) {
	p, start, end, err := l.partition(ctx, sp)
	switch {
	case err != nil:
		return nil, err
	case offset < 0:
		offset = start
	case offset < start || offset > end:
		return nil, offsetGone(p, offset, start, end)
	}
	if fd := l.f.add(p, offset, end); fd != nil {
		return &reader{fd: fd, offset: offset}, nil
	}
	// One more reader of a partition, of what waited, has a fetcher of its own: a request
	// names a partition once, and readers that wait for this one may have filled the budget.
	run, stop := context.WithCancel(l.run)
	f := newFetcher(l.c, 4*l.opts.PartitionBytes, l.opts.PartitionBytes)
	r := &reader{fd: f.add(p, offset, end), offset: offset, stop: stop}
	l.wg.Go(func() { f.run(run) })
	return r, nil
}

// partition finds one, and the offsets between which the log holds it.
func (l *Log) partition(ctx context.Context, sp sink.Partition) (p partition, start, end int64, err error) {
	topic, err := TopicName(l.c.opts.Prefix, l.c.opts.Pipeline, sp.Table)
	if err != nil {
		return p, 0, 0, err
	}
	info, err := l.c.topic(ctx, topic)
	if err != nil {
		return p, 0, 0, err
	}
	p = partition{topic, int32(sp.N)}
	if sp.N < 0 || sp.N >= len(info.leaders) {
		return p, 0, 0, partitionsMismatch(topic, sp.N+1, len(info.leaders))
	}
	ends, err := l.c.ends(ctx, []partition{p})
	return p, ends[p][0], ends[p][1], err
}

// Progress implements deliver.Log.
func (l *Log) Progress() (capture.Progress, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.progress, l.known
}

// Close implements deliver.Log. Close the readers first.
func (l *Log) Close() error {
	l.cancel()
	l.wg.Wait()
	l.c.close()
	return nil
}

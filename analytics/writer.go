package analytics

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"syncline/dataplane/fault"
)

// Options of a Writer. Zero values mean the defaults.
type Options struct {
	Open       func(ctx context.Context) (*Store, error) // resolves credentials; called again after a failure
	Dir        string                                    // for segments, in a folder of each process
	SpillBytes int64                                     // of all segments of the process; default 1 GiB
	QueueRows  int                                       // in memory; default 100,000
	Every      time.Duration                             // between batches; default 5 s
	Observer   Observer
	Log        *zap.Logger
}

// Observer is told what becomes of rows. Nil functions are not called; they must not block.
type Observer struct {
	Written func(rows int)
	Dropped func(rows int)                  // beyond all bounds: lost
	Waiting func(segments int, bytes int64) // on disk now
	Up      func(bool)                      // whether the store takes them
}

// Writer takes rows and brings them to the store. A nil *Writer takes none.
type Writer struct {
	o     Options
	spill *spill

	mu   sync.Mutex
	rows map[string][]Row
	n    int
	shut bool

	done chan struct{}
	stop context.CancelFunc
}

// batch is a number of rows under the name that the store remembers.
type batch struct {
	name string
	rows map[string][]Row
}

func (b batch) size() (n int) {
	for _, rows := range b.rows {
		n += len(rows)
	}
	return n
}

// NewWriter starts a writer. It also brings in the segments that dead processes
// left in the folder.
func NewWriter(o Options) (*Writer, error) {
	if o.SpillBytes == 0 {
		o.SpillBytes = 1 << 30
	}
	if o.QueueRows == 0 {
		o.QueueRows = 100_000
	}
	if o.Every == 0 {
		o.Every = Window
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	s, err := openSpill(o.Dir, o.SpillBytes)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	w := &Writer{o: o, spill: s, rows: map[string][]Row{}, done: make(chan struct{}), stop: stop}
	var loops sync.WaitGroup
	loops.Go(func() { w.collect(ctx) })
	loops.Go(func() { w.insert(ctx) })
	go func() {
		loops.Wait()
		close(w.done)
	}()
	w.tellWaiting()
	return w, nil
}

// Put takes rows. It never waits: what finds no room in memory is dropped and counted.
func (w *Writer) Put(rows ...Row) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, r := range rows {
		if w.shut || w.n >= w.o.QueueRows {
			w.dropped(len(rows) - i)
			return
		}
		w.rows[r.Table()] = append(w.rows[r.Table()], r)
		w.n++
	}
}

func (w *Writer) dropped(n int) {
	if w.o.Observer.Dropped != nil {
		w.o.Observer.Dropped(n)
	}
}

func (w *Writer) tellWaiting() {
	if w.o.Observer.Waiting != nil {
		w.o.Observer.Waiting(w.spill.waiting())
	}
}

// collect writes what has come to disk, from where the inserter takes it.
func (w *Writer) collect(ctx context.Context) {
	ticker := time.NewTicker(w.o.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			w.save()
		case <-ctx.Done():
			w.save() // the next process brings it in
			return
		}
	}
}

// save makes a segment of what has come.
func (w *Writer) save() {
	w.mu.Lock()
	rows, n := w.rows, w.n
	w.rows, w.n = map[string][]Row{}, 0
	w.mu.Unlock()
	if n == 0 {
		return
	}
	if err := w.spill.put(rows); err != nil {
		w.o.Log.Error("analytics rows are lost", zap.Int("rows", n), zap.Error(err))
		w.dropped(n)
		return
	}
	w.tellWaiting()
}

// Pauses of the inserter after a failure, and how long one segment may take: its
// name makes it safe to give up.
const (
	firstPause  = 250 * time.Millisecond
	lastPause   = 15 * time.Second
	insertBound = 30 * time.Second
)

// insert brings segments to the store, oldest first.
func (w *Writer) insert(ctx context.Context) {
	var store *Store
	defer func() {
		if store != nil {
			_ = store.Close() // nothing is under way
		}
	}()
	up, told, pause := false, false, firstPause
	for ctx.Err() == nil {
		err := func() (err error) {
			if store == nil {
				if store, err = w.open(ctx); err != nil {
					return err
				}
			}
			if !up {
				up, told = true, true
				w.up(true)
				w.o.Log.Info("analytics are written", zap.String("database", store.Database()))
			}
			name, ok := w.spill.oldest()
			if !ok {
				select {
				case <-w.spill.fresh:
				case <-ctx.Done():
				}
				return nil
			}
			return w.insertSegment(ctx, store, name)
		}()
		if err == nil {
			pause = firstPause
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if up || !told {
			w.o.Log.Warn("analytics cannot be written; rows wait on disk", zap.String("folder", w.o.Dir), zap.Error(err))
		}
		up, told = false, true
		w.up(false)
		if store != nil {
			_ = store.Close() // opened again with credentials as they are then
			store = nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, lastPause)
	}
}

func (w *Writer) up(is bool) {
	if w.o.Observer.Up != nil {
		w.o.Observer.Up(is)
	}
}

func (w *Writer) open(ctx context.Context) (*Store, error) {
	ctx, cancel := context.WithTimeout(ctx, insertBound)
	defer cancel()
	s, err := w.o.Open(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.Migrate(ctx); err != nil {
		_ = s.Close() // the failure to migrate says more
		return nil, err
	}
	return s, nil
}

func (w *Writer) insertSegment(ctx context.Context, s *Store, name string) error {
	b, err := w.spill.read(name)
	if err != nil && len(b.rows) == 0 { // it must not stand in the way of the others for ever
		w.o.Log.Error("a segment of analytics rows cannot be read and is set aside", zap.String("segment", name), zap.Error(err))
		return w.spill.setAside(name)
	}
	if err != nil {
		w.o.Log.Error("a segment of analytics rows has been cut short; what it holds is recorded", zap.String("segment", name), zap.Int("rows", b.size()), zap.Error(err))
	}
	ctx, cancel := context.WithTimeout(ctx, insertBound)
	defer cancel()
	for table, rows := range b.rows {
		if err := s.Insert(ctx, b.name+"/"+table, rows); err != nil {
			return err
		}
	}
	if err := w.spill.remove(name); err != nil {
		return err
	}
	if w.o.Observer.Written != nil {
		w.o.Observer.Written(b.size())
	}
	w.tellWaiting()
	return nil
}

// Flush waits until all that was put before is in the store.
func (w *Writer) Flush(ctx context.Context) error {
	if w == nil {
		return nil
	}
	w.save()
	for {
		if n, _ := w.spill.waiting(); n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fault.Transient(CodeStore, ctx.Err(), "flush analytics")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Close brings in what it can within the context; the rest stays on disk for the
// next process.
func (w *Writer) Close(ctx context.Context) error {
	if w == nil {
		return nil
	}
	flushed := w.Flush(ctx)
	w.mu.Lock()
	w.shut = true
	w.mu.Unlock()
	w.stop()
	select {
	case <-w.done:
	case <-time.After(insertBound + time.Second): // the inserter honours its context
		return fault.Transient(CodeStore, nil, "the analytics writer does not end")
	}
	if n, bytes := w.spill.waiting(); n > 0 {
		w.o.Log.Warn("analytics rows stay on disk for the next worker", zap.String("folder", w.o.Dir), zap.Int("segments", n), zap.Int64("bytes", bytes), zap.Error(flushed))
	}
	if err := w.spill.close(); err != nil {
		return fmt.Errorf("close the analytics segments: %w", err)
	}
	return nil
}

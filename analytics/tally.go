package analytics

import (
	"maps"
	"sync"
	"time"
)

// Labels say whose work a Tally counts.
type Labels struct {
	Pipeline  string
	Sink      string // empty for capture
	Lane      int
	Component string // capture, deliver/<sink>/<lane>, …
	Worker    string
}

// Tally counts the work of one attempt of a loop, by windows: when one is over its
// rows go to the Writer. Its methods may be called concurrently; those of a nil
// *Tally do nothing.
type Tally struct {
	w   *Writer
	l   Labels
	now func() time.Time

	mu     sync.Mutex
	window time.Time
	rows   counts
	skew   func() (ahead, within time.Duration, known bool)
}

// counts are the rows of one window.
type counts struct {
	applies    map[string]*Applies
	lag        map[string]*Lag
	duplicates map[string]*Duplicates
	dead       map[[2]string]*DeadLetters
	retries    map[string]*Retries
	freshness  map[[2]string]*Freshness
	throughput map[[2]string]*Throughput
	progress   map[partition]*Progress
	objectives map[string]*Objectives
	backlog    *Backlog
}

type partition struct {
	tab string
	n   int
}

// Tally gives the counter of one attempt; close it when the attempt ends.
func (w *Writer) Tally(l Labels) *Tally {
	if w == nil {
		return nil
	}
	return &Tally{w: w, l: l, now: time.Now}
}

// Skew tells how the lags that are counted were corrected: how much the source's
// clock is ahead of ours, and within what error.
func (t *Tally) Skew(read func() (ahead, within time.Duration, known bool)) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.skew = read
}

// count calls f in the present window.
func (t *Tally) count(f func(*counts)) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := t.now().UTC().Truncate(Window); !now.Equal(t.window) {
		t.emit()
		t.window = now
	}
	f(&t.rows)
}

// of returns the row of a key, made by fresh if there is none.
func of[K comparable, R any](m *map[K]*R, k K, fresh func() *R) *R {
	if r := (*m)[k]; r != nil {
		return r
	}
	if *m == nil {
		*m = map[K]*R{}
	}
	r := fresh()
	(*m)[k] = r
	return r
}

func send[K comparable, R Row](w *Writer, m map[K]R) {
	for r := range maps.Values(m) {
		w.Put(r)
	}
}

// emit hands the window's rows over.
func (t *Tally) emit() {
	c := t.rows
	t.rows = counts{}
	if len(c.lag) > 0 {
		skew, within := int64(0), int64(-1)
		if t.skew != nil {
			if ahead, e, known := t.skew(); known {
				skew, within = ahead.Microseconds(), e.Microseconds()
			}
		}
		for _, r := range c.lag {
			r.Skew, r.SkewError = skew, within
		}
	}
	send(t.w, c.applies)
	send(t.w, c.lag)
	send(t.w, c.duplicates)
	send(t.w, c.dead)
	send(t.w, c.retries)
	send(t.w, c.freshness)
	send(t.w, c.throughput)
	send(t.w, c.progress)
	send(t.w, c.objectives)
	if c.backlog != nil {
		t.w.Put(c.backlog)
	}
}

// Tick hands over a window that has ended, also when nothing more is counted.
func (t *Tally) Tick() { t.count(func(*counts) {}) }

// Close hands over what is left.
func (t *Tally) Close() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.emit()
}

// Operations as they are counted.
const (
	Insert   = "insert"
	Update   = "update"
	Delete   = "delete"
	Truncate = "truncate"
)

// Applied counts changes that took effect.
func (t *Tally) Applied(tab, op string, n int) {
	t.count(func(c *counts) {
		t.passed(c, StageDeliver, "").Changes += uint64(n)
		r := of(&c.applies, tab, func() *Applies {
			return &Applies{Time: t.window, Pipeline: t.l.Pipeline, Sink: t.l.Sink, Tab: tab, Lane: uint32(t.l.Lane), Worker: t.l.Worker}
		})
		switch op {
		case Insert:
			r.Inserts += uint64(n)
		case Update:
			r.Updates += uint64(n)
		case Delete:
			r.Deletes += uint64(n)
		case Truncate:
			r.Truncates += uint64(n)
		}
	})
}

// Lag counts n changes that became visible d after their commit.
func (t *Tally) Lag(tab string, d time.Duration, n int) {
	t.count(func(c *counts) {
		r := of(&c.lag, tab, func() *Lag {
			return &Lag{Time: t.window, Pipeline: t.l.Pipeline, Sink: t.l.Sink, Tab: tab, Buckets: map[uint16]uint64{}}
		})
		us := uint64(max(d.Microseconds(), 0))
		r.Changes += uint64(n)
		r.Micros += us * uint64(n)
		r.Max = max(r.Max, us)
		r.Buckets[LagBucket(d)] += uint64(n)
	})
}

// Waited counts n changes of a tier that took effect d after their commit.
func (t *Tally) Waited(tab, tier string, d, promised time.Duration, n int) {
	t.count(func(c *counts) {
		r := of(&c.freshness, [2]string{tab, tier}, func() *Freshness {
			return &Freshness{Time: t.window, Pipeline: t.l.Pipeline, Sink: t.l.Sink, Tab: tab, Tier: tier}
		})
		us := uint64(max(d.Microseconds(), 0))
		r.Changes += uint64(n)
		if d > promised {
			r.Late += uint64(n)
		}
		r.Micros += us * uint64(n)
		r.Max, r.Promised = max(r.Max, us), uint64(promised.Microseconds())
	})
}

// Duplicates counts changes that came again, and those that the load had brought.
func (t *Tally) Duplicates(tab string, resent, inLoad int) {
	t.count(func(c *counts) {
		r := of(&c.duplicates, tab, func() *Duplicates {
			return &Duplicates{Time: t.window, Pipeline: t.l.Pipeline, Sink: t.l.Sink, Tab: tab}
		})
		r.Resent += uint64(resent)
		r.InLoad += uint64(inLoad)
	})
}

// Dead counts changes that were set aside.
func (t *Tally) Dead(tab, code string, n int) {
	t.count(func(c *counts) {
		of(&c.dead, [2]string{tab, code}, func() *DeadLetters {
			return &DeadLetters{Time: t.window, Pipeline: t.l.Pipeline, Sink: t.l.Sink, Tab: tab, Code: code}
		}).Count += uint64(n)
	})
}

// Retried counts a failure that is tried again.
func (t *Tally) Retried(code string) {
	t.count(func(c *counts) {
		of(&c.retries, code, func() *Retries {
			return &Retries{Time: t.window, Pipeline: t.l.Pipeline, Component: t.l.Component, Code: code}
		}).Count++
	})
}

// Passed counts what passed a stage: in one batch, or between two looks.
func (t *Tally) Passed(stage, tab string, changes, rows, bytes, batches int64, took time.Duration) {
	if changes == 0 && rows == 0 && bytes == 0 && batches == 0 {
		return
	}
	t.count(func(c *counts) {
		r := t.passed(c, stage, tab)
		r.Changes += uint64(max(changes, 0))
		r.Rows += uint64(max(rows, 0))
		r.Bytes += uint64(max(bytes, 0))
		r.Batches += uint64(max(batches, 0))
		r.Micros += uint64(max(took.Microseconds(), 0))
	})
}

func (t *Tally) passed(c *counts, stage, tab string) *Throughput {
	return of(&c.throughput, [2]string{stage, tab}, func() *Throughput {
		return &Throughput{Time: t.window, Pipeline: t.l.Pipeline, Stage: stage, Sink: t.l.Sink, Tab: tab}
	})
}

// Moved notes that the records of a partition from one offset to before another
// are done with. The position is that of the last.
func (t *Tally) Moved(tab string, part int, from, to int64, pos string, token int64) {
	t.count(func(c *counts) {
		r := of(&c.progress, partition{tab, part}, func() *Progress {
			return &Progress{Time: t.window, Pipeline: t.l.Pipeline, Sink: t.l.Sink, Tab: tab, Part: uint32(part), From: from, Token: token}
		})
		r.To, r.Pos = to, pos
	})
}

// Backlog notes what the lane has before it.
func (t *Tally) Backlog(records, bytes int64) {
	t.count(func(c *counts) {
		if c.backlog == nil {
			c.backlog = &Backlog{Time: t.window, Pipeline: t.l.Pipeline, Sink: t.l.Sink, Lane: uint32(t.l.Lane)}
		}
		c.backlog.Records = max(c.backlog.Records, uint64(max(records, 0)))
		c.backlog.Bytes = max(c.backlog.Bytes, uint64(max(bytes, 0)))
	})
}

// Objective counts events that kept or broke a promise.
func (t *Tally) Objective(name string, good, bad int) {
	t.count(func(c *counts) {
		r := of(&c.objectives, name, func() *Objectives {
			return &Objectives{Time: t.window, Pipeline: t.l.Pipeline, Objective: name}
		})
		r.Good += uint64(good)
		r.Bad += uint64(bad)
	})
}

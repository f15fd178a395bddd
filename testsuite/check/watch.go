package check

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"syncline/dataplane/change"
)

// Counter is a column that only grows, per key, at the source: also over a
// deletion and a new row of the same key.
type Counter struct {
	Table  Table
	Column string
}

// Watcher samples counters at a side while it is written to. It holds one number
// per key, so it is for tables that are not large.
type Watcher struct {
	side     Side
	counters []Counter
	narrow   []Table // the key and the counter only

	mu      sync.Mutex
	highest []map[string]int64
	samples int
	found   []Difference
}

// NewWatcher returns a watcher of a side.
func NewWatcher(side Side, counters ...Counter) (*Watcher, error) {
	w := &Watcher{side: side, counters: counters}
	for _, c := range counters {
		s := c.Table.Schema
		at := s.Column(c.Column)
		if at < 0 || len(s.Key) == 0 || s.IsKey(at) {
			return nil, fmt.Errorf("table %s: %q is not a counter beside a key", s.Table, c.Column)
		}
		slim := &change.Schema{Table: s.Table}
		for i, k := range s.Key {
			slim.Columns = append(slim.Columns, s.Columns[k])
			slim.Key = append(slim.Key, i)
		}
		slim.Columns = append(slim.Columns, s.Columns[at])
		t := c.Table
		t.Schema = slim
		w.narrow = append(w.narrow, t)
		w.highest = append(w.highest, map[string]int64{})
	}
	return w, nil
}

// Sample reads all counters once.
func (w *Watcher) Sample(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var kb []byte
	for i := range w.narrow {
		t, seen := &w.narrow[i], w.highest[i]
		last := len(t.Schema.Columns) - 1
		err := w.side.Rows(ctx, t, func(row []Value) error {
			n, err := strconv.ParseInt(row[last].Text, 10, 64)
			if err != nil {
				return fmt.Errorf("counter %q: not an integer", w.counters[i].Column)
			}
			kb = keyText(kb[:0], t.Schema, row)
			was, ok := seen[string(kb)]
			if ok && n < was {
				if len(w.found) < maxPerTable {
					w.found = append(w.found, Difference{Side: w.side.Name(), Table: t.ID(), Kind: Stepped, Key: append([]Value(nil), row[:last]...),
						Column: w.counters[i].Column, Want: Value{Text: strconv.FormatInt(was, 10)}, Have: row[last]})
				}
				return nil
			}
			if !ok || n > was {
				seen[string(kb)] = n
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	w.samples++
	return nil
}

// Run samples until ctx ends. Samples that fail, as they do while a test has the
// side's server down, are left out.
func (w *Watcher) Run(ctx context.Context, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		_ = w.Sample(ctx) // a sample that could not be taken says nothing
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// Result returns how many full samples there were and which counters went back.
// No sample at all proves nothing: callers check the number.
func (w *Watcher) Result() (samples int, back []Difference) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.samples, append([]Difference(nil), w.found...)
}

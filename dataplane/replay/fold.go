package replay

import (
	"bytes"
	"context"
	"reflect"
	"slices"
	"time"

	"syncline/dataplane/change"
)

// row is what is known of a key.
type row struct {
	values  change.Row // some may be Unchanged; nil: deleted
	schema  change.Version
	pos     change.Position
	commit  time.Time
	changes int
	steps   int    // of the partition's definition, as of the last change
	why     string // why a value is Unchanged
	loaded  bool   // nothing but changes that the load may hold
}

// state is what the log says of a row; none is why nothing is known of it.
func (w *row) state(none string) State {
	switch {
	case w == nil:
		return State{Why: none}
	case w.loaded:
		return State{Why: BeforeLoad}
	}
	s := State{Row: w.values, Deleted: w.values == nil, Schema: w.schema, Pos: w.pos, Commit: w.commit, Changes: w.changes}
	s.Complete = !slices.ContainsFunc(w.values, unchanged)
	if !s.Complete {
		s.Why = w.why
	}
	return s
}

// fold takes in the changes of a partition, in the order of the log.
type fold struct {
	log    Log
	load   Load
	keys   map[change.Key]*row
	settle int64 // changes that only move mark

	mark    change.Position
	version change.Version
	steps   int // how often the definition changed
}

func (f *fold) add(ctx context.Context, c *change.Change) error {
	if !f.mark.Before(c.Pos) {
		return nil // sent again
	}
	f.mark = c.Pos
	if c.Op != change.Truncate && c.Schema != f.version {
		f.version = c.Schema
		f.steps++
	}
	if f.settle > 0 {
		f.settle--
		return nil
	}
	if c.Op == change.Truncate {
		if !f.load.holds(c.Pos) {
			for k := range f.keys {
				f.keys[k] = &row{pos: c.Pos, commit: c.CommitTime, changes: f.keys[k].count() + 1, steps: f.steps}
			}
		}
		return nil
	}
	w, ok := f.keys[c.Key]
	switch {
	case !ok:
		return nil
	case f.load.holds(c.Pos):
		if w == nil {
			f.keys[c.Key] = &row{loaded: true}
		}
		return nil
	case w == nil || w.loaded:
		w = &row{}
		f.keys[c.Key] = w
	}
	if err := f.apply(ctx, w, c); err != nil {
		return err
	}
	w.schema, w.pos, w.commit, w.steps = c.Schema, c.Pos, c.CommitTime, f.steps
	w.changes++
	return nil
}

func (w *row) count() int {
	if w == nil {
		return 0
	}
	return w.changes
}

// apply lets a change follow what is known of its row.
func (f *fold) apply(ctx context.Context, w *row, c *change.Change) error {
	if c.Op == change.Delete {
		w.values, w.why = nil, ""
		return nil
	}
	next := make(change.Row, len(c.New)) // the record's values share a buffer with many others
	for i, v := range c.New {
		next[i] = change.Value{Kind: v.Kind, Data: bytes.Clone(v.Data)}
	}
	prev := w.values
	had := w.why
	w.values, w.why = next, NeverSent
	if c.Op == change.Insert || prev == nil || !slices.ContainsFunc(next, unchanged) {
		return nil
	}
	w.why = had
	if w.why == "" {
		w.why = NeverSent
	}
	if w.schema == c.Schema && w.steps == f.steps {
		for i := range next {
			if unchanged(next[i]) && i < len(prev) {
				next[i] = prev[i]
			}
		}
		return nil
	}
	// A column may have been dropped and added again in between, which nobody can tell
	// from two definitions.
	if f.steps-w.steps > 1 || w.schema == c.Schema {
		w.why = Redefined
		return nil
	}
	was, err := f.log.Schema(ctx, w.schema)
	if err != nil {
		return err
	}
	is, err := f.log.Schema(ctx, c.Schema)
	if err != nil {
		return err
	}
	for i := range next {
		if !unchanged(next[i]) || i >= len(is.Columns) {
			continue
		}
		col := &is.Columns[i]
		j := was.Column(col.Name)
		switch {
		case j >= 0 && j < len(prev) && reflect.DeepEqual(was.Columns[j].Type, col.Type):
			next[i] = prev[j]
		case j < 0 && col.Missing != nil:
			next[i] = change.TextValue(*col.Missing)
		default:
			w.why = Redefined
		}
	}
	return nil
}

func unchanged(v change.Value) bool { return v.Kind == change.Unchanged }

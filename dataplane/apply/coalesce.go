package apply

import (
	"slices"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// Origin is where the last change that was merged into a row came from.
type Origin struct {
	Partition int
	Offset    int64
	XID       uint32
}

// Coalescer merges changes of one table that share a schema. The zero value is
// not ready: call Reset first. It may be reset and used again once nobody reads
// the rows that it returned.
type Coalescer struct {
	keep    bool // every row is kept: the table is append-only
	rows    []sink.Row
	origins []Origin
	index   map[change.Key]int32
	changes int
}

// Reset empties the coalescer for changes of a table.
func (co *Coalescer) Reset(appendOnly bool) {
	co.keep = appendOnly
	clear(co.rows) // let go of the values
	co.rows, co.origins, co.changes = co.rows[:0], co.origins[:0], 0
	if co.index == nil {
		co.index = make(map[change.Key]int32)
	}
	clear(co.index)
}

// Rows returns the merged rows, valid until the next call of any other method.
func (co *Coalescer) Rows() []sink.Row { return co.rows }

// Origin returns where row i came from.
func (co *Coalescer) Origin(i int) Origin { return co.origins[i] }

// Changes returns how many changes were merged.
func (co *Coalescer) Changes() int { return co.changes }

// Add merges a change of a row. It keeps, but never writes to, the change's
// values. It reports false, and does nothing, if the rows so far must be written
// before the change can be added.
func (co *Coalescer) Add(c *change.Change, from Origin) bool {
	if !co.keep && c.Key != "" {
		if i, ok := co.index[c.Key]; ok {
			if !merge(&co.rows[i], c) {
				return false
			}
			co.origins[i] = from
			co.changes++
			return true
		}
		co.index[c.Key] = int32(len(co.rows))
	}
	co.rows = append(co.rows, sink.Row{Op: c.Op, Pos: c.Pos, Commit: c.CommitTime, Key: c.Key, New: c.New, Old: c.Old})
	co.origins = append(co.origins, from)
	co.changes++
	return true
}

// Has reports whether there is a row of a key.
func (co *Coalescer) Has(k change.Key) bool {
	_, ok := co.index[k]
	return ok
}

// Filter removes the rows that are not to be kept.
func (co *Coalescer) Filter(keep func(r *sink.Row, from Origin) bool) {
	n := 0
	for i := range co.rows {
		if !keep(&co.rows[i], co.origins[i]) {
			delete(co.index, co.rows[i].Key)
			continue
		}
		if n != i {
			co.rows[n], co.origins[n] = co.rows[i], co.origins[i]
			if _, ok := co.index[co.rows[n].Key]; ok {
				co.index[co.rows[n].Key] = int32(n)
			}
		}
		n++
	}
	clear(co.rows[n:]) // let go of the values
	co.rows, co.origins = co.rows[:n], co.origins[:n]
}

// Take removes the row of a key and returns it with its origin.
func (co *Coalescer) Take(k change.Key) (sink.Row, Origin, bool) {
	i, ok := co.index[k]
	if !ok {
		return sink.Row{}, Origin{}, false
	}
	r, o := co.rows[i], co.origins[i]
	last := len(co.rows) - 1
	co.rows[i], co.origins[i] = co.rows[last], co.origins[last]
	co.index[co.rows[i].Key] = i
	delete(co.index, k)
	co.rows[last] = sink.Row{}
	co.rows, co.origins = co.rows[:last], co.origins[:last]
	return r, o, true
}

// merge lets c follow what r already does.
func merge(r *sink.Row, c *change.Change) bool {
	switch {
	case c.Op == change.Delete:
		r.Op, r.New = change.Delete, nil
	case r.Op == change.Delete:
		// The sink would take a left-out value from the row that is being deleted.
		if slices.ContainsFunc(c.New, unchanged) {
			return false
		}
		r.Op, r.New = change.Update, c.New
	default:
		r.New = over(r.New, c.New)
	}
	if r.Old == nil {
		r.Old = c.Old
	}
	r.Pos, r.Commit = c.Pos, c.CommitTime
	return true
}

func unchanged(v change.Value) bool { return v.Kind == change.Unchanged }

// over returns next with its unchanged values taken from prev. It copies where
// it must, because a log may hand out the same change again.
func over(prev, next change.Row) change.Row {
	first := slices.IndexFunc(next, unchanged)
	if first < 0 {
		return next
	}
	out := slices.Clone(next)
	for i := first; i < len(out) && i < len(prev); i++ {
		if unchanged(out[i]) {
			out[i] = prev[i]
		}
	}
	return out
}

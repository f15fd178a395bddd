package simulate

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"syncline/dataplane/change"
)

// watched is what is kept of rows beside, for those who compare what readers see: a number
// of each row, and a hash of what it belongs to.
type watched struct {
	column   string
	entity   []string
	salt     string
	starts   []start  // by key: what a row was before its first change
	entities []uint64 // by key; 0: the log does not say it
	numbers  int64    // that were read
}

// start is a row before its first change that is known.
type start struct {
	value        float64
	known, there bool
}

// Watch lets the trace keep a number of each row, of a column ("": only whether it is
// there), and a salted hash of the columns that tell to which entity it belongs (none: its
// key). Call it before Add.
func (t *Table) Watch(column string, entity []string, salt string) {
	t.watched = &watched{column: column, entity: entity, salt: salt}
}

// number reads a value of the watched column.
func (w *watched) number(s *change.Schema, row change.Row) (float64, bool) {
	i := s.Column(w.column)
	if i < 0 || i >= len(row) || row[i].Kind != change.Text {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(row[i].Data), 64)
	return f, err == nil && !math.IsNaN(f) && !math.IsInf(f, 0)
}

func (w *watched) first(s *change.Schema, c *change.Change) {
	st := start{there: c.Op != change.Insert && c.Moved == nil || c.Op == change.Delete}
	st.known = !st.there
	if st.there && (w.column == "" || s.Full) {
		st.value, st.known = w.number(s, c.Old)
		st.known = st.known || w.column == ""
	}
	w.starts = append(w.starts, st)
	w.entities = append(w.entities, w.entityOf(s, c))
}

func (w *watched) entityOf(s *change.Schema, c *change.Change) uint64 {
	if len(w.entity) == 0 {
		return Hash(w.salt, c.Key)
	}
	row := c.New
	if row == nil {
		row = c.Old
	}
	of := &change.Schema{Table: s.Table, Columns: s.Columns}
	for _, name := range w.entity {
		i := s.Column(name)
		if i < 0 {
			return 0
		}
		of.Key = append(of.Key, i)
	}
	k, err := change.MakeKey(of, row)
	if err != nil { // a column is not in the log, or NULL
		return 0
	}
	return Hash(w.salt, k)
}

func (w *watched) value(e *event, s *change.Schema, c *change.Change) {
	if v, ok := w.number(s, c.New); ok {
		e.value, e.flags = v, e.flags|valued
		w.numbers++
	}
}

func (w *watched) thin(to []uint32) {
	starts, entities := w.starts[:0], w.entities[:0]
	for k, n := range to {
		if n > 0 {
			starts, entities = append(starts, w.starts[k]), append(entities, w.entities[k])
		}
	}
	w.starts, w.entities = starts, entities
}

// Entities returns the hash of each key's entity; 0: the log does not say it. Keys are
// numbered from 0 on.
func (t *Table) Entities() []uint64 { return t.watched.entities }

// Numbers returns how many changes had a number in the watched column.
func (t *Table) Numbers() int64 { return t.watched.numbers }

// Followed is what became of each key.
type Followed struct {
	ByKey []OfKey
	Outcome
	t      *Table
	in     func(key uint32) bool
	events [][]event
	vis    [][]int64 // when each took effect, Unix microseconds
}

// OfKey is what became of a key.
type OfKey struct{ Changes, Rows, Bytes, Wait int64 }

func (f *Followed) wrote(key uint32, rows, bytes int64) {
	f.ByKey[key].Rows += rows
	f.ByKey[key].Bytes += bytes
}

// part takes the events of the keys that are followed.
func (f *Followed) part(n int, es []event) ([]event, []int64) {
	var out []event
	for i := range es {
		switch e := &es[i]; {
		case e.op == change.Truncate:
			out = append(out, *e)
		case f.in(e.key):
			f.ByKey[e.key].Changes++
			out = append(out, *e)
		}
	}
	f.events[n], f.vis[n] = out, make([]int64, len(out))
	for i := range out {
		f.vis[n][i] = out[i].at // a TRUNCATE
	}
	return f.events[n], f.vis[n]
}

// Follow simulates a policy on some keys as if there were no others. The table must be
// watched, and its rows have keys.
func (t *Table) Follow(p Policy, lim Limits, in func(key uint32) bool) *Followed {
	f := &Followed{t: t, in: in, ByKey: make([]OfKey, len(t.hashes)), events: make([][]event, len(t.parts)), vis: make([][]int64, len(t.parts))}
	f.Outcome = t.run(p, lim, f)
	return f
}

// Appends reports whether rows without keys were recorded: nothing tells them apart.
func (t *Table) Appends() bool { return t.appends }

// Moment is what the rows of a group are at a time, as the source has it and as the sink
// has.
type Moment struct{ Count, Sum, SinkCount, SinkSum float64 }

// state is a row's.
type state struct {
	value float64
	there bool
	at    int // the event that made it so
}

func (s state) count() float64 {
	if s.there {
		return 1
	}
	return 0
}

// Read tells what readers would have seen at some times, in ascending order, Unix
// microseconds, of the rows in each of some groups. Rows of which the log does not say what
// they were count from their first change on, at both ends alike.
func (f *Followed) Read(times []int64, groups int, of func(key uint32) int) [][]Moment {
	out := make([][]Moment, groups)
	for g := range out {
		out[g] = make([]Moment, len(times))
	}
	for n := range f.events {
		f.side(n, times, out, of, func(m *Moment) (*float64, *float64) { return &m.Count, &m.Sum }, func(i int) int64 { return f.events[n][i].at })
		f.side(n, times, out, of, func(m *Moment) (*float64, *float64) { return &m.SinkCount, &m.SinkSum }, func(i int) int64 { return f.vis[n][i] })
	}
	return out
}

// side adds up the rows of a partition at one end, where events are there from a time on.
func (f *Followed) side(n int, times []int64, out [][]Moment, of func(uint32) int, into func(*Moment) (count, sum *float64), there func(int) int64) {
	es := f.events[n]
	order := make([]int, len(es))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(there(a), there(b)) })
	rows := map[uint32]state{}
	counts, sums := make([]float64, len(out)), make([]float64, len(out))
	put := func(k uint32, s state) {
		g := of(k)
		was := rows[k]
		counts[g] += s.count() - was.count()
		sums[g] += s.value*s.count() - was.value*was.count()
		rows[k] = s
	}
	for i := range es { // what they were
		e := &es[i]
		if _, met := rows[e.key]; e.op == change.Truncate || met {
			continue
		}
		st := f.t.watched.starts[e.key]
		s := state{st.value, st.there, -1}
		if !st.known { // as after its first change, so that neither end is wrong
			s = state{e.value, e.op != change.Delete && e.flags&valued != 0, -1}
		}
		put(e.key, s)
	}
	next := 0
	for j, t := range times {
		for ; next < len(order) && there(order[next]) <= t; next++ {
			i := order[next]
			e := &es[i]
			switch s := rows[e.key]; {
			case e.op == change.Truncate:
				for k, s := range rows {
					if s.at < i {
						put(k, state{at: i})
					}
				}
			case s.at > i: // overtaken
			case e.op == change.Delete:
				put(e.key, state{at: i})
			default:
				s.there, s.at = true, i
				if e.flags&valued != 0 {
					s.value = e.value
				} else if e.flags&partial == 0 {
					s.value = 0
				}
				put(e.key, s)
			}
		}
		for g := range out {
			c, s := into(&out[g][j])
			*c, *s = *c+counts[g], *s+sums[g]
		}
	}
}

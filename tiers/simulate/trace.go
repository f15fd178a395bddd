package simulate

import (
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"

	"syncline/dataplane/change"
	"syncline/tiers"
)

// MaxGiven is how many classifications a trace tells the tiers of.
const MaxGiven = 8

// maxTiers is how many tiers a classification may have.
const maxTiers = 254

// Options bound a trace.
type Options struct {
	Limit int    // changes that it keeps; default a million
	One   uint64 // of so many keys one is taken from the start; default 1: all
	Salt  string // of the hash by which keys are left out
}

// Trace is what simulations need to know of the past.
type Trace struct {
	o      Options
	one    uint64
	kept   int
	tables []*Table
}

// Table is the part of one table.
type Table struct {
	ID    change.TableID
	trace *Trace

	given   []given
	parts   [][]event
	marks   []change.Position
	clocks  []int64
	keys    map[uint64]uint32 // by hash
	hashes  []uint64          // by key
	defs    map[change.Version]*def
	columns []string // by bit of event.changed; those from the 63rd on share one
	appends bool     // rows are only added

	profile profile
	watched *watched // nil: only sizes and times are of interest
}

// given is a classification of the table.
type given struct {
	names []string
	rules []tiers.Rule
}

// def is a definition of the table.
type def struct {
	n      uint16
	schema *change.Schema
	bits   []uint64 // by column
	class  []*tiers.Classifier
}

// event is what is kept of a change.
type event struct {
	at      int64   // when it was committed, Unix microseconds, no earlier than those before it
	tiers   uint64  // by classification 8 bits: 0 streams, else 1 and the tier's place
	changed uint64  // columns that an update changed
	value   float64 // of the watched column
	key     uint32
	bytes   uint32
	def     uint16
	op      change.Op
	flags   uint8
}

// Flags of events.
const (
	partial uint8 = 1 << iota // it leaves values out
	moved                     // it is half of a change of key
	told                      // the log says which columns it changed
	valued                    // value is told
)

const otherColumns = 63 // the bit that columns beyond share

// New begins a trace.
func New(o Options) *Trace {
	if o.Limit <= 0 {
		o.Limit = 1_000_000
	}
	return &Trace{o: o, one: max(o.One, 1)}
}

// One is of how many keys one was taken.
func (t *Trace) One() uint64 { return t.one }

// Kept is how many changes the trace has.
func (t *Trace) Kept() int { return t.kept }

// Tables returns the tables, in the order of their calls of Table.
func (t *Trace) Tables() []*Table { return t.tables }

// Classification is one that a trace tells the tiers by.
type Classification struct {
	Names []string     // of tiers that wait, in any order
	Rules []tiers.Rule // of the table
}

// Table adds a table with the classifications of which its changes' tiers are told.
func (t *Trace) Table(id change.TableID, partitions int, cs ...Classification) (*Table, error) {
	if len(cs) > MaxGiven {
		return nil, fmt.Errorf("%d classifications, of at most %d", len(cs), MaxGiven)
	}
	out := &Table{ID: id, trace: t, parts: make([][]event, partitions), marks: make([]change.Position, partitions), clocks: make([]int64, partitions),
		keys: map[uint64]uint32{}, defs: map[change.Version]*def{}, profile: newProfile()}
	for _, c := range cs {
		if len(c.Names) > maxTiers {
			return nil, fmt.Errorf("%d tiers, of at most %d", len(c.Names), maxTiers)
		}
		out.given = append(out.given, given{c.Names, c.Rules})
	}
	t.tables = append(t.tables, out)
	return out, nil
}

// Hash is a key's, by which it is left out or put into an arm; another than that by
// which it has its partition.
func Hash(salt string, k change.Key) uint64 {
	var d xxhash.Digest
	d.ResetWithSeed(0x9e3779b97f4a7c15)
	_, _ = d.WriteString(salt) // never fails
	_, _ = d.WriteString("\x00")
	_, _ = d.WriteString(string(k))
	return Mix(d.Sum64())
}

// Mix is a bijection of 64 bits that looks random (of the generator SplitMix64).
func Mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// Add takes in a change of a partition, in the order of the log. s is its definition; of a
// TRUNCATE it may be nil. The error is that of a rule that does not fit the definition.
func (t *Table) Add(s *change.Schema, c *change.Change, partition, bytes int) error {
	if !t.marks[partition].Before(c.Pos) {
		return nil // sent again
	}
	t.marks[partition] = c.Pos
	t.clocks[partition] = max(t.clocks[partition], c.CommitTime.UnixMicro())
	e := event{at: t.clocks[partition], op: c.Op, bytes: uint32(min(bytes, 1<<32-1))}
	if c.Op == change.Truncate {
		t.append(partition, e)
		return nil
	}
	h := Hash(t.trace.o.Salt, c.Key)
	if c.Key == "" {
		t.appends = true
		h = Mix(uint64(c.Pos.Commit)<<20 + uint64(c.Pos.Ordinal))
	}
	if h%t.trace.one != 0 {
		return nil
	}
	d, err := t.def(s, c.Schema)
	if err != nil {
		return err
	}
	e.def = d.n
	for i, k := range d.class {
		tier, err := k.Classify(c)
		if err != nil {
			return err
		}
		if tier != tiers.Stream {
			e.tiers |= uint64(1+slices.Index(t.given[i].names, tier)) << (8 * i)
		}
	}
	t.columnsOf(&e, d, c)
	if c.Moved != nil {
		e.flags |= moved
	}
	if c.Key != "" {
		k, ok := t.keys[h]
		if !ok {
			k = uint32(len(t.hashes))
			t.keys[h] = k
			t.hashes = append(t.hashes, h)
			if t.watched != nil {
				t.watched.first(d.schema, c)
			}
		}
		e.key = k
		if t.watched != nil {
			t.watched.value(&e, d.schema, c)
		}
	}
	t.profile.add(&e, d, c)
	t.append(partition, e)
	return nil
}

func (t *Table) append(partition int, e event) {
	t.parts[partition] = append(t.parts[partition], e)
	if t.trace.kept++; t.trace.kept > t.trace.o.Limit {
		t.trace.thin()
	}
}

// columnsOf notes what an update changed and left out.
func (t *Table) columnsOf(e *event, d *def, c *change.Change) {
	for i := range c.New {
		if c.New[i].Kind == change.Unchanged {
			e.flags |= partial
		}
	}
	if c.Op != change.Update || !d.schema.Full || len(c.Old) < len(c.New) {
		return
	}
	e.flags |= told
	for i := range c.New {
		if c.New[i].Kind != change.Unchanged && !c.New[i].Equal(c.Old[i]) && i < len(d.bits) {
			e.changed |= d.bits[i]
		}
	}
}

func (t *Table) def(s *change.Schema, v change.Version) (*def, error) {
	if d := t.defs[v]; d != nil {
		return d, nil
	}
	d := &def{n: uint16(len(t.defs)), schema: s}
	for _, g := range t.given {
		k, err := tiers.Compile(s, g.rules)
		if err != nil {
			return nil, err
		}
		d.class = append(d.class, k)
	}
	for i := range s.Columns {
		d.bits = append(d.bits, t.bit(s.Columns[i].Name))
	}
	t.defs[v] = d
	return d, nil
}

func (t *Table) bit(column string) uint64 {
	i := slices.Index(t.columns, column)
	if i < 0 {
		i = len(t.columns)
		t.columns = append(t.columns, column)
	}
	return 1 << min(i, otherColumns)
}

// thin leaves out every other key until half of the limit is free.
func (t *Trace) thin() {
	for t.kept > t.o.Limit/2 && t.one < 1<<40 {
		t.one *= 2
		t.kept = 0
		for _, x := range t.tables {
			x.thin()
		}
	}
}

func (t *Table) thin() {
	one := t.trace.one
	to := make([]uint32, len(t.hashes)) // 0: left out
	var hashes []uint64
	clear(t.keys)
	for k, h := range t.hashes {
		if h%one == 0 {
			t.keys[h] = uint32(len(hashes))
			hashes = append(hashes, h)
			to[k] = uint32(len(hashes))
		}
	}
	t.hashes = hashes
	if t.watched != nil {
		t.watched.thin(to)
	}
	for p, es := range t.parts {
		kept := es[:0]
		for i, e := range es {
			switch {
			case e.op == change.Truncate:
			case t.appends: // a row without a key: by its place, since nothing else is kept of it
				if i%2 != 0 {
					continue
				}
			case to[e.key] == 0:
				continue
			default:
				e.key = to[e.key] - 1
			}
			kept = append(kept, e)
		}
		t.parts[p] = slices.Clip(kept)
		t.trace.kept += len(kept)
	}
}

// Cut leaves out what was committed at a time or later, Unix microseconds.
func (t *Trace) Cut(at int64) {
	t.kept = 0
	for _, x := range t.tables {
		for p, es := range x.parts {
			n, _ := slices.BinarySearchFunc(es, at, func(e event, at int64) int {
				if e.at < at {
					return -1
				}
				return 1
			})
			x.parts[p] = es[:n]
			t.kept += n
		}
	}
}

// Span returns when the first and the last change were committed, Unix microseconds; 0
// and 0 if there is none.
func (t *Trace) Span() (first, last int64) {
	for _, x := range t.tables {
		for _, es := range x.parts {
			if len(es) == 0 {
				continue
			}
			if first == 0 || es[0].at < first {
				first = es[0].at
			}
			last = max(last, es[len(es)-1].at)
		}
	}
	return first, last
}

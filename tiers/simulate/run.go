package simulate

import (
	"time"

	"syncline/dataplane/change"
)

// Tier is a batch tier.
type Tier struct {
	Name          string
	Every, Jitter time.Duration
}

// due returns the first run of the tier after a time, Unix microseconds.
func (t Tier) due(at int64) int64 {
	every, late := t.Every.Microseconds(), t.Jitter.Microseconds()/2
	n := (at - late) / every
	return (n+1)*every + late
}

// Policy is a classification of a table, as a run goes by it.
type Policy struct {
	Tiers []Tier // of which the table has changes; each brings its own
	of    func(*event) uint8
}

// Streaming lets nothing wait.
func Streaming() Policy { return Policy{of: func(*event) uint8 { return 0 }} }

// Given goes by a classification that the trace was given, by its place.
func Given(i int, ts []Tier) Policy {
	return Policy{ts, func(e *event) uint8 { return uint8(e.tiers >> (8 * i)) }}
}

// Whole lets all changes wait.
func Whole(t Tier) Policy { return Policy{[]Tier{t}, func(*event) uint8 { return 1 }} }

// Columns lets updates of none but some columns wait, and goes by another policy for all
// other changes.
func (t *Table) Columns(tier Tier, columns []string, else_ Policy) Policy {
	var mask uint64
	for _, c := range columns {
		mask |= t.bit(c)
	}
	mask &^= 1 << otherColumns
	n := uint8(len(else_.Tiers) + 1)
	return Policy{append(append([]Tier(nil), else_.Tiers...), tier), func(e *event) uint8 {
		switch {
		case e.op != change.Update || e.flags&moved != 0:
			return else_.of(e)
		case e.flags&told == 0:
			return 0
		case e.changed&^mask == 0:
			return n
		}
		return else_.of(e)
	}}
}

// Limits are those of a sweep's batch: rows and encoded bytes.
type Limits struct{ Rows, Bytes int }

// Written is what goes to a sink.
type Written struct {
	Rows  int64 `json:"rows"`
	Bytes int64 `json:"bytes"`
}

func (w *Written) add(rows, bytes int64) { w.Rows, w.Bytes = w.Rows+rows, w.Bytes+bytes }

// Outcome is what became of a table's changes.
type Outcome struct {
	Changes  int64
	Bytes    int64 // of them
	Waited   int64
	Streamed Written
	Swept    Written
	Sweeps   int64 // of partitions
	Forced   int64 // of those: before their time
	Batches  int64 // of sweeps
	Reread   int64 // bytes of the log that sweeps read again: twice from the first change that waits
	Wait     Waits // of the changes that waited
	ByTier   []Waits
}

// run is the state of one.
type run struct {
	t   *Table
	p   *Policy
	lim Limits
	out *Outcome

	es   []event
	key  []keyState
	step int32 // grows with each sweep and batch
	// Of the partition under way:
	tiers []backlog // in the policy's order
	tied  bool      // what waits in a tier needs what waits in another: it is written together
	f     *Followed
	vis   []int64
}

// keyState is what is known of a key: but for what waits, as of a step.
type keyState struct {
	waits    uint32 // the tiers in which a change of it waits
	streamed int32  // the sweep of
	last     int32  // the last of its changes that had been written
	row      int32  // the batch that has a row of it
	bytes    int32
	deleted  bool // what the row does
}

// Run simulates what a policy would have done. What waits at the end is written when it is
// due.
func (t *Table) Run(p Policy, lim Limits) Outcome { return t.run(p, lim, nil) }

func (t *Table) run(p Policy, lim Limits, f *Followed) Outcome {
	out := Outcome{ByTier: make([]Waits, len(p.Tiers))}
	one := int(min(t.trace.one, 1<<30))
	r := &run{t: t, p: &p, out: &out, f: f, key: make([]keyState, len(t.hashes)), lim: Limits{max(lim.Rows/one, 1), max(lim.Bytes/one, 1)}}
	for n, es := range t.parts {
		r.es = es
		if f != nil {
			r.es, r.vis = f.part(n, es)
		}
		r.partition(n)
	}
	out.scale(int64(t.trace.one))
	return out
}

func (o *Outcome) scale(by int64) {
	for _, n := range []*int64{&o.Changes, &o.Bytes, &o.Waited, &o.Streamed.Rows, &o.Streamed.Bytes, &o.Swept.Rows, &o.Swept.Bytes, &o.Reread} {
		*n *= by
	}
}

// backlog is what waits in a tier.
type backlog struct {
	from int   // its first event; -1: none
	due  int64 // when it is written
}

// bit is a tier's in keyState.waits. Those beyond the last share it.
func bit(tier uint8) uint32 { return 1 << min(tier-1, 31) }

func (r *run) partition(n int) {
	r.step++
	r.tied = false
	r.tiers = make([]backlog, len(r.p.Tiers))
	for i := range r.tiers {
		r.tiers[i].from = -1
	}
	for i := range r.es {
		e := &r.es[i]
		for at, ok := r.next(); ok && at <= e.at; at, ok = r.next() {
			r.sweep(i, at, r.tied)
		}
		if e.op == change.Truncate {
			r.force(i, e.at)
			if n == 0 { // it is in each partition, and once
				r.out.Changes, r.out.Bytes = r.out.Changes+1, r.out.Bytes+int64(e.bytes)
			}
			continue
		}
		r.out.Changes, r.out.Bytes = r.out.Changes+1, r.out.Bytes+int64(e.bytes)
		tier := r.p.of(e)
		if tier > 0 {
			r.tied = r.tied || r.needed(e, tier)
			if b := &r.tiers[tier-1]; b.from < 0 {
				*b = backlog{i, r.p.Tiers[tier-1].due(e.at)}
			}
			if !r.t.appends {
				r.key[e.key].waits |= bit(tier)
			}
			continue
		}
		if r.f != nil {
			r.vis[i] = e.at
			r.f.wrote(e.key, 1, int64(e.bytes))
		}
		if r.needed(e, 0) {
			r.force(i, e.at)
		}
		r.out.Streamed.add(1, int64(e.bytes))
	}
	for at, ok := r.next(); ok; at, ok = r.next() {
		r.sweep(len(r.es), at, r.tied)
	}
}

// next returns when the first of what waits is due.
func (r *run) next() (at int64, ok bool) {
	for _, b := range r.tiers {
		if b.from >= 0 && (!ok || b.due < at) {
			at, ok = b.due, true
		}
	}
	return at, ok
}

// needed reports whether what a change leaves out may be in one that waits, of a tier that
// is not its own.
func (r *run) needed(e *event, tier uint8) bool {
	if r.t.appends || e.flags&partial == 0 {
		return false
	}
	for n := range r.tiers {
		of := uint8(n + 1)
		if r.tiers[n].from >= 0 && of != tier && (e.flags&moved != 0 || r.key[e.key].waits&bit(of) != 0) {
			return true
		}
	}
	return false
}

// force writes all that waits before its time.
func (r *run) force(to int, at int64) {
	if _, ok := r.next(); ok {
		r.sweep(to, at, true)
		r.out.Forced++
	}
}

// sweep writes what waits before an event in the tiers that are due at a time, or in all.
func (r *run) sweep(to int, at int64, all bool) {
	from := to
	swept := make([]bool, len(r.tiers))
	for n, b := range r.tiers {
		if swept[n] = b.from >= 0 && (all || b.due <= at); swept[n] {
			from = min(from, b.from)
		}
	}
	window := r.step
	// Of one that waits the sweep is, or another run; all others have been written.
	waits := func(i int, tier uint8) bool {
		return tier > 0 && r.tiers[tier-1].from >= 0 && i >= r.tiers[tier-1].from
	}
	for i := from; i < to && !r.t.appends; i++ {
		if e := &r.es[i]; e.op != change.Truncate && !waits(i, r.p.of(e)) {
			k := &r.key[e.key]
			k.streamed, k.last = window, int32(i)
		}
	}
	b := batch{r: r}
	r.step++
	for i := from; i < to; i++ {
		e := &r.es[i]
		r.out.Reread += 2 * int64(e.bytes) // what was written is looked for first
		tier := r.p.of(e)
		if !waits(i, tier) || !swept[tier-1] {
			continue
		}
		r.out.Waited++
		r.out.Wait.add(at-e.at, 1)
		r.out.ByTier[tier-1].add(at-e.at, 1)
		if r.f != nil {
			r.vis[i] = at
			r.f.ByKey[e.key].Wait += at - e.at
		}
		k := r.keyOf(e)
		if k != nil {
			k.waits &^= bit(tier)
		}
		if k != nil && k.streamed == window && k.last > int32(i) {
			continue // overtaken
		}
		if b.begun && (b.def != e.def || b.rows >= int64(r.lim.Rows) || b.filled >= int64(r.lim.Bytes)) || !b.add(e) {
			b.end()
			b.add(e)
		}
	}
	b.end()
	r.out.Sweeps++
	for n := range r.tiers {
		if swept[n] {
			r.tiers[n].from = -1
		}
	}
	if all {
		r.tied = false
	}
	r.step++
}

func (r *run) keyOf(e *event) *keyState {
	if r.t.appends {
		return nil
	}
	return &r.key[e.key]
}

// batch is one of a sweep.
type batch struct {
	r           *run
	begun       bool
	def         uint16
	rows, bytes int64 // of what it writes
	filled      int64 // bytes of the records that began its rows
}

// add merges a change, and reports false if the batch has to end before it.
func (b *batch) add(e *event) bool {
	b.begun, b.def = true, e.def
	k := b.r.keyOf(e)
	if k == nil || k.row != b.r.step {
		b.rows, b.bytes, b.filled = b.rows+1, b.bytes+int64(e.bytes), b.filled+int64(e.bytes)
		if k != nil {
			k.row, k.bytes, k.deleted = b.r.step, int32(e.bytes), e.op == change.Delete
		}
		if b.r.f != nil {
			b.r.f.wrote(e.key, 1, int64(e.bytes))
		}
		return true
	}
	if k.deleted && e.op != change.Delete && e.flags&partial != 0 {
		return false
	}
	was := k.bytes
	k.bytes, k.deleted = int32(e.bytes), e.op == change.Delete
	if e.flags&partial != 0 { // what it leaves out is taken from before
		k.bytes = max(was, k.bytes)
	}
	b.bytes += int64(k.bytes - was)
	if b.r.f != nil {
		b.r.f.wrote(e.key, 0, int64(k.bytes-was))
	}
	return true
}

func (b *batch) end() {
	if b.rows > 0 {
		b.r.out.Swept.add(b.rows, b.bytes)
		b.r.out.Batches++
	}
	b.begun, b.rows, b.bytes, b.filled = false, 0, 0, 0
	b.r.step++
}

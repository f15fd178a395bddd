package deliver

import (
	"slices"
	"time"

	"syncline/dataplane/apply"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// plan is a batch while it grows and while it is being committed.
type plan struct {
	seq     uint64
	tables  []*tablePlan
	byTable map[change.TableID]*tablePlan
	parts   []*partition     // that the batch moves
	marks   []sink.Watermark // theirs, once it is sealed
	dead    []sink.DeadLetter
	changes int
	bytes   int
	sealed  bool // nothing may be added any more
	eager   bool // it does more than move partitions over changes that wait
	whole   bool // it ends where a transaction ends

	swept  *segment        // it is a batch of what waited
	commit change.Position // of the last change's transaction, with ordinal 0
	spare  []*tablePlan

	traces
}

// tablePlan is one table's part of a plan: all of one schema.
type tablePlan struct {
	t          *table
	schema     *change.Schema
	version    change.Version
	options    sink.TableOptions
	co         apply.Coalescer
	ops        [3]int // by index in opOf
	duplicates int
	contained  int
	commits    []commitRun
	used       Used // all but the changes; of a batch of what waited, without what was read
}

// commitRun is a number of changes committed at the same time.
type commitRun struct {
	at int64 // Unix nanoseconds on the source's clock
	n  int
}

var opOf = [3]change.Op{change.Insert, change.Update, change.Delete}

func (l *lane) newPlan() *plan {
	if n := len(l.free); n > 0 {
		p := l.free[n-1]
		l.free = l.free[:n-1]
		return p
	}
	return &plan{byTable: map[change.TableID]*tablePlan{}, whole: true}
}

// recycle empties the plan, once the sink is done with it.
func (p *plan) recycle() {
	for _, tp := range p.tables {
		tp.co.Reset(false)
		*tp = tablePlan{co: tp.co, commits: tp.commits[:0]}
	}
	p.spare = append(p.spare, p.tables...)
	clear(p.byTable)
	clear(p.parts)
	clear(p.dead)
	clear(p.traced)
	clear(p.tracedAt)
	*p = plan{traces: traces{p.traced[:0], p.tracedAt}, byTable: p.byTable, tables: p.tables[:0], parts: p.parts[:0], marks: p.marks[:0], dead: p.dead[:0], spare: p.spare, whole: true}
}

func (p *plan) empty() bool { return len(p.parts) == 0 }

func (p *plan) sendable(transactional bool) bool {
	return !p.empty() && (p.sealed || p.eager && (!transactional || p.whole))
}

func (p *plan) full(o *Options) bool {
	return p.changes >= o.MaxBatchRows || p.bytes >= o.MaxBatchBytes
}

// of returns the plan's part for a table.
func (p *plan) of(t *table) *tablePlan {
	if tp := p.byTable[t.info.ID]; tp != nil {
		return tp
	}
	var tp *tablePlan
	if n := len(p.spare); n > 0 {
		tp, p.spare = p.spare[n-1], p.spare[:n-1]
	} else {
		tp = &tablePlan{}
	}
	tp.t, tp.options = t, t.info.Options
	p.tables = append(p.tables, tp)
	p.byTable[t.info.ID] = tp
	return tp
}

// moves notes that the batch moves a partition.
func (p *plan) moves(part *partition) {
	if !part.dirty {
		part.dirty = true
		p.parts = append(p.parts, part)
	}
}

// seal fixes the watermarks that the batch ends at.
func (p *plan) seal(seq uint64) {
	p.seq, p.sealed = seq, true
	for _, part := range p.parts {
		p.marks = append(p.marks, part.watermark())
	}
}

// strengths of compressions, from the weakest on; "" is the sink's, which a tier's goes before.
var strengths = []string{"", "none", "lz4", "zstd"}

// compression is the strongest that the tiers of the batch ask for.
func (seg *segment) compression() (out string) {
	for _, r := range seg.read {
		if c := seg.s.l.o.Compression[r.tier]; slices.Index(strengths, c) > slices.Index(strengths, out) {
			out = c
		}
	}
	return out
}

func (tp *tablePlan) count(c *change.Change) {
	switch c.Op {
	case change.Insert:
		tp.ops[0]++
	case change.Update:
		tp.ops[1]++
	case change.Delete:
		tp.ops[2]++
	}
	at := c.CommitTime.UnixNano()
	if n := len(tp.commits); n > 0 && tp.commits[n-1].at == at {
		tp.commits[n-1].n++
		return
	}
	tp.commits = append(tp.commits, commitRun{at, 1})
}

// uncount takes back a change that was set aside after all; a merged row counts
// as one, and if its operation is not among those counted, as another.
func (tp *tablePlan) uncount(op change.Op) {
	for i := range tp.ops {
		if opOf[i] == op && tp.ops[i] > 0 {
			tp.ops[i]--
			return
		}
	}
	for i := range tp.ops {
		if tp.ops[i] > 0 {
			tp.ops[i]--
			return
		}
	}
}

// batch makes what the sink is given at an attempt, leaving out some tables.
func (p *plan) batch(without func(change.TableID) bool, token, attempt int64) *sink.Batch {
	b := &sink.Batch{Tables: make([]sink.TableBatch, 0, len(p.tables)), Marks: make([]sink.Watermark, 0, len(p.marks))}
	kept := make([]*tablePlan, 0, len(p.tables))
	for _, tp := range p.tables {
		if len(tp.co.Rows()) > 0 && !without(tp.t.info.ID) {
			b.Tables = append(b.Tables, sink.TableBatch{Schema: tp.schema, Options: tp.options, Epoch: tp.t.info.Epoch, Holds: tp.t.info.Holds, Rows: tp.co.Rows()})
			kept = append(kept, tp)
		}
	}
	if p.swept != nil && !without(p.swept.s.p.id.Table) {
		b.Tables = append(b.Tables, p.swept.batches(token, attempt)...) // none of them is asked for by Encode
		b.Compression = p.swept.compression()
	}
	for _, m := range p.marks {
		if !without(m.Table) {
			b.Marks = append(b.Marks, m)
		}
	}
	for _, d := range p.dead {
		if !without(d.Table) {
			b.Dead = append(b.Dead, d)
		}
	}
	b.Encode = func(ti, ri int) sink.DeadLetter {
		tp := kept[ti]
		from := tp.co.Origin(ri)
		c := changeOf(tp.schema, tp.version, tp.co.Rows()[ri], from)
		return letter(c, from.Partition, from.Offset, sink.CodeRowRejected, "")
	}
	return b
}

// changeOf is the one change that does what a merged row does.
func changeOf(s *change.Schema, v change.Version, r sink.Row, from apply.Origin) *change.Change {
	return &change.Change{Table: s.Table, Schema: v, Op: r.Op, Pos: r.Pos, XID: from.XID, CommitTime: r.Commit.In(time.UTC), Key: r.Key, New: r.New, Old: r.Old}
}

// letter is the dead letter of a change.
func letter(c *change.Change, partition int, offset int64, code fault.Code, reason string) sink.DeadLetter {
	return sink.DeadLetter{
		Partition: sink.Partition{Table: c.Table, N: partition}, Offset: offset,
		Key: c.Key, Pos: c.Pos, Code: code, Reason: reason, Payload: change.Encode(nil, c),
	}
}

// Reasons of changes that wait.
const (
	behind      = "an earlier change of the same key was set aside"
	quarantined = "its key is being repaired"
)

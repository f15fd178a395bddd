package deliver

import (
	"slices"
	"time"

	oteltrace "go.opentelemetry.io/otel/trace"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/trace"
)

// stamp notes when changes that are traced were read.
func stamp(recs []Record) {
	var now int64
	for i := range recs {
		if recs[i].Change.Trace != "" {
			if now == 0 {
				now = time.Now().UnixNano()
			}
			recs[i].read = now
		}
	}
}

// sampled is the beginning of an apply span.
func (l *lane) sampled(p *partition, rec *Record) (trace.Applied, bool) {
	c := rec.Change
	sc, ok := l.o.Trace.Told(c.Trace)
	if !ok {
		return trace.Applied{}, false
	}
	return trace.Applied{Capture: sc, Position: c.Pos, Partition: p.id.N, Offset: rec.Offset, Read: time.Unix(0, rec.read), Changes: 1}, true
}

// maxTraced bounds the sampled transactions that one batch makes spans of.
const maxTraced = 1024

// traces are the parts of sampled transactions in one batch.
type traces struct {
	traced   []trace.Applied
	tracedAt map[tracedKey]int
}

type tracedKey struct {
	capture oteltrace.SpanID
	tier    string
}

// traceRecord adds a change to its transaction's part of a batch.
func (l *lane) traceRecord(to *traces, p *partition, rec *Record, tier string) {
	a, ok := l.sampled(p, rec)
	if !ok {
		return
	}
	key := tracedKey{a.Capture.SpanID(), tier}
	i, known := to.tracedAt[key]
	if !known {
		if i = len(to.traced); i == maxTraced {
			return
		}
		if to.tracedAt == nil {
			to.tracedAt = map[tracedKey]int{}
		}
		to.tracedAt[key] = i
		a.Changes, a.Tier = 0, tier
		to.traced = append(to.traced, a)
	}
	t := &to.traced[i]
	t.Changes++
	if a.Read.Before(t.Read) {
		t.Read = a.Read
	}
	if name := rec.Change.Table.String(); len(t.Tables) < trace.MaxTables && !slices.Contains(t.Tables, name) {
		t.Tables = append(t.Tables, name)
	}
}

// traceTruncate makes the spans of a TRUNCATE, which is no part of a batch.
func (l *lane) traceTruncate(p *partition, rec *Record, began time.Time) {
	if a, ok := l.sampled(p, rec); ok {
		a.Tables = []string{rec.Change.Table.String()}
		l.o.Trace.Applied(trace.Batch{Began: began, Ended: time.Now(), Changes: 1}, []trace.Applied{a})
	}
}

// traceCommitted makes the spans of a batch that is in the sink.
func (l *lane) traceCommitted(r *result) {
	p := r.plan
	if len(p.traced) > 0 {
		out := map[string]bool{}
		for _, tp := range p.tables {
			if id := tp.t.info.ID; r.out(id) {
				out[id.String()] = true
			}
		}
		kept := p.traced
		if len(out) > 0 { // what was not applied has no span that says it was
			kept = slices.DeleteFunc(slices.Clone(kept), func(t trace.Applied) bool {
				return !slices.ContainsFunc(t.Tables, func(n string) bool { return !out[n] })
			})
		}
		l.o.Trace.Applied(trace.Batch{Began: r.began, Ended: r.at, Changes: p.changes, Rows: r.rows, Bytes: int(r.applied.Bytes)}, kept)
	}
	n := 0
	for _, dead := range [][]sink.DeadLetter{r.applied.Dead, p.dead} { // causes before consequences
		for _, d := range dead {
			if r.out(d.Table) || n == trace.MaxLetters {
				continue
			}
			n++
			l.o.Trace.DeadLetter(p.context(l.o.Trace, d.Pos), d.Code, d.Pos, d.Table, d.N, d.Offset)
		}
	}
}

// traceFailed makes error spans of a batch that was not taken, in whole or in part.
func (l *lane) traceFailed(r *result) {
	if r.err != nil {
		l.traceBatch(r.plan, r.began, r.err)
	}
	for _, err := range r.faulty {
		l.traceBatch(r.plan, r.began, err)
	}
}

// traceBatch makes the error span of an attempt at a batch. The plan is the committer's.
func (l *lane) traceBatch(p *plan, began time.Time, err error) {
	rows := 0
	for _, tp := range p.tables {
		rows += len(tp.co.Rows())
	}
	l.o.Trace.BatchFailed(trace.Batch{Began: began, Ended: time.Now(), Changes: p.changes, Rows: rows, Bytes: p.bytes}, err, p.contexts(l.o.Trace))
}

// context is the span context of the transaction at a position: what its changes
// carried, or else what is derived.
func (p *plan) context(t *trace.Pipeline, pos change.Position) oteltrace.SpanContext {
	for i := range p.traced {
		if q := &p.traced[i].Position; q.Commit == pos.Commit && q.Epoch == pos.Epoch {
			return p.traced[i].Capture
		}
	}
	return t.Derived(pos)
}

// contexts are those of the batch's transactions, as many as fit into links.
func (p *plan) contexts(t *trace.Pipeline) []oteltrace.SpanContext {
	var out []oteltrace.SpanContext
	seen := map[change.Position]bool{}
	for _, tp := range p.tables {
		for _, row := range tp.co.Rows() {
			at := change.Position{Epoch: row.Pos.Epoch, Commit: row.Pos.Commit}
			if seen[at] {
				continue
			}
			if len(out) == trace.MaxLinks {
				return out
			}
			seen[at] = true
			out = append(out, p.context(t, at))
		}
	}
	return out
}

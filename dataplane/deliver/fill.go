package deliver

import (
	"context"
	"time"

	"syncline/dataplane/apply"
	"syncline/dataplane/capture"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// outcome of taking a record into the open batch.
type outcome uint8

const (
	taken  outcome = iota // on to the partition's next record
	later                 // the partition waits; others go on
	cut                   // the open batch must be committed before this record
	closed                // the partition's table was closed
)

// fill moves records from the buffer into the open batch, at most one read per
// partition, and reports whether there may be more to take at once.
func (l *lane) fill(ctx context.Context) (more bool, err error) {
	if l.open.sealed {
		return false, nil
	}
	if l.drain != nil {
		if l.busy != nil || !l.open.empty() {
			return false, nil
		}
		// Its turn comes before others fill the batch again.
		p := l.drain
		l.drain = nil
		if _, err := l.take(ctx, p); err != nil {
			return false, err
		}
	}
	if l.o.Transactional {
		return l.fillTransactions(ctx)
	}
	n := len(l.parts)
	for range n {
		if l.open.sealed || l.open.full(&l.o) || len(l.parts) == 0 {
			return false, nil
		}
		l.next = (l.next + 1) % len(l.parts)
		p := l.parts[l.next]
		took, err := l.take(ctx, p)
		if err != nil {
			return false, err
		}
		more = more || took
	}
	return more, nil
}

// take takes what it can of a partition's oldest read.
func (l *lane) take(ctx context.Context, p *partition) (took bool, err error) {
	if p.closed || time.Now().Before(p.retryAt) || p.paused() {
		return false, nil
	}
	recs := p.q.head()
	n := 0
	defer func() { p.q.advance(n) }()
	for n < len(recs) && !l.open.full(&l.o) {
		out, err := l.add(ctx, p, recs[n:])
		if err != nil {
			return false, err
		}
		switch out {
		case taken:
			n++
			continue
		case cut:
			if l.open.empty() {
				return n > 0, nil
			}
			l.open.sealed = true
		}
		return n > 0, nil
	}
	return n > 0, nil
}

// add takes the first of recs, the partition's next records.
func (l *lane) add(ctx context.Context, p *partition, recs []Record) (outcome, error) {
	rec, t := &recs[0], p.t
	c := rec.Change
	if rec.Withheld {
		l.taken, l.takenBytes = l.taken+1, l.takenBytes+int64(rec.Bytes)
		if p.mark.Pos.Before(c.Pos) {
			l.open.commit = change.Position{Epoch: c.Pos.Epoch, Commit: c.Pos.Commit}
		}
		l.move(p, rec)
		return taken, nil
	}
	load := p.load()
	v := apply.Decide(c, p.mark.Pos, load, t.parked, t.held)
	if v == apply.Ambiguous {
		n, err := l.placed(ctx, p, recs, load)
		if err != nil {
			return l.setback(ctx, p, "place keys", err)
		}
		var ok bool
		if v, ok = apply.DecidePlaced(c, load, n, t.parked, t.held); !ok {
			return l.setback(ctx, p, "place keys", fault.Permanent(CodeUnplaced, nil, "resync the table", "table %s: chunk %d of a key is not in its plan", t.info.ID, n))
		}
	}
	plan := l.open
	var tp *tablePlan
	var err error
	if p.w.class != nil && (v == apply.Write || v == apply.Park) {
		if out, passes, err := l.await(ctx, p, rec); !passes {
			return out, err
		}
	}
	switch v {
	case apply.Barrier:
		return l.barrier(ctx, p, rec)
	case apply.Write:
		var out outcome
		if tp, out, err = l.ready(ctx, p, c); tp == nil {
			return out, err
		}
		if !tp.co.Add(c, apply.Origin{Partition: p.id.N, Offset: rec.Offset, XID: c.XID}) {
			return cut, nil
		}
		tp.count(c)
	case apply.Park:
		tp = plan.of(t)
		code, why, _ := t.aside(c.Key)
		plan.dead = append(plan.dead, letter(c, p.id.N, rec.Offset, code, why))
	case apply.Duplicate:
		tp = plan.of(t)
		tp.duplicates++
	case apply.Contained:
		tp = plan.of(t)
		tp.contained++
	}
	tp.used.Read += int64(rec.Bytes)
	plan.changes++
	plan.bytes += rec.Bytes
	l.taken, l.takenBytes = l.taken+1, l.takenBytes+int64(rec.Bytes)
	if v != apply.Duplicate {
		plan.commit = change.Position{Epoch: c.Pos.Epoch, Commit: c.Pos.Commit}
		if c.Trace != "" {
			l.traceRecord(&l.open.traces, p, rec, "")
		}
	}
	if p.w.sweep != nil && (v == apply.Write || v == apply.Park) {
		if _, noted := p.w.noted[c.Key]; !noted {
			p.w.noted[c.Key] = l.streams + 1
		}
	}
	l.move(p, rec)
	plan.eager = true
	return taken, nil
}

// aside tells why changes of a key are set aside, if they are.
func (t *table) aside(k change.Key) (code fault.Code, why string, aside bool) {
	if _, held := t.held[k]; held {
		return sink.CodeQuarantined, quarantined, k != ""
	}
	_, parked := t.parked[k]
	return sink.CodeParkedBehind, behind, parked && k != ""
}

// move advances a partition's planned watermark over a record.
func (l *lane) move(p *partition, rec *Record) {
	pass(&p.mark, rec)
	p.failing = time.Time{}
	l.open.moves(p)
}

// ready returns the part of the open batch that a change goes to, once the sink
// can hold its schema; nil if the change has to wait.
func (l *lane) ready(ctx context.Context, p *partition, c *change.Change) (*tablePlan, outcome, error) {
	t := p.t
	tp := l.open.byTable[t.info.ID]
	if tp != nil && tp.schema != nil && tp.version == c.Schema {
		return tp, taken, nil
	}
	s, out, err := l.known(ctx, p, c)
	if s == nil {
		return nil, out, err
	}
	// One schema per table and batch: a definition may come back, and then rows of
	// the same key would be written in the wrong order.
	if tp != nil && tp.schema != nil {
		return nil, cut, nil
	}
	tp = l.open.of(t)
	tp.schema, tp.version = s, c.Schema
	tp.co.Reset(appends(&t.info.Options, s))
	return tp, taken, nil
}

// known returns a change's definition once the sink can hold it; nil if the change has
// to wait.
func (l *lane) known(ctx context.Context, p *partition, c *change.Change) (*change.Schema, outcome, error) {
	if s := p.t.versions[c.Schema]; s != nil {
		return s, taken, nil
	}
	if out, err := l.carried(ctx, p, c.Schema); out != taken || err != nil {
		return nil, out, err
	}
	if l.busy != nil || !l.open.empty() {
		l.drain = p
		return nil, cut, nil
	}
	if out, err := l.evolve(ctx, p, c.Schema, c.Pos); out != taken || err != nil {
		return nil, out, err
	}
	return p.t.versions[c.Schema], taken, nil
}

// evolve makes the sink able to hold rows of a schema version, met at a position.
func (l *lane) evolve(ctx context.Context, p *partition, v change.Version, at change.Position) (outcome, error) {
	t := p.t
	s, err := l.log.Schema(ctx, v)
	if err == nil && (t.info.Schema == nil || v != t.info.Schema.Version()) {
		err = l.ses.evolve(ctx, t.info, s, at)
	}
	if err != nil {
		return l.setback(ctx, p, "evolve", err)
	}
	t.versions[v] = s
	if t.info.Schema == nil || s.Holds(t.info.Schema) { // else an older one, of a slower partition
		t.info.Schema = s
	}
	return taken, nil
}

// barrier brings a partition to a TRUNCATE, once all before it is committed.
func (l *lane) barrier(ctx context.Context, p *partition, rec *Record) (outcome, error) {
	if p.dirty || p.last > l.done {
		l.open.eager = l.open.eager || p.dirty
		return later, nil
	}
	// What waits is emptied with the table, but other partitions may be late: until they
	// come the watermark, which goes no further than here, has to be true.
	if p.w.waits() {
		l.force(p)
		return later, nil
	}
	p.waiting = true // even if the call fails: it may have been taken in
	mark := sink.Watermark{Partition: p.id, Pos: rec.Change.Pos, Offset: rec.Next}
	began := time.Now()
	done, err := l.ses.truncate(ctx, mark, p.t.info.Partitions)
	if err != nil {
		return l.setback(ctx, p, "truncate", err)
	}
	if !done {
		p.retryAt = time.Now().Add(l.o.tick)
		return later, nil
	}
	l.settled(p.committed, mark)
	p.mark, p.committed, p.waiting, p.past, p.failing = mark, mark, false, true, time.Time{}
	if rec.Change.Trace != "" {
		l.traceTruncate(p, rec, began)
	}
	l.counts.Changes++
	if l.obs.Applied != nil {
		l.obs.Applied(p.id.Table, change.Truncate, 1)
	}
	return taken, nil
}

// maxPlaced bounds the chunk numbers of keys that are remembered.
const maxPlaced = 100_000

// placed returns the chunk that holds the row of the first record. It asks for
// the other ambiguous rows of the read at the same time.
func (l *lane) placed(ctx context.Context, p *partition, recs []Record, load *apply.Load) (int, error) {
	t := p.t
	c := recs[0].Change
	if n, ok := t.placed[c.Key]; ok {
		return n, nil
	}
	s := t.versions[c.Schema]
	if s == nil {
		var err error
		if s, err = l.log.Schema(ctx, c.Schema); err != nil {
			return 0, err
		}
	}
	first, ok := rowKey(s, load, c)
	if !ok || l.src == nil {
		return 0, fault.Permanent(CodeUnplaced, nil, "resync the table", "table %s: its chunks saw different states and its rows have no key to tell them by", t.info.ID)
	}
	if n, ok := t.placed[first]; ok {
		return n, nil
	}
	var keys []change.Key
	asked := map[change.Key]bool{}
	mark := p.mark.Pos
	for i := range recs {
		r := recs[i].Change
		if r.Op == change.Truncate || r.Schema != c.Schema {
			break
		}
		if recs[i].Withheld {
			continue
		}
		if apply.Decide(r, mark, load) != apply.Ambiguous {
			continue
		}
		k, ok := rowKey(s, load, r)
		if _, known := t.placed[k]; ok && !known && !asked[k] {
			asked[k] = true
			keys = append(keys, k)
		}
	}
	ns, err := l.src.Place(ctx, s, load.Chunks(), keys)
	if err != nil {
		return 0, err
	}
	if t.placed == nil || len(t.placed) > maxPlaced {
		t.placed = map[change.Key]int{}
	}
	for i, k := range keys {
		t.placed[k] = ns[i]
	}
	return t.placed[first], nil
}

// rowKey returns the key that the load's chunks are ranges of. A change of an
// append-only table carries none, but its row, which is whole, may hold one.
func rowKey(s *change.Schema, load *apply.Load, c *change.Change) (change.Key, bool) {
	if c.Key != "" {
		return c.Key, true
	}
	ranges, ok := load.Chunks()[0].Ranges(s)
	if !ok || c.New == nil {
		return "", false
	}
	k, err := change.MakeKey(ranges, c.New)
	return k, err == nil && k != ""
}

// fillTransactions merges the partitions by position, as far as a progress
// record says that the log is complete.
func (l *lane) fillTransactions(ctx context.Context) (bool, error) {
	pr, ok := l.log.Progress()
	if !ok {
		return false, nil
	}
	through := change.Position{Epoch: pr.Epoch, Commit: pr.Through}
	for took := false; ; took = true {
		var first *partition
		var at change.Position
		for _, p := range l.parts {
			recs := p.q.head()
			for len(recs) > 0 && !p.mark.Pos.Before(recs[0].Change.Pos) { // resent: not part of any transaction
				if _, err := l.add(ctx, p, recs[:1]); err != nil {
					return false, err
				}
				p.q.advance(1)
				recs = p.q.head()
			}
			if len(recs) == 0 {
				if next, known := offsetOf(pr, p.id); known && p.mark.Offset < next && next > 0 {
					return took, nil // what comes next may be in records that are not read yet
				}
				continue
			}
			if pos := recs[0].Change.Pos; pos.Before(through) && (first == nil || pos.Before(at)) {
				first, at = p, pos
			}
		}
		commit := change.Position{Epoch: at.Epoch, Commit: at.Commit}
		l.open.whole = first == nil || l.open.commit != commit
		if first == nil || l.open.whole && l.open.full(&l.o) || time.Now().Before(first.retryAt) {
			return took && first != nil && !l.open.full(&l.o), nil
		}
		out, err := l.add(ctx, first, first.q.head()[:1])
		if err != nil {
			return false, err
		}
		if out != taken {
			if out == cut && !l.open.empty() {
				l.open.sealed = true
			}
			if recs := first.q.head(); out == later && len(recs) > 0 && recs[0].Change.Op == change.Truncate {
				l.open.whole = true // what is before a TRUNCATE has to be committed first
			}
			return false, nil
		}
		first.q.advance(1)
		l.open.whole = false
	}
}

func offsetOf(pr capture.Progress, p sink.Partition) (next int64, known bool) {
	offs := pr.Offsets[p.Table.String()]
	if p.N >= len(offs) {
		return 0, false
	}
	return offs[p.N], true
}

// markIdle moves the watermarks of partitions that hold nothing up to a progress record.
func (l *lane) markIdle(pr capture.Progress) {
	if pr.Through == 0 {
		return
	}
	pos := change.Position{Epoch: pr.Epoch, Commit: pr.Through - 1, Ordinal: ^uint32(0)}
	names := map[change.TableID][]int64{}
	for _, p := range l.parts {
		offs, ok := names[p.id.Table]
		if !ok {
			offs = pr.Offsets[p.id.Table.String()]
			names[p.id.Table] = offs
		}
		// Offset -1 is "from the first": an empty partition's next offset is 0.
		// At a barrier, the last partition to come may move this one: leave it alone.
		if p.waiting || p.id.N >= len(offs) || max(p.mark.Offset, 0) < offs[p.id.N] || !p.mark.Pos.Before(pos) {
			continue
		}
		p.mark.Pos = pos
		l.open.moves(p)
		l.open.eager = true
	}
}

package clickhouse

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// A snapshot's rows stand at Position{Epoch, Base, chunk<<attemptBits | attempt}:
// every attempt at a chunk has versions of its own, so that what a failed one
// left behind can be told from what counts, and a later one always wins.
const (
	attemptBits = 12
	maxAttempt  = 1<<attemptBits - 1
	maxChunks   = 1 << (32 - attemptBits)
)

func (d *definition) loadPosition(chunk, attempt int) change.Position {
	return change.Position{Epoch: d.Epoch, Commit: d.Base, Ordinal: uint32(chunk)<<attemptBits | uint32(attempt)}
}

type planKey struct {
	tab   string
	epoch uint32
}

// plan is the cut of a table that counts.
type plan struct {
	id       string
	chunks   []sink.Chunk
	attempts []int // of the attempt that is accepted, per chunk; 0: none
	frozen   bool
}

// frozenVer is above every attempt.
const frozenVer = 1 << 32

// everyChunk is instead of a chunk's number.
const everyChunk = -1

// plans reads the plans of tables, or one chunk of each; without bounds, which are
// the bulk of it, unless asked for. A JOIN of the two would take the server longer.
func (s *Sink) plans(ctx context.Context, tabs []string, only int, bounds bool) (map[planKey]*plan, error) {
	names := make([]string, len(tabs))
	for i, t := range tabs {
		names[i] = lit(t)
	}
	where := s.mine() + " AND tab IN (" + strings.Join(names, ", ") + ")"
	if only != everyChunk {
		where += fmt.Sprintf(" AND n = %d", only)
	}
	body := "''"
	if bounds {
		body = "body"
	}
	damaged := func(n uint32, tab string) error {
		return fmt.Errorf("the ledger's record of chunk %d of table %s is damaged", n, tab)
	}
	out := map[planKey]*plan{}
	// Of several plans of a load the one counts that the server took first.
	q := fmt.Sprintf("SELECT tab, epoch, plan, n, %s FROM %s WHERE %s ORDER BY tab, epoch, at, plan, n", body, s.ledger("chunks"), where)
	err := s.conn.query(ctx, "SELECT the chunks", q, func(scan func(...any) error) error {
		var k planKey
		var id, cut string
		var n uint32
		if err := scan(&k.tab, &k.epoch, &id, &n, &cut); err != nil {
			return err
		}
		p := out[k]
		if p == nil {
			p = &plan{id: id}
			out[k] = p
		}
		if p.id != id {
			return nil
		}
		c := sink.Chunk{N: int(n)}
		if cut != "" && json.Unmarshal([]byte(cut), &c) != nil {
			return damaged(n, k.tab)
		}
		p.chunks, p.attempts = append(p.chunks, c), append(p.attempts, 0)
		return nil
	})
	if err != nil || len(out) == 0 {
		return out, err
	}
	q = fmt.Sprintf("SELECT tab, epoch, plan, n, body, attempt, ver FROM %s FINAL WHERE %s", s.ledger("loaded"), where)
	err = s.conn.query(ctx, "SELECT the loaded chunks", q, func(scan func(...any) error) error {
		var k planKey
		var id, done string
		var n, attempt uint32
		var ver uint64
		if err := scan(&k.tab, &k.epoch, &id, &n, &done, &attempt, &ver); err != nil {
			return err
		}
		p := out[k]
		if p == nil || p.id != id {
			return nil
		}
		i, ok := slices.BinarySearchFunc(p.chunks, int(n), func(c sink.Chunk, n int) int { return cmp.Compare(c.N, n) })
		if !ok || json.Unmarshal([]byte(done), &p.chunks[i]) != nil {
			return damaged(n, k.tab)
		}
		p.attempts[i] = int(attempt)
		p.frozen = ver >= frozenVer
		return nil
	})
	return out, err
}

// plan is the whole plan of a table.
func (s *Sink) plan(ctx context.Context, r *record) (*plan, error) {
	return s.planOf(ctx, r, everyChunk)
}

// planOf is a plan of which one chunk, or every chunk, is read.
func (s *Sink) planOf(ctx context.Context, r *record, only int) (*plan, error) {
	ps, err := s.plans(ctx, []string{r.id.String()}, only, true)
	if err != nil {
		return nil, err
	}
	if p := ps[planKey{r.id.String(), r.def.Epoch}]; p != nil {
		return p, nil
	}
	return &plan{}, nil
}

// done is the part of a chunk that is recorded when it is loaded.
type done struct {
	Done     bool            `json:"done"`
	Snapshot change.Snapshot `json:"snapshot"`
	LSN      change.LSN      `json:"lsn"`
	Rows     int64           `json:"rows"`
	Bytes    int64           `json:"bytes"`
}

// PlanChunks records the cut of a table, unless one is recorded.
func (s *Sink) PlanChunks(ctx context.Context, id change.TableID, cut []sink.Chunk) ([]sink.Chunk, error) {
	r, err := s.record(ctx, id)
	if err != nil {
		return nil, err
	}
	p, err := s.plan(ctx, r)
	if err != nil {
		return nil, err
	}
	if len(p.chunks) > 0 || len(cut) == 0 {
		return p.chunks, nil
	}
	if len(cut) > maxChunks {
		return nil, fault.Permanent(CodeConfig, nil, "cut it into larger chunks", "table %s is cut into %d chunks; the ledger takes %d", id, len(cut), maxChunks)
	}
	n, tab, plan := len(cut), id.String(), rand.Text()
	var ns, epochs, totals []uint64
	var bodies []string
	for i, c := range cut {
		c.N, c.Done = i, false
		b, err := json.Marshal(c)
		if err != nil {
			return nil, fmt.Errorf("encode chunk %d of table %s: %w", i, id, err)
		}
		ns, epochs, totals, bodies = append(ns, uint64(i)), append(epochs, uint64(r.def.Epoch)), append(totals, uint64(n)), append(bodies, string(b))
	}
	_, err = s.insert(ctx, s.ledger("chunks"), n, []part{same("pipeline", s.pipeline, n), same("tab", tab, n), numbers("epoch", 4, epochs...),
		same("plan", plan, n), numbers("n", 4, ns...), numbers("total", 4, totals...), strs("body", bodies...)})
	if err != nil {
		return nil, err
	}
	if p, err = s.plan(ctx, r); err != nil {
		return nil, err
	}
	return p.chunks, nil // of another planner, if it was first
}

// Chunk returns one chunk of the plan.
func (s *Sink) Chunk(ctx context.Context, id change.TableID, n int) (sink.Chunk, *change.Schema, error) {
	r, err := s.record(ctx, id)
	if err != nil {
		return sink.Chunk{}, nil, err
	}
	p, err := s.planOf(ctx, r, n)
	if err != nil {
		return sink.Chunk{}, nil, err
	}
	c, err := p.only(id, n)
	return c, r.schema, err
}

// only is the chunk of a plan of which one was read.
func (p *plan) only(id change.TableID, n int) (sink.Chunk, error) {
	if len(p.chunks) != 1 {
		return sink.Chunk{}, fault.Permanent(CodeConfig, nil, "plan its chunks first", "the plan of table %s has no chunk %d", id, n)
	}
	return p.chunks[0], nil
}

// beginAttempt records an attempt at a chunk under a number that no other has.
func (s *Sink) beginAttempt(ctx context.Context, r *record, n int) (int, error) {
	tab := r.id.String()
	for {
		var last uint32
		where := fmt.Sprintf("%s AND epoch = %d AND n = %d", s.where(tab), r.def.Epoch, n)
		q := fmt.Sprintf("SELECT max(attempt) FROM %s WHERE %s", s.ledger("attempts"), where)
		if err := s.conn.query(ctx, "SELECT the attempts at a chunk of "+tab, q, func(scan func(...any) error) error { return scan(&last) }); err != nil {
			return 0, err
		}
		a := int(last) + 1
		if a > maxAttempt {
			return 0, fault.Permanent(CodeConfig, nil, "find out why they failed and resync the table", "chunk %d of table %s was tried %d times", n, tab, last)
		}
		_, err := s.insert(ctx, s.ledger("attempts"), 1, []part{strs("pipeline", s.pipeline), strs("tab", tab), numbers("epoch", 4, uint64(r.def.Epoch)),
			numbers("n", 4, uint64(n)), numbers("attempt", 4, uint64(a)), strs("nonce", rand.Text())})
		if err != nil {
			return 0, err
		}
		// Whoever sees another under its number takes the next: at most one keeps it.
		var holders uint64
		q = fmt.Sprintf("SELECT count() FROM %s WHERE %s AND attempt = %d", s.ledger("attempts"), where, a)
		if err := s.conn.query(ctx, "SELECT the attempts at a chunk of "+tab, q, func(scan func(...any) error) error { return scan(&holders) }); err != nil {
			return 0, err
		}
		if holders == 1 {
			return a, nil
		}
	}
}

// FinishLoad freezes the chunks, removes what failed attempts left, and sets the
// table to streaming.
func (s *Sink) FinishLoad(ctx context.Context, id change.TableID) error {
	r, err := s.record(ctx, id)
	if err != nil || r.state.State == sink.Streaming || r.state.State == sink.Gated {
		return err
	}
	if r.state.State != sink.Loading {
		return fault.Permanent(CodeConfig, nil, "add the table again", "table %s is %s, not loading", id, r.state.State)
	}
	p, err := s.plan(ctx, r)
	if err != nil {
		return err
	}
	for _, c := range p.chunks {
		if !c.Done {
			return fault.Permanent(CodeConfig, nil, "load it first", "chunk %d of %d of table %s is not loaded", c.N, len(p.chunks), id)
		}
	}
	if err := s.freeze(ctx, r, p); err != nil {
		return err
	}
	if p, err = s.plan(ctx, r); err != nil {
		return err
	}
	l, err := s.prepareTable(ctx, r.schema, r.def.Options, true)
	if err != nil {
		return err
	}
	strays, err := s.strays(ctx, r, p)
	if err != nil {
		return err
	}
	if err := s.deleteLoaded(ctx, l, id.String(), strays...); err != nil {
		return err
	}
	if floor, err := s.floor(ctx, id.String()); err != nil {
		return err
	} else if !floor.IsZero() {
		if err := s.deleteRows(ctx, l.at, colVersion+" < "+versionLit(floor)); err != nil {
			return err
		}
	}
	if err := s.refreshView(ctx, l, id.String()); err != nil {
		return err
	}
	if err := s.beginWatermarks(ctx, r); err != nil {
		return err
	}
	return s.setAspect(ctx, id.String(), aspectState, state{State: sink.Streaming})
}

// freeze writes the accepted attempts once more, above all others: from here on
// no late attempt changes what a chunk's snapshot is taken to be.
func (s *Sink) freeze(ctx context.Context, r *record, p *plan) error {
	n := len(p.chunks)
	if n == 0 || p.frozen {
		return nil
	}
	var ns, epochs, attempts, vers []uint64
	var bodies []string
	for i, c := range p.chunks {
		b, err := json.Marshal(done{true, c.Snapshot, c.LSN, c.Rows, c.Bytes})
		if err != nil {
			return fmt.Errorf("encode chunk %d of table %s: %w", i, r.id, err)
		}
		ns, epochs, attempts = append(ns, uint64(i)), append(epochs, uint64(r.def.Epoch)), append(attempts, uint64(p.attempts[i]))
		vers, bodies = append(vers, frozenVer), append(bodies, string(b))
	}
	_, err := s.insert(ctx, s.ledger("loaded"), n, []part{same("pipeline", s.pipeline, n), same("tab", r.id.String(), n), numbers("epoch", 4, epochs...),
		same("plan", p.id, n), numbers("n", 4, ns...), numbers("attempt", 4, attempts...), numbers("ver", 8, vers...), strs("body", bodies...)})
	return err
}

// strays are the places of attempts that were not accepted, once it is settled which were.
func (s *Sink) strays(ctx context.Context, r *record, p *plan) (out []string, err error) {
	if !p.frozen {
		return nil, nil
	}
	q := fmt.Sprintf("SELECT DISTINCT n, attempt FROM %s WHERE %s AND epoch = %d ORDER BY n, attempt", s.ledger("attempts"), s.where(r.id.String()), r.def.Epoch)
	err = s.conn.query(ctx, "SELECT the attempts at chunks of "+r.id.String(), q, func(scan func(...any) error) error {
		var n, a uint32
		if err := scan(&n, &a); err != nil {
			return err
		}
		if int(n) >= len(p.attempts) || p.attempts[n] != int(a) {
			out = append(out, versionLit(r.def.loadPosition(int(n), int(a))))
		}
		return nil
	})
	return out, err
}

// deleteLoaded deletes what attempts at chunks have brought, with their aggregates. Without
// any, which is the rule, it changes nothing.
func (s *Sink) deleteLoaded(ctx context.Context, l *layout, tab string, places ...string) error {
	if len(places) == 0 {
		return nil
	}
	where := colVersion + " IN (" + strings.Join(places, ", ") + ")"
	if err := s.deleteRows(ctx, l.at, where); err != nil {
		return err
	}
	ps, err := s.partialsOf(ctx, tab)
	for _, p := range ps {
		if err := s.deleteRows(ctx, p.at, where); err != nil {
			return err
		}
	}
	return err
}

// BeginLog records from where the table's delivery begins.
func (s *Sink) BeginLog(ctx context.Context, id change.TableID, log []sink.LogRange, again bool) error {
	all, err := s.Watermarks(ctx)
	if err != nil {
		return err
	}
	have := make(map[int]sink.Watermark, len(log))
	for _, w := range all {
		if w.Table == id {
			have[w.N] = w
		}
	}
	var ns []uint64
	var offsets []int64
	var vers []change.Position
	var move []sink.Watermark
	for n, r := range log {
		w, ok := have[n]
		switch {
		case !ok:
			// Below any that a session writes, and above those that FinishLoad does.
			ns, offsets, vers = append(ns, uint64(n)), append(offsets, r.From), append(vers, change.Position{Commit: change.LSN(r.From+1) >> 32, Ordinal: uint32(r.From + 1)})
		case again && (w.Offset < r.From || w.Streamed().Offset > r.End):
			w.Offset, w.Ahead = r.From, sink.Ahead{}
			move = append(move, w)
		}
	}
	if n := len(ns); n > 0 {
		if _, err := s.insert(ctx, s.ledger("watermarks"), n, []part{same("pipeline", s.pipeline, n), same("tab", id.String(), n), numbers("part", 4, ns...),
			same("pos", change.Position{}.String(), n), signed("offset", offsets...), signed("token", make([]int64, n)...), versions("ver", vers...)}); err != nil {
			return err
		}
	}
	if len(move) == 0 {
		return nil
	}
	r, err := s.record(ctx, id)
	if err != nil {
		return err
	}
	p, err := s.plan(ctx, r)
	if err != nil || r.state.State != sink.Loading || len(p.chunks) > 0 { // chunks may have been read in an older snapshot
		return err
	}
	// A token above all others', whichever way the offset goes. It fences off every
	// session, since none has so many lanes. They claim theirs again at once, and need
	// not wait for this: none delivers, or writes marks of, a table that is loading.
	x, err := s.Claim(ctx, 0, noLanes)
	if err != nil {
		return err
	}
	defer func() { _ = x.Close() }()
	_, err = x.(*session).put(ctx, move, "1")
	return err
}

// noLanes is a number of lanes that no pipeline has.
const noLanes = 1 << 30

// beginWatermarks gives partitions without a watermark one at offset -1. Version
// 0 loses to any that a session writes.
func (s *Sink) beginWatermarks(ctx context.Context, r *record) error {
	n := r.def.Partitions
	if n == 0 {
		return nil
	}
	var ns []uint64
	offsets, tokens, zero := make([]int64, n), make([]int64, n), make([]change.Position, n)
	for i := range n {
		ns, offsets[i] = append(ns, uint64(i)), -1
	}
	_, err := s.insert(ctx, s.ledger("watermarks"), n, []part{same("pipeline", s.pipeline, n), same("tab", r.id.String(), n), numbers("part", 4, ns...),
		same("pos", change.Position{}.String(), n), signed("offset", offsets...), signed("token", tokens...), versions("ver", zero...)})
	return err
}

package deliver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"syncline/dataplane/capture"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/tiers/aggregate"
)

// memLog is a log in memory. chance makes one of so many calls fail.
type memLog struct {
	mu       sync.Mutex
	schemas  map[change.Version]*change.Schema
	parts    map[sink.Partition][]*change.Change
	prog     capture.Progress
	hasProg  bool
	grown    chan struct{}
	chance   int
	gone     map[sink.Partition]bool
	withheld map[*change.Change]bool
	slow     time.Duration // that a read of what was there already takes at most
}

func newMemLog() *memLog {
	return &memLog{schemas: map[change.Version]*change.Schema{}, parts: map[sink.Partition][]*change.Change{}, grown: make(chan struct{}), gone: map[sink.Partition]bool{}}
}

func (m *memLog) wake() {
	close(m.grown)
	m.grown = make(chan struct{})
}

func (m *memLog) append(p sink.Partition, cs ...*change.Change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.parts[p] = append(m.parts[p], cs...)
	m.wake()
}

// progress records that everything through lsn was written.
func (m *memLog) progress(epoch uint32, through change.LSN, partitions map[change.TableID]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	pr := capture.Progress{Epoch: epoch, Through: through, Offsets: map[string][]int64{}}
	for id, n := range partitions {
		offs := make([]int64, n)
		for i := range offs {
			offs[i] = int64(len(m.parts[sink.Partition{Table: id, N: i}]))
		}
		pr.Offsets[id.String()] = offs
	}
	m.prog, m.hasProg = pr, true
}

func (m *memLog) fail(what string) error {
	if m.chance > 0 && rand.IntN(m.chance) == 0 {
		return errors.New(what + ": connection reset")
	}
	return nil
}

func (m *memLog) Schema(_ context.Context, v change.Version) (*change.Schema, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.schemas[v]; s != nil {
		return s, m.fail("schema")
	}
	return nil, fault.Permanent("SchemaUnknown", nil, "", "version %s", v)
}

func (m *memLog) Open(_ context.Context, p sink.Partition, offset int64) (Reader, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone[p] {
		return nil, fault.Permanent(CodeOffsetGone, nil, "resync the table", "partition %d of %s at %d", p.N, p.Table, offset)
	}
	at := int(max(offset, 0))
	return &memReader{m: m, p: p, at: at, slow: m.slow > 0 && at < len(m.parts[p])}, m.fail("open")
}

func (m *memLog) Progress() (capture.Progress, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.prog, m.hasProg
}

func (m *memLog) Close() error { return nil }

type memReader struct {
	m   *memLog
	p   sink.Partition
	at  int
	lag int64

	slow bool
}

func (r *memReader) Read(ctx context.Context, most int) ([]Record, error) {
	if r.slow {
		time.Sleep(time.Duration(rand.Int64N(int64(r.m.slow))))
	}
	for {
		r.m.mu.Lock()
		cs, grown := r.m.parts[r.p], r.m.grown
		err := r.m.fail("read")
		r.m.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if n := min(len(cs)-r.at, most); n > 0 {
			out := make([]Record, n)
			for i := range out {
				out[i] = Record{Change: cs[r.at], Offset: int64(r.at), Next: int64(r.at + 1), Bytes: 100, Withheld: r.m.withheld[cs[r.at]]}
				r.at++
			}
			r.lag = int64(len(cs) - r.at)
			return out, nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (r *memReader) Lag() int64   { return r.lag }
func (r *memReader) Close() error { return nil }

type memTable struct {
	info     sink.Table
	chunks   []sink.Chunk
	rows     map[change.Key]map[string]change.Value // by column name
	appended []change.Position
	sums     []string                // of their column
	kept     map[change.Position]int // rows in aggregates by their only column, a position
	columns  map[string]bool
	arrived  map[int]bool    // partitions at a TRUNCATE
	emptied  change.Position // by a TRUNCATE
}

// memSink is a transactional sink in memory that checks what it is given.
type memSink struct {
	sink.Sink // what delivery does not call

	mu      sync.Mutex
	token   int64
	holders map[int]int64 // by lane
	lanes   int
	tables  map[change.TableID]*memTable
	marks   map[sink.Partition]sink.Watermark
	dead    []sink.DeadLetter
	wrong   []string // broken promises of delivery
	chance  int
	poison  string // rows with this value are set aside
	refuse  map[change.TableID]error
	commits [][]change.Position // positions per commit, kept if record is set
	record  bool
	applied int
	discard bool // forget rows: for the benchmark
	block   chan struct{}
	slow    time.Duration               // that an Apply takes at most
	holds   []sink.Hold                 // of the only table with any
	sent    map[string]int              // rows by compression
	looked  func(change.TableID) string // after each commit: what is wrong with a table; nil: nothing is looked for
}

// Lapsed implements sink.Repairs: no repair has left its keys to others, however slow a test is.
func (m *memSink) Lapsed(context.Context, change.TableID) ([]change.Key, error) { return nil, nil }

func newMemSink() *memSink {
	return &memSink{sent: map[string]int{}, holders: map[int]int64{}, tables: map[change.TableID]*memTable{}, marks: map[sink.Partition]sink.Watermark{}, refuse: map[change.TableID]error{}}
}

func (m *memSink) add(s *change.Schema, partitions int, o sink.TableOptions) *memTable {
	t := &memTable{info: sink.Table{ID: s.Table, State: sink.Streaming, Partitions: partitions, Epoch: 1, Schema: s, Options: o},
		rows: map[change.Key]map[string]change.Value{}, columns: map[string]bool{}, kept: map[change.Position]int{}}
	for _, c := range s.Columns {
		t.columns[c.Name] = true
	}
	m.tables[s.Table] = t
	return t
}

func (m *memSink) setState(id change.TableID, st sink.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tables[id].info.State = st
}

func (m *memSink) mark(p sink.Partition) sink.Watermark {
	if w, ok := m.marks[p]; ok {
		return w
	}
	return sink.Watermark{Partition: p, Offset: -1}
}

func (m *memSink) fail(what string) error {
	if m.chance > 0 && rand.IntN(m.chance) == 0 {
		return errors.New(what + ": connection reset")
	}
	return nil
}

func (m *memSink) Claim(_ context.Context, lane, lanes int) (sink.Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.fail("claim"); err != nil {
		return nil, err
	}
	if m.lanes != lanes {
		m.lanes = lanes
		clear(m.holders)
	}
	m.token++
	m.holders[lane] = m.token
	return &memSession{m: m, lane: lane, token: m.token}, nil
}

type memSession struct {
	m     *memSink
	lane  int
	token int64
	using sync.Mutex // tells concurrent use
}

func (s *memSession) enter() func() {
	if !s.using.TryLock() {
		panic("a session is used by two goroutines at once")
	}
	s.m.mu.Lock()
	return func() { s.m.mu.Unlock(); s.using.Unlock() }
}

func (s *memSession) Token() int64 { return s.token }
func (s *memSession) Close() error { return nil }

func (s *memSession) Tables(context.Context) ([]sink.Table, error) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	var out []sink.Table
	for _, t := range s.m.tables {
		out = append(out, t.info)
	}
	return out, s.m.fail("tables")
}

func (s *memSession) Chunks(_ context.Context, id change.TableID) ([]sink.Chunk, error) {
	defer s.enter()()
	return slices.Clone(s.m.tables[id].chunks), s.m.fail("chunks")
}

func (s *memSession) Watermarks(_ context.Context, ps []sink.Partition) ([]sink.Watermark, error) {
	defer s.enter()()
	var out []sink.Watermark
	for _, p := range ps {
		out = append(out, s.m.mark(p))
	}
	return out, s.m.fail("watermarks")
}

func (s *memSession) Parked(_ context.Context, id change.TableID) ([]change.Key, error) {
	defer s.enter()()
	var out []change.Key
	for _, d := range s.m.dead {
		if d.Table == id && d.Key != "" {
			out = append(out, d.Key)
		}
	}
	return out, s.m.fail("parked")
}

func (s *memSession) check(marks []sink.Watermark) error {
	m := s.m
	if m.holders[s.lane] != s.token {
		return fault.Permanent(sink.CodeFenced, nil, "", "lane %d", s.lane)
	}
	for _, w := range marks {
		if t := m.tables[w.Table]; t == nil || t.info.State != sink.Streaming {
			return fault.Permanent(sink.CodeNotStreaming, nil, "", "table %s", w.Table)
		}
		if err := m.refuse[w.Table]; err != nil {
			return err
		}
		old := m.mark(w.Partition)
		if was, is := old.Streamed(), w.Streamed(); w.Pos.Before(old.Pos) || w.Offset < old.Offset || is.Pos.Before(was.Pos) || is.Offset < was.Offset {
			m.wrong = append(m.wrong, fmt.Sprintf("watermark of %v went from %+v to %+v", w.Partition, old, w))
		}
		for _, b := range old.Backlogs() {
			if is := w.Of(b.Tier); is.Offset < b.Offset || is.Pos.Before(b.Pos) {
				m.wrong = append(m.wrong, fmt.Sprintf("tier %s of %v went from %+v to %+v", b.Tier, w.Partition, b, is))
			}
		}
	}
	return nil
}

func (s *memSession) Apply(ctx context.Context, b *sink.Batch) (sink.Applied, error) {
	s.m.mu.Lock()
	block := s.m.block
	s.m.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return sink.Applied{}, ctx.Err()
		}
	}
	if s.m.slow > 0 {
		time.Sleep(time.Duration(rand.Int64N(int64(s.m.slow))))
	}
	defer s.enter()()
	m := s.m
	var done sink.Applied
	if err := ctx.Err(); err != nil {
		return done, err
	}
	if err := m.fail("apply"); err != nil {
		return done, err
	}
	if err := s.check(b.Marks); err != nil {
		return done, err
	}
	var commit []change.Position
	for ti, tb := range b.Tables {
		m.sent[b.Compression] += len(tb.Rows)
		t := m.tables[tb.Schema.Table]
		if tb.Epoch != t.info.Epoch {
			return done, fault.Permanent(sink.CodeTableMismatch, nil, "", "batch of epoch %d for a load of epoch %d", tb.Epoch, t.info.Epoch)
		}
		if tb.Holds != t.info.Holds && len(tb.Rows) > 0 {
			return done, fault.Permanent(sink.CodeNotStreaming, nil, "", "keys of table %s were held or let go", t.info.ID)
		}
		if tb.Partials != nil {
			m.keep(t, &tb)
			continue
		}
		m.applied += len(tb.Rows)
		done.Tables = append(done.Tables, int64(10*len(tb.Rows)))
		if m.discard {
			continue
		}
		for ri, r := range tb.Rows {
			if m.record {
				commit = append(commit, r.Pos)
			}
			if m.poison != "" && slices.ContainsFunc(r.New, func(v change.Value) bool { return string(v.Data) == m.poison }) {
				d := b.Encode(ti, ri)
				d.Reason = "poison"
				done.Dead = append(done.Dead, d)
				continue
			}
			switch {
			case tb.Options.AppendOnly:
				t.appended = append(t.appended, r.Pos)
			case r.Op == change.Delete:
				delete(t.rows, r.Key)
			default:
				row := t.rows[r.Key]
				if row == nil && slices.ContainsFunc(r.New, isUnchanged) {
					m.wrong = append(m.wrong, fmt.Sprintf("key %s at %s has left-out values and no row", r.Key, r.Pos))
				}
				if row == nil {
					row = map[string]change.Value{}
					t.rows[r.Key] = row
				}
				for i, v := range r.New {
					name := tb.Schema.Columns[i].Name
					if !t.columns[name] {
						m.wrong = append(m.wrong, "column "+name+" before Evolve")
					}
					if v.Kind != change.Unchanged {
						row[name] = v
					}
				}
			}
		}
	}
	m.commits = append(m.commits, commit)
	for _, d := range b.Settled {
		m.dead = slices.DeleteFunc(m.dead, func(o sink.DeadLetter) bool { return o.Partition == d.Partition && o.Pos == d.Pos })
	}
	for _, r := range b.Released {
		m.holds = slices.DeleteFunc(m.holds, func(h sink.Hold) bool { return h.Key == r.Key })
	}
	m.dead = append(append(m.dead, b.Dead...), done.Dead...)
	for _, w := range b.Marks {
		m.marks[w.Partition] = w
	}
	m.look()
	if err := m.fail("commit"); err != nil { // committed, but nobody hears of it
		return sink.Applied{}, err
	}
	return done, nil
}

// keep takes partials in. They go with rows and watermarks as one, so each attempt counts.
func (m *memSink) keep(t *memTable, tb *sink.TableBatch) {
	x, rows, from := tb.Schema.Column("x"), tb.Schema.Column(aggregate.RowsColumn), tb.Schema.Column(aggregate.FromColumn)
	if len(tb.Rows) == 0 {
		m.wrong = append(m.wrong, "partials of no row")
	}
	if i := tb.Schema.Column("x_sum"); i >= 0 {
		for _, r := range tb.Rows {
			t.sums = append(t.sums, string(r.New[i].Data))
		}
		return
	}
	for _, r := range tb.Rows {
		pos, err := change.ParsePosition(string(r.New[x].Data))
		n, err2 := strconv.Atoi(string(r.New[rows].Data))
		if err != nil || err2 != nil || r.Pos.Before(pos) || string(r.New[from].Data) == "-1" {
			m.wrong = append(m.wrong, fmt.Sprintf("partials %v: %v, %v", r.New, err, err2))
		}
		t.kept[pos] += n
	}
}

func (s *memSession) Truncate(_ context.Context, w sink.Watermark, partitions int) (bool, error) {
	defer s.enter()()
	m := s.m
	if err := m.fail("truncate"); err != nil {
		return false, err
	}
	if !m.mark(w.Partition).Pos.Before(w.Pos) {
		return true, nil
	}
	if err := s.check([]sink.Watermark{w}); err != nil {
		return false, err
	}
	t := m.tables[w.Table]
	if t.arrived == nil {
		t.arrived = map[int]bool{}
	}
	if t.emptied.Before(w.Pos) {
		if t.arrived[w.N] = true; len(t.arrived) < partitions {
			return false, nil
		}
		clear(t.rows)
		t.chunks, t.arrived, t.emptied = nil, nil, w.Pos
	}
	m.marks[w.Partition] = w
	m.look()
	return true, m.fail("truncate commit")
}

func (m *memSink) look() {
	if m.looked == nil || len(m.wrong) > 0 {
		return
	}
	for id := range m.tables {
		if what := m.looked(id); what != "" {
			m.wrong = append(m.wrong, what)
		}
	}
}

func (m *memSink) Holds(context.Context, change.TableID) ([]sink.Hold, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.holds), m.fail("holds")
}

func (m *memSink) Letters(_ context.Context, id change.TableID, keys []change.Key) ([]sink.DeadLetter, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []sink.DeadLetter
	for _, d := range m.dead {
		if d.Table == id && slices.Contains(keys, d.Key) {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b sink.DeadLetter) int {
		if a.Pos.Before(b.Pos) {
			return -1
		}
		return 1
	})
	return out, m.fail("letters")
}

func (m *memSink) SetDue(_ context.Context, id change.TableID, tier string, at change.Position) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.tables[id]; t.info.Due[tier].Before(at) {
		due := maps.Clone(t.info.Due) // others have read it
		if due == nil {
			due = map[string]change.Position{}
		}
		due[tier] = at
		t.info.Due = due
	}
	return m.fail("due")
}

func (s *memSession) Evolve(_ context.Context, info sink.Table, sc *change.Schema, _ change.Position) error {
	defer s.enter()()
	t := s.m.tables[info.ID]
	if err := s.m.fail("evolve"); err != nil {
		return err
	}
	for _, c := range sc.Columns {
		if c.Name == "forbidden" {
			return fault.Permanent(sink.CodeSchemaGate, nil, "approve it", "column %q", c.Name)
		}
		t.columns[c.Name] = true
	}
	t.info.Schema = sc
	return nil
}

func (s *memSession) Gate(_ context.Context, id change.TableID, reason string) error {
	defer s.enter()()
	s.m.tables[id].info.State, s.m.tables[id].info.Reason = sink.Gated, reason
	return s.m.fail("gate")
}

type placer struct {
	place   func(change.Key) int
	row     func(string) int // of tableB, whose changes have no key
	calls   atomic.Int32
	fail    func(string) error
	carried func(context.Context, []string, []sink.Chunk) error // nil: all is in the log
}

func (p *placer) Carried(ctx context.Context, _ *change.Schema, columns []string, chunks []sink.Chunk) error {
	if p.carried != nil {
		return p.carried(ctx, columns, chunks)
	}
	if p.fail != nil {
		return p.fail("carried")
	}
	return nil
}

func (p *placer) Place(_ context.Context, s *change.Schema, _ []sink.Chunk, keys []change.Key) ([]int, error) {
	p.calls.Add(1)
	out := make([]int, len(keys))
	for i, k := range keys {
		if s.Table == tableB {
			vs, err := k.Values()
			if err != nil {
				return nil, err
			}
			out[i] = p.row(vs[0])
			continue
		}
		out[i] = p.place(k)
	}
	if p.fail != nil {
		return out, p.fail("place")
	}
	return out, nil
}

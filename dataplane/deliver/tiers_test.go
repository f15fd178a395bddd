package deliver

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/tiers/aggregate"
)

// scattered lets changes wait by a hash of the rules and their positions, so that those
// of one key do and do not in any order.
type scattered string

func (r scattered) Rules(change.TableID) string { return string(r) }

func (scattered) Classify(rules string, _ *change.Schema) (func(*change.Change) (string, error), error) {
	return func(c *change.Change) (string, error) { return tierBy(rules, c), nil }, nil
}

// Aggregates are of the daily tier, by rules that say so.
func (scattered) Aggregates(rules string, s *change.Schema) (map[string]*aggregate.Plan, error) {
	if rules != keeping || len(s.Key) > 0 {
		return nil, nil
	}
	spec := aggregate.Spec{Group: []string{"x"}}
	p, err := spec.Bind(s, "daily")
	return map[string]*aggregate.Plan{"daily": p}, err
}

// keeping are rules by which a tier keeps aggregates.
const keeping = "daily aggregates"

func tierBy(rules string, c *change.Change) string {
	if rules == "" || c.Op == change.Delete && strings.HasPrefix(rules, "deletes stream") {
		return ""
	}
	h := fnv.New32a()
	_, _ = fmt.Fprint(h, rules, c.Pos)
	return [...]string{"", "", "hourly", "hourly", "daily"}[h.Sum32()/7%5]
}

var ruleSets = []scattered{"one", "two", "deletes stream", keeping, ""}

// claims compares a table with what its watermarks say of it, after each commit: exactly
// the changes at or before them are there, and those streamed ahead of them.
func (w *world) claims(id change.TableID) string {
	m := w.sink
	t := m.tables[id]
	n := w.parts[id]
	parked := map[change.Key]bool{}
	for _, d := range m.dead {
		parked[d.Key] = true
	}
	for p := range n {
		mark := m.mark(sink.Partition{Table: id, N: p})
		if mark.Pos.Commit <= t.info.LoadedTo {
			continue // the load may be ahead of it
		}
		want, appended := rows{}, map[change.Position]int{}
		for _, tx := range w.commits {
			for _, c := range tx {
				if c.Table != id || w.log.withheld[c] || !took(mark, c) {
					continue
				}
				switch {
				case c.Op == change.Truncate:
					clear(want)
				case c.Key == "":
					if w.appends[c.Pos] > 0 && int(c.Pos.Ordinal)%n == p {
						appended[c.Pos]++
					}
				case c.Key.Partition(n) != p:
				case c.Op == change.Delete:
					delete(want, c.Key)
				default:
					row := map[string]change.Value{}
					for k, v := range want[c.Key] {
						row[k] = v
					}
					for i, v := range c.New {
						if v.Kind != change.Unchanged {
							row[w.log.schemas[c.Schema].Columns[i].Name] = v
						}
					}
					want[c.Key] = row
				}
			}
		}
		if mark.Pos.Before(t.emptied) {
			clear(want) // other partitions have come to a TRUNCATE, too
		}
		for _, pos := range t.appended {
			if int(pos.Ordinal)%n == p {
				appended[pos]--
			}
		}
		for pos, n := range t.kept {
			if int(pos.Ordinal)%w.parts[id] == p {
				appended[pos] -= n
			}
			if tierBy(keeping, &change.Change{Op: change.Insert, Pos: pos}) != "daily" {
				return fmt.Sprintf("row %s is in aggregates of a tier that is not its own", pos)
			}
		}
		for pos, n := range appended {
			if n != 0 {
				return fmt.Sprintf("partition %d is at %+v, and row %s is there %d times too few", p, mark, pos, n)
			}
		}
		for k, row := range want {
			for c, v := range row {
				if !parked[k] && !v.Equal(t.rows[k][c]) {
					return fmt.Sprintf("partition %d is at %+v, and key %s has %s in %s, not %s", p, mark, k, t.rows[k][c].Data, c, v.Data)
				}
			}
		}
		for k := range t.rows {
			if k.Partition(n) == p && want[k] == nil && !parked[k] {
				return fmt.Sprintf("partition %d is at %+v, and there is key %s", p, mark, k)
			}
		}
	}
	return ""
}

// took reports whether a change has taken effect, as a watermark says.
func took(m sink.Watermark, c *change.Change) bool {
	switch {
	case !m.Pos.Before(c.Pos):
		return true
	case !m.Behind() || m.Ahead.Pos.Before(c.Pos) || c.Op == change.Truncate:
		return false
	}
	tier := tierBy(m.Ahead.Rules, c)
	return tier == "" || !m.Of(tier).Pos.Before(c.Pos)
}

// dueNow and then asks for what waits, at random positions and in the end for all.
func (w *world) dueNow(ctx context.Context, s sink.Sink, every time.Duration) {
	for i := 0; ctx.Err() == nil && !w.finished(); i++ {
		at := w.through
		if i < 20 {
			at = commitLSN(rand.IntN(len(w.commits)))
		}
		for id := range w.parts {
			tier := [...]string{"hourly", "hourly", "daily", sink.AllTiers}[rand.IntN(4)]
			_ = s.SetDue(ctx, id, tier, change.Position{Epoch: 1, Commit: at}) // it is asked again
		}
		time.Sleep(every)
	}
}

// Changes wait and are applied, rules change with every life of a lane, and at each
// commit the sink is exactly as its watermarks say.
func TestWaitingChangesTakeEffectOnceAndInOrder(t *testing.T) {
	for seed := range uint64(16) {
		w := newWorld(300+seed, 80)
		w.sink.looked = w.claims
		unrest := seed%4 != 0
		if unrest {
			w.log.chance, w.sink.chance = 60, 20
			w.placer.fail = w.log.fail
		}
		done := make(chan struct{})
		go func() {
			w.capture(func() { time.Sleep(time.Duration(rand.IntN(1500)) * time.Microsecond) })
			close(done)
		}()
		go w.dueNow(t.Context(), w.sink, 5*time.Millisecond)
		w.drive(t, 1+int(seed%3), unrest, func(o *Options) {
			o.Tiers = ruleSets[0]
			if unrest {
				o.Tiers = ruleSets[rand.IntN(len(ruleSets))]
			}
			o.SweepRows = 1 + rand.IntN(8)
			if rand.IntN(2) == 0 {
				o.known, o.noted = 1+rand.IntN(8), 1+rand.IntN(8)
			}
		})
		<-done
		w.verify(t)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// Rows of a tier that keeps aggregates are in these, once each, and not in the table; all
// others are in the table. The load is as it was read.
func TestAggregatesHoldWhatTheTableDoesNot(t *testing.T) {
	for seed := range uint64(12) {
		w := newWorldLoaded(600+seed, 120, 20)
		w.sink.looked = w.claims
		unrest := seed%4 != 0
		if unrest {
			w.log.chance, w.sink.chance = 60, 20
			w.placer.fail = w.log.fail
		}
		go w.capture(func() { time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond) })
		go w.dueNow(t.Context(), w.sink, 5*time.Millisecond)
		w.drive(t, 1+int(seed%3), unrest, func(o *Options) { o.Tiers, o.SweepRows = scattered(keeping), 1+rand.IntN(8) })
		w.verify(t)
		b := w.sink.tables[tableB]
		for _, pos := range b.appended {
			if pos.Commit > b.info.LoadedTo && tierBy(keeping, &change.Change{Op: change.Insert, Pos: pos}) == "daily" {
				t.Errorf("row %s is in the table, and is to be aggregated", pos)
			}
		}
		if len(b.kept) == 0 {
			t.Error("nothing was aggregated")
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// A row that cannot be aggregated exactly is set aside alone.
func TestRowThatCannotBeAggregated(t *testing.T) {
	st := newStand(tableB)
	n := change.Type{Name: "numeric", Kind: change.Base, Base: "numeric", OID: 1700, Mod: -1}
	s := &change.Schema{Table: tableB, Columns: []change.Column{{Name: "x", Type: n}}}
	st.log.schemas[s.Version()] = s
	at := func(commit change.LSN, v string) *change.Change {
		return &change.Change{Table: tableB, Schema: s.Version(), Op: change.Insert, CommitTime: time.Now(), Last: true, Pos: change.Position{Epoch: 1, Commit: commit, Ordinal: 1}, New: change.Row{change.TextValue(v)}}
	}
	p := sink.Partition{Table: tableB}
	for i, v := range []string{"past the load", "1", "1" + strings.Repeat("0", 40), "2"} {
		st.log.append(p, at(change.LSN(100+10*i), v))
	}
	st.sink.tables[tableB].info.Options.AppendOnly = true
	o := quick(0, 1)
	o.Tiers = sums{}
	stop := st.start(t, o, Observer{})
	until(t, "three wait", func() bool { return st.markOf(tableB).Ahead.Waits == 3 })
	_ = st.sink.SetDue(t.Context(), tableB, sink.AllTiers, change.Position{Epoch: 1, Commit: 200})
	st.log.progress(1, 200, st.n)
	until(t, "the watermark passes", func() bool { m := st.markOf(tableB); return !m.Behind() && m.Pos.Commit == 199 })
	_ = stop()
	st.sink.mu.Lock()
	defer st.sink.mu.Unlock()
	if d := st.sink.dead; len(d) != 1 || d[0].Code != sink.CodeAggregateValue || d[0].Pos.Commit != 120 || strings.Contains(d[0].Reason, "000") {
		t.Errorf("set aside: %+v", d)
	}
	if sums := st.sink.tables[tableB].sums; len(sums) != 1 || sums[0] != "3" {
		t.Errorf("sums are %v", sums)
	}
}

// sums aggregates all but the first.
type sums struct{}

func (sums) Rules(change.TableID) string { return "sums" }

func (sums) Classify(string, *change.Schema) (func(*change.Change) (string, error), error) {
	return func(c *change.Change) (string, error) {
		if c.Pos.Commit == 100 {
			return "", nil
		}
		return "bulk", nil
	}, nil
}

func (sums) Aggregates(_ string, s *change.Schema) (map[string]*aggregate.Plan, error) {
	spec := aggregate.Spec{Values: []aggregate.Value{{Column: "x", Functions: []string{aggregate.Sum}}}}
	p, err := spec.Bind(s, "bulk")
	return map[string]*aggregate.Plan{"bulk": p}, err
}

// A sink that takes its time has changes streamed, and committed, between the making of
// a batch of what waited and its commit.
func TestStreamingGoesOnWhileWhatWaitedIsApplied(t *testing.T) {
	for seed := range uint64(4) {
		w := newWorldLoaded(400+seed, 300, 1)
		w.sink.looked, w.sink.slow, w.log.slow = w.claims, time.Millisecond, 5*time.Millisecond
		go w.capture(func() { time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond) })
		go func() {
			for t.Context().Err() == nil && !w.finished() {
				if pr, ok := w.log.Progress(); ok {
					for id := range w.parts {
						_ = w.sink.SetDue(t.Context(), id, sink.AllTiers, change.Position{Epoch: 1, Commit: pr.Through}) // it is asked again
					}
				}
				time.Sleep(40 * time.Millisecond) // so that it takes several batches
			}
		}()
		w.drive(t, 1, false, func(o *Options) {
			o.Tiers, o.SweepRows, o.ReadMax = ruleSets[seed%3], 2, 4
			if seed%2 == 0 {
				o.known, o.noted = 2, 4
			}
		})
		w.verify(t)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// byValue lets changes wait whose value begins with a tier's name; partial changes are
// those without one.
type byValue struct{}

func (byValue) Rules(change.TableID) string { return "by value" }

func (byValue) Aggregates(string, *change.Schema) (map[string]*aggregate.Plan, error) {
	return nil, nil
}

func (byValue) Classify(string, *change.Schema) (func(*change.Change) (string, error), error) {
	return func(c *change.Change) (string, error) {
		if len(c.New) < 2 {
			return "", nil
		}
		if tier, _, ok := strings.Cut(string(c.New[1].Data), ":"); ok && tier != "now" {
			return tier, nil
		}
		return "", nil
	}, nil
}

func (st *stand) value(id change.TableID, key int) string {
	st.sink.mu.Lock()
	defer st.sink.mu.Unlock()
	return string(st.sink.tables[id].rows[keyOf(key)]["a"].Data)
}

func (st *stand) markOf(id change.TableID) sink.Watermark {
	st.sink.mu.Lock()
	defer st.sink.mu.Unlock()
	return st.sink.mark(sink.Partition{Table: id})
}

// A change streamed while batches of what waited are under way is not overwritten by a
// later one of them, and does not wait for the last.
func TestStreamedChangeOvertakesWhatIsBeingApplied(t *testing.T) {
	st := newStand(tableA)
	st.row(tableA, 100, 1, 0, "now: past the load")
	for k := range 20 {
		st.row(tableA, 110, uint32(k+1), k, fmt.Sprintf("hourly: %d", k))
	}
	st.row(tableA, 120, 1, 99, "now: 99")
	var swept atomic.Int64
	var status atomic.Value
	o := quick(0, 1)
	o.Tiers, o.SweepRows = byValue{}, 2
	stop := st.start(t, o, Observer{
		Swept: func(id change.TableID, tier string, d time.Duration, n int) {
			if id == tableA && tier == "hourly" && d > 0 {
				swept.Add(int64(n))
			}
		},
		Status: func(s Status) { status.Store(s) },
	})
	until(t, "streaming goes ahead", func() bool {
		m := st.markOf(tableA)
		return m.Behind() && m.Offset == 1 && m.Ahead.Pos.Commit == 120 && m.Ahead.Waits == 20 && st.value(tableA, 99) == "now: 99"
	})
	if v := st.value(tableA, 3); v != "" {
		t.Fatalf("what waits is there: %q", v)
	}
	until(t, "status", func() bool { s, ok := status.Load().(Status); return ok && s.Waits == 20 && !s.WaitsSince.IsZero() })
	block := make(chan struct{})
	st.sink.mu.Lock()
	st.sink.block = block
	st.sink.mu.Unlock()
	_ = st.sink.SetDue(t.Context(), tableA, sink.AllTiers, change.Position{Epoch: 1, Commit: 120})
	block <- struct{}{} // the first two
	st.row(tableA, 130, 1, 19, "now: 19")
	for st.markOf(tableA).Streamed().Pos.Commit < 130 {
		block <- struct{}{}
	}
	if m := st.markOf(tableA); m.Ahead.Waits == 0 || st.value(tableA, 19) != "now: 19" {
		t.Errorf("a streamed change waited until all was applied: %+v", m)
	}
	close(block)
	until(t, "all is there", func() bool { m := st.markOf(tableA); return !m.Behind() && m.Pos.Commit == 130 })
	for k := range 20 {
		want := fmt.Sprintf("hourly: %d", k)
		if k == 19 {
			want = "now: 19"
		}
		if v := st.value(tableA, k); v != want {
			t.Errorf("key %d is %q, want %q", k, v, want)
		}
	}
	if n := swept.Load(); n != 20 {
		t.Errorf("%d changes that waited were told of, want 20", n)
	}
	_ = stop()
}

// A row that the sink refuses stops its key, whether it waited or not.
func TestBadRowsThatWaitedStopTheirKeysOnly(t *testing.T) {
	for seed := range uint64(6) {
		w := newWorld(500+seed, 80)
		w.sink.looked, w.sink.chance = w.claims, 20
		for _, tx := range w.commits { // one value that some change which waits carries
			for _, c := range tx {
				if len(c.New) > 2 && c.New[1].Kind == change.Text && w.sink.poison == "" && c.Pos.Commit > w.sink.tables[tableA].info.LoadedTo && tierBy(string(ruleSets[0]), c) != "" {
					w.sink.poison = string(c.New[1].Data)
				}
			}
		}
		go w.capture(func() { time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond) })
		go w.dueNow(t.Context(), w.sink, 5*time.Millisecond)
		w.drive(t, 2, seed%2 == 0, func(o *Options) { o.Tiers, o.SweepRows = ruleSets[0], 1+rand.IntN(8) })
		w.verify(t)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// A change that waits of a key that is held, and comes due meanwhile, is set aside in
// its order, and applied when the key is let go.
func TestWaitingChangeOfHeldKey(t *testing.T) {
	st := newStand(tableA)
	st.row(tableA, 100, 1, 0, "now: past the load")
	st.row(tableA, 110, 1, 1, "hourly: 1")
	st.row(tableA, 110, 2, 2, "hourly: 2")
	st.row(tableA, 110, 3, 3, "hourly: 3")
	o := quick(0, 1)
	o.Tiers = byValue{}
	stop := st.start(t, o, Observer{})
	waits := func(n int64) func() bool { return func() bool { return st.markOf(tableA).Ahead.Waits == n } }
	until(t, "three changes wait", waits(3))
	hold := func(hs ...sink.Hold) {
		st.sink.mu.Lock()
		defer st.sink.mu.Unlock()
		st.sink.holds = hs
		st.sink.tables[tableA].info.Holds++
	}
	letters := func() (n int) {
		st.sink.mu.Lock()
		defer st.sink.mu.Unlock()
		for _, d := range st.sink.dead {
			if d.Code == sink.CodeQuarantined {
				n++
			}
		}
		return n
	}
	hold(sink.Hold{Key: keyOf(1), State: sink.Quarantined}, sink.Hold{Key: keyOf(2), State: sink.Quarantined})
	st.row(tableA, 120, 1, 2, "now: 2")
	until(t, "the streamed change of the held key is set aside", func() bool { return letters() == 1 })
	_ = st.sink.SetDue(t.Context(), tableA, sink.AllTiers, change.Position{Epoch: 1, Commit: 121})
	st.row(tableA, 130, 1, 9, "now: 9")
	until(t, "the watermark passes", func() bool { m := st.markOf(tableA); return !m.Behind() && m.Pos.Commit == 130 })
	if n := letters(); n != 2 || st.value(tableA, 1) != "" || st.value(tableA, 2) != "" || st.value(tableA, 3) != "hourly: 3" {
		t.Errorf("%d changes are set aside, want that which waited and that which came after the other", n)
	}
	hold(sink.Hold{Key: keyOf(1), State: sink.Releasing}, sink.Hold{Key: keyOf(2), State: sink.Releasing})
	until(t, "the keys are let go", func() bool {
		return st.value(tableA, 1) == "hourly: 1" && st.value(tableA, 2) == "now: 2" && letters() == 0
	})
	_ = stop()
}

// Without tiers a lane refuses to go on where changes wait, and whole transactions
// refuse tiers.
func TestTiersThatCannotBe(t *testing.T) {
	st := newStand(tableA)
	st.sink.marks[sink.Partition{Table: tableA}] = sink.Watermark{Partition: sink.Partition{Table: tableA}, Pos: change.Position{Epoch: 1, Commit: 100}, Offset: 1,
		Ahead: sink.Ahead{Pos: change.Position{Epoch: 1, Commit: 110}, Offset: 2, Waits: 1, Rules: "by value"}}
	if err := Run(t.Context(), quick(0, 1), st.log, st.sink, st.src, Observer{}); !fault.Is(err, CodeTiersUnknown) || st.state(tableA) != sink.Streaming {
		t.Error(err)
	}
	o := quick(0, 1)
	o.Transactional, o.Tiers = true, byValue{}
	if err := Run(t.Context(), o, st.log, st.sink, st.src, Observer{}); !fault.Is(err, "BadOptions") {
		t.Error(err)
	}
}

// What waited when its table was loaded again is in the load.
func TestReloadedTableForgetsWhatWaited(t *testing.T) {
	st := newStand(tableA)
	tb := st.sink.tables[tableA]
	tb.info.Epoch, tb.chunks, tb.info.LoadedTo = 3, []sink.Chunk{{N: 0, Done: true, LSN: 150, Snapshot: change.Snapshot{XMin: 8, XMax: 8}}}, 150
	for i, v := range []string{"now: 1", "hourly: 1", "now: 2", "hourly: seen by the load"} {
		st.row(tableA, change.LSN(100+10*i), 1, i, v)
	}
	st.sink.marks[sink.Partition{Table: tableA}] = sink.Watermark{Partition: sink.Partition{Table: tableA}, Pos: change.Position{Epoch: 1, Commit: 100, Ordinal: 1}, Offset: 1,
		Ahead: sink.Ahead{Pos: change.Position{Epoch: 1, Commit: 120, Ordinal: 1}, Offset: 3, Waits: 1, Rules: "by value"}}
	st.log.progress(1, 200, st.n)
	o := quick(0, 1)
	o.Tiers = byValue{}
	stop := st.start(t, o, Observer{})
	until(t, "the watermark is past the load", func() bool { m := st.markOf(tableA); return !m.Behind() && m.Pos.Commit == 199 })
	st.row(tableA, 210, 1, 7, "hourly: after it")
	until(t, "a later change waits", func() bool { m := st.markOf(tableA); return m.Ahead.Waits == 1 })
	_ = stop()
	if n := len(tb.rows); n != 0 {
		t.Errorf("%d rows were written over the load's", n)
	}
}

// The first change after a load waits, too, wherever its partition stands: at what the load
// holds, or before all.
func TestFirstChangeAfterTheLoadWaits(t *testing.T) {
	for _, from := range []change.LSN{0, 120} {
		st := newStand(tableA)
		tb := st.sink.tables[tableA]
		tb.chunks, tb.info.LoadedTo = []sink.Chunk{{N: 0, Done: true, LSN: 150, Snapshot: change.Snapshot{XMin: 8, XMax: 8}}}, 150
		p := sink.Partition{Table: tableA}
		if from > 0 {
			st.sink.marks[p] = sink.Watermark{Partition: p, Pos: change.Position{Epoch: 1, Commit: from}, Offset: 0}
		}
		st.row(tableA, 160, 1, 1, "hourly: 1")
		st.row(tableA, 160, 2, 2, "now: 2")
		st.row(tableA, 170, 1, 3, "hourly: 3")
		st.log.progress(1, 180, st.n)
		o := quick(0, 1)
		o.Tiers = byValue{}
		stop := st.start(t, o, Observer{})
		until(t, "two changes wait", func() bool { return st.markOf(tableA).Ahead.Waits == 2 && st.value(tableA, 2) == "now: 2" })
		if m := st.markOf(tableA); st.value(tableA, 1) != "" || m.Pos.Commit != 159 {
			t.Errorf("from %d: the first is there before its time: %+v", from, m)
		}
		if err := stop(); !isEnd(err) {
			t.Error(err)
		}
		stop = st.start(t, o, Observer{}) // another holder finds it waiting
		_ = st.sink.SetDue(t.Context(), tableA, sink.AllTiers, change.Position{Epoch: 1, Commit: 180})
		until(t, "all is there", func() bool {
			return !st.markOf(tableA).Behind() && st.value(tableA, 1) == "hourly: 1" && st.value(tableA, 3) == "hourly: 3"
		})
		_ = stop()
	}
}

// The filter never forgets a key, and seldom takes one for another.
func TestKeyFilter(t *testing.T) {
	f := &keyFilter{}
	if f.has(keyOf(1)) || (*keyFilter)(nil).has(keyOf(1)) || !(&keyFilter{all: true}).has(keyOf(1)) {
		t.Fatal("a filter without keys")
	}
	const n = 20_000
	for i := range n {
		f.add(keyOf(i))
	}
	wrong := 0
	for i := range n {
		if !f.has(keyOf(i)) {
			t.Fatalf("key %d is forgotten", i)
		}
		if f.has(keyOf(n + i)) {
			wrong++
		}
	}
	if wrong > n/100 {
		t.Errorf("%d of %d keys are taken for others", wrong, n)
	}
}

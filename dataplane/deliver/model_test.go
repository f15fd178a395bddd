package deliver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

var (
	tableA = change.TableID{Schema: "shop", Name: "orders"}
	tableB = change.TableID{Schema: "shop", Name: "events"}
	tableC = change.TableID{Schema: "shop", Name: "other"}
)

func schemaOf(id change.TableID, keyed bool, columns ...string) *change.Schema {
	s := &change.Schema{Table: id}
	for _, c := range columns {
		s.Columns = append(s.Columns, change.Column{Name: c, Type: change.Type{Name: "text", Kind: change.Base, Base: "text", OID: 25, Mod: -1}})
	}
	if keyed {
		s.Key = []int{0}
	}
	return s
}

func keyOf(i int) change.Key {
	k, err := change.ParseKey("(" + strconv.Quote(strconv.Itoa(i)) + ")")
	if err != nil {
		panic(err)
	}
	return k
}

func number(k change.Key) int {
	v, _ := k.Values()
	n, _ := strconv.Atoi(v[0])
	return n
}

type rows map[change.Key]map[string]change.Value

// world is a source's history, the log that a crashing capture made of it, and
// a sink with the tables' loads.
type world struct {
	r       *rand.Rand
	log     *memLog
	sink    *memSink
	parts   map[change.TableID]int
	commits [][]*change.Change
	xids    []uint32
	final   rows
	appends map[change.Position]int // of tableB, beyond its load
	through change.LSN
	placer  *placer
}

func commitLSN(i int) change.LSN { return change.LSN(1000 + 10*i) }

func newWorld(seed uint64, transactions int) *world {
	return newWorldLoaded(seed, transactions, transactions/2)
}

// newWorldLoaded makes a world whose loads saw fewer than loaded transactions.
func newWorldLoaded(seed uint64, transactions, loaded int) *world {
	return buildWorld(seed, transactions, loaded, false)
}

// buildWorld makes a world; full is whether changes have the whole row before them.
func buildWorld(seed uint64, transactions, loaded int, full bool) *world {
	w := &world{r: rand.New(rand.NewPCG(seed, 1)), log: newMemLog(), sink: newMemSink(), parts: map[change.TableID]int{tableA: 3, tableB: 2}, appends: map[change.Position]int{}}
	v1, v2 := schemaOf(tableA, true, "id", "a", "b"), schemaOf(tableA, true, "id", "a", "b", "c")
	v1.Full, v2.Full = full, full
	ev := schemaOf(tableB, false, "x")
	for _, s := range []*change.Schema{v1, v2, ev} {
		w.log.schemas[s.Version()] = s
	}
	order := make([]uint32, transactions)
	for i := range order {
		order[i] = uint32(100 + i)
	}
	for i := range order {
		j := min(transactions-1, i+w.r.IntN(4))
		order[i], order[j] = order[j], order[i]
	}
	w.xids = order
	evolves := w.r.IntN(2 * transactions)
	live := rows{}
	states := []rows{{}} // after the first n commits
	for i := range transactions {
		s := v1
		if i >= evolves {
			s = v2
		}
		var tx []*change.Change
		for o := range 1 + w.r.IntN(6) {
			c := &change.Change{Table: tableA, Schema: s.Version(), XID: order[i], CommitTime: time.Now(), Pos: change.Position{Epoch: 1, Commit: commitLSN(i), Ordinal: uint32(o + 1)}}
			switch pick := w.r.IntN(40); {
			case pick == 0:
				c.Op = change.Truncate
				clear(live)
			case pick < 10:
				c.Table, c.Schema, c.Op, c.New = tableB, ev.Version(), change.Insert, change.Row{change.TextValue(c.Pos.String())}
			default:
				n := w.r.IntN(20)
				c.Key = keyOf(n)
				had := live[c.Key]
				if full && had != nil {
					for _, col := range s.Columns {
						c.Old = append(c.Old, had[col.Name])
					}
				}
				if had != nil && pick < 16 {
					c.Op = change.Delete
					delete(live, c.Key)
					break
				}
				c.Op = change.Insert
				if had != nil {
					c.Op = change.Update
				}
				row := map[string]change.Value{}
				for k, v := range had {
					row[k] = v
				}
				for ci, col := range s.Columns {
					v := change.TextValue(fmt.Sprintf("%d.%d.%d", i, o, ci))
					if ci == 0 {
						v = change.TextValue(strconv.Itoa(n))
					} else if !full && had != nil && had[col.Name].Kind == change.Text && w.r.IntN(3) == 0 {
						v = change.Value{Kind: change.Unchanged}
					}
					c.New = append(c.New, v)
					if v.Kind != change.Unchanged {
						row[col.Name] = v
					}
				}
				live[c.Key] = row
			}
			tx = append(tx, c)
		}
		tx[len(tx)-1].Last = true
		w.commits = append(w.commits, tx)
		now := rows{}
		for k, v := range live {
			now[k] = v
		}
		states = append(states, now)
	}
	w.final = live
	w.through = commitLSN(transactions-1) + 5

	// Loads: three generations for A, by key range; two for B.
	a := w.sink.add(v1, w.parts[tableA], sink.TableOptions{})
	place := func(k change.Key) int { return number(k) / 7 }
	w.placer = &placer{place: place}
	for n := range 3 {
		at := w.r.IntN(loaded)
		a.chunks = append(a.chunks, w.chunk(n, at))
		for k, v := range states[at] {
			if place(k) == n {
				row := map[string]change.Value{}
				for c, val := range v {
					row[c] = val
				}
				a.rows[k] = row
			}
		}
		a.info.LoadedTo = max(a.info.LoadedTo, a.chunks[n].LSN)
	}
	b := w.sink.add(ev, w.parts[tableB], sink.TableOptions{AppendOnly: true})
	// Append-only: its changes carry no key, but its rows have one.
	w.placer.row = func(text string) int { return int(text[len(text)-1]) % 2 }
	var ats []int
	for n := range 2 {
		ats = append(ats, w.r.IntN(loaded))
		c := w.chunk(n, ats[n])
		c.By = []string{"x"}
		b.chunks = append(b.chunks, c)
		b.info.LoadedTo = max(b.info.LoadedTo, c.LSN)
	}
	for i, tx := range w.commits {
		for _, c := range tx {
			if c.Table == tableB && i >= ats[w.placer.row(string(c.New[0].Data))] {
				w.appends[c.Pos] = 1
			}
		}
	}
	return w
}

func (w *world) chunk(n, at int) sink.Chunk {
	s := change.Snapshot{XMax: 100}
	for _, x := range w.xids[:at] {
		s.XMax = max(s.XMax, uint64(x)+1)
	}
	for _, x := range w.xids[at:] {
		if uint64(x) < s.XMax {
			s.XIP = append(s.XIP, uint64(x))
		}
	}
	slices.Sort(s.XIP)
	s.XMin = s.XMax
	if len(s.XIP) > 0 {
		s.XMin = s.XIP[0]
	}
	return sink.Chunk{N: n, Done: true, Snapshot: s, LSN: commitLSN(at) + change.LSN(w.r.IntN(25))}
}

// partitionOf scatters changes without a key, those of one transaction too.
func partitionOf(c *change.Change, n int) int {
	if c.Key == "" {
		return int(c.Pos.Ordinal) % n
	}
	return c.Key.Partition(n)
}

// capture writes the history to the log, crashing now and then: it goes on from
// the last progress record and writes what followed again.
func (w *world) capture(pause func()) {
	safe := 0
	for i := 0; i < len(w.commits); i++ {
		tx := w.commits[i]
		crash := w.r.IntN(12) == 0
		for o, c := range tx {
			if crash && o == len(tx)/2 {
				break
			}
			n := w.parts[c.Table]
			switch {
			case c.Op == change.Truncate:
				for p := range n {
					w.log.append(sink.Partition{Table: c.Table, N: p}, c)
				}
			default:
				w.log.append(sink.Partition{Table: c.Table, N: partitionOf(c, n)}, c)
			}
		}
		if crash {
			i = safe - 1
			continue
		}
		if w.r.IntN(4) == 0 {
			safe = i + 1
			w.log.progress(1, commitLSN(i)+5, w.parts)
		}
		pause()
	}
	w.log.progress(1, w.through, w.parts)
}

func (w *world) finished() bool {
	w.sink.mu.Lock()
	defer w.sink.mu.Unlock()
	for id, n := range w.parts {
		for p := range n {
			if w.sink.mark(sink.Partition{Table: id, N: p}).Pos.Commit < w.through-1 {
				return false
			}
		}
	}
	return true
}

func (w *world) verify(t *testing.T) {
	t.Helper()
	m := w.sink
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.wrong {
		t.Error(s)
	}
	parked := map[change.Key]bool{}
	for _, d := range m.dead {
		parked[d.Key] = true
		var c change.Change
		if err := change.Decode(d.Payload, &c); err != nil || c.Key != d.Key || c.Pos != d.Pos {
			t.Errorf("payload of a dead letter: %v", err)
		}
	}
	have := m.tables[tableA].rows
	for k, want := range w.final {
		if parked[k] {
			continue
		}
		if have[k] == nil {
			t.Errorf("key %s is missing", k)
		}
		for c, v := range want {
			if !v.Equal(have[k][c]) {
				t.Errorf("key %s column %s: have %s, want %s", k, c, have[k][c].Data, v.Data)
			}
		}
	}
	for k := range have {
		if w.final[k] == nil && !parked[k] {
			t.Errorf("key %s should be gone", k)
		}
	}
	got := map[change.Position]int{}
	for _, p := range m.tables[tableB].appended {
		got[p]++
	}
	for p, n := range m.tables[tableB].kept {
		got[p] += n
	}
	for p := range w.appends {
		if got[p] != 1 {
			t.Errorf("append-only row %s: %d times", p, got[p])
		}
	}
	if len(got) != len(w.appends) {
		t.Errorf("%d append-only rows, want %d", len(got), len(w.appends))
	}
}

func quick(lane, lanes int) Options {
	return Options{Lane: lane, Lanes: lanes, ReadMax: 16, MaxBatchRows: 20, MaxBufferBytes: 2000, PollTables: 5 * time.Millisecond,
		IdleMark: 5 * time.Millisecond, RetryFor: 200 * time.Millisecond, Grace: time.Second, tick: 2 * time.Millisecond, pause: time.Millisecond}
}

// drive runs the lanes until everything is delivered, ending and replacing them
// at random if unrest is set.
func (w *world) drive(t *testing.T, lanes int, unrest bool, opt func(*Options)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for lane := range lanes {
		for holder := range 2 { // the second one of a lane fences off the first, for a while
			if holder > 0 && !unrest {
				break
			}
			wg.Go(func() {
				for lives := 0; ctx.Err() == nil && !w.finished() && (holder == 0 || lives < 10); lives++ {
					life := time.Hour
					if unrest && lives < 30 {
						life = time.Duration(1+rand.IntN(60)) * time.Millisecond
					}
					run, end := context.WithTimeout(ctx, life)
					stop := make(chan struct{})
					go func() {
						for run.Err() == nil && !w.finished() {
							time.Sleep(time.Millisecond)
						}
						end()
						close(stop)
					}()
					o := quick(lane, lanes)
					if opt != nil {
						opt(&o)
					}
					err := Run(run, o, w.log, w.sink, w.placer, Observer{})
					end()
					<-stop
					var f *fault.Error
					if err == nil || errors.As(err, &f) && !f.Retry && f.Code != sink.CodeFenced {
						t.Errorf("lane %d ended with %v", lane, err)
						cancel()
					}
					if fault.Is(err, sink.CodeFenced) {
						time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
					}
				}
			})
		}
	}
	wg.Wait()
	if ctx.Err() != nil {
		w.sink.mu.Lock()
		defer w.sink.mu.Unlock()
		for id, tb := range w.sink.tables {
			t.Logf("%s: %s, waiting at %v", id, tb.info.State, tb.arrived)
		}
		t.Logf("through %s, progress %v, watermarks %v", w.through, w.log.prog, w.sink.marks)
		t.Fatal("not finished in time", w.sink.wrong)
	}
}

func TestCalmDelivery(t *testing.T) {
	for seed := range uint64(8) {
		w := newWorld(seed, 80)
		go w.capture(func() {})
		w.drive(t, 1+int(seed%3), false, nil)
		w.verify(t)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// Every call fails now and then, before or after it took effect; lanes end at
// random, overlap and come back; capture crashes and sends again.
func TestNothingIsLostWhateverFails(t *testing.T) {
	for seed := range uint64(10) {
		w := newWorld(100+seed, 80)
		w.log.chance, w.sink.chance = 40, 12
		w.placer.fail = w.log.fail
		done := make(chan struct{})
		go func() {
			w.capture(func() { time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond) })
			close(done)
		}()
		w.drive(t, 1+int(seed%3), true, nil)
		<-done
		w.verify(t)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func TestBadRowsStopTheirKeysOnly(t *testing.T) {
	for seed := range uint64(6) {
		w := newWorld(200+seed, 80)
		w.sink.chance = 12
		for _, tx := range w.commits { // one value that some change carries
			for _, c := range tx {
				if len(c.New) > 2 && c.New[1].Kind == change.Text && w.sink.poison == "" && c.Pos.Commit > w.sink.tables[tableA].info.LoadedTo {
					w.sink.poison = string(c.New[1].Data)
				}
			}
		}
		go w.capture(func() {})
		w.drive(t, 2, true, nil)
		w.verify(t)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

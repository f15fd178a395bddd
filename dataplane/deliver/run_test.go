package deliver

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/tiers/aggregate"
)

// stand is a log and a sink with keyed tables of one partition each.
type stand struct {
	log  *memLog
	sink *memSink
	s    map[change.TableID]*change.Schema
	n    map[change.TableID]int
	src  *placer
}

func newStand(tables ...change.TableID) *stand {
	st := &stand{log: newMemLog(), sink: newMemSink(), s: map[change.TableID]*change.Schema{}, n: map[change.TableID]int{}, src: &placer{}}
	for _, id := range tables {
		s := schemaOf(id, true, "id", "a")
		st.s[id], st.n[id] = s, 1
		st.log.schemas[s.Version()] = s
		st.sink.add(s, 1, sink.TableOptions{})
	}
	return st
}

func (st *stand) row(id change.TableID, lsn change.LSN, ord uint32, key int, a string) {
	st.log.append(sink.Partition{Table: id}, &change.Change{Table: id, Schema: st.s[id].Version(), Op: change.Update, Key: keyOf(key), XID: 7,
		Pos: change.Position{Epoch: 1, Commit: lsn, Ordinal: ord}, CommitTime: time.Now(), New: change.Row{change.TextValue("k"), change.TextValue(a)}})
}

func (st *stand) at(id change.TableID) change.LSN {
	st.sink.mu.Lock()
	defer st.sink.mu.Unlock()
	return st.sink.mark(sink.Partition{Table: id}).Pos.Commit
}

func (st *stand) state(id change.TableID) sink.State {
	st.sink.mu.Lock()
	defer st.sink.mu.Unlock()
	return st.sink.tables[id].info.State
}

func (st *stand) start(t *testing.T, o Options, obs Observer) (stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, o, st.log, st.sink, st.src, obs) }()
	return func() error { cancel(); return <-done }
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestFaultsOfOneTableGateItAlone(t *testing.T) {
	tests := map[string]struct {
		plant func(*stand)
		code  fault.Code
	}{
		"schema that is not additive": {func(st *stand) {
			s := schemaOf(tableA, true, "id", "forbidden")
			st.log.schemas[s.Version()] = s
			st.row(tableA, 100, 1, 1, "before")
			st.s[tableA] = s
			st.row(tableA, 110, 1, 1, "after")
		}, sink.CodeSchemaGate},
		"offset that is gone": {func(st *stand) { st.log.gone[sink.Partition{Table: tableA}] = true }, CodeOffsetGone},
		"sink refuses its rows": {func(st *stand) {
			st.sink.refuse[tableA] = fault.Permanent(sink.CodeTableMismatch, nil, "", "column")
			st.row(tableA, 100, 1, 1, "x")
		}, sink.CodeTableMismatch},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			st := newStand(tableA, tableC)
			st.row(tableC, 100, 1, 1, "x")
			tt.plant(st)
			stop := st.start(t, quick(0, 1), Observer{})
			until(t, "gate", func() bool { return st.state(tableA) == sink.Gated })
			st.row(tableC, 200, 1, 2, "y")
			until(t, "the other table", func() bool { return st.at(tableC) == 200 })
			if err := stop(); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if r := st.sink.tables[tableA].info.Reason; !strings.Contains(r, string(tt.code)) {
				t.Errorf("reason %q", r)
			}
			if tt.code == sink.CodeSchemaGate && st.at(tableA) != 100 {
				t.Errorf("what came before the gate was not delivered: at %s", st.at(tableA))
			}
		})
	}
}

// A table that was loaded again keeps its stream: its load's epoch is higher than
// that of the changes, the sink is told so, and what the load saw is not written.
func TestReloadedTableKeepsItsStream(t *testing.T) {
	st := newStand(tableA)
	tb := st.sink.tables[tableA]
	tb.info.Epoch, tb.chunks = 3, []sink.Chunk{{N: 0, Done: true, LSN: 150, Snapshot: change.Snapshot{XMin: 8, XMax: 8}}}
	tb.info.LoadedTo = 150
	st.row(tableA, 100, 1, 1, "seen by the load")
	st.row(tableA, 200, 1, 2, "after it")
	stop := st.start(t, quick(0, 1), Observer{})
	until(t, "the change after the load", func() bool { return st.at(tableA) == 200 })
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if st.sink.applied != 1 {
		t.Errorf("%d rows were written, want the one that the load had not seen", st.sink.applied)
	}
}

func TestTablesComeAndGo(t *testing.T) {
	st := newStand(tableA, tableC)
	st.sink.setState(tableA, sink.Loading)
	st.row(tableA, 100, 1, 1, "x")
	st.row(tableC, 100, 1, 1, "x")
	stop := st.start(t, quick(0, 1), Observer{})
	until(t, "the streaming table", func() bool { return st.at(tableC) == 100 })
	if st.at(tableA) != 0 {
		t.Fatal("delivered a table that is loading")
	}
	st.sink.setState(tableA, sink.Streaming)
	until(t, "the table that came", func() bool { return st.at(tableA) == 100 })
	st.sink.setState(tableC, sink.Removed)
	st.row(tableC, 200, 1, 1, "x")
	st.row(tableA, 200, 1, 1, "x")
	until(t, "the table that stayed", func() bool { return st.at(tableA) == 200 })
	if st.at(tableC) != 100 {
		t.Error("delivered a table that was removed")
	}
	st.sink.setState(tableC, sink.Streaming)
	until(t, "the table that came back", func() bool { return st.at(tableC) == 200 })
	_ = stop()
}

func TestANewerHolderFencesTheLane(t *testing.T) {
	st := newStand(tableA)
	st.row(tableA, 100, 1, 1, "x")
	done := make(chan error, 1)
	go func() { done <- Run(t.Context(), quick(0, 1), st.log, st.sink, nil, Observer{}) }()
	until(t, "first change", func() bool { return st.at(tableA) == 100 })
	if _, err := st.sink.Claim(t.Context(), 0, 1); err != nil {
		t.Fatal(err)
	}
	st.row(tableA, 200, 1, 1, "y")
	if err := <-done; !fault.Is(err, sink.CodeFenced) {
		t.Fatal(err)
	}
	if st.at(tableA) != 100 {
		t.Error("a fenced lane committed")
	}
}

// What is being committed when the lane is told to stop still gets there.
func TestStopFinishesTheBatchUnderWay(t *testing.T) {
	st := newStand(tableA)
	st.sink.block = make(chan struct{})
	st.row(tableA, 100, 1, 1, "x")
	busy := make(chan struct{})
	o := quick(0, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, o, st.log, st.sink, nil, Observer{Status: func(s Status) {}}) }()
	go func() { st.sink.block <- struct{}{}; close(busy) }()
	<-busy
	until(t, "first", func() bool { return st.at(tableA) == 100 })
	st.row(tableA, 200, 1, 1, "y")
	time.Sleep(20 * time.Millisecond) // let Apply come to the block; either way the outcome is checked
	cancel()
	go func() {
		select {
		case st.sink.block <- struct{}{}:
		case <-time.After(500 * time.Millisecond):
		}
	}()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if st.at(tableA) != 200 {
		t.Errorf("at %s", st.at(tableA))
	}
}

func TestASinkThatStaysDownIsReported(t *testing.T) {
	st := newStand(tableA)
	st.row(tableA, 100, 1, 1, "x")
	st.sink.chance = 1
	if err := Run(t.Context(), quick(0, 1), st.log, st.sink, nil, Observer{}); err == nil || !fault.Retryable(err) {
		t.Fatal(err)
	}
}

func TestIdlePartitionsFollowProgress(t *testing.T) {
	st := newStand(tableA, tableC)
	st.row(tableA, 100, 1, 1, "x")
	st.log.progress(1, 500, st.n)
	var status Status
	seen := make(chan Status, 100)
	stop := st.start(t, quick(0, 1), Observer{Status: func(s Status) {
		select {
		case seen <- s:
		default:
		}
	}})
	until(t, "idle partition", func() bool { return st.at(tableC) == 499 && st.at(tableA) == 499 })
	// A commit that begins exactly at Through is not covered by it.
	st.row(tableC, 500, 1, 1, "x")
	until(t, "change at the boundary", func() bool { return st.at(tableC) == 500 })
	until(t, "status", func() bool {
		select {
		case status = <-seen:
		default:
		}
		return status.Changes == 2 && len(status.Tables) == 2
	})
	_ = stop()
	if status.Through != 500 || status.Token == 0 || status.Backlog != 0 || status.Behind != 0 || !status.Tables[0].Consistent {
		t.Errorf("%+v", status)
	}
	b, err := json.Marshal(status)
	var back Status
	if err != nil || json.Unmarshal(b, &back) != nil || back.Oldest != status.Oldest {
		t.Errorf("%s %v", b, err)
	}
}

func TestWholeTransactionsOverTables(t *testing.T) {
	st := newStand(tableA, tableC)
	st.sink.record = true
	pos := uint32(0)
	for tx := range 60 {
		lsn := change.LSN(100 + 10*tx)
		for o := range 1 + tx%7 {
			id := tableA
			if (tx+o)%2 == 0 {
				id = tableC
			}
			pos++
			st.row(id, lsn, uint32(o+1), int(pos), "x") // every key once: nothing merges
		}
		for id := range st.n { // sent again after a crash
			p := sink.Partition{Table: id}
			if had := st.log.parts[p]; tx%11 == 0 && len(had) > 0 {
				st.log.append(p, had[max(0, len(had)-9):]...)
			}
		}
	}
	st.log.progress(1, 450, st.n)
	o := quick(0, 1)
	o.Transactional, o.MaxBatchRows = true, 4
	stop := st.start(t, o, Observer{})
	until(t, "the transactions below progress", func() bool { return st.at(tableA) >= 440 && st.at(tableC) >= 440 })
	if st.at(tableA) >= 450 || st.at(tableC) >= 450 {
		t.Error("applied a transaction that may be incomplete")
	}
	st.log.progress(1, 10_000, st.n)
	until(t, "all", func() bool { return st.at(tableA) == 9999 && st.at(tableC) == 9999 })
	_ = stop()
	where, changes := map[change.LSN]int{}, 0
	for i, c := range st.sink.commits {
		for _, p := range c {
			changes++
			if j, ok := where[p.Commit]; ok && j != i {
				t.Fatalf("transaction %s is in two commits", p.Commit)
			}
			where[p.Commit] = i
		}
		if len(c) > 4+7 {
			t.Errorf("commit of %d rows", len(c))
		}
	}
	if changes != int(pos) || len(where) != 60 {
		t.Errorf("%d changes of %d transactions", changes, len(where))
	}
}

func TestOptions(t *testing.T) {
	bad := []Options{{Lane: 2, Lanes: 2}, {Lanes: 2, Transactional: true}, {MaxBatchRows: -1}, {Grace: -1}}
	for i, o := range bad {
		if err := o.validate(); err == nil || fault.Retryable(err) {
			t.Errorf("%d: %v", i, err)
		}
	}
	var o Options
	if err := o.validate(); err != nil || o.Lanes != 1 || o.MaxBatchRows == 0 {
		t.Error(err)
	}
}

func TestLagWindow(t *testing.T) {
	var w window
	now := time.Unix(1_000_000, 0)
	for i := range 10 {
		for ms := 1; ms <= 100; ms++ {
			w.note(now.Add(time.Duration(i)*time.Second), time.Duration(ms)*time.Millisecond, 10)
		}
	}
	rate, p50, p99 := w.read(now.Add(10 * time.Second))
	if rate != 1000 || p50 < 48*time.Millisecond || p50 > 58*time.Millisecond || p99 < 97*time.Millisecond || p99 > 112*time.Millisecond {
		t.Errorf("%v %v %v", rate, p50, p99)
	}
	if _, _, p := w.read(now.Add(time.Hour)); p != 0 {
		t.Errorf("an old sample still counts: %v", p)
	}
	var tops []time.Duration
	for b := range lagBuckets {
		tops = append(tops, bucketTop(b))
		if b < lagBuckets-1 && lagBucket(bucketTop(b)) != b {
			t.Fatalf("bucket %d ends at %v, which is in %d", b, bucketTop(b), lagBucket(bucketTop(b)))
		}
	}
	if !slices.IsSorted(tops) {
		t.Error("buckets are not in order")
	}
}

func BenchmarkDeliver(b *testing.B) { benchDeliver(b, Options{}, Observer{}, func(*change.Change) {}) }

// What is moved is told, by table and tier.
func BenchmarkDeliverTold(b *testing.B) {
	var all int64
	benchDeliver(b, Options{}, Observer{Used: func(_ change.TableID, _ string, u Used) { all += u.Read + u.Text + u.Sent }}, func(*change.Change) {})
	if all == 0 {
		b.Error("nothing was told")
	}
}

// Every change waits, and is due at the end: it is read twice.
func BenchmarkDeliverWaiting(b *testing.B) {
	benchDeliver(b, Options{Tiers: allWait{}, tick: time.Millisecond}, Observer{}, func(*change.Change) {})
}

type allWait struct{}

func (allWait) Rules(change.TableID) string { return "all" }

func (allWait) Aggregates(string, *change.Schema) (map[string]*aggregate.Plan, error) {
	return nil, nil
}

func (allWait) Classify(string, *change.Schema) (func(*change.Change) (string, error), error) {
	return func(*change.Change) (string, error) { return "hourly", nil }, nil
}

// benchDeliver delivers changes, each a transaction, that mark has been at.
func benchDeliver(b *testing.B, o Options, obs Observer, mark func(*change.Change)) {
	st := newStand(tableA)
	st.sink.discard = true
	const n = 200_000
	st.sink.tables[tableA].info.Due = map[string]change.Position{"hourly": {Epoch: 1, Commit: 1000 + n - 1}}
	all := make([]*change.Change, n)
	for i := range all {
		all[i] = &change.Change{Table: tableA, Schema: st.s[tableA].Version(), Op: change.Update, Key: keyOf(i % 50_000), XID: 7,
			Pos: change.Position{Epoch: 1, Commit: change.LSN(1000 + i), Ordinal: 1}, CommitTime: time.Now(), New: change.Row{change.TextValue("k"), {Kind: change.Unchanged}}}
		mark(all[i])
	}
	b.ReportAllocs()
	used := cpuTime(b)
	for b.Loop() {
		st.log.parts = map[sink.Partition][]*change.Change{{Table: tableA}: all}
		clear(st.sink.marks)
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan error, 1)
		go func() {
			done <- Run(ctx, o, st.log, st.sink, nil, obs)
		}()
		for st.at(tableA) < 1000+n-1 {
			time.Sleep(200 * time.Microsecond)
		}
		cancel()
		<-done
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "changes/s")
	b.ReportMetric(float64(cpuTime(b)-used)/float64(n)/float64(b.N), "cpu-ns/change")
}

// cpuTime is what tells costs apart on a machine with other work.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

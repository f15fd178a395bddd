package deliver

import (
	"testing"
	"testing/synctest"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/tiers/aggregate"
)

// byName lets changes wait in the tier that their first value names.
type byName struct{}

func (byName) Rules(change.TableID) string { return "by name" }

func (byName) Aggregates(string, *change.Schema) (map[string]*aggregate.Plan, error) { return nil, nil }

func (byName) Classify(string, *change.Schema) (func(*change.Change) (string, error), error) {
	return func(c *change.Change) (string, error) {
		if tier := string(c.New[0].Data); tier != "now" {
			return tier, nil
		}
		return "", nil
	}, nil
}

// in writes a row of a tier; a is left out if it is empty.
func (st *stand) in(tier string, lsn change.LSN, key int, a string) {
	v := change.TextValue(a)
	if a == "" {
		v = change.Value{Kind: change.Unchanged}
	}
	st.log.append(sink.Partition{Table: tableA}, &change.Change{Table: tableA, Schema: st.s[tableA].Version(), Op: change.Update, Key: keyOf(key), XID: 7,
		Pos: change.Position{Epoch: 1, Commit: lsn, Ordinal: 1}, CommitTime: time.Now(), New: change.Row{change.TextValue(tier), v}})
}

// runs has what waits in a tier applied, and waits for it.
func (st *stand) runs(t *testing.T, tier string, to change.LSN) {
	t.Helper()
	_ = st.sink.SetDue(t.Context(), tableA, tier, change.Position{Epoch: 1, Commit: to})
	st.log.progress(1, to+1, st.n)
	until(t, "a run of "+tier, func() bool { return st.markOf(tableA).Of(tier).Pos.Commit >= to-1 })
}

func (st *stand) holds(t *testing.T, want map[int]string) {
	t.Helper()
	for k, v := range want {
		if got := st.value(tableA, k); got != v {
			t.Errorf("key %d is %q, want %q", k, got, v)
		}
	}
}

// Each tier's changes take effect with its own runs, whichever comes first and whoever runs
// the lane, and a key ends as its last change has it.
func TestTiersGoByThemselves(t *testing.T) {
	st := newStand(tableA)
	o := quick(0, 1)
	o.Tiers = byName{}
	stop := st.start(t, o, Observer{})
	st.in("now", 100, 0, "past the load")
	st.in("hourly", 110, 1, "h1")
	st.in("daily", 120, 2, "d2")
	st.in("daily", 130, 3, "d3")
	st.in("hourly", 140, 3, "h3")
	st.in("hourly", 150, 4, "h4")
	st.in("daily", 160, 4, "d4")
	st.in("daily", 170, 5, "d5")
	st.in("now", 180, 5, "n5")
	until(t, "six wait", func() bool {
		m := st.markOf(tableA)
		return m.Waits("hourly") == 3 && m.Waits("daily") == 4 && m.Ahead.Waits == 7 && m.Of("hourly").Offset == 1 && m.Of("daily").Offset == 2 && m.Offset == 1
	})
	st.holds(t, map[int]string{1: "", 2: "", 3: "", 4: "", 5: "n5"})
	st.runs(t, "daily", 190)
	st.holds(t, map[int]string{1: "", 2: "d2", 3: "d3", 4: "d4", 5: "n5"})
	m := st.markOf(tableA)
	if len(m.Ahead.Tiers) != 1 || m.Waits("hourly") != 3 || m.Of("hourly").Offset != 1 || m.Of("daily").Offset != 9 || m.Offset != 1 || m.Ahead.Waits != 3 {
		t.Errorf("after the run of one tier: %+v", m)
	}
	if err := stop(); !isEnd(err) {
		t.Error(err)
	}
	stop = st.start(t, o, Observer{}) // another goes on from the ledger
	st.in("daily", 200, 1, "later")
	until(t, "another waits", func() bool { return st.markOf(tableA).Waits("daily") == 1 })
	st.runs(t, "hourly", 210)
	st.holds(t, map[int]string{1: "h1", 2: "d2", 3: "h3", 4: "d4", 5: "n5"})
	if m := st.markOf(tableA); m.Waits("daily") != 1 || m.Waits("hourly") != 0 || m.Offset != 9 {
		t.Errorf("after the run of the other: %+v", m)
	}
	st.runs(t, "daily", 220)
	st.holds(t, map[int]string{1: "later"})
	if m := st.markOf(tableA); m.Behind() || m.Pos.Commit < 219 {
		t.Errorf("at the end: %+v", m)
	}
	_ = stop()
}

// A change that leaves out what one of another tier may hold goes together with it, also
// when another lane goes on.
func TestWhatBuildsOnAnotherTierGoesWithIt(t *testing.T) {
	for _, restart := range []bool{false, true} {
		st := newStand(tableA)
		o := quick(0, 1)
		o.Tiers = byName{}
		stop := st.start(t, o, Observer{})
		st.in("now", 100, 0, "past the load")
		st.in("daily", 110, 1, "d1")
		st.in("daily", 120, 2, "d2")
		st.in("hourly", 130, 1, "")
		until(t, "they are tied", func() bool { m := st.markOf(tableA); return m.Ahead.Tied && m.Ahead.Waits == 3 })
		if restart {
			_ = stop()
			stop = st.start(t, o, Observer{})
		}
		st.runs(t, "hourly", 140)
		st.holds(t, map[int]string{1: "d1", 2: "d2"})
		if m := st.markOf(tableA); m.Behind() {
			t.Errorf("what was needed waits: %+v", m)
		}
		// Of another key it is not tied. After a restart nobody knows, until a sweep has ended.
		st.in("daily", 150, 1, "d1 again")
		st.in("hourly", 160, 0, "")
		until(t, "two wait", func() bool { m := st.markOf(tableA); return m.Ahead.Waits == 2 && (restart || !m.Ahead.Tied) })
		tied := st.markOf(tableA).Ahead.Tied
		st.runs(t, "hourly", 170)
		if m := st.markOf(tableA); m.Behind() == tied {
			t.Errorf("tied %t: %+v", tied, m)
		}
		st.holds(t, map[int]string{0: "past the load", 2: "d2"})
		_ = stop()
	}
}

// What an older release did not tell apart is due with the first tier that is.
func TestWhatWasNotToldApart(t *testing.T) {
	st := newStand(tableA)
	st.in("now", 100, 0, "past the load")
	st.in("daily", 110, 1, "d1")
	st.in("hourly", 120, 2, "h2")
	pos := func(commit change.LSN) change.Position {
		return change.Position{Epoch: 1, Commit: commit, Ordinal: 1}
	}
	p := sink.Partition{Table: tableA}
	st.sink.marks[p] = sink.Watermark{Partition: p, Pos: pos(100), Offset: 1, Ahead: sink.Ahead{Pos: pos(120), Offset: 3, Waits: 2, Oldest: 1, Rules: "by name"}}
	o := quick(0, 1)
	o.Tiers = byName{}
	stop := st.start(t, o, Observer{})
	st.in("daily", 130, 3, "d3")
	until(t, "another waits", func() bool { m := st.markOf(tableA); return m.Ahead.Waits == 3 && m.Of("hourly").Offset == 1 })
	st.runs(t, "hourly", 140)
	st.holds(t, map[int]string{1: "d1", 2: "h2", 3: "d3"})
	if m := st.markOf(tableA); m.Behind() {
		t.Errorf("%+v", m)
	}
	_ = stop()
}

// Of two changes of a key that are streamed while what waited is about to be applied, the
// first that is in the sink already lets nothing older pass, whatever comes after it.
func TestStreamedTwiceBesideWhatWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStand(tableA)
		o := quick(0, 1)
		o.Tiers = byName{}
		stop := st.start(t, o, Observer{})
		st.in("now", 100, 0, "past the load")
		st.in("hourly", 110, 1, "waits")
		until(t, "it waits", func() bool { return st.markOf(tableA).Waits("hourly") == 1 })
		commit := make(chan struct{})
		st.sink.mu.Lock()
		st.sink.block = commit
		st.sink.mu.Unlock()
		st.in("now", 120, 8, "is being committed")
		synctest.Wait()
		st.in("now", 130, 9, "is in the open batch")
		_ = st.sink.SetDue(t.Context(), tableA, "hourly", change.Position{Epoch: 1, Commit: 120})
		time.Sleep(time.Second) // by the test's clock: the batch of what waited is made
		st.in("now", 140, 1, "first")
		synctest.Wait()
		commit <- struct{}{} // so that the open batch is sent
		synctest.Wait()
		st.in("now", 150, 1, "second") // is in the next
		synctest.Wait()
		commit <- struct{}{}
		synctest.Wait()
		st.holds(t, map[int]string{1: "first", 8: "is being committed", 9: "is in the open batch"})
		commit <- struct{}{} // the batch of what waited
		synctest.Wait()
		st.holds(t, map[int]string{1: "first"})
		if m := st.markOf(tableA); m.Behind() || m.Pos.Commit < 140 {
			t.Errorf("%+v", m)
		}
		close(commit)
		until(t, "all is there", func() bool { return st.value(tableA, 1) == "second" })
		_ = stop()
	})
}

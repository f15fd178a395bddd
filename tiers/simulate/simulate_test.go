package simulate

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/tiers"
)

func schema(full bool, columns ...string) *change.Schema {
	s := &change.Schema{Table: change.TableID{Schema: "public", Name: "event"}, Key: []int{0}, Full: full}
	for _, c := range columns {
		s.Columns = append(s.Columns, change.Column{Name: c, Type: change.Type{Name: "text", Kind: change.Base, Base: "text"}})
	}
	return s
}

func row(vs ...any) (out change.Row) {
	for _, v := range vs {
		out = append(out, change.TextValue(fmt.Sprint(v)))
	}
	return out
}

// tape adds changes a second apart.
type tape struct {
	t  *testing.T
	x  *Table
	s  *change.Schema
	at time.Time
	n  uint32
}

func newTape(t *testing.T, tr *Trace, s *change.Schema, cs ...Classification) *tape {
	t.Helper()
	x, err := tr.Table(s.Table, 1, cs...)
	if err != nil {
		t.Fatal(err)
	}
	return &tape{t: t, x: x, s: s, at: time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)}
}

func (p *tape) put(op change.Op, old, now change.Row) {
	p.t.Helper()
	p.n++
	p.at = p.at.Add(time.Second)
	of := now
	if op == change.Delete {
		of = old
	}
	k, err := change.MakeKey(p.s, of)
	if err == nil {
		err = p.x.Add(p.s, &change.Change{Table: p.s.Table, Schema: p.s.Version(), Op: op, Key: k, Old: old, New: now, CommitTime: p.at,
			Pos: change.Position{Epoch: 1, Commit: 100, Ordinal: p.n}}, 0, 100)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

var big = Limits{20_000, 16 << 20}

// Ten keys, each changed once a second for a minute in turn: a run each minute writes
// each of them once.
func TestLastStateOfEachKeyIsWritten(t *testing.T) {
	tr := New(Options{})
	p := newTape(t, tr, schema(false, "id", "n"))
	for i := range 599 {
		p.put(change.Update, nil, row(i%10, i))
	}
	minute := Tier{"m", time.Minute, 0}
	out := p.x.Run(Whole(minute), big)
	if out.Changes != 599 || out.Waited != 599 || out.Streamed.Rows != 0 || out.Swept != (Written{100, 10_000}) || out.Batches != 10 || out.Sweeps != 10 || out.Reread != 2*out.Bytes {
		t.Errorf("%+v", out)
	}
	if m := out.Wait.Max(); m != 60*time.Second {
		t.Errorf("the longest wait is %s", m)
	}
	if q := out.Wait.Quantile(0.5); math.Abs(q.Seconds()-30) > 1 {
		t.Errorf("the median wait is %s", q)
	}
	// Each batch has at most four rows.
	if out := p.x.Run(Whole(minute), Limits{4, 1 << 20}); out.Sweeps != 10 || out.Batches < 140 || out.Swept.Rows < 500 {
		t.Errorf("%+v", out)
	}
	// Half of the keys wait in a tier that runs twice as often, each by its own time.
	both := Policy{[]Tier{minute, {"often", 30 * time.Second, 0}}, func(e *event) uint8 { return uint8(1 + e.key%2) }}
	if out := p.x.Run(both, big); out.Sweeps != 20 || out.Swept != (Written{150, 15_000}) || out.ByTier[0].Max() != 59*time.Second || out.ByTier[1].Max() != 30*time.Second {
		t.Errorf("%+v", out)
	}
	if out := p.x.Run(Streaming(), big); out.Streamed.Rows != 599 || out.Waited != 0 || out.Wait.Quantile(0.99) != 0 {
		t.Errorf("%+v", out)
	}
	// A jitter is half of what it may be.
	if out := p.x.Run(Whole(Tier{"m", time.Minute, 20 * time.Second}), big); out.Wait.Max() != 60*time.Second || out.Sweeps != 11 {
		t.Errorf("%+v", out)
	}
	if f, l := tr.Span(); l-f != 598_000_000 {
		t.Error(f, l)
	}
	tr.Cut(p.at.Add(-time.Minute).UnixMicro())
	if out := p.x.Run(Streaming(), big); out.Changes != 538 || tr.Kept() != 538 {
		t.Errorf("after the cut: %+v", out)
	}
}

func TestATruncateAndALeftOutValueLetWhatWaitsGo(t *testing.T) {
	tr := New(Options{})
	s := schema(true, "id", "class", "body")
	p := newTape(t, tr, s, Classification{[]string{"hourly"}, []tiers.Rule{{Where: "class = 'wait'", Tier: "hourly"}}})
	hourly := Given(0, []Tier{{"hourly", time.Hour, 0}})
	p.put(change.Insert, nil, row(1, "wait", "long"))
	p.put(change.Insert, nil, row(2, "wait", "long"))
	left := row(1, "now", "")
	left[2] = change.Value{Kind: change.Unchanged}
	p.put(change.Update, row(1, "wait", "long"), left)
	if out := p.x.Run(hourly, big); out.Forced != 1 || out.Swept.Rows != 2 || out.Wait.Max() != 2*time.Second {
		t.Errorf("%+v", out)
	}
	p.put(change.Insert, nil, row(3, "wait", "long"))
	if err := p.x.Add(nil, &change.Change{Op: change.Truncate, CommitTime: p.at.Add(time.Second), Pos: change.Position{Epoch: 1, Commit: 200}}, 0, 10); err != nil {
		t.Fatal(err)
	}
	if out := p.x.Run(hourly, big); out.Forced != 2 || out.Sweeps != 2 || out.Changes != 5 {
		t.Errorf("%+v", out)
	}
}

// A trace that grew beyond its limit keeps some keys with all their changes, and its
// figures are near those of the whole.
func TestTraceOutgrowsItsLimit(t *testing.T) {
	s := schema(false, "id", "n")
	whole, part := New(Options{}), New(Options{Limit: 4000})
	a, b := newTape(t, whole, s), newTape(t, part, s)
	for i := range 20_000 {
		k := int(Mix(uint64(i)) % 3000)
		a.put(change.Update, nil, row(k, i))
		b.put(change.Update, nil, row(k, i))
	}
	if part.One() < 4 || part.Kept() > 4000 || whole.One() != 1 {
		t.Fatalf("one of %d keys, %d changes", part.One(), part.Kept())
	}
	m := Whole(Tier{"h", 2 * time.Hour, 0})
	x, y := a.x.Run(m, big), b.x.Run(m, big)
	for what, v := range map[string][2]int64{"changes": {x.Changes, y.Changes}, "rows": {x.Swept.Rows, y.Swept.Rows}, "bytes": {x.Swept.Bytes, y.Swept.Bytes}} {
		if d := math.Abs(float64(v[0]-v[1])) / float64(v[0]); d > 0.1 {
			t.Errorf("%s: %d of the whole, %d by the sample", what, v[0], v[1])
		}
	}
	if k := x.Swept.Rows * 100 / x.Changes; k > 60 {
		t.Errorf("nothing was merged: %d %%", k)
	}
}

func TestWhatColumnsSay(t *testing.T) {
	tr := New(Options{})
	s := schema(true, "id", "state", "hits", "seen", "note")
	p := newTape(t, tr, s)
	for i := range 1000 {
		old := row(i%50, "ok", i, i, "n")
		switch {
		case i%20 == 0:
			p.put(change.Update, old, row(i%50, "bad", i, i, fmt.Sprint("note", i)))
		case i%2 == 0:
			p.put(change.Update, old, row(i%50, "ok", i+1, i, "n"))
		default:
			p.put(change.Update, old, row(i%50, "ok", i+1, i+1, "n"))
		}
	}
	cols, share := p.x.Volatile()
	if !slices.Equal(cols, []string{"hits", "seen"}) || math.Abs(share-0.95) > 0.001 {
		t.Errorf("%v, %g", cols, share)
	}
	few := p.x.Few()
	if len(few) != 1 || few[0].Column != "state" || few[0].Values != 2 || math.Abs(few[0].Shares[0]-0.95) > 0.001 {
		t.Errorf("%+v", few)
	}
	out := p.x.Run(p.x.Columns(Tier{"m", time.Hour, 0}, cols, Streaming()), big)
	if out.Waited != 950 || out.Streamed.Rows != 50 {
		t.Errorf("%+v", out)
	}
	blind := newTape(t, tr, schema(false, "id", "hits"))
	blind.put(change.Update, nil, row(1, 2))
	if cols, _ := blind.x.Volatile(); cols != nil || !blind.x.Blind() || p.x.Blind() {
		t.Error("what an update changed is told although the log does not say it")
	}
}

func TestDominated(t *testing.T) {
	got := Dominated([]Point{{100, 0, 0}, {50, 10, 60}, {50, 10, 70}, {60, 20, 60}, {50, 10, 60}})
	if !slices.Equal(got, []int{-1, -1, 1, 1, 1}) {
		t.Error(got)
	}
	rapid.Check(t, func(t *rapid.T) {
		n := func(name string) float64 { return float64(rapid.IntRange(0, 4).Draw(t, name)) }
		var ps []Point
		for range rapid.IntRange(1, 8).Draw(t, "points") {
			ps = append(ps, Point{n("cost"), n("mean"), n("max")})
		}
		best := 0
		for i, by := range Dominated(ps) {
			if by < 0 {
				best++
				continue
			}
			if q, p := ps[by], ps[i]; q.Cost > p.Cost || q.Mean > p.Mean || q.Max > p.Max || q == p && by > i {
				t.Fatalf("%v is not dominated by %v", p, q)
			}
		}
		if best == 0 {
			t.Fatal("all are dominated")
		}
	})
}

func TestQuantilesAreWithinOnePercent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Int64Range(0, int64(48*time.Hour/time.Microsecond)), 1, 200).Draw(t, "waits")
		var a, b Waits
		for i, v := range all {
			if i%2 == 0 {
				a.add(v, 1)
			} else {
				b.add(v, 1)
			}
		}
		a.Merge(&b)
		slices.Sort(all)
		for _, q := range []float64{0.5, 0.95, 1} {
			want := float64(all[int(math.Ceil(q*float64(len(all))))-1])
			if got := float64(a.Quantile(q).Microseconds()); math.Abs(got-want) > want/100+1 {
				t.Fatalf("quantile %g is %g, want %g", q, got, want)
			}
		}
	})
}

package simulate

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/tiers"
)

// What readers would have seen is, by any classification, what a sink has at that time that
// is written row by row; and what keys were written adds up to what was written.
func TestReadersSeeWhatHasTakenEffect(t *testing.T) {
	s := schema(true, "id", "class", "n")
	minute := Tier{"m", time.Minute, 0}
	rapid.Check(t, func(rt *rapid.T) {
		tr := New(Options{})
		p := newTape(t, tr, s, Classification{[]string{"m"}, []tiers.Rule{{Where: "class = 'wait'", Tier: "m"}}})
		p.x.Watch("n", nil, "salt")
		type row3 struct {
			class string
			n     int
		}
		began := p.at.UnixMicro()
		now := map[int]*row3{}
		for k := range 3 { // before the first change
			if rapid.Bool().Draw(rt, "there") {
				now[k] = &row3{"now", 100 + k}
			}
		}
		type fact struct {
			at, vis int64
			key, n  int
			gone    bool
		}
		var facts []fact
		start := map[int]int{}
		for k, r := range now {
			start[k] = r.n
		}
		touched := map[int]bool{}
		for i := range rapid.IntRange(1, 40).Draw(rt, "changes") {
			k := rapid.IntRange(0, 4).Draw(rt, "key")
			touched[k] = true
			p.at = p.at.Add(time.Duration(rapid.IntRange(0, 20).Draw(rt, "pause")) * time.Second)
			next := &row3{rapid.SampledFrom([]string{"now", "wait"}).Draw(rt, "class"), i}
			f := fact{key: k, n: i}
			switch old := now[k]; {
			case old == nil:
				p.put(change.Insert, nil, row(k, next.class, next.n))
			case rapid.IntRange(0, 4).Draw(rt, "what") == 0:
				next, f.gone = nil, true
				p.put(change.Delete, row(k, old.class, old.n), nil)
			default:
				p.put(change.Update, row(k, old.class, old.n), row(k, next.class, next.n))
			}
			class := "now"
			if next != nil {
				class = next.class
			} else if now[k] != nil {
				class = now[k].class // a deletion has the old row: REPLICA IDENTITY is FULL
			}
			now[k] = next
			f.at = p.at.UnixMicro()
			if f.vis = f.at; class == "wait" {
				f.vis = minute.due(f.at)
			}
			facts = append(facts, f)
		}
		var times []int64
		for at := began; at < p.at.Add(2*time.Minute).UnixMicro(); at += 7_000_000 {
			times = append(times, at)
		}
		f := p.x.Follow(Given(0, []Tier{minute}), big, func(uint32) bool { return true })
		got := f.Read(times, 2, func(key uint32) int { return int(p.x.Entities()[key] % 2) })
		for j, at := range times {
			var want Moment
			for end := range 2 {
				rows := map[int]int{}
				for k := range touched {
					if n, ok := start[k]; ok {
						rows[k] = n
					}
				}
				for _, f := range facts { // in the order of the log; what is there of a key later is not taken back
					if end == 0 && f.at > at || end == 1 && f.vis > at {
						continue
					}
					delete(rows, f.key)
					if !f.gone {
						rows[f.key] = f.n
					}
				}
				count, sum := 0.0, 0.0
				for _, n := range rows {
					count, sum = count+1, sum+float64(n)
				}
				if end == 0 {
					want.Count, want.Sum = count, sum
				} else {
					want.SinkCount, want.SinkSum = count, sum
				}
			}
			have := got[0][j]
			for _, m := range got[1:] {
				have = Moment{have.Count + m[j].Count, have.Sum + m[j].Sum, have.SinkCount + m[j].SinkCount, have.SinkSum + m[j].SinkSum}
			}
			if have != want {
				rt.Fatalf("after %d s: %+v, want %+v", (at-began)/1e6, have, want)
			}
		}
		var sum OfKey
		for _, k := range f.ByKey {
			sum = OfKey{sum.Changes + k.Changes, sum.Rows + k.Rows, sum.Bytes + k.Bytes, sum.Wait + k.Wait}
		}
		if want := (OfKey{f.Changes, f.Streamed.Rows + f.Swept.Rows, f.Streamed.Bytes + f.Swept.Bytes, f.Outcome.Wait.Sum().Microseconds()}); sum != want {
			rt.Fatalf("keys add up to %+v, want %+v", sum, want)
		}
		if some := p.x.Follow(Given(0, []Tier{minute}), big, func(k uint32) bool { return k == 0 }); some.Changes != f.ByKey[0].Changes || some.ByKey[0] != f.ByKey[0] {
			rt.Fatalf("alone: %+v, among others: %+v", some.ByKey[0], f.ByKey[0])
		}
	})
}

func TestEntities(t *testing.T) {
	tr := New(Options{Limit: 50})
	s := schema(true, "id", "device")
	p := newTape(t, tr, s)
	p.x.Watch("", []string{"device"}, "salt")
	for i := range 40 {
		p.put(change.Insert, nil, row(i, i%4))
	}
	e := slices.Clone(p.x.Entities())
	slices.Sort(e)
	if n := len(slices.Compact(e)); n != 4 || len(p.x.Entities()) != 40 || e[0] == 0 {
		t.Errorf("%d entities", n)
	}
	for i := range 40 {
		p.put(change.Insert, nil, row(100+i, "x"))
	}
	if tr.One() < 2 || len(p.x.Entities()) != len(p.x.hashes) || len(p.x.watched.starts) != len(p.x.hashes) {
		t.Errorf("one of %d: %d entities of %d keys", tr.One(), len(p.x.Entities()), len(p.x.hashes))
	}
}

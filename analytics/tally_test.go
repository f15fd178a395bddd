package analytics

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever the order and the windows, nothing is lost between counting and rows.
func TestTally(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &Writer{o: Options{QueueRows: 1 << 20}, rows: map[string][]Row{}}
		now := time.Unix(1_700_000_000, 0)
		c := w.Tally(Labels{Pipeline: "p", Sink: "s", Lane: 3, Component: "deliver/s/3", Worker: "w"})
		c.now = func() time.Time { return now }
		ahead, within := time.Duration(5), time.Duration(2)
		c.Skew(func() (time.Duration, time.Duration, bool) {
			return ahead * time.Millisecond, within * time.Millisecond, true
		})
		var inserts, lagged, micros, resent, dead, retried, bytes, good, bad uint64
		next := int64(0)
		tabs := rapid.SampledFrom([]string{"a", "b"})
		for range rapid.IntRange(0, 40).Draw(t, "events") {
			n := rapid.IntRange(1, 9).Draw(t, "n")
			tab := tabs.Draw(t, "tab")
			switch rapid.IntRange(0, 8).Draw(t, "kind") {
			case 0:
				c.Applied(tab, Insert, n)
				inserts += uint64(n)
			case 1:
				d := time.Duration(rapid.IntRange(0, 1e9).Draw(t, "lag")) * time.Microsecond
				c.Lag(tab, d, n)
				lagged, micros = lagged+uint64(n), micros+uint64(n)*uint64(d.Microseconds())
			case 2:
				c.Duplicates(tab, n, 0)
				resent += uint64(n)
			case 3:
				c.Dead(tab, "X", n)
				dead += uint64(n)
			case 4:
				c.Retried("Y")
				retried++
			case 5:
				c.Passed(StageDeliver, "", int64(n), 1, 100, 1, time.Second)
				bytes += 100
			case 6:
				c.Moved("a", 0, next, next+int64(n), "1:0/1:1", 7)
				next += int64(n)
			case 7:
				c.Objective("o", n, 1)
				good, bad = good+uint64(n), bad+1
			case 8:
				c.Backlog(int64(n), 10)
				c.Tick()
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 4000).Draw(t, "ms")) * time.Millisecond)
		}
		c.Close()
		at := int64(0)
		for _, rows := range w.rows {
			for _, r := range rows {
				switch r := r.(type) {
				case *Applies:
					inserts -= r.Inserts
				case *Lag:
					lagged, micros = lagged-r.Changes, micros-r.Micros
					var n uint64
					for _, m := range r.Buckets {
						n += m
					}
					if n != r.Changes || r.Skew != 5000 || r.SkewError != 2000 {
						t.Fatalf("row %+v", r)
					}
				case *Duplicates:
					resent -= r.Resent
				case *DeadLetters:
					dead -= r.Count
				case *Retries:
					retried -= r.Count
				case *Throughput:
					bytes -= r.Bytes
				case *Objectives:
					good, bad = good-r.Good, bad-r.Bad
				case *Progress:
					if r.From != at {
						t.Fatalf("offsets from %d follow %d", r.From, at)
					}
					at = r.To
				}
			}
		}
		if inserts|lagged|micros|resent|dead|retried|bytes|good|bad != 0 || at != next {
			t.Fatalf("lost or doubled: %d %d %d %d %d %d %d %d %d, offsets to %d of %d", inserts, lagged, micros, resent, dead, retried, bytes, good, bad, at, next)
		}
	})
	var off *Tally
	off.Applied("a", Insert, 1)
	off.Tick()
	off.Close()
}

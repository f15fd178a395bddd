package deliver

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// What is told is true of each change to a hundredth, and is never less; of a backlog it is
// told a few times.
func TestLagsToldTogether(t *testing.T) {
	visible := time.Unix(1_000_000, 0)
	rapid.Check(t, func(t *rapid.T) {
		var runs []commitRun
		var each []time.Duration
		at := visible.Add(-time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "lag")))
		for range rapid.IntRange(0, 50).Draw(t, "runs") {
			at = at.Add(time.Duration(rapid.Int64Range(-int64(time.Millisecond), int64(20*time.Millisecond)).Draw(t, "step")))
			n := rapid.IntRange(1, 3).Draw(t, "changes")
			runs = append(runs, commitRun{at.UnixNano(), n})
			for range n {
				each = append(each, max(visible.Sub(at), 0))
			}
		}
		lags(runs, visible, func(d time.Duration, n int) {
			for _, was := range each[:n] {
				if d < was || d-was > max(d/100, 50*time.Microsecond) {
					t.Fatalf("%s is told as %s", was, d)
				}
			}
			each = each[n:]
		})
		if len(each) > 0 {
			t.Fatalf("%d changes are not told of", len(each))
		}
	})
	var backlog []commitRun
	for i := range 10_000 {
		backlog = append(backlog, commitRun{visible.Add(-20*time.Second + time.Duration(i)*time.Millisecond).UnixNano(), 1})
	}
	told := 0
	lags(backlog, visible, func(time.Duration, int) { told++ })
	if told > 200 {
		t.Errorf("%d tellings of 10 s of commits, 20 s ago", told)
	}
}

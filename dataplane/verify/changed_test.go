package verify

import (
	"context"
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// Between gives the world's writes as one partition.
func (w *world) Between(_ context.Context, _ sink.Partition, from, to int64, each func(*change.Change) error) error {
	w.mu.Lock()
	writes := append([]write{}, w.log[from:to]...)
	w.mu.Unlock()
	for _, c := range writes {
		if err := each(&change.Change{Op: change.Update, Key: keyOf(c.key)}); err != nil {
			return err
		}
	}
	return nil
}

// TestIncremental: of the keys that changed, exactly those are found that are wrong, and
// no others are looked at.
func TestIncremental(t *testing.T) {
	check(t, func(t *rapid.T) {
		w := newWorld(t)
		all := w.plant(t)
		want := map[change.Key]string{}
		changed := map[change.Key]bool{}
		touch := func(k int) { // it is written with what it is
			if v, ok := w.now[k]; ok {
				w.log = append(w.log, write{k, &v})
			} else {
				w.log = append(w.log, write{k, nil})
			}
			changed[keyOf(k)] = true
			if f, is := all[keyOf(k)]; is {
				want[keyOf(k)] = f
			}
		}
		for range rapid.IntRange(0, 5).Draw(t, "before") {
			touch(w.wide + rapid.IntRange(0, 60).Draw(t, "key"))
		}
		from := int64(len(w.log))
		clear(want)
		clear(changed)
		for range rapid.IntRange(0, 20).Draw(t, "after") {
			k := w.wide + rapid.IntRange(0, 60).Draw(t, "key")
			touch(k)
		}
		w.applied = len(w.log)
		to := int64(len(w.log))
		res, err := Incremental(t.Context(), side{w, false}, sinkSide{side{w, true}, true}, w, w, Subject{Schema: schema}, []int64{from}, []int64{to}, Options{Rounds: 1000})
		if err != nil {
			t.Fatal(err)
		}
		exactly(t, &res, want)
		if res.Rows != int64(len(changed)) {
			t.Fatalf("%d keys changed: %+v", len(changed), res)
		}
		if again := maps.Clone(want); len(again) != len(res.Findings) {
			t.Fatalf("%v: %+v", want, res)
		}
	})
}

// truncated is a log with a change that concerns all keys.
type truncated struct{}

func (truncated) Between(_ context.Context, _ sink.Partition, _, _ int64, each func(*change.Change) error) error {
	return each(&change.Change{Op: change.Truncate})
}

// TestIncrementalCannotTell: what the log does not say is not equal.
func TestIncrementalCannotTell(t *testing.T) {
	w := seeded(1)
	for name, c := range map[string]struct {
		log      Changes
		from, to []int64
		says     string
	}{
		"truncated":  {truncated{}, []int64{0}, []int64{1}, "truncated"},
		"partitions": {w, []int64{0}, []int64{0, 0}, "1 partitions and has 2"},
		"backwards":  {w, []int64{5}, []int64{3}, "offset 5"},
	} {
		res, err := Incremental(t.Context(), side{w, false}, sinkSide{side{w, true}, true}, w, c.log, Subject{Schema: schema}, c.from, c.to, Options{})
		if err != nil || res.Verdict != Inconclusive || !strings.Contains(res.Reason, c.says) {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
	}
}

package kafka

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"pgregory.net/rapid"

	"syncline/dataplane/capture"
	"syncline/dataplane/change"
)

// A search by halves finds what a look at every record finds, with late writers,
// clocks that are set back, and gaps.
func TestIndexFindsWhatAScanFinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type rec struct {
			at int64
			e  entry
		}
		var recs []rec
		first := rapid.Int64Range(0, 1000).Draw(t, "first")
		at, pos, clock := first, change.Position{Epoch: 1}, time.Unix(1e9, 0)
		var latest time.Time
		late := 0
		for range rapid.IntRange(0, 600).Draw(t, "records") {
			at += rapid.Int64Range(0, 3).Draw(t, "gap")
			e := entry{Progress: capture.Progress{Epoch: pos.Epoch, Through: pos.Commit, At: clock}}
			if rapid.IntRange(0, 99).Draw(t, "epoch") == 0 {
				pos = change.Position{Epoch: pos.Epoch + 1}
			}
			pos.Commit += change.LSN(rapid.IntRange(1, 3).Draw(t, "on"))
			clock = clock.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "clock")) * time.Second)
			if rapid.IntRange(0, 50).Draw(t, "set") == 0 {
				clock = clock.Add(time.Duration(rapid.IntRange(-1000, 1000).Draw(t, "by")) * time.Second)
			}
			if late < 3 && rapid.IntRange(0, 19).Draw(t, "late") == 0 && len(recs) > 0 {
				late++
				e = recs[max(0, len(recs)-1-rapid.IntRange(0, 20).Draw(t, "back"))].e
			} else {
				late = 0
				if e.At.After(latest) {
					latest = e.At
				}
				e.Latest = latest
				e.Seen = e.Through + change.LSN(rapid.IntRange(0, 1).Draw(t, "ahead"))
			}
			recs = append(recs, rec{at, e})
			at++
		}
		end := at
		read := 0
		find := func(f func(*entry) bool) (prev, next *entry, err error) {
			return find(first, end, f, func(from, to int64, most int, g func(int64, *entry)) error {
				for _, r := range recs {
					if r.at >= from && r.at < to && most > 0 {
						most--
						read++
						g(r.at, &r.e)
					}
				}
				return nil
			})
		}
		scan := func(f func(*entry) bool) (prev, next *entry) {
			for i := range recs {
				if f(&recs[i].e) {
					return prev, &recs[i].e
				}
				prev = &recs[i].e
			}
			return prev, nil
		}
		show := func(e *entry) string { return fmt.Sprintf("%+v", e) }
		p := change.Position{Epoch: uint32(rapid.IntRange(1, 4).Draw(t, "epoch asked")), Commit: change.LSN(rapid.IntRange(0, 1300).Draw(t, "asked"))}
		when := time.Unix(1e9, 0).Add(time.Duration(rapid.IntRange(-10, 8000).Draw(t, "time asked")) * time.Second)
		for name, f := range map[string]func(*entry) bool{
			"beyond": func(e *entry) bool { return e.beyond(p) },
			"done":   func(e *entry) bool { return !e.done().Before(p) },
			"time":   func(e *entry) bool { return !e.Latest.Before(when) },
		} {
			read = 0
			prev, next, err := find(f)
			wantPrev, wantNext := scan(f)
			if err != nil || show(prev) != show(wantPrev) || show(next) != show(wantNext) {
				t.Fatalf("%s: %s, %s (%v), want %s, %s", name, show(prev), show(next), err, show(wantPrev), show(wantNext))
			}
			if read > 8*indexTail*12 {
				t.Fatalf("%s: looked at %d records", name, read)
			}
		}
	})
}

// Whatever is appended when, acknowledged or not: from the offsets of Before on a
// reader meets every later change, and below those of After lies every earlier one.
func TestIndexOfALog(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	ensure(t, o, TopicOptions{Partitions: 3}, orders)
	x, err := OpenIndex(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	if p, err := x.Before(t.Context(), change.Position{Epoch: 1, Commit: 5}); err != nil || p.Found || p.Why != noIndex {
		t.Errorf("of an empty index: %+v, %v", p, err)
	}
	clock := func(n int) time.Time { return time.Unix(1e9+int64(n), 0).UTC() }
	const n = 400
	session := func(from, to, step int) {
		w := openWriter(t, o, WriterOptions{IndexEvery: time.Nanosecond})
		var seq uint64
		for i := from; i < to; i++ {
			var err error
			if seq, err = w.Append(t.Context(), testChange(i, fmt.Sprint(i%50), "x")); err != nil {
				t.Fatal(err)
			}
			if i%step == step-1 { // what is appended is ahead of what is told
				if i%3 == 0 {
					waitAcked(t, w, seq)
				}
				acked, err := w.Acked()
				if err != nil {
					t.Fatal(err)
				}
				told := (from + int(acked)) / 10
				if err := w.PutProgress(t.Context(), capture.Progress{Epoch: 1, Through: change.LSN(told + 1), End: change.LSN(n/10 + 2), At: clock(told)}); err != nil {
					t.Fatal(err)
				}
			}
		}
		waitAcked(t, w, seq)
		w.Close()
	}
	session(0, 200, 7)
	session(150, n, 5) // resends
	w := openWriter(t, o, WriterOptions{IndexEvery: time.Nanosecond})
	if err := w.PutProgress(t.Context(), capture.Progress{Epoch: 1, Through: 1000, End: 1000, At: clock(1000)}); err != nil {
		t.Fatal(err)
	}
	l := openLog(t, o, LogOptions{})
	last, _ := l.Progress()
	var all [3][]change.Position
	for p := range all {
		for _, r := range readAll(t, l, orders, p, -1, int(last.Offsets[orders.String()][p])) {
			all[p] = append(all[p], r.Change.Pos)
		}
	}
	for commit := range change.LSN(n/10 + 4) {
		at := change.Position{Epoch: 1, Commit: commit, Ordinal: math.MaxUint32}
		before, err := x.Before(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		after, err := x.After(t.Context(), at)
		if err != nil || !after.Found {
			t.Fatalf("after %s: %+v, %v", at, after, err)
		}
		for p := range all {
			met := map[change.Position]bool{}
			from := int64(0)
			if before.Found {
				from = before.Offsets[orders][p]
			}
			for i, pos := range all[p] {
				if int64(i) >= from {
					met[pos] = true
				}
			}
			for i, pos := range all[p] {
				if at.Before(pos) && !met[pos] {
					t.Fatalf("partition %d: %s at offset %d is before the place of %s, %d", p, pos, i, at, from)
				}
			}
			met = map[change.Position]bool{}
			for i, pos := range all[p] {
				if int64(i) < after.Offsets[orders][p] {
					met[pos] = true
				}
			}
			for _, pos := range all[p] {
				if !at.Before(pos) && !met[pos] {
					t.Fatalf("partition %d: %s is beyond the end of %s", p, pos, at)
				}
			}
		}
	}
	if p, err := x.After(t.Context(), change.Position{Epoch: 1, Commit: 2000}); err != nil || p.Found || !strings.Contains(p.Why, "the index ends at 1:0/3E7:") {
		t.Errorf("after the end: %+v, %v", p, err)
	}
	if p, err := x.BeforeTime(t.Context(), clock(-1)); err != nil || p.Found || !strings.Contains(p.Why, "the index begins later") {
		t.Errorf("before the first: %+v, %v", p, err)
	}
	if p, err := x.AfterTime(t.Context(), clock(500)); err != nil || !p.Found || p.Through != 1000 {
		t.Errorf("after a time: %+v, %v", p, err)
	}
	if p, err := x.AfterTime(t.Context(), clock(2000)); err != nil || p.Found {
		t.Errorf("after the last time: %+v, %v", p, err)
	}
}

// An index is written at its pace, only by sources that say how far their log
// goes, and goes on with the highest time of the writer before.
func TestIndexIsWritten(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	ensure(t, o, TopicOptions{Partitions: 1}, orders)
	put := func(w *Writer, n int, end change.LSN) {
		t.Helper()
		if err := w.PutProgress(t.Context(), capture.Progress{Epoch: 1, Through: change.LSN(n), End: end, At: time.Unix(int64(n), 0).UTC()}); err != nil {
			t.Fatal(err)
		}
	}
	entries := func() (out []entry) {
		t.Helper()
		x, err := OpenIndex(o)
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		ends, err := x.c.ends(t.Context(), []partition{x.p})
		if err != nil {
			t.Fatal(err)
		}
		err = x.c.scan(t.Context(), x.p, 0, ends[x.p][1], func(r rawRecord) error {
			e, err := decodeEntry(x.p, r)
			out = append(out, e)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	w := openWriter(t, o, WriterOptions{})
	put(w, 10, 0)
	put(w, 500, 600)
	put(w, 501, 601) // too soon
	w.Close()
	w = openWriter(t, o, WriterOptions{})
	put(w, 20, 600)
	got := entries()
	if len(got) != 2 || got[0].Through != 500 || got[0].Seen != 600 || got[1].Through != 20 || !got[1].Latest.Equal(time.Unix(500, 0)) {
		b, _ := json.Marshal(got)
		t.Errorf("index: %s", b)
	}
	// A pipeline from before there were indexes.
	a, err := OpenAdmin(o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	name := IndexTopic(o.Prefix, o.Pipeline)
	if _, err := a.c.client.DeleteTopics(t.Context(), &kgo.DeleteTopicsRequest{Topics: []string{name}}); err != nil {
		t.Fatal(err)
	}
	if err := a.awaitGone(t.Context(), []string{name}); err != nil {
		t.Fatal(err)
	}
	w = openWriter(t, o, WriterOptions{})
	put(w, 30, 600)
	x, err := OpenIndex(o)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if p, err := x.Before(t.Context(), change.Position{Epoch: 1, Commit: 1}); err != nil || p.Why != noIndex {
		t.Errorf("without the topic: %+v, %v", p, err)
	}
	for range 2 {
		if err := a.EnsureIndex(t.Context(), TopicOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	w = openWriter(t, o, WriterOptions{})
	put(w, 40, 600)
	if got := entries(); len(got) != 1 || got[0].Through != 40 {
		t.Errorf("the new index: %+v", got)
	}
}

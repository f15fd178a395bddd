package replay

import (
	"context"
	"testing"
	"time"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// A window hands on what lies between its places, and tells of its end only when
// all partitions have come to it.
func TestWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 3).Draw(t, "partitions")
		log := &memLog{parts: make([][]*change.Change, n), first: make([]int64, n)}
		at := func(name string) change.Position {
			return change.Position{Epoch: 1, Commit: change.LSN(rapid.IntRange(0, 40).Draw(t, name))}
		}
		w := &window{log: log, since: at("since"), until: at("until"), wait: time.Millisecond, tails: map[sink.Partition]int64{}}
		for p := range n {
			for i := range rapid.IntRange(0, 30).Draw(t, "records") {
				var c *change.Change
				if rapid.IntRange(0, 9).Draw(t, "given up") > 0 {
					c = &change.Change{Pos: change.Position{Epoch: 1, Commit: change.LSN(i + rapid.IntRange(0, 5).Draw(t, "at"))}}
				}
				log.parts[p] = append(log.parts[p], c)
			}
			w.ends = append(w.ends, rapid.Int64Range(0, int64(len(log.parts[p]))).Draw(t, "end"))
		}
		for p := range n {
			if _, ok := w.Progress(); ok {
				t.Fatal("told of its end before all partitions were read")
			}
			part := sink.Partition{Table: table, N: p}
			from := rapid.Int64Range(0, w.ends[p]).Draw(t, "from")
			r, err := w.Open(t.Context(), part, from)
			if err != nil {
				t.Fatal(err)
			}
			var want []int64
			for i := from; i < w.ends[p]; i++ {
				if c := log.parts[p][i]; c != nil && w.since.Before(c.Pos) && !w.until.Before(c.Pos) {
					want = append(want, i)
				}
			}
			tail := from
			for _, i := range want {
				recs, err := r.Read(t.Context(), 1)
				if err != nil || len(recs) != 1 || recs[0].Offset != i {
					t.Fatalf("partition %d: %v, %v, want offset %d", p, recs, err, i)
				}
				tail = recs[0].Next
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			if recs, err := r.Read(ctx, 1); err == nil || r.Lag() != 0 {
				t.Fatalf("partition %d: %v after its end", p, recs)
			}
			cancel()
			if got, ok := w.tails[part]; ok && got != tail {
				t.Fatalf("partition %d ends at %d, want %d", p, got, tail)
			} else if !ok {
				w.tails[part] = tail // the short deadline was up before the log's end was known
			}
		}
		pr, ok := w.Progress()
		if !ok || len(pr.Offsets[table.String()]) != n || w.end().Before(w.until) || pr.Through != w.end().Commit+1 {
			t.Fatalf("%+v %v", pr, ok)
		}
	})
}

func TestCut(t *testing.T) {
	other := change.TableID{Schema: "shop", Name: "other"}
	mark := func(id change.TableID, n int, lsn change.LSN, offset int64) sink.Watermark {
		return sink.Watermark{Partition: sink.Partition{Table: id, N: n}, Pos: change.Position{Epoch: 1, Commit: lsn}, Offset: offset}
	}
	until, end := Cut(table, []sink.Watermark{mark(table, 1, 30, 7), mark(other, 0, 5, 1), mark(table, 0, 20, 9), mark(table, 2, 40, -1)})
	if until.Commit != 20 || len(end) != 3 || end[0] != 9 || end[1] != 7 || end[2] != 0 {
		t.Errorf("%s %v", until, end)
	}
}

// What cannot be rebuilt is refused before the sink is touched.
func TestRebuildRefuses(t *testing.T) {
	log := &memLog{parts: [][]*change.Change{{at(1, change.Insert, 1), at(2, change.Insert, 1)}}, first: []int64{1}}
	for _, c := range []struct {
		b    Rebuild
		want fault.Code
	}{
		{Rebuild{Table: sink.Table{ID: table, Partitions: 1}}, CodeBadRequest},
		{Rebuild{Table: sink.Table{ID: table, Partitions: 1}, End: []int64{2}, From: []int64{1, 2}}, CodeBadRequest},
		{Rebuild{Table: sink.Table{ID: table, Partitions: 1}, End: []int64{2}, From: []int64{0}}, CodeExpired},
		{Rebuild{Table: sink.Table{ID: table, Partitions: 1}, End: []int64{3}}, deliver.CodeOffsetGone},
	} {
		_, err := c.b.Run(t.Context(), log, noTables{}, nil, deliver.Options{}, deliver.Observer{})
		if !fault.Is(err, c.want) || fault.Retryable(err) {
			t.Errorf("%+v: %v, want %s", c.b, err, c.want)
		}
	}
}

// noTables is a sink with an empty ledger.
type noTables struct{ sink.Sink }

func (noTables) Init(context.Context) error                   { return nil }
func (noTables) Tables(context.Context) ([]sink.Table, error) { return nil, nil }

// Deleted tells of each key what its last change in the window was, however often a
// writer has repeated itself.
func TestDeleted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const n = 2
		log := &memLog{parts: make([][]*change.Change, n), first: make([]int64, n)}
		since, until := rapid.IntRange(0, 10).Draw(t, "since"), rapid.IntRange(20, 50).Draw(t, "until")
		dead, cut := map[change.Key]bool{}, false
		var all []*change.Change
		for i := 1; i <= rapid.IntRange(0, 40).Draw(t, "changes"); i++ {
			k := keyOf(rapid.IntRange(0, 5).Draw(t, "key"))
			c := &change.Change{Op: rapid.SampledFrom([]change.Op{change.Insert, change.Update, change.Delete, change.Delete}).Draw(t, "op"), Key: k, Pos: change.Position{Epoch: 1, Commit: change.LSN(i)}}
			if rapid.IntRange(0, 30).Draw(t, "truncate") == 0 {
				c.Op, c.Key = change.Truncate, ""
			}
			all = append(all, c)
			if i <= since || i > until {
				continue
			}
			if c.Op == change.Truncate {
				cut, dead = true, map[change.Key]bool{}
			} else {
				dead[k] = c.Op == change.Delete
			}
		}
		for p := range n {
			var mine []*change.Change
			for _, c := range all {
				if c.Op == change.Truncate || c.Key.Partition(n) == p {
					mine = append(mine, c)
				}
			}
			again := rapid.IntRange(0, len(mine)).Draw(t, "repeated from")
			log.parts[p] = append(append([]*change.Change{}, mine...), mine[again:max(again, len(mine)-rapid.IntRange(0, 3).Draw(t, "cut"))]...)
		}
		b := Rebuild{Table: sink.Table{ID: table, Partitions: n}, Since: change.Position{Epoch: 1, Commit: change.LSN(since)}, Until: change.Position{Epoch: 1, Commit: change.LSN(until)},
			End: []int64{int64(len(log.parts[0])), int64(len(log.parts[1]))}, Wait: time.Millisecond}
		deleted, ok, err := b.Deleted(t.Context(), log)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		for i := range 7 {
			k := keyOf(i)
			is, touched := dead[k]
			if touched && !is {
				continue // the copy has its row
			}
			if got := deleted(k); got != (is || cut) {
				t.Fatalf("key %d: deleted %v, want %v", i, got, is || cut)
			}
		}
	})
}

package deliver

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// scattered lets changes wait by a hash of the rules and their positions, so that those
// of one key do and do not in any order.
type scattered string

func (r scattered) Rules(change.TableID) string { return string(r) }

func (scattered) Classify(rules string, _ *change.Schema) (func(*change.Change) (string, error), error) {
	return func(c *change.Change) (string, error) { return tierBy(rules, c), nil }, nil
}

func tierBy(rules string, c *change.Change) string {
	if rules == "" || c.Op == change.Delete && strings.HasPrefix(rules, "deletes stream") {
		return ""
	}
	h := fnv.New32a()
	_, _ = fmt.Fprint(h, rules, c.Pos)
	return [...]string{"", "", "hourly", "hourly", "daily"}[h.Sum32()/7%5]
}

var ruleSets = []scattered{"one", "two", "deletes stream", ""}

// claims compares a table with what its watermarks say of it, after each commit: exactly
// the changes at or before them are there, and those streamed ahead of them.
func (w *world) claims(id change.TableID) string {
	m := w.sink
	t := m.tables[id]
	n := w.parts[id]
	parked := map[change.Key]bool{}
	for _, d := range m.dead {
		parked[d.Key] = true
	}
	for p := range n {
		mark := m.mark(sink.Partition{Table: id, N: p})
		if mark.Pos.Commit <= t.info.LoadedTo {
			continue // the load may be ahead of it
		}
		want, appended := rows{}, map[change.Position]int{}
		for _, tx := range w.commits {
			for _, c := range tx {
				if c.Table != id || mark.Pos.Before(c.Pos) && (!mark.Behind() || mark.Ahead.Pos.Before(c.Pos) || tierBy(mark.Ahead.Rules, c) != "" || c.Op == change.Truncate) {
					continue
				}
				switch {
				case c.Op == change.Truncate:
					clear(want)
				case c.Key == "":
					if w.appends[c.Pos] > 0 && int(c.Pos.Ordinal)%n == p {
						appended[c.Pos]++
					}
				case c.Key.Partition(n) != p:
				case c.Op == change.Delete:
					delete(want, c.Key)
				default:
					row := map[string]change.Value{}
					for k, v := range want[c.Key] {
						row[k] = v
					}
					for i, v := range c.New {
						if v.Kind != change.Unchanged {
							row[w.log.schemas[c.Schema].Columns[i].Name] = v
						}
					}
					want[c.Key] = row
				}
			}
		}
		if mark.Pos.Before(t.emptied) {
			clear(want) // other partitions have come to a TRUNCATE, too
		}
		for _, pos := range t.appended {
			if int(pos.Ordinal)%n == p {
				appended[pos]--
			}
		}
		for pos, n := range appended {
			if n != 0 {
				return fmt.Sprintf("partition %d is at %+v, and row %s is there %d times too few", p, mark, pos, n)
			}
		}
		for k, row := range want {
			for c, v := range row {
				if !parked[k] && !v.Equal(t.rows[k][c]) {
					return fmt.Sprintf("partition %d is at %+v, and key %s has %s in %s, not %s", p, mark, k, t.rows[k][c].Data, c, v.Data)
				}
			}
		}
		for k := range t.rows {
			if k.Partition(n) == p && want[k] == nil && !parked[k] {
				return fmt.Sprintf("partition %d is at %+v, and there is key %s", p, mark, k)
			}
		}
	}
	return ""
}

// dueNow and then asks for what waits, at random positions and in the end for all.
func (w *world) dueNow(ctx context.Context, s sink.Sink, every time.Duration) {
	for i := 0; ctx.Err() == nil && !w.finished(); i++ {
		at := w.through
		if i < 20 {
			at = commitLSN(rand.IntN(len(w.commits)))
		}
		for id := range w.parts {
			_ = s.SetDue(ctx, id, change.Position{Epoch: 1, Commit: at}) // it is asked again
		}
		time.Sleep(every)
	}
}

// Changes wait and are applied, rules change with every life of a lane, and at each
// commit the sink is exactly as its watermarks say.
func TestWaitingChangesTakeEffectOnceAndInOrder(t *testing.T) {
	for seed := range uint64(16) {
		w := newWorld(300+seed, 80)
		w.sink.looked = w.claims
		unrest := seed%4 != 0
		if unrest {
			w.log.chance, w.sink.chance = 60, 20
			w.placer.fail = w.log.fail
		}
		done := make(chan struct{})
		go func() {
			w.capture(func() { time.Sleep(time.Duration(rand.IntN(1500)) * time.Microsecond) })
			close(done)
		}()
		go w.dueNow(t.Context(), w.sink, 5*time.Millisecond)
		w.drive(t, 1+int(seed%3), unrest, func(o *Options) {
			o.Tiers = ruleSets[0]
			if unrest {
				o.Tiers = ruleSets[rand.IntN(len(ruleSets))]
			}
			o.SweepRows = 1 + rand.IntN(8)
		})
		<-done
		w.verify(t)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

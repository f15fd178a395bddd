package deliver

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/tiers"
	"syncline/tiers/aggregate"
	"syncline/tiers/simulate"
)

// ruled lets changes wait by the rules of a declaration.
type ruled []tiers.Rule

func (ruled) Rules(change.TableID) string { return "rules" }

func (ruled) Aggregates(string, *change.Schema) (map[string]*aggregate.Plan, error) { return nil, nil }

func (r ruled) Classify(_ string, s *change.Schema) (func(*change.Change) (string, error), error) {
	k, err := tiers.Compile(s, r)
	if err != nil {
		return nil, err
	}
	return func(c *change.Change) (string, error) {
		tier, err := k.Classify(c)
		if tier == tiers.Stream {
			tier = ""
		}
		return tier, err
	}, nil
}

// history draws changes of one partition, in windows between which what waits is due.
func history(t *rapid.T, s *change.Schema, every time.Duration) (windows [][]*change.Change) {
	text := func(v string) change.Value { return change.TextValue(v) }
	now := map[int]change.Row{}
	lsn := change.LSN(1000)
	put := func(w int, c *change.Change) {
		lsn += 10
		c.Table, c.Schema, c.XID, c.Pos = s.Table, s.Version(), 7, change.Position{Epoch: 1, Commit: lsn, Ordinal: 1}
		c.CommitTime = time.Unix(0, 0).Add(time.Duration(1000+w)*every + time.Duration(1+len(windows[w]))*time.Microsecond)
		windows[w] = append(windows[w], c)
	}
	whole := func(k int, class, body string, n int) change.Row {
		return change.Row{text(fmt.Sprint(k)), text(class), text(fmt.Sprint(n)), text(body)}
	}
	// The first passes the table's load, which lets nothing wait.
	windows = append(windows, nil)
	put(0, &change.Change{Op: change.Insert, Key: keyOf(99), New: whole(99, "now", "b", 0)})
	for w := range rapid.IntRange(1, 3).Draw(t, "windows") {
		if w > 0 {
			windows = append(windows, nil)
		}
		for n := range rapid.IntRange(1, 25).Draw(t, "changes") {
			k := rapid.IntRange(0, 5).Draw(t, "key")
			old := now[k]
			class := rapid.SampledFrom([]string{"now", "wait", "wait"}).Draw(t, "class")
			c := &change.Change{Op: change.Insert, Key: keyOf(k), New: whole(k, class, "b", n)}
			if old != nil {
				switch rapid.IntRange(0, 5).Draw(t, "what") {
				case 0:
					c.Op, c.New, c.Old = change.Delete, nil, old
				case 1: // only n
					c.Op, c.Old, c.New = change.Update, old, change.Row{old[0], old[1], text(fmt.Sprint("n", n)), old[3]}
				case 2: // the body is left out
					c.Op, c.Old, c.New = change.Update, old, change.Row{old[0], text(class), text(fmt.Sprint(n)), {Kind: change.Unchanged}}
				default:
					c.Op, c.Old = change.Update, old
				}
			}
			put(w, c)
			delete(now, k)
			if c.New != nil {
				row := append(change.Row(nil), c.New...)
				if row[3].Kind == change.Unchanged {
					row[3] = old[3]
				}
				now[k] = row
			}
		}
	}
	return windows
}

// What a simulation says is written is what a lane writes, change by change, by several
// classifications and sizes of batches.
func TestSimulationWritesWhatDeliveryWrites(t *testing.T) {
	const every = time.Hour
	s := schemaOf(tableA, true, "id", "class", "n", "body")
	s.Full = true
	hourly, rarely := simulate.Tier{Name: "hourly", Every: every}, simulate.Tier{Name: "rarely", Every: 2 * every}
	class := func(rules ...tiers.Rule) ruled { return rules }
	classes := map[string]ruled{
		"by row":       class(tiers.Rule{Where: "class in ('wait')", Tier: "hourly"}),
		"by columns":   class(tiers.Rule{Columns: []string{"n"}, Tier: "hourly"}),
		"both":         class(tiers.Rule{Where: "class = 'now'", Columns: []string{"n", "class"}, Tier: "hourly"}, tiers.Rule{Where: "class = 'wait'", Tier: "hourly"}),
		"all":          class(tiers.Rule{Tier: "hourly"}),
		"two tiers":    class(tiers.Rule{Where: "class = 'now'", Tier: "rarely"}, tiers.Rule{Where: "class = 'wait'", Tier: "hourly"}),
		"two of three": class(tiers.Rule{Columns: []string{"n"}, Tier: "rarely"}, tiers.Rule{Where: "class = 'wait'", Tier: "hourly"}),
	}
	for name, rules := range classes {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				windows := history(rt, s, every)
				limit := rapid.SampledFrom([]int{1, 2, 3, 100}).Draw(rt, "rows of a batch")
				trace := simulate.New(simulate.Options{})
				table, err := trace.Table(tableA, 1, simulate.Classification{Names: []string{"hourly", "rarely"}, Rules: rules})
				if err != nil {
					rt.Fatal(err)
				}
				for _, w := range windows {
					for _, c := range w {
						if err := table.Add(s, c, 0, 100); err != nil {
							rt.Fatal(err)
						}
					}
				}
				lim := simulate.Limits{Rows: limit, Bytes: 16 << 20}
				out := table.Run(simulate.Given(0, []simulate.Tier{hourly, rarely}), lim)

				st := newStand(tableA)
				st.log.schemas[s.Version()], st.s[tableA] = s, s
				st.sink.add(s, 1, sink.TableOptions{})
				o := quick(0, 1)
				o.Tiers, o.MaxBatchRows, o.SweepRows, o.SweepBytes = rules, 1, limit, lim.Bytes
				stop := st.start(t, o, Observer{})
				for i, w := range windows {
					last := w[len(w)-1].Pos
					st.log.append(sink.Partition{Table: tableA}, w...)
					until(t, "all is streamed", func() bool { return st.markOf(tableA).Streamed().Pos == last })
					var runs []string
					if (1000+i+1)%2 == 0 { // both at once
						runs = []string{sink.AllTiers}
					} else if runs = []string{"hourly"}; i == len(windows)-1 {
						runs = append(runs, "rarely")
					}
					st.log.progress(1, last.Commit+2, st.n)
					for _, due := range runs {
						_ = st.sink.SetDue(t.Context(), tableA, due, change.Position{Epoch: 1, Commit: last.Commit + 1})
						until(t, fmt.Sprint("window ", i, " is applied"), func() bool {
							m := st.markOf(tableA)
							left := slices.ContainsFunc(m.Backlogs(), func(b sink.Backlog) bool { return due == sink.AllTiers || b.Tier == due })
							return !left && !m.Streamed().Pos.Before(last)
						})
					}
				}
				_ = stop()
				if len(st.sink.wrong) > 0 {
					rt.Fatal(strings.Join(st.sink.wrong, "\n"))
				}
				if got := out.Streamed.Rows + out.Swept.Rows; got != int64(st.sink.applied) || out.Streamed.Rows+out.Waited != out.Changes {
					rt.Fatalf("simulated %d rows (%+v), the sink was given %d", got, out, st.sink.applied)
				}
			})
		})
	}
}

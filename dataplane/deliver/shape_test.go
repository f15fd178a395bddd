package deliver

import (
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"syncline/dataplane/change"
	"syncline/tiers/shape"
)

var shapeKey = shape.Keys{"env:K": []byte("0123456789abcdef")}

// shapeRules are of tableA: rows come and go by a value that most updates change, and by a
// sample; of others a column is masked or left out.
var shapeRules = []shape.Rule{
	{Of: "a", Do: shape.Withhold, Where: "a like '%1.1' or a like '3%'"},
	{Of: "b", Do: shape.Mask, Columns: []string{"b"}, Key: "env:K"},
	{Of: "c", Do: shape.Omit, Columns: []string{"a"}, Where: "a like '%2.1'"},
	{Of: "d", Do: shape.Sample, Columns: []string{"id"}, Rate: 700_000, Salt: "s"},
}

// tieredRules are by tier, of which an update may make a row another's.
func tieredRules() []shape.Rule {
	in := func(tier string) []shape.Case {
		return []shape.Case{{Where: "a like '%1.1'"}, {Where: "a like '%2.1' or a like '4%'", Is: tier == "one"}, {Where: "a like '%3.1'", Is: tier == "two"}, {Where: "id in ('1', '2', '3', '4', '5')", Is: tier == "one"}}
	}
	return []shape.Rule{
		{Of: "tiers[0]", Do: shape.Omit, Columns: []string{"b"}, Tier: "one", Cases: in("one")},
		{Of: "tiers[0]", Do: shape.Sample, Columns: []string{"id"}, Rate: 500_000, Salt: "s", Tier: "one", Cases: in("one")},
		{Of: "tiers[1]", Do: shape.Sample, Columns: []string{"b"}, Rate: 300_000, Salt: "s", Tier: "two", Cases: in("two")},
	}
}

// shapeOf is that of a definition of tableA by rules.
func shapeOf(t *testing.T, s *change.Schema, rules []shape.Rule) *shape.Shape {
	t.Helper()
	sh, err := shape.Compile(s, rules, shapeKey, shape.FromLog)
	if err != nil {
		t.Fatal(err)
	}
	return sh
}

// shaped makes of a world what a sink is to see of it: its log, its loads and its end,
// which is shaped row by row.
func (w *world) shaped(t *testing.T, rules []shape.Rule) {
	shapes := map[change.Version]*shape.Shape{}
	for v, s := range w.log.schemas {
		if s.Table == tableA {
			shapes[v] = shapeOf(t, s, rules)
			w.log.schemas[v] = shapes[v].Schema()
		}
	}
	w.log.withheld = map[*change.Change]bool{}
	for _, tx := range w.commits {
		for i, c := range tx {
			if shapes[c.Schema] == nil {
				continue
			}
			out, withheld, err := shapes[c.Schema].Apply(c)
			if err != nil {
				t.Fatal(err)
			}
			tx[i], w.log.withheld[out] = out, withheld
		}
	}
	table := w.sink.tables[tableA]
	of := func(all rows) {
		before := maps.Clone(all) // what is put back while it is ranged over may come again
		clear(all)
		for k, have := range before {
			s := schemaOf(tableA, true, "id", "a", "b")
			if _, evolved := have["c"]; evolved {
				s = schemaOf(tableA, true, "id", "a", "b", "c")
			}
			s.Full = true
			var row change.Row
			for _, c := range s.Columns {
				row = append(row, have[c.Name])
			}
			sh := shapeOf(t, s, rules)
			row, ok, err := sh.Row(row)
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				all[k] = map[string]change.Value{}
				for i, c := range sh.Schema().Columns {
					all[k][c.Name] = row[i]
				}
			}
		}
	}
	of(table.rows)
	of(w.final)
	table.info.Schema = shapeOf(t, table.info.Schema, rules).Schema()
}

// Whatever fails, and whatever waits, a sink ends with the rows of the source as they are
// shaped, and is at each commit what its watermarks say.
func TestASinkHoldsWhatItsShapeLeaves(t *testing.T) {
	left := 0 // rows; a world may end with a TRUNCATE
	for seed := range uint64(16) {
		w := buildWorld(600+seed, 80, 40, true)
		rules := shapeRules
		if seed%2 == 1 {
			rules = tieredRules()
		}
		w.shaped(t, rules)
		w.sink.looked = w.claims
		unrest := seed%3 != 0
		if unrest {
			w.log.chance, w.sink.chance = 60, 20
			w.placer.fail = w.log.fail
		}
		n := 0
		for _, withheld := range w.log.withheld {
			if withheld {
				n++
			}
		}
		if left += len(w.final); n < 10 {
			t.Fatalf("seed %d: %d changes are withheld: nothing is tested", seed, n)
		}
		done := make(chan struct{})
		go func() {
			w.capture(func() { time.Sleep(time.Duration(rand.IntN(1500)) * time.Microsecond) })
			close(done)
		}()
		go w.dueNow(t.Context(), w.sink, 5*time.Millisecond)
		w.drive(t, 1+int(seed%3), unrest, func(o *Options) {
			o.Tiers = ruleSets[seed%4]
			o.SweepRows = 1 + rand.IntN(8)
		})
		<-done
		w.verify(t)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if left < 20 {
		t.Errorf("%d rows are left: nothing is tested", left)
	}
}

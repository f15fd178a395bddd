package activities

import (
	"testing"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/pipeline"
)

// A load takes a row for what delivery would take its insertion for.
func TestSorting(t *testing.T) {
	col := func(name, base string) change.Column {
		return change.Column{Name: name, Type: change.Type{Name: base, Kind: change.Base, Base: base, Mod: -1}}
	}
	s := &change.Schema{Table: change.TableID{Schema: "s", Name: "t"}, Columns: []change.Column{col("severity", "text"), col("n", "int8")}}
	rule := func(where, tier string) pipeline.Class { return pipeline.Class{Match: "s.t", Where: where, Tier: tier} }
	spec := &pipeline.Spec{Tiers: []pipeline.Tier{{Name: "hourly"}, {Name: "bulk", Aggregate: &pipeline.Aggregate{Group: []string{"severity"}}}},
		Classify: []pipeline.Class{rule("severity = 'critical'", "stream"), rule("n < 0", "hourly"), rule("severity IS NOT NULL", "bulk")}}
	sort, err := sorting(spec.LoadRules(s.Table), s)
	if err != nil || len(sort.Plans) != 1 {
		t.Fatal(sort, err)
	}
	k := delivered{spec}
	tier, err := k.Classify(k.Rules(s.Table), s)
	if err != nil {
		t.Fatal(err)
	}
	for _, severity := range []change.Value{{}, change.TextValue("critical"), change.TextValue("info")} {
		for _, n := range []change.Value{{}, change.TextValue("-1"), change.TextValue("5")} {
			row := change.Row{severity, n}
			plan, err := sort.Of(row)
			if err != nil {
				t.Fatal(err)
			}
			of, err := tier(&change.Change{Table: s.Table, Op: change.Insert, New: row})
			if err != nil || (plan != nil) != (of == "bulk") || plan != nil && plan != sort.Plans[0] {
				t.Errorf("%v: aggregated %t, of tier %q, %v", row, plan != nil, of, err)
			}
		}
	}
	spec.Classify = spec.Classify[:2]
	if rules := spec.LoadRules(s.Table); rules != "" {
		t.Errorf("rules %s, of which none aggregates", rules)
	}
	if sort, err := sorting("", s); sort != nil || err != nil {
		t.Error(sort, err)
	}
	spec.Classify = []pipeline.Class{rule("gone = 1", "bulk")}
	if _, err := sorting(spec.LoadRules(s.Table), s); !fault.Is(err, CodeTierRules) {
		t.Error(err)
	}
}

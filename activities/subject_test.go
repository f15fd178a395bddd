package activities

import (
	"slices"
	"testing"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/pipeline"
	"syncline/tiers/shape"
)

func TestAggregatesOfASubject(t *testing.T) {
	col := func(name string) change.Column { return change.Column{Name: name} }
	s := &change.Schema{Table: change.TableID{Schema: "s", Name: "t"}, Columns: []change.Column{col("host"), col("zone"), col("n")}, Key: []int{0}}
	spec := &pipeline.Spec{Tiers: []pipeline.Tier{{Name: "hosts", Aggregate: &pipeline.Aggregate{Group: []string{"zone", "host"}}}, {Name: "zones", Aggregate: &pipeline.Aggregate{Group: []string{"zone"}}}, {Name: "rows"}}}
	for _, tier := range []string{"hosts", "zones", "rows", "hosts"} {
		spec.Classify = append(spec.Classify, pipeline.Class{Match: "s.*", Where: "n > 0", Tier: tier})
	}
	if got, want := aggregatesOf(spec, s), []contract.EraseAggregates{{Tier: "hosts", ByKey: true}, {Tier: "zones"}}; !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	s.Key = []int{1}
	if got, want := aggregatesOf(spec, s), []contract.EraseAggregates{{Tier: "hosts", ByKey: true}, {Tier: "zones", ByKey: true}}; !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	s.Table.Schema = "other"
	if got := aggregatesOf(spec, s); got != nil {
		t.Errorf("%+v", got)
	}
}

// Places are told apart by what they are, not by their order.
func TestPlacesOfAnErasure(t *testing.T) {
	before := []sink.Trace{{Place: "table", Found: 3}, {Place: "ledger", Found: 1}}
	after := []sink.Trace{{Place: "table"}, {Place: "aggregates", Found: 0, Sums: true, Stays: "x"}, {Place: "ledger", Found: 1}}
	ps := erasePlaces("pg", change.TableID{Name: "t"}, before, after, 7)
	if len(ps) != 3 || ps[0].Before != 3 || ps[0].Newer != 7 || ps[1].Before != 0 || !ps[1].Sums || ps[2].Before != 1 || ps[2].After != 1 || ps[2].Newer != 0 || ps[2].Sink != "pg" {
		t.Errorf("%+v", ps)
	}
}

// What cannot name rows of an append-only table is refused before anything is looked for.
func TestSubjectsThatCannotBeTold(t *testing.T) {
	id := change.TableID{Schema: "s", Name: "t"}
	typed := func(name, base string) change.Column {
		return change.Column{Name: name, Type: change.Type{Name: base, Kind: change.Base, Base: base, Mod: -1}}
	}
	masked := typed("masked", "text")
	masked.Masked = true
	at := sink.Table{ID: id, Schema: &change.Schema{Table: id, Columns: []change.Column{typed("host", "text"), typed("doc", "json"), masked, typed(shape.RateColumn, "int4")}}}
	for name, c := range map[string]struct {
		rows []map[string]string
		code fault.Code
	}{
		"no such column":                         {[]map[string]string{{"none": "1"}}, CodeEraseKeys},
		"a type that does not tell values apart": {[]map[string]string{{"doc": "{}"}}, sink.CodeEraseKey},
		"a masked column":                        {[]map[string]string{{"masked": "x"}}, sink.CodeEraseKey},
		"the rate of a sample":                   {[]map[string]string{{shape.RateColumn: "1"}}, CodeEraseKeys},
		"no column":                              {[]map[string]string{{}}, CodeEraseKeys},
		"different columns":                      {[]map[string]string{{"host": "a"}, {"host": "a", "doc": "b"}}, CodeEraseKeys},
	} {
		s := subjects{rows: map[change.TableID][]map[string]string{id: c.rows}}
		if _, _, err := s.of(t.Context(), at); !fault.Is(err, c.code) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

package activities

import (
	"strings"
	"testing"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/pipeline"
)

// What a plan says of a tier that keeps aggregates: which, or why it cannot.
func TestTierReportOfAggregates(t *testing.T) {
	col := func(name, base string) change.Column {
		return change.Column{Name: name, Type: change.Type{Name: base, Kind: change.Base, Base: base, Mod: -1}}
	}
	schema := func(key ...int) *change.Schema {
		return &change.Schema{Table: change.TableID{Schema: "public", Name: "metrics"}, Key: key, Columns: []change.Column{col("host", "text"), col("ts", "timestamptz"), col("v", "float8")}}
	}
	for name, c := range map[string]struct {
		s       *change.Schema
		column  string
		target  string
		problem string // "": none
	}{
		"fits":        {schema(), "v", "", ""},
		"keyed":       {schema(0), "v", "", "the table is not append_only"},
		"no column":   {schema(), "w", "", `classify[0].tier: tier per-hour: aggregate.values[0].column: table public.metrics has no column "w"`},
		"no number":   {schema(), "host", "", `column "host" of table public.metrics is text: it is not a number`},
		"a long name": {schema(), "v", strings.Repeat("m", 50), "_per_hour_partials, whose name is longer than 63 bytes"},
	} {
		spec := &pipeline.Spec{
			Tiers: []pipeline.Tier{{Name: "per-hour", Every: pipeline.Duration(time.Hour), Aggregate: &pipeline.Aggregate{Group: []string{"host"},
				Time: &pipeline.AggregateTime{Column: "ts", Bucket: pipeline.Duration(time.Hour)}, Values: []pipeline.AggregateValue{{Column: c.column, Functions: []string{"sum"}}}}}},
			Classify: []pipeline.Class{{Match: "public.metrics", Tier: "per-hour"}},
			Tables:   pipeline.Tables{Include: []string{"public.metrics"}, Options: []pipeline.TableOption{{Match: "public.metrics", Target: c.target}}},
		}
		var rep contract.TableReport
		tierReport(spec, c.s, &rep)
		switch {
		case c.problem == "" && (len(rep.Problems) > 0 || len(rep.Tiers) != 1 || !strings.Contains(rep.Tiers[0], "per-hour, as aggregates by host, ts per 1h: number of rows; sum of v")):
			t.Errorf("%s: %+v", name, rep)
		case c.problem != "" && (len(rep.Problems) != 1 || !strings.Contains(rep.Problems[0], c.problem)):
			t.Errorf("%s: %q, want %q", name, rep.Problems, c.problem)
		}
	}
}

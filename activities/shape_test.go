package activities

import (
	"maps"
	"testing"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/pipeline"
	"syncline/tiers/shape"
)

// What sinks hold of a row is by the tier to which delivery gives its insertion.
func TestShapesByTier(t *testing.T) {
	col := func(name, base string) change.Column {
		return change.Column{Name: name, Type: change.Type{Name: base, Kind: change.Base, Base: base, Mod: -1}}
	}
	s := &change.Schema{Table: change.TableID{Schema: "s", Name: "t"}, Columns: []change.Column{col("severity", "text"), col("n", "int8"), col("payload", "text")}}
	rule := func(where, tier string, columns ...string) pipeline.Class {
		return pipeline.Class{Match: "s.t", Where: where, Tier: tier, Columns: columns}
	}
	spec := &pipeline.Spec{Sinks: []pipeline.Sink{{Name: "a"}}, Tiers: []pipeline.Tier{{Name: "hourly"}, {Name: "debug", Omit: []string{"payload"}}},
		Classify: []pipeline.Class{rule("", "hourly", "n"), rule("severity = 'critical'", "stream"), rule("n < 0", "debug"), rule("n = 5", "hourly"), rule("severity IS NOT NULL", "debug")}}
	of, err := (&Activities{}).shapes(t.Context(), spec, "a", shape.All)
	if err != nil {
		t.Fatal(err)
	}
	sh, err := of(s)
	if err != nil {
		t.Fatal(err)
	}
	k := delivered{spec}
	tier, err := k.Classify(k.Rules(s.Table), s)
	if err != nil {
		t.Fatal(err)
	}
	thinned := 0
	for _, severity := range []change.Value{{}, change.TextValue("critical"), change.TextValue("info")} {
		for _, n := range []change.Value{{}, change.TextValue("-1"), change.TextValue("5"), change.TextValue("6")} {
			row := change.Row{severity, n, change.TextValue("p")}
			name, err := tier(&change.Change{Table: s.Table, Op: change.Insert, New: row})
			if err != nil {
				t.Fatal(err)
			}
			out, ok, err := sh.Row(row)
			if err != nil || !ok || (out[2].Kind == change.Null) != (name == "debug") {
				t.Errorf("%v of tier %q: %v, %t, %v", row, name, out, ok, err)
			}
			if name == "debug" {
				thinned++
			}
		}
	}
	if thinned != 4 {
		t.Errorf("%d rows of the tier", thinned)
	}
	if of, err := (&Activities{}).shapes(t.Context(), spec, "", shape.ToLog); of != nil || err != nil {
		t.Error("the log is shaped by tiers", err)
	}
}

// What a tier does not say of compression is as the sink says; only ClickHouse gets any.
func TestCompressionByTier(t *testing.T) {
	spec := pipeline.Spec{Tiers: []pipeline.Tier{{Name: "hourly"}, {Name: "debug", Compression: "zstd"}}}
	click := pipeline.Sink{Name: "c", Type: pipeline.SinkClickHouse, Compression: "lz4"}
	if o := deliverOptions(&contract.DeliverInput{Spec: spec}, &click); !maps.Equal(o.Compression, map[string]string{"hourly": "lz4", "debug": "zstd"}) {
		t.Errorf("%v", o.Compression)
	}
	pg := pipeline.Sink{Name: "p", Type: pipeline.SinkPostgres}
	if o := deliverOptions(&contract.DeliverInput{Spec: spec}, &pg); o.Compression != nil {
		t.Errorf("%v", o.Compression)
	}
	if uncompressed(&spec, &click) != "" || uncompressed(&spec, &pg) != "tiers[debug].compression: no effect here: only batches to ClickHouse are compressed" {
		t.Errorf("%q", uncompressed(&spec, &pg))
	}
}

package pipeline

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"syncline/dataplane/change"
	"syncline/tiers/shape"
)

const shapedText = `version: 1
name: shop
source: {type: postgres, dsn: env:SRC, region: eu}
kafka: {brokers: ["kafka:9092"], region: REGION}
sinks:
  - {name: near, type: postgres, dsn: env:DST, region: eu}
  - {name: far, type: postgres, dsn: env:DST, region: us}
  - {name: nowhere, type: postgres, dsn: env:DST}
tables: [shop.*]
residency:
  - {name: mail, match: shop.people, columns: [email], regions: [eu], otherwise: mask, key: env:K}
  - {name: rows, match: shop.*, where: id = 1, regions: [eu, us], otherwise: withhold}
thin:
  - {match: shop.people, sinks: [far], omit: [note], sample: {by: id, rate: 10%}}
`

// What is not allowed where Kafka is, no sink gets; otherwise each sink goes by its own
// region, and one that is in none that is said gets nothing that is restricted.
func TestShape(t *testing.T) {
	id := change.TableID{Schema: "shop", Name: "people"}
	say := func(rs []shape.Rule) string {
		var out []string
		for _, r := range rs {
			out = append(out, fmt.Sprintf("%s %s %v", r.Of, r.Do, r.InLog))
		}
		return strings.Join(out, ", ")
	}
	thin := "thin[0] omit false, thin[0] sample false"
	for region, want := range map[string]map[string]string{
		"eu": {"": "", "near": "", "far": "residency[0] mask false, " + thin, "nowhere": "residency[0] mask false, residency[1] withhold false"},
		"us": {"": "residency[0] mask true", "near": "residency[0] mask true", "far": "residency[0] mask true, " + thin, "nowhere": "residency[0] mask true, residency[1] withhold false"},
		"ap": {"": "residency[0] mask true, residency[1] withhold true", "near": "residency[0] mask true, residency[1] withhold true", "far": "residency[0] mask true, residency[1] withhold true, " + thin, "gone": "residency[0] mask true, residency[1] withhold true"},
	} {
		s := mustParse(t, strings.Replace(shapedText, "REGION", region, 1))
		for sink, rules := range want {
			if got := say(s.Shape(id, sink)); got != rules {
				t.Errorf("Kafka in %s, sink %q: %s, want %s", region, sink, got, rules)
			}
		}
		if s.Thin[0].Sample.Salt != "syncline" || s.ResidencyClass("residency[1]") != "rows" || s.ResidencyClass("thin[0]") != "" || s.ResidencyClass("residency[2]") != "" {
			t.Errorf("%+v", s.Thin)
		}
		if got := s.Shape(change.TableID{Schema: "shop", Name: "orders"}, "near"); slices.ContainsFunc(got, func(r shape.Rule) bool { return r.Do != shape.Withhold }) {
			t.Errorf("another table: %v", got)
		}
	}
}

// Tiers cannot be told by a value that is not there any more.
func TestClassifyByWhatIsRestricted(t *testing.T) {
	s := mustParse(t, strings.Replace(shapedText, "REGION", "eu", 1)+"tiers: [{name: hourly, every: 1h}]\nclassify: [{match: shop.people, where: email is null, tier: hourly}]\n")
	col := func(name, base string) change.Column {
		return change.Column{Name: name, Type: change.Type{Name: base, Kind: change.Base, Base: base, Mod: -1}}
	}
	d := &change.Schema{Table: change.TableID{Schema: "shop", Name: "people"}, Key: []int{0}, Columns: []change.Column{col("id", "int4"), col("email", "text"), col("note", "text")}}
	keys := shape.Keys{"env:K": []byte("0123456789abcdef")}
	if _, err := s.CompileShape(d, "far", keys, shape.All); err == nil || !strings.Contains(err.Error(), `residency[0].columns: table shop.people: column "email" is asked for by classify[0].where`) {
		t.Error(err)
	}
	if sh, err := s.CompileShape(d, "near", keys, shape.All); err != nil || sh != nil {
		t.Error(sh, err)
	}
}

const tieredText = `tiers:
  - {name: bulk, every: 1h, omit: [note], sample: {by: id, rate: 25%}}
  - {name: touched, every: 1h}
  - {name: rare, every: 1h, omit: [mail]}
classify:
  - {match: shop.people, columns: [note], tier: touched}
  - {match: shop.people, where: id = 1, tier: stream}
  - {match: shop.people, where: id < 10, tier: bulk}
  - {match: shop.orders, tier: rare}
  - {match: shop.people, tier: touched}
`

// Rows of a tier are told by the entries that a row can be of, up to the last for the tier.
func TestShapeOfTiers(t *testing.T) {
	s := mustParse(t, strings.Split(strings.Replace(shapedText, "REGION", "eu", 1), "residency:")[0]+tieredText)
	id := change.TableID{Schema: "shop", Name: "people"}
	want := []shape.Rule{
		{Of: "tiers[0]", Do: shape.Omit, Columns: []string{"note"}, Tier: "bulk", Cases: []shape.Case{{N: 1, Where: "id = 1"}, {N: 2, Where: "id < 10", Is: true}}},
		{Of: "tiers[0]", Do: shape.Sample, Columns: []string{"id"}, Rate: 250_000, Salt: "syncline", Tier: "bulk", Cases: []shape.Case{{N: 1, Where: "id = 1"}, {N: 2, Where: "id < 10", Is: true}}},
	}
	for _, sink := range []string{"near", "far"} {
		if got := s.Shape(id, sink); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v", sink, got)
		}
	}
	if got := s.Shape(id, ""); got != nil || s.Shaped(true) || !s.Shaped(false) {
		t.Errorf("the log is shaped: %v", got)
	}
	if got := s.Shape(change.TableID{Schema: "shop", Name: "orders"}, "near"); len(got) != 1 || !reflect.DeepEqual(got[0].Cases, []shape.Case{{N: 3, Is: true}}) {
		t.Errorf("another table: %+v", got)
	}
	if got := s.Shape(change.TableID{Schema: "shop", Name: "carts"}, "near"); got != nil {
		t.Errorf("a table without tiers: %+v", got)
	}
	// What a tier is told by is not left out.
	s.Classify[2].Where = "note = 'x'"
	d := &change.Schema{Table: id, Full: true, Key: []int{0}, Columns: []change.Column{{Name: "id", Type: change.Type{Name: "int4", Kind: change.Base, Base: "int4", Mod: -1}}, {Name: "note", Type: change.Type{Name: "text", Kind: change.Base, Base: "text", Mod: -1}}}}
	if _, err := s.CompileShape(d, "near", nil, shape.All); err == nil || !strings.Contains(err.Error(), `tiers[0].omit: table shop.people: column "note" is asked for by classify[2].where`) {
		t.Error(err)
	}
}

// A change of what decides of which tier rows are is one of what sinks hold already, if a
// tier does not keep them whole.
func TestDiffOfTiersThatShape(t *testing.T) {
	text := strings.Split(strings.Replace(shapedText, "REGION", "eu", 1), "residency:")[0] + tieredText
	a, b := mustParse(t, text), mustParse(t, text)
	b.Tiers[0].Omit = nil
	b.Classify[1].Where = "id = 2"
	ch := Diff(a, b)
	if len(ch) != 2 || ch[0].Path != "tiers[bulk].omit" || ch[0].Effect != NeedsResync || ch[1].Path != "classify" || ch[1].Effect != NeedsResync || ch[1].Note != ch[0].Note {
		t.Errorf("%+v", ch)
	}
	for _, s := range []*Spec{a, b} {
		s.Tiers[0].Omit, s.Tiers[0].Sample, s.Tiers[2].Omit = nil, nil, nil
	}
	if ch := Diff(a, b); len(ch) != 1 || ch[0].Effect != RestartStream {
		t.Errorf("%+v", ch)
	}
}

// A class that no table is of is a mistake in it, sooner than a table that is to come.
func TestUnmatchedResidency(t *testing.T) {
	s := mustParse(t, strings.Replace(shapedText, "REGION", "eu", 1))
	people, orders := change.TableID{Schema: "shop", Name: "people"}, change.TableID{Schema: "shop", Name: "orders"}
	if err := s.UnmatchedResidency([]change.TableID{orders, people}); err != nil {
		t.Error(err)
	}
	if err := s.UnmatchedResidency([]change.TableID{orders}); err == nil || !strings.Contains(err.Error(), "residency[0].match: class mail is of shop.people") {
		t.Error(err)
	}
}

// A change of residency is one of what sinks hold already.
func TestDiffOfResidency(t *testing.T) {
	a, b := mustParse(t, strings.Replace(shapedText, "REGION", "eu", 1)), mustParse(t, strings.Replace(shapedText, "REGION", "eu", 1))
	b.Residency[0].Columns = []string{"email", "phone"}
	b.Thin = nil
	ch := Diff(a, b)
	if len(ch) != 2 || ch[0].Path != "residency" || ch[0].Effect != NeedsResync || ch[1].Path != "thin" || !strings.Contains(ch[0].Note, "starter resync") {
		t.Errorf("%v", ch)
	}
}

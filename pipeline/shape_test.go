package pipeline

import (
	"fmt"
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

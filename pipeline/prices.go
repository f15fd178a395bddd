package pipeline

import (
	"encoding/json"
	"fmt"
	"regexp"
	"time"

	"syncline/tiers/cost"
)

const (
	regionsPattern  = `^[a-z0-9*]([a-z0-9*-]{0,62}[a-z0-9*])?$`
	currencyPattern = `^[A-Z]{3}$`
	currencyWant    = "the three letters of a currency, such as USD"
)

// pricesRoot is the field table of price tables.
var pricesRoot = (&field{
	kind: kindObject,
	fields: []*field{
		{name: "version", kind: kindInteger, required: true, min: 1, max: 1},
		{name: "currency", kind: kindText, required: true, pattern: currencyPattern, want: currencyWant},
		{name: "unit", kind: kindText, required: true, enum: []string{string(cost.GB), string(cost.GiB)}, also: []string{"per"}},
		{name: "routes", kind: kindList, also: []string{"transfer", "route", "network"}, elem: &field{kind: kindObject, fields: []*field{
			skuField,
			{name: "from", kind: kindText, required: true, pattern: regionsPattern, want: "a pattern of regions such as eu-west-1, eu-* or *, or unknown, which is a region that nobody said", also: []string{"origin", "source"}},
			{name: "to", kind: kindText, required: true, pattern: regionsPattern, want: "a pattern of regions such as us-east-1 or *, the word same, or unknown", also: []string{"destination", "target"}},
			priceField,
		}}},
		{name: "storage", kind: kindList, also: []string{"stored", "store"}, elem: &field{kind: kindObject, fields: []*field{
			skuField,
			{name: "place", kind: kindText, required: true, pattern: `^(kafka|sink:[a-z0-9*-]{1,64}|\*)$`, want: "kafka, sink:<name>, sink:* or *"},
			{name: "region", kind: kindText, required: true, pattern: regionsPattern, want: "a pattern of regions such as eu-west-1, eu-* or *, or unknown", also: []string{"location"}},
			priceField,
		}}},
	},
}).compile()

var skuField = &field{name: "name", kind: kindText, required: true, pattern: namePattern, want: nameWant, check: checkName, also: []string{"sku"}}

var priceField = &field{
	name: "prices", kind: kindList, required: true, min: 1, also: []string{"price"}, elem: &field{kind: kindObject, fields: []*field{
		{name: "from", kind: kindMoment, required: true, also: []string{"since", "start"}},
		{name: "until", kind: kindMoment, also: []string{"to", "end"}},
		{name: "price", kind: kindDecimal, required: true, also: []string{"amount", "cost"}},
	}},
}

// ParsePrices reads a price table in YAML. The error is of type Problems.
func ParsePrices(filename string, data []byte) (*cost.Table, error) {
	n, problems := fromYAML(data, "a price table: version, currency, unit, routes, storage")
	table := new(cost.Table)
	if n != nil {
		d := &decoder{at: map[string]pos{}, kept: map[string][]int{}}
		if tree, ok := d.value(pricesRoot, n, "", pos{1, 1}); ok {
			text, err := json.Marshal(tree)
			if err == nil {
				err = json.Unmarshal(text, table)
			}
			if err != nil { // the field table and cost.Table disagree; a test holds that they do not
				d.problem(pos{1, 1}, "", "cannot be represented: "+err.Error(), "", "")
			}
			d.prices(table)
		}
		problems = append(problems, d.problems...)
	}
	if len(problems) == 0 {
		return table, nil
	}
	for i := range problems {
		problems[i].File = filename
	}
	return nil, problems.sorted()
}

// prices gives places to the mistakes between fields.
func (d *decoder) prices(t *cost.Table) {
	if len(t.Routes)+len(t.Storage) == 0 && !d.given("routes") && !d.given("storage") {
		d.problem(pos{1, 1}, "", "prices nothing", "routes, storage, or both", "")
	}
	for _, m := range t.Check() {
		p := d.item(m.List, m.Entry)
		if m.Price >= 0 {
			p = d.item(p+".prices", m.Price)
		}
		p = join(p, m.Field)
		if !d.given(p) { // the field itself has a mistake
			continue
		}
		d.problem(d.at[p], p, m.Message, m.Expected, "")
	}
}

// moment reads a date or a time into the form that JSON has of one.
func (d *decoder) moment(f *field, n *node, path string) (any, bool) {
	if n.kind != nodeText {
		return d.mismatch(f, n, path)
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(layout, n.text); err == nil {
			return at.UTC().Format(time.RFC3339), true
		}
	}
	d.problem(n.pos, path, n.describe(false)+", which is no date", f.expected(), "")
	return nil, false
}

var decimalRE = regexp.MustCompile(fmt.Sprintf(`^(0|[1-9][0-9]{0,11})(\.[0-9]{1,%d})?$`, cost.PriceDigits))

// decimal takes a number as it is written: a float would be another one.
func (d *decoder) decimal(f *field, n *node, path string) (any, bool) {
	if n.kind != nodeInt && n.kind != nodeFloat && n.kind != nodeText {
		return d.mismatch(f, n, path)
	}
	if !decimalRE.MatchString(n.text) {
		d.problem(n.pos, path, n.describe(false), f.expected(), "")
		return nil, false
	}
	return n.text, true
}

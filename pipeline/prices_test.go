package pipeline

import (
	"errors"
	"strings"
	"testing"
	"time"

	"syncline/tiers/cost"
)

func TestExamplePrices(t *testing.T) {
	x, err := ParsePrices("prices.yaml", example(t, "prices.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	c := x.Moved("eu-west-1", "us-east-1", at.Add(-time.Hour), at.Add(time.Hour), 2e9)
	if len(c) != 2 || c[0].Sku != "eu-to-us" || c[0].Cost.String() != "0.02" || c[1].Cost.String() != "0.018" || x.Currency != "USD" || x.Unit != cost.GB {
		t.Errorf("%+v of %+v", c, x)
	}
	if c := x.Stored("sink:warehouse", "eu-west-1", at, at.Add(time.Hour), 730e9); c[0].Sku != "sink-disk" || !c[0].Cost.Round(9).Equal(x.Storage[1].Prices[0].Price) {
		t.Errorf("%+v", c)
	}
}

// Each case is one mistake in an otherwise valid table, and all there is to say of it.
func TestMistakesInPrices(t *testing.T) {
	const head = "version: 1\ncurrency: USD\nunit: GB\n"
	route := func(prices string) string {
		return head + "routes:\n  - {name: r, from: a, to: b, prices: [" + prices + "]}\n"
	}
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "1:1: is empty; expected a price table"},
		{"nothing", head, "1:1: prices nothing; expected routes, storage, or both"},
		{"unit", strings.Replace(route("{from: 2026-01-01, price: 1}"), "GB", "Gb", 1), `3:7: unit: is the text "Gb"; expected one of GB, GiB; did you mean "GB"`},
		{"no unit", strings.Replace(route("{from: 2026-01-01, price: 1}"), "unit: GB\n", "", 1), "1:1: unit: is missing; expected one of GB, GiB"},
		{"currency", strings.Replace(route("{from: 2026-01-01, price: 1}"), "USD", "$", 1), "2:11: currency: is the text \"$\"; expected the three letters"},
		{"no prices", route(""), "routes[0].prices: is empty"},
		{"no date", route("{price: 1}"), "5:40: routes[0].prices[0].from: is missing; expected a date such as"},
		{"a date", route("{from: 2026-02-30, price: 1}"), `routes[0].prices[0].from: is the text "2026-02-30", which is no date; expected a date such as`},
		{"a year", route("{from: 2026, price: 1}"), "routes[0].prices[0].from: is the number 2026; expected a date"},
		{"digits", route("{from: 2026-01-01, price: 0.0000000001}"), "5:66: routes[0].prices[0].price: is the number 0.0000000001; expected a decimal number such as 0.02, of at most 9 decimals"},
		{"below nothing", route("{from: 2026-01-01, price: -1}"), "price: is the number -1; expected"},
		{"exponent", route("{from: 2026-01-01, price: 1e3}"), "price: is the text \"1e3\"; expected"},
		{"a word", route("{from: 2026-01-01, price: cheap}"), `price: is the text "cheap"; expected`},
		{"gap", route("{from: 2026-01-01, until: 2026-02-01, price: 1}, {from: 2026-02-02, price: 2}"), "5:96: routes[0].prices[1].from: is 2026-02-02, and the price before is until 2026-02-01: between them there is none; expected from: 2026-02-01, or the price before without until"},
		{"overlap", route("{from: 2026-01-01, until: 2026-02-02, price: 1}, {from: 2026-02-01T12:00:00Z, price: 2}"), "prices[1].from: is 2026-02-01T12:00:00Z, and the price before is until 2026-02-02: between them both would count"},
		{"order", route("{from: 2026-02-01, price: 1}, {from: 2026-01-01, price: 2}"), "prices[1].from: is 2026-01-01, not after that of the price before (2026-02-01)"},
		{"ends first", route("{from: 2026-02-01, until: 2026-01-01, price: 1}"), "prices[0].until: is 2026-01-01, not after from (2026-02-01)"},
		{"same route", route("{from: 2026-02-01, price: 1}") + "  - {name: s, from: a, to: b, prices: [{from: 2026-02-01, price: 1}]}\n", "6:21: routes[1].from: is never asked: routes[0] is for the same"},
		{"same name", route("{from: 2026-02-01, price: 1}") + "storage: [{name: r, place: kafka, region: a, prices: [{from: 2026-02-01, price: 1}]}]\n", `6:18: storage[0].name: is "r", as routes[0] is; expected a name of its own`},
		{"place", route("{from: 2026-02-01, price: 1}") + "storage: [{name: s, place: sink, region: a, prices: [{from: 2026-02-01, price: 1}]}]\n", `storage[0].place: is the text "sink"; expected kafka, sink:<name>, sink:* or *`},
		{"region", strings.Replace(route("{from: 2026-02-01, price: 1}"), "to: b", "to: EU", 1), `routes[0].to: is the text "EU"; expected a pattern of regions`},
		{"misspelt", strings.Replace(route("{from: 2026-02-01, price: 1}"), "to: b", "destination: b", 1), `routes[0].destination: is not a field; did you mean "to"`},
	} {
		_, err := ParsePrices("p.yaml", []byte(c.text))
		var ps Problems
		if !errors.As(err, &ps) || len(ps) != 1 || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\nwant %s", c.name, err, c.want)
		}
	}
}

package view

import (
	"bytes"
	"testing"
	"time"

	"github.com/shopspring/decimal"

	"syncline/analytics/bill"
	"syncline/tiers/cost"
)

func d(s string) decimal.Decimal { return decimal.RequireFromString(s) }

func TestMoney(t *testing.T) {
	for in, want := range map[string]string{"0": "0.00", "1234.567": "1234.57", "0.5": "0.50", "0.01234": "0.012", "-0.000456": "-0.00046", "0.0000000000001": "<0.00000001", "-3": "-3.00"} {
		if got := Money(d(in)); got != want {
			t.Errorf("%s is shown as %s, want %s", in, got, want)
		}
	}
}

func TestDrawCost(t *testing.T) {
	since := time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)
	r := &bill.Report{Pipeline: "shop", Since: since, Until: since.AddDate(0, 0, 4), Step: 86400, By: []string{bill.ByTier, bill.ByTable}, Currency: "USD", Prices: "abc", Priced: since.AddDate(0, 0, 4),
		Groups: []bill.Group{
			{Key: []string{"stream", "s.a"}, Cost: d("12.5"), Before: d("10"), Share: 0.8, Moved: 5 << 30, Points: []float64{1, 2, 3, 6.5}},
			{Key: []string{"", ""}, Cost: d("3.125"), Share: 0.2, Kept: 9 << 30, NoPrice: 6 << 20, NoPriceKept: 1 << 20, Points: []float64{1, 1, 1, 0.125}},
		},
		Total:    bill.Group{Cost: d("15.625"), Before: d("10"), Share: 1, Moved: 5 << 30, Kept: 9 << 30, NoPrice: 6 << 20, NoPriceKept: 1 << 20, Points: []float64{2, 3, 4, 6.625}},
		Unpriced: []bill.Unpriced{{Category: "Networking", Origin: "eu", Bytes: 6 << 20}, {Category: "Storage", Origin: "us", Place: "kafka", Bytes: 1 << 20}},
		Others:   []bill.Other{{Currency: "EUR", Cost: d("2")}},
		Forecast: cost.Forecast{Start: since, End: since.AddDate(0, 1, 0), Spent: 15.625, Expected: 110, Low: 90, High: 130, Method: "means by the hour of the day over 4 days"},
	}
	var b bytes.Buffer
	DrawCost(&b, Style{}, r)
	goldenText(t, "cost", b.String())
	b.Reset()
	DrawCost(&b, Style{}, &bill.Report{Since: since, Until: since.AddDate(0, 0, 1), By: []string{bill.ByDay}, Currency: "USD", Prices: "abc", Forecast: cost.Forecast{Start: since, Why: "only 3 hours are priced"}})
	goldenText(t, "cost.none", b.String())
	b.Reset()
	DrawPricing(&b, Style{}, &bill.Pricing{From: since, Until: since.AddDate(0, 0, 1), Prices: "abc", Currency: "USD", Dry: true, Hours: 24, Changed: 3, Charges: 90, Before: d("5"), After: d("4"),
		Pipelines: []bill.Difference{{Pipeline: "shop", Before: d("2"), After: d("1")}, {Pipeline: "web", Before: d("0"), After: d("0.25")}}, Unpriced: r.Unpriced})
	goldenText(t, "cost.pricing", b.String())
}

package billing

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/shopspring/decimal"
	"pgregory.net/rapid"

	"syncline/analytics"
	"syncline/analytics/bill"
	"syncline/dataplane/fault"
	"syncline/pipeline"
	"syncline/testsuite/stack"
	"syncline/tiers/cost"
)

// opened makes a store of its own, which goes with the test.
func opened(t *testing.T) *analytics.Store {
	t.Helper()
	s, err := analytics.OpenStore(stack.ClickHouse(t), stack.Name(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := rows(ctx, s, "DROP DATABASE IF EXISTS {db}", nil); err != nil {
			t.Error(err)
		}
		_ = s.Close() // the test is over
	})
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

const byDay = `version: 1
currency: USD
unit: GB
routes:
  - {name: home, from: "*", to: same, prices: [{from: 2020-01-01, price: 0.01}]}
  - {name: ocean, from: eu, to: us, prices: [{from: 2020-01-01, price: 0.07}]}
storage:
  - {name: log, place: kafka, region: "*", prices: [{from: 2020-01-01, price: 0.10}]}
`

func parsed(t interface{ Fatal(...any) }, text string) *cost.Table {
	p, err := pipeline.ParsePrices("p.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func insert(t interface{ Fatal(...any) }, s *analytics.Store, name string, rs ...analytics.Row) {
	for i, r := range rs {
		if err := s.Insert(context.Background(), fmt.Sprintf("%s/%d", name, i), []analytics.Row{r}); err != nil {
			t.Fatal(err)
		}
	}
}

var attempts atomic.Int64

func price(t interface{ Fatal(...any) }, s *analytics.Store, in Task) *bill.Pricing {
	in.Name = fmt.Sprintf("pricing-%d", attempts.Add(1))
	r, err := Price(context.Background(), s, in)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const past = 30 // hours of a random past

// Whatever was measured, the ledger, reports by anything, and what has no price are what
// a plain walk over the rows comes to, and pricing again changes nothing.
func TestReportAgreesWithTheRows(t *testing.T) {
	s := opened(t)
	now := time.Now().UTC()
	from := now.Truncate(time.Hour).Add(-past * time.Hour)
	if _, err := Apply(t.Context(), s, byDay, "ann", "first", now); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		if time.Since(began) > 20*time.Second {
			return
		}
		name := fmt.Sprintf("p-%d-it's", attempts.Add(1))
		region := func() string { return rapid.SampledFrom([]string{"eu", "us", ""}).Draw(t, "region") }
		tab := func() string { return rapid.SampledFrom([]string{"s.a", "s.b", ""}).Draw(t, "tab") }
		var rs []analytics.Row
		for range rapid.IntRange(0, 12).Draw(t, "usage") {
			rs = append(rs, &analytics.Usage{Time: from.Add(time.Duration(rapid.IntRange(0, past*720-1).Draw(t, "window")) * analytics.Window), Pipeline: name,
				Sink: rapid.SampledFrom([]string{"", "lake"}).Draw(t, "sink"), Tab: tab(), Tier: rapid.SampledFrom([]string{"", "stream", "hourly"}).Draw(t, "tier"),
				Component: rapid.SampledFrom([]string{"capture", "deliver"}).Draw(t, "component"), Origin: region(), Destination: region(), Wire: rapid.Uint64Range(0, 1e13).Draw(t, "wire")})
		}
		for range rapid.IntRange(0, 6).Draw(t, "storage") {
			rs = append(rs, &analytics.Storage{Time: from.Add(time.Duration(rapid.IntRange(0, past*60-1).Draw(t, "minute")) * time.Minute), Pipeline: name,
				Place: rapid.SampledFrom([]string{"kafka", "sink:lake"}).Draw(t, "place"), Tab: tab(), Region: region(), Bytes: rapid.Uint64Range(0, 1e13).Draw(t, "bytes")})
		}
		insert(t, s, name, rs...)
		in := Task{From: from, Now: now, Prices: parsed(t, byDay), Version: Version(byDay)}
		price(t, s, in)
		if again := price(t, s, in); again.Changed != 0 || !again.Before.Equal(again.After) || len(again.Pipelines) != 0 {
			t.Fatalf("priced again: %+v", again)
		}
		way := rapid.SampledFrom([]string{bill.ByTable, bill.ByTier, bill.BySink, bill.ByRoute, bill.ByDay, bill.ByComponent}).Draw(t, "by")
		lo := rapid.IntRange(past/2, past-1).Draw(t, "since")
		r, err := Report(context.Background(), s, Question{Pipeline: name, Since: from.Add(time.Duration(lo) * time.Hour), Until: now, Now: now, By: []string{way}})
		if err != nil {
			t.Fatal(err)
		}
		want, before, unpriced := walk(rs, r, way)
		got := map[string]*big.Rat{}
		for _, g := range r.Groups {
			got[g.Key[0]] = g.Cost.Rat()
			var points float64
			for _, p := range g.Points {
				points += p
			}
			if c := g.Cost.InexactFloat64(); math.Abs(points-c) > 1e-6*max(1, c) {
				t.Fatalf("%v: the points of %+v come to %g", way, g, points)
			}
		}
		sum := new(big.Rat)
		for k, v := range want {
			if sum.Add(sum, v); got[k] == nil && v.Sign() > 0 || got[k] != nil && got[k].Cmp(v) != 0 {
				t.Fatalf("by %s %q costs %v, want %s", way, k, got[k], v.FloatString(20))
			}
		}
		if r.Total.Cost.Rat().Cmp(sum) != 0 || r.Total.Before.Rat().Cmp(before) != 0 {
			t.Fatalf("%s and %s before, want %s and %s", r.Total.Cost, r.Total.Before, sum.FloatString(20), before.FloatString(20))
		}
		found := map[string]uint64{}
		for _, u := range r.Unpriced {
			found[u.Origin+">"+u.Destination+">"+u.Place] = u.Bytes
		}
		if !maps.Equal(found, unpriced) {
			t.Fatalf("without a price %v, want %v", found, unpriced)
		}
	})
}

// walk prices rows one by one, by prices of its own that do not change.
func walk(rs []analytics.Row, r *bill.Report, way string) (want map[string]*big.Rat, before *big.Rat, unpriced map[string]uint64) {
	want, before, unpriced = map[string]*big.Rat{}, new(big.Rat), map[string]uint64{}
	length := r.Until.Sub(r.Since)
	put := func(at time.Time, key string, bytes uint64, price *big.Rat, gap string) {
		hour := at.Truncate(time.Hour)
		switch in := !hour.Before(r.Since) && hour.Before(r.Until); {
		case bytes == 0:
		case price == nil && in:
			unpriced[gap] += bytes
		case price == nil:
		case in:
			if want[key] == nil {
				want[key] = new(big.Rat)
			}
			want[key].Add(want[key], new(big.Rat).Mul(price, new(big.Rat).SetFrac(new(big.Int).SetUint64(bytes), big.NewInt(1e9))))
		case hour.Before(r.Since) && !hour.Before(r.Since.Add(-length)):
			before.Add(before, new(big.Rat).Mul(price, new(big.Rat).SetFrac(new(big.Int).SetUint64(bytes), big.NewInt(1e9))))
		}
	}
	said := func(region string) string {
		if region == "" {
			return "unknown"
		}
		return region
	}
	day := func(at time.Time) string { return at.Format(time.DateOnly) }
	type place struct{ place, tab, region string }
	samples := map[place]map[time.Time][]uint64{}
	for _, row := range rs {
		switch x := row.(type) {
		case *analytics.Usage:
			var price *big.Rat
			switch {
			case x.Origin == "" || x.Destination == "":
			case x.Origin == x.Destination:
				price = big.NewRat(1, 100)
			case x.Origin == "eu":
				price = big.NewRat(7, 100)
			}
			key := map[string]string{bill.ByTable: x.Tab, bill.ByTier: x.Tier, bill.BySink: x.Sink, bill.ByComponent: x.Component, bill.ByDay: day(x.Time), bill.ByRoute: said(x.Origin) + " → " + said(x.Destination)}[way]
			put(x.Time, key, x.Wire, price, x.Origin+">"+x.Destination+">")
		case *analytics.Storage:
			p := place{x.Place, x.Tab, x.Region}
			if samples[p] == nil {
				samples[p] = map[time.Time][]uint64{}
			}
			h := x.Time.Truncate(time.Hour)
			samples[p][h] = append(samples[p][h], x.Bytes)
		}
	}
	hourly, _ := new(big.Rat).SetString(fmt.Sprintf("%.15f", 0.10/730))
	for p, hours := range samples {
		for h := r.Since.Add(-length); h.Before(r.Until); h = h.Add(time.Hour) {
			for back := range 3 { // the last that was measured
				ms := hours[h.Add(-time.Duration(back)*time.Hour)]
				if ms == nil {
					continue
				}
				var sum uint64
				for _, m := range ms {
					sum += m
				}
				var price *big.Rat
				if p.place == "kafka" && p.region != "" {
					price = hourly
				}
				name, _ := strings.CutPrefix(p.place, "sink:")
				if p.place == "kafka" {
					name = ""
				}
				key := map[string]string{bill.ByTable: p.tab, bill.ByTier: "", bill.BySink: name, bill.ByComponent: p.place, bill.ByDay: day(h), bill.ByRoute: "kept in " + said(p.region)}[way]
				put(h, key, sum/uint64(len(ms)), price, p.region+">>"+p.place)
				break
			}
		}
	}
	return want, before, unpriced
}

// Another price table changes what was charged, the same one again changes it back, and a
// dry run changes nothing; of an attempt that failed halfway nothing is seen.
func TestPricesChange(t *testing.T) {
	s := opened(t)
	now := time.Now().UTC()
	hour := now.Truncate(time.Hour).Add(-3 * time.Hour)
	insert(t, s, "u", &analytics.Usage{Time: hour, Pipeline: "shop", Tab: "s.a", Tier: "stream", Origin: "eu", Destination: "us", Wire: 5e9},
		&analytics.Usage{Time: hour.Add(time.Hour), Pipeline: "other", Origin: "eu", Destination: "eu", Wire: 1e9})
	charged := func() (out string) {
		err := rows(t.Context(), s, "SELECT x_pipeline, sum(EffectiveCost) AS c FROM {db}.cost GROUP BY x_pipeline ORDER BY x_pipeline", func(r driver.Rows) error {
			var p string
			var d decimal.Decimal
			err := r.Scan(&p, &d)
			out += p + " " + d.String() + "; "
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	old, dear := parsed(t, byDay), parsed(t, strings.Replace(byDay, "0.07", "0.09", 1))
	task := Task{Now: now, Prices: old, Version: "old"}
	if r := price(t, s, task); r.Changed != 2 || r.Charges != 2 || !r.From.Equal(hour) || r.After.String() != "0.36" || len(r.Pipelines) != 2 || charged() != "other 0.01; shop 0.35; " {
		t.Errorf("%+v: %s", r, charged())
	}
	more := Task{Now: now, Prices: dear, Version: "dear", Dry: true}
	if r := price(t, s, more); r.Changed != 1 || r.Before.String() != "0.36" || r.After.String() != "0.46" || len(r.Pipelines) != 1 || r.Pipelines[0].Pipeline != "shop" || charged() != "other 0.01; shop 0.35; " {
		t.Errorf("a dry run: %+v: %s", r, charged())
	}
	more.Dry = false
	for _, x := range []struct {
		in   Task
		want string
	}{{more, "other 0.01; shop 0.45; "}, {task, "other 0.01; shop 0.35; "}, {more, "other 0.01; shop 0.45; "}} {
		if r := price(t, s, x.in); r.Changed != 1 || charged() != x.want {
			t.Errorf("%+v: %s, want %s", r, charged(), x.want)
		}
	}
	// Charges were written, and then the worker died: nobody said that they count.
	insert(t, s, "dead", &analytics.CostLedger{Start: hour, End: hour.Add(time.Hour), Pipeline: "shop", Category: analytics.Networking, Bytes: 1, Currency: "USD", Cost: decimal.NewFromInt(99), Pricing: "dead"})
	if charged() != "other 0.01; shop 0.45; " {
		t.Error(charged())
	}
	// Usage that comes late is taken up, since the last hours are priced again.
	insert(t, s, "late", &analytics.Usage{Time: hour.Add(time.Minute), Pipeline: "shop", Tab: "s.b", Tier: "stream", Origin: "eu", Destination: "us", Wire: 1e9})
	if r := price(t, s, more); r.Changed != 1 || charged() != "other 0.01; shop 0.54; " {
		t.Errorf("%+v: %s", r, charged())
	}
	// Usage of before all that was priced, by hand perhaps, is taken up, however long ago it was.
	insert(t, s, "old", &analytics.Usage{Time: hour.Add(-100 * time.Hour), Pipeline: "old", Origin: "eu", Destination: "eu", Wire: 1e9})
	if r := price(t, s, more); r.Changed != 1 || !r.From.Equal(hour.Add(-100*time.Hour)) || charged() != "old 0.01; other 0.01; shop 0.54; " {
		t.Errorf("%+v: %s", r, charged())
	}
	if r := price(t, s, more); r.Changed != 0 || !r.From.Equal(hour.Add(2*time.Hour-LookBack)) {
		t.Errorf("%+v", r)
	}
	// The hour that is under way is not priced.
	insert(t, s, "open", &analytics.Usage{Time: now, Pipeline: "shop", Origin: "eu", Destination: "us", Wire: 1e9})
	if r := price(t, s, more); r.Changed != 0 {
		t.Errorf("%+v", r)
	}
	// Whoever prices up to now says so, once more with each pricing, and nothing is charged by that.
	completed := func() (n uint64, at time.Time) {
		err := rows(t.Context(), s, "SELECT count(), max(ts) FROM {db}.pricings WHERE hour = toDateTime(?, 'UTC')", func(r driver.Rows) error { return r.Scan(&n, &at) }, hour.Add(2*time.Hour).Unix())
		if err != nil {
			t.Fatal(err)
		}
		return n, at
	}
	n, at := completed()
	dry, before := more, more
	dry.Dry, before.Until = true, hour.Add(time.Hour)
	for _, x := range []struct {
		in   Task
		says uint64
	}{{dry, 0}, {before, 0}, {more, 1}, {more, 1}} {
		r := price(t, s, x.in)
		m, newest := completed()
		if r.Changed != 0 || m != n+x.says || newest.After(at) != (x.says > 0) || charged() != "old 0.01; other 0.01; shop 0.54; " {
			t.Errorf("%+v: %d rows after %d, %s after %s: %s", r, m, n, newest, at, charged())
		}
		n, at = m, newest
	}
	// The hour that says so may have charges, which stay.
	insert(t, s, "last", &analytics.Usage{Time: hour.Add(2 * time.Hour), Pipeline: "shop", Origin: "eu", Destination: "us", Wire: 1e9})
	for i, changed := range []int{1, 0, 0} {
		if r := price(t, s, more); r.Changed != changed || charged() != "old 0.01; other 0.01; shop 0.63; " {
			t.Errorf("pricing %d: %+v: %s", i, r, charged())
		}
	}
}

func TestApply(t *testing.T) {
	s := opened(t)
	now := time.Now()
	if _, _, err := Current(t.Context(), s); !fault.Is(err, CodeNoPrices) {
		t.Errorf("without a table: %v", err)
	}
	if _, err := Report(t.Context(), s, Question{Since: now.Add(-2 * time.Hour), Until: now, By: []string{bill.ByTier}}); !fault.Is(err, CodeNoPrices) {
		t.Errorf("without a table: %v", err)
	}
	if _, err := Apply(t.Context(), s, "version: 1", "ann", "", now); !fault.Is(err, CodePrices) {
		t.Errorf("a broken table: %v", err)
	}
	second := strings.Replace(byDay, "USD", "EUR", 1)
	for i, text := range []string{byDay, byDay, second, second} { // what counts already is not applied again
		if a, err := Apply(t.Context(), s, text, "ann", "why", now.Add(time.Duration(i)*time.Second)); err != nil || a.Version != Version(text) {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	have, err := History(t.Context(), s, 9)
	if err != nil || len(have) != 2 || have[0].Text != second || have[1].Who != "ann" || have[1].Why != "why" {
		t.Errorf("%+v, %v", have, err)
	}
	x, a, err := Current(t.Context(), s)
	if err != nil || x.Currency != "EUR" || a.Version != Version(second) {
		t.Errorf("%+v, %+v, %v", x, a, err)
	}
	for _, by := range [][]string{nil, {"colour"}, {bill.ByTier, bill.ByTable, bill.ByRoute, bill.BySink}} {
		if _, err := Report(t.Context(), s, Question{Since: now.Add(-2 * time.Hour), Until: now, By: by}); !fault.Is(err, CodeReport) {
			t.Errorf("by %v: %v", by, err)
		}
	}
	if _, err := Report(t.Context(), s, Question{Since: now, Until: now, By: []string{bill.ByTier}}); !fault.Is(err, CodeReport) {
		t.Errorf("no time: %v", err)
	}
}

// Two things to group by, what is of other currencies, and the month's forecast.
func TestReport(t *testing.T) {
	s := opened(t)
	month := time.Date(time.Now().Year(), time.Now().Month()-1, 1, 0, 0, 0, 0, time.UTC)
	on := func(day, hour int) time.Time { return month.AddDate(0, 0, day-1).Add(time.Duration(hour) * time.Hour) }
	now := on(20, 10).Add(30 * time.Minute)
	if _, err := Apply(t.Context(), s, byDay, "ann", "", now); err != nil {
		t.Fatal(err)
	}
	var rs []analytics.Row
	for h := range 24*19 + 10 { // since the first of the month
		rs = append(rs, &analytics.Usage{Time: on(1, h), Pipeline: "shop", Sink: "lake", Tab: "s.a", Tier: "stream", Component: "deliver", Origin: "eu", Destination: "us", Wire: 1e9})
	}
	if err := s.Insert(t.Context(), "u", rs); err != nil {
		t.Fatal(err)
	}
	euro := parsed(t, strings.Replace(byDay, "USD", "EUR", 1))
	price(t, s, Task{From: on(1, 0), Now: now, Prices: parsed(t, byDay), Version: "a"})
	price(t, s, Task{From: on(19, 0), Until: on(19, 2), Now: now, Prices: euro, Version: "b"})
	r, err := Report(t.Context(), s, Question{Pipeline: "shop", Since: now.Add(-7 * 24 * time.Hour), Until: now, Now: now, By: []string{bill.ByTable, bill.ByTier}})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Groups) != 1 || !slices.Equal(r.Groups[0].Key, []string{"s.a", "stream"}) || r.Groups[0].Cost.String() != "11.62" || len(r.Groups[0].Points) != 7 || r.Step != 24*3600 || r.Groups[0].Before.String() != "11.76" {
		t.Errorf("%+v", r.Groups)
	}
	if len(r.Others) != 1 || r.Others[0].Currency != "EUR" || r.Others[0].Cost.String() != "0.14" {
		t.Errorf("%+v", r.Others)
	}
	if f := r.Forecast; f.Why != "" || math.Abs(f.Spent-(19*24+10-2)*0.07) > 1e-9 || math.Abs(f.Expected-(month.AddDate(0, 1, 0).Sub(month).Hours()-2)*0.07) > 0.3 || f.Low > f.Expected || f.High < f.Expected || !r.Priced.Equal(now.Truncate(time.Hour)) {
		t.Errorf("%+v priced until %s", f, r.Priced)
	}
}

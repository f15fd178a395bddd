package cost

import (
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"pgregory.net/rapid"
)

func day(n int) time.Time { return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC) }

func d(s string) decimal.Decimal { return decimal.RequireFromString(s) }

func TestFirstMatchDecides(t *testing.T) {
	x := Table{Routes: []Route{
		{Name: "home", From: "*", To: Same}, {Name: "ocean", From: "eu-*", To: "us-*"}, {Name: "far", From: "*", To: "*"}, {Name: "dark", From: "eu-1", To: Unknown},
	}, Storage: []Storage{{Name: "log", Place: "kafka", Region: "*"}, {Name: "rest", Place: "sink:*", Region: "eu-*"}, {Name: "nowhere", Place: "*", Region: Unknown}}}
	for route, want := range map[[2]string]string{
		{"eu-1", "eu-1"}: "home", {"eu-1", "us-1"}: "ocean", {"us-1", "eu-1"}: "far", {"eu-1", ""}: "dark", {"", "eu-1"}: "", {"", ""}: "", {"us-1", ""}: "",
	} {
		got := ""
		if r := x.Route(route[0], route[1]); r != nil {
			got = r.Name
		}
		if got != want {
			t.Errorf("%v: %q, want %q", route, got, want)
		}
	}
	for at, want := range map[[2]string]string{{"kafka", "us-1"}: "log", {"sink:a", "eu-2"}: "rest", {"sink:a", "us-1"}: "", {"kafka", ""}: "nowhere"} {
		got := ""
		if s := x.Kept(at[0], at[1]); s != nil {
			got = s.Name
		}
		if got != want {
			t.Errorf("%v: %q, want %q", at, got, want)
		}
	}
}

func TestPricesByHand(t *testing.T) {
	x := Table{Currency: "USD", Unit: GB, Routes: []Route{{Name: "r", From: "*", To: "*", Prices: []Price{{From: day(2), Until: day(3).Add(20 * time.Minute), Price: d("0.02")}, {From: day(3).Add(20 * time.Minute), Until: day(4), Price: d("0.05")}}}},
		Storage: []Storage{{Name: "s", Place: "kafka", Region: "*", Prices: []Price{{From: day(1), Price: d("0.073")}}}}}
	cs := x.Moved("a", "b", day(3), day(3).Add(time.Hour), 3_000_000_001)
	if len(cs) != 2 || cs[0].Bytes != 1_000_000_000 || cs[1].Bytes != 2_000_000_001 || !cs[0].Cost.Equal(d("0.02")) || !cs[1].Cost.Equal(d("0.10000000005")) || cs[1].Unit != "GB" || cs[0].Sku != "r" || !cs[1].Start.Equal(cs[0].End) {
		t.Errorf("%+v", cs)
	}
	for name, at := range map[string]time.Time{"before": day(1), "after": day(4)} {
		if cs := x.Moved("a", "b", at, at.Add(time.Hour), 5); len(cs) != 1 || cs[0].Price != nil || !cs[0].Cost.IsZero() || cs[0].Bytes != 5 {
			t.Errorf("%s: %+v", name, cs)
		}
	}
	if cs := x.Moved("", "b", day(2), day(3), 7); len(cs) != 1 || cs[0].Price != nil || cs[0].Sku != "" || cs[0].Bytes != 7 {
		t.Errorf("an unknown region: %+v", cs)
	}
	if cs := x.Stored("kafka", "a", day(1), day(1).Add(time.Hour), 2_000_000_000); len(cs) != 1 || !cs[0].Cost.Equal(d("0.0002")) || cs[0].Unit != "GB-Hours" {
		t.Errorf("%+v", cs)
	}
	x.Unit = GiB
	if cs := x.Moved("a", "b", day(2), day(3), 1<<29); !cs[0].Cost.Equal(d("0.01")) || !cs[0].Quantity.Equal(d("0.5")) {
		t.Errorf("%+v", cs)
	}
	if c := x.Moved("a", "b", day(2), day(3), 1<<29+1)[0]; c.Cost.Exponent() < -CostDigits || c.Quantity.Exponent() < -UnitDigits {
		t.Errorf("%s, %s have more digits than the ledger", c.Quantity, c.Cost)
	}
}

func total(cs []Charge) (cost decimal.Decimal, bytes uint64) {
	for _, c := range cs {
		cost, bytes = cost.Add(c.Cost), bytes+c.Bytes
	}
	return cost, bytes
}

// The sum of charges is the charge of the sum, whatever bytes and hours are cut into.
func TestSumsAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		price := decimal.New(rapid.Int64Range(0, 1e12).Draw(t, "price"), -PriceDigits)
		x := Table{Unit: rapid.SampledFrom([]Unit{GB, GiB}).Draw(t, "unit"), Routes: []Route{{Name: "r", From: "*", To: "*", Prices: []Price{{From: day(1), Price: price}}}},
			Storage: []Storage{{Name: "s", Place: "*", Region: "*", Prices: []Price{{From: day(1), Price: price}}}}}
		var moved, stored []Charge
		var all uint64
		from := day(2)
		for range rapid.IntRange(1, 20).Draw(t, "parts") {
			n, until := rapid.Uint64Range(0, 1<<50).Draw(t, "bytes"), from.Add(time.Duration(rapid.Int64Range(1, 1e13).Draw(t, "time")))
			all += n
			moved, stored = append(moved, x.Moved("a", "b", from, until, n)...), append(stored, x.Stored("p", "a", from, until, n)...)
			from = until
		}
		for name, pair := range map[string][2][]Charge{"moved": {moved, x.Moved("a", "b", day(2), from, all)}, "stored": {stored, x.Stored("p", "a", day(2), from, all)}} {
			parts, n := total(pair[0])
			whole, m := total(pair[1])
			if !parts.Equal(whole) || n != all || m != all {
				t.Fatalf("%s: %s of %d bytes in parts, %s of %d at once", name, parts, n, whole, m)
			}
		}
		exact := new(big.Rat).Mul(price.Rat(), new(big.Rat).SetFrac(new(big.Int).SetUint64(all), big.NewInt(map[Unit]int64{GB: 1e9, GiB: 1 << 30}[x.Unit])))
		if got, _ := total(moved); got.Rat().Cmp(exact) != 0 {
			t.Fatalf("%s, want %s", got, exact.FloatString(50))
		}
	})
}

// However prices change within a time, each moment has the one price that counts then,
// and no byte gets lost or counts twice.
func TestPricesThatChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ps []Price
		at := day(1)
		for i := range rapid.IntRange(1, 5).Draw(t, "prices") {
			at = at.Add(time.Duration(rapid.IntRange(1, 90).Draw(t, "minutes")) * time.Minute)
			ps = append(ps, Price{From: at, Price: decimal.NewFromInt(int64(i + 1))})
			if i > 0 && rapid.Bool().Draw(t, "said") {
				ps[i-1].Until = at
			}
		}
		if rapid.Bool().Draw(t, "ends") {
			ps[len(ps)-1].Until = at.Add(time.Duration(rapid.IntRange(1, 90).Draw(t, "last")) * time.Minute)
		}
		x := Table{Unit: GB, Routes: []Route{{Name: "r", From: "*", To: "*", Prices: ps}}}
		if m := x.Check(); m != nil {
			t.Fatalf("%+v", m)
		}
		start := day(1).Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "start")) * time.Minute)
		end := start.Add(time.Duration(rapid.IntRange(1, 300).Draw(t, "length")) * time.Minute)
		n := rapid.Uint64().Draw(t, "bytes")
		cs := x.Moved("a", "b", start, end, n)
		if _, got := total(cs); got != n || !cs[0].Start.Equal(start) || !cs[len(cs)-1].End.Equal(end) {
			t.Fatalf("%d bytes of %d, %+v", got, n, cs)
		}
		for i, c := range cs {
			if i > 0 && !c.Start.Equal(cs[i-1].End) {
				t.Fatalf("a gap before %+v", c)
			}
			for m := c.Start; m.Before(c.End); m = m.Add(time.Minute) {
				var want *decimal.Decimal
				for k := range ps { // the last that has begun, unless it has ended
					if !m.Before(ps[k].From) {
						if want = &ps[k].Price; !ps[k].Until.IsZero() && !m.Before(ps[k].Until) {
							want = nil
						}
					}
				}
				if (want == nil) != (c.Price == nil) || want != nil && !want.Equal(*c.Price) {
					t.Fatalf("at %s %v, want %v", m, c.Price, want)
				}
			}
			share := new(big.Int).Div(new(big.Int).Mul(new(big.Int).SetUint64(n), big.NewInt(int64(c.End.Sub(c.Start)))), big.NewInt(int64(end.Sub(start))))
			if off := new(big.Int).Sub(new(big.Int).SetUint64(c.Bytes), share); off.CmpAbs(big.NewInt(1)) > 0 {
				t.Fatalf("%d bytes in %+v, want %s", c.Bytes, c, share)
			}
		}
	})
}

func TestCheck(t *testing.T) {
	ok := []Price{{From: day(1), Until: day(2)}, {From: day(2)}, {From: day(3)}}
	for want, x := range map[string]Table{
		"":                          {Routes: []Route{{Name: "a", From: "x", To: "y", Prices: ok}, {Name: "b", From: "x", To: "z", Prices: ok}}, Storage: []Storage{{Name: "c", Place: "kafka", Region: "*", Prices: ok}}},
		`routes[1].name "a"`:        {Routes: []Route{{Name: "a", From: "x", To: "y"}, {Name: "a", From: "x", To: "z"}}},
		`routes[1].from never`:      {Routes: []Route{{Name: "a", From: "x", To: "y"}, {Name: "b", From: "x", To: "y"}}},
		`storage[0].prices[1] none`: {Storage: []Storage{{Name: "a", Prices: []Price{{From: day(1), Until: day(2)}, {From: day(3)}}}}},
		`routes[0].prices[1] both`:  {Routes: []Route{{Name: "a", Prices: []Price{{From: day(1), Until: day(3)}, {From: day(2)}}}}},
		`routes[0].prices[1] order`: {Routes: []Route{{Name: "a", Prices: []Price{{From: day(2)}, {From: day(1)}}}}},
		`routes[0].prices[0] later`: {Routes: []Route{{Name: "a", Prices: []Price{{From: day(2), Until: day(2)}}}}},
	} {
		m := x.Check()
		if want == "" {
			if m != nil {
				t.Errorf("%+v", m)
			}
			continue
		}
		place, word, _ := strings.Cut(want, " ")
		if len(m) != 1 || !strings.Contains(m[0].Message+m[0].Expected, word) || !strings.HasPrefix(place, m[0].List) || strings.Contains(place, "prices") != (m[0].Price >= 0) {
			t.Errorf("%s: %+v", want, m)
		}
	}
}

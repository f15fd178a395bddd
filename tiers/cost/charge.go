package cost

import (
	"math/bits"
	"time"

	"github.com/shopspring/decimal"
)

// Charge is what some bytes cost within a time. Its bytes are those that were moved, or
// for storage those kept for an hour.
type Charge struct {
	Start, End time.Time
	Sku        string // the entry's name; "" without one
	Bytes      uint64
	Quantity   decimal.Decimal  // in Unit
	Unit       string           // GB, GiB, GB-Hours or GiB-Hours
	Price      *decimal.Decimal // of one Unit; nil: the table has none
	Cost       decimal.Decimal  // 0 without a price
}

var (
	perGB  = decimal.New(1, -9)
	perGiB = decimal.NewFromInt(5).Pow(decimal.NewFromInt(30)).Mul(decimal.New(1, -30)) // 2^-30
)

// of is how many units some bytes are, exactly.
func (u Unit) of(bytes uint64) decimal.Decimal {
	if u == GiB {
		return decimal.NewFromUint64(bytes).Mul(perGiB)
	}
	return decimal.NewFromUint64(bytes).Mul(perGB)
}

// Moved prices bytes that went from a region to a region within a time, evenly.
func (t *Table) Moved(from, to string, start, end time.Time, bytes uint64) []Charge {
	r := t.Route(from, to)
	if r == nil {
		return t.charge("", nil, string(t.Unit), start, end, bytes)
	}
	return t.charge(r.Name, r.Prices, string(t.Unit), start, end, bytes)
}

// Stored prices an hour, or a part of one, for which byteHours were kept.
func (t *Table) Stored(place, region string, start, end time.Time, byteHours uint64) []Charge {
	unit := string(t.Unit) + "-Hours"
	s := t.Kept(place, region)
	if s == nil {
		return t.charge("", nil, unit, start, end, byteHours)
	}
	hourly := make([]Price, len(s.Prices))
	for i, p := range s.Prices {
		hourly[i] = Price{p.From, p.Until, p.Price.DivRound(decimal.NewFromInt(HoursOfMonth), HourDigits)}
	}
	return t.charge(s.Name, hourly, unit, start, end, byteHours)
}

// charge cuts a time where the price changes.
func (t *Table) charge(sku string, prices []Price, unit string, start, end time.Time, bytes uint64) (out []Charge) {
	whole := end.Sub(start)
	if whole <= 0 {
		return nil
	}
	given := uint64(0)
	for from := start; from.Before(end); {
		price, until := at(prices, from)
		if until.IsZero() || until.After(end) {
			until = end
		}
		hi, lo := bits.Mul64(bytes, uint64(until.Sub(start)))
		upto, _ := bits.Div64(hi, lo, uint64(whole)) // at most bytes
		c := Charge{Start: from, End: until, Sku: sku, Bytes: upto - given, Unit: unit, Price: price}
		c.Quantity = t.Unit.of(c.Bytes)
		if price != nil {
			c.Cost = c.Quantity.Mul(*price)
		}
		out = append(out, c)
		given, from = upto, until
	}
	return out
}

// at returns the price at a moment, and until when it, or that there is none, lasts;
// zero: for good.
func at(prices []Price, now time.Time) (price *decimal.Decimal, until time.Time) {
	for i := range prices {
		p := &prices[i]
		switch {
		case now.Before(p.From):
			return price, p.From // there is none before it
		case !p.Until.IsZero() && !now.Before(p.Until):
		case i+1 < len(prices) && !now.Before(prices[i+1].From):
		case i+1 < len(prices) && p.Until.IsZero():
			return &p.Price, prices[i+1].From
		default:
			return &p.Price, p.Until
		}
	}
	return nil, time.Time{}
}

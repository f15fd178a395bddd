package cost

import (
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/shopspring/decimal"
)

// Words that stand where a region is.
const (
	Same    = "same"    // where bytes go to: the region that they come from
	Unknown = "unknown" // a region that nobody has said
)

// HoursOfMonth is how many hours a month has of which a price is given.
const HoursOfMonth = 730

// Digits behind the point.
const (
	PriceDigits = 9  // of a price in a table
	HourDigits  = 15 // of a price by the hour, which is rounded to them
	UnitDigits  = 30 // of a quantity: a byte is 2^-30 GiB
	CostDigits  = HourDigits + UnitDigits
)

// Unit is what a price is for.
type Unit string

// The units.
const (
	GB  Unit = "GB"  // 10^9 bytes
	GiB Unit = "GiB" // 2^30 bytes
)

// Table is a price table.
type Table struct {
	Version  int       `json:"version"`
	Currency string    `json:"currency"` // ISO 4217
	Unit     Unit      `json:"unit"`
	Routes   []Route   `json:"routes,omitempty"`
	Storage  []Storage `json:"storage,omitempty"`
}

// Route prices bytes that go from a region to a region.
type Route struct {
	Name   string  `json:"name"` // SkuId of its charges
	From   string  `json:"from"` // pattern of regions, or Unknown
	To     string  `json:"to"`   // pattern of regions, Same or Unknown
	Prices []Price `json:"prices"`
}

// Storage prices bytes that are kept somewhere, by the month of HoursOfMonth.
type Storage struct {
	Name   string  `json:"name"`
	Place  string  `json:"place"`  // pattern of places: kafka, sink:warehouse, sink:*
	Region string  `json:"region"` // pattern of regions, or Unknown
	Prices []Price `json:"prices"`
}

// Price is that of one unit within a time.
type Price struct {
	From  time.Time       `json:"from"`
	Until time.Time       `json:"until,omitzero"` // zero: until the next one
	Price decimal.Decimal `json:"price"`
}

// is reports whether a pattern means the region.
func is(pattern, region string) bool {
	if region == "" {
		return pattern == Unknown
	}
	ok, err := path.Match(pattern, region)
	return ok && err == nil && pattern != Unknown
}

// Route returns the entry that decides for a route; nil if none does.
func (t *Table) Route(from, to string) *Route {
	for i := range t.Routes {
		r := &t.Routes[i]
		if is(r.From, from) && (r.To == Same && from == to && from != "" || r.To != Same && is(r.To, to)) {
			return r
		}
	}
	return nil
}

// Kept returns the entry that decides for what is stored at a place; nil if none does.
func (t *Table) Kept(place, region string) *Storage {
	for i := range t.Storage {
		s := &t.Storage[i]
		if ok, err := path.Match(s.Place, place); ok && err == nil && is(s.Region, region) {
			return s
		}
	}
	return nil
}

// Mistake is one in a table, at a field of an entry of Routes or of Storage.
type Mistake struct {
	List     string // routes or storage
	Entry    int
	Price    int    // of the entry's prices; -1: of the entry itself
	Field    string // "": the price as a whole
	Message  string
	Expected string
}

// Check returns what entries of the table, each right in itself, say against each other.
func (t *Table) Check() (out []Mistake) {
	seen := map[string]int{}
	names := map[string]string{}
	entry := func(list string, i int, name, key, what string, prices []Price) {
		at := func(price int, field, expected, format string, args ...any) {
			out = append(out, Mistake{list, i, price, field, fmt.Sprintf(format, args...), expected})
		}
		if first, ok := names[name]; ok && name != "" {
			at(-1, "name", "a name of its own: charges are named after it", "is %q, as %s is", name, first)
		} else {
			names[name] = fmt.Sprintf("%s[%d]", list, i)
		}
		if first, ok := seen[list+key]; ok {
			at(-1, what, "all prices of a route in one entry", "is never asked: %s[%d] is for the same", list, first)
		} else {
			seen[list+key] = i
		}
		for k, p := range prices {
			if !p.Until.IsZero() && !p.Until.After(p.From) {
				at(k, "until", "a later time", "is %s, not after from (%s)", when(p.Until), when(p.From))
			}
			if k == 0 {
				continue
			}
			switch last := prices[k-1]; {
			case !p.From.After(last.From):
				at(k, "from", "prices in the order of their time", "is %s, not after that of the price before (%s)", when(p.From), when(last.From))
			case last.Until.IsZero() || last.Until.Equal(p.From):
			case last.Until.After(p.From):
				at(k, "from", "from: "+when(last.Until)+", or the price before without until", "is %s, and the price before is until %s: between them both would count", when(p.From), when(last.Until))
			default:
				at(k, "from", "from: "+when(last.Until)+", or the price before without until", "is %s, and the price before is until %s: between them there is none", when(p.From), when(last.Until))
			}
		}
	}
	for i, r := range t.Routes {
		entry("routes", i, r.Name, "\x00"+r.From+"\x00"+r.To, "from", r.Prices)
	}
	for i, s := range t.Storage {
		entry("storage", i, s.Name, "\x00"+s.Place+"\x00"+s.Region, "place", s.Prices)
	}
	return out
}

// when writes a time as a table has it.
func when(t time.Time) string {
	if t = t.UTC(); t.Equal(t.Truncate(24 * time.Hour)) {
		return t.Format(time.DateOnly)
	}
	return strings.TrimSuffix(t.Format(time.RFC3339), "Z") + "Z"
}

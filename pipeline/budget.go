package pipeline

import (
	"strings"
	"time"

	"github.com/shopspring/decimal"
)

// The values of Budget.Per.
const (
	PerDay   = "day"
	PerWeek  = "week"
	PerMonth = "month"
)

const moneyPattern = `^(0|[1-9][0-9]{0,11})(\.[0-9]{1,9})? [A-Z]{3}$`

// Budget is what a pipeline may cost.
type Budget struct {
	Amount string `json:"amount"` // and the currency, such as 100 USD
	Per    string `json:"per"`
	WarnAt Ratio  `json:"warn_at"`
	Slow   int    `json:"slow,omitempty"` // factor for the periods of batch tiers while more is spent; 0: none is slowed
}

// Money returns the sum and its currency.
func (b *Budget) Money() (decimal.Decimal, string) {
	sum, currency, _ := strings.Cut(b.Amount, " ")
	d, err := decimal.NewFromString(sum)
	if err != nil { // the field table allows no such text
		return decimal.Decimal{}, currency
	}
	return d, currency
}

// Period returns the time around now that the sum is for.
func (b *Budget) Period(now time.Time) (start, end time.Time) {
	now = now.UTC()
	day := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, time.UTC)
	switch b.Per {
	case PerDay:
		return day, day.AddDate(0, 0, 1)
	case PerWeek:
		monday := day.AddDate(0, 0, -(int(day.Weekday())+6)%7)
		return monday, monday.AddDate(0, 0, 7)
	}
	first := day.AddDate(0, 0, 1-day.Day())
	return first, first.AddDate(0, 1, 0)
}

// Slowed returns the tier with a period some times as long, but not so long that the log
// would not keep what waits until a run after one that fails.
func (t Tier) Slowed(factor int, retention Duration) Tier {
	if factor > 1 {
		t.Every = max(t.Every, min(t.Every*Duration(factor), retention/2))
	}
	return t
}

// SlowedTiers returns all tiers, slowed by a factor.
func (s *Spec) SlowedTiers(factor int) []Tier {
	out := make([]Tier, len(s.Tiers))
	for i, t := range s.Tiers {
		out[i] = t.Slowed(factor, s.Kafka.Retention)
	}
	return out
}

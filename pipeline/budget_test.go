package pipeline

import (
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBudget(t *testing.T) {
	s := mustParse(t, small+"budget: {amount: 12.50 USD}\n")
	sum, currency := s.Budget.Money()
	if s.Budget.Per != PerMonth || s.Budget.WarnAt.Share() != 0.8 || s.Budget.Slow != 0 || sum.String() != "12.5" || currency != "USD" {
		t.Errorf("%+v is %s %s", s.Budget, sum, currency)
	}
	for per, want := range map[string][2]string{PerDay: {"2026-03-01", "2026-03-02"}, PerWeek: {"2026-02-23", "2026-03-02"}, PerMonth: {"2026-03-01", "2026-04-01"}} {
		b := Budget{Per: per}
		start, end := b.Period(time.Date(2026, 3, 1, 23, 59, 0, 0, time.UTC)) // a Sunday
		if start.Format(time.DateOnly) != want[0] || end.Format(time.DateOnly) != want[1] {
			t.Errorf("%s is from %s until %s", per, start, end)
		}
	}
}

func TestPeriodsFollowEachOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Budget{Per: rapid.SampledFrom([]string{PerDay, PerWeek, PerMonth}).Draw(t, "per")}
		now := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "now"), 0)
		start, end := b.Period(now)
		before, until := b.Period(start.Add(-time.Second))
		if now.Before(start) || !now.Before(end) || !until.Equal(start) || !before.Before(start) {
			t.Fatalf("%s is in %s to %s, after %s to %s", now, start, end, before, until)
		}
	})
}

// A slowed tier is never faster than declared, nor slower than the log allows.
func TestSlowedTiers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		retention := Duration(rapid.Int64Range(int64(time.Hour), int64(30*24*time.Hour)).Draw(t, "retention"))
		tier := Tier{Name: "a", Every: Duration(rapid.Int64Range(int64(10*time.Second), int64(retention)/2).Draw(t, "every"))}
		factor := rapid.IntRange(0, 1000).Draw(t, "factor")
		slow := tier.Slowed(factor, retention)
		if slow.Every < tier.Every || slow.Every > retention/2 || factor <= 1 && !reflect.DeepEqual(slow, tier) || slow.Every != tier.Every*Duration(max(factor, 1)) && slow.Every != retention/2 {
			t.Fatalf("%s is slowed %d times to %s, with %s in the log", tier.Every, factor, slow.Every, retention)
		}
	})
}

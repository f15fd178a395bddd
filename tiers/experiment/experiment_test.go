package experiment

import (
	"math"
	"testing"

	"syncline/tiers/simulate"
)

// chance draws numbers.
type chance uint64

func (c *chance) uniform() float64 {
	*c += 0x9e3779b97f4a7c15
	return (float64(simulate.Mix(uint64(*c))>>11) + 0.5) / (1 << 53)
}

func (c *chance) seed() uint64 { return uint64(*c) }

func (c *chance) normal() float64 {
	return math.Sqrt(-2*math.Log(c.uniform())) * math.Cos(2*math.Pi*c.uniform())
}

// arm draws entities, some with many changes and most with few; each change costs factor
// bytes and some more or less.
func (c *chance) arm(n int, factor float64) (us []Unit) {
	for range n {
		changes := math.Ceil(math.Exp(1 + 0.7*c.normal()))
		us = append(us, Unit{{changes * factor * 100 * math.Exp(0.3*c.normal()), changes}})
	}
	return us
}

// errs draws entities whose sums a reader has too low at some moments.
func (c *chance) errs(n int, stale float64) (us []Unit) {
	for range n {
		u := make(Unit, 3)
		for j := range u {
			v := math.Exp(2 + 0.5*c.normal())
			u[j] = Pair{-v * stale * c.uniform(), v}
		}
		us = append(us, u)
	}
	return us
}

// The interval of the difference of two arms that were treated alike covers 0 as often as
// it says, and a difference that is there is found.
func TestCoverageAndPower(t *testing.T) {
	const cases = 500
	for name, draw := range map[string]func(c *chance, n int, factor float64) []Unit{"ratio": (*chance).arm, "error": func(c *chance, n int, f float64) []Unit { return c.errs(n, 0.1*f) }} {
		covered, found := 0, 0
		for i := range cases {
			c := chance(simulate.Mix(uint64(i) + 7))
			a, same := Draw(draw(&c, 40, 1), c.seed()), Draw(draw(&c, 40, 1), c.seed())
			if Difference(a, same, 0.95).Covers(0) {
				covered++
			}
			if i%5 == 0 {
				if d := Difference(a, Draw(draw(&c, 40, 1.4), c.seed()), 0.95); d.Known && !d.Covers(0) && d.Value > 0 {
					found++
				}
			}
		}
		if p := float64(covered) / cases; p < 0.93 || p > 0.97 {
			t.Errorf("%s: intervals cover 0 in %.1f %% of the cases, want 93 to 97", name, 100*p)
		}
		if p := float64(found) * 5 / cases; p < 0.9 {
			t.Errorf("%s: a difference of 40 %% is found in %.0f %% of the cases only", name, 100*p)
		}
	}
}

func TestEstimates(t *testing.T) {
	c := chance(1)
	us := c.arm(200, 1)
	e, again, other := Draw(us, 5).Of(0.95), Draw(us, 5).Of(0.95), Draw(us, 6).Of(0.95)
	if e != again || e == other || !e.Known || e.Low >= e.Value || e.High <= e.Value || !e.Covers(e.Value) {
		t.Errorf("%+v, %+v, %+v", e, again, other)
	}
	if w := Draw(us, 5).Of(0.99); w.High-w.Low <= e.High-e.Low {
		t.Errorf("at 99 %% %+v is not wider than %+v", w, e)
	}
	// Errors of both signs cancel, as in the sum that a reader computes; a moment with
	// nothing to compare does not count.
	both := make([]Unit, 20)
	for i := range both {
		both[i] = Unit{{float64(1 - i%2*2), 10}, {0, 0}}
	}
	if v, ok := value(both, once(both)); v != 0 || !ok {
		t.Error(v, ok)
	}
	few := Draw(us[:Fewest-1], 5).Of(0.95)
	if few.Known || few.Value == 0 {
		t.Errorf("%+v of too few", few)
	}
	if e := Draw(nil, 1).Of(0.95); e.Known || e.Value != 0 {
		t.Errorf("%+v of none", e)
	}
	if d := Difference(Draw(nil, 1), Draw(us, 2), 0.95); d.Known {
		t.Errorf("%+v", d)
	}
	if l := Level(5); math.Abs(l-0.99) > 1e-12 {
		t.Error(l)
	}
	for v, want := range map[float64]float64{9: 2.2622, 30: 2.0423, 199: 1.9720} {
		if got := student(1.959964, v); math.Abs(got-want) > 0.005 {
			t.Errorf("student with %g: %g, want %g", v, got, want)
		}
	}
}

// Package experiment compares what happened to groups of entities, with intervals.
//
// # What is estimated
//
// A Unit is an entity, or a group of some; units are independent of each other, and each
// is in one arm. It has a numerator and a denominator for each of some moments. The
// estimate of an arm is the mean over the moments of |sum of numerators| / |sum of
// denominators|: with one moment a ratio such as bytes per change, with several the
// relative error of an aggregate that a reader computes at these times.
//
// # Intervals
//
// They are of the bootstrap: units are drawn anew, with replacement, a thousand times, and
// the middle 95 % of the estimates taken, widened as Student's distribution is wider than
// the normal one for as many units. The draws depend on the seed alone, so an experiment
// that is repeated says the same. Tests hold that an interval of the difference of two
// arms that were treated alike covers 0 in 93 to 97 of 100 cases, and that a difference
// which is there is found.
//
// # Control
//
// Two arms of the same treatment (A/A) differ by chance only. If the interval of their
// difference does not cover 0, arms differ for another reason: mostly a few entities that
// outweigh all others. Of several quantities one in twenty does so by chance, so that each
// is tested at a level that makes it one in twenty of all (Level).
//
// The package is pure and cannot fail: what cannot be estimated is not Known.
package experiment

import (
	"math"
	"slices"

	"syncline/tiers/simulate"
)

// Pair is what a unit adds to an estimate at a moment.
type Pair struct{ Num, Den float64 }

// Unit has a Pair for each moment; all units of a comparison have as many.
type Unit []Pair

// Fewest is of how many units an interval can be told.
const Fewest = 10

const draws = 1000

// Estimate is a number with an interval.
type Estimate struct {
	Known bool    `json:"known"`
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// Covers reports whether the interval has a value in it.
func (e Estimate) Covers(v float64) bool { return e.Known && e.Low <= v && v <= e.High }

// Level is how sure an interval of one of n quantities is to be, for all of them to be
// so at 95 %.
func Level(n int) float64 { return 1 - 0.05/float64(max(n, 1)) }

// value estimates from units, each as often as times says.
func value(us []Unit, times []float64) (float64, bool) {
	if len(us) == 0 {
		return 0, false
	}
	all := make(Unit, len(us[0]))
	for i, u := range us {
		if times[i] == 0 {
			continue
		}
		for j := range u {
			all[j].Num += times[i] * u[j].Num
			all[j].Den += times[i] * u[j].Den
		}
	}
	sum, n := 0.0, 0
	for _, p := range all {
		if p.Den != 0 {
			sum += math.Abs(p.Num / p.Den)
			n++
		}
	}
	return sum / float64(n), n > 0
}

func once(us []Unit) []float64 {
	out := make([]float64, len(us))
	for i := range out {
		out[i] = 1
	}
	return out
}

// Arm is one with its redrawn estimates.
type Arm struct {
	units int
	value float64
	known bool
	drawn []float64 // none: of too few units
}

// Draw estimates an arm, and again from units that are drawn by a seed. Arms that are
// compared need seeds of their own.
func Draw(us []Unit, seed uint64) Arm {
	a := Arm{units: len(us)}
	a.value, a.known = value(us, once(us))
	if !a.known || len(us) < Fewest {
		a.value *= bit(a.known)
		return a
	}
	times := make([]float64, len(us))
	for range draws {
		clear(times)
		for range us {
			seed += 0x9e3779b97f4a7c15
			times[simulate.Mix(seed)%uint64(len(us))]++
		}
		v, ok := value(us, times)
		if !ok {
			v = math.NaN()
		}
		a.drawn = append(a.drawn, v)
	}
	return a
}

// Of is an arm's estimate.
func (a Arm) Of(level float64) Estimate {
	if a.drawn == nil {
		return Estimate{Value: a.value}
	}
	return interval(a.value, slices.Clone(a.drawn), a.units, level)
}

// Difference estimates by how much b is above a.
func Difference(a, b Arm, level float64) Estimate {
	switch {
	case !a.known || !b.known:
		return Estimate{}
	case a.drawn == nil || b.drawn == nil:
		return Estimate{Value: b.value - a.value}
	}
	all := slices.Clone(b.drawn)
	for i := range all {
		all[i] -= a.drawn[i]
	}
	return interval(b.value-a.value, all, min(a.units, b.units), level)
}

func bit(ok bool) float64 {
	if ok {
		return 1
	}
	return 0
}

func interval(v float64, all []float64, n int, level float64) Estimate {
	all = slices.DeleteFunc(all, math.IsNaN)
	if len(all) < draws/2 {
		return Estimate{Value: v}
	}
	slices.Sort(all)
	at := func(q float64) float64 {
		r := q * float64(len(all)-1)
		i := int(r)
		return all[i] + (r-float64(i))*(all[min(i+1, len(all)-1)]-all[i])
	}
	z := math.Sqrt2 * math.Erfinv(level)
	wider := student(z, float64(n-1)) / z * math.Sqrt(float64(n)/float64(n-1))
	return Estimate{true, v, v - wider*(v-at((1-level)/2)), v + wider*(at((1+level)/2)-v)}
}

// student is the quantile of Student's distribution where z is the normal one's, by the
// expansion of Cornish and Fisher.
func student(z, v float64) float64 {
	return z + (z*z*z+z)/(4*v) + (5*math.Pow(z, 5)+16*z*z*z+3*z)/(96*v*v)
}

package main

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// Of fewer, an interval that is taken as soon as it is narrow covers the ratio in less
	// than nine of ten cases.
	fewestPairs = 20
	draws       = 2000
)

// interval is a median with its 95 % interval of the bootstrap.
type interval struct{ median, low, high float64 }

func (i interval) half() float64 { return (i.high - i.low) / 2 }

// middle of values, of which there is one at least. It sorts them.
func middle(v []float64) float64 {
	slices.Sort(v)
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

// medianOf draws values anew, with replacement; the same values give the same interval.
func medianOf(values []float64) interval {
	r := rand.New(rand.NewPCG(1, uint64(len(values))))
	drawn, some := make([]float64, draws), make([]float64, len(values))
	for i := range drawn {
		for j := range some {
			some[j] = values[r.IntN(len(values))]
		}
		drawn[i] = middle(some)
	}
	slices.Sort(drawn)
	return interval{middle(slices.Clone(values)), drawn[draws*25/1000], drawn[draws*975/1000-1]}
}

// abba is what four blocks took, in the order of their time: with, without, without, with.
type abba [4]time.Duration

// ratio is of with to without. What drifts evenly over the four blocks cancels out, and
// so does what comes of being first or second to read the same load.
func (b abba) ratio() float64 {
	return math.Sqrt(b[0].Seconds() / b[1].Seconds() * (b[3].Seconds() / b[2].Seconds()))
}

// exchanged is the ratio of two that were measured with roles exchanged: what else differs
// between those who have them cancels out.
func exchanged(a, b float64) float64 { return math.Sqrt(a * b) }

// settle measures ratios until the half width of their median's interval is below a bound,
// or the time is over, which counts after a measurement.
func settle(ctx context.Context, within float64, limit time.Duration, measure func(context.Context) (float64, error)) (ratios []float64, settled bool, err error) {
	for end := time.Now().Add(limit); ; {
		ratio, err := measure(ctx)
		if err != nil {
			return nil, false, err
		}
		ratios = append(ratios, ratio)
		if len(ratios) >= fewestPairs && medianOf(ratios).half() < within {
			return ratios, true, nil
		}
		if !time.Now().Before(end) {
			return ratios, false, nil
		}
	}
}

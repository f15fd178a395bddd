package main

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestMedianOfKnownValues(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   interval
	}{
		{[]float64{1.02, 1.02, 1.02, 1.02}, interval{1.02, 1.02, 1.02}},
		{[]float64{3, 1, 2}, interval{2, 1, 3}},
		{[]float64{4, 1, 3, 2}, interval{2.5, 1, 4}},
		// One that is far off moves neither the median nor its interval beyond its neighbours.
		{[]float64{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 50}, interval{1, 1, 1}},
	} {
		if got := medianOf(c.values); got != c.want {
			t.Errorf("%v: %v, not %v", c.values, got, c.want)
		}
	}
	values := []float64{3, 1, 2}
	if medianOf(values); values[0] != 3 {
		t.Error("the values are sorted")
	}
}

// Of measurements with a known ratio, the interval covers it as often as it says. Few
// values make medians coarse, so it may be a bit more or less often.
func TestIntervalCoversTheRatio(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for _, n := range []int{fewestPairs, 50} {
		const cases = 200
		covered := 0
		for range cases {
			values := make([]float64, n)
			for i := range values {
				values[i] = 1.02 * math.Exp(0.05*r.NormFloat64())
			}
			if i := medianOf(values); i.low <= 1.02 && 1.02 <= i.high {
				covered++
			}
		}
		if share := float64(covered) / cases; share < 0.90 || share > 0.99 {
			t.Errorf("of %d values, %.1f %% of the intervals cover the ratio", n, 100*share)
		}
	}
}

// Drift, and an advantage of the second to read a load, do not show in the ratio.
func TestRatioOfFourBlocks(t *testing.T) {
	const on, off, second = 1.03, 1.0, 0.8
	var b abba
	for i, cost := range []float64{on, off, off, on} {
		drift := math.Pow(1.1, float64(i)) // each block is a tenth slower than the one before
		if i%2 == 1 {
			cost *= second
		}
		b[i] = time.Duration(cost * drift * float64(time.Hour))
	}
	if got := b.ratio(); math.Abs(got-on) > 1e-9 {
		t.Errorf("ratio %v, not %v", got, on)
	}
}

func TestSettle(t *testing.T) {
	rounds := 0
	steady := func(context.Context) (float64, error) {
		rounds++
		return 1.02 + float64(rounds%2)/1000, nil
	}
	ratios, settled, err := settle(t.Context(), 0.015, time.Hour, steady)
	if err != nil || !settled || rounds != fewestPairs || len(ratios) != fewestPairs {
		t.Errorf("%v after %d rounds, settled: %t, %v", ratios, rounds, settled, err)
	}
	if ratios, settled, err = settle(t.Context(), 0.015, 0, steady); err != nil || settled || len(ratios) != 1 {
		t.Errorf("%v, settled: %t, %v", ratios, settled, err)
	}
	broken := errors.New("broken")
	if _, settled, err = settle(t.Context(), 0.015, time.Hour, func(context.Context) (float64, error) { return 0, broken }); settled || !errors.Is(err, broken) {
		t.Errorf("settled: %t, %v", settled, err)
	}
}

// One of two workers is a third slower whatever it does.
func TestRatioWithRolesExchanged(t *testing.T) {
	if got := exchanged(1.03*1.33, 1.03/1.33); math.Abs(got-1.03) > 1e-9 {
		t.Errorf("ratio %v, not 1.03", got)
	}
}

// An interval that is taken as soon as it is narrow covers the ratio a bit more rarely.
func TestSettledIntervalCoversTheRatio(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	const cases = 200
	covered := 0
	for range cases {
		ratios, settled, err := settle(t.Context(), 0.015, time.Hour, func(context.Context) (float64, error) {
			return 1.02 * math.Exp(0.03*r.NormFloat64()), nil
		})
		if err != nil || !settled {
			t.Fatal(settled, err)
		}
		if i := medianOf(ratios); i.low <= 1.02 && 1.02 <= i.high {
			covered++
		}
	}
	if share := float64(covered) / cases; share < 0.90 {
		t.Errorf("%.1f %% of the intervals cover the ratio", 100*share)
	}
}

// What has not settled is not shown as if it had.
func TestFiguresSayWhetherTheySettled(t *testing.T) {
	p := &pairs{b: &bench{block: 1600}, without: []time.Duration{time.Second}}
	for _, c := range []struct {
		ratios  []float64
		settled bool
		want    string
	}{
		{[]float64{1.02}, false, "no interval; 1 rounds in 1m0s; NOT SETTLED: it takes 20 rounds"},
		{slices.Repeat([]float64{0.9, 1.1}, 10), false, "95 % between -10.00 % and +10.00 %; 20 rounds in 1m0s; NOT SETTLED: half of the interval is 10.00 %, not below 1.5 %"},
		{slices.Repeat([]float64{1.02}, 20), true, "95 % between +2.00 % and +2.00 %; 20 rounds in 1m0s, settled"},
	} {
		p.cpu = c.ratios
		if got := p.figures(c.ratios, c.settled, time.Minute)[1].Note; got != c.want {
			t.Errorf("%q, not %q", got, c.want)
		}
	}
}

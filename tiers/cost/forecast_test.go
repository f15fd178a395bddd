package cost

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestForeseeWithoutEnough(t *testing.T) {
	f := Foresee(day(1), day(2), day(31), 3, make([]float64, 47))
	if f.Why == "" || f.Expected != 0 || f.Spent != 3 {
		t.Errorf("%+v", f)
	}
	if f := Foresee(day(1), day(31), day(31), 3, nil); f.Why != "" || f.Expected != 3 || f.High != 3 {
		t.Errorf("%+v", f)
	}
}

// What repeats each day, or each week, is foreseen as it will be.
func TestForeseeWhatRepeats(t *testing.T) {
	rate := func(weekly bool, i int) float64 {
		r := float64(i % 24)
		if weekly && i/24%7 < 2 {
			r *= 5
		}
		return r
	}
	for _, x := range []struct {
		weekly     bool
		days, left int // hours left
		method     string
	}{{false, 3, 50, "day over 3"}, {true, 30, 24*11 + 5, "week over 28"}, {true, 57, 1, "week over 56"}} {
		n := x.days*24 + 7 // now is seven hours into a day
		var hours []float64
		for i := range n {
			hours = append(hours, rate(x.weekly, i))
		}
		want := 0.0
		for i := range x.left {
			want += rate(x.weekly, n+i)
		}
		now := day(1).Add(time.Duration(n) * time.Hour)
		f := Foresee(day(1), now.Add(59*time.Minute), now.Add(time.Duration(x.left)*time.Hour), 100, hours)
		if math.Abs(f.Expected-100-want) > 1e-6 || f.High-f.Low > 1e-6 || !strings.Contains(f.Method, x.method) {
			t.Errorf("%+v: %+v, want %g", x, f, 100+want)
		}
	}
}

// The interval holds about as many outcomes as it says, with few days and with many.
func TestForeseeHoldsItsConfidence(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, days := range []int{3, 10, 28, 42} {
		const runs = 2000
		held := 0
		for range runs {
			var hours []float64
			draw := func(n int) (sum float64) {
				for d := 0; d < n; d++ {
					level := 100 + 20*r.NormFloat64()
					for h := range 24 {
						v := level + float64(h) + 5*r.NormFloat64()
						hours, sum = append(hours, v), sum+v
					}
				}
				return sum
			}
			draw(days)
			known := hours
			left := 1 + r.IntN(20)
			hours = nil
			truth := draw(left)
			now := day(1).AddDate(0, 0, days)
			f := Foresee(day(1), now, now.AddDate(0, 0, left), 0, known)
			if truth >= f.Low && truth <= f.High {
				held++
			}
		}
		if share := float64(held) / runs; share < Confidence-0.03 || share > Confidence+0.03 {
			t.Errorf("with %d days the interval of %g held %g of the outcomes", days, Confidence, share)
		}
	}
}

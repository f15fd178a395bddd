package cost

import (
	"fmt"
	"math"
	"time"
)

// Forecast is what a time will have cost at its end.
type Forecast struct {
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	Spent    float64   `json:"spent"` // until Now
	Expected float64   `json:"expected,omitempty"`
	Low      float64   `json:"low,omitempty"` // of an interval that holds Confidence of the outcomes
	High     float64   `json:"high,omitempty"`
	Method   string    `json:"method,omitempty"`
	Why      string    `json:"why,omitempty"` // why there is none
}

// Confidence is that of a forecast's interval.
const Confidence = 0.9

// Days of which hours are needed: for any forecast, and for one by the hour of the week.
const (
	fewestDays = 2
	weeklyDays = 28
)

// Foresee says what the time from start to end will have cost, of which spent is known
// until now, from the costs of the hours before now, the oldest first and without a gap.
// Whole days before now are looked at, the last 56 of them at most. The remaining hours
// are expected to cost what hours of the same place in the day, or of four weeks of hours
// on in the week, cost in the mean; the interval is Student's, of the sums of days around
// that.
func Foresee(start, now, end time.Time, spent float64, hours []float64) Forecast {
	f := Forecast{Start: start, End: end, Spent: spent}
	now = now.Truncate(time.Hour)
	left := int(end.Sub(now) / time.Hour)
	if left <= 0 {
		f.Expected, f.Low, f.High, f.Method = spent, spent, spent, "the time is over"
		return f
	}
	days := min(len(hours)/24, 56)
	if days < fewestDays {
		f.Why = fmt.Sprintf("only %d hours are priced, and fewer than %d days say nothing of the next", len(hours), fewestDays)
		return f
	}
	classes, free := 24, days-1
	f.Method = fmt.Sprintf("means by the hour of the day over %d days", days)
	if days >= weeklyDays {
		days = days / 7 * 7
		classes, free = 7*24, days-7
		f.Method = fmt.Sprintf("means by the hour of the week over %d days", days)
	}
	hours = hours[len(hours)-24*days:]
	class := func(i int) int { return ((i % classes) + classes) % classes } // of the i-th hour of hours, and on
	mean := make([]float64, classes)
	for i, h := range hours {
		mean[class(i)] += h * float64(classes) / float64(len(hours))
	}
	var squares float64
	for d := range days {
		off := 0.0
		for i := 24 * d; i < 24*d+24; i++ {
			off += hours[i] - mean[class(i)]
		}
		squares += off * off
	}
	more := 0.0
	for i := range left {
		more += mean[class(len(hours)+i)]
	}
	n, known := float64(left)/24, float64(days)
	// The days to come differ from their mean, which itself is known from so many days only.
	err := student(free) * math.Sqrt(squares/float64(free)*(n+n*n/known))
	f.Expected, f.Low, f.High = spent+more, spent+max(0, more-err), spent+more+err
	return f
}

// student is the two-sided quantile of Confidence of Student's distribution, for some
// degrees of freedom; beyond the table by the expansion of Cornish and Fisher.
func student(free int) float64 {
	if exact := []float64{math.Inf(1), 6.3138, 2.9200, 2.3534, 2.1318, 2.0150}; free < len(exact) {
		return exact[max(free, 0)]
	}
	const z = 1.6449
	v := float64(free)
	return z + (z*z*z+z)/(4*v) + (5*math.Pow(z, 5)+16*z*z*z+3*z)/(96*v*v)
}

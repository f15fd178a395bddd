package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"math"
	"os"
	"path/filepath"
	"time"
)

//go:embed chart.html
var chartHTML string

// Size of the chart's plane, within its margins.
const (
	planeLeft, planeTop     = 90.0, 20.0
	planeWidth, planeHeight = 640.0, 340.0
)

type mark struct {
	X, Y  float64
	Label string
}

type chartData struct {
	Points             []chartPoint
	Columns, Lines     []mark // of the grid
	Left, Top          float64
	Right, Bottom      float64
	Rate, Hour, Price  string
	Width, FullHeight  float64
	PlaneWidth, PlaneH float64
}

type chartPoint struct {
	N                  int
	What               string
	X, Streamed        float64
	Waited             float64 // 0: nothing waits
	Bytes, Cost, Share string
	StreamedIn, Waits  string
}

// scale places values on a logarithmic axis.
type scale struct{ low, high, at, length float64 }

// spanning is a scale from the power of ten below the values to the one above.
func spanning(at, length float64, vs ...float64) scale {
	s := scale{math.Inf(1), math.Inf(-1), at, length}
	for _, v := range vs {
		s.low, s.high = min(s.low, math.Floor(math.Log10(v))), max(s.high, math.Ceil(math.Log10(v)))
	}
	if s.high == s.low {
		s.high++
	}
	return s
}

func (s scale) place(v float64) float64 {
	return s.at + s.length*(math.Log10(v)-s.low)/(s.high-s.low)
}

// ticks are 1, 2 and 5 of each power of ten.
func (s scale) ticks() (out []float64) {
	for e := s.low; e <= s.high; e++ {
		for _, m := range []float64{1, 2, 5} {
			if v := m * math.Pow(10, e); math.Log10(v) <= s.high+1e-9 {
				out = append(out, v)
			}
		}
	}
	return out
}

// chart draws what each policy costs against how fresh it is, into a page.
func (b *bench) chart(all []*outcome, hour time.Duration) error {
	var costs, times []float64
	for _, o := range all {
		costs, times = append(costs, o.gbPerMillion()*b.price), append(times, o.streamed.Seconds())
		if o.waited > 0 {
			times = append(times, o.waited.Seconds())
		}
	}
	x, y := spanning(planeLeft, planeWidth, costs...), spanning(planeTop+planeHeight, -planeHeight, times...)
	d := chartData{Left: planeLeft, Top: planeTop, Right: planeLeft + planeWidth, Bottom: planeTop + planeHeight, PlaneWidth: planeWidth, PlaneH: planeHeight,
		Width: planeLeft + planeWidth + 30, FullHeight: planeTop + planeHeight + 60,
		Rate: fmt.Sprintf("%d changes/s", b.rate), Hour: hour.String(), Price: fmt.Sprintf("$%g a GB", b.price)}
	for _, v := range x.ticks() {
		d.Columns = append(d.Columns, mark{x.place(v), d.Bottom + 18, fmt.Sprintf("$%.3g", v)})
	}
	for _, v := range y.ticks() {
		d.Lines = append(d.Lines, mark{d.Left - 8, y.place(v), (time.Duration(v*1e6) * time.Microsecond).String()})
	}
	for i, o := range all {
		cost := o.gbPerMillion() * b.price
		p := chartPoint{N: i + 1, What: o.what, X: x.place(cost), Streamed: y.place(o.streamed.Seconds()), Bytes: fmt.Sprintf("%.0f", float64(o.sent.there)/float64(o.changes)),
			Cost: fmt.Sprintf("$%.4f", cost), Share: fmt.Sprintf("%.0f %%", 100*o.gbPerMillion()/all[0].gbPerMillion()), StreamedIn: o.streamed.Round(time.Millisecond).String(), Waits: "–"}
		if o.waited > 0 {
			p.Waited, p.Waits = y.place(o.waited.Seconds()), o.waited.Round(100*time.Millisecond).String()
		}
		d.Points = append(d.Points, p)
	}
	if err := os.MkdirAll(filepath.Dir(b.drawn), 0o755); err != nil {
		return err
	}
	f, err := os.Create(b.drawn)
	if err != nil {
		return err
	}
	if err := template.Must(template.New("chart").Parse(chartHTML)).Execute(f, d); err != nil {
		_ = f.Close()
		return err
	}
	fmt.Printf("  the chart is in %s\n", b.drawn)
	return f.Close()
}

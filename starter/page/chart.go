package page

import (
	"fmt"
	"math"
	"strings"
	"time"

	"syncline/analytics/report"
)

// The drawing's measures, in units of its view box.
const (
	Width  = 640.0
	Height = 200.0
	left   = 4.0
	right  = 4.0
	top    = 26.0
	bottom = 30.0
	// mostCurves bounds what one drawing shows; the table beside it has all.
	mostCurves = 6
)

// Chart is a drawing of lines of one unit, and their table.
type Chart struct {
	Title  string
	Unit   report.Unit
	About  string // of the drawing, in a sentence
	Ticks  []tick // on the left
	Times  []tick // below
	Curves []curve
	Spots  []spot
	Rows   []row
	Heads  []string // of the table of all values
	Steps  []step
	Hidden int // curves that are in the table only
	Empty  bool
}

type tick struct {
	At    float64
	Label string
}

// curve is one line, in pieces between which nothing was measured.
type curve struct {
	Class  string
	Label  string
	Pieces []string // points of polylines
	Dots   []dot    // that have no neighbour
	Areas  []string
}

type dot struct{ X, Y float64 }

// spot is where a pointer finds the numbers of one step.
type spot struct {
	X, W float64
	Text string
}

// row is a line in the table beside the drawing.
type row struct {
	Class, Label, Value, Low, High, Last string
}

type step struct {
	Time   string
	Values []string
}

func chartOf(r *report.Report, title string, u report.Unit, lines []report.Line) Chart {
	c := Chart{Title: title, Unit: u, Empty: true}
	n := 0
	var most float64
	for _, l := range lines {
		n = max(n, len(l.Points))
		if m := l.Points.Max(); m != nil {
			most, c.Empty = max(most, *m), false
		}
	}
	if c.Empty {
		return c
	}
	x := func(i int) float64 { return place(left + (float64(i)+.5)/float64(n)*(Width-left-right)) }
	ceiling := ceil(most, u)
	y := func(v float64) float64 { return place(Height - bottom - max(v, 0)/ceiling*(Height-top-bottom)) }
	for i := range 3 {
		v := ceiling * float64(i) / 2
		c.Ticks = append(c.Ticks, tick{y(v), report.Say(&v, u)})
	}
	c.Times = times(r)
	for i, l := range lines {
		class := fmt.Sprintf("s%d", i%mostCurves)
		if i >= mostCurves {
			class = ""
			c.Hidden++
		} else {
			c.Curves = append(c.Curves, curveOf(l, class, x, y, i == 0))
		}
		c.Rows = append(c.Rows, row{class, l.Label, report.Say(l.Value, u), report.Say(l.Points.Min(), u), report.Say(l.Points.Max(), u), report.Say(last(l.Points), u)})
		c.Heads = append(c.Heads, l.Label)
	}
	c.steps(r, u, lines, n, x)
	c.About = fmt.Sprintf("%s of %s from %s until %s UTC, at most %s", title, r.Pipeline, clock(r.Since), clock(r.Until), report.Say(&most, u))
	return c
}

// steps fills in what a pointer finds, and the table of all values.
func (c *Chart) steps(r *report.Report, u report.Unit, lines []report.Line, n int, x func(int) float64) {
	w := (Width - left - right) / float64(n)
	for i := range n {
		from := r.Since.Add(time.Duration(i) * r.StepTime())
		until := from.Add(r.StepTime())
		if until.After(r.Until) {
			until = r.Until
		}
		s := step{Time: clock(from)}
		var said []string
		for _, l := range lines {
			var v *float64
			if i < len(l.Points) {
				v = l.Points[i]
			}
			s.Values = append(s.Values, report.Say(v, u))
			if v != nil && len(said) < mostCurves {
				said = append(said, l.Label+": "+report.Say(v, u))
			}
		}
		if len(said) == 0 {
			said = []string{"nothing measured"}
		}
		c.Steps = append(c.Steps, s)
		c.Spots = append(c.Spots, spot{place(x(i) - w/2), place(w), clock(from) + " to " + until.UTC().Format("15:04:05") + "\n" + strings.Join(said, "\n")})
	}
}

func curveOf(l report.Line, class string, x func(int) float64, y func(float64) float64, area bool) curve {
	out := curve{Class: class, Label: l.Label}
	var piece []dot
	flush := func() {
		var b strings.Builder
		for i, d := range piece {
			if i > 0 {
				b.WriteByte(' ')
			}
			fmt.Fprintf(&b, "%g,%g", d.X, d.Y)
		}
		switch {
		case len(piece) == 1:
			out.Dots = append(out.Dots, piece[0])
		case len(piece) > 1:
			out.Pieces = append(out.Pieces, b.String())
			if base := y(0); area {
				out.Areas = append(out.Areas, fmt.Sprintf("%g,%g %s %g,%g", piece[0].X, base, b.String(), piece[len(piece)-1].X, base))
			}
		}
		piece = nil
	}
	for i, v := range l.Points {
		if v == nil {
			flush()
			continue
		}
		piece = append(piece, dot{x(i), y(*v)})
	}
	flush()
	return out
}

func last(p report.Points) *float64 {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] != nil {
			return p[i]
		}
	}
	return nil
}

// place rounds to a tenth of a unit: nobody sees more, and the file is smaller.
func place(f float64) float64 { return math.Round(f*10) / 10 }

func clock(t time.Time) string { return t.UTC().Format("2 Jan 15:04") }

// ceil is the round number at the top of a scale.
func ceil(most float64, u report.Unit) float64 {
	if most <= 0 {
		return 1
	}
	base, unit := 10.0, 1.0
	if u == report.Bytes || u == report.BytesSecond {
		for base = 1024; most >= unit*base; {
			unit *= base
		}
	}
	if u == report.Millis { // a round number of what is written below it
		for _, size := range []float64{1e3, 60e3, 3600e3} {
			if most >= size {
				unit = size
			}
		}
	}
	scale := math.Pow(10, math.Floor(math.Log10(most/unit)))
	for _, f := range []float64{1, 2, 4, 5, 6, 8, 10} {
		if v := f * scale * unit; most <= v*(1+1e-9) {
			if u == report.Share {
				return min(v, 1)
			}
			return v
		}
	}
	return 10 * scale * unit
}

var tickSteps = []time.Duration{
	10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour,
	2 * time.Hour, 3 * time.Hour, 4 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 2 * 24 * time.Hour, 5 * 24 * time.Hour, 10 * 24 * time.Hour, 30 * 24 * time.Hour, 60 * 24 * time.Hour, 100 * 24 * time.Hour,
}

// mostTimes bounds the labels below a drawing, so that they do not touch.
const mostTimes = 6

// times are round times below a drawing; where a day begins, its date.
func times(r *report.Report) (out []tick) {
	length := r.Until.Sub(r.Since)
	every := tickSteps[len(tickSteps)-1]
	for _, s := range tickSteps {
		if length/s <= mostTimes {
			every = s
			break
		}
	}
	drawn := float64(len(pointsOf(r))) * float64(r.StepTime()) // the last step may reach beyond the end
	if drawn == 0 {
		drawn = float64(length)
	}
	for t := r.Since.UTC().Truncate(every); !t.After(r.Until); t = t.Add(every) {
		at := left + float64(t.Sub(r.Since))/drawn*(Width-left-right)
		if t.Before(r.Since) || at > Width-right-26 || at < left+76 {
			continue
		}
		layout := "15:04"
		switch {
		case t.Equal(t.Truncate(24 * time.Hour)):
			layout = "2 Jan"
		case every < time.Minute:
			layout = "15:04:05"
		}
		out = append(out, tick{place(at), t.Format(layout)})
	}
	return out
}

// pointsOf is any series of the report: all have the same steps.
func pointsOf(r *report.Report) report.Points {
	for _, i := range r.Indicators {
		for _, l := range i.Lines {
			return l.Points
		}
	}
	for _, o := range r.Objectives {
		return o.Points
	}
	return nil
}

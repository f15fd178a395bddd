package report

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// Say writes a value with its unit, as people read it.
func Say(v *float64, u Unit) string {
	if v == nil {
		return "-"
	}
	switch f := *v; u {
	case Millis:
		return sayMillis(f)
	case Share:
		return Percent(f)
	case Bytes:
		return sayBytes(f)
	case BytesSecond:
		return sayBytes(f) + "/s"
	case PerSecond:
		return amount(f) + "/s"
	case PerMinute:
		return amount(f) + "/min"
	default:
		return amount(f)
	}
}

// Percent writes a share so that neither 0% nor 100% is said of what is only near it.
func Percent(f float64) string {
	p := f * 100
	digits := 2
	for ; digits < 6 && p != 0 && p != 100; digits++ {
		if shown := round(p, digits); shown != 0 && shown != 100 {
			break
		}
	}
	return strconv.FormatFloat(round(p, digits), 'f', -1, 64) + "%"
}

func round(f float64, digits int) float64 {
	scale := math.Pow10(digits)
	return math.Round(f*scale) / scale
}

// three writes a number with three digits, or all of a whole one.
func three(f float64) string {
	switch a := math.Abs(f); {
	case a >= 100 || f == math.Trunc(f):
		return strconv.FormatFloat(math.Round(f), 'f', -1, 64)
	case a >= 10:
		return strconv.FormatFloat(round(f, 1), 'f', -1, 64)
	}
	return strconv.FormatFloat(round(f, 2), 'f', -1, 64)
}

func amount(f float64) string {
	for _, u := range []struct {
		size float64
		name string
	}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if f >= u.size*10 || f >= u.size && u.size > 1e3 { // 1234 is shorter than 1.23k is clear
			return three(f/u.size) + u.name
		}
	}
	if f > 0 && f < 0.01 {
		return "<0.01"
	}
	return three(f)
}

func sayBytes(f float64) string {
	unit := "B"
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if f < 1024 {
			break
		}
		f, unit = f/1024, u
	}
	return three(f) + " " + unit
}

func sayMillis(ms float64) string {
	switch {
	case ms >= 3600e3:
		return three(ms/3600e3) + " h"
	case ms >= 60e3:
		return three(ms/60e3) + " min"
	case ms >= 1000:
		return three(ms/1000) + " s"
	}
	return three(ms) + " ms"
}

// Burn writes a burn rate.
func Burn(b *float64) string {
	if b == nil {
		return "-"
	}
	return amount(*b) + "×"
}

// Span writes a duration in its largest whole units, such as 7d or 1h30m.
func Span(d time.Duration) string {
	text := ""
	for _, u := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if n := d / u.size; n > 0 {
			text += strconv.Itoa(int(n)) + u.name
			d %= u.size
		}
	}
	if text == "" {
		return "0s"
	}
	return text
}

// Blocks and Plain are the levels of a sparkline, on a terminal and elsewhere.
const (
	Blocks = "▁▂▃▄▅▆▇█"
	Plain  = "_.-~=+*#"
)

// Spark draws points in at most width characters, between 0 and their largest. A
// character that stands for several shows the worst of them, and one for none is a space.
func Spark(p Points, width int, better Better, levels string) string {
	ramp := []rune(levels)
	p = p.Narrow(width, better)
	top := p.Max()
	var b strings.Builder
	for _, v := range p {
		switch {
		case v == nil:
			b.WriteByte(' ')
		case *top <= 0:
			b.WriteRune(ramp[0])
		default:
			b.WriteRune(ramp[min(int(max(*v, 0) / *top * float64(len(ramp))), len(ramp)-1)])
		}
	}
	return b.String()
}

// Narrow returns at most width points, each the worst of those that it stands for.
func (p Points) Narrow(width int, better Better) Points {
	if len(p) <= width || width < 1 {
		return p
	}
	out := make(Points, width)
	for i := range out {
		part := p[i*len(p)/width : (i+1)*len(p)/width]
		if out[i] = part.Max(); better == Higher {
			out[i] = part.Min()
		}
	}
	return out
}

// Whole writes a count in full, in groups of three digits.
func Whole(f float64) string {
	s := strconv.FormatFloat(math.Round(f), 'f', -1, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

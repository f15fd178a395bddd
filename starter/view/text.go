package view

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// table aligns columns by what a person sees, not by bytes.
func table(c canvas, head []string, rows [][]string) {
	width := make([]int, len(head))
	for _, r := range append([][]string{head}, rows...) {
		if len(r) < len(head) {
			continue // a line of its own
		}
		for i, cell := range r {
			width[i] = max(width[i], seen(cell))
		}
	}
	for n, r := range append([][]string{head}, rows...) {
		var b strings.Builder
		for i, cell := range r {
			pad := strings.Repeat(" ", max(width[i]-seen(cell), 0))
			if n == 0 {
				cell = c.s.Paint(dim, cell)
			}
			b.WriteString(cell)
			if i < len(r)-1 {
				b.WriteString(pad + "  ")
			}
		}
		c.line("  " + strings.TrimRight(b.String(), " "))
	}
}

// wrapped writes text after a prefix and breaks it between words where the
// terminal ends, so that a reason can be read to its end.
func (c canvas) wrapped(prefix, text string) {
	indent := strings.Repeat(" ", seen(prefix))
	room := c.s.Width - len(indent)
	if c.s.Width == 0 || room < 20 {
		c.line(prefix + text)
		return
	}
	line := ""
	for _, w := range strings.Fields(text) {
		if line != "" && seen(line)+1+seen(w) > room {
			c.line(prefix + line)
			prefix, line = indent, ""
		}
		if line != "" {
			line += " "
		}
		line += w
	}
	c.line(prefix + line)
}

// Wrapped writes text after a prefix, broken between words where the terminal ends.
func Wrapped(w io.Writer, s Style, prefix, text string) { canvas{w, s}.wrapped(prefix, text) }

// Fit cuts a line to a width that a person sees; 0 leaves it.
func Fit(line string, width int) string {
	if width <= 0 || seen(line) <= width {
		return line
	}
	var b strings.Builder
	n, esc, colored := 0, false, false
	for _, r := range line {
		switch {
		case r == '\x1b':
			esc, colored = true, true
		case esc:
			esc = r != 'm'
		case n == width-1:
			b.WriteRune('…')
			if colored {
				b.WriteString("\x1b[0m")
			}
			return b.String()
		default:
			n++
		}
		b.WriteRune(r)
	}
	return b.String()
}

// seen counts the characters that a person sees.
func seen(s string) int {
	n, esc := 0, false
	for len(s) > 0 {
		r, w := utf8.DecodeRuneInString(s)
		s = s[w:]
		switch {
		case r == '\x1b':
			esc = true
		case esc:
			esc = r != 'm'
		default:
			n++
		}
	}
	return n
}

// Said joins a code and a message, which may name its code already.
func Said(code, message string) string {
	if code == "" || code == "Error" || message == code || strings.HasPrefix(message, code+":") {
		return message
	}
	return code + ": " + message
}

// Plural writes a number with its noun.
func Plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Count writes a number as people read it: 950, 12.3k, 4.56M.
func Count(f float64) string {
	switch {
	case f >= 1e9:
		return fmt.Sprintf("%.2fG", f/1e9)
	case f >= 1e6:
		return fmt.Sprintf("%.2fM", f/1e6)
	case f >= 1e4:
		return fmt.Sprintf("%.1fk", f/1e3)
	}
	return fmt.Sprintf("%.0f", f)
}

// Bytes writes a size in binary units.
func Bytes(n int64) string {
	f, unit := float64(n), "B"
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if f < 1024 {
			break
		}
		f, unit = f/1024, u
	}
	if unit == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}

// Millis writes a lag given in seconds.
func Millis(seconds float64) string {
	switch {
	case seconds <= 0:
		return "-"
	case seconds < 1:
		return fmt.Sprintf("%.0f ms", seconds*1000)
	}
	return fmt.Sprintf("%.1f s", seconds)
}

func age(d time.Duration) string {
	if d < 0 {
		d = 0
	}
	return d.Round(time.Second).String()
}

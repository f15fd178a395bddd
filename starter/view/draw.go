package view

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"syncline/activities/contract"
	"syncline/dataplane/sink"
)

// Style says what a terminal can show.
type Style struct {
	Color bool
	Bars  bool // draw bars; else percentages only
	Width int  // columns; 0: 100
}

func (s Style) paint(code, text string) string {
	if !s.Color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s Style) phase(p contract.Phase) string {
	switch p {
	case contract.Streaming:
		return s.paint("32", string(p))
	case contract.Degraded, contract.SetupFailed:
		return s.paint("31", string(p))
	}
	return s.paint("33", string(p))
}

// Draw writes the view for a person.
func (v *View) Draw(w io.Writer, s Style) {
	st := v.Status
	fmt.Fprintf(w, "%s  %s for %s\n", s.paint("1", st.Name), s.phase(st.Phase), age(v.At.Sub(st.Since)))
	if v.Closed != "" {
		fmt.Fprintf(w, "  workflow closed: %s\n", strings.ToLower(v.Closed))
	}
	if st.Failure != nil {
		fmt.Fprintf(w, "  %s %s: %s\n", s.paint("31", "failed"), st.Failure.Code, st.Failure.Message)
	}
	v.DrawLoads(w, s)
	v.drawTables(w, s)
	if v.Closed == "" && st.Phase != contract.Preparing {
		v.drawFlow(w, s)
	}
	for _, n := range v.Notes {
		fmt.Fprintf(w, "  note: %s\n", n)
	}
}

// DrawLoads writes one line per table and sink that is loading or has just been.
func (v *View) DrawLoads(w io.Writer, s Style) {
	var rows [][]string
	for _, l := range v.Loads {
		for _, ld := range l.Loads {
			if ld.State == sink.Streaming && v.At.Sub(ld.Ended) > 10*time.Second {
				continue
			}
			rows = append(rows, v.loadRow(ld, s))
		}
	}
	if len(rows) > 0 {
		table(w, "  ", []string{"loading", "sink", "rows", "rows/s", "", "eta"}, rows)
	}
}

func (v *View) loadRow(ld contract.LoadState, s Style) []string {
	frac := 0.0
	if ld.Chunks > 0 {
		frac = float64(ld.Done) / float64(ld.Chunks)
	}
	end := v.At
	if !ld.Ended.IsZero() {
		end = ld.Ended
	}
	took := end.Sub(ld.Begun).Seconds()
	rate, eta := "", ""
	if !ld.Begun.IsZero() && took > 0 && ld.Rows > 0 {
		rate = Count(float64(ld.Rows) / took)
	}
	switch {
	case ld.Failure != nil:
		eta = s.paint("31", ld.Failure.Code)
	case ld.State == sink.Streaming:
		frac, eta = 1, "done"
	case !ld.Planned:
		eta = "waiting"
	case ld.Done > 0:
		eta = age(time.Duration(took * (1 - frac) / frac * float64(time.Second)))
	}
	rows := Count(float64(ld.Rows))
	if ld.Estimate > 0 && ld.State != sink.Streaming {
		rows += " of ~" + Count(float64(ld.Estimate))
	}
	bar := fmt.Sprintf("%3.0f%%", frac*100)
	if s.Bars {
		const n = 24
		full := int(frac*n + 0.5)
		bar = s.paint("36", strings.Repeat("█", full)) + strings.Repeat("░", n-full) + " " + bar
	}
	return []string{ld.Table.String(), ld.Sink, rows, rate, bar, eta}
}

func (v *View) drawTables(w io.Writer, s Style) {
	count := map[sink.State]int{}
	for _, t := range v.Status.Tables {
		worst := sink.Streaming
		for _, st := range t.Sinks {
			if st == sink.Gated || st == sink.Loading && worst != sink.Gated {
				worst = st
			}
		}
		count[worst]++
		if t.Reason != "" {
			fmt.Fprintf(w, "  %s %s: %s\n", s.paint("31", "table"), t.Table, t.Reason)
		}
	}
	var parts []string
	for _, st := range []sink.State{sink.Loading, sink.Streaming, sink.Gated} {
		if count[st] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[st], st))
		}
	}
	fmt.Fprintf(w, "  tables: %s\n", strings.Join(parts, ", "))
}

func (v *View) drawFlow(w io.Writer, s Style) {
	var rows [][]string
	row := []string{"capture", "", "", "", "", componentText(v.Capture, s)}
	if f := v.Flow; f != nil {
		row[1], row[4] = Count(f.Rate), Bytes(f.LagBytes)+" behind"
	}
	rows = append(rows, row)
	for _, sk := range v.Sinks {
		var states []string
		for _, l := range sk.Lanes {
			if t := componentText(l, s); !slices.Contains(states, t) {
				states = append(states, t)
			}
		}
		extra := ""
		if sk.Dead > 0 {
			extra = s.paint("31", fmt.Sprintf(", %d dead letters", sk.Dead))
		}
		rows = append(rows, []string{sk.Name, Count(sk.Rate), Millis(sk.LagP50), Millis(sk.LagP99), Count(float64(sk.Backlog)) + " backlog", strings.Join(states, "; ") + extra})
	}
	table(w, "  ", []string{"stream", "changes/s", "lag p50", "lag p99", "", "state"}, rows)
}

func componentText(c Component, s Style) string {
	t := c.State
	if c.Failure != nil && c.State != "running" {
		t += ": " + c.Failure.Code + " " + c.Failure.Message
	}
	if c.State == "failed" {
		return s.paint("31", t)
	}
	return t
}

// table aligns columns by what a person sees, not by bytes.
func table(w io.Writer, indent string, head []string, rows [][]string) {
	width := make([]int, len(head))
	for _, r := range append([][]string{head}, rows...) {
		for i, c := range r {
			width[i] = max(width[i], seen(c))
		}
	}
	for _, r := range append([][]string{head}, rows...) {
		var b strings.Builder
		for i, c := range r {
			b.WriteString(c)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-seen(c)+2))
			}
		}
		fmt.Fprintln(w, indent+strings.TrimRight(b.String(), " "))
	}
}

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

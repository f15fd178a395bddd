package view

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/sink"
)

// Style says what a terminal can show.
type Style struct {
	Color  bool
	Bars   bool // draw bars; else percentages only
	Width  int  // columns; longer lines are cut. 0: as long as they are
	Height int  // lines of the terminal, which bounds the lists. 0: 40
}

// SGR codes.
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

// Paint puts text into an SGR code, where there is colour.
func (s Style) Paint(code, text string) string {
	if !s.Color || text == "" || code == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s Style) phase(p contract.Phase) string {
	switch p {
	case contract.Streaming:
		return s.Paint(green, string(p))
	case contract.Degraded, contract.SetupFailed:
		return s.Paint(red, string(p))
	}
	return s.Paint(yellow, string(p))
}

// canvas writes lines, cut to the width.
type canvas struct {
	w io.Writer
	s Style
}

func (c canvas) line(text string) { fmt.Fprintln(c.w, Fit(text, c.s.Width)) }

// Draw writes the view for a person.
func (v *View) Draw(w io.Writer, s Style) {
	c := canvas{w, s}
	st := v.Status
	head := fmt.Sprintf("%s  %s for %s", s.Paint(bold, st.Name), s.phase(st.Phase), age(v.At.Sub(st.Since)))
	if v.Closed != "" {
		head += s.Paint(dim, "  (workflow "+strings.ToLower(v.Closed)+")")
	}
	c.line(head)
	if st.Failure != nil {
		at := ""
		if st.Failure.Step != "" {
			at = "at step " + st.Failure.Step + ": "
		}
		c.wrapped("  "+s.Paint(red, "✗")+" ", at+Said(st.Failure.Code, st.Failure.Message))
	}
	v.drawBudget(c)
	v.drawWaiting(c)
	v.DrawLoads(w, s)
	v.drawTables(c)
	if v.Closed == "" && st.Phase != contract.Preparing {
		v.drawFlow(c)
	}
	if v.Repair != nil {
		c.line("")
		c.line("  repair " + v.Repair.Name)
		DrawRepairing(w, s, v.Repair)
	}
	for _, n := range v.Notes {
		c.wrapped("  note: ", n)
	}
}

// drawWaiting says whose transactions hold up the setup.
func (v *View) drawWaiting(c canvas) {
	if len(v.WaitingFor) == 0 {
		return
	}
	c.line("  " + c.s.Paint(yellow, "the slot can be created once these transactions at the source have ended:"))
	for i, w := range v.WaitingFor {
		if room := max(cmp.Or(c.s.Height, 40)-12, 5); i == room {
			c.line(fmt.Sprintf("    … and %d more", len(v.WaitingFor)-i))
			break
		}
		c.wrapped("    ", w)
	}
}

// DrawLoads writes a summary of the loads, and one line per table and sink that
// is loading or has just been.
func (v *View) DrawLoads(w io.Writer, s Style) {
	c := canvas{w, s}
	var show []contract.LoadState
	var rows, bytes int64
	done, total, failed := 0, 0, 0
	var begun time.Time
	for _, l := range v.Loads {
		if begun.IsZero() || l.Begun.Before(begun) {
			begun = l.Begun
		}
		for _, ld := range l.Loads {
			total++
			rows, bytes = rows+ld.Rows, bytes+ld.Bytes
			switch {
			case ld.Failure != nil:
				failed++
			case ld.State == sink.Streaming:
				done++
				if v.At.Sub(ld.Ended) > 10*time.Second {
					continue
				}
			}
			show = append(show, ld)
		}
	}
	if total == 0 {
		return
	}
	sum := fmt.Sprintf("  loading: %d of %d done, %s rows, %s", done, total, Count(float64(rows)), Bytes(bytes))
	if took := v.At.Sub(begun).Seconds(); !begun.IsZero() && took >= 1 && rows > 0 {
		sum += fmt.Sprintf(" in %s", age(v.At.Sub(begun)))
	}
	if failed > 0 {
		sum += ", " + s.Paint(red, fmt.Sprintf("%d failed", failed))
	}
	c.line(sum)
	slices.SortStableFunc(show, func(a, b contract.LoadState) int { return cmp.Compare(urgency(a), urgency(b)) })
	var lines [][]string
	for i, ld := range show {
		if room := max(cmp.Or(s.Height, 40)-12, 5); i == room {
			lines = append(lines, []string{fmt.Sprintf("… and %d more", len(show)-i)})
			break
		}
		lines = append(lines, v.loadRow(ld, s))
	}
	if len(lines) > 0 {
		table(c, []string{"table", "sink", "rows", "rows/s", "", "eta"}, lines)
	}
	for _, ld := range show {
		if ld.Failure != nil {
			c.wrapped("  "+s.Paint(red, "✗")+" ", fmt.Sprintf("%s → %s: %s", ld.Table, ld.Sink, Said(ld.Failure.Code, ld.Failure.Message)))
		}
	}
}

// urgency sorts failed loads first, then what moves, then what waits, then what is done.
func urgency(ld contract.LoadState) int {
	switch {
	case ld.Failure != nil:
		return 0
	case ld.State == sink.Streaming:
		return 3
	case ld.Planned:
		return 1
	}
	return 2
}

func chunksDone(ld contract.LoadState) float64 {
	return float64(ld.Done) / float64(max(ld.Chunks, 1))
}

// copied is the part of a load that is done, with what unfinished chunks have so
// far: a chunk weighs as much as those before it, or as the table tells.
func (v *View) copied(ld contract.LoadState) float64 {
	whole := float64(ld.Size) / float64(max(ld.Chunks, 1))
	if ld.Done > 0 {
		whole = float64(ld.Bytes) / float64(ld.Done)
	}
	part := 0.0
	for _, p := range v.Copying {
		if p.Sink == ld.Sink && p.Table == ld.Table && whole > 0 {
			part += min(float64(p.Bytes)/whole, .97)
		}
	}
	return min(chunksDone(ld)+part/float64(max(ld.Chunks, 1)), 1)
}

func (v *View) loadRow(ld contract.LoadState, s Style) []string {
	frac := v.copied(ld)
	rowsDone := float64(ld.Rows)
	if under := frac - chunksDone(ld); under > 0 && ld.Estimate > 0 {
		rowsDone += under * float64(ld.Estimate)
	}
	end := v.At
	if !ld.Ended.IsZero() {
		end = ld.Ended
	}
	took := end.Sub(ld.Begun).Seconds()
	rate, eta := "", ""
	if !ld.Begun.IsZero() && took > 0 && rowsDone >= 1 {
		rate = Count(rowsDone / took)
	}
	color := cyan
	switch {
	case ld.Failure != nil:
		eta, color = s.Paint(red, ld.Failure.Code), red
	case ld.State == sink.Streaming:
		frac, eta, color = 1, s.Paint(green, "done"), green
	case !ld.Planned:
		eta = s.Paint(dim, "waiting")
	case ld.Done >= ld.Chunks:
		frac, eta = 1, "indexes"
	case frac > 0 && took >= 1:
		eta = age(time.Duration(took * (1 - frac) / frac * float64(time.Second)))
	default:
		eta = s.Paint(dim, "first chunks")
	}
	rows := Count(rowsDone)
	if ld.Estimate > 0 && ld.State != sink.Streaming {
		rows += " of ~" + Count(float64(ld.Estimate))
	}
	bar := fmt.Sprintf("%3.0f%%", frac*100)
	if s.Bars {
		n := 16
		if s.Width >= 120 {
			n = 28
		}
		full := int(frac*float64(n) + 0.5)
		bar = s.Paint(color, strings.Repeat("█", full)) + s.Paint(dim, strings.Repeat("░", n-full)) + " " + bar
	}
	return []string{ld.Table.String(), ld.Sink, rows, rate, bar, eta}
}

func (v *View) drawTables(c canvas) {
	const room = 20
	count := map[sink.State]int{}
	var reasons []string
	for _, t := range v.Status.Tables {
		worst := sink.Streaming
		for _, st := range t.Sinks {
			if st == contract.LoadFailed || st == sink.Gated && worst != contract.LoadFailed || st == sink.Loading && worst == sink.Streaming {
				worst = st
			}
		}
		count[worst]++
		if t.Reason != "" {
			reasons = append(reasons, fmt.Sprintf("%s: %s", t.Table, t.Reason))
		}
	}
	var parts []string
	for _, st := range []sink.State{sink.Loading, sink.Streaming, sink.Gated, contract.LoadFailed} {
		if count[st] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[st], st))
		}
	}
	if len(parts) > 0 {
		c.line("  tables: " + strings.Join(parts, ", "))
	}
	for i, r := range reasons {
		if i == room {
			c.line(fmt.Sprintf("  … and %d more tables with a reason", len(reasons)-i))
			break
		}
		c.wrapped("  "+c.s.Paint(red, "✗")+" ", r)
	}
}

func (v *View) drawFlow(c canvas) {
	var rows [][]string
	row := []string{"capture", "", "", "", "", v.stateText([]Component{v.Capture}, c.s)}
	if f := v.Flow; f != nil {
		row[1], row[4] = Count(f.Rate), Bytes(f.LagBytes)+" WAL"
		if f.SpillBytes > 0 {
			row[4] += ", " + Bytes(f.SpillBytes) + " spilled"
		}
	}
	rows = append(rows, row)
	for _, sk := range v.Sinks {
		row := []string{sk.Name, "", "", "", "", v.stateText(sk.Lanes, c.s)}
		if slices.ContainsFunc(sk.Lanes, func(l Component) bool { return l.State == StateRunning }) {
			row[1], row[2], row[3], row[4] = Count(sk.Rate), Millis(sk.LagP50), Millis(sk.LagP99), Count(float64(sk.Backlog))
		}
		if sk.Dead > 0 {
			row[5] += ", " + c.s.Paint(red, Plural(int(sk.Dead), "dead letter"))
		}
		if sk.Waits > 0 {
			row[5] += ", " + Plural(int(sk.Waits), "change") + " waiting for a tier, for " + age(v.At.Sub(sk.WaitsSince))
		}
		for _, tier := range slices.Sorted(maps.Keys(sk.Tiers)) {
			if by := sk.Tiers[tier].Overdue; by > 0 {
				row[5] += ", " + c.s.Paint(red, fmt.Sprintf("tier %s late by %s", tier, age(time.Duration(by*float64(time.Second)))))
			}
		}
		rows = append(rows, row)
	}
	table(c, []string{"stream", "changes/s", "lag p50", "lag p99", "backlog", "state"}, rows)
	v.drawFailures(c)
}

// stateText counts components by state: "4 running", or "1 retrying, 3 running".
func (v *View) stateText(cs []Component, s Style) string {
	count := map[string]int{}
	for _, c := range cs {
		count[c.State]++
	}
	var parts []string
	for _, st := range []string{StateFailed, StateRetrying, StateWaiting, StateStopped, StateRunning} {
		n := count[st]
		if n == 0 {
			continue
		}
		text := st
		if n < len(cs) || n > 1 {
			text = fmt.Sprintf("%d %s", n, st)
		}
		color := map[string]string{StateFailed: red, StateRetrying: yellow, StateWaiting: yellow, StateRunning: green}[st]
		parts = append(parts, s.Paint(color, text))
	}
	return strings.Join(parts, ", ")
}

// drawFailures writes why components do not run, once for all lanes with the same reason.
func (v *View) drawFailures(c canvas) {
	type reason struct{ who, said string }
	var seen []reason
	n := map[reason]int{}
	add := func(who string, cs ...Component) {
		for _, x := range cs {
			if x.Failure == nil || x.State == StateRunning {
				continue
			}
			r := reason{who, Said(x.Failure.Code, x.Failure.Message)}
			if n[r]++; n[r] == 1 {
				seen = append(seen, r)
			}
		}
	}
	add(contract.CaptureComponent, v.Capture)
	for _, sk := range v.Sinks {
		add(sk.Name, sk.Lanes...)
	}
	for _, r := range seen {
		c.wrapped("  "+c.s.Paint(red, "✗")+" ", r.who+": "+r.said)
	}
}

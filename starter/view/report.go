package view

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"

	"syncline/analytics/report"
)

// sparkWidth is how wide a trend is drawn.
const sparkWidth = 24

// DrawReport writes a report for a person. What says how good a number is stands
// under it.
func DrawReport(w io.Writer, s Style, r *report.Report) {
	c := canvas{w, s}
	grain := ""
	if r.Hourly {
		grain = ", counted by hour"
	}
	c.wrapped("", fmt.Sprintf("%s from %s until %s UTC (%s), in steps of %s%s", s.Paint(bold, r.Pipeline), minute(r.Since), minute(r.Until),
		report.Span(r.Length()), report.Span(r.StepTime()), grain))
	c.line("")
	levels := report.Plain
	if s.Bars {
		levels = report.Blocks
	}
	var rows [][]string
	for _, i := range r.Indicators {
		if i.Value == nil {
			rows = append(rows, []string{i.Title, "-", s.Paint(dim, i.Why)})
			continue
		}
		for n, l := range i.Lines {
			name := "  " + l.Label
			if n == 0 {
				name = i.Title
			}
			if n == 0 && (i.ID == report.Lag || i.ID == report.Throughput) { // there is no whole of percentiles or stages
				name += ", " + l.Label
			}
			rows = append(rows, []string{name, report.Say(l.Value, l.Unit), report.Spark(l.Points, sparkWidth, i.Better, levels)})
		}
		rows = append(rows, c.under(i.Note)...)
	}
	table(c, []string{"indicator", "value", "trend, its worst"}, rows)
	c.line("")
	c.objectives(r.Objectives)
	c.coverage(r.Coverage)
}

func minute(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }

// under breaks a remark into lines of its own for a table.
func (c canvas) under(text string) (rows [][]string) {
	if text == "" {
		return nil
	}
	var b bytes.Buffer
	canvas{&b, Style{Width: max(c.s.Width-4, 0)}}.wrapped("  ", text)
	for line := range strings.Lines(b.String()) {
		rows = append(rows, []string{c.s.Paint(dim, strings.TrimRight(line, "\n"))})
	}
	return rows
}

func (c canvas) objectives(os []report.Objective) {
	if len(os) == 0 {
		c.line("no objective is declared")
		return
	}
	var rows [][]string
	colors := map[report.State]string{report.Kept: green, report.Burning: yellow, report.Broken: red, report.Unknown: dim}
	for _, o := range os {
		rows = append(rows, []string{o.Name, c.s.Paint(colors[o.State], string(o.State)), share(o.Achieved), report.Percent(o.Target), share(o.Left),
			report.Burn(o.BurnShort), report.Burn(o.BurnLong), report.Burn(o.BurnPeriod) + " in " + report.Span(time.Duration(o.Period)*time.Second)})
		remark := o.Promise
		if o.Why != "" {
			remark += ": " + o.Why
		}
		rows = append(rows, c.under(remark)...)
	}
	table(c, []string{"objective", "state", "achieved", "target", "budget left", "burns 1h", "6h", "period"}, rows)
}

func share(v *float64) string { return report.Say(v, report.Share) }

func (c canvas) coverage(v report.Coverage) {
	c.line("")
	c.wrapped("", v.Say())
}

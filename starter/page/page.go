// Package page writes a report as one HTML file that needs nothing else: no script,
// no font and no picture is fetched. Charts are drawn in it as SVG, with a table
// of the same numbers beside each.
package page

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"time"

	"syncline/analytics/report"
)

//go:embed page.html
var text string

var tmpl = template.Must(template.New("page").Funcs(template.FuncMap{
	"say":     report.Say,
	"share":   func(v *float64) string { return report.Say(v, report.Share) },
	"percent": report.Percent,
	"burn":    report.Burn,
	"span":    func(seconds int64) string { return report.Span(time.Duration(seconds) * time.Second) },
	"when":    func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04") },
	"rfc":     func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
}).Parse(text))

// Write writes the page of a report.
func Write(w io.Writer, r *report.Report) error {
	if err := tmpl.Execute(w, modelOf(r)); err != nil {
		return fmt.Errorf("write the page of the report: %w", err)
	}
	return nil
}

// model is what the template shows.
type model struct {
	*report.Report
	Verdict    string // of all objectives together
	Class      string
	Complete   bool
	Promises   []promise
	Indicators []card
	Unmeasured []report.Indicator
}

// promise is an objective with a bar of its budget.
type promise struct {
	report.Objective
	Bar float64 // of 100
	Chart
}

// card is an indicator with its charts, one per unit.
type card struct {
	report.Indicator
	Charts []Chart
}

func modelOf(r *report.Report) model {
	m := model{Report: r, Complete: r.Coverage.Share != nil && r.Coverage.Recorded == r.Coverage.Spanned}
	count := map[report.State]int{}
	for _, o := range r.Objectives {
		count[o.State]++
		p := promise{Objective: o, Chart: chartOf(r, "Events that broke the promise", report.Share, broken(o))}
		if o.Left != nil {
			p.Bar = 100 * min(max(*o.Left, 0), 1)
		}
		m.Promises = append(m.Promises, p)
	}
	switch n := len(r.Objectives); {
	case n == 0:
		m.Verdict, m.Class = "no objective is declared", "unknown"
	case count[report.Broken] > 0:
		m.Verdict, m.Class = fmt.Sprintf("%d of %d objectives broken", count[report.Broken], n), "broken"
	case count[report.Burning] > 0:
		m.Verdict, m.Class = fmt.Sprintf("%d of %d objectives at risk", count[report.Burning], n), "burning"
	case count[report.Unknown] > 0:
		m.Verdict, m.Class = fmt.Sprintf("%d of %d objectives kept, nothing is known of the others", count[report.Kept], n), "unknown"
	case n == 1:
		m.Verdict, m.Class = "the objective is kept", "kept"
	default:
		m.Verdict, m.Class = fmt.Sprintf("all %d objectives are kept", n), "kept"
	}
	for _, i := range r.Indicators {
		if i.Value == nil {
			m.Unmeasured = append(m.Unmeasured, i)
			continue
		}
		c := card{Indicator: i}
		var units []report.Unit
		by := map[report.Unit][]report.Line{}
		for _, l := range i.Lines {
			if by[l.Unit] == nil {
				units = append(units, l.Unit)
			}
			by[l.Unit] = append(by[l.Unit], l)
		}
		for _, u := range units {
			c.Charts = append(c.Charts, chartOf(r, i.Title, u, by[u]))
		}
		m.Indicators = append(m.Indicators, c)
	}
	return m
}

// broken is what a drawing of an objective shows: the share of bad events, and how
// much of them the target allows. That of good ones would be a flat line at the top.
func broken(o report.Objective) []report.Line {
	other := func(v *float64) *float64 {
		if v == nil {
			return nil
		}
		return report.Number(1 - *v)
	}
	bad := report.Line{Label: "bad events", Unit: report.Share, Value: other(o.Achieved), Points: make(report.Points, len(o.Points))}
	allowed := report.Line{Label: "allowed", Unit: report.Share, Value: report.Number(1 - o.Target), Points: make(report.Points, len(o.Points))}
	measured := false
	for i, v := range o.Points {
		bad.Points[i], allowed.Points[i] = other(v), allowed.Value
		measured = measured || v != nil
	}
	if !measured {
		return nil
	}
	return []report.Line{bad, allowed}
}

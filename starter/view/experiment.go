package view

import (
	"fmt"
	"io"
	"math"
	"strings"

	"syncline/activities/contract"
	"syncline/analytics/report"
	"syncline/tiers/experiment"
)

// DrawExperiment writes an experiment for a person.
func DrawExperiment(w io.Writer, s Style, r *contract.AdviseResult) {
	c := canvas{w, s}
	x := r.Experiment
	entity := "rows"
	if len(x.Entity) > 0 {
		entity = "entities by " + strings.Join(x.Entity, ", ")
	}
	c.wrapped("", fmt.Sprintf("%s: %s of %s, from %s until %s UTC (%s), salt %q", s.Paint(bold, r.Pipeline), entity, x.Table, minute(r.From), minute(r.To), report.Span(r.To.Sub(r.From)), x.Salt))
	if r.One > 1 {
		c.wrapped("", fmt.Sprintf("one of %d keys was looked at, %s", r.One, Plural(r.Kept, "change")))
	}
	for _, n := range r.Notes {
		c.wrapped("", "note: "+n)
	}
	if x.Unassigned > 0 {
		c.wrapped("", fmt.Sprintf("note: in no arm: %s of which the log does not say the entity", Plural(x.Unassigned, "key")))
	}
	c.line("")
	rows := [][]string{}
	for _, a := range x.Arms {
		rows = append(rows, []string{a.Arm, a.Classification, Count(float64(a.Entities)), Count(float64(a.Changes))})
	}
	table(c, []string{"arm", "classification", "entities", "changes"}, rows)
	c.line("")
	rows = rows[:0]
	for i := range x.Arms {
		for n, m := range x.Arms[i].Measured {
			name := ""
			if n == 0 {
				name = x.Arms[i].Arm
			}
			diff := ""
			for _, d := range x.Differences {
				if d.Arm == x.Arms[i].Arm && d.Quantity == m.Quantity {
					diff = difference(d.Quantity, d.Estimate, x.Arms[0].Measured[n].Value)
				}
			}
			rows = append(rows, []string{name, m.Quantity, number(m.Quantity, m.Value), span(m.Quantity, m.Estimate), diff})
		}
	}
	table(c, []string{"arm", "", "value", "95 % interval", "against A"}, rows)
	c.line("")
	switch few := tooFew(x); {
	case few != "":
		c.wrapped("", few)
	case len(x.Off) > 0:
		c.wrapped("", fmt.Sprintf("A and A' differ in %s although they were treated alike: a few entities outweigh the others, or arms are too small. Take what is said of the other arms for no more than a hint; another --salt or more entities tell more.", strings.Join(x.Off, ", ")))
	default:
		c.wrapped("", "A and A', which were treated alike, differ by no more than chance explains")
	}
	c.wrapped("", fmt.Sprintf("errors are those of aggregates over an arm's rows that changed, computed at %d moments at the sink, relative to the source", x.Moments))
}

func tooFew(x *contract.ExperimentResult) string {
	for _, a := range x.Arms {
		if a.Units < experiment.Fewest {
			return fmt.Sprintf("arm %s is of %d: of fewer than %d entities no interval can be told", a.Arm, a.Entities, experiment.Fewest)
		}
	}
	return ""
}

// number writes three digits that matter.
func number(quantity string, v float64) string {
	if quantity == contract.CountError || quantity == contract.SumError {
		return number("", 100*v) + "%"
	}
	switch a := math.Abs(v); {
	case a == 0:
		return "0"
	case a >= 1000:
		return Count(v)
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

func span(quantity string, e experiment.Estimate) string {
	if !e.Known {
		return "not known"
	}
	return number(quantity, e.Low) + " to " + number(quantity, e.High)
}

// difference says by how much a quantity differs, and whether that may be chance.
func difference(quantity string, e experiment.Estimate, from float64) string {
	switch {
	case !e.Known:
		return "not known"
	case e.Low == 0 && e.High == 0:
		return "the same"
	}
	text := fmt.Sprintf("%s (%s to %s)", number(quantity, e.Value), number(quantity, e.Low), number(quantity, e.High))
	if from != 0 {
		text = fmt.Sprintf("%+.1f%% (%+.1f%% to %+.1f%%)", 100*e.Value/from, 100*e.Low/from, 100*e.High/from)
	}
	if e.Covers(0) {
		text += ", may be chance"
	}
	return text
}

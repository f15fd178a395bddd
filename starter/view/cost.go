package view

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/shopspring/decimal"

	"syncline/analytics/bill"
	"syncline/analytics/report"
)

// Money writes a sum in full cents, or if it is small with two digits that count.
func Money(d decimal.Decimal) string {
	digits := int32(2)
	if d.Abs().LessThan(decimal.NewFromInt(1)) && !d.IsZero() {
		digits = -int32(d.NumDigits()) - d.Exponent() + 2
	}
	if digits > 9 {
		return "<0.00000001"
	}
	return d.StringFixed(max(digits, 2))
}

// money is Money of a sum that is not exact.
func money(f float64) string { return Money(decimal.NewFromFloat(f)) }

// DrawCost writes a report on costs for a person.
func DrawCost(w io.Writer, s Style, r *bill.Report) {
	c := canvas{w, s}
	of := r.Pipeline
	if of == "" {
		of = "all pipelines"
	}
	c.wrapped("", fmt.Sprintf("%s from %s until %s UTC (%s), in %s, by prices %s", s.Paint(bold, of), minute(r.Since), minute(r.Until), report.Span(r.Until.Sub(r.Since)), r.Currency, r.Prices))
	c.line("")
	if len(r.Groups) == 0 {
		c.line("  nothing was charged")
	} else {
		c.groups(r)
	}
	c.line("")
	c.unpriced(r.Unpriced)
	for _, o := range r.Others {
		c.wrapped("", fmt.Sprintf("%s %s was charged in another currency and is in no sum (fix: starter cost reprice --from %s)", Money(o.Cost), o.Currency, r.Since.Format(time.DateOnly)))
	}
	switch {
	case r.Priced.IsZero():
		c.wrapped("", "no hour is priced yet: each hour is, some minutes after it has ended; starter cost reprice --from 1d does it now")
	case r.Priced.Before(r.Until.Add(-time.Hour)):
		c.wrapped("", fmt.Sprintf("nothing is priced after %s UTC: nothing was used since, or the Schedule price is paused or fails", minute(r.Priced)))
	}
	c.forecast(r)
}

func (c canvas) groups(r *bill.Report) {
	levels := report.Plain
	if c.s.Bars {
		levels = report.Blocks
	}
	days := slices.Contains(r.By, bill.ByDay)
	head := append(slices.Clone(r.By), "cost", "share")
	if !days {
		head = append(head, "before")
	}
	head = append(head, "moved", "kept")
	if r.Total.NoPrice+r.Total.NoPriceKept > 0 {
		head = append(head, "no price")
	}
	if !days {
		head = append(head, "trend")
	}
	row := func(key []string, g *bill.Group) []string {
		out := make([]string, 0, len(head))
		for _, k := range key {
			if k == "" {
				k = "-"
			}
			out = append(out, k)
		}
		out = append(out, Money(g.Cost), report.Percent(g.Share))
		if !days {
			out = append(out, before(g))
		}
		out = append(out, amount(g.Moved, ""), amount(g.Kept, "h"))
		if r.Total.NoPrice+r.Total.NoPriceKept > 0 {
			out = append(out, strings.Trim(amount(g.NoPrice, "")+" "+amount(g.NoPriceKept, "h"), "- "))
		}
		if days {
			return out
		}
		points := make(report.Points, len(g.Points))
		for i := range g.Points {
			points[i] = &g.Points[i]
		}
		return append(out, report.Spark(points, sparkWidth, report.Lower, levels))
	}
	var rows [][]string
	for i := range r.Groups {
		rows = append(rows, row(r.Groups[i].Key, &r.Groups[i]))
	}
	named := func(name string) []string {
		key := make([]string, len(r.By))
		key[0] = name
		for i := range key[1:] {
			key[i+1] = " "
		}
		return key
	}
	if r.Left > 0 {
		rows = append(rows, row(named(fmt.Sprintf("%d more", r.Left)), &r.Rest))
	}
	rows = append(rows, row(named("total"), &r.Total))
	table(c, head, rows)
}

// before says what a group cost before, and how much more or less it is now.
func before(g *bill.Group) string {
	if g.Before.IsZero() {
		return "-"
	}
	change := g.Cost.Sub(g.Before).Div(g.Before).InexactFloat64()
	return fmt.Sprintf("%s (%+.0f%%)", Money(g.Before), change*100)
}

func amount(n uint64, per string) string {
	if n == 0 {
		return "-"
	}
	text := Bytes(int64(min(n, 1<<62)))
	if per != "" {
		text += "·" + per
	}
	return text
}

// unpriced names what no price is for.
func (c canvas) unpriced(us []bill.Unpriced) {
	if len(us) == 0 {
		return
	}
	said := func(region string) string {
		if region == "" {
			return "unknown"
		}
		return region
	}
	c.wrapped("", c.s.Paint(yellow, "the price table has no price for, and no sum has in it:"))
	for i, u := range us {
		if i == 10 {
			c.line(fmt.Sprintf("    … and %d more", len(us)-i))
			break
		}
		if u.Place != "" {
			c.wrapped("    ", fmt.Sprintf("%s kept at %s in %s", amount(u.Bytes, "h"), u.Place, said(u.Origin)))
		} else {
			c.wrapped("    ", fmt.Sprintf("%s moved from %s to %s", amount(u.Bytes, ""), said(u.Origin), said(u.Destination)))
		}
	}
	c.wrapped("", "(fix: name regions by source.region, kafka.region, sinks[].region and SYNCLINE_REGION, and give routes and storage prices: starter cost prices apply)")
}

func (c canvas) forecast(r *bill.Report) {
	f := r.Forecast
	text := fmt.Sprintf("%s: %s %s until now", f.Start.Format("January 2006"), money(f.Spent), r.Currency)
	if f.Why != "" {
		c.wrapped("", text+"; no forecast: "+f.Why)
		return
	}
	c.wrapped("", fmt.Sprintf("%s; %s at its end, with 90%% between %s and %s (%s)", text, money(f.Expected), money(f.Low), money(f.High), f.Method))
}

// DrawPricing writes what a pricing did for a person.
func DrawPricing(w io.Writer, s Style, p *bill.Pricing) {
	c := canvas{w, s}
	done := "priced"
	if p.Dry {
		done = "would price"
	}
	c.wrapped("", fmt.Sprintf("%s %s from %s until %s UTC by prices %s: %s; charges of %s change", done, Plural(p.Hours, "hour"), minute(p.From), minute(p.Until), p.Prices, Plural(p.Charges, "charge"), Plural(p.Changed, "hour")))
	var rows [][]string
	add := func(name string, before, after decimal.Decimal) {
		diff := after.Sub(before)
		sign := ""
		if diff.IsPositive() {
			sign = "+"
		}
		rows = append(rows, []string{name, Money(before), Money(after), sign + strings.TrimPrefix(Money(diff), "+")})
	}
	for _, d := range p.Pipelines {
		add(d.Pipeline, d.Before, d.After)
	}
	if len(rows) > 0 {
		c.line("")
		add("all pipelines", p.Before, p.After)
		table(c, []string{"pipeline", "before", "after", "difference, " + p.Currency}, rows)
		c.line("")
	} else {
		c.line("no pipeline costs another sum than before")
	}
	c.unpriced(p.Unpriced)
	if p.Dry {
		c.line("nothing was written: --dry-run")
	}
}

// drawBudget says how the pipeline stands to its budget, and what comes of it.
func (v *View) drawBudget(c canvas) {
	spec, b := v.Status.Spec.Budget, v.Status.Budget
	if v.Closed != "" || spec == nil {
		return
	}
	if b == nil {
		c.wrapped("  budget: ", fmt.Sprintf("%s a %s; what is spent of it is not known before the next hour is priced", spec.Amount, spec.Per))
	} else {
		color := map[string]string{bill.Within: green, bill.Near: yellow, bill.Over: red, bill.Unclear: yellow}[b.Standing]
		text := fmt.Sprintf("%s, %s of %s a %s, priced until %s UTC", c.s.Paint(color, b.Standing), Money(b.Spent), spec.Amount, b.Per, minute(b.At))
		if b.Standing == bill.Unclear {
			text = c.s.Paint(color, b.Standing)
		} else if f := b.Forecast; f.Why == "" {
			text += fmt.Sprintf("; %s at the end of the %s, with 90%% between %s and %s", money(f.Expected), b.Per, money(f.Low), money(f.High))
		}
		if b.Why != "" {
			text += "; " + b.Why
		}
		c.wrapped("  budget: ", text)
	}
	if n := v.Status.Slowed; n > 1 {
		var promises []string
		for i, t := range v.Status.Spec.SlowedTiers(n) {
			promises = append(promises, fmt.Sprintf("%s every %s, declared %s", t.Name, t.Every, v.Status.Spec.Tiers[i].Every))
		}
		c.wrapped("  "+c.s.Paint(yellow, "slowed")+": ", fmt.Sprintf("since the budget is spent, batch tiers run up to %d times as rarely (%s), and what streams as ever; raise budget.amount and apply, or wait for the next %s", n, strings.Join(promises, "; "), spec.Per))
	}
}

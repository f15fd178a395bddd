package view

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"syncline/activities/contract"
	"syncline/analytics/report"
	"syncline/pipeline"
	"syncline/tiers/cost"
	"syncline/tiers/simulate"
)

// Advice is what an advice shows beside its result.
type Advice struct {
	*contract.AdviseResult
	Within    float64 `json:"within_seconds"`        // that readers can wait
	Recommend string  `json:"recommended,omitempty"` // a candidate
	Prices    *Priced `json:"prices,omitempty"`
}

// Priced is what the candidates' bytes cost, over the time that was looked at.
type Priced struct {
	Currency string    `json:"currency"`
	Costs    []float64 `json:"costs"`              // by candidate
	Unpriced []string  `json:"unpriced,omitempty"` // routes that the prices have no entry for, and which cost nothing here
}

// Price prices what each candidate would have moved: from the log to the workers, which
// read it, and from there to the sinks.
func Price(r *contract.AdviseResult, spec *pipeline.Spec, t *cost.Table) *Priced {
	out := &Priced{Currency: t.Currency}
	end := r.To
	if !end.After(r.From) {
		end = r.From.Add(time.Second)
	}
	regions := map[string]string{}
	for _, s := range spec.Sinks {
		regions[s.Name] = s.Region
	}
	moved := func(from, to string, bytes int64) (sum float64) {
		for _, c := range t.Moved(from, to, r.From, end, uint64(max(bytes, 0))) {
			if route := cmp.Or(from, cost.Unknown) + " → " + cmp.Or(to, cost.Unknown); c.Price == nil && !slices.Contains(out.Unpriced, route) {
				out.Unpriced = append(out.Unpriced, route)
			}
			sum += c.Cost.InexactFloat64()
		}
		return sum
	}
	for i := range r.Candidates {
		sum := 0.0
		for _, s := range r.Candidates[i].Sinks {
			sum += moved(spec.Kafka.Region, r.Region, s.LogBytes) + moved(r.Region, regions[s.Sink], s.Bytes)
		}
		out.Costs = append(out.Costs, sum)
	}
	return out
}

// cost is what a candidate is compared by: money if there are prices, else bytes.
func (a *Advice) cost(i int) float64 {
	if a.Prices != nil {
		return a.Prices.Costs[i]
	}
	return float64(a.Candidates[i].Bytes)
}

// NewAdvice names the candidate that costs least, or writes least if there are no prices,
// and promises what readers need; none if that is the pipeline's own classification.
func NewAdvice(r *contract.AdviseResult, within time.Duration, p *Priced) *Advice {
	a := &Advice{AdviseResult: r, Within: within.Seconds(), Prices: p}
	if p != nil {
		var points []simulate.Point
		for i, c := range r.Candidates {
			points = append(points, simulate.Point{Cost: p.Costs[i], Mean: c.Mean, Max: c.Max})
		}
		for i, by := range simulate.Dominated(points) {
			if r.Candidates[i].DominatedBy = ""; by >= 0 {
				r.Candidates[i].DominatedBy = r.Candidates[by].Name
			}
		}
	}
	best := -1
	for i := range r.Candidates {
		c := &r.Candidates[i]
		if max(c.Promise, c.Max) <= a.Within && (best < 0 || a.cost(i) < a.cost(best)) {
			best = i
		}
	}
	if best >= 0 && r.Candidates[best].Kind != contract.CandidateNow {
		a.Recommend = r.Candidates[best].Name
	}
	return a
}

func (a *Advice) recommended() *contract.AdviseCandidate {
	for i := range a.Candidates {
		if a.Recommend != "" && a.Candidates[i].Name == a.Recommend {
			return &a.Candidates[i]
		}
	}
	return nil
}

// DrawAdvice writes an advice for a person; also the candidates that others dominate, if
// all is set.
func DrawAdvice(w io.Writer, s Style, a *Advice, all bool) {
	c := canvas{w, s}
	span := a.To.Sub(a.From).Round(time.Second)
	c.wrapped("", fmt.Sprintf("%s: %s of %s, from %s until %s UTC (%s)", s.Paint(bold, a.Pipeline), Plural(int(a.now().Changes), "change"),
		Plural(len(a.Tables), "table"), minute(a.From), minute(a.To), report.Span(span)))
	if a.One > 1 {
		c.wrapped("", fmt.Sprintf("one of %d keys was looked at, %s; numbers are those times %d", a.One, Plural(a.Kept, "change"), a.One))
	}
	for _, n := range a.Notes {
		c.wrapped("", "note: "+n)
	}
	c.line("")
	var rows [][]string
	for i := range a.Tables {
		t := &a.Tables[i]
		rows = append(rows, []string{t.Table.String(), Count(float64(t.Changes)), Bytes(t.Bytes), ""})
		for _, text := range noteworthy(t) {
			rows = append(rows, c.under(text)...)
		}
	}
	table(c, []string{"table", "changes", "bytes", ""}, rows)
	c.line("")
	a.candidates(c, all)
	a.recommendation(c)
}

func (a *Advice) verb() string {
	if a.Prices != nil {
		return "costs"
	}
	return "writes"
}

// now is the pipeline's own classification.
func (a *Advice) now() *contract.AdviseCandidate {
	for i := range a.Candidates {
		if a.Candidates[i].Kind == contract.CandidateNow {
			return &a.Candidates[i]
		}
	}
	return &contract.AdviseCandidate{}
}

// noteworthy says what the data show, and not what it means.
func noteworthy(t *contract.AdviseTable) (out []string) {
	if len(t.Volatile) > 0 {
		out = append(out, fmt.Sprintf("%s of its updates change only %s", report.Percent(t.Share), strings.Join(t.Volatile, ", ")))
	}
	if t.Blind {
		out = append(out, "which columns its updates change is not in the log: REPLICA IDENTITY FULL would tell")
	}
	for _, f := range t.Few {
		var shares []string
		for _, v := range f.Shares[:min(len(f.Shares), 4)] {
			shares = append(shares, report.Percent(v))
		}
		if len(f.Shares) > 4 {
			shares = append(shares, "…")
		}
		out = append(out, fmt.Sprintf("column %s has %d values, in %s of the changes: if rows with some of them may wait, classify by it and try that with --with", f.Column, f.Values, strings.Join(shares, ", ")))
	}
	return out
}

// worthwhile is the part of the bytes that a candidate has to save to be shown.
const worthwhile = 0.005

func (a *Advice) candidates(c canvas, all bool) {
	now := a.now()
	whole := a.cost(slices.IndexFunc(a.Candidates, func(x contract.AdviseCandidate) bool { return x.Kind == contract.CandidateNow }))
	left := 0
	var rows [][]string
	for i := range a.Candidates {
		x := &a.Candidates[i]
		saves := whole > 0 && whole-a.cost(i) >= worthwhile*whole
		if own := x.Kind != contract.CandidateNow && x.Kind != contract.CandidateGiven; own && (x.DominatedBy != "" || !saves) && !all {
			left++
			continue
		}
		mark := "  "
		switch {
		case x.Name == a.Recommend:
			mark = "→ "
		case x.DominatedBy != "":
			mark = "- "
		}
		saved := "-"
		if x.Kind != contract.CandidateNow && whole > 0 {
			saved = report.Percent(1 - a.cost(i)/whole)
		}
		cells := []string{Bytes(x.Bytes)}
		if a.Prices != nil {
			cells = append(cells, fmt.Sprintf("%.2f", a.Prices.Costs[i]))
		}
		rows = append(rows, append(cells, saved, share64(x.Waited, x.Changes), wait(x.P50), wait(x.P95), wait(x.Max), mark+x.Name))
		if x.DominatedBy != "" {
			rows = append(rows, c.under("no better than "+x.DominatedBy)...)
		}
	}
	head, by := []string{"bytes"}, "bytes"
	if a.Prices != nil {
		head, by = append(head, a.Prices.Currency), "cost"
	}
	table(c, append(head, "saved", "waits", "p50", "p95", "longest", "  classification"), rows)
	if left > 0 {
		c.wrapped("", fmt.Sprintf("%d more save next to nothing, or are beaten by one of these in %s and in waits (--all shows them)", left, by))
	}
	if a.Prices != nil {
		c.wrapped("", "costs are of the bytes that go to the workers and from there to the sinks, as the log holds them, over the time that was looked at")
		if len(a.Prices.Unpriced) > 0 {
			c.wrapped("", "no price is for "+strings.Join(a.Prices.Unpriced, ", ")+", which is in no cost")
		}
	}
	c.wrapped("", fmt.Sprintf("bytes are those written to %s together; p50, p95 and longest are of the changes that wait", Plural(len(now.Sinks), "sink")))
}

func (a *Advice) recommendation(c canvas) {
	c.line("")
	within := report.Span(time.Duration(a.Within * float64(time.Second)))
	x := a.recommended()
	if x == nil {
		c.wrapped("", fmt.Sprintf("with waits of at most %s nothing %s less than what is declared", within, a.verb()))
		return
	}
	what := "is written by"
	if a.Prices != nil {
		what = "is paid with"
	}
	c.wrapped("", fmt.Sprintf("with waits of at most %s the least %s %q, if its changes may wait:", within, what, x.Name))
	c.line("")
	for line := range strings.Lines(x.YAML()) {
		c.line(strings.TrimRight(line, "\n"))
	}
}

func wait(seconds float64) string {
	if seconds <= 0 {
		return "-"
	}
	d := time.Duration(seconds * float64(time.Second))
	switch { // quantiles are told to within one percent
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < 10*time.Minute:
		return pipeline.Duration(d.Round(time.Second)).String()
	}
	return pipeline.Duration(d.Round(time.Minute)).String()
}

func share64(n, of int64) string {
	if n == 0 || of == 0 {
		return "-"
	}
	return report.Percent(float64(n) / float64(of))
}

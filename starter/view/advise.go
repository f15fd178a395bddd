package view

import (
	"fmt"
	"io"
	"strings"
	"time"

	"syncline/activities/contract"
	"syncline/analytics/report"
	"syncline/pipeline"
)

// Advice is what an advice shows beside its result.
type Advice struct {
	*contract.AdviseResult
	Within    float64 `json:"within_seconds"`        // that readers can wait
	Recommend string  `json:"recommended,omitempty"` // a candidate
}

// NewAdvice names the candidate that writes least and promises what readers need; none if
// that is the pipeline's own classification.
func NewAdvice(r *contract.AdviseResult, within time.Duration) *Advice {
	a := &Advice{AdviseResult: r, Within: within.Seconds()}
	best := -1
	for i := range r.Candidates {
		c := &r.Candidates[i]
		if max(c.Promise, c.Max) <= a.Within && (best < 0 || c.Bytes < r.Candidates[best].Bytes) {
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
	left := 0
	var rows [][]string
	for i := range a.Candidates {
		x := &a.Candidates[i]
		saves := now.Bytes > 0 && float64(now.Bytes-x.Bytes) >= worthwhile*float64(now.Bytes)
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
		if x.Kind != contract.CandidateNow && now.Bytes > 0 {
			saved = report.Percent(1 - float64(x.Bytes)/float64(now.Bytes))
		}
		rows = append(rows, []string{Bytes(x.Bytes), saved, share64(x.Waited, x.Changes), wait(x.P50), wait(x.P95), wait(x.Max), mark + x.Name})
		if x.DominatedBy != "" {
			rows = append(rows, c.under("no better than "+x.DominatedBy)...)
		}
	}
	table(c, []string{"bytes", "saved", "waits", "p50", "p95", "longest", "  classification"}, rows)
	if left > 0 {
		c.wrapped("", fmt.Sprintf("%d more save next to nothing, or are beaten by one of these in bytes and in waits (--all shows them)", left))
	}
	c.wrapped("", fmt.Sprintf("bytes are those written to %s together; p50, p95 and longest are of the changes that wait", Plural(len(now.Sinks), "sink")))
}

func (a *Advice) recommendation(c canvas) {
	c.line("")
	within := report.Span(time.Duration(a.Within * float64(time.Second)))
	x := a.recommended()
	if x == nil {
		c.wrapped("", fmt.Sprintf("with waits of at most %s nothing writes less than what is declared", within))
		return
	}
	c.wrapped("", fmt.Sprintf("with waits of at most %s the least is written by %q, if its changes may wait:", within, x.Name))
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

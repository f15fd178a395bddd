package report

import "time"

// Report is how a pipeline did from Since until Until.
type Report struct {
	Pipeline string    `json:"pipeline"`
	At       time.Time `json:"at"` // when it was computed
	Since    time.Time `json:"since"`
	Until    time.Time `json:"until"`
	// Step is how long one point of a series is, in seconds; the last may be shorter.
	Step int64 `json:"step_seconds"`
	// Hourly: the counts by window are gone, these are by hour.
	Hourly     bool        `json:"hourly"`
	Indicators []Indicator `json:"indicators"`
	Objectives []Objective `json:"objectives"`
	Coverage   Coverage    `json:"coverage"`
}

// Points is a series: one value per step, nil where nothing was measured.
type Points []*float64

// Indicator is one of Definitions, measured.
type Indicator struct {
	Definition
	Value *float64 `json:"value"`          // that of the first line
	Why   string   `json:"why,omitempty"`  // there is no value
	Note  string   `json:"note,omitempty"` // what the value rests on
	Lines []Line   `json:"lines"`          // the first is the whole; the others are parts of it
}

// Line is one series of an indicator.
type Line struct {
	Label  string   `json:"label"`
	Unit   Unit     `json:"unit"`
	Value  *float64 `json:"value"` // over the whole time
	Points Points   `json:"points"`
}

// Coverage tells whether all that was delivered was counted. Offsets of a
// partition follow each other; where ranges are missing, counts are incomplete.
type Coverage struct {
	Recorded int64          `json:"recorded"` // records of the log within windows that were written
	Spanned  int64          `json:"spanned"`  // from the first to the last of them
	Share    *float64       `json:"share"`
	Sinks    []SinkCoverage `json:"sinks"`
	Why      string         `json:"why,omitempty"`
}

// SinkCoverage is the coverage of what one sink took.
type SinkCoverage struct {
	Sink     string `json:"sink"`
	Recorded int64  `json:"recorded"`
	Spanned  int64  `json:"spanned"`
}

// Indicator returns the indicator with an id, nil if the report lacks it.
func (r *Report) Indicator(id string) *Indicator {
	for i := range r.Indicators {
		if r.Indicators[i].ID == id {
			return &r.Indicators[i]
		}
	}
	return nil
}

// StepTime returns Step as a duration.
func (r *Report) StepTime() time.Duration { return time.Duration(r.Step) * time.Second }

// Length is how long the report's time is, for people: it begins at a whole window.
func (r *Report) Length() time.Duration {
	d := r.Until.Sub(r.Since)
	if d > 10*time.Minute {
		return d.Round(time.Minute)
	}
	return d.Round(time.Second)
}

// Number makes a value that was measured.
func Number(f float64) *float64 { return &f }

// Ratio is part of whole; nil of nothing.
func Ratio(part, whole float64) *float64 {
	if whole <= 0 {
		return nil
	}
	return Number(part / whole)
}

// Max returns the largest point.
func (p Points) Max() *float64 {
	var m *float64
	for _, v := range p {
		if v != nil && (m == nil || *v > *m) {
			m = v
		}
	}
	return m
}

// Min returns the smallest point.
func (p Points) Min() *float64 {
	var m *float64
	for _, v := range p {
		if v != nil && (m == nil || *v < *m) {
			m = v
		}
	}
	return m
}

// Sum adds up the points; nil if there is none.
func (p Points) Sum() *float64 {
	var sum *float64
	for _, v := range p {
		if v != nil {
			if sum == nil {
				sum = Number(0)
			}
			*sum += *v
		}
	}
	return sum
}

// Say tells in a sentence how complete the counts are.
func (c Coverage) Say() string {
	switch {
	case c.Share == nil:
		return "how complete the counts are is not known: " + c.Why
	case c.Recorded == c.Spanned:
		return "the counts are complete: " + Whole(float64(c.Recorded)) + " records of the log, without a gap"
	}
	text := "the counts are INCOMPLETE: they cover " + Percent(*c.Share) + " of " + Whole(float64(c.Spanned)) + " records of the log"
	for _, s := range c.Sinks {
		if s.Recorded != s.Spanned {
			text += "; at " + s.Sink + " " + Whole(float64(s.Spanned-s.Recorded)) + " are missing"
		}
	}
	return text
}

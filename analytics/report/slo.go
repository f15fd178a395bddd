package report

import (
	"time"

	"syncline/pipeline"
)

// State of an objective.
type State string

// The states.
const (
	Kept    State = "kept"    // and so it goes on, if nothing changes
	Burning State = "burning" // kept so far, but the budget goes faster than it may
	Broken  State = "broken"  // the budget of the period is gone
	Unknown State = "unknown" // nothing was counted
)

// Events that kept a promise, and that broke it.
type Events struct {
	Good uint64 `json:"good"`
	Bad  uint64 `json:"bad"`
}

// Plus adds events.
func (e Events) Plus(o Events) Events { return Events{e.Good + o.Good, e.Bad + o.Bad} }

// Achieved is the share of good events; nil without any.
func (e Events) Achieved() *float64 { return Ratio(float64(e.Good), float64(e.Good)+float64(e.Bad)) }

// Burn is how many times as fast as allowed the error budget of a target is used:
// at 1 it lasts exactly the period. Nil without events.
func (e Events) Burn(target float64) *float64 {
	if e.Good+e.Bad == 0 {
		return nil
	}
	return Number(float64(e.Bad) / (float64(e.Good) + float64(e.Bad)) / (1 - target))
}

// Left is the share of the error budget that events leave; below 0 it is overdrawn.
func (e Events) Left(target float64) *float64 {
	burn := e.Burn(target)
	if burn == nil {
		return nil
	}
	return Number(1 - *burn)
}

// The short times over which burn rates are told, beside the period.
const (
	ShortBurn = time.Hour
	LongBurn  = 6 * time.Hour
)

// Objective is a promise of the pipeline and how it is kept.
type Objective struct {
	Name       string   `json:"name"`
	Indicator  string   `json:"indicator"`
	Promise    string   `json:"promise"`
	Target     float64  `json:"target"`
	Period     int64    `json:"period_seconds"`
	Events     Events   `json:"events"` // over the period
	Achieved   *float64 `json:"achieved"`
	Left       *float64 `json:"budget_left"` // share of the budget
	BurnShort  *float64 `json:"burn_1h"`
	BurnLong   *float64 `json:"burn_6h"`
	BurnPeriod *float64 `json:"burn_period"`
	State      State    `json:"state"`
	Why        string   `json:"why,omitempty"` // nothing is known
	Points     Points   `json:"points"`        // share of good events, over the report's time
}

// Judge weighs the events of an objective's period, of the last six hours and of
// the last hour.
func Judge(o pipeline.Objective, period, long, short Events) Objective {
	target := o.Target.Share()
	out := Objective{
		Name: o.Name, Indicator: o.Indicator, Promise: o.Describe(), Target: target, Period: int64(o.Period.Std() / time.Second),
		Events: period, Achieved: period.Achieved(), Left: period.Left(target),
		BurnShort: short.Burn(target), BurnLong: long.Burn(target), BurnPeriod: period.Burn(target), State: Kept,
	}
	switch fast := func(b *float64) bool { return b != nil && *b > 1 }; {
	case out.Achieved == nil:
		out.State, out.Why = Unknown, "no event was counted in this period"
	case *out.Left < 0:
		out.State = Broken
	case fast(out.BurnShort) && fast(out.BurnLong): // one of them alone may be a moment long gone, or just begun
		out.State = Burning
	}
	return out
}

package sink

import (
	"cmp"
	"slices"

	"syncline/dataplane/change"
)

// Watermark says how far a partition has taken effect in a sink.
type Watermark struct {
	Partition
	Pos    change.Position `json:"pos"`    // every change at or before it has taken effect
	Offset int64           `json:"offset"` // the next record to read; -1: of a load without a log, or that an older release began: the log's first
	Ahead  Ahead           `json:"ahead,omitzero"`
}

// Ahead says how far streaming has gone beyond a watermark, over changes that wait for
// their tier's time: of those after the watermark, and at or before Pos, the ones that
// wait by Rules, and that Tiers says nothing else of, have not taken effect, and all others
// have. Zero if none waits.
type Ahead struct {
	Pos    change.Position `json:"pos"`
	Offset int64           `json:"offset"` // the next record to stream
	Waits  int64           `json:"waits"`  // changes that wait
	Oldest int64           `json:"oldest"` // no later than when the first of them was committed: Unix microseconds on the source's clock
	Rules  string          `json:"rules"`  // what tells them from the others; never empty if any waits
	// Tied: a change that waits leaves values out that are in one of another tier, so that
	// what waits is applied together.
	Tied bool `json:"tied,omitempty"`
	// Tiers are those in which something waits, by name. None is named in a ledger of an
	// older release: what waits may then be of any, from the watermark on.
	Tiers []Backlog `json:"tiers,omitempty"`
}

// AllTiers stands for every tier where one is named, and for one that is not known.
const AllTiers = ""

// Backlog is what waits in a partition for one tier's time.
type Backlog struct {
	Tier   string          `json:"tier"`
	Pos    change.Position `json:"pos"`    // every change of the tier at or before it has taken effect
	Offset int64           `json:"offset"` // no record before it holds one that waits
	Waits  int64           `json:"waits"`
	Oldest int64           `json:"oldest"` // as in Ahead
}

// Compare tells which of two places comes first in a partition. At one offset it is the
// lower position, where less has taken effect.
func (b Backlog) Compare(o Backlog) int {
	return cmp.Or(cmp.Compare(b.Offset, o.Offset), b.Pos.Compare(o.Pos))
}

// Behind reports whether changes wait, so that streaming is ahead of the watermark.
func (w Watermark) Behind() bool { return w.Ahead.Rules != "" }

// Streamed is the place from which streaming goes on, as a watermark without Ahead. It
// is the watermark itself unless changes wait.
func (w Watermark) Streamed() Watermark {
	if w.Behind() {
		w.Pos, w.Offset, w.Ahead = w.Ahead.Pos, w.Ahead.Offset, Ahead{}
	}
	return w
}

// Backlogs are those of the tiers in which changes wait, or the one of all tiers if an
// older release did not tell them apart.
func (w Watermark) Backlogs() []Backlog {
	if w.Behind() && len(w.Ahead.Tiers) == 0 {
		return []Backlog{{AllTiers, w.Pos, w.Offset, max(w.Ahead.Waits, 1), w.Ahead.Oldest}}
	}
	return w.Ahead.Tiers
}

// Of returns how far the changes of a tier, or of AllTiers, have taken effect: all at or
// before the position, of records before the offset.
func (w Watermark) Of(tier string) Backlog {
	of := Backlog{Tier: tier, Pos: w.Streamed().Pos, Offset: w.Streamed().Offset}
	for _, b := range w.Backlogs() {
		if (tier == AllTiers || b.Tier == AllTiers || b.Tier == tier) && b.Compare(of) < 0 {
			of.Pos, of.Offset = b.Pos, b.Offset
		}
	}
	return of
}

// Waits is how many changes wait in a tier, or in AllTiers.
func (w Watermark) Waits(tier string) (n int64) {
	for _, b := range w.Backlogs() {
		if tier == AllTiers || b.Tier == AllTiers || b.Tier == tier {
			n += b.Waits
		}
	}
	return n
}

// Equal reports whether two watermarks say the same.
func (w Watermark) Equal(o Watermark) bool {
	a, b := w.Ahead, o.Ahead
	return w.Partition == o.Partition && w.Pos == o.Pos && w.Offset == o.Offset &&
		a.Pos == b.Pos && a.Offset == b.Offset && a.Waits == b.Waits && a.Oldest == b.Oldest && a.Rules == b.Rules && a.Tied == b.Tied &&
		slices.Equal(a.Tiers, b.Tiers)
}

// Beyond reports whether a watermark, or what was streamed ahead of it, or what waits in a
// tier, has moved on from another's, and none has gone back.
func (w Watermark) Beyond(o Watermark) bool {
	a, b := w.Streamed(), o.Streamed()
	if w.Pos.Before(o.Pos) || w.Offset < o.Offset || a.Pos.Before(b.Pos) || a.Offset < b.Offset {
		return false
	}
	moved := o.Pos.Before(w.Pos) && o.Offset < w.Offset || b.Pos.Before(a.Pos) && b.Offset < a.Offset
	for _, was := range o.Backlogs() {
		switch is := w.Of(was.Tier); {
		case is.Offset < was.Offset || is.Pos.Before(was.Pos):
			return false
		case was.Offset < is.Offset && was.Pos.Before(is.Pos):
			moved = true
		}
	}
	return moved
}

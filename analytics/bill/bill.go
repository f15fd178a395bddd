// Package bill has what is said of costs, as the command line, workflows and documents
// have it: pricings, reports and price tables that were applied. Package billing makes
// them.
package bill

import (
	"time"

	"github.com/shopspring/decimal"

	"syncline/tiers/cost"
)

// Unpriced is what no entry of the price table is for.
type Unpriced struct {
	Category    string `json:"category"`              // as in analytics.CostLedger
	Origin      string `json:"origin"`                // or where it is kept; empty: nobody said
	Destination string `json:"destination,omitempty"` // empty: nobody said
	Place       string `json:"place,omitempty"`       // of storage
	Bytes       uint64 `json:"bytes"`                 // of storage byte-hours
}

// Pricing is what a pricing did, or would do.
type Pricing struct {
	From     time.Time       `json:"from"`
	Until    time.Time       `json:"until"`
	Prices   string          `json:"prices"` // version of the price table
	Currency string          `json:"currency"`
	Dry      bool            `json:"dry,omitempty"`
	Hours    int             `json:"hours"`   // with charges
	Changed  int             `json:"changed"` // of which charges are others than before
	Charges  int             `json:"charges"`
	Before   decimal.Decimal `json:"before"`
	After    decimal.Decimal `json:"after"`
	// Pipelines whose cost is another than before.
	Pipelines []Difference `json:"pipelines"`
	Unpriced  []Unpriced   `json:"unpriced"` // the largest first
	// Budgets are those of the pipelines that have one, if they were looked at.
	Budgets []Budget `json:"budgets,omitempty"`
}

// Difference is what a pricing changes of a pipeline.
type Difference struct {
	Pipeline string          `json:"pipeline"`
	Before   decimal.Decimal `json:"before"`
	After    decimal.Decimal `json:"after"`
}

// Standings of a Budget.
const (
	Within  = "within"
	Near    = "near" // more is spent than warn_at, or will be than the budget
	Over    = "over"
	Unclear = "unclear" // Why says why
)

// Budget is how a pipeline stands to its budget in the period that is under way.
type Budget struct {
	Pipeline string          `json:"pipeline"`
	Standing string          `json:"standing"`
	Amount   decimal.Decimal `json:"amount"`
	Currency string          `json:"currency"`
	Per      string          `json:"per"` // as declared
	Spent    decimal.Decimal `json:"spent"`
	Start    time.Time       `json:"start"` // of the period
	End      time.Time       `json:"end"`
	At       time.Time       `json:"at"` // until when it is priced
	Forecast cost.Forecast   `json:"forecast"`
	Why      string          `json:"why,omitempty"`
}

// Ways to group a Report.
const (
	ByPipeline  = "pipeline"
	ByTable     = "table"
	ByTier      = "tier"
	BySink      = "sink"
	ByRoute     = "route"
	ByComponent = "component"
	ByDay       = "day"
)

// Ways are all of them.
func Ways() []string {
	return []string{ByPipeline, ByTable, ByTier, BySink, ByRoute, ByComponent, ByDay}
}

// Report is what pipelines cost from Since until Until.
type Report struct {
	Pipeline string    `json:"pipeline,omitempty"` // empty: all
	Since    time.Time `json:"since"`
	Until    time.Time `json:"until"`
	Step     int64     `json:"step_seconds"` // of the groups' points
	By       []string  `json:"by"`
	Currency string    `json:"currency"`
	Prices   string    `json:"prices"` // version of the price table that counts now
	// Priced is until when hours are priced; zero: none is.
	Priced   time.Time  `json:"priced,omitzero"`
	Groups   []Group    `json:"groups"` // the dearest first; days in their order
	Left     int        `json:"left"`   // groups that are in Rest
	Rest     Group      `json:"rest"`
	Total    Group      `json:"total"`
	Unpriced []Unpriced `json:"unpriced"`
	// Others is what was charged in currencies that are not Currency: it is in no sum.
	Others   []Other       `json:"others,omitempty"`
	Forecast cost.Forecast `json:"forecast"` // of the month
}

// Group is one line of a Report.
type Group struct {
	Key    []string        `json:"key"` // by By
	Cost   decimal.Decimal `json:"cost"`
	Before decimal.Decimal `json:"before"` // in as much time before
	Share  float64         `json:"share"`
	Moved  uint64          `json:"moved_bytes"`
	Kept   uint64          `json:"kept_byte_hours"`
	// NoPrice are bytes that no price is for, and NoPriceKept byte-hours.
	NoPrice     uint64    `json:"no_price_bytes"`
	NoPriceKept uint64    `json:"no_price_byte_hours"`
	Points      []float64 `json:"points"`
}

// Other is cost in another currency.
type Other struct {
	Currency string          `json:"currency"`
	Cost     decimal.Decimal `json:"cost"`
}

// Applied is a price table that was applied.
type Applied struct {
	Version  string    `json:"version"`
	At       time.Time `json:"at"`
	Who      string    `json:"who"`
	Why      string    `json:"why,omitempty"`
	Currency string    `json:"currency"`
	Text     string    `json:"text,omitempty"`
}

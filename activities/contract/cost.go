package contract

import (
	"time"

	"syncline/analytics/bill"
)

// Workflows of costs.
const (
	PriceWorkflow  = "Price"  // PriceInput → bill.Pricing; a Schedule starts it every hour
	PricesWorkflow = "Prices" // PricesInput → PricesResult
	CostWorkflow   = "Cost"   // CostInput → bill.Report
)

// Activities of costs, on the control queue.
const (
	PriceHoursActivity = "PriceHours" // PriceInput → bill.Pricing
	KeepPricesActivity = "KeepPrices" // PricesInput → PricesResult
	ReportCostActivity = "ReportCost" // CostInput → bill.Report
	// BudgetsActivity looks at the budgets of all pipelines that run, and tells them.
	BudgetsActivity = "LookAtBudgets" // none → []bill.Budget
)

// PriceScheduleID is the Schedule of Price: one for the namespace, made with the first
// price table.
const PriceScheduleID = "price"

// PriceInput says which hours are priced. Zero times: those that are to be priced now.
type PriceInput struct {
	From  time.Time `json:"from,omitzero"`
	Until time.Time `json:"until,omitzero"`
	Who   string    `json:"who,omitempty"`
	// Dry: only say what it would come to, by the price table Text, if there is one.
	Dry  bool   `json:"dry,omitempty"`
	Text string `json:"text,omitempty"`
}

// PricesInput applies a price table, or without Text asks for those that were applied.
type PricesInput struct {
	Text string `json:"text,omitempty"` // YAML
	Who  string `json:"who,omitempty"`
	Why  string `json:"why,omitempty"`
}

// PricesResult are the price tables that were applied, the newest first. Only that one
// has its text.
type PricesResult struct {
	Applied []bill.Applied `json:"applied"`
	Changed bool           `json:"changed"` // another one counts than before
}

// CostInput asks for a report on costs.
type CostInput struct {
	Pipeline string    `json:"pipeline,omitempty"` // empty: all
	Since    time.Time `json:"since"`
	Until    time.Time `json:"until"`
	By       []string  `json:"by"`
}

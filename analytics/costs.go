package analytics

import (
	"time"

	"github.com/shopspring/decimal"
)

// Categories of CostLedger, by FOCUS.
const (
	Networking = "Networking" // what was moved
	StorageSku = "Storage"    // what was kept
)

// CostLedger has the column names of FinOps' FOCUS specification where they fit; its own
// begin with x_. Rows of an hour count if they are of the pricing that Pricings says is
// that hour's: view cost shows these.
type CostLedger struct {
	Start       time.Time         `ch:"ChargePeriodStart"`
	End         time.Time         `ch:"ChargePeriodEnd"`
	Pipeline    string            `ch:"x_pipeline"`
	Tier        string            `ch:"x_tier"`
	Sink        string            `ch:"x_sink"`
	Tab         string            `ch:"x_table"`
	Component   string            `ch:"x_component"` // as in Usage; empty for storage
	Category    string            `ch:"ServiceCategory"`
	Region      string            `ch:"RegionId"`      // that bytes left, or are kept in
	Destination string            `ch:"x_destination"` // region that they went to
	Sku         string            `ch:"SkuId"`         // entry of the price table; empty: none is for it
	Bytes       uint64            `ch:"x_bytes"`       // of storage byte-hours
	Quantity    decimal.Decimal   `ch:"ConsumedQuantity"`
	Unit        string            `ch:"ConsumedUnit"`
	Price       *decimal.Decimal  `ch:"ListUnitPrice"` // nil: there is none
	Cost        decimal.Decimal   `ch:"EffectiveCost"` // 0 without a price
	Currency    string            `ch:"BillingCurrency"`
	Pricing     string            `ch:"x_pricing"`
	Tags        map[string]string `ch:"Tags"` // place, of storage
}

// Pricings says which pricing of an hour counts: the newest.
type Pricings struct {
	Time    time.Time `ch:"ts"`
	Hour    time.Time `ch:"hour"`
	Pricing string    `ch:"pricing"`
	Prices  string    `ch:"prices"` // version of the price table
	Digest  string    `ch:"digest"` // of the charges: equal ones are not written again
	Charges uint64    `ch:"charges"`
	Actor   string    `ch:"actor"`
}

// Prices are the price tables that were applied; the newest counts.
type Prices struct {
	Time     time.Time `ch:"ts"`
	Version  string    `ch:"version"` // digest of the text
	Actor    string    `ch:"actor"`
	Reason   string    `ch:"reason"`
	Currency string    `ch:"currency"`
	Text     string    `ch:"definition"` // YAML
}

// Budgets are looks at how a pipeline stood to its budget.
type Budgets struct {
	Time     time.Time `ch:"ts"`
	Pipeline string    `ch:"pipeline"`
	Standing string    `ch:"standing"` // within, near, over, unclear
	Per      string    `ch:"per"`
	Start    time.Time `ch:"period_start"`
	End      time.Time `ch:"period_end"`
	Amount   float64   `ch:"amount"`
	Spent    float64   `ch:"spent"`
	Expected float64   `ch:"expected"` // at the end of the period; 0: not known
	Currency string    `ch:"currency"`
	Slow     uint32    `ch:"slow"` // factor for batch tiers while it is over; 0: none
	Reason   string    `ch:"reason"`
}

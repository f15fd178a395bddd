// Package billing prices what was measured, and reports what it cost.
//
// # Pricing
//
//	usage_hourly, storage ──► Price, by the table in prices ──► cost_ledger ──► pricings
//
// Hours that have ended are priced, each as a whole: its charges are written under the
// name of a pricing, and then a row of pricings says that these count. So an hour has the
// charges of one pricing, whatever fails between both, and whoever prices it at the same
// time; what another attempt left is seen by nobody. Charges that are as before are not
// written again: pricing twice by the same table changes nothing. The rows of former
// pricings stay, as history. One that has come to the present says so with another row of
// the last hour, by which metrics tell when that was.
//
// Usage may come late, from a worker whose rows waited on disk. The pricing of each hour
// begins LookBack before the last hour that is priced; what is later still needs a
// pricing by hand.
//
// Storage is measured about once an hour. An hour is charged for the mean of what was
// measured in it, or else, for CarryOn at most, for what was measured last.
//
// # Failure
//
// ClickHouse that does not answer is fault analytics.CodeStore, and can be tried again.
// Without a price table nothing is priced: CodeNoPrices.
package billing

package report

import (
	"fmt"
	"strings"
)

// Better says which way an indicator should go.
type Better string

// The directions.
const (
	Lower  Better = "lower"
	Higher Better = "higher"
)

// Unit is that of a value.
type Unit string

// The units.
const (
	Millis      Unit = "ms"
	Share       Unit = "ratio" // from 0 to 1, shown as a percentage
	Count       Unit = "count"
	Records     Unit = "records"
	Bytes       Unit = "bytes"
	PerSecond   Unit = "changes/s"
	BytesSecond Unit = "bytes/s"
	PerMinute   Unit = "per minute"
)

// Definition says what an indicator is.
type Definition struct {
	ID     string `json:"id"`
	Title  string `json:"title"`
	Text   string `json:"definition"`
	Unit   Unit   `json:"unit"`
	Better Better `json:"better"`
}

// The ids of the indicators.
const (
	Lag         = "lag"
	Convergence = "convergence"
	ApplyErrors = "apply-errors"
	Checks      = "checks"
	Duplicates  = "duplicates"
	Drift       = "drift"
	Backlog     = "backlog"
	Throughput  = "throughput"
	Retries     = "retries"
	Security    = "security"
)

// Definitions are the ten indicators, in the order of a report.
var Definitions = []Definition{
	{Lag, "Replication lag", "Time from the commit at the source to the commit at the sink that 99 of 100 changes stayed below; also for 50 and 95 of them, on the source's clock.", Millis, Lower},
	{Convergence, "Convergence rate", "Share of tables whose newest verification found sink and source equal; an inconclusive one does not count as equal.", Share, Higher},
	{ApplyErrors, "Apply error rate", "Changes that a sink could not take (dead letters), per change applied or dead.", Share, Lower},
	{Checks, "Verification and repair runs", "Verification runs that ended with at least one verdict; beside them the repairs.", Count, Higher},
	{Duplicates, "Duplicate rate", "Changes that came again after a crash and were dropped, per change applied or dropped.", Share, Lower},
	{Drift, "Drift incidents", "Times that a table turned different from its source, by verifications, plus deliveries that stopped at a change of a table's definition.", Count, Lower},
	{Backlog, "Backlog", "Most records that waited in the log for a sink at one moment, over all its lanes; also in bytes.", Records, Lower},
	{Throughput, "Throughput", "Changes per second that passed a stage, on average; also in bytes.", PerSecond, Higher},
	{Retries, "Retry rate", "Failures that were tried again, per minute.", PerMinute, Lower},
	{Security, "Security failures", "Refused logins, missing rights, secrets that could not be had and certificates that were not accepted.", Count, Lower},
}

// Define returns the definition with an id.
func Define(id string) Definition {
	for _, d := range Definitions {
		if d.ID == id {
			return d
		}
	}
	return Definition{ID: id}
}

// Reference returns a Markdown table of the definitions.
func Reference() string {
	var b strings.Builder
	b.WriteString("| Indicator | `id` | What it is | Unit | Better |\n|---|---|---|---|---|\n")
	for _, d := range Definitions {
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s | %s |\n", d.Title, d.ID, d.Text, d.Unit, d.Better)
	}
	return b.String()
}

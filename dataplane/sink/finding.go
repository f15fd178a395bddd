package sink

import (
	"context"

	"syncline/dataplane/change"
)

// Finding is a row that a verification confirmed to differ. Its key is row data: it
// stays in the ledger, where rows are, and never enters workflow history or logs.
type Finding struct {
	Key     change.Key
	Kind    string     // of package verify: missing, extra, changed, twice
	Columns []string   // that differ, if it is changed
	At      change.LSN // the source's position that the sink had passed
}

// Findings is what the ledger keeps of verifications, by run.
type Findings interface {
	// RecordFindings adds what a run has confirmed of a table. What is recorded already
	// stays, so that an attempt may record it again.
	RecordFindings(ctx context.Context, run string, table change.TableID, fs []Finding) error
	// Findings returns what a run has confirmed of a table, ordered by key.
	Findings(ctx context.Context, run string, table change.TableID) ([]Finding, error)
	// LastFindings returns the run that recorded findings of a table last; "" if none has.
	LastFindings(ctx context.Context, table change.TableID) (run string, err error)
	// ForgetFindings removes those of all runs but the newest so many, by when they were
	// recorded, and in the same way the walks, but for the last of each table that has offsets.
	ForgetFindings(ctx context.Context, keep int) error
}

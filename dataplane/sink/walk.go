package sink

import (
	"context"

	"syncline/dataplane/change"
)

// Walk is how far a run has come with the verification of a table.
type Walk struct {
	Run   string
	Epoch uint32 // of the table's load
	// State is what the run can go on from, as JSON. It holds a key: as with a Finding,
	// that is row data.
	State []byte
	// Offsets are set when the run has ended: whatever the log had before them is
	// verified, by partition.
	Offsets []int64
}

// Walks is what the ledger keeps of how far verifications are, by run.
type Walks interface {
	// SaveWalk records how far a run has come with a table, over what is recorded.
	SaveWalk(ctx context.Context, table change.TableID, w Walk) error
	// LoadWalk returns how far a run has come with a table; a Walk without Run if it has not begun.
	LoadWalk(ctx context.Context, run string, table change.TableID) (Walk, error)
	// LastWalk returns the newest walk of a table that has Offsets; a Walk without Run if none has.
	LastWalk(ctx context.Context, table change.TableID) (Walk, error)
}

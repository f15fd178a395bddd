package contract

import (
	"fmt"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/verify"
	"syncline/pipeline"
)

// Activities of a Replay. ReplayTable runs on the snapshot queue.
const (
	PlanReplayActivity   = "PlanReplay"   // ReplayInput → ReplayTask
	ReplayTableActivity  = "ReplayTable"  // ReplayTask → ReplayResult
	ForgetReplayActivity = "ForgetReplay" // ReplayEnd → none
)

// ReplayInput starts a Replay: a table is rebuilt from the log alone, at one of the
// pipeline's sinks, into a table that is not there yet.
type ReplayInput struct {
	Pipeline string         `json:"pipeline"`
	Table    change.TableID `json:"table"` // as at the source
	Sink     string         `json:"sink"`
	To       string         `json:"to"` // the new table's name, beside the live one
	// Since and Until are positions (epoch:LSN:ordinal) or times (RFC 3339, of the source's
	// clock). "": the log's beginning, and what the sink has now.
	Since string `json:"since,omitempty"`
	Until string `json:"until,omitempty"`
	Keep  bool   `json:"keep,omitempty"` // the new table stays although the replay fails
	// NoVerify leaves out the comparison with the live table, which a replay of all that
	// the sink has ends with.
	NoVerify bool `json:"no_verify,omitempty"`
}

// ReplayTask is a replay whose places are known.
type ReplayTask struct {
	Spec  pipeline.Spec   `json:"spec"`
	Epoch uint32          `json:"epoch"` // of what is captured now
	Table change.TableID  `json:"table"`
	Sink  string          `json:"sink"`
	To    string          `json:"to"`
	Run   string          `json:"run"` // names the ledger that it has for itself
	Since change.Position `json:"since"`
	Until change.Position `json:"until"`
	From  []int64         `json:"from,omitempty"` // by partition; none: the log's beginning
	End   []int64         `json:"end"`

	Verify bool `json:"verify,omitempty"` // compare with the live table
}

// Ledger is the pipeline under whose name a replay keeps its progress.
func (t *ReplayTask) Ledger() string { return t.Spec.Name + "@replay-" + t.Run }

// ReplayEnd removes the ledger of a replay, and with Drop its table.
type ReplayEnd struct {
	ReplayTask
	Drop bool `json:"drop,omitempty"`
}

// ReplayProgress is the heartbeat of ReplayTable.
type ReplayProgress struct {
	Sink    string          `json:"sink"`
	Table   change.TableID  `json:"table"`
	Changes int64           `json:"changes"` // in this attempt
	Pos     change.Position `json:"pos"`     // that all partitions have come to
}

// ReplayResult is the result of a Replay.
type ReplayResult struct {
	Pipeline string          `json:"pipeline"`
	Table    change.TableID  `json:"table"`
	Sink     string          `json:"sink"`
	To       string          `json:"to"`
	Since    change.Position `json:"since"` // changes after it,
	Until    change.Position `json:"until"` // up to and with it
	Changes  int64           `json:"changes"`
	// Dead counts changes that were set aside: mostly those that need a value which only
	// a row from before the window has.
	Dead     int64     `json:"dead"`
	Compared *Compared `json:"compared,omitempty"`
	Took     float64   `json:"took_seconds"`
}

// Compared is how the new table compares with the live one: numbers of rows.
type Compared struct {
	Verdict      verify.Verdict `json:"verdict"`
	Reason       string         `json:"reason,omitempty"`
	Both         int64          `json:"both"`
	Different    int64          `json:"different"`
	OnlyLive     int64          `json:"only_live"`
	Deleted      int64          `json:"deleted,omitempty"` // of those: rows that the log says were deleted, so that no load brought them
	OnlyReplayed int64          `json:"only_replayed"`
	Loaded       int64          `json:"loaded"` // rows that the live table's load brought, which the log never held
}

// ParsePlace reads a place of a ReplayInput: a position, or a time if it is not zero.
func ParsePlace(s string) (pos change.Position, at time.Time, err error) {
	if s == "" {
		return pos, at, nil
	}
	if pos, err = change.ParsePosition(s); err == nil {
		return pos, at, nil
	}
	if at, err = time.Parse(time.RFC3339Nano, s); err == nil && !at.IsZero() {
		return change.Position{}, at, nil
	}
	return change.Position{}, time.Time{}, fmt.Errorf("%q is neither a position (epoch:LSN:ordinal) nor a time (RFC 3339)", s)
}

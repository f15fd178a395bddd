package contract

import (
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/repair"
	"syncline/pipeline"
)

// Activities of a Repair. Those over keys run on the snapshot queue.
const (
	PlanRepairActivity     = "PlanRepair"     // RepairPlanTask → RepairPlan
	LoadRepairActivity     = "LoadRepair"     // RepairPlanTask → RepairPlan: of a plan that was made before
	QuarantineKeysActivity = "QuarantineKeys" // RepairTask → RepairStep
	ReplayKeysActivity     = "ReplayKeys"     // RepairTask → RepairStep
	ReverifyKeysActivity   = "ReverifyKeys"   // RepairTask → RepairStep
	ReleaseKeysActivity    = "ReleaseKeys"    // RepairTask → RepairStep
	AbandonKeysActivity    = "AbandonKeys"    // RepairTask → RepairStep
	NoteRepairActivity     = "NoteRepair"     // RepairNote → none: an entry of the audit trail
	CheckTrailActivity     = "CheckTrail"     // TrailTask → TrailVerdict
)

// RepairID is the id of the workflow that carries out a pipeline's plan of a repair: there
// is one at a time.
func RepairID(name string) string { return "repair/" + name }

// ApproveUpdate lets a Repair go on that is beyond its limits: Approval.
const ApproveUpdate = "approve"

// Types of the errors that refuse an approval, and that end a repair without one.
const (
	NoApprovalAwaitedError = "NoApprovalAwaited"
	ApprovalInputError     = "ApprovalInput"
	RepairPlanChangedError = "RepairPlanChanged" // also of a plan that is not what its hash says
	RepairNotApprovedError = "RepairNotApproved"
)

// What the search attribute SynclinePhase says of a repair that carries out a plan.
const (
	RepairAwaitsApproval = "awaits-approval"
	RepairGoesOn         = "repairing"
	RepairDone           = "repaired"
	RepairLeftKeys       = "left-keys-failed"
)

// Limits of a repair that nobody has to approve.
const (
	DefaultRepairKeys    = 1000
	DefaultRepairPercent = 1.0
)

// RepairInput starts a Repair. Without Plan it makes one and ends; with a plan, by the
// name that a planning run gave it, it does what that says.
type RepairInput struct {
	Pipeline string `json:"pipeline"`
	// Audit is the run whose findings are to be repaired; "": of each sink the newest.
	Audit  string           `json:"audit,omitempty"`
	Tables []change.TableID `json:"tables,omitempty"` // none: all with findings
	Sinks  []string         `json:"sinks,omitempty"`  // none: all

	Plan string `json:"plan,omitempty"` // name of the plan to carry out
	Hash string `json:"hash,omitempty"` // of what it says: the plan must still say that
	Who  string `json:"who,omitempty"`  // asks for it; for the audit trail
	Why  string `json:"why,omitempty"`

	MaxKeys    int     `json:"max_keys,omitempty"`    // without an approval; default DefaultRepairKeys
	MaxPercent float64 `json:"max_percent,omitempty"` // of any table; default DefaultRepairPercent
}

// RepairPlanTask makes or loads a plan.
type RepairPlanTask struct {
	RepairInput
	Name string `json:"name"`
}

// RepairPlan counts what a repair will do. Keys and rows are in the ledgers.
type RepairPlan struct {
	Pipeline string          `json:"pipeline"`
	Name     string          `json:"name"`
	Hash     string          `json:"hash"` // of all that it says, keys and rows included
	Spec     pipeline.Spec   `json:"spec"`
	Epoch    uint32          `json:"epoch"` // of what is captured
	Sinks    []pipeline.Sink `json:"sinks"`
	Tables   []RepairTable   `json:"tables"` // by table, then sink
}

// RepairTable is what is to be repaired of a table at a sink.
type RepairTable struct {
	Sink    string         `json:"sink"`
	Table   change.TableID `json:"table"`
	Where   string         `json:"where,omitempty"`
	Keys    int            `json:"keys"`
	Settled int            `json:"settled"`        // found by the audit, and equal by now
	More    bool           `json:"more,omitempty"` // the audit ended before the table did: other rows may differ
	Missing int            `json:"missing"`
	Extra   int            `json:"extra"`
	Changed int            `json:"changed"`
	Twice   int            `json:"twice"`
	Columns map[string]int `json:"columns,omitempty"`
	From    map[string]int `json:"from,omitempty"` // keys by what their rows are made of
	Rows    int64          `json:"rows"`           // of the table, as far as is known
	Hash    string         `json:"hash"`
}

// Keys counts those of all tables.
func (p *RepairPlan) Keys() (n int) {
	for i := range p.Tables {
		n += p.Tables[i].Keys
	}
	return n
}

// RepairTask is a step over the keys of a table at a sink.
type RepairTask struct {
	TableTask
	Spec   pipeline.Spec `json:"spec"`  // for the log
	Epoch  uint32        `json:"epoch"` // of what is captured
	Repair string        `json:"repair"`
	Who    string        `json:"who"`
	Reason string        `json:"reason,omitempty"` // of AbandonKeys
}

// RepairProgress is the heartbeat of a step: counts, never keys.
type RepairProgress struct {
	Sink  string         `json:"sink"`
	Table change.TableID `json:"table"`
	Done  int            `json:"done"`
	Of    int            `json:"of"`
	Left  int            `json:"left"` // keys that their lanes have yet to let go
}

// RepairStep answers a step.
type RepairStep struct {
	Keys    int            `json:"keys"`
	Read    int            `json:"rows_read"` // at the source and in the log
	Outcome repair.Outcome `json:"outcome"`
}

// RepairNote is an entry of the audit trails of some sinks.
type RepairNote struct {
	Pipeline string          `json:"pipeline"`
	Repair   string          `json:"repair"`
	Sinks    []pipeline.Sink `json:"sinks"`
	Who      string          `json:"who"`
	Action   string          `json:"action"`
	At       time.Time       `json:"at"`
	Detail   map[string]any  `json:"detail,omitempty"` // no row values
}

// Approval of a repair beyond its limits.
type Approval struct {
	Hash string `json:"hash"` // of the plan that is approved
	Who  string `json:"who"`
	Why  string `json:"why,omitempty"`
}

// RepairState is where the keys of a table at a sink are.
type RepairState string

// States of a table under repair; those of its keys are in the ledger.
const (
	RepairPlanned     RepairState = "planned"
	RepairQuarantined RepairState = "quarantined"
	RepairReplayed    RepairState = "replayed"
	RepairVerified    RepairState = "verified"
	RepairReleased    RepairState = "released"
	RepairFailed      RepairState = "failed"
)

// RepairedTable is a table at a sink in a RepairResult.
type RepairedTable struct {
	RepairTable
	State    RepairState `json:"state"`
	Since    time.Time   `json:"since"`
	Read     int         `json:"rows_read"`
	Released int         `json:"released"`
	Failed   int         `json:"failed"`
	Reason   string      `json:"reason,omitempty"`
}

// RepairResult is the result of a Repair, and so far its status.
type RepairResult struct {
	Pipeline string          `json:"pipeline"`
	Name     string          `json:"name"`
	Hash     string          `json:"hash"`
	At       time.Time       `json:"at"` // when it began
	Applied  bool            `json:"applied"`
	Awaits   string          `json:"awaits,omitempty"` // why it waits for an approval
	Approved *Approval       `json:"approved,omitempty"`
	Tables   []RepairedTable `json:"tables"`
	Trails   []TrailSink     `json:"trails,omitempty"`  // where the audit trails ended after it
	Seconds  float64         `json:"seconds,omitempty"` // that it took
}

// Failed counts keys that were not repaired.
func (r *RepairResult) Failed() (n int) {
	for i := range r.Tables {
		n += r.Tables[i].Failed
		if t := &r.Tables[i]; t.State == RepairFailed && t.Failed == 0 {
			n += t.Keys
		}
	}
	return n
}

// TrailTask starts a CheckTrail: it checks the audit trails of a pipeline.
type TrailTask struct {
	Pipeline string `json:"pipeline"`
	// Known are ends that trails had, as the results of repairs tell them.
	Known []TrailSink `json:"known,omitempty"`
}

// TrailVerdict is what CheckTrail found, by sink.
type TrailVerdict struct {
	Pipeline string      `json:"pipeline"`
	Sinks    []TrailSink `json:"sinks"`
}

// TrailSink is the trail at one sink.
type TrailSink struct {
	Sink    string `json:"sink"`
	Entries int64  `json:"entries"`
	Hash    string `json:"hash,omitempty"`   // of the last
	Broken  string `json:"broken,omitempty"` // where and how; "" if it is whole
}

package contract

import (
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
	"syncline/pipeline"
	"syncline/tiers/shape"
)

// Activities of an Audit. VerifyTable runs on the snapshot queue.
const (
	PlanAuditActivity     = "PlanAudit"     // AuditInput → AuditPlan
	VerifyTableActivity   = "VerifyTable"   // VerifyTask → TableVerdict
	ConcludeAuditActivity = "ConcludeAudit" // AuditConclusion → none
)

// Bounds of an Audit: its history and its result must stay small.
const (
	MaxAuditTasks    = 1000 // tables, counted at each sink
	MaxAuditParallel = 32
)

// AuditInput starts an Audit; the name is enough.
type AuditInput struct {
	Pipeline string           `json:"pipeline"`
	Tables   []change.TableID `json:"tables,omitempty"` // none: all that stream and have a key
	Sinks    []string         `json:"sinks,omitempty"`  // none: all
	// RowsPerSecond is what each verification reads at the source at most; 0: as it goes.
	RowsPerSecond float64 `json:"rows_per_second,omitempty"`
	VerifyLimits
	// Changed verifies only keys that changed since a table was last verified.
	Changed bool `json:"changed,omitempty"`
	// Parallel is how many tables are verified at a time; 0: one.
	Parallel int `json:"parallel,omitempty"`
}

// VerifyLimits say when a verification pauses.
type VerifyLimits struct {
	// MaxLag is by how many seconds a sink may be behind; 0: a minute; below 0: however far.
	MaxLag float64 `json:"max_lag_seconds,omitempty"`
	// MaxSessions is how many sessions of clients may be active at the source; 0: any number.
	MaxSessions int `json:"max_sessions,omitempty"`
}

// AuditPlan answers PlanAudit. It names the ends once, not once per table.
type AuditPlan struct {
	Source  pipeline.Source `json:"source"`
	Sinks   []pipeline.Sink `json:"sinks"` // of the tasks
	Tasks   []AuditTask     `json:"tasks"` // by table, then sink
	Skipped []AuditSkipped  `json:"skipped,omitempty"`
	Kafka   *pipeline.Kafka `json:"kafka,omitempty"` // the log, if changed keys are read from it
}

// AuditTask is a table at a sink.
type AuditTask struct {
	Sink  string         `json:"sink"`
	Table change.TableID `json:"table"`
	Where string         `json:"where,omitempty"` // the table's row filter
	Shape []shape.Rule   `json:"shape,omitempty"` // what the sink is to hold of the rows
}

// AuditSkipped is a table that nobody asked for by name, and that no verification can
// tell anything of.
type AuditSkipped struct {
	Sink   string         `json:"sink"`
	Table  change.TableID `json:"table"`
	Reason string         `json:"reason"`
}

// VerifyTask verifies one table at one sink.
type VerifyTask struct {
	TableTask
	Run           string  `json:"run"` // under which findings are recorded
	RowsPerSecond float64 `json:"rows_per_second,omitempty"`
	VerifyLimits
	Kafka *pipeline.Kafka `json:"kafka,omitempty"` // set: only keys that changed in this log
}

// What a verdict is on.
const (
	ScopeFull    = "full"    // all rows of the table
	ScopeChanged = "changed" // keys that changed since it was last verified
)

// Scope is that of the task's verdict.
func (t *VerifyTask) Scope() string {
	if t.Kafka != nil {
		return ScopeChanged
	}
	return ScopeFull
}

// VerifyProgress is the heartbeat of VerifyTable: counts, never keys.
type VerifyProgress struct {
	Sink     string         `json:"sink"`
	Table    change.TableID `json:"table"`
	Rows     int64          `json:"rows"` // compared so far
	Parts    int            `json:"parts"`
	Suspects int            `json:"suspects"`
	Findings int            `json:"findings"`
	Paused   string         `json:"paused,omitempty"` // why it waits; "" if it does not
	// Since is when it last came on; attempts that fail carry it over to the next.
	Since time.Time `json:"since,omitzero"`
}

// TableVerdict answers VerifyTable. The keys that differ are in the sink's ledger,
// where rows are; here they are counted.
type TableVerdict struct {
	Sink      string         `json:"sink"`
	Table     change.TableID `json:"table"`
	Verdict   verify.Verdict `json:"verdict"`
	Scope     string         `json:"scope,omitempty"`  // ScopeFull or ScopeChanged; "" of an older release: full
	Reason    string         `json:"reason,omitempty"` // of one that is inconclusive, or that an error cut short
	From      change.LSN     `json:"from"`             // every part was compared at a position between the two
	To        change.LSN     `json:"to"`
	Rows      int64          `json:"rows"` // of the source; of ScopeChanged: keys
	Parts     int            `json:"parts"`
	Differing int            `json:"differing_parts"` // whose sums were not equal at once
	Suspects  int            `json:"suspects"`        // keys that were looked at one by one
	Unsettled int            `json:"unsettled"`       // of these, keys that never stood still
	Missing   int            `json:"missing"`
	Extra     int            `json:"extra"`
	Changed   int            `json:"changed"`
	Twice     int            `json:"twice"`
	Columns   map[string]int `json:"columns,omitempty"` // in how many changed rows they differ
	More      bool           `json:"more,omitempty"`    // there may be more than were counted
	Took      float64        `json:"took_seconds"`
}

// Findings is the number of keys that are confirmed to differ.
func (v *TableVerdict) Findings() int { return v.Missing + v.Extra + v.Changed + v.Twice }

// AuditConclusion ends an Audit.
type AuditConclusion struct {
	Pipeline string          `json:"pipeline"`
	Run      string          `json:"run"`
	Sinks    []pipeline.Sink `json:"sinks"` // to forget old findings at
	// Failed are verdicts of verifications that failed for good, which no VerifyTable
	// has recorded.
	Failed []TableVerdict `json:"failed,omitempty"`
}

// AuditResult is the result of an Audit.
type AuditResult struct {
	Pipeline    string         `json:"pipeline"`
	Run         string         `json:"run"` // names its findings in the ledgers
	At          time.Time      `json:"at"`  // when it began
	Tables      []TableVerdict `json:"tables"`
	Skipped     []AuditSkipped `json:"skipped,omitempty"`
	Convergence float64        `json:"convergence"` // share of the verdicts that are equal
}

// Count returns how many tables have a verdict.
func (r *AuditResult) Count(v verify.Verdict) (n int) {
	for i := range r.Tables {
		if r.Tables[i].Verdict == v {
			n++
		}
	}
	return n
}

// AuditStatus answers StatusQuery of an Audit: the verdicts so far.
type AuditStatus struct {
	AuditResult
	Total int  `json:"total"` // tables, counted at each sink; 0 until it is known
	Done  bool `json:"done"`
}

// Verifiable says why a verification can tell nothing of a table at a sink; "" if it can.
func Verifiable(t *TableStatus, sinkName string) (why string) {
	switch st := t.Sinks[sinkName]; {
	case t.AppendOnly:
		return "it is append-only: no key tells its rows apart"
	case st == "":
		return "it is not there yet"
	case st != sink.Streaming:
		return "it is " + string(st)
	}
	return ""
}

// Package contract is what the two planes agree on: the names of workflows,
// activities, updates, queries, signals and task queues, their inputs and
// outputs, and the types of their errors. Everything is plain JSON, so that the
// temporal command-line tool can start and steer every workflow.
//
// Inputs carry references: names, secret references, positions and counts.
// Never rows, key bounds or secret values: they would stay in history.
package contract

import (
	"strings"
	"time"

	"syncline/analytics/bill"
	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/pipeline"
)

// Workflow types.
const (
	PipelineWorkflow   = "Pipeline"   // entity, one per pipeline, id pipeline/<name>
	StreamWorkflow     = "Stream"     // child, id stream/<name>: capture and delivery
	BootstrapWorkflow  = "Bootstrap"  // child, id bootstrap/<name>/<n>: load of some tables
	SnapshotWorkflow   = "Snapshot"   // one-off load without a stream
	PlanWorkflow       = "Plan"       // one-off live check of a declaration
	ReportWorkflow     = "Report"     // one-off report on a pipeline, from analytics
	AuditWorkflow      = "Audit"      // verification of tables at their sinks; a Schedule may start it
	RepairWorkflow     = "Repair"     // plan of a repair of what an audit found; or one that is carried out, id repair/<name>
	CheckTrailWorkflow = "CheckTrail" // one-off check of the audit trails of a pipeline
	ReplayWorkflow     = "Replay"     // one-off rebuild of a table from the log
)

// Updates of the Pipeline workflow; each answers with the result or the reason of refusal.
const (
	ApplyUpdate       = "apply"
	PauseUpdate       = "pause"
	ResumeUpdate      = "resume"
	AddTableUpdate    = "add-table"
	RemoveTableUpdate = "remove-table"
	ResyncTableUpdate = "resync-table"
	DestroyUpdate     = "destroy"
)

// StatusQuery is answered by Pipeline (PipelineStatus), Bootstrap and Snapshot (LoadStatus), Stream (StreamStatus), Audit (AuditStatus) and Repair (RepairResult).
const StatusQuery = "status"

// Signals between the workflows of a pipeline. Operators use updates.
const (
	ComponentSignal  = "component"  // Stream to Pipeline: ComponentState
	StoppedSignal    = "stopped"    // Stream to Pipeline: StreamStopped
	LoadedSignal     = "loaded"     // Bootstrap to Pipeline: TableLoaded
	GatedSignal      = "gated"      // Deliver to Pipeline: TableGated
	BootstrapSignal  = "bootstrap"  // Bootstrap to Pipeline: BootstrapEnded
	GenerationSignal = "generation" // snapshot holder to its workflow: Generation
	RetrySignal      = "retry"      // Pipeline to Stream: try failed components again
	BudgetSignal     = "budget"     // Price to Pipeline: bill.Budget
)

// Search attributes, typed; the worker registers those that are missing.
const (
	PipelineAttribute = "SynclinePipeline" // keyword
	PhaseAttribute    = "SynclinePhase"    // keyword
	SourceAttribute   = "SynclineSource"   // keyword: host:port/database
	SinkAttribute     = "SynclineSink"     // keyword list
	TierAttribute     = "SynclineTier"     // keyword list
	RegionAttribute   = "SynclineRegion"   // keyword
)

// Role is a kind of work that a worker may take; each has its own task queue.
type Role string

// The roles.
const (
	Control  Role = "control"  // workflows and short activities
	Capture  Role = "capture"  // slots, and the holders of exported snapshots
	Snapshot Role = "snapshot" // chunks, and verification
	Deliver  Role = "deliver"  // lanes
)

// Queue returns the task queue of a role.
func Queue(prefix string, r Role) string { return prefix + "-" + string(r) }

// QueuePrefix returns the prefix that a control queue was made with.
func QueuePrefix(control string) string { return strings.TrimSuffix(control, "-"+string(Control)) }

// PipelineID returns the workflow id of a pipeline.
func PipelineID(name string) string { return "pipeline/" + name }

// StreamID returns the workflow id of a pipeline's stream.
func StreamID(name string) string { return "stream/" + name }

// Phase of a pipeline.
type Phase string

// The phases of a pipeline.
const (
	Preparing     Phase = "preparing"     // creating what it needs
	Bootstrapping Phase = "bootstrapping" // streaming, and some tables are still loading
	Streaming     Phase = "streaming"     // every table is delivered
	Degraded      Phase = "degraded"      // a component or a table failed for good; the others go on
	Paused        Phase = "paused"        // by an operator; the slot keeps what comes
	Destroying    Phase = "destroying"
	Destroyed     Phase = "destroyed"
	SetupFailed   Phase = "setup-failed" // what was created has been removed again
)

// PipelineInput starts the Pipeline workflow.
type PipelineInput struct {
	Spec pipeline.Spec `json:"spec"`
	// Carried is the state of the run before; nil on the first.
	Carried *PipelineState `json:"carried,omitempty"`
}

// PipelineState is what a pipeline carries from run to run.
type PipelineState struct {
	Phase      Phase            `json:"phase"`
	Paused     bool             `json:"paused,omitempty"`
	Epoch      uint32           `json:"epoch"`             // of captured changes: rises with a source failover
	LoadEpoch  uint32           `json:"load_epoch"`        // of loaded rows: rises with each resync too
	SlotAt     change.LSN       `json:"slot_at"`           // where the slot began
	Tables     []TableStatus    `json:"tables"`            // sorted by table
	Components []ComponentState `json:"components"`        // sorted by name
	Bootstraps int              `json:"bootstraps"`        // started so far
	Loading    []string         `json:"loading,omitempty"` // ids of bootstraps under way
	StreamOn   bool             `json:"stream_on,omitempty"`
	Since      time.Time        `json:"since"` // of the phase
	Failure    *Failure         `json:"failure,omitempty"`
	Budget     *bill.Budget     `json:"budget,omitempty"` // as Price last said
	Slowed     int              `json:"slowed,omitempty"` // by which factor the Schedules of tiers are slowed; 0: by none
}

// TableStatus is one table in a status.
type TableStatus struct {
	Table      change.TableID        `json:"table"`
	AppendOnly bool                  `json:"append_only,omitempty"`
	Sinks      map[string]sink.State `json:"sinks"`                // by sink name
	Rows       int64                 `json:"rows"`                 // loaded, at the sink that is furthest
	Reason     string                `json:"reason,omitempty"`     // of the last failure that concerns it
	LoadEpoch  uint32                `json:"load_epoch,omitempty"` // since when it is in the pipeline, or was loaded anew
	// Early are gates, by sink, that were heard of before the end of the load whose delivery they ended.
	Early map[string]string `json:"early,omitempty"`
}

// PipelineStatus answers StatusQuery of a pipeline.
type PipelineStatus struct {
	Name       string           `json:"name"`
	Phase      Phase            `json:"phase"`
	Since      time.Time        `json:"since"`
	Epoch      uint32           `json:"epoch"`      // of captured changes: rises with a source failover
	LoadEpoch  uint32           `json:"load_epoch"` // of loaded rows: rises with each resync too
	SlotAt     change.LSN       `json:"slot_at"`
	Tables     []TableStatus    `json:"tables"`
	Components []ComponentState `json:"components"`
	Loading    []string         `json:"loading,omitempty"` // ids of Bootstrap workflows to query
	Spec       pipeline.Spec    `json:"spec"`              // secret references only
	Failure    *Failure         `json:"failure,omitempty"`
	Budget     *bill.Budget     `json:"budget,omitempty"` // as the last pricing found it
	Slowed     int              `json:"slowed,omitempty"` // how many times as rarely batch tiers run, since the budget is spent; 0: as declared
}

// ComponentState is what became of one long activity: capture, or a lane of a sink.
type ComponentState struct {
	Name    string    `json:"name"` // capture, or deliver/<sink>/<lane>
	Failed  bool      `json:"failed"`
	Failure *Failure  `json:"failure,omitempty"`
	Since   time.Time `json:"since"`
}

// Failure is a named condition, without row values or secrets.
type Failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Step    string `json:"step,omitempty"` // of a setup
}

// StreamStopped ends a Stream.
type StreamStopped struct {
	Failure *Failure `json:"failure,omitempty"`
}

// TableLoaded tells that a sink has begun to deliver a table.
type TableLoaded struct {
	Sink  string         `json:"sink"`
	Table change.TableID `json:"table"`
	Rows  int64          `json:"rows"`
	Bytes int64          `json:"bytes"`
	// Failure is set when the load of the table failed for good instead.
	Failure *Failure `json:"failure,omitempty"`
}

// TableGated tells that a sink has stopped the delivery of one table, which then
// takes a resync; the others go on.
type TableGated struct {
	Sink   string         `json:"sink"`
	Table  change.TableID `json:"table"`
	Reason string         `json:"reason"`
	Epoch  uint32         `json:"epoch,omitempty"` // of the load that was being delivered
}

// LoadFailed is the state of a table whose load failed for good; resume tries it
// again. Beside it a table has the states of sink.Table.
const LoadFailed sink.State = "load-failed"

// BootstrapEnded tells that a Bootstrap is over.
type BootstrapEnded struct {
	ID      string   `json:"id"`
	Failure *Failure `json:"failure,omitempty"`
}

// ApplyResult answers ApplyUpdate.
type ApplyResult struct {
	Created bool              `json:"created"` // the pipeline was new
	Changes []pipeline.Change `json:"changes,omitempty"`
	Tables  []change.TableID  `json:"tables"`
}

// TablesInput names tables: of updates add-table, remove-table, resync-table.
type TablesInput struct {
	Tables []change.TableID `json:"tables"`
	// Sinks limits a resync to some sinks; none: all.
	Sinks []string `json:"sinks,omitempty"`
	// DropRows also removes the rows at the sinks; only for remove-table.
	DropRows bool `json:"drop_rows,omitempty"`
}

// TablesResult answers the updates that take TablesInput.
type TablesResult struct {
	Tables    []change.TableID `json:"tables"`
	Bootstrap string           `json:"bootstrap,omitempty"` // workflow id to follow
}

// DestroyInput says what destroy removes beyond slot, publication and topics.
type DestroyInput struct {
	DropRows bool `json:"drop_rows,omitempty"`
}

// DestroyResult lists what was removed.
type DestroyResult struct {
	Removed []string `json:"removed"`
}

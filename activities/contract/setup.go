package contract

import (
	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/pipeline"
)

// Activity names. Short ones run on the control queue; Capture and HoldSnapshot
// on the capture queue; PlanChunks, CopyChunk and FinishLoad on the snapshot
// queue; Deliver on its own.
const (
	InspectActivity           = "Inspect"           // InspectInput → Report
	ResolveActivity           = "Resolve"           // SetupInput → Resolved
	EnsureTopicsActivity      = "EnsureTopics"      // SetupInput → Made
	EnsurePublicationActivity = "EnsurePublication" // SetupInput → Made
	CreateSlotActivity        = "CreateSlot"        // SetupInput → SlotMade
	PrepareSinkActivity       = "PrepareSink"       // SinkInput → none

	DropSlotActivity        = "DropSlot"        // TeardownInput → none
	DropPublicationActivity = "DropPublication" // TeardownInput → none
	DeleteTopicsActivity    = "DeleteTopics"    // TeardownInput → none
	ForgetSinkActivity      = "ForgetSink"      // SinkInput → none

	CaptureActivity      = "Capture"      // CaptureInput → none
	DeliverActivity      = "Deliver"      // DeliverInput → none
	HoldSnapshotActivity = "HoldSnapshot" // HoldInput → none
	PlanChunksActivity   = "PlanChunks"   // TableTask → ChunkPlan
	CopyChunkActivity    = "CopyChunk"    // ChunkTask → ChunkDone
	FinishLoadActivity   = "FinishLoad"   // TableTask → none
	ResetTableActivity   = "ResetTable"   // TableTask → none
	RemoveTableActivity  = "RemoveTable"  // TableTask → none
)

// Error types that workflows look at; every other type is a fault's code.
const (
	SetupFailedError  = "SetupFailed"
	SnapshotGoneError = "SnapshotGone"
	RefusedError      = "Refused"
	// DestroyIncompleteError: destroy could not remove everything, and says what is left.
	DestroyIncompleteError = "DestroyIncomplete"
	// StillRunningError: pause has told everything to stop, and names what has not.
	StillRunningError  = "StillRunning"
	WorkerStoppedError = "WorkerStopped" // the attempt ended with its worker: try elsewhere at once
)

// SetupInput is the input of the activities that make and check what a pipeline needs.
type SetupInput struct {
	Spec pipeline.Spec `json:"spec"`
	// Tables limits it to these, for a table that is added later.
	Tables []change.TableID `json:"tables,omitempty"`
	// OneOff: of a Snapshot, which needs neither keys nor logical decoding.
	OneOff bool `json:"one_off,omitempty"`
	// Fresh: of a pipeline that is being set up, so that its slot must not exist yet.
	Fresh bool `json:"fresh,omitempty"`
}

// Resolved is what the declaration's globs select at the source.
type Resolved struct {
	SystemID string          `json:"system_id"` // of the source's cluster
	Version  string          `json:"version"`
	Tables   []ResolvedTable `json:"tables"`
	// NoTopics: of a pipeline that is being set up, none of its topics existed: what
	// is there of them when the setup fails, it has made.
	NoTopics bool `json:"no_topics,omitempty"`
}

// ResolvedTable is one selected table.
type ResolvedTable struct {
	Table      change.TableID `json:"table"`
	AppendOnly bool           `json:"append_only,omitempty"`
	Rows       int64          `json:"rows"` // estimate
	Bytes      int64          `json:"bytes"`
}

// Made tells what an activity made, as opposed to found, so that a failed setup
// removes no more than it made.
type Made struct {
	Created bool     `json:"created"`
	Names   []string `json:"names,omitempty"`
}

// SlotMade is the result of CreateSlot.
type SlotMade struct {
	Created bool       `json:"created"`
	At      change.LSN `json:"at"` // every commit after it will be streamed
}

// SlotProgress is CreateSlot's heartbeat.
type SlotProgress struct {
	WaitingFor []string `json:"waiting_for,omitempty"` // transactions at the source that must end first
}

// SinkInput concerns one sink.
type SinkInput struct {
	Spec   pipeline.Spec    `json:"spec"`
	Sink   string           `json:"sink"`
	Tables []change.TableID `json:"tables,omitempty"`
	Epoch  uint32           `json:"epoch,omitempty"`
	// DropRows of ForgetSink also removes the tables' rows.
	DropRows bool `json:"drop_rows,omitempty"`
	// Fresh: begin with an empty ledger. What an earlier pipeline or load of the name
	// left there is not this one's progress, and its offsets are of another log.
	Fresh bool `json:"fresh,omitempty"`
	// Topics: the tables' topics are there already, and no EnsureTopics follows.
	Topics bool `json:"topics,omitempty"`
}

// TeardownInput is the input of the activities that remove things.
type TeardownInput struct {
	Spec  pipeline.Spec `json:"spec"`
	Names []string      `json:"names,omitempty"` // none: all of the pipeline
}

// Report is the result of a Plan workflow.
type Report struct {
	OK      bool              `json:"ok"`
	Source  SourceReport      `json:"source"`
	Kafka   Check             `json:"kafka"`
	Sinks   []SinkReport      `json:"sinks"`
	Tables  []TableReport     `json:"tables"`
	Unused  []string          `json:"unused,omitempty"`  // globs that select nothing
	Changes []pipeline.Change `json:"changes,omitempty"` // against what runs
	Running bool              `json:"running"`
}

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

// SourceReport is what was found at the source.
type SourceReport struct {
	Version string  `json:"version"`
	Checks  []Check `json:"checks"`
}

// SinkReport is what was found at a sink.
type SinkReport struct {
	Sink   string  `json:"sink"`
	Type   string  `json:"type"`
	Checks []Check `json:"checks"`
}

// TableReport is one table's plan.
type TableReport struct {
	Table    change.TableID             `json:"table"`
	Rows     int64                      `json:"rows"`
	Bytes    int64                      `json:"bytes"`
	Key      []string                   `json:"key"`
	Identity string                     `json:"identity"` // replica identity
	Sinks    map[string]sink.TableCheck `json:"sinks"`
	Problems []string                   `json:"problems,omitempty"`
	// Tiers are the rules that give its changes to tiers, in words, in their order.
	Tiers []string `json:"tiers,omitempty"`
	// Shape is what Kafka and the sinks hold of its rows, in words, if not all.
	Shape  []string       `json:"shape,omitempty"`
	Schema *change.Schema `json:"schema,omitempty"` // if PlanInput.Schemas
}

// PlanInput starts a Plan; Running is what runs now, if anything, to compare with.
type PlanInput struct {
	Spec    pipeline.Spec  `json:"spec"`
	Running *pipeline.Spec `json:"running,omitempty"`
	Schemas bool           `json:"schemas,omitempty"` // with the tables' definitions
}

// InspectInput is the input of Inspect.
type InspectInput = PlanInput

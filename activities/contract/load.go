package contract

import (
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/pipeline"
	"syncline/tiers/shape"
)

// Generation is an exported snapshot that chunk readers share. When its holder
// dies, the next attempt exports another one, of a higher number.
type Generation struct {
	N        int             `json:"n"`
	Name     string          `json:"name"` // for SET TRANSACTION SNAPSHOT
	Snapshot change.Snapshot `json:"snapshot"`
	LSN      change.LSN      `json:"lsn"` // at or after every commit that it sees
}

// BootstrapInput starts a Bootstrap or a Snapshot.
type BootstrapInput struct {
	Spec   pipeline.Spec    `json:"spec"`
	Tables []change.TableID `json:"tables,omitempty"` // none (Snapshot only): all that the declaration selects
	Sinks  []string         `json:"sinks,omitempty"`  // none: all
	Parent string           `json:"parent,omitempty"` // pipeline workflow to tell
	Loads  []LoadState      `json:"loads,omitempty"`  // carried from the run before
	Gens   int              `json:"gens,omitempty"`   // generations so far
	Begun  time.Time        `json:"begun,omitzero"`
	// OneOff marks a Snapshot's ledger entries, which are not for delivery.
	OneOff bool `json:"one_off,omitempty"`
}

// LoadState is how far the load of one table into one sink has come.
type LoadState struct {
	Sink     string         `json:"sink"`
	Table    change.TableID `json:"table"`
	Estimate int64          `json:"estimate"`       // rows, by the source's statistics
	Size     int64          `json:"size,omitempty"` // bytes at the source
	Planned  bool           `json:"planned"`
	Chunks   int            `json:"chunks"`
	Next     int            `json:"next"` // chunks below it are done or under way
	Done     int            `json:"done"`
	Rows     int64          `json:"rows"`
	Bytes    int64          `json:"bytes"`
	State    sink.State     `json:"state"`
	Begun    time.Time      `json:"begun,omitzero"`
	Ended    time.Time      `json:"ended,omitzero"`
	Failure  *Failure       `json:"failure,omitempty"`
}

// LoadStatus answers StatusQuery of a Bootstrap or Snapshot, and is its result.
type LoadStatus struct {
	Pipeline   string      `json:"pipeline"`
	Generation int         `json:"generation"`
	Loads      []LoadState `json:"loads"`
	Begun      time.Time   `json:"begun"`
	Done       bool        `json:"done"`
}

// Endpoint is what an activity needs to know of the ends that it works between;
// the whole declaration would be repeated in history for every chunk.
type Endpoint struct {
	Pipeline string          `json:"pipeline"`
	Source   pipeline.Source `json:"source"`
	Sink     pipeline.Sink   `json:"sink"`
}

// TableTask names a table at an endpoint.
type TableTask struct {
	Endpoint
	Table change.TableID `json:"table"`
	// ChunkBytes is the size that PlanChunks aims at.
	ChunkBytes int64 `json:"chunk_bytes,omitempty"`
	// NoRows leaves the rows that exist out: delivery begins with the slot.
	NoRows bool `json:"no_rows,omitempty"`
	// Where is the table's row filter.
	Where string `json:"where,omitempty"`
	// Shape is what the sink is to hold of the rows.
	Shape []shape.Rule `json:"shape,omitempty"`
	// Tiers are the table's rules, as a ledger keeps them, if any keeps aggregates of rows.
	Tiers string `json:"tiers,omitempty"`
	// Listed: the declaration chooses among the table's columns.
	Listed bool `json:"listed,omitempty"`
	// Epoch of ResetTable.
	Epoch uint32 `json:"epoch,omitempty"`
	// Kafka of ResetTable: a watermark that is behind what the log holds goes on from there.
	Kafka *pipeline.Kafka `json:"kafka,omitempty"`
	// DropRows of RemoveTable.
	DropRows bool `json:"drop_rows,omitempty"`
}

// ChunkTask copies one chunk.
type ChunkTask struct {
	TableTask
	N          int        `json:"n"`
	Generation Generation `json:"generation"`
}

// ChunkPlan answers PlanChunks.
type ChunkPlan struct {
	Chunks   int   `json:"chunks"`
	Estimate int64 `json:"estimate"`
	Bytes    int64 `json:"bytes,omitempty"` // of the table at the source
}

// ChunkProgress is the heartbeat of CopyChunk.
type ChunkProgress struct {
	Sink  string         `json:"sink"`
	Table change.TableID `json:"table"`
	N     int            `json:"n"`
	Bytes int64          `json:"bytes"` // so far
}

// ChunkDone answers CopyChunk.
type ChunkDone struct {
	Rows  int64 `json:"rows"`
	Bytes int64 `json:"bytes"`
}

// HoldInput starts the snapshot holder.
type HoldInput struct {
	Pipeline string          `json:"pipeline"`
	Source   pipeline.Source `json:"source"`
	Workflow string          `json:"workflow"` // to signal with each Generation
	After    int             `json:"after"`    // highest generation so far
	MaxHold  time.Duration   `json:"max_hold"`
}

package contract

import (
	"time"

	"syncline/dataplane/change"
	"syncline/pipeline"
)

// BatchSyncWorkflow brings rows to the sinks, once, whose time column is within a range.
// Its id is batchsync/<pipeline>/<n>; its load is a Snapshot below it.
const BatchSyncWorkflow = "BatchSync" // BatchSyncInput → BatchSyncResult

// PlanBatchSyncActivity makes the declaration of its load: BatchSyncInput → BatchSyncPlan.
const PlanBatchSyncActivity = "PlanBatchSync"

// BatchSyncID is the workflow of a BatchSync.
func BatchSyncID(pipeline, n string) string { return "batchsync/" + pipeline + "/" + n }

// BatchSyncLoadID is the Snapshot of a BatchSync, by its run.
func BatchSyncLoadID(pipeline, run string) string {
	return BatchSyncID(pipeline, run[max(0, len(run)-8):]) + "/load"
}

// BatchSyncInput says what to bring.
type BatchSyncInput struct {
	Spec   pipeline.Spec    `json:"spec"`
	Column string           `json:"column"` // of each table: when a row was changed last
	Since  time.Time        `json:"since"`  // rows from then on
	Until  time.Time        `json:"until"`  // and before then
	Tables []change.TableID `json:"tables,omitempty"`
	Sinks  []string         `json:"sinks,omitempty"` // none: all
}

// BatchSyncPlan is the load of a BatchSync.
type BatchSyncPlan struct {
	Spec   pipeline.Spec    `json:"spec"`
	Tables []change.TableID `json:"tables"`
}

// BatchSyncResult is what was brought.
type BatchSyncResult struct {
	Pipeline string            `json:"pipeline"`
	Column   string            `json:"column"`
	Since    time.Time         `json:"since"`
	Until    time.Time         `json:"until"`
	Rows     int64             `json:"rows"`
	Tables   []BatchSyncedRows `json:"tables"`
	Seconds  float64           `json:"seconds"`
}

// BatchSyncedRows are those of one table at one sink.
type BatchSyncedRows struct {
	Sink  string         `json:"sink"`
	Table change.TableID `json:"table"`
	Rows  int64          `json:"rows"`
	Bytes int64          `json:"bytes"`
}

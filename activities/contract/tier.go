package contract

import (
	"time"

	"syncline/dataplane/change"
	"syncline/pipeline"
)

// BatchTierWorkflow is a run of a batch tier: what waits in it takes effect, up to
// where the source is when the run begins. A Schedule starts it once in the tier's
// period; anybody may start another.
const BatchTierWorkflow = "BatchTier" // TierInput → TierResult

// Activities of batch tiers, on the control queue.
const (
	PlanTierActivity      = "PlanTier"      // TierInput → TierPlan
	DrainTierActivity     = "DrainTier"     // TierTask → TierDrained
	ScheduleTiersActivity = "ScheduleTiers" // TierSchedules → none
)

// Types of the errors of a run.
const (
	TierBehindError = "TierBehind" // a sink did not get to where the run was to bring it
)

// TierScheduleID is the Schedule of a tier; its runs are named after it and their time.
func TierScheduleID(pipeline, tier string) string { return "tier/" + pipeline + "/" + tier }

// TierInput names a tier.
type TierInput struct {
	Pipeline string `json:"pipeline"`
	Tier     string `json:"tier"`
}

// TierPlan is what a run has to do.
type TierPlan struct {
	At    change.Position `json:"at"` // every commit that was there when the run began is below
	Tier  pipeline.Tier   `json:"tier"`
	Tasks []TierTask      `json:"tasks"` // by sink
	// Skipped says why there is nothing to do; the run is over, and the next one
	// brings what waits.
	Skipped string `json:"skipped,omitempty"`
}

// TierTask is the part of one sink.
type TierTask struct {
	Pipeline string           `json:"pipeline"`
	Tier     string           `json:"tier"`
	Sink     pipeline.Sink    `json:"sink"`
	Tables   []change.TableID `json:"tables"`
	At       change.Position  `json:"at"`
}

// TierProgress is the heartbeat of DrainTier.
type TierProgress struct {
	Behind string `json:"behind"` // what has not come to the position yet
}

// TierDrained is what became of a sink's part.
type TierDrained struct {
	Sink    string  `json:"sink"`
	Tables  int     `json:"tables"`
	Waited  int64   `json:"waited"` // changes that waited when the run began
	Seconds float64 `json:"seconds"`
}

// TierResult is the result of a run.
type TierResult struct {
	Pipeline string          `json:"pipeline"`
	Tier     string          `json:"tier"`
	At       change.Position `json:"at"`
	Sinks    []TierDrained   `json:"sinks"`
	Skipped  string          `json:"skipped,omitempty"`
	Began    time.Time       `json:"began"`
	Seconds  float64         `json:"seconds"`
}

// TierSchedules are those that a pipeline is to have.
type TierSchedules struct {
	Pipeline string          `json:"pipeline"`
	Tiers    []pipeline.Tier `json:"tiers"`
	Gone     []string        `json:"gone,omitempty"` // tiers whose Schedules are to be removed
}

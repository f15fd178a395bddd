package contract

import (
	"syncline/dataplane/change"
	"syncline/tiers/experiment"
)

// ExperimentInput splits the entities of a table into arms by a salted hash: A and A' with
// the pipeline's own classification, and one arm for each that is given.
type ExperimentInput struct {
	Table  change.TableID `json:"table"`
	Entity []string       `json:"entity,omitempty"` // columns; none: the primary key
	Sum    string         `json:"sum,omitempty"`    // a column of numbers, of which a reader computes the sum
	Salt   string         `json:"salt"`             // another salt, other arms
}

// What is measured in an experiment.
const (
	BytesPerChange = "bytes per change"
	RowsPerChange  = "rows per change"
	WaitPerChange  = "wait, s"        // mean over all changes
	CountError     = "error of count" // relative, mean over the moments
	SumError       = "error of sum"
)

// ExperimentResult is what the arms say. Intervals are of 95 %.
type ExperimentResult struct {
	ExperimentInput
	Moments     int                    `json:"moments"`    // at which a reader computes aggregates
	Unassigned  int                    `json:"unassigned"` // keys whose entity is not in the log
	Arms        []ExperimentArm        `json:"arms"`
	Differences []ExperimentDifference `json:"differences"` // from the first arm
	// Off are quantities by which A and A' differ, although they were treated alike: then
	// the differences of other arms say little.
	Off []string `json:"control_off"`
}

// ExperimentArm is one arm.
type ExperimentArm struct {
	Arm            string               `json:"arm"`
	Classification string               `json:"classification"`
	Entities       int                  `json:"entities"`
	Units          int                  `json:"units"` // groups of entities that intervals are from
	Changes        int64                `json:"changes"`
	Measured       []ExperimentMeasured `json:"measured"`
}

// ExperimentMeasured is a quantity of an arm.
type ExperimentMeasured struct {
	Quantity string `json:"quantity"`
	experiment.Estimate
}

// ExperimentDifference is by how much a quantity of an arm is above that of the first.
type ExperimentDifference struct {
	Arm string `json:"arm"`
	ExperimentMeasured
}

package contract

import (
	"time"

	"syncline/pipeline"
)

// MeasureActivity computes a report: ReportInput → report.Report of package
// analytics/report, which is also the result of the Report workflow.
const MeasureActivity = "Measure"

// ReportInput starts a Report.
type ReportInput struct {
	Pipeline string `json:"pipeline"`
	// Since and Until are the time of the report; until zero means until now.
	Since time.Time `json:"since"`
	Until time.Time `json:"until,omitzero"`
	// Objectives are those of the declaration.
	Objectives []pipeline.Objective `json:"objectives,omitempty"`
}

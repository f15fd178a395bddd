package workflows

import (
	"errors"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/analytics/report"
	"syncline/pipeline"
)

func TestReport(t *testing.T) {
	w := newWorld()
	w.once[contract.MeasureActivity] = []error{temporal.NewApplicationError("away", "AnalyticsStore")}
	env := environment(t, w)
	since := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	env.ExecuteWorkflow(Report, contract.ReportInput{Pipeline: "shop", Since: since, Objectives: []pipeline.Objective{{Name: "fresh", Indicator: pipeline.ObjectiveLag, Target: 999000}}})
	var r report.Report
	if err := env.GetWorkflowResult(&r); err != nil {
		t.Fatal(err)
	}
	if lag := r.Indicator(report.Lag); r.Pipeline != "shop" || !r.Since.Equal(since) || lag == nil || *lag.Value != 1.5 || w.count("Measure shop 1") != 2 {
		t.Errorf("%+v after %v", r, w.names())
	}

	off := newWorld()
	off.fail[contract.MeasureActivity] = permanent("AnalyticsOff")
	env = environment(t, off)
	env.ExecuteWorkflow(Report, contract.ReportInput{Pipeline: "shop"})
	var app *temporal.ApplicationError
	if err := env.GetWorkflowError(); !errors.As(err, &app) || app.Type() != "AnalyticsOff" || off.count("Measure shop 0") != 1 {
		t.Errorf("%v after %v", err, off.names())
	}
}

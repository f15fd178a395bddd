package activities

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"syncline/activities/contract"
	"syncline/analytics"
	"syncline/analytics/report"
	"syncline/dataplane/login"
	"syncline/pipeline"
	"syncline/testsuite/stack"
)

// What was inserted comes back in a report; tables are made if nobody wrote before.
func TestMeasure(t *testing.T) {
	database := stack.Name(t)
	open := func(context.Context) (*analytics.Store, error) {
		return analytics.OpenStore(stack.ClickHouse(t), database, nil)
	}
	s, err := open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		rows, err := s.Query(context.Background(), "DROP DATABASE IF EXISTS {db}")
		if err != nil {
			t.Error(err)
		} else {
			_ = rows.Close() // it has none
		}
		_ = s.Close() // the test is over
	})
	a := &Activities{AnalyticsStore: func(ctx context.Context, _ login.Source) (*analytics.Store, error) { return open(ctx) }}
	measure := func(in contract.ReportInput) (r report.Report, err error) {
		var suite testsuite.WorkflowTestSuite
		env := suite.NewTestActivityEnvironment()
		env.RegisterActivity(a.Measure)
		v, err := env.ExecuteActivity(a.Measure, in)
		if err != nil {
			return r, err
		}
		return r, v.Get(&r)
	}
	now := time.Now().UTC()
	in := contract.ReportInput{Pipeline: "shop", Since: now.Add(-time.Hour), Objectives: []pipeline.Objective{
		{Name: "fresh", Indicator: pipeline.ObjectiveLag, Target: 900000, Period: pipeline.Duration(24 * time.Hour)}}}
	r, err := measure(in)
	if err != nil || len(r.Indicators) != 10 || r.Indicators[0].Value != nil {
		t.Fatalf("before anything was recorded: %v %+v", err, r)
	}
	at := now.Add(-time.Minute).Truncate(analytics.Window)
	if err := s.Insert(t.Context(), "1", []analytics.Row{&analytics.Lag{Time: at, Pipeline: "shop", Sink: "s", Changes: 3, Buckets: map[uint16]uint64{40: 3}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Insert(t.Context(), "2", []analytics.Row{&analytics.Objectives{Time: at, Pipeline: "shop", Objective: "fresh", Good: 95, Bad: 5}}); err != nil {
		t.Fatal(err)
	}
	r, err = measure(in)
	if err != nil || r.Indicator(report.Lag).Value == nil || *r.Indicator(report.Lag).Value != 0.04 || len(r.Objectives) != 1 || *r.Objectives[0].Achieved != 0.95 {
		t.Errorf("%v %+v", err, r)
	}
	refused := func(what, code string) {
		t.Helper()
		var app *temporal.ApplicationError
		if _, err := measure(in); !errors.As(err, &app) || app.Type() != code {
			t.Errorf("%s: %v", what, err)
		}
	}
	in.Until = in.Since.Add(-time.Hour)
	refused("an end before the beginning", "ReportPeriod")
	in.Until, a.AnalyticsStore = time.Time{}, nil
	refused("no store", string(CodeAnalyticsOff))
}

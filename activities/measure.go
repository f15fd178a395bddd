package activities

import (
	"context"
	"time"

	"syncline/activities/contract"
	"syncline/analytics"
	"syncline/analytics/indicators"
	"syncline/analytics/report"
	"syncline/dataplane/fault"
)

// CodeAnalyticsOff: the workers record nothing.
const CodeAnalyticsOff fault.Code = "AnalyticsOff"

func (a *Activities) openAnalytics(ctx context.Context) (*analytics.Store, error) {
	as, err := a.login(ctx, a.AnalyticsLogin)
	if err != nil {
		return nil, err
	}
	return a.AnalyticsStore(ctx, as)
}

// Measure computes the report on a pipeline.
func (a *Activities) Measure(ctx context.Context, in contract.ReportInput) (out *report.Report, err error) {
	defer func() { err = ended(ctx, err) }()
	if a.AnalyticsStore == nil {
		return nil, fault.Permanent(CodeAnalyticsOff, nil, "set SYNCLINE_ANALYTICS on the workers", "analytics is not configured")
	}
	s, err := a.openAnalytics(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()       // it was only read
	if err := s.Migrate(ctx); err != nil { // nobody may have written yet
		return nil, err
	}
	return indicators.Compute(ctx, s, indicators.Input{Pipeline: in.Pipeline, Since: in.Since, Until: in.Until, Now: time.Now(), Objectives: in.Objectives})
}

// Package indicators computes the report on a pipeline from the tables of package
// analytics: the ten indicators, the objectives with their error budgets, and how
// complete the counts are. Counts of the last analytics.KeepWindows days come from
// the tables by window, older ones from the rollups by hour.
package indicators

import (
	"context"
	"fmt"
	"time"

	"syncline/analytics"
	"syncline/analytics/report"
	"syncline/dataplane/fault"
	"syncline/pipeline"
)

// Conditions of a report.
const (
	// CodePeriod: its time is empty.
	CodePeriod fault.Code = "ReportPeriod"
	// CodeObjective: an objective that did not come from a declaration makes no sense.
	CodeObjective fault.Code = "ReportObjective"
)

// Input says what to report on.
type Input struct {
	Pipeline   string
	Since      time.Time
	Until      time.Time // zero, or later than Now: until Now
	Now        time.Time
	Objectives []pipeline.Objective
}

// Compute asks the store.
func Compute(ctx context.Context, s *analytics.Store, in Input) (*report.Report, error) {
	if in.Until.IsZero() || in.Until.After(in.Now) {
		in.Until = in.Now
	}
	if !in.Since.Before(in.Until) {
		return nil, fault.Permanent(CodePeriod, nil, "begin before the end, and in the past", "a report from %s until %s is empty",
			in.Since.UTC().Format(time.RFC3339), in.Until.UTC().Format(time.RFC3339))
	}
	for _, o := range in.Objectives {
		if o.Target <= 0 || o.Target.Share() >= 1 || o.Period <= 0 {
			return nil, fault.Permanent(CodeObjective, nil, "take objectives from what starter validate --json prints", "objective %q has the target %s and the period %s", o.Name, o.Target, o.Period)
		}
	}
	oldest := in.Now.AddDate(0, 0, -analytics.KeepHours)
	if in.Until.Before(oldest) {
		return nil, fault.Permanent(CodePeriod, nil, "name a later time", "a report until %s is empty: counts are kept for %d days", in.Until.UTC().Format(time.RFC3339), analytics.KeepHours)
	}
	if in.Since.Before(oldest) {
		in.Since = oldest
	}
	q := &query{ctx: ctx, s: s, pipeline: in.Pipeline, frame: newFrame(in.Since, in.Until, in.Now, false)}
	r := &report.Report{
		Pipeline: in.Pipeline, At: in.Now.UTC(), Since: q.since.UTC(), Until: q.until.UTC(), Step: int64(q.step / time.Second), Hourly: q.hourly,
		Indicators: []report.Indicator{}, Objectives: []report.Objective{},
	}
	c := q.counts()
	for _, measure := range []func(*counts) report.Indicator{
		q.lag, q.convergence, q.applyErrors, q.checks, q.duplicates, q.drift, q.backlog, q.throughput, q.retries, q.security,
	} {
		r.Indicators = append(r.Indicators, measure(c))
	}
	for _, o := range in.Objectives {
		r.Objectives = append(r.Objectives, q.objective(o, in.Now))
	}
	r.Coverage = q.coverage()
	if q.err != nil {
		return nil, q.err
	}
	return r, nil
}

// frame is the time of a report, cut into steps.
type frame struct {
	since, until time.Time
	step         time.Duration
	hourly       bool
}

// maxPoints bounds a series.
const maxPoints = 60

var steps = []time.Duration{
	5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute,
	15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 2 * 24 * time.Hour, 7 * 24 * time.Hour,
}

// newFrame begins at the window, or hour, that holds since: rows are by these.
func newFrame(since, until, now time.Time, hourly bool) frame {
	f := frame{hourly: hourly || since.Before(now.AddDate(0, 0, -analytics.KeepWindows))}
	f.since = since.Truncate(f.grain())
	f.until = until.Truncate(time.Second)
	if f.until.Before(until) {
		f.until = f.until.Add(time.Second)
	}
	f.step = steps[len(steps)-1]
	for _, s := range steps {
		if s >= f.grain() && s*maxPoints >= f.until.Sub(f.since) {
			f.step = s
			break
		}
	}
	return f
}

func (f frame) grain() time.Duration {
	if f.hourly {
		return time.Hour
	}
	return analytics.Window
}

// points is the length of a series.
func (f frame) points() int { return int((f.until.Sub(f.since) + f.step - 1) / f.step) }

// seconds is how long a step lasts: the last may be cut by the end.
func (f frame) seconds(i int) float64 {
	return min(f.step, f.until.Sub(f.since)-time.Duration(i)*f.step).Seconds()
}

func (f frame) total() time.Duration { return f.until.Sub(f.since) }

// table names a counting table, or its rollup.
func (f frame) table(name string) string {
	if f.hourly {
		return "{db}." + name + analytics.HourlySuffix
	}
	return "{db}." + name
}

// bucket is the number of the step that a time falls into.
func (f frame) bucket(column string) string {
	return fmt.Sprintf("toInt64(intDiv(toUnixTimestamp(toDateTime(%s)) - %d, %d))", column, f.since.Unix(), int64(f.step/time.Second))
}

// during is the condition on a pipeline's rows; it takes the name as argument. Its
// bounds are of the columns' precision: compared with whole seconds, ClickHouse
// leaves out what is within the last of them.
func (f frame) during() string {
	return fmt.Sprintf("pipeline = ? AND ts >= fromUnixTimestamp64Milli(%d, 'UTC') AND ts < fromUnixTimestamp64Milli(%d, 'UTC')", f.since.UnixMilli(), f.until.UnixMilli())
}

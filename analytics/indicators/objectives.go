package indicators

import (
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"syncline/analytics"
	"syncline/analytics/report"
	"syncline/pipeline"
)

// objective counts the events of an objective's period up to the end of the
// report, and of the hours before that.
func (q *query) objective(o pipeline.Objective, now time.Time) report.Objective {
	ending := func(d time.Duration) report.Events {
		p := &query{ctx: q.ctx, s: q.s, pipeline: q.pipeline, frame: newFrame(q.until.Add(-d), q.until, now, false), err: q.err}
		steps := p.objectiveEvents(o)
		q.err = p.err
		var sum report.Events
		for _, e := range steps {
			sum = sum.Plus(e)
		}
		return sum
	}
	out := report.Judge(o, ending(o.Period.Std()), ending(report.LongBurn), ending(report.ShortBurn))
	out.Points = make(report.Points, q.points())
	for i, e := range q.objectiveEvents(o) {
		if i >= 0 && i < int64(len(out.Points)) {
			out.Points[i] = e.Achieved()
		}
	}
	if o.Indicator == pipeline.ObjectiveConvergence && out.Why != "" {
		out.Why = "no verification has run in this period"
	}
	return out
}

// objectiveEvents are the events of an objective by step.
func (q *query) objectiveEvents(o pipeline.Objective) map[int64]report.Events {
	step := q.bucket("ts")
	var sql string
	var args []any
	switch o.Indicator {
	case pipeline.ObjectiveConvergence:
		sql = fmt.Sprintf("SELECT %s AS step, countIf(verdict = '%s'), countIf(verdict != '%s') FROM {db}.verifications WHERE %s GROUP BY step", step, analytics.Equal, analytics.Equal, q.during())
	case pipeline.ObjectiveBacklog: // each window, or hour, is one event
		sql = fmt.Sprintf("SELECT %s AS step, countIf(most <= %d), countIf(most > %d) FROM (SELECT moment, max(r) AS most FROM (%s) GROUP BY moment) GROUP BY step", q.bucket("moment"), o.AtMost, o.AtMost, q.waiting())
	default:
		sql = fmt.Sprintf("SELECT %s AS step, sum(t.good), sum(t.bad) FROM %s AS t WHERE %s AND objective = ? GROUP BY step", step, q.table("objectives"), q.during())
		args = append(args, o.Name)
	}
	out := map[int64]report.Events{}
	q.rows(sql, func(r driver.Rows) error {
		var i int64
		var e report.Events
		if err := r.Scan(&i, &e.Good, &e.Bad); err != nil {
			return err
		}
		out[i] = out[i].Plus(e)
		return nil
	}, args...)
	return out
}

// coverage compares, for each partition, the offsets within recorded windows with
// those between the first and the last of them. Ranges may overlap after a crash.
func (q *query) coverage() report.Coverage {
	c := report.Coverage{Sinks: []report.SinkCoverage{}}
	q.rows(fmt.Sprintf(`SELECT sink, sum(had), sum(span) FROM (
		SELECT sink, tab, part, sum(greatest(to_offset - greatest(from_offset, reached), 0)) AS had, max(to_offset) - min(from_offset) AS span FROM (
			SELECT sink, tab, part, from_offset, to_offset,
				max(to_offset) OVER (PARTITION BY sink, tab, part ORDER BY from_offset, to_offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reached
			FROM {db}.progress WHERE %s) GROUP BY sink, tab, part) GROUP BY sink ORDER BY sink`, q.during()), func(r driver.Rows) error {
		var s report.SinkCoverage
		if err := r.Scan(&s.Sink, &s.Recorded, &s.Spanned); err != nil {
			return err
		}
		c.Sinks = append(c.Sinks, s)
		c.Recorded, c.Spanned = c.Recorded+s.Recorded, c.Spanned+s.Spanned
		return nil
	})
	if c.Share = report.Ratio(float64(c.Recorded), float64(c.Spanned)); c.Share == nil {
		c.Why = "no record of the log was recorded in this time"
	}
	return c
}

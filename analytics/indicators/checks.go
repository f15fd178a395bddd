package indicators

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"syncline/analytics"
	"syncline/analytics/report"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

const unverified = "no verification has run in this time"

func (q *query) convergence(*counts) report.Indicator {
	type tables struct{ equal, different, inconclusive float64 }
	newest := map[string]tables{}
	var all tables
	q.rows(fmt.Sprintf(`SELECT sink, toFloat64(countIf(last = '%s')), toFloat64(countIf(last = '%s')), toFloat64(count()) FROM (
		SELECT sink, tab, argMax(verdict, (ts, run)) AS last FROM {db}.verifications WHERE %s AND %s GROUP BY sink, tab) GROUP BY sink`,
		analytics.Equal, analytics.Different, q.during(), analytics.OfTables), func(r driver.Rows) error {
		var sink string
		var equal, different, n float64
		if err := r.Scan(&sink, &equal, &different, &n); err != nil {
			return err
		}
		newest[sink] = tables{equal, different, n - equal - different}
		all.equal, all.different, all.inconclusive = all.equal+equal, all.different+different, all.inconclusive+n-equal-different
		return nil
	})
	verdicts := q.sums("{db}.verifications", "sink", "count()")
	equal := q.sums("{db}.verifications", "sink", "countIf(verdict = '"+analytics.Equal+"')")
	line := func(label string, t tables, p report.Points) report.Line {
		return report.Line{Label: label, Unit: report.Share, Value: report.Ratio(t.equal, t.equal+t.different+t.inconclusive), Points: p}
	}
	over := share(equal.all(), verdicts.all())
	lines := []report.Line{line("newest of each table", all, over),
		{Label: "all verdicts", Unit: report.Share, Value: report.Ratio(value(equal.all().Sum()), value(verdicts.all().Sum())), Points: over}}
	if sinks := sortedKeys(newest); len(sinks) > 1 {
		for _, s := range sinks {
			lines = append(lines, line(s, newest[s], share(equal[s], verdicts[s])))
		}
	}
	note := fmt.Sprintf("tables: %s equal, %s different, %s inconclusive", report.Whole(all.equal), report.Whole(all.different), report.Whole(all.inconclusive))
	return made(report.Convergence, unverified, note, lines...)
}

// runs counts what a table has several rows of, where each run ended.
func (q *query) runs(table, label string) grid {
	return q.sums(fmt.Sprintf("(SELECT pipeline, run, max(t.ts) AS ts, %s AS label_of_run FROM {db}.%s AS t GROUP BY pipeline, run)", label, table), "label_of_run", "count()")
}

// failedRepair is the state of a repair that ended without success.
const failedRepair = "failed"

func (q *query) checks(*counts) report.Indicator {
	verified := q.runs("verifications", "argMax(kind, t.ts)")
	repaired := q.runs("repairs", "argMax(state, (t.ts, state = '"+failedRepair+"'))")
	line := func(label string, p report.Points) report.Line {
		return report.Line{Label: label, Unit: report.Count, Value: p.Sum(), Points: p}
	}
	lines := []report.Line{line("verification runs", verified.all())}
	note := "no repair has run"
	if len(repaired) > 0 {
		lines = append(lines, line("repair runs", repaired.all()))
		note = fmt.Sprintf("%s repair runs, %s failed", report.Whole(value(repaired.all().Sum())), report.Whole(value(repaired[failedRepair].Sum())))
	}
	if kinds := verified.labels(); len(kinds) > 1 {
		for _, k := range kinds {
			lines = append(lines, line("runs of "+k, verified[k]))
		}
	}
	i := made(report.Checks, unverified, note, lines...)
	if i.Value == nil && len(repaired) > 0 { // repairs without a verification, of which one should hear
		i.Why += "; " + note
	}
	return i
}

// schemaGate is the code of a delivery that stopped at a change of a definition.
const schemaGate = "SchemaGate"

// drift counts the verdicts that are the first different one of a table, or the
// first since it was equal. An inconclusive one in between says nothing.
func (q *query) drift(*counts) report.Indicator {
	turned := grid{}
	q.rows(fmt.Sprintf(`SELECT %s AS step, sink, toFloat64(count()) FROM (
		SELECT ts, sink, verdict, lagInFrame(verdict, 1, '') OVER (PARTITION BY sink, tab ORDER BY ts, run ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS earlier
		FROM {db}.verifications WHERE pipeline = ? AND ts < fromUnixTimestamp64Milli(%d, 'UTC') AND verdict != '%s' AND %s)
		WHERE verdict = '%s' AND earlier != verdict AND ts >= fromUnixTimestamp64Milli(%d, 'UTC') GROUP BY step, sink`,
		q.bucket("ts"), q.until.UnixMilli(), analytics.Inconclusive, analytics.OfTables, analytics.Different, q.since.UnixMilli()), func(r driver.Rows) error {
		var i int64
		var sink string
		var n float64
		if err := r.Scan(&i, &sink, &n); err != nil {
			return err
		}
		turned.set(q.points(), sink, i, n)
		return nil
	})
	verdicts := q.sums("{db}.verifications", "sink", "count()")
	gates := q.sums("{db}.errors", "''", "countIf(code = '"+schemaGate+"')").all()
	stopped := value(gates.Sum())
	line := func(label string, p report.Points) report.Line {
		return report.Line{Label: label, Unit: report.Count, Value: p.Sum(), Points: p}
	}
	seen := verdicts.all()
	if stopped > 0 {
		seen = plus(seen, gates)
	}
	lines := []report.Line{line("all", filled(plus(turned.all(), gates), seen))}
	if stopped > 0 {
		lines = append(lines, line("stopped at a definition", gates))
	}
	if sinks := verdicts.labels(); len(sinks) > 1 {
		for _, s := range sinks {
			lines = append(lines, line(s, filled(turned[s], verdicts[s])))
		}
	}
	note := report.Whole(value(verdicts.all().Sum())) + " verdicts looked at"
	if len(verdicts) == 0 {
		note = unverified
	}
	return made(report.Drift, unverified, note, lines...)
}

// mostParts bounds how many parts of an indicator are shown.
const mostParts = 6

// events makes the lines of things that seldom happen, the most frequent parts first.
func (q *query) events(g grid, c *counts, whole string, u report.Unit, of func(report.Points) *float64, each func(report.Points) report.Points) []report.Line {
	seen := plus(c.seen, g.all())
	line := func(label string, p report.Points) report.Line {
		p = filled(p, seen)
		return report.Line{Label: label, Unit: u, Value: of(p), Points: each(p)}
	}
	lines := []report.Line{line(whole, g.all())}
	parts := g.labels()
	slices.SortStableFunc(parts, func(a, b string) int { return cmp.Compare(value(g[b].Sum()), value(g[a].Sum())) })
	for _, p := range parts[:min(len(parts), mostParts)] {
		if len(parts) > 1 {
			lines = append(lines, line(p, g[p]))
		}
	}
	return lines
}

func (q *query) retries(c *counts) report.Indicator {
	g := q.sums(q.table("retries"), "component", "sum(retries)")
	lines := q.events(g, c, "all components", report.PerMinute, func(p report.Points) *float64 { return q.mean(p, 60) }, func(p report.Points) report.Points { return q.rate(p, 60) })
	return made(report.Retries, nothing, report.Whole(value(g.all().Sum()))+" retries", lines...)
}

func (q *query) security(c *counts) report.Indicator {
	g := q.sums("{db}.security_events", "kind", "count()")
	same := func(p report.Points) report.Points { return p }
	lines := q.events(g, c, "all kinds", report.Count, report.Points.Sum, same)
	return made(report.Security, nothing, strings.Join(g.labels(), ", "), lines...)
}

package indicators

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"syncline/analytics"
	"syncline/analytics/report"
)

// counts are what several indicators rest on.
type counts struct {
	applied grid          // changes by sink
	passed  grid          // changes, or rows of a load, by stage and sink
	bytes   grid          // the same in bytes
	wire    grid          // bytes on the wire, by route and tier
	seen    report.Points // a value wherever anything was recorded
}

const nothing = "nothing was recorded in this time"

// stages separates stage and sink in a label; no name has it.
const stages = "\t"

func (q *query) counts() *counts {
	c := &counts{
		applied: q.sums(q.table("applies"), "sink", "sum(inserts + updates + deletes + truncates)"),
		passed:  q.sums(q.table("throughput"), "concat(stage, '\\t', sink)", "sum(if(stage = '"+analytics.StageSnapshot+"', rows, changes))"),
		bytes:   q.sums(q.table("throughput"), "concat(stage, '\\t', sink)", "sum(bytes)"),
		wire:    q.sums(q.table("usage"), "concat(origin, '\\t', destination, '\\t', tier)", "sum(wire)"),
	}
	waiting := q.sums(q.table("backlog"), "sink", "count()")
	c.seen = plus(plus(c.applied.all(), c.passed.all()), waiting.all())
	return c
}

// Percentiles of the lag.
var percentiles = []struct {
	p    float64
	name string
}{{99, "p99"}, {95, "p95"}, {50, "p50"}}

type lags map[uint16]uint64

func (l lags) add(m map[uint16]uint64) {
	for b, n := range m {
		l[b] += n
	}
}

// at is a percentile in milliseconds; nil of none.
func (l lags) at(p float64) *float64 {
	if len(l) == 0 {
		return nil
	}
	return report.Number(float64(analytics.Percentile(l, p)) / 1000)
}

func (q *query) lag(*counts) report.Indicator {
	all := ""
	byStep := map[string][]lags{}
	whole := map[string]lags{}
	q.rows(fmt.Sprintf("SELECT %s AS step, sink, sumMap(buckets) FROM %s WHERE %s GROUP BY step, sink", q.bucket("ts"), q.table("lag"), q.during()), func(r driver.Rows) error {
		var i int64
		var sink string
		var m map[uint16]uint64
		if err := r.Scan(&i, &sink, &m); err != nil {
			return err
		}
		for _, label := range []string{all, sink} {
			if whole[label] == nil {
				whole[label], byStep[label] = lags{}, make([]lags, q.points())
			}
			whole[label].add(m)
			if i >= 0 && i < int64(q.points()) {
				if byStep[label][i] == nil {
					byStep[label][i] = lags{}
				}
				byStep[label][i].add(m)
			}
		}
		return nil
	})
	line := func(sink string, n int) report.Line {
		p := percentiles[n]
		l := report.Line{Label: strings.TrimSpace(sink + " " + p.name), Unit: report.Millis, Value: whole[sink].at(p.p), Points: make(report.Points, q.points())}
		for i, step := range byStep[sink] {
			l.Points[i] = step.at(p.p)
		}
		return l
	}
	var lines []report.Line
	if len(whole[all]) > 0 {
		for n := range percentiles {
			lines = append(lines, line(all, n))
		}
		if sinks := sortedKeys(whole); len(sinks) > 2 { // the whole and one sink are the same
			for _, s := range sinks[1:] {
				for n := range percentiles {
					lines = append(lines, line(s, n))
				}
			}
		}
	}
	return made(report.Lag, "no change was delivered in this time", q.clocks(), lines...)
}

// clocks says how well lags are known: two clocks measure them.
func (q *query) clocks() (note string) {
	ahead := ""
	if !q.hourly {
		ahead = "min(skew_micros), max(skew_micros), "
	} else {
		ahead = "toInt64(0), toInt64(0), " // they mean nothing over an hour, so rollups lack them
	}
	q.rows(fmt.Sprintf("SELECT %s max(skew_error_micros), min(skew_error_micros), count() FROM %s WHERE %s AND changes > 0", ahead, q.table("lag"), q.during()), func(r driver.Rows) error {
		var low, high, within, least int64
		var n uint64
		if err := r.Scan(&low, &high, &within, &least, &n); err != nil {
			return err
		}
		ms := func(us int64) string {
			text := report.Say(report.Number(max(float64(us), -float64(us))/1000), report.Millis)
			if us < 0 {
				return "-" + text
			}
			return text
		}
		switch {
		case n == 0:
		case within < 0:
			note = "the clocks of source and workers were not compared"
		case q.hourly:
			note = "corrected by the clocks' difference, which is known to ±" + ms(within)
		case low == high:
			note = fmt.Sprintf("corrected by the clocks' difference, %s ±%s", ms(low), ms(within))
		default:
			note = fmt.Sprintf("corrected by the clocks' difference, %s to %s ±%s", ms(low), ms(high), ms(within))
		}
		if n > 0 && within >= 0 && least < 0 {
			note += "; for some changes they were not compared"
		}
		return nil
	})
	return note
}

// ratios makes the lines of a share: the whole, and its parts if there are several.
func ratios(part, whole grid, label string) []report.Line {
	line := func(name string, p, w report.Points) report.Line {
		return report.Line{Label: name, Unit: report.Share, Value: report.Ratio(value(p.Sum()), value(w.Sum())), Points: share(p, w)}
	}
	lines := []report.Line{line(label, part.all(), whole.all())}
	if labels := whole.labels(); len(labels) > 1 {
		for _, l := range labels {
			lines = append(lines, line(l, part[l], whole[l]))
		}
	}
	return lines
}

func both(a, b grid) grid {
	out := grid{}
	for _, g := range []grid{a, b} {
		for l, p := range g {
			out[l] = plus(out[l], p)
		}
	}
	return out
}

// of says what a share rests on.
func of(part, whole grid, what, among string) string {
	return fmt.Sprintf("%s %s of %s %s", report.Whole(value(part.all().Sum())), what, report.Whole(value(whole.all().Sum())), among)
}

func (q *query) applyErrors(c *counts) report.Indicator {
	dead := q.sums(q.table("dead_letters"), "sink", "sum(letters)")
	whole := both(c.applied, dead)
	return made(report.ApplyErrors, "no change was applied in this time", of(dead, whole, "dead", "changes"), ratios(dead, whole, "all sinks")...)
}

func (q *query) duplicates(c *counts) report.Indicator {
	again := q.sums(q.table("duplicates"), "sink", "sum(resent)")
	whole := both(c.applied, again)
	return made(report.Duplicates, "no change was applied in this time", of(again, whole, "resent", "changes"), ratios(again, whole, "all sinks")...)
}

// backlog sums up the lanes of a sink at each moment, before it takes the most.
func (q *query) backlog(*counts) report.Indicator {
	records, bytes := grid{}, grid{}
	q.rows(fmt.Sprintf("SELECT %s AS step, sink, toFloat64(max(r)), toFloat64(max(b)) FROM (%s) GROUP BY step, sink", q.bucket("moment"), q.waiting()), func(r driver.Rows) error {
		var i int64
		var sink string
		var n, b float64
		if err := r.Scan(&i, &sink, &n, &b); err != nil {
			return err
		}
		records.set(q.points(), sink, i, n)
		bytes.set(q.points(), sink, i, b)
		return nil
	})
	most := func(g grid) report.Points {
		out := make(report.Points, q.points())
		for _, p := range g {
			for i, v := range p {
				if v != nil && (out[i] == nil || *v > *out[i]) {
					out[i] = v
				}
			}
		}
		return out
	}
	line := func(label string, u report.Unit, p report.Points) report.Line {
		return report.Line{Label: label, Unit: u, Value: p.Max(), Points: p}
	}
	lines := []report.Line{line("records", report.Records, most(records)), line("bytes", report.Bytes, most(bytes))}
	if sinks := records.labels(); len(sinks) > 1 {
		for _, s := range sinks {
			lines = append(lines, line(s+" records", report.Records, records[s]), line(s+" bytes", report.Bytes, bytes[s]))
		}
	}
	note := ""
	if q.hourly {
		note = "an upper bound: the lanes' largest values of an hour need not be of one moment"
	} else if last := lastOf(lines[0].Points); last != nil {
		note = report.Say(last, report.Records) + " at the end"
	}
	return made(report.Backlog, "no lane was running in this time", note, lines...)
}

func lastOf(p report.Points) *float64 {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] != nil {
			return p[i]
		}
	}
	return nil
}

// waiting has the records and bytes before a sink at each window, or hour.
func (f frame) waiting() string {
	return fmt.Sprintf(`SELECT moment, sink, sum(lane_records) AS r, sum(lane_bytes) AS b FROM (
		SELECT toStartOfInterval(toDateTime(ts, 'UTC'), INTERVAL %d SECOND) AS moment, sink, lane, max(records) AS lane_records, max(bytes) AS lane_bytes
		FROM %s WHERE %s GROUP BY moment, sink, lane) GROUP BY moment, sink`, int64(f.grain().Seconds()), f.table("backlog"), f.during())
}

// route names a line of bytes on the wire: the regions that they went between, as far as
// they are said, and the tier that they are of, if they are of one.
func route(label string) string {
	f := strings.SplitN(label, stages, 3)
	name := "wire"
	if f[0] != "" || f[1] != "" {
		name += " " + cmp.Or(f[0], "?") + " → " + cmp.Or(f[1], "?")
	}
	if f[2] != "" {
		name += " (" + f[2] + ")"
	}
	return name
}

func (q *query) throughput(c *counts) report.Indicator {
	var lines []report.Line
	for _, stage := range []string{analytics.StageCapture, analytics.StageDeliver, analytics.StageSnapshot} {
		for _, l := range c.passed.labels() {
			s, sink, _ := strings.Cut(l, stages)
			if s != stage {
				continue
			}
			name := strings.TrimSpace(stage + " " + sink)
			lines = append(lines,
				report.Line{Label: name, Unit: report.PerSecond, Value: q.mean(c.passed[l], 1), Points: q.rate(c.passed[l], 1)},
				report.Line{Label: name + " bytes", Unit: report.BytesSecond, Value: q.mean(c.bytes[l], 1), Points: q.rate(c.bytes[l], 1)})
		}
	}
	note := ""
	if len(lines) > 0 {
		for _, l := range c.wire.labels() {
			lines = append(lines, report.Line{Label: route(l), Unit: report.BytesSecond, Value: q.mean(c.wire[l], 1), Points: q.rate(c.wire[l], 1)})
		}
		note = fmt.Sprintf("%s; at most %s over %s", lines[0].Label, report.Say(lines[0].Points.Max(), report.PerSecond), report.Span(q.step))
	}
	return made(report.Throughput, "nothing passed in this time", note, lines...)
}

package indicators

import (
	"context"
	"fmt"
	"slices"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"syncline/analytics"
	"syncline/analytics/report"
)

// query asks for one pipeline and one time. After the first failure it asks no more.
type query struct {
	frame
	ctx      context.Context
	s        *analytics.Store
	pipeline string
	err      error
}

// rows runs a SELECT whose arguments begin with the pipeline, and scans each row.
func (q *query) rows(sql string, scan func(driver.Rows) error, args ...any) {
	if q.err != nil {
		return
	}
	q.err = func() error {
		rows, err := q.s.Query(q.ctx, sql, append([]any{q.pipeline}, args...)...)
		if err != nil {
			return err
		}
		for rows.Next() {
			if err := scan(rows); err != nil {
				_ = rows.Close() // the reason is the other failure
				return fmt.Errorf("read a row of analytics: %w", err)
			}
		}
		if err := rows.Err(); err != nil {
			return fmt.Errorf("read analytics: %w", err)
		}
		return rows.Close()
	}()
}

// grid is a series per label.
type grid map[string]report.Points

// labels are sorted, so that the same rows give the same report.
func (g grid) labels() []string {
	out := make([]string, 0, len(g))
	for l := range g {
		out = append(out, l)
	}
	slices.Sort(out)
	return out
}

// set puts a value at a step of a label's series.
func (g grid) set(n int, label string, i int64, v float64) {
	if g[label] == nil {
		g[label] = make(report.Points, n)
	}
	if i >= 0 && i < int64(n) {
		g[label][i] = &v
	}
}

// sums asks for a sum per step and label.
func (q *query) sums(from, label, value string) grid {
	g := grid{}
	q.rows(fmt.Sprintf("SELECT %s AS step, toString(%s) AS label, toFloat64(%s) FROM %s WHERE %s GROUP BY step, label", q.bucket("ts"), label, value, from, q.during()), func(r driver.Rows) error {
		var i int64
		var l string
		var v float64
		if err := r.Scan(&i, &l, &v); err != nil {
			return err
		}
		g.set(q.points(), l, i, v)
		return nil
	})
	return g
}

// plus adds series step by step; a step that neither has stays without a value.
func plus(a, b report.Points) report.Points {
	out := make(report.Points, max(len(a), len(b)))
	for i := range out {
		x, y := at(a, i), at(b, i)
		switch {
		case x == nil:
			out[i] = y
		case y == nil:
			out[i] = x
		default:
			out[i] = report.Number(*x + *y)
		}
	}
	return out
}

func at(p report.Points, i int) *float64 {
	if i < len(p) {
		return p[i]
	}
	return nil
}

// all adds up the series of a grid.
func (g grid) all() report.Points {
	var out report.Points
	for _, l := range g.labels() {
		out = plus(out, g[l])
	}
	return out
}

func value(v *float64) float64 {
	if v == nil {
		return 0
	}
	return *v
}

// share divides series step by step.
func share(part, whole report.Points) report.Points {
	out := make(report.Points, len(whole))
	for i := range out {
		out[i] = report.Ratio(value(at(part, i)), value(whole[i]))
	}
	return out
}

// rate divides each step by its time.
func (q *query) rate(p report.Points, per float64) report.Points {
	out := make(report.Points, len(p))
	for i, v := range p {
		if v != nil {
			out[i] = report.Number(*v / q.seconds(i) * per)
		}
	}
	return out
}

// mean is a sum over the whole time.
func (q *query) mean(p report.Points, per float64) *float64 {
	sum := p.Sum()
	if sum == nil {
		return nil
	}
	return report.Number(*sum / q.total().Seconds() * per)
}

// filled puts 0 where others have counted: there, no row means that nothing happened.
func filled(p, seen report.Points) report.Points {
	out := make(report.Points, len(seen))
	for i := range out {
		if out[i] = at(p, i); out[i] == nil && seen[i] != nil {
			out[i] = report.Number(0)
		}
	}
	return out
}

// made completes an indicator: its value is that of its first line.
func made(id, why, note string, lines ...report.Line) report.Indicator {
	i := report.Indicator{Definition: report.Define(id), Note: note, Lines: lines}
	if len(lines) > 0 {
		i.Value = lines[0].Value
	}
	if i.Value == nil {
		i.Why, i.Note, i.Lines = why, "", []report.Line{}
	}
	return i
}

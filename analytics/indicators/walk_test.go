package indicators

import (
	"fmt"
	"sort"
	"time"

	"syncline/analytics"
	"syncline/analytics/report"
)

// plainly is what a walk over the rows finds: values by indicator and label.
type plainly struct {
	values   map[string]*float64
	points   map[string]map[int]*float64 // of some of them
	events   map[string]report.Events
	recorded int64
	spanned  int64
}

func percentile(all []uint64, p float64) *float64 {
	if len(all) == 0 {
		return nil
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	rank := 0
	for float64(rank) < float64(len(all))*p/100-1e-6 {
		rank++
	}
	return report.Number(float64(all[max(rank-1, 0)]) / 1000)
}

func part(a, b float64) *float64 {
	if b == 0 {
		return nil
	}
	return report.Number(a / b)
}

func walk(rows []analytics.Row, r *report.Report) plainly {
	out := plainly{values: map[string]*float64{}, points: map[string]map[int]*float64{}, events: map[string]report.Events{}}
	in := func(at time.Time) bool { return !at.Before(r.Since) && at.Before(r.Until) }
	within := func(at time.Time, d time.Duration) bool { return !at.Before(r.Until.Add(-d)) && at.Before(r.Until) }
	step := func(at time.Time) int { return int(at.Sub(r.Since) / r.StepTime()) }
	wire := map[string]float64{}
	var applied, dead, resent, retried, refused, delivered float64
	var any, verified, waited bool
	lag := []uint64{}
	lagAt := map[int][]uint64{}
	deadAt, appliedAt := map[int]float64{}, map[int]float64{}
	waiting := map[string]map[uint32]uint64{} // by moment and sink, then lane
	offsets := map[int64]bool{}
	low, high := int64(-1), int64(-1)
	var verdicts []*analytics.Verifications
	for _, row := range rows {
		switch x := row.(type) {
		case *analytics.Applies:
			if in(x.Time) {
				n := float64(x.Inserts + x.Updates + x.Deletes + x.Truncates)
				applied, any = applied+n, true
				appliedAt[step(x.Time)] += n
			}
		case *analytics.Lag:
			if in(x.Time) {
				for b, n := range x.Buckets {
					for range n {
						lag = append(lag, analytics.BucketMicros(b))
						lagAt[step(x.Time)] = append(lagAt[step(x.Time)], analytics.BucketMicros(b))
					}
				}
			}
		case *analytics.DeadLetters:
			if in(x.Time) {
				dead += float64(x.Count)
				deadAt[step(x.Time)] += float64(x.Count)
			}
		case *analytics.Duplicates:
			if in(x.Time) {
				resent += float64(x.Resent)
			}
		case *analytics.Backlog:
			key := fmt.Sprint(x.Time.Unix(), " ", x.Sink)
			if waiting[key] == nil {
				waiting[key] = map[uint32]uint64{}
			}
			waiting[key][x.Lane] = max(waiting[key][x.Lane], x.Records)
			waited = waited || in(x.Time)
		case *analytics.Throughput:
			if in(x.Time) {
				any = true
				if x.Sink == "copy" {
					delivered += float64(x.Changes)
				}
			}
		case *analytics.Usage:
			if in(x.Time) {
				name := "wire west → " + map[string]string{"": "?", "east": "east"}[x.Destination]
				if x.Tier != "" {
					name += " (" + x.Tier + ")"
				}
				wire[name] += float64(x.Wire)
			}
		case *analytics.Retries:
			if in(x.Time) {
				retried += float64(x.Count)
			}
		case *analytics.SecurityEvents:
			if in(x.Time) {
				refused++
			}
		case *analytics.Objectives:
			if within(x.Time, 3*time.Hour) {
				out.events["fresh"] = out.events["fresh"].Plus(report.Events{Good: x.Good, Bad: x.Bad})
			}
		case *analytics.Verifications:
			verified = verified || in(x.Time)
			verdicts = append(verdicts, x)
			if within(x.Time, 2*time.Hour) {
				e := report.Events{Bad: 1}
				if x.Verdict == analytics.Equal {
					e = report.Events{Good: 1}
				}
				out.events["same"] = out.events["same"].Plus(e)
			}
		case *analytics.Progress:
			if in(x.Time) {
				for o := x.From; o < x.To; o++ {
					offsets[o] = true
				}
				if low < 0 || x.From < low {
					low = x.From
				}
				high = max(high, x.To)
			}
		}
	}
	out.recorded, out.spanned = int64(len(offsets)), max(high-low, 0)
	out.values["lag p99"], out.values["lag p50"] = percentile(lag, 99), percentile(lag, 50)
	out.points["lag p99"], out.points["apply-errors"] = map[int]*float64{}, map[int]*float64{}
	for i, l := range lagAt {
		out.points["lag p99"][i] = percentile(l, 99)
	}
	for i := range 60 {
		out.points["apply-errors"][i] = part(deadAt[i], deadAt[i]+appliedAt[i])
	}
	out.values["apply-errors"] = part(dead, dead+applied)
	out.values["duplicates"] = part(resent, resent+applied)
	for name, n := range wire {
		out.values[name] = report.Number(n / r.Until.Sub(r.Since).Seconds())
	}
	if delivered > 0 {
		out.values["deliver copy"] = report.Number(delivered / r.Until.Sub(r.Since).Seconds())
	}
	if any || waited || retried > 0 {
		out.values["retries"] = report.Number(retried / r.Until.Sub(r.Since).Minutes())
	}
	if any || waited || refused > 0 {
		out.values["security"] = report.Number(refused)
	}
	out.walkBacklog(rows, waiting, in, within)
	out.walkVerdicts(verdicts, in, verified)
	return out
}

func (out *plainly) walkBacklog(rows []analytics.Row, waiting map[string]map[uint32]uint64, in func(time.Time) bool, within func(time.Time, time.Duration) bool) {
	most := map[time.Time]uint64{}
	for _, row := range rows {
		if x, ok := row.(*analytics.Backlog); ok {
			var sum uint64
			for _, n := range waiting[fmt.Sprint(x.Time.Unix(), " ", x.Sink)] {
				sum += n
			}
			most[x.Time] = max(most[x.Time], sum)
		}
	}
	for at, n := range most {
		if v := out.values["backlog"]; in(at) && (v == nil || *v < float64(n)) {
			out.values["backlog"] = report.Number(float64(n))
		}
		if within(at, 4*time.Hour) {
			e := report.Events{Good: 1}
			if n > 6 {
				e = report.Events{Bad: 1}
			}
			out.events["room"] = out.events["room"].Plus(e)
		}
	}
}

func (out *plainly) walkVerdicts(verdicts []*analytics.Verifications, in func(time.Time) bool, verified bool) {
	sort.Slice(verdicts, func(i, j int) bool {
		if !verdicts[i].Time.Equal(verdicts[j].Time) {
			return verdicts[i].Time.Before(verdicts[j].Time)
		}
		return verdicts[i].Run < verdicts[j].Run
	})
	newest, before := map[string]string{}, map[string]string{}
	drifted, runs := 0.0, 0.0
	for _, x := range verdicts {
		table := x.Sink + " " + x.Tab
		if in(x.Time) {
			newest[table] = x.Verdict
			runs++ // each has a run of its own
			if x.Verdict == analytics.Different && before[table] != analytics.Different {
				drifted++
			}
		}
		if x.Verdict != analytics.Inconclusive {
			before[table] = x.Verdict
		}
	}
	equal := 0.0
	for _, v := range newest {
		if v == analytics.Equal {
			equal++
		}
	}
	out.values["convergence"] = part(equal, float64(len(newest)))
	if verified {
		out.values["checks"], out.values["drift"] = report.Number(runs), report.Number(drifted)
	}
}

type failer interface{ Fatalf(string, ...any) }

func expect(t failer, r *report.Report, want plainly) {
	line := func(id, label string) (v *float64, p report.Points) {
		i := r.Indicator(id)
		for _, l := range i.Lines {
			if l.Label == label || label == "" {
				return l.Value, l.Points
			}
		}
		return nil, nil
	}
	for _, c := range []struct{ key, id, label string }{
		{"lag p99", report.Lag, "p99"}, {"lag p50", report.Lag, "p50"}, {"apply-errors", report.ApplyErrors, ""}, {"duplicates", report.Duplicates, ""},
		{"retries", report.Retries, ""}, {"security", report.Security, ""}, {"backlog", report.Backlog, "records"},
		{"convergence", report.Convergence, ""}, {"checks", report.Checks, ""}, {"drift", report.Drift, ""},
	} {
		got, points := line(c.id, c.label)
		if !near(got, want.values[c.key]) {
			t.Fatalf("%s is %s, the rows say %s", c.key, show(got), show(want.values[c.key]))
		}
		for i := range points {
			if w, checked := want.points[c.key]; checked && !near(points[i], w[i]) {
				t.Fatalf("%s at step %d is %s, the rows say %s", c.key, i, show(points[i]), show(w[i]))
			}
		}
	}
	if got, _ := line(report.Throughput, "deliver copy"); got != nil && *got > 0 && !near(got, want.values["deliver copy"]) {
		t.Fatalf("throughput is %s, the rows say %s", show(got), show(want.values["deliver copy"]))
	}
	for _, name := range []string{"wire west → east", "wire west → ?", "wire west → east (hourly)", "wire west → ? (hourly)"} {
		if got, _ := line(report.Throughput, name); got != nil && !near(got, want.values[name]) || got == nil && want.values[name] != nil && len(r.Indicator(report.Throughput).Lines) > 0 {
			t.Fatalf("%s is %s, the rows say %s", name, show(got), show(want.values[name]))
		}
	}
	for _, o := range r.Objectives {
		if o.Events != want.events[o.Name] {
			t.Fatalf("objective %s counted %+v, the rows say %+v", o.Name, o.Events, want.events[o.Name])
		}
	}
	if r.Coverage.Recorded != want.recorded || r.Coverage.Spanned != want.spanned {
		t.Fatalf("coverage %d of %d, the rows say %d of %d", r.Coverage.Recorded, r.Coverage.Spanned, want.recorded, want.spanned)
	}
}

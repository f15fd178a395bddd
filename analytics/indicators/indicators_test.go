package indicators

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"syncline/analytics"
	"syncline/analytics/report"
	"syncline/dataplane/fault"
	"syncline/pipeline"
	"syncline/testsuite/stack"
)

func testStore(t *testing.T) *analytics.Store {
	t.Helper()
	s, err := analytics.OpenStore(stack.ClickHouse(t), stack.Name(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		rows, err := s.Query(ctx, "DROP DATABASE IF EXISTS {db}")
		if err != nil {
			t.Error(err)
		} else {
			_ = rows.Close() // it has none
		}
		_ = s.Close() // the test is over
	})
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func insert(t interface{ Fatal(...any) }, s *analytics.Store, name string, rows []analytics.Row) {
	byTable := map[string][]analytics.Row{}
	for _, r := range rows {
		byTable[r.Table()] = append(byTable[r.Table()], r)
	}
	for table, rs := range byTable {
		if err := s.Insert(context.Background(), name+"/"+table, rs); err != nil {
			t.Fatal(err)
		}
	}
}

func compute(t interface{ Fatal(...any) }, s *analytics.Store, in Input) *report.Report {
	r, err := Compute(context.Background(), s, in)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// history is a pipeline's random past, with a name of its own in the store.
type history struct {
	name string
	from time.Time
	rows []analytics.Row
}

const hours = 5

// serial keeps the histories of a store apart, also while a failure is made smaller.
var serial atomic.Int64

// patience is how long random histories are tried.
const patience = 15 * time.Second

func draw(t *rapid.T, from time.Time) history {
	h := history{name: fmt.Sprintf("p-%d-it's", serial.Add(1)), from: from}
	at := func() time.Time {
		return from.Add(time.Duration(rapid.IntRange(0, hours*720-1).Draw(t, "window")) * analytics.Window)
	}
	sink := func() string { return rapid.SampledFrom([]string{"lake", "copy"}).Draw(t, "sink") }
	tab := func() string { return rapid.SampledFrom([]string{"s.a", "s.b"}).Draw(t, "tab") }
	n := func() uint64 { return uint64(rapid.IntRange(0, 9).Draw(t, "n")) }
	some := func(f func() analytics.Row) {
		for range rapid.IntRange(0, 6).Draw(t, "rows") {
			h.rows = append(h.rows, f())
		}
	}
	some(func() analytics.Row {
		return &analytics.Applies{Time: at(), Pipeline: h.name, Sink: sink(), Tab: tab(), Inserts: n(), Updates: n(), Deletes: n(), Truncates: n()}
	})
	some(func() analytics.Row {
		m := map[uint16]uint64{}
		for range rapid.IntRange(1, 3).Draw(t, "buckets") {
			m[uint16(rapid.IntRange(0, 700).Draw(t, "bucket"))] = n() + 1
		}
		return &analytics.Lag{Time: at(), Pipeline: h.name, Sink: sink(), Tab: tab(), Changes: 1, Buckets: m, SkewError: int64(n())}
	})
	some(func() analytics.Row {
		return &analytics.DeadLetters{Time: at(), Pipeline: h.name, Sink: sink(), Tab: tab(), Code: "X", Count: n()}
	})
	some(func() analytics.Row {
		return &analytics.Duplicates{Time: at(), Pipeline: h.name, Sink: sink(), Tab: tab(), Resent: n(), InLoad: n()}
	})
	some(func() analytics.Row {
		return &analytics.Backlog{Time: at(), Pipeline: h.name, Sink: sink(), Lane: uint32(rapid.IntRange(0, 1).Draw(t, "lane")), Records: n(), Bytes: 100 * n()}
	})
	some(func() analytics.Row {
		return &analytics.Throughput{Time: at(), Pipeline: h.name, Stage: analytics.StageDeliver, Sink: sink(), Changes: n(), Rows: n(), Bytes: n()}
	})
	some(func() analytics.Row {
		return &analytics.Usage{Time: at(), Pipeline: h.name, Sink: sink(), Tab: tab(), Component: "deliver", Origin: "west",
			Destination: rapid.SampledFrom([]string{"", "east"}).Draw(t, "destination"), Tier: rapid.SampledFrom([]string{"", "hourly"}).Draw(t, "tier"), Wire: n()}
	})
	some(func() analytics.Row {
		return &analytics.Retries{Time: at(), Pipeline: h.name, Component: "deliver/" + sink() + "/0", Code: "X", Count: n() + 1}
	})
	some(func() analytics.Row {
		return &analytics.SecurityEvents{Time: at(), Pipeline: h.name, Kind: analytics.SecurityTLS}
	})
	some(func() analytics.Row {
		return &analytics.Objectives{Time: at(), Pipeline: h.name, Objective: "fresh", Good: n(), Bad: n()}
	})
	run := 0
	some(func() analytics.Row {
		run++ // verdicts of one moment have an order then
		return &analytics.Verifications{Time: at(), Pipeline: h.name, Sink: sink(), Tab: tab(), Run: fmt.Sprintf("r%04d", run), Kind: "check",
			Verdict: rapid.SampledFrom([]string{analytics.Equal, analytics.Different, analytics.Inconclusive}).Draw(t, "verdict")}
	})
	offset := int64(1)
	some(func() analytics.Row {
		lo := offset + int64(rapid.IntRange(-1, 2).Draw(t, "gap"))
		offset = max(offset, lo) + int64(n())
		return &analytics.Progress{Time: at(), Pipeline: h.name, Sink: "copy", Tab: "s.a", From: lo, To: max(lo, offset)}
	})
	return h
}

func near(a, b *float64) bool {
	if a == nil || b == nil {
		return a == b
	}
	return math.Abs(*a-*b) <= 1e-9*max(1, math.Abs(*a))
}

func show(v *float64) string {
	if v == nil {
		return "none"
	}
	return fmt.Sprint(*v)
}

// Whatever was recorded, the report says what a plain walk over the rows says.
func TestReportAgreesWithTheRows(t *testing.T) {
	s := testStore(t)
	from := time.Now().UTC().Truncate(time.Hour).Add(-2 * hours * time.Hour)
	objectives := []pipeline.Objective{
		{Name: "fresh", Indicator: pipeline.ObjectiveLag, Target: 900000, Period: pipeline.Duration(3 * time.Hour)},
		{Name: "same", Indicator: pipeline.ObjectiveConvergence, Target: 900000, Period: pipeline.Duration(2 * time.Hour)},
		{Name: "room", Indicator: pipeline.ObjectiveBacklog, AtMost: 6, Target: 900000, Period: pipeline.Duration(4 * time.Hour)},
	}
	began := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		if time.Since(began) > patience {
			return
		}
		h := draw(t, from)
		insert(t, s, h.name, h.rows)
		lo := time.Duration(rapid.IntRange(0, hours*720-2).Draw(t, "since")) * analytics.Window
		hi := time.Duration(rapid.IntRange(int(lo/analytics.Window)+1, hours*720).Draw(t, "until")) * analytics.Window
		in := Input{Pipeline: h.name, Since: from.Add(lo), Until: from.Add(hi), Now: from.Add(hours * time.Hour), Objectives: objectives}
		r := compute(t, s, in)
		if n := len(r.Indicators[0].Lines); n > 0 && len(r.Indicators[0].Lines[0].Points) > maxPoints {
			t.Fatalf("%d points", len(r.Indicators[0].Lines[0].Points))
		}
		expect(t, r, walk(h.rows, r))
	})
}

// By hour the sums are those of the windows; of a backlog it is an upper bound.
func TestHoursAgreeWithWindows(t *testing.T) {
	s := testStore(t)
	from := time.Now().UTC().Truncate(time.Hour).Add(-2 * hours * time.Hour)
	began := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		if time.Since(began) > patience {
			return
		}
		h := draw(t, from)
		insert(t, s, h.name, h.rows)
		in := Input{Pipeline: h.name, Since: from, Until: from.Add(hours * time.Hour), Now: from.Add(hours * time.Hour)}
		windows := compute(t, s, in)
		in.Now = from.AddDate(0, 0, analytics.KeepWindows+2)
		byHour := compute(t, s, in)
		if windows.Hourly || !byHour.Hourly {
			t.Fatalf("hourly: %v and %v", windows.Hourly, byHour.Hourly)
		}
		for i, w := range windows.Indicators {
			b := byHour.Indicators[i]
			if w.ID == report.Backlog {
				if w.Value != nil && (b.Value == nil || *b.Value < *w.Value) {
					t.Fatalf("backlog %s by hour, %s by window", show(b.Value), show(w.Value))
				}
				continue
			}
			if len(w.Lines) != len(b.Lines) || w.Why != b.Why {
				t.Fatalf("%s: %d lines (%s) by hour, %d (%s) by window", w.ID, len(b.Lines), b.Why, len(w.Lines), w.Why)
			}
			for n := range w.Lines {
				if w.Lines[n].Label != b.Lines[n].Label || !near(w.Lines[n].Value, b.Lines[n].Value) {
					t.Fatalf("%s %s is %s by hour, %s by window", w.ID, b.Lines[n].Label, show(b.Lines[n].Value), show(w.Lines[n].Value))
				}
			}
		}
	})
}

// Of a pipeline of which nothing is known nothing is said.
func TestNothingRecorded(t *testing.T) {
	s := testStore(t)
	now := time.Now()
	in := Input{Pipeline: "nobody", Since: now.Add(-time.Hour), Now: now, Objectives: []pipeline.Objective{
		{Name: "fresh", Indicator: pipeline.ObjectiveLag, Target: 999000, Period: pipeline.Duration(30 * 24 * time.Hour)},
		{Name: "same", Indicator: pipeline.ObjectiveConvergence, Target: 999000, Period: pipeline.Duration(time.Hour)},
	}}
	for _, since := range []time.Time{in.Since, now.AddDate(0, 0, -100)} {
		in.Since = since
		r := compute(t, s, in)
		if len(r.Indicators) != 10 {
			t.Fatalf("%d indicators", len(r.Indicators))
		}
		for i, ind := range r.Indicators {
			if ind.ID != report.Definitions[i].ID || ind.Value != nil || ind.Why == "" || len(ind.Lines) != 0 {
				t.Errorf("%+v", ind)
			}
		}
		for _, o := range r.Objectives {
			if o.State != report.Unknown || o.Achieved != nil || o.Left != nil || o.Why == "" {
				t.Errorf("%+v", o)
			}
		}
		if r.Coverage.Share != nil || r.Coverage.Why == "" {
			t.Errorf("%+v", r.Coverage)
		}
	}
	in.Since, in.Objectives = time.Unix(0, 0), nil
	if r := compute(t, s, in); r.Since.Before(now.AddDate(0, 0, -analytics.KeepHours-1)) {
		t.Errorf("the report begins %s, before anything is kept", r.Since)
	}
	in.Objectives = []pipeline.Objective{{Name: "all", Indicator: pipeline.ObjectiveLag, Target: 1000000, Period: pipeline.Duration(time.Hour)}}
	if _, err := Compute(t.Context(), s, in); !fault.Is(err, CodeObjective) {
		t.Errorf("a target without a budget: %v", err)
	}
	for _, bad := range []Input{{Pipeline: "p", Since: time.Time{}, Until: time.Unix(0, 0), Now: now}, {Pipeline: "p", Since: now, Now: now}, {Pipeline: "p", Since: now.Add(time.Hour), Now: now}, {Pipeline: "p", Since: now.Add(-time.Hour), Until: now.Add(-2 * time.Hour), Now: now}} {
		if _, err := Compute(t.Context(), s, bad); !fault.Is(err, CodePeriod) {
			t.Errorf("an empty time: %v", err)
		}
	}
}

// A gate is an incident, and drift that goes on is one incident, also when the
// first verdict of it is older than the report.
func TestDrift(t *testing.T) {
	s := testStore(t)
	now := time.Now().UTC().Truncate(time.Minute)
	v := func(ago time.Duration, run, verdict string) analytics.Row {
		return &analytics.Verifications{Time: now.Add(-ago), Pipeline: "p", Sink: "s", Tab: "t", Run: run, Kind: "audit", Verdict: verdict}
	}
	insert(t, s, "a", []analytics.Row{
		v(5*time.Hour, "1", analytics.Different), v(50*time.Minute, "2", analytics.Different),
		v(40*time.Minute, "3", analytics.Inconclusive), v(30*time.Minute, "4", analytics.Different),
		v(20*time.Minute, "5", analytics.Equal), v(10*time.Minute, "6", analytics.Different),
		&analytics.Errors{Time: now.Add(-time.Minute), Pipeline: "p", Component: "deliver/s/0", Code: schemaGate},
		&analytics.Errors{Time: now.Add(-time.Minute), Pipeline: "p", Component: "deliver/s/0", Code: "Other"},
	})
	r := compute(t, s, Input{Pipeline: "p", Since: now.Add(-time.Hour), Now: now})
	if d := r.Indicator(report.Drift); d.Value == nil || *d.Value != 2 {
		t.Errorf("within the hour: %s", show(d.Value))
	}
	r = compute(t, s, Input{Pipeline: "p", Since: now.Add(-6 * time.Hour), Now: now})
	if d := r.Indicator(report.Drift); d.Value == nil || *d.Value != 3 {
		t.Errorf("within six hours: %s", show(d.Value))
	}
	if c := r.Indicator(report.Convergence); *c.Value != 0 || c.Note != "tables: 0 equal, 1 different, 0 inconclusive" {
		t.Errorf("%v %s", *c.Value, c.Note)
	}
}

func TestFrames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_800_000_000, 0)
		ago := time.Duration(rapid.Int64Range(1, int64(399*24*time.Hour)).Draw(t, "ago"))
		f := newFrame(now.Add(-ago), now.Add(-time.Duration(rapid.Int64Range(0, int64(ago)-1).Draw(t, "end"))), now, false)
		var sum float64
		for i := range f.points() {
			if f.seconds(i) <= 0 {
				t.Fatalf("step %d of %+v lasts %v s", i, f, f.seconds(i))
			}
			sum += f.seconds(i)
		}
		if f.points() < 1 || f.points() > maxPoints || f.step%f.grain() != 0 || math.Abs(sum-f.total().Seconds()) > 1e-6 {
			t.Fatalf("%d points of %s in %s", f.points(), f.step, f.total())
		}
	})
}

// What happened within the second in which the report is asked for is in it.
func TestLastSecond(t *testing.T) {
	s := testStore(t)
	end := time.Now().UTC().Truncate(time.Second).Add(999 * time.Millisecond)
	v := &analytics.Verifications{Time: end.Add(-time.Millisecond), Pipeline: "shop", Sink: "a", Tab: "t", Run: "R", Kind: "check", Verdict: analytics.Different}
	if err := s.Insert(t.Context(), "R", []analytics.Row{v}); err != nil {
		t.Fatal(err)
	}
	r, err := Compute(t.Context(), s, Input{Pipeline: "shop", Since: end.Add(-time.Minute), Now: end})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range r.Indicators {
		switch i.ID {
		case report.Convergence, report.Checks, report.Drift:
			if i.Why != "" {
				t.Errorf("%s: %s", i.ID, i.Why)
			}
		}
	}
}

// The standing is that of the newest verdict of each table, and a difference holds
// until a verdict says equal.
func TestStand(t *testing.T) {
	s := testStore(t)
	at := time.Now().UTC().Add(-time.Hour)
	n, kind := 0, analytics.KindFull
	say := func(tab, verdict string) {
		n++
		at = at.Add(time.Second)
		v := &analytics.Verifications{Time: at, Pipeline: "shop", Sink: "a", Tab: tab, Run: fmt.Sprintf("r%03d", n), Kind: kind, Verdict: verdict}
		insert(t, s, v.Run, []analytics.Row{v})
	}
	rotate := func(secret, result string) {
		n++
		at = at.Add(time.Second)
		insert(t, s, fmt.Sprint(n), []analytics.Row{&analytics.Rotations{Time: at, Secret: secret, Run: fmt.Sprintf("r%03d", n), Step: analytics.RotationEnd, Result: result}})
	}
	expect := func(equal, different, inconclusive, failed int) {
		t.Helper()
		st, err := Stand(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		want := Verdicts{"shop", "a", equal, different, inconclusive}
		if len(st.Verdicts) != 1 || st.Verdicts[0] != want || st.FailedRotations != failed {
			t.Errorf("%+v, want %+v and %d", st, want, failed)
		}
	}
	say("x", analytics.Equal)
	say("y", analytics.Different)
	expect(1, 1, 0, 0)
	say("y", analytics.Inconclusive)
	say("z", analytics.Inconclusive)
	rotate("one", analytics.RotationFailed)
	rotate("two", analytics.RotationOK)
	expect(1, 1, 2, 1)
	say("y", analytics.Equal)
	rotate("one", analytics.RotationOK)
	rotate("two", analytics.RotationCompensated) // as before, and not rotated
	expect(2, 0, 1, 1)
	// What is said of changed keys is said of the table only if it differs.
	kind = analytics.KindChanged
	say("y", analytics.Different)
	say("y", analytics.Equal)
	say("x", analytics.Inconclusive)
	expect(1, 1, 1, 1)
	kind = analytics.KindFull
	say("y", analytics.Equal)
	expect(2, 0, 1, 1)
	// What was said of rows that are gone is over.
	did := func(action, object string) {
		n++
		at = at.Add(time.Second)
		insert(t, s, fmt.Sprint(n), []analytics.Row{&analytics.AuditTrail{Time: at, Pipeline: "shop", Action: action, Object: object}})
	}
	did("ResetTable", "a z")
	expect(2, 0, 0, 1)
	say("z", analytics.Different)
	did("FinishLoad", "a z")
	expect(2, 1, 0, 1)
	did("ForgetSink", "a")
	say("x", analytics.Equal)
	expect(1, 0, 0, 1)
	// Of budgets the newest look counts, if it is no older than a few hours.
	now := time.Now().UTC()
	insert(t, s, "budgets", []analytics.Row{
		&analytics.Budgets{Time: now.Add(-2 * time.Hour), Pipeline: "shop", Standing: "within", Amount: 10, Spent: 4},
		&analytics.Budgets{Time: now.Add(-time.Hour), Pipeline: "shop", Standing: "over", Amount: 10, Spent: 15},
		&analytics.Budgets{Time: now.Add(-4 * time.Hour), Pipeline: "gone", Standing: "over", Amount: 10, Spent: 15},
	})
	st, err := Stand(t.Context(), s)
	if err != nil || len(st.Budgets) != 1 || st.Budgets[0] != (Budget{"shop", "over", 1.5}) || !st.Priced.IsZero() {
		t.Errorf("%+v, %v", st, err)
	}
	// Pricing the past anew does not make up for the hours that nobody prices.
	for i, p := range []struct{ at, hour time.Duration }{{5 * time.Hour, 6 * time.Hour}, {4 * time.Hour, 5 * time.Hour}, {time.Hour, 9 * time.Hour}} {
		insert(t, s, fmt.Sprint("pricing ", i), []analytics.Row{&analytics.Pricings{Time: now.Add(-p.at), Hour: now.Add(-p.hour).Truncate(time.Hour)}})
	}
	if st, err = Stand(t.Context(), s); err != nil || !st.Priced.Equal(now.Add(-4*time.Hour).Truncate(time.Millisecond)) {
		t.Errorf("%+v, %v", st, err)
	}
}

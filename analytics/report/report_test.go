package report

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"syncline/pipeline"
)

// What burns and what is left are two sides of one budget, and only a target that
// is met leaves some of it.
func TestBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := Events{Good: rapid.Uint64Range(0, 1e9).Draw(t, "good"), Bad: rapid.Uint64Range(0, 1e9).Draw(t, "bad")}
		o := pipeline.Objective{Name: "x", Indicator: pipeline.ObjectiveApplyErrors, Target: pipeline.Ratio(rapid.Int64Range(1, 999999).Draw(t, "target")), Period: pipeline.Duration(time.Hour)}
		target := o.Target.Share()
		j := Judge(o, e, e, e)
		if e.Good+e.Bad == 0 {
			if j.State != Unknown || j.Achieved != nil || j.Left != nil || j.BurnShort != nil || j.Why == "" {
				t.Fatalf("of nothing: %+v", j)
			}
			return
		}
		if *j.Left > 1 || *j.BurnPeriod < 0 || math.Abs(1-*j.BurnPeriod-*j.Left) > 1e-9 {
			t.Fatalf("burnt %v, left %v", *j.BurnPeriod, *j.Left)
		}
		if margin := *j.Achieved - target; math.Abs(margin) > 1e-9 && (margin > 0) != (*j.Left > 0) {
			t.Fatalf("achieved %v of %v, and %v of the budget is left", *j.Achieved, target, *j.Left)
		}
		if (j.State == Broken) != (*j.Left < 0) || j.State == Burning {
			t.Fatalf("%s with %v left", j.State, *j.Left)
		}
		if worse := (Events{e.Good, e.Bad + 1}); *worse.Left(target) > *j.Left {
			t.Fatalf("another bad event leaves more: %v, %v before", *worse.Left(target), *j.Left)
		}
		more := Events{Good: rapid.Uint64Range(0, 1e9).Draw(t, "more"), Bad: 0}
		if sum := e.Plus(more); *sum.Left(target) < *j.Left-1e-9 {
			t.Fatalf("good events cost budget")
		}
	})
}

func TestStates(t *testing.T) {
	o := pipeline.Objective{Name: "x", Indicator: pipeline.ObjectiveLag, Within: pipeline.Duration(time.Second), Target: 990000, Period: pipeline.Duration(24 * time.Hour)}
	good, bad := Events{Good: 1000}, Events{Good: 98, Bad: 2}
	for _, c := range []struct {
		period, long, short Events
		want                State
	}{
		{good, good, good, Kept},
		{Events{}, Events{}, Events{}, Unknown},
		{good, bad, good, Kept},
		{good, good, bad, Kept},
		{good, bad, bad, Burning},
		{bad, good, good, Broken},
		{good, Events{}, Events{}, Kept},
	} {
		if j := Judge(o, c.period, c.long, c.short); j.State != c.want {
			t.Errorf("%+v is %s, want %s", c, j.State, c.want)
		}
	}
	if j := Judge(o, good, bad, good); *j.BurnLong < 1.99 || *j.BurnLong > 2.01 || j.Promise != "99% of changes arrive within 1s, over 1d" {
		t.Errorf("%v %s", *j.BurnLong, j.Promise)
	}
}

func TestWords(t *testing.T) {
	for _, c := range []struct {
		v    float64
		u    Unit
		want string
	}{
		{0, Millis, "0 ms"}, {0.4213, Millis, "0.42 ms"}, {12.34, Millis, "12.3 ms"}, {987.6, Millis, "988 ms"}, {1500, Millis, "1.5 s"}, {90e3, Millis, "1.5 min"}, {7200e3, Millis, "2 h"},
		{0, Share, "0%"}, {1, Share, "100%"}, {0.999, Share, "99.9%"}, {0.999999, Share, "99.9999%"}, {0.0000012, Share, "0.0001%"}, {0.123456, Share, "12.35%"},
		{0, Count, "0"}, {1234, Count, "1234"}, {12345, Count, "12.3k"}, {4.56e6, Records, "4.56M"}, {0.001, PerMinute, "<0.01/min"}, {2.345, PerSecond, "2.35/s"},
		{1536, Bytes, "1.5 KiB"}, {10, BytesSecond, "10 B/s"}, {3e13, Bytes, "27.3 TiB"},
	} {
		if got := Say(&c.v, c.u); got != c.want {
			t.Errorf("%v %s is %q, want %q", c.v, c.u, got, c.want)
		}
	}
	if Say(nil, Share) != "-" || Burn(nil) != "-" || Burn(Number(14.4)) != "14.4×" || Whole(1234567) != "1 234 567" || Span(36*time.Hour) != "1d12h" || Span(0) != "0s" {
		t.Error("words of nothing, burn rates, counts or times")
	}
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.Float64Range(0, 1).Draw(t, "share")
		if s := Percent(f); s == "0%" && f >= 1e-8 || s == "100%" && f <= 1-1e-8 {
			t.Fatalf("%v is called %s", f, s)
		}
	})
}

func TestSpark(t *testing.T) {
	n := Number
	if got := Spark(Points{n(0), n(1), nil, n(8)}, 10, Lower, Plain); got != "_. #" {
		t.Errorf("%q", got)
	}
	if Spark(nil, 10, Lower, Plain) != "" || Spark(Points{n(0)}, 10, Lower, Blocks) != "▁" {
		t.Error("of nothing")
	}
	rapid.Check(t, func(t *rapid.T) {
		var p Points
		for _, f := range rapid.SliceOf(rapid.Float64Range(-1, 1e12)).Draw(t, "points") {
			p = append(p, n(f))
		}
		width := rapid.IntRange(1, 70).Draw(t, "width")
		if got := utf8.RuneCountInString(Spark(p, width, Lower, Blocks)); got != min(len(p), width) {
			t.Fatalf("%d characters for %d points in %d", got, len(p), width)
		}
		if len(p) == 0 {
			return
		}
		if low, high := p.Narrow(width, Higher), p.Narrow(width, Lower); *low.Min() != *p.Min() || *high.Max() != *p.Max() {
			t.Fatal("the worst point is not shown")
		}
	})
}

func TestDefinitions(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range Definitions {
		if d.ID == "" || d.Title == "" || !strings.HasSuffix(d.Text, ".") || d.Unit == "" || d.Better != Lower && d.Better != Higher || seen[d.ID] {
			t.Errorf("%+v", d)
		}
		seen[d.ID] = true
		if Define(d.ID) != d {
			t.Errorf("%s is not found", d.ID)
		}
	}
	if len(seen) != 10 {
		t.Errorf("%d indicators", len(seen))
	}
	r := Report{Indicators: []Indicator{{Definition: Define(Lag), Lines: []Line{{Points: Points{nil, Number(2)}}}}}}
	data, err := json.Marshal(r)
	var back Report
	if err != nil || json.Unmarshal(data, &back) != nil || !reflect.DeepEqual(r, back) || back.Indicator(Lag) == nil || back.Indicator("x") != nil {
		t.Errorf("%v\n%s", err, data)
	}
}

package page

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"flag"
	"io"
	"math"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"syncline/analytics/report"
	"syncline/pipeline"
)

var update = flag.Bool("update", false, "write the golden files again")

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what is written now (fix: go test ./starter/page -update, and look at it)", file)
	}
}

// sample is a day of a pipeline with two sinks: an incident in the evening, an
// hour that nobody recorded, and no verification.
func sample() *report.Report {
	const n = 24
	r := &report.Report{
		Pipeline: "shop", At: time.Date(2026, 3, 14, 15, 0, 20, 0, time.UTC), Since: time.Date(2026, 3, 13, 15, 0, 0, 0, time.UTC), Until: time.Date(2026, 3, 14, 15, 0, 0, 0, time.UTC), Step: 3600,
	}
	wave := func(base, swing, incident float64) report.Points {
		p := make(report.Points, n)
		for i := range p {
			if i == 15 {
				continue
			}
			v := base + swing*math.Sin(float64(i)/5) + swing/3*math.Sin(float64(i)*1.7)
			if i == 6 || i == 7 {
				v += incident
			}
			p[i] = report.Number(math.Round(max(v, 0)*1e7) / 1e7)
		}
		return p
	}
	add := func(id, note string, lines ...report.Line) {
		i := report.Indicator{Definition: report.Define(id), Note: note, Lines: lines}
		if len(lines) > 0 {
			i.Value = lines[0].Value
		}
		r.Indicators = append(r.Indicators, i)
	}
	line := func(label string, u report.Unit, v float64, p report.Points) report.Line {
		return report.Line{Label: label, Unit: u, Value: report.Number(v), Points: p}
	}
	add(report.Lag, "corrected by the clocks' difference, 1.2 ms to 1.9 ms ±0.4 ms",
		line("p99", report.Millis, 212, wave(80, 30, 900)), line("p95", report.Millis, 64, wave(40, 14, 300)), line("p50", report.Millis, 12.4, wave(12, 3, 25)),
		line("analytics p99", report.Millis, 240, wave(95, 25, 930)), line("analytics p95", report.Millis, 71, wave(45, 12, 310)), line("analytics p50", report.Millis, 14.1, wave(14, 3, 28)),
		line("warehouse p99", report.Millis, 96, wave(60, 20, 120)), line("warehouse p95", report.Millis, 41, wave(30, 9, 60)), line("warehouse p50", report.Millis, 9.8, wave(9, 2, 12)))
	r.Indicators = append(r.Indicators, report.Indicator{Definition: report.Define(report.Convergence), Why: "no verification has run in this time", Lines: []report.Line{}})
	zero := wave(0, 0, 0)
	few := wave(0, 0, 0.00004)
	add(report.ApplyErrors, "37 dead of 41 208 114 changes", line("all sinks", report.Share, 37.0/41208114, few), line("analytics", report.Share, 37.0/20604057, few), line("warehouse", report.Share, 0, zero))
	r.Indicators = append(r.Indicators, report.Indicator{Definition: report.Define(report.Checks), Why: "no verification has run in this time", Lines: []report.Line{}})
	add(report.Duplicates, "1 204 resent of 41 209 318 changes", line("all sinks", report.Share, 1204.0/41209318, wave(0, 0, 0.0004)), line("analytics", report.Share, 602.0/20604659, wave(0, 0, 0.0004)), line("warehouse", report.Share, 602.0/20604659, wave(0, 0, 0.0004)))
	r.Indicators = append(r.Indicators, report.Indicator{Definition: report.Define(report.Drift), Why: "no verification has run in this time", Lines: []report.Line{}})
	records, size := wave(120, 80, 190000), wave(41000, 20000, 61e6)
	add(report.Backlog, "143 at the end", line("records", report.Records, *records.Max(), records), line("bytes", report.Bytes, *size.Max(), size))
	add(report.Throughput, "capture; at most 655/s over 1h", line("capture", report.PerSecond, 477, wave(480, 150, -120)), line("capture bytes", report.BytesSecond, 161000, wave(160000, 50000, -40000)),
		line("deliver analytics", report.PerSecond, 238, wave(240, 75, -60)), line("deliver analytics bytes", report.BytesSecond, 90000, wave(90000, 26000, -20000)),
		line("deliver warehouse", report.PerSecond, 238, wave(240, 75, -60)), line("deliver warehouse bytes", report.BytesSecond, 120000, wave(120000, 30000, -20000)))
	add(report.Retries, "212 retries", line("all components", report.PerMinute, 212.0/1440, wave(0, 0, 2.35)))
	add(report.Security, "", line("all kinds", report.Count, 0, zero))
	objective := func(o pipeline.Objective, period, long, short report.Events, p report.Points) {
		j := report.Judge(o, period, long, short)
		if j.Points = p; p == nil {
			j.Points = make(report.Points, n)
		}
		r.Objectives = append(r.Objectives, j)
	}
	month := pipeline.Duration(30 * 24 * time.Hour)
	good := make(report.Points, n)
	for i := range good {
		if good[i] = report.Number(1); i == 6 || i == 7 {
			good[i] = report.Number(0.982)
		}
	}
	objective(pipeline.Objective{Name: "fresh", Indicator: pipeline.ObjectiveLag, Within: pipeline.Duration(500 * time.Millisecond), Target: 999000, Period: month},
		report.Events{Good: 1_100_412_998, Bad: 731_004}, report.Events{Good: 10_300_000, Bad: 1200}, report.Events{Good: 1_700_000, Bad: 12}, good)
	objective(pipeline.Objective{Name: "apply-errors", Indicator: pipeline.ObjectiveApplyErrors, Target: 999999, Period: month},
		report.Events{Good: 1_100_412_998, Bad: 3037}, report.Events{Good: 10_300_000}, report.Events{Good: 1_700_000}, good)
	objective(pipeline.Objective{Name: "convergence", Indicator: pipeline.ObjectiveConvergence, Target: 990000, Period: month}, report.Events{}, report.Events{}, report.Events{}, nil)
	r.Coverage = report.Coverage{Recorded: 40_987_112, Spanned: 41_208_151, Share: report.Number(40987112.0 / 41208151), Sinks: []report.SinkCoverage{{Sink: "analytics", Recorded: 20_383_036, Spanned: 20_604_075}, {Sink: "warehouse", Recorded: 20_604_076, Spanned: 20_604_076}}}
	return r
}

// empty is the report on a pipeline of which nothing is known.
func empty() *report.Report {
	r := &report.Report{Pipeline: "new", At: time.Unix(1_800_000_000, 0), Since: time.Unix(1_800_000_000-3600, 0), Until: time.Unix(1_800_000_000, 0), Step: 60, Coverage: report.Coverage{Why: "no record of the log was recorded in this time"}}
	for _, d := range report.Definitions {
		r.Indicators = append(r.Indicators, report.Indicator{Definition: d, Why: "nothing was recorded in this time"})
	}
	return r
}

func written(t testing.TB, r *report.Report) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestPage(t *testing.T) {
	data, err := json.MarshalIndent(sample(), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/report.json", append(data, '\n'))
	golden(t, "testdata/report.html", written(t, sample()))
	golden(t, "testdata/empty.html", written(t, empty()))
}

var (
	reference = regexp.MustCompile(`(?i)(src|href|action|data|poster|srcset)\s*=|url\(|@import|<script|<link|<iframe|https?://`)
	drawing   = regexp.MustCompile(`(?s)<svg.*?</svg>`)
	number    = regexp.MustCompile(`(?i)nan|[+-]inf`)
)

// The page asks nothing of the network, and whatever is in the report stays text.
func TestPageStandsAlone(t *testing.T) {
	r := sample()
	evil := `"><script src=https://x.example/></script>'{{`
	r.Pipeline, r.Indicators[0].Note, r.Objectives[0].Promise, r.Indicators[0].Lines[0].Label = evil, evil, evil, evil
	for name, page := range map[string][]byte{"sample": written(t, sample()), "empty": written(t, empty())} {
		if m := reference.Find(page); m != nil {
			t.Errorf("%s: the page has %q", name, m)
		}
	}
	if page := written(t, r); bytes.Contains(page, []byte("<script")) {
		t.Error("a name became markup")
	}
}

// Whatever the numbers are, drawings are well formed and inside their frame.
func TestDrawings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := sample()
		r.Objectives, r.Indicators = nil, r.Indicators[:1]
		n := rapid.IntRange(0, 60).Draw(t, "n")
		units := []report.Unit{report.Millis, report.Share, report.Bytes, report.PerSecond}
		lines := []report.Line{}
		for range rapid.IntRange(1, 9).Draw(t, "lines") {
			l := report.Line{Label: rapid.StringMatching(`[ -~ü]*`).Draw(t, "label"), Unit: rapid.SampledFrom(units).Draw(t, "unit"), Points: make(report.Points, n)}
			for i := range l.Points {
				if rapid.Bool().Draw(t, "measured") {
					top := 1e15
					if l.Unit == report.Share {
						top = 1
					}
					l.Points[i] = report.Number(rapid.Float64Range(0, top).Draw(t, "v"))
				}
			}
			lines = append(lines, l)
		}
		r.Indicators[0].Lines, r.Indicators[0].Value = lines, report.Number(1)
		r.Step = int64(rapid.SampledFrom([]int{5, 60, 3600, 86400}).Draw(t, "step"))
		r.Since = r.Until.Add(-time.Duration(max(n, 1)) * r.StepTime())
		var b bytes.Buffer
		if err := Write(&b, r); err != nil {
			t.Fatal(err)
		}
		for _, svg := range drawing.FindAllString(b.String(), -1) {
			for d := xml.NewDecoder(strings.NewReader(svg)); ; {
				if _, err := d.Token(); err == io.EOF {
					break
				} else if err != nil {
					t.Fatalf("%v in %s", err, svg)
				}
			}
		}
		for _, c := range modelOf(r).Indicators[0].Charts {
			if len(c.Times) > mostTimes+1 {
				t.Fatalf("%d times below", len(c.Times))
			}
			for _, k := range c.Curves {
				for _, p := range append(k.Pieces, k.Areas...) {
					if number.MatchString(p) {
						t.Fatalf("no numbers: %s", p)
					}
				}
				for _, d := range k.Dots {
					if d.X < left || d.X > Width-right || d.Y < top-.1 || d.Y > Height-bottom {
						t.Fatalf("%+v is outside", d)
					}
				}
			}
		}
	})
}

func TestScales(t *testing.T) {
	for _, c := range []struct {
		most float64
		u    report.Unit
		want float64
	}{{0, report.Count, 1}, {1, report.Count, 1}, {7, report.Records, 8}, {212, report.Millis, 400}, {0.00004, report.Share, 0.00004}, {0.97, report.Share, 1}, {128e3, report.Millis, 4 * 60e3}, {3000, report.Bytes, 4096}, {1023, report.Bytes, 2000}} {
		if got := ceil(c.most, c.u); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("the scale of %v %s ends at %v, want %v", c.most, c.u, got, c.want)
		}
	}
}

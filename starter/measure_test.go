package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/analytics/report"
)

func TestReport(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	lag := report.Points{report.Number(3), nil, report.Number(7)}
	s.fakes.measured = report.Report{Step: 60, Indicators: []report.Indicator{
		{Definition: report.Define(report.Lag), Value: report.Number(7), Lines: []report.Line{{Label: "p99", Unit: report.Millis, Value: report.Number(7), Points: lag}}},
		{Definition: report.Define(report.Convergence), Why: "no verification has run in this time"},
	}}
	s.file = write(t, "shop.yaml", declaration(s.name)+"objectives: [{name: fresh, indicator: lag, within: 500ms, target: 99%}]\n")
	s.starter("report", s.name).exits(exitFailed).says(`no pipeline is called "` + s.name + `"`)
	s.starter("apply", s.file).exits(exitOK)

	r := s.starter("report", s.name, "--since", "2026-01-31T08:00", "--until", "2026-01-31T09:00:00Z").exits(exitOK).
		says(s.name+" from 2026-01-31 08:00 until 2026-01-31 09:00 UTC (1h)", "Replication lag, p99", "7 ms", "~ #", "no verification has run", "fresh", "kept", "99.9%", "90%")
	if strings.Contains(r.out, "█") || strings.Contains(r.out, "\x1b") {
		t.Errorf("blocks or colour without a terminal: %s", r.out)
	}
	page := filepath.Join(t.TempDir(), "shop.html")
	var rep report.Report
	s.starter("report", s.name, "--json", "--html", page).exits(exitOK).object(&rep)
	if span := rep.Until.Sub(rep.Since); span < 24*time.Hour-time.Second || span > 24*time.Hour+time.Second || rep.Indicator(report.Lag) == nil || len(rep.Objectives) != 1 || rep.Objectives[0].Name != "fresh" {
		t.Errorf("over %s: %+v", span, rep)
	}
	text, err := os.ReadFile(page)
	if err != nil || !strings.Contains(string(text), "<title>"+s.name) || !strings.Contains(string(text), "</html>") {
		t.Errorf("%v: %s", err, text)
	}
	s.starter("report", s.name, "--html", page).exits(exitOK).says("the page is in " + page)

	s.fakes.set(contract.MeasureActivity, temporal.NewNonRetryableApplicationError("AnalyticsOff: analytics is not configured (fix: set SYNCLINE_ANALYTICS on the workers)", "AnalyticsOff", nil))
	lost := filepath.Join(t.TempDir(), "lost.html")
	s.starter("report", s.name, "--html", lost).exits(exitFailed).says("analytics is not configured", "set SYNCLINE_ANALYTICS on the workers")
	if left, err := os.ReadDir(filepath.Dir(lost)); err != nil || len(left) != 0 {
		t.Errorf("a report that failed left %v: %v", left, err)
	}
	var f failure
	s.starter("report", s.name, "--json").exits(exitFailed).object(&f)
	if f.Code != "AnalyticsOff" {
		t.Errorf("%+v", f)
	}
	s.fakes.set(contract.MeasureActivity, nil)
	s.starter("destroy", s.name, "--yes").exits(exitOK)
	s.starter("report", s.name).exits(exitOK).says("fresh") // what was recorded outlives the pipeline
}

// Wrong input is named before anything is asked of Temporal.
func TestReportInput(t *testing.T) {
	folder := t.TempDir()
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "report takes one pipeline name, not 0 arguments"},
		{[]string{"a", "--since", "yesterday"}, `--since is "yesterday", which is no time (fix: `},
		{[]string{"a", "--until", "24"}, `--until is "24", which is no time`},
		{[]string{"a", "--since", "1h", "--until", "2h"}, "--since 1h is not before --until 2h (fix: exchange them"},
		{[]string{"a", "--since", "2026-01-02", "--until", "2026-01-01"}, "--since 2026-01-02 is not before --until 2026-01-01"},
		{[]string{"a", "--since", "2999-01-01"}, "--since 2999-01-01 is in the future"},
		{[]string{"a", "--html", folder}, "is a folder (fix: name a file in it)"},
		{[]string{"a", "--html", filepath.Join(folder, "missing", "x.html")}, "cannot be written: "},
		{[]string{"a", "--html", "/proc/x.html"}, "cannot be written: "},
		{[]string{"a", "--timeout", "0s"}, "want at least 1s"},
	} {
		starter(t, append([]string{"report"}, c.args...)...).exits(exitInvalid).says(c.want)
	}
	now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"90m": now.Add(-90 * time.Minute), "7d": now.AddDate(0, 0, -7), "2026-01-31": time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC),
		"2026-01-31T08:00:00+01:00": time.Date(2026, 1, 31, 7, 0, 0, 0, time.UTC),
	} {
		if got, err := moment("--since", text, now); err != nil || !got.Equal(want) {
			t.Errorf("%s is %s: %v", text, got, err)
		}
	}
}

package view

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"syncline/analytics/report"
)

// sampleReport is the report that package page draws too.
func sampleReport(t *testing.T) *report.Report {
	t.Helper()
	data, err := os.ReadFile("../page/testdata/report.json")
	if err != nil {
		t.Fatal(err)
	}
	var r report.Report
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

func goldenText(t *testing.T, name, got string) {
	t.Helper()
	file := "testdata/" + name + ".golden"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s, got:\n%s\nwant:\n%s", name, got, want)
	}
}

func TestDrawReport(t *testing.T) {
	draw := func(r *report.Report, s Style) string {
		var b bytes.Buffer
		DrawReport(&b, s, r)
		return b.String()
	}
	r := sampleReport(t)
	goldenText(t, "report", draw(r, Style{}))
	goldenText(t, "report.color", draw(r, Style{Color: true, Bars: true, Width: 100}))
	for line := range strings.Lines(draw(r, Style{Bars: true, Width: 70})) {
		if n := seen(strings.TrimRight(line, "\n")); n > 70 {
			t.Errorf("%d columns of 70: %s", n, line)
		}
	}
	empty := &report.Report{Pipeline: "new", Since: r.Since, Until: r.Until, Step: 60, Coverage: report.Coverage{Why: "nothing"}}
	for _, d := range report.Definitions {
		empty.Indicators = append(empty.Indicators, report.Indicator{Definition: d, Why: "nothing was recorded in this time"})
	}
	text := draw(empty, Style{})
	if strings.Count(text, "nothing was recorded in this time") != 10 || strings.Contains(text, "100%") || !strings.Contains(text, "no objective is declared") || !strings.Contains(text, "not known") {
		t.Error(text)
	}
}

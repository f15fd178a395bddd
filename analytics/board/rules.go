package board

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options are how rules are printed.
type Options struct {
	// Speed divides all times: 1 is what the description says.
	Speed  float64
	Limits Limits
	// Runbooks is what comes before a runbook's file name in runbook_url.
	Runbooks string
}

// Plain is how the checked-in files are printed.
func Plain() Options { return Options{Speed: 1, Limits: Default(), Runbooks: "docs/runbooks/"} }

// Runbook is the file name of an alert's runbook.
func (a Alert) Runbook() string { return a.Name + ".md" }

func number(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

var braced = regexp.MustCompile(`\{([0-9]+[smhd])\}`)

// scaled replaces the times in braces.
func (o Options) scaled(expr string) string {
	return braced.ReplaceAllStringFunc(expr, func(m string) string {
		// A rate needs two points, and a window as short as that often has one.
		return o.span(m[1:len(m)-1], 5*time.Second)
	})
}

// span is a time divided by the speed, but not less than the least.
func (o Options) span(text string, least time.Duration) string {
	d, err := time.ParseDuration(text)
	if err != nil || o.Speed == 1 {
		return text
	}
	return strconv.Itoa(int(max(least, time.Duration(float64(d)/o.Speed)).Seconds())) + "s"
}

const header = "# Printed from analytics/board; do not edit. To write it again:\n# go generate ./analytics/board\n"

func block(b *strings.Builder, indent, key, text string) {
	if !strings.Contains(text, "\n") {
		fmt.Fprintf(b, "%s%s: %s\n", indent, key, strconv.Quote(text))
		return
	}
	fmt.Fprintf(b, "%s%s: |\n", indent, key)
	for line := range strings.SplitSeq(text, "\n") {
		fmt.Fprintf(b, "%s  %s\n", indent, line)
	}
}

// Rules is a file of rules for Prometheus.
func Rules(o Options) string {
	var b strings.Builder
	b.WriteString(header + "groups:\n  - name: syncline-records\n    rules:\n")
	for _, r := range Records() {
		fmt.Fprintf(&b, "      - record: %s\n", r.Name)
		block(&b, "        ", "expr", o.scaled(r.Expr))
	}
	group := ""
	for _, a := range Alerts(o.Limits) {
		if a.Cause != group {
			group = a.Cause
			fmt.Fprintf(&b, "\n  - name: syncline-%s\n    rules:\n", group)
		}
		fmt.Fprintf(&b, "      - alert: %s\n", a.Name)
		block(&b, "        ", "expr", o.scaled(a.Expr))
		if a.For != "" {
			fmt.Fprintf(&b, "        for: %s\n", o.span(a.For, time.Second))
		}
		fmt.Fprintf(&b, "        labels: { severity: %s, cause: %s }\n        annotations:\n", a.Severity, a.Cause)
		block(&b, "          ", "summary", a.Summary)
		block(&b, "          ", "runbook_url", o.Runbooks+a.Runbook())
	}
	return b.String()
}

// RulesTest is a file for `promtool test rules` beside the plain rules: each alert
// fires in its example, and clears.
func RulesTest() string {
	var b strings.Builder
	b.WriteString(header + "# promtool test rules rules_test.yml\nrule_files:\n  - rules.yml\n\nevaluation_interval: 15s\n\ntests:\n")
	o := Plain()
	for _, a := range Alerts(o.Limits) {
		x := a.Example
		fmt.Fprintf(&b, "  - name: %s\n    interval: 15s\n    input_series:\n", a.Name)
		for _, s := range x.Series {
			fmt.Fprintf(&b, "      - series: %s\n        values: %q\n", "'"+s[0]+"'", s[1])
		}
		// Before anything is wrong, while it is, and after.
		fmt.Fprintf(&b, "    alert_rule_test:\n      - eval_time: 0s\n        alertname: %s\n        exp_alerts: []\n", a.Name)
		fmt.Fprintf(&b, "      - eval_time: %s\n        alertname: %s\n        exp_alerts:\n          - exp_labels:\n", x.Fires, a.Name)
		labels := map[string]string{"severity": a.Severity, "cause": a.Cause}
		maps.Copy(labels, x.Labels)
		for _, k := range slices.Sorted(maps.Keys(labels)) {
			fmt.Fprintf(&b, "              %s: %q\n", k, labels[k])
		}
		fmt.Fprintf(&b, "            exp_annotations:\n              summary: %q\n              runbook_url: %q\n", x.Summary, o.Runbooks+a.Runbook())
		fmt.Fprintf(&b, "      - eval_time: %s\n        alertname: %s\n        exp_alerts: []\n", x.Clears, a.Name)
	}
	return b.String()
}

package board

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"syncline/activities/observe"
	"syncline/testsuite/stack"
)

const docker = "../../docker"

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFilesAreFresh(t *testing.T) {
	for name, want := range Files() {
		if read(t, filepath.Join(docker, name)) != want {
			t.Errorf("docker/%s is stale (fix: go generate ./analytics/board)", name)
		}
	}
}

func TestAlertsAreComplete(t *testing.T) {
	causes := map[string]bool{Worker: true, Source: true, Sink: true, Dependency: true, Capacity: true, Lag: true, Divergence: true, Audit: true, Objective: true, Rotation: true, Security: true, Analytics: true}
	seen, used := map[string]bool{}, map[string]bool{}
	for _, a := range Alerts(Default()) {
		if seen[a.Name] || !strings.HasPrefix(a.Name, "Syncline") {
			t.Errorf("%s: the name is taken or lacks its beginning", a.Name)
		}
		seen[a.Name] = true
		used[a.Cause] = true
		if !causes[a.Cause] || a.Severity != Page && a.Severity != Ticket || a.Summary == "" || len(a.Example.Series) == 0 {
			t.Errorf("%s: cause %q, severity %q, summary %q", a.Name, a.Cause, a.Severity, a.Summary)
		}
	}
	for c := range causes {
		if !used[c] {
			t.Errorf("no alert has the cause %s", c)
		}
	}
}

var metric = regexp.MustCompile(`\bsyncline_[a-z0-9_]+`)

// declared are the metrics that a worker has.
func declared(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, name := range regexp.MustCompile(`(?:counter|gauge|histogram)\("([a-z_]+)"|"syncline_([a-z_]+)"`).FindAllStringSubmatch(
		read(t, "../../activities/observe/metrics.go")+read(t, "../../activities/observe/health.go"), -1) {
		n := "syncline_" + name[1] + name[2]
		out[n] = true
		out[n+"_bucket"], out[n+"_sum"], out[n+"_count"] = true, true, true
	}
	// What the pattern finds is what is there: a part of it without any use has a value.
	families, err := observe.NewMetrics("b1").Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if n := f.GetName(); strings.HasPrefix(n, "syncline_") && !out[n] {
			t.Errorf("%s is not found in the source", n)
		}
	}
	return out
}

// A rule over a metric that nobody has never fires, and nobody notices.
func TestRulesUseMetricsThatExist(t *testing.T) {
	have := declared(t)
	for _, r := range Records() {
		have[r.Name[strings.LastIndex(r.Name, "syncline"):]] = true
	}
	text := Rules(Plain())
	for _, name := range regexp.MustCompile(`\b[a-z_]+:syncline_[a-z0-9_:]+`).FindAllString(text, -1) {
		if !strings.Contains(text, "record: "+name+"\n") {
			t.Errorf("no rule records %s", name)
		}
	}
	for _, name := range metric.FindAllString(regexp.MustCompile(`[a-z_]+:syncline_[a-z0-9_:]+`).ReplaceAllString(text, ""), -1) {
		if !have[name] {
			t.Errorf("no worker has %s", name)
		}
	}
}

func TestTimesAreShortenedButNotToNothing(t *testing.T) {
	o := Plain()
	o.Speed = 60
	for in, want := range map[string]string{"rate(x[{5m}])": "rate(x[5s])", "rate(x[{1m}])": "rate(x[5s])", "rate(x[{6h}])": "rate(x[360s])", `x{a="5m"}`: `x{a="5m"}`} {
		if got := o.scaled(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if got := Plain().scaled("x[{5m}]"); got != "x[5m]" {
		t.Error(got)
	}
	text := Rules(o)
	if braced.MatchString(text) || !strings.Contains(text, "for: 1s\n") || strings.Contains(Rules(Plain()), "for: 1s\n") {
		t.Errorf("times are not those of a test:\n%s", text)
	}
}

func run(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// The real promtool reads the rules, and each alert fires and clears in its example.
func TestPromtool(t *testing.T) {
	m := stack.Prometheus(t)
	dir := filepath.Join(docker, "prometheus")
	run(t, dir, m.Promtool, "check", "config", "prometheus.yml")
	if out := run(t, dir, m.Promtool, "check", "rules", "rules.yml"); !strings.Contains(out, "SUCCESS") {
		t.Errorf("promtool says:\n%s", out)
	}
	run(t, dir, m.Promtool, "test", "rules", "rules_test.yml")

	// A wrong expectation is noticed: the check can fail.
	broken := t.TempDir()
	for name, text := range map[string]string{"rules.yml": Rules(Plain()), "rules_test.yml": strings.Replace(RulesTest(), "eval_time: 9m", "eval_time: 1s", 1)} {
		if err := os.WriteFile(filepath.Join(broken, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), m.Promtool, "test", "rules", "rules_test.yml")
	cmd.Dir = broken
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("promtool does not mind a wrong expectation:\n%s", out)
	}
	// So are rules whose times a test has shortened.
	fast := Plain()
	fast.Speed = 60
	if err := os.WriteFile(filepath.Join(broken, "fast.yml"), []byte(Rules(fast)), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, broken, m.Promtool, "check", "rules", "fast.yml")
}

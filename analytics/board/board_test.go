package board

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

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
	causes := map[string]bool{Worker: true, Source: true, Sink: true, Dependency: true, Capacity: true, Lag: true, Divergence: true, Audit: true, Repair: true, Pause: true, Objective: true, Rotation: true, Security: true, Analytics: true, Cost: true}
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
func declared() map[string]bool {
	m := observe.NewMetrics("b1")
	observe.NewHealth().Register(m)
	descs := make(chan *prometheus.Desc)
	go func() { m.Registry.Describe(descs); close(descs) }()
	out := map[string]bool{}
	for d := range descs {
		if n := regexp.MustCompile(`fqName: "(syncline_[^"]+)"`).FindStringSubmatch(d.String()); n != nil {
			for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
				out[n[1]+suffix] = true
			}
		}
	}
	return out
}

var recorded = regexp.MustCompile(`[a-z_]+:syncline_[a-z0-9_:]+`)

// A rule over a metric that nobody has never fires, and nobody notices. And whoever
// adds a metric says who looks at it.
func TestQueriesUseMetricsThatExist(t *testing.T) {
	rules := Rules(Plain())
	texts := []string{rules}
	for _, d := range Dashboards() {
		for _, p := range d.Panels {
			if p.Source == Prometheus {
				texts = append(texts, p.Query)
			}
		}
	}
	have, used := declared(), map[string]bool{}
	for _, text := range texts {
		for _, name := range recorded.FindAllString(text, -1) {
			if !strings.Contains(rules, "record: "+name+"\n") {
				t.Errorf("no rule records %s", name)
			}
		}
		for _, name := range metric.FindAllString(recorded.ReplaceAllString(text, ""), -1) {
			used[strings.TrimSuffix(name, "_bucket")] = true
			if !have[name] {
				t.Errorf("no worker has %s", name)
			}
		}
	}
	for name := range have {
		if !used[name] && !regexp.MustCompile(`_(bucket|sum|count)$`).MatchString(name) {
			t.Errorf("neither an alert nor a panel looks at %s", name)
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
	for name, text := range map[string]string{"rules.yml": Rules(Plain()), "rules_test.yml": strings.Replace(RulesTest(), "eval_time: 5m", "eval_time: 1s", 1)} {
		if err := os.WriteFile(filepath.Join(broken, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), m.Promtool, "test", "rules", "--run", "SynclineWorkerDown", "rules_test.yml")
	cmd.Dir = broken
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("promtool does not mind a wrong expectation:\n%s", out)
	}
	// Rules whose times a test has shortened are rules too.
	fast := Plain()
	fast.Speed = 60
	if err := os.WriteFile(filepath.Join(broken, "fast.yml"), []byte(Rules(fast)), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, broken, m.Promtool, "check", "rules", "fast.yml")
}

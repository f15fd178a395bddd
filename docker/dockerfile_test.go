package docker_test

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"syncline/activities/observe"
)

func TestDockerfileGoVersion(t *testing.T) {
	df := regexp.MustCompile(`(?m)^FROM .*golang:([0-9]+)\.([0-9]+)\.([0-9]+) AS build$`).FindStringSubmatch(read(t, "Dockerfile"))
	mod := regexp.MustCompile(`(?m)^go ([0-9]+)\.([0-9]+)\.([0-9]+)$`).FindStringSubmatch(read(t, "../go.mod"))
	if df == nil || mod == nil {
		t.Fatal("no version of Go")
	}
	patch := func(m []string) int { n, _ := strconv.Atoi(m[3]); return n }
	if df[1] != mod[1] || df[2] != mod[2] || patch(df) < patch(mod) {
		t.Errorf("the image is built with Go %s, go.mod asks for %s", strings.Join(df[1:], "."), strings.Join(mod[1:], "."))
	}
}

func TestFinalStages(t *testing.T) {
	stages := regexp.MustCompile(`(?m)^FROM `).Split(read(t, "Dockerfile"), -1)[1:]
	var final []string
	for _, s := range stages {
		head, body, _ := strings.Cut(s, "\n")
		name := head[strings.LastIndex(head, " ")+1:]
		if name == "build" {
			continue
		}
		final = append(final, name)
		if !strings.HasPrefix(head, "gcr.io/distroless/static-debian12:nonroot ") {
			t.Errorf("%s is made from %s", name, head)
		}
		if !strings.Contains(body, "\nUSER 65532:65532\n") || !strings.Contains(body, `ENTRYPOINT ["/usr/local/bin/`+name+`"]`) {
			t.Errorf("%s runs as root or another program", name)
		}
		if info, err := os.Stat("../" + name); err != nil || !info.IsDir() {
			t.Errorf("./%s is not there to be built: %v", name, err)
		}
		if code := read(t, "../"+name+"/main.go"); !strings.Contains(code, "\npackage main\n") {
			t.Errorf("./%s is not a program", name)
		} else if name == "worker" && (!strings.Contains(body, `"/usr/local/bin/worker", "probe"]`) || !strings.Contains(code, `case "probe":`)) {
			t.Error("the health check asks with a command that the worker does not have")
		}
		if strings.Contains(body, "RUN ") {
			t.Errorf("%s runs a command in an image that has no shell", name)
		}
	}
	if !slices.Equal(final, []string{"starter", "worker"}) {
		t.Errorf("stages %v", final)
	}
}

// Everything that the code embeds must reach the build.
func TestIgnoredFilesAreNotNeeded(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", `{{if not .Standard}}{{if eq .Module.Path "syncline"}}{{range .EmbedFiles}}{{.}}{{"\n"}}{{end}}{{end}}{{end}}`, "../starter").Output()
	if err != nil {
		t.Skipf("go list: %v", err)
	}
	for f := range strings.FieldsSeq(string(out)) {
		if strings.HasSuffix(f, ".md") || strings.Contains(f, "testdata") {
			t.Errorf("%s is embedded, and Dockerfile.dockerignore leaves it out", f)
		}
	}
}

func TestRulesUseMetricsThatExist(t *testing.T) {
	m := observe.NewMetrics("test")
	observe.NewHealth().Register(m)
	descs := make(chan *prometheus.Desc)
	go func() { m.Registry.Describe(descs); close(descs) }()
	known := map[string]bool{}
	for d := range descs {
		if n := regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch(d.String()); n != nil {
			known[n[1]] = true
		}
	}
	// Names with colons are of recording rules.
	var used []string
	for _, u := range regexp.MustCompile(`[a-z_:]*syncline_[a-z_:]+`).FindAllString(read(t, "prometheus/rules.yml"), -1) {
		if !strings.Contains(u, ":") {
			used = append(used, u)
		}
	}
	if len(used) < 5 {
		t.Fatalf("rules use %v", used)
	}
	for _, u := range used {
		if !known[u] && !known[strings.TrimSuffix(u, "_bucket")] {
			t.Errorf("the rules use %s, which no worker has", u)
		}
	}
}

func TestPromtool(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (Debian: prometheus)")
	}
	for _, args := range [][]string{
		{"check", "config", "prometheus/prometheus.yml"},
		{"check", "rules", "prometheus/rules.yml"},
		{"test", "rules", "prometheus/rules_test.yml"},
	} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// Package docker_test holds the container files against the code: the images
// cannot be run where the tests run, but most of what goes wrong with such files
// is that they and the program drift apart.
package docker_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"syncline/activities/frontend"
	"syncline/pipeline"
	"syncline/worker/config"
)

type compose struct {
	Services map[string]service `yaml:"services"`
	Volumes  map[string]any     `yaml:"volumes"`
}

type service struct {
	Image           string                       `yaml:"image"`
	Build           map[string]any               `yaml:"build"`
	User            string                       `yaml:"user"`
	ReadOnly        bool                         `yaml:"read_only"`
	CapDrop         []string                     `yaml:"cap_drop"`
	Privileged      bool                         `yaml:"privileged"`
	Command         any                          `yaml:"command"`
	Environment     map[string]string            `yaml:"environment"`
	Ports           []string                     `yaml:"ports"`
	Volumes         []any                        `yaml:"volumes"`
	Healthcheck     map[string]any               `yaml:"healthcheck"`
	DependsOn       map[string]map[string]string `yaml:"depends_on"`
	Deploy          struct{ Replicas int }       `yaml:"deploy"`
	StopGracePeriod string                       `yaml:"stop_grace_period"`
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func load(t *testing.T) compose {
	t.Helper()
	var c compose
	if err := yaml.Unmarshal([]byte(read(t, "compose.yaml")), &c); err != nil {
		t.Fatal(yaml.FormatError(err, false, true))
	}
	return c
}

func names(settings []config.Setting) []string {
	var out []string
	for _, s := range settings {
		out = append(out, s.Name)
	}
	return out
}

func TestWorkerVariablesAreThoseThatItReads(t *testing.T) {
	w := load(t).Services["worker"]
	known := names(config.Settings())
	for _, v := range frontend.Variables() {
		known = append(known, v.Name)
	}
	var environ []string
	for name, value := range w.Environment {
		if !slices.Contains(known, name) {
			t.Errorf("the worker does not read %s", name)
		}
		environ = append(environ, name+"="+value)
	}
	for _, m := range regexp.MustCompile(`SYNCLINE_[A-Z_]+`).FindAllString(read(t, "Dockerfile"), -1) {
		if !slices.Contains(known, m) {
			t.Errorf("the Dockerfile sets %s, which the worker does not read", m)
		}
	}
	c, err := config.Load(environ)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Roles) != len(config.Roles) {
		t.Errorf("the workers leave out roles: %v", c.Roles)
	}
	grace, err := time.ParseDuration(w.StopGracePeriod)
	if err != nil || grace <= c.ShutdownTimeout {
		t.Errorf("stop_grace_period %s leaves no time for a shutdown of %s", w.StopGracePeriod, c.ShutdownTimeout)
	}
	port := c.HTTPAddr[strings.LastIndex(c.HTTPAddr, ":")+1:]
	if !strings.Contains(read(t, "Dockerfile"), "EXPOSE "+port+"\n") || !strings.Contains(read(t, "prometheus/prometheus.yml"), "port: "+port+"\n") {
		t.Errorf("the Dockerfile or Prometheus uses another port than %s", port)
	}
	if !strings.Contains(read(t, "prometheus/prometheus.yml"), "names: [worker]") {
		t.Error("Prometheus does not look for the workers")
	}
}

// The command-line tool reads few variables of its own, which are the worker's too, and Temporal's.
func TestStarterVariables(t *testing.T) {
	sources, err := filepath.Glob("../starter/*.go")
	if err != nil || len(sources) == 0 {
		t.Fatalf("%v %v", sources, err)
	}
	var code strings.Builder
	for _, f := range sources {
		code.WriteString(read(t, f))
	}
	for name := range load(t).Services["starter"].Environment {
		temporals := slices.ContainsFunc(frontend.Variables(), func(v frontend.Variable) bool { return v.Name == name })
		if !temporals && !strings.Contains(code.String(), `"`+name+`"`) {
			t.Errorf("the starter does not read %s", name)
		}
	}
}

func TestImagesArePinned(t *testing.T) {
	version := regexp.MustCompile(`^[a-z0-9.-]+(/[a-z0-9.-]+)*:v?[0-9]+\.[0-9]+(\.[0-9]+)*(-[a-z0-9.]+)*$`)
	for name, s := range load(t).Services {
		if s.Build != nil {
			continue
		}
		if !version.MatchString(s.Image) {
			t.Errorf("%s: image %q has no version", name, s.Image)
		}
	}
}

func TestOurServicesAreConfined(t *testing.T) {
	c := load(t)
	for _, name := range []string{"worker", "starter"} {
		s, ok := c.Services[name]
		if !ok {
			t.Fatalf("no service %s", name)
		}
		if s.User != "65532:65532" || !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) {
			t.Errorf("%s: user %q, read_only %v, cap_drop %v", name, s.User, s.ReadOnly, s.CapDrop)
		}
		if s.Build["target"] != name || s.Build["dockerfile"] != "docker/Dockerfile" {
			t.Errorf("%s is built from %v", name, s.Build)
		}
	}
	if n := c.Services["worker"].Deploy.Replicas; n != 2 {
		t.Errorf("%d workers", n)
	}
	for name, s := range c.Services {
		if s.Privileged {
			t.Errorf("%s is privileged", name)
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s publishes %s to the network", name, p)
			}
		}
	}
}

func TestDependenciesAndVolumesExist(t *testing.T) {
	c := load(t)
	used := map[string]bool{}
	for name, s := range c.Services {
		for on, how := range s.DependsOn {
			dep, ok := c.Services[on]
			switch how["condition"] {
			case "service_healthy":
				ok = ok && dep.Healthcheck["test"] != nil
			case "service_completed_successfully":
			default:
				ok = false
			}
			if !ok {
				t.Errorf("%s depends on %s (%s), which does not exist or has no health check", name, on, how["condition"])
			}
		}
		for _, v := range s.Volumes {
			text, ok := v.(string)
			if !ok {
				continue
			}
			from, _, _ := strings.Cut(text, ":")
			if strings.HasPrefix(from, ".") {
				if _, err := os.Stat(from); err != nil {
					t.Errorf("%s mounts %s: %v", name, from, err)
				}
				continue
			}
			used[from] = true
			if _, ok := c.Volumes[from]; !ok {
				t.Errorf("%s uses the volume %s, which is not declared", name, from)
			}
		}
	}
	for v := range c.Volumes {
		if !used[v] {
			t.Errorf("nobody uses the volume %s", v)
		}
	}
	if cmd := fmt.Sprint(c.Services["source"].Command); !strings.Contains(cmd, "wal_level=logical") {
		t.Errorf("the source runs without wal_level=logical: %s", cmd)
	}
}

// Prometheus, Alertmanager and Grafana find each other, their files and ClickHouse.
func TestMonitoringFitsTogether(t *testing.T) {
	c := load(t)
	mounted := func(service, from, to string) {
		t.Helper()
		if !slices.Contains(c.Services[service].Volumes, any(from+":"+to+":ro")) {
			t.Errorf("%s does not mount %s at %s", service, from, to)
		}
	}
	mounted("prometheus", "./prometheus", "/etc/prometheus")
	mounted("alertmanager", "./alertmanager", "/etc/alertmanager")
	mounted("grafana", "./grafana/provisioning", "/etc/grafana/provisioning")
	mounted("grafana", "./grafana/dashboards", "/var/lib/grafana/dashboards")
	for _, name := range []string{"prometheus", "alertmanager"} {
		file := regexp.MustCompile(`--config\.file=/etc/(\S+\.yml)`).FindStringSubmatch(fmt.Sprint(c.Services[name].Command))
		if file == nil {
			t.Errorf("%s has no file of configuration", name)
			continue
		}
		read(t, file[1])
	}
	// Every address in these files is a service of this one.
	address := regexp.MustCompile(`(?m)(?:targets: \["|url: http://|host: )([a-z-]+)\b`)
	known := 0
	for _, file := range []string{"prometheus/prometheus.yml", "grafana/provisioning/datasources/datasources.yaml"} {
		for _, m := range address.FindAllStringSubmatch(read(t, file), -1) {
			if _, ok := c.Services[m[1]]; !ok && m[1] != "localhost" {
				t.Errorf("%s names %s, which is no service", file, m[1])
			}
			known++
		}
	}
	if known < 5 {
		t.Errorf("only %d addresses found", known)
	}
	grafana, click := c.Services["grafana"].Environment, c.Services["clickhouse"].Environment
	for _, v := range []string{"CLICKHOUSE_USER", "CLICKHOUSE_PASSWORD"} {
		if grafana[v] != click[v] || !strings.Contains(read(t, "grafana/provisioning/datasources/datasources.yaml"), "$"+v+"\n") {
			t.Errorf("Grafana has another %s than ClickHouse", v)
		}
	}
	if !regexp.MustCompile(`^grafana-clickhouse-datasource [0-9.]+$`).MatchString(grafana["GF_INSTALL_PLUGINS"]) {
		t.Errorf("the ClickHouse plugin has no version: %q", grafana["GF_INSTALL_PLUGINS"])
	}
	if !strings.Contains(read(t, "grafana/provisioning/dashboards/dashboards.yaml"), "path: /var/lib/grafana/dashboards\n") {
		t.Error("the dashboards are not where they are mounted")
	}
}

// Each reference of the pipeline must name what the setup writes into Vault, and
// each address a service.
func TestPipelineFitsTheServices(t *testing.T) {
	c := load(t)
	spec, err := pipeline.Parse("shop.yaml", []byte(read(t, "pipelines/shop.yaml")), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	setup := read(t, "vault/setup.sh")
	refs := []string{spec.Source.DSN.String()}
	for _, s := range spec.Sinks {
		refs = append(refs, s.DSN.String())
	}
	for _, ref := range refs {
		rest, ok := strings.CutPrefix(ref, "vault:secret/")
		path, field, _ := strings.Cut(rest, "#")
		line := regexp.MustCompile(`vault kv put -mount=secret ` + regexp.QuoteMeta(path) + ` ` + regexp.QuoteMeta(field) + `="[a-z]+://shop:\$DATABASE_PASSWORD@([a-z]+):`)
		m := line.FindStringSubmatch(setup)
		if !ok || m == nil {
			t.Errorf("setup.sh does not write what %s names", ref)
			continue
		}
		if s, ok := c.Services[m[1]]; !ok || s.Healthcheck["test"] == nil {
			t.Errorf("%s leads to %s, which is no service", ref, m[1])
		}
	}
	for _, b := range spec.Kafka.Brokers {
		if !strings.Contains(c.Services["kafka"].Environment["KAFKA_ADVERTISED_LISTENERS"], "//"+b) {
			t.Errorf("broker %s is not what Kafka advertises", b)
		}
	}
	if cmd := fmt.Sprint(c.Services["starter"].Command); !strings.Contains(cmd, "/pipelines/shop.yaml") {
		t.Errorf("the starter runs %s", cmd)
	}
}

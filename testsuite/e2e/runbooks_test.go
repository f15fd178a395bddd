package e2e

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"syncline/activities/contract"
	"syncline/testsuite/stack"
)

var runbookBlock = regexp.MustCompile("(?s)(<!-- not run: [^>\n]+ -->\n)?```sh\n(.*?)\n```")

// TestRunbooks types what the runbooks say, against a pipeline that runs. Before a
// block that resumes, the pipeline is paused, and after each that changes something
// it streams again: a runbook leads back to where all is well.
func TestRunbooks(t *testing.T) {
	t.Parallel()
	m := stack.Prometheus(t)
	temporal := stack.TemporalCLI(t)
	r := newRig(t)
	r.fast = true
	r.seedShop(0.002)
	analyticsDB := strings.TrimPrefix(must(url.Parse(stack.ClickHouseDatabase(t)))(t).Path, "/")
	r.env = append(r.env, "SYNCLINE_ANALYTICS=env:E2E_CLICKHOUSE", "SYNCLINE_ANALYTICS_DATABASE="+analyticsDB)
	w := r.start()
	r.scraped(m, w)
	text := declaration + "  include: [shop.orders, shop.customers]\n" + fastStream
	p := r.pipe(text)
	file := filepath.Join(r.dir, "shop.yaml")
	text = strings.NewReplacer("${NAME}", p.name, "${BROKERS}", strings.Join(r.brokers, ","), "${DATABASE}", r.clickDB).Replace(text)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	p.converged()
	until(t, bound, "the analytics tables exist", func(context.Context) error {
		if n := strings.TrimSpace(r.click("SELECT count() FROM system.tables WHERE database = '" + analyticsDB + "' AND name = 'migrations'")); n != "1" {
			return fmt.Errorf("%s tables of migrations", n)
		}
		if n := strings.TrimSpace(r.click("SELECT max(version) FROM " + analyticsDB + ".migrations")); n == "0" {
			return fmt.Errorf("no migration is done")
		}
		return nil
	})

	bin := r.tool()
	if err := os.Symlink(temporal, filepath.Join(bin, "temporal")); err != nil {
		t.Fatal(err)
	}
	click := must(url.Parse(r.clickURL))(t)
	click.Path = "/"
	env := append(r.toolEnv(bin),
		"PIPELINE="+p.name, "DECLARATION="+file, "TABLE=shop.orders", "SOURCE="+r.source, "SINK="+r.sinkDSN, "CLICKHOUSE="+click.String(),
		"PROMETHEUS="+m.URL, "WORKER="+w.http())
	run := func(block string) (string, error) {
		return r.shell(strings.ReplaceAll(block, "syncline_analytics.", analyticsDB+"."), env)
	}
	files, err := filepath.Glob("../../docs/runbooks/Syncline*.md")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d runbooks, %v", len(files), err)
	}
	ran, changed := 0, 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		_, fixes, _ := strings.Cut(string(b), "## Fix")
		for _, block := range runbookBlock.FindAllStringSubmatch(string(b), -1) {
			if block[1] != "" {
				continue
			}
			fix := strings.Contains(fixes, block[0])
			if strings.Contains(block[2], "starter resume") {
				p.mustUpdate(contract.PauseUpdate, nil, nil)
			}
			if out, err := run(block[2]); err != nil {
				t.Errorf("%s: %v\n%s\n%s", filepath.Base(f), err, block[2], out)
			}
			ran++
			if fix && strings.Contains(block[2], "starter ") {
				changed++
				p.awaitPhase(bound, contract.Streaming)
			}
		}
	}
	t.Logf("%d blocks ran, %d of them changed the pipeline", ran, changed)
	if ran < 2*len(files)-5 || changed < 8 {
		t.Errorf("only %d blocks ran, %d of them changed something", ran, changed)
	}
	p.converged()
	for _, wrong := range []string{"starter frobnicate", `psql "$SINK" -c "SELECT nothing FROM nowhere"`, `curl -sf "$PROMETHEUS/api/v1/query" --data-urlencode 'query=sum('`, `curl -sf "$CLICKHOUSE" --data-binary "SELECT nothing FROM nowhere"`} {
		if out, err := run(wrong); err == nil {
			t.Errorf("%s is taken for a good command: %s", wrong, out)
		}
	}
}

// tool builds the tool into a folder for programs.
func (r *rig) tool() (bin string) {
	r.t.Helper()
	bin = filepath.Join(r.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		r.t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(bin, "starter"), "../../starter").CombinedOutput(); err != nil {
		r.t.Fatalf("build the tool: %v\n%s", err, out)
	}
	return bin
}

// toolEnv is where commands find the tool, and that the test's servers.
func (r *rig) toolEnv(bin string) []string {
	return append(os.Environ(),
		"PATH="+bin+":"+stack.PostgresBinaries(r.t)+":"+os.Getenv("PATH"), "HOME="+r.dir, "NO_COLOR=1",
		"TEMPORAL_ADDRESS="+r.temporal, "SYNCLINE_TEMPORAL_ADDRESS="+r.temporal, "SYNCLINE_TASK_QUEUE_PREFIX="+r.queue)
}

// shell types commands.
func (r *rig) shell(commands string, env []string) (string, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", commands)
	cmd.Dir, cmd.Env = r.dir, env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must returns the value, or ends the test.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// scraped lets Prometheus look at workers of this test; their label "test" is its queue.
func (r *rig) scraped(m stack.Monitoring, workers ...*worker) {
	r.t.Helper()
	var targets []string
	for _, w := range workers {
		targets = append(targets, fmt.Sprintf("%q", strings.TrimPrefix(w.http(), "http://")))
	}
	file := filepath.Join(m.Dir, "targets", r.queue+".json")
	r.t.Cleanup(func() { _ = os.Remove(file) })
	text := fmt.Sprintf(`[{"targets": [%s], "labels": {"test": %q}}]`, strings.Join(targets, ", "), r.queue)
	// Written beside it and moved: Prometheus may be reading.
	if err := os.WriteFile(file+".new", []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		r.t.Fatal(err)
	}
}

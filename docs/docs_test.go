package docs

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"syncline/activities/contract"
	"syncline/activities/frontend"
	"syncline/activities/observe"
	"syncline/analytics/report"
	"syncline/pipeline"
	"syncline/worker/config"
)

var update = flag.Bool("update", false, "write reference.md again")

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func reference() string {
	return `# Reference

Printed from the tables that the code reads; do not edit. To write it again:
` + "`go test ./docs -update`" + `.

## The declaration

One YAML file per pipeline; [examples/full.yaml](../examples/full.yaml) shows every
field with a comment, and ` + "`starter schema`" + ` prints a JSON Schema for editors.
` + "`${VAR}` and `${VAR:-default}`" + ` are replaced when the file is read. A secret is never
written into it but named: ` + "`env:NAME`, `file:path` or `vault:path#field`" + `, resolved
by the workers when they connect.

The last column says what a change does to a pipeline that runs: *live* takes
effect at once, *restart-stream* interrupts capture and delivery for a moment,
*needs-resync* has to be loaded: an added sink is, and other such changes are taken
up by tables that come; for tables that are in the pipeline they are refused until
those are removed (` + "`starter remove-table … --drop-rows`" + `) and applied again. *refused*
needs another pipeline.

` + pipeline.Reference() + `
## The worker's environment

A worker has no configuration file and no flags. It reports all mistakes at once,
and a ` + "`SYNCLINE_`" + ` variable that it does not know is one of them.

` + config.Reference() + `
Its exit codes: 0 stopped, 1 failed, 2 mistakes in the environment, 3 Temporal refuses
the connection (certificate, API key). A Temporal that is not there yet is waited for.

Roles and their task queues, ` + "`<prefix>-<role>`" + `:

| Role | Does | Holds open |
|---|---|---|
| ` + "`control`" + ` | workflows, and activities of seconds | nothing |
| ` + "`capture`" + ` | one activity per pipeline reads its slot into Kafka; holders of exported snapshots | one replication connection per pipeline |
| ` + "`snapshot`" + ` | copies chunks, verifies and repairs tables | two connections per chunk or table |
| ` + "`deliver`" + ` | one activity per lane of each sink | one sink connection per lane |

## The connection to Temporal

Worker and command-line tool read what the ` + "`temporal`" + ` program reads. Flags of the
tool go before ` + "`SYNCLINE_TEMPORAL_…`" + `, these before ` + "`TEMPORAL_…`" + `, and these before the
configuration file. An API key in a file, or in Vault, is read again as it is used; a
certificate is read at start.

` + frontend.Reference() + `
` + "`TEMPORAL_GRPC_META_<NAME>`" + ` adds metadata to every request.

## Where traces go

A worker reads OpenTelemetry's standard variables; what is traced is in
[operations.md](operations.md#traces).

` + observe.TraceReference()
}

// The definitions in indicators.md are those of the code.
func TestIndicatorsAreFresh(t *testing.T) {
	const begin, end = "<!-- definitions -->\n", "<!-- end -->"
	text := read(t, "indicators.md")
	head, rest, ok := strings.Cut(text, begin)
	_, tail, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatal("indicators.md has no place for the definitions")
	}
	want := head + begin + report.Reference() + end + tail
	if *update {
		if err := os.WriteFile("indicators.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if text != want {
		t.Error("indicators.md is stale (fix: go test ./docs -update)")
	}
	for _, s := range []report.State{report.Kept, report.Burning, report.Broken, report.Unknown} {
		if !strings.Contains(text, "`"+string(s)+"`") {
			t.Errorf("state %s is not documented", s)
		}
	}
}

func TestReferenceIsFresh(t *testing.T) {
	if *update {
		if err := os.WriteFile("reference.md", []byte(reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if read(t, "reference.md") != reference() {
		t.Error("reference.md is stale (fix: go test ./docs -update)")
	}
}

// codes are the ways in which the code gives a code.
var codes = []*regexp.Regexp{
	regexp.MustCompile(`fault\.Code += "(\w+)"`),
	regexp.MustCompile(`fault\.(?:Transient|Permanent)\("(\w+)"`),
	regexp.MustCompile(`\bCode: +"(\w+)"`),
	regexp.MustCompile(`\.Code = "(\w+)"`),
	regexp.MustCompile(`NewNonRetryableApplicationError\([^"\n]*, "(\w+)"`),
	regexp.MustCompile(`(?m)^\s*\w+Error +(?:string +)?= "([A-Z]\w+)"`),
	regexp.MustCompile(`add\(.*, "([A-Z]\w+): `),
	regexp.MustCompile(`\+": ([A-Z]\w+): `),
}

func found(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); path != ".." && (strings.HasPrefix(n, ".") || n == "devstack" || n == "testsuite" || n == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text := read(t, path)
		for _, re := range codes {
			for _, m := range re.FindAllStringSubmatch(text, -1) {
				if m[1] != "Error" { // what has no code
					out[m[1]] = path
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Every code in the tree is documented once, with all its columns, and no code
// is documented that the tree does not have.
func TestEveryCodeIsDocumented(t *testing.T) {
	have := found(t)
	if len(have) < 80 {
		t.Fatalf("only %d codes found: the patterns do not fit any more", len(have))
	}
	seen := map[string]bool{}
	for line := range strings.Lines(read(t, "errors.md")) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		code := strings.Trim(cells[0], " `")
		if len(cells) != 4 || slices.ContainsFunc(cells, func(c string) bool { return strings.TrimSpace(c) == "" }) {
			t.Errorf("%s: want code, retried, meaning and what to do", code)
		}
		if seen[code] {
			t.Errorf("%s is documented twice", code)
		}
		seen[code] = true
		if have[code] == "" {
			t.Errorf("%s is documented, and nothing gives it (fix: remove it from errors.md)", code)
		}
	}
	for code, path := range have {
		if !seen[code] {
			t.Errorf("%s of %s is not documented (fix: add it to docs/errors.md)", code, strings.TrimPrefix(path, "../"))
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#\s]*)(#[^)\s]*)?\)`)

// Links between the documents lead somewhere, headings included.
func TestLinks(t *testing.T) {
	files, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	runbooks, err := filepath.Glob("runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(append(files, runbooks...), "../README.md") {
		for _, m := range link.FindAllStringSubmatch(read(t, file), -1) {
			to, anchor := m[1], strings.TrimPrefix(m[2], "#")
			if strings.Contains(to, "://") {
				continue
			}
			target := file
			if to != "" {
				target = filepath.Join(filepath.Dir(file), to)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which does not exist", file, to)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(read(t, target)), anchor) {
				t.Errorf("%s links to %s#%s; there is no such heading", file, to, anchor)
			}
		}
	}
}

var notInAnchors = regexp.MustCompile(`[^a-z0-9 _-]`)

func anchors(text string) (out []string) {
	for line := range strings.Lines(text) {
		if head := strings.TrimLeft(line, "#"); head != line && strings.HasPrefix(head, " ") {
			out = append(out, strings.ReplaceAll(notInAnchors.ReplaceAllString(strings.ToLower(strings.TrimSpace(head)), ""), " ", "-"))
		}
	}
	return out
}

var testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)`")

// README names tests as evidence: they exist.
func TestNamedTestsExist(t *testing.T) {
	all := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllStringSubmatch(read(t, path), -1) {
			all[m[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	names := testName.FindAllStringSubmatch(read(t, "../README.md"), -1)
	if len(names) < 10 {
		t.Errorf("README names %d tests as evidence", len(names))
	}
	for _, m := range names {
		if !all[m[1]] {
			t.Errorf("README names %s, which does not exist", m[1])
		}
	}
}

// Every name that a plain Temporal client needs is in workflows.md.
func TestEveryNameIsDocumented(t *testing.T) {
	text := read(t, "workflows.md")
	for _, name := range []string{
		contract.PipelineWorkflow, contract.StreamWorkflow, contract.BootstrapWorkflow, contract.SnapshotWorkflow, contract.PlanWorkflow, contract.ReportWorkflow, contract.AuditWorkflow, contract.ReplayWorkflow, contract.RepairWorkflow, contract.CheckTrailWorkflow, contract.BatchTierWorkflow, contract.AdviseWorkflow,
		contract.ApplyUpdate, contract.PauseUpdate, contract.ResumeUpdate, contract.AddTableUpdate, contract.RemoveTableUpdate, contract.ResyncTableUpdate, contract.DestroyUpdate, contract.ApproveUpdate,
		contract.StatusQuery, contract.ComponentSignal, contract.StoppedSignal, contract.LoadedSignal, contract.BootstrapSignal, contract.GenerationSignal, contract.RetrySignal,
		contract.PipelineAttribute, contract.PhaseAttribute, contract.SourceAttribute, contract.SinkAttribute, contract.TierAttribute, contract.RegionAttribute,
	} {
		if !strings.Contains(text, "`"+name+"`") {
			t.Errorf("%s is not documented", name)
		}
	}
	for _, p := range []contract.Phase{contract.Preparing, contract.Bootstrapping, contract.Streaming, contract.Degraded, contract.Paused, contract.Destroying, contract.Destroyed, contract.SetupFailed} {
		if !strings.Contains(text, "`"+string(p)+"`") {
			t.Errorf("phase %s is not documented", p)
		}
	}
}

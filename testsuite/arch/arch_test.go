// Package arch holds the shape of the tree: which package may know which.
package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func packages(t *testing.T) map[string]pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "syncline/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]pkg{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(p.ImportPath, "syncline/")] = p
	}
	if len(all) < 20 {
		t.Fatalf("only %d packages found", len(all))
	}
	return all
}

func under(path string, roots ...string) bool {
	return slices.ContainsFunc(roots, func(r string) bool { return path == r || strings.HasPrefix(path, r+"/") })
}

const (
	temporal   = "go.temporal.io"
	kafka      = "github.com/segmentio/kafka-go"
	pgx        = "github.com/jackc/pgx"
	clickhouse = "github.com/ClickHouse/clickhouse-go"
)

// Imports follow the flow: control → contract → data plane, never back.
func TestImportRules(t *testing.T) {
	for name, p := range packages(t) {
		never := func(why string, list []string, roots ...string) {
			for _, i := range list {
				if under(i, roots...) {
					t.Errorf("%s imports %s: %s", name, i, why)
				}
			}
		}
		if under(name, "dataplane", "analytics", "secrets", "pipeline", "tiers") {
			never("the data plane does not know Temporal, not even indirectly", p.Deps, temporal)
			never("where spans go is the worker's business", p.Deps, "go.opentelemetry.io/otel/sdk", "go.opentelemetry.io/otel/exporters")
			never("imports follow the flow", p.Deps, "syncline/activities", "syncline/workflows", "syncline/worker", "syncline/starter", "syncline/testsuite")
		}
		if under(name, "dataplane/change", "dataplane/apply", "dataplane/pgtext", "dataplane/transport/debezium", "tiers") {
			never("it is pure", p.Imports, "os", "net", "database", "syscall", "os/exec", "io/ioutil", "math/rand", "math/rand/v2", pgx, kafka, clickhouse)
		}
		if name != "dataplane/transport/kafka" && !under(name, "testsuite") {
			never("only dataplane/transport/kafka uses kafka-go", p.Imports, kafka)
		}
		if under(name, "workflows") {
			never("workflow code does no work", p.Imports, "os", "net", "database", "time/tzdata", pgx, kafka, clickhouse, "syncline/activities/connect", "syncline/dataplane/source", "syncline/dataplane/transport", "syncline/dataplane/deliver", "syncline/dataplane/capture")
			for _, i := range p.Imports {
				if i == "syncline/activities" {
					t.Errorf("%s imports %s: workflows know activities by their contract only", name, i)
				}
			}
		}
		if under(name, "starter") {
			never("the tool connects to Temporal only", p.Deps, pgx, kafka, clickhouse)
		}
		if under(name, "analytics/board") {
			never("it is a description", p.Deps, temporal, pgx, kafka, clickhouse, "syncline/activities", "syncline/dataplane")
		}
		if under(name, "dataplane") {
			never("loops are counted from outside", p.Deps, "syncline/analytics")
		}
		if under(name, "activities/observe") {
			never("metrics know no data plane loop", p.Imports, "syncline/dataplane/deliver", "syncline/dataplane/capture", "syncline/dataplane/source", "syncline/dataplane/transport")
		}
		if !under(name, "testsuite") {
			never("tests are not part of the product", p.Deps, "syncline/testsuite")
		}
	}
}

// Every top-level folder earns its place: adding one is a decision to be made here.
func TestTopLevel(t *testing.T) {
	want := []string{"activities", "analytics", "dataplane", "devstack", "docker", "docs", "examples", "pipeline", "secrets", "starter", "testsuite", "tiers", "worker", "workflows"}
	entries, err := os.ReadDir("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && !slices.Contains(want, e.Name()) {
			t.Errorf("folder %s is not in the layout", e.Name())
		}
	}
}

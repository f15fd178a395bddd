package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"syncline/activities/contract"
	"syncline/testsuite/check"
	"syncline/testsuite/stack"
)

// TestTemporalCLI drives a one-off snapshot, a pipeline, pause and resume with
// the real temporal program, as README documents it.
func TestTemporalCLI(t *testing.T) {
	t.Parallel()
	program := stack.TemporalCLI(t)
	r := newRig(t)
	sizes := r.seedShop(0.005)
	r.start()
	cli := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, append(args, "--address", r.temporal)...)
		cmd.Env = append(os.Environ(), "HOME="+r.dir, "NO_COLOR=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("temporal %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	input := func(v any) string {
		t.Helper()
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		f := filepath.Join(r.dir, "input.json")
		if err := os.WriteFile(f, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	queue := contract.Queue(r.queue, contract.Control)

	// Once: the rows, and nothing else anywhere.
	once := r.pipe(fewTables)
	cli("workflow", "execute", "--type", "Snapshot", "--task-queue", queue, "--workflow-id", "snapshot/"+once.name, "--input-file", input(map[string]any{"spec": once.spec}))
	source := &check.Postgres{DSN: r.source, Source: true}
	for _, x := range once.traces() {
		if !strings.HasPrefix(x, "table at ") {
			t.Errorf("after a one-off snapshot there is: %s", x)
		}
	}
	if n := r.one(r.sinkDSN, "SELECT count(*)::text FROM shop.orders"); n != r.one(r.source, "SELECT count(*)::text FROM shop.orders") {
		t.Errorf("%s orders after a one-off snapshot", n)
	}

	// A pipeline over it, that replaces what the snapshot left.
	live := r.pipe(fewTables)
	for i := range live.spec.Sinks {
		live.spec.Sinks[i].OnExisting = "truncate"
	}
	pid := contract.PipelineID(live.name)
	cli("workflow", "start", "--type", "Pipeline", "--task-queue", queue, "--workflow-id", pid, "--input-file", input(map[string]any{"spec": live.spec}))
	live.awaitPhase(bound, contract.Streaming)
	for name, k := range live.sinks() {
		rep, err := check.Compare(t.Context(), source, live.tables(k), live.side(name))
		_ = k.Close()
		if err != nil || !rep.Equal() {
			t.Errorf("%s after the load: %v, %+v", name, err, rep)
		}
	}
	endLoad := r.load(40)
	live.converged()
	if out := cli("workflow", "update", "execute", "--workflow-id", pid, "--name", "pause"); !strings.Contains(out, `paused`) {
		t.Errorf("pause says:\n%s", out)
	}
	marks := live.marks()
	r.exec("UPDATE shop.inventory SET quantity = 0, version = version + 1")
	if out := cli("workflow", "query", "--workflow-id", pid, "--type", "status"); !strings.Contains(out, "paused") {
		t.Errorf("status says:\n%s", out)
	}
	if now := live.marks(); now != marks {
		t.Error("a paused pipeline moves on")
	}
	cmd := exec.CommandContext(t.Context(), program, "workflow", "update", "execute", "--workflow-id", pid, "--name", "pause", "--address", r.temporal)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "paused already") {
		t.Errorf("a second pause: %v\n%s", err, out)
	}
	cli("workflow", "update", "execute", "--workflow-id", pid, "--name", "resume")
	cli("workflow", "update", "execute", "--workflow-id", pid, "--name", "resync-table", "--input", `{"tables": ["shop.orders"]}`)
	live.awaitPhase(bound, contract.Streaming)
	endLoad()
	live.settled(sizes, fewTablesIs)
	if out := cli("workflow", "update", "execute", "--workflow-id", pid, "--name", "destroy", "--input", "{}"); !strings.Contains(out, "slot") {
		t.Errorf("destroy says:\n%s", out)
	}
}

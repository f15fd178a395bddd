package workflows

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/dataplane/sink"
)

func bootstrapInput(t *testing.T, w *world) contract.BootstrapInput {
	return contract.BootstrapInput{Spec: shopSpec(t), Tables: w.tables}
}

func TestBootstrapCopiesEveryChunkOnce(t *testing.T) {
	w := newWorld()
	env := environment(t, w)
	env.ExecuteWorkflow(Bootstrap, bootstrapInput(t, w))
	if err := env.GetWorkflowError(); err != nil {
		t.Fatal(err)
	}
	var st contract.LoadStatus
	if err := env.GetWorkflowResult(&st); err != nil {
		t.Fatal(err)
	}
	if !st.Done || len(st.Loads) != 4 {
		t.Fatalf("status %+v", st)
	}
	for _, ld := range st.Loads {
		if ld.State != sink.Streaming || ld.Done != 3 || ld.Rows != 30 {
			t.Errorf("load %+v", ld)
		}
		for n := range 3 {
			if got := w.count(fmt.Sprintf("CopyChunk %s %s %d gen 1", ld.Sink, ld.Table, n)); got != 1 {
				t.Errorf("chunk %d of %s → %s copied %d times", n, ld.Table, ld.Sink, got)
			}
		}
	}
}

// When the snapshot's holder dies, chunks in flight report SnapshotGone; the next
// generation reads those, and no chunk that is done is read again.
func TestBootstrapGoesOnInTheNextGeneration(t *testing.T) {
	w := newWorld()
	gone := temporal.NewNonRetryableApplicationError("gone", contract.SnapshotGoneError, nil)
	w.once[contract.CopyChunkActivity] = []error{nil, nil, gone}
	w.once[contract.HoldSnapshotActivity] = []error{temporal.NewApplicationError("killed", "SourceUnreachable")}
	env := environment(t, w)
	env.ExecuteWorkflow(Bootstrap, bootstrapInput(t, w))
	if err := env.GetWorkflowError(); err != nil {
		t.Fatal(err)
	}
	copies := map[string]int{}
	for _, c := range w.names() {
		if strings.HasPrefix(c, "CopyChunk ") {
			copies[c[:strings.Index(c, " gen ")]]++
		}
	}
	total := 0
	for _, n := range copies {
		total += n
	}
	if len(copies) != 12 || total != 13 {
		t.Errorf("%d chunks in %d copies, want 12 in 13: %v", len(copies), total, copies)
	}
}

// A table that cannot be loaded is reported; the others are loaded all the same.
func TestBootstrapOneBadTable(t *testing.T) {
	w := newWorld()
	w.once[contract.PlanChunksActivity] = []error{permanent("TableMismatch")}
	env := environment(t, w)
	env.ExecuteWorkflow(Bootstrap, bootstrapInput(t, w))
	if err := env.GetWorkflowError(); err != nil {
		t.Fatal(err)
	}
	var st contract.LoadStatus
	if err := env.GetWorkflowResult(&st); err != nil {
		t.Fatal(err)
	}
	bad := slices.DeleteFunc(slices.Clone(st.Loads), func(l contract.LoadState) bool { return l.Failure == nil })
	if len(bad) != 1 || bad[0].Failure.Code != "TableMismatch" || bad[0].State != sink.Loading {
		t.Errorf("failed loads: %+v", bad)
	}
	for _, l := range st.Loads {
		if l.Failure == nil && l.State != sink.Streaming {
			t.Errorf("held up: %+v", l)
		}
	}
}

// A snapshot that can never be exported ends the load instead of hanging it.
func TestBootstrapWithoutSnapshot(t *testing.T) {
	w := newWorld()
	w.signal = nil
	env := environment(t, w)
	w.signal = nil
	w.fail[contract.HoldSnapshotActivity] = permanent("SourceAuthFailed")
	env.ExecuteWorkflow(Bootstrap, bootstrapInput(t, w))
	var st contract.LoadStatus
	if err := env.GetWorkflowResult(&st); err != nil {
		t.Fatal(err)
	}
	for _, l := range st.Loads {
		if l.Failure == nil || l.Failure.Code != "SourceAuthFailed" {
			t.Errorf("load %+v", l)
		}
	}
}

func TestSnapshotLoadsAndForgets(t *testing.T) {
	w := newWorld()
	env := environment(t, w)
	env.ExecuteWorkflow(Snapshot, contract.BootstrapInput{Spec: shopSpec(t)})
	if err := env.GetWorkflowError(); err != nil {
		t.Fatal(err)
	}
	for _, sk := range []string{"warehouse", "analytics"} {
		if w.count("PrepareSink "+sk) != 1 || w.count("ForgetSink "+sk+" false") != 1 {
			t.Errorf("%s: %v", sk, w.names())
		}
	}
}

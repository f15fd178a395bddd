package workflows

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"syncline/activities/contract"
)

var repairInput = contract.RepairInput{Pipeline: "shop", Plan: "p1", Hash: "h1", Who: "ann", Why: "ticket 7"}

// steps are the calls that touch keys, without the repair's name.
func (w *world) steps() (out []string) {
	for _, c := range w.names() {
		if name, rest, _ := strings.Cut(c, " "); strings.HasSuffix(name, "Keys") {
			out = append(out, strings.TrimSuffix(name, "Keys")+strings.TrimPrefix(rest, "p1"))
		}
	}
	return out
}

func allSteps(of string) []string {
	return []string{"Quarantine " + of, "Replay " + of, "Reverify " + of, "Release " + of}
}

func repairEnv(t *testing.T, w *world) *testsuite.TestWorkflowEnvironment {
	t.Helper()
	env := environment(t, w)
	env.SetStartWorkflowOptions(startOptions("repair/shop"))
	return env
}

func TestRepairPlans(t *testing.T) {
	w := newWorld()
	w.once[contract.PlanRepairActivity] = []error{temporal.NewApplicationError("still changing", "RepairUndecided")}
	env := repairEnv(t, w)
	env.ExecuteWorkflow(Repair, contract.RepairInput{Pipeline: "shop"})
	var r contract.RepairResult
	if err := env.GetWorkflowResult(&r); err != nil {
		t.Fatal(err)
	}
	if r.Applied || r.Hash != "h1" || r.Pipeline != "shop" || len(r.Tables) != 4 || r.Failed() != 0 || !strings.HasPrefix(r.Name, r.At.Format("20060102T")) {
		t.Errorf("%+v", r)
	}
	for _, x := range r.Tables {
		if x.State != contract.RepairPlanned || x.Keys != 2 {
			t.Errorf("%+v", x)
		}
	}
	if w.count("PlanRepair true") != 2 || len(w.names()) != 2 {
		t.Error("calls", w.names())
	}
}

// Tables go one after the other through all steps, and what passes is tried again.
func TestRepairIsCarriedOut(t *testing.T) {
	w := newWorld()
	w.once[contract.ReplayKeysActivity] = []error{temporal.NewApplicationError("away", "SourceUnreachable")}
	env := repairEnv(t, w)
	env.ExecuteWorkflow(Repair, repairInput)
	var r contract.RepairResult
	if err := env.GetWorkflowResult(&r); err != nil {
		t.Fatal(err)
	}
	first := allSteps("warehouse shop.customers")
	want := slices.Concat([]string{first[0], first[1]}, first[1:], allSteps("analytics shop.customers"), allSteps("warehouse shop.orders"), allSteps("analytics shop.orders"))
	if got := w.steps(); !slices.Equal(got, want) {
		t.Errorf("steps %q\nwant  %q", got, want)
	}
	calls := w.names()
	if calls[0] != "LoadRepair p1 h1" || calls[1] != "NoteRepair ann began map[audit: hash:h1 keys:8 why:ticket 7]" || calls[len(calls)-1] != "NoteRepair ann ended map[cancelled:false failed:0]" {
		t.Error("calls", calls)
	}
	if !r.Applied || r.Name != "p1" || r.Failed() != 0 || r.Awaits != "" || len(r.Trails) != 2 || r.Trails[0].Hash != "fended" {
		t.Errorf("%+v", r)
	}
	for _, x := range r.Tables {
		if x.State != contract.RepairReleased || x.Released != 2 || x.Read != 4 {
			t.Errorf("%+v", x)
		}
	}
}

// A step that fails for good lets the keys of its table go, and of no other.
func TestRepairOfATableFails(t *testing.T) {
	w := newWorld()
	w.once[contract.ReverifyKeysActivity] = []error{nil, permanent("KeyNotHeld")}
	w.once[contract.AbandonKeysActivity] = []error{temporal.NewApplicationError("away", "SinkUnreachable")}
	env := repairEnv(t, w)
	env.ExecuteWorkflow(Repair, repairInput)
	var r contract.RepairResult
	if err := env.GetWorkflowResult(&r); err != nil {
		t.Fatal(err)
	}
	failed := allSteps("analytics shop.customers")
	abandon := "Abandon analytics shop.customers KeyNotHeld: told to"
	want := slices.Concat(allSteps("warehouse shop.customers"), failed[:3], []string{abandon, abandon}, allSteps("warehouse shop.orders"), allSteps("analytics shop.orders"))
	if got := w.steps(); !slices.Equal(got, want) {
		t.Errorf("steps %q\nwant  %q", got, want)
	}
	if x := r.Tables[1]; r.Failed() != 2 || x.State != contract.RepairFailed || x.Reason != "KeyNotHeld: told to" || r.Tables[2].State != contract.RepairReleased {
		t.Errorf("%+v", r)
	}
	if w.count("NoteRepair ann ended map[cancelled:false failed:2]") != 1 {
		t.Error("calls", w.names())
	}
	// Nor does it matter for the others that the keys cannot be let go.
	w = newWorld()
	w.once[contract.QuarantineKeysActivity] = []error{permanent("KeyHeld")}
	w.fail[contract.AbandonKeysActivity] = permanent("SinkPrivilege")
	env = repairEnv(t, w)
	env.ExecuteWorkflow(Repair, repairInput)
	if err := env.GetWorkflowResult(&r); err != nil || r.Failed() != 2 || r.Tables[3].Released != 2 {
		t.Errorf("%+v, %v", r, err)
	}
}

// Keys that are not equal in the end are counted, and nothing of them is held.
func TestRepairLeavesKeys(t *testing.T) {
	w := newWorld()
	w.tables, w.differ = w.tables[:1], 1
	env := repairEnv(t, w)
	env.ExecuteWorkflow(Repair, repairInput)
	var r contract.RepairResult
	if err := env.GetWorkflowResult(&r); err != nil || r.Failed() != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if x := r.Tables[0]; x.State != contract.RepairFailed || x.Released != 1 || x.Failed != 1 || !strings.Contains(x.Reason, "1 of 2 keys could not be repaired") {
		t.Errorf("%+v", x)
	}
	if slices.ContainsFunc(w.steps(), func(s string) bool { return strings.HasPrefix(s, "Abandon") }) {
		t.Error("calls", w.names())
	}
}

func TestRepairIsCancelled(t *testing.T) {
	w := newWorld()
	env := repairEnv(t, w)
	var n atomic.Int64
	w.verify = func(ctx context.Context) {
		if n.Add(1) == 6 { // the second step of the second table
			<-ctx.Done()
		}
	}
	env.RegisterDelayedCallback(env.CancelWorkflow, 500*time.Millisecond)
	env.ExecuteWorkflow(Repair, repairInput)
	if err := env.GetWorkflowError(); !temporal.IsCanceledError(err) {
		t.Error(err)
	}
	steps := w.steps()
	if !slices.Contains(steps, "Abandon analytics shop.customers the repair was cancelled") || slices.ContainsFunc(steps, func(s string) bool { return strings.Contains(s, "orders") }) {
		t.Errorf("steps %q", steps)
	}
	if w.count("NoteRepair ann ended map[cancelled:true failed:2]") != 1 {
		t.Error("calls", w.names())
	}
}

// Beyond its limits a repair waits until somebody approves of just that plan.
func TestRepairIsApproved(t *testing.T) {
	for why, edit := range map[string]func(*world, *contract.RepairInput){
		"8 keys are more than the 7 that need no approval":                           func(_ *world, in *contract.RepairInput) { in.MaxKeys = 7 },
		"200 keys of shop.customers at warehouse are more than 1 % of its 1000 rows": func(w *world, _ *contract.RepairInput) { w.keys = 200 },
	} {
		w, in := newWorld(), repairInput
		edit(w, &in)
		env := repairEnv(t, w)
		var late reply
		env.RegisterDelayedCallback(func() {
			var st contract.RepairResult
			if v, err := env.QueryWorkflow(contract.StatusQuery); err != nil || v.Get(&st) != nil || st.Awaits != why || st.Applied {
				t.Errorf("%+v %v", st, err)
			}
			if n := w.names(); len(n) != 1 {
				t.Errorf("something was done before the approval: %v", n)
			}
		}, time.Hour)
		other := ask(env, 2*time.Hour, contract.ApproveUpdate, contract.Approval{Hash: "h2", Who: "bob"})
		unnamed := ask(env, 3*time.Hour, contract.ApproveUpdate, contract.Approval{Hash: "h1", Who: " "})
		right := ask(env, 23*time.Hour, contract.ApproveUpdate, contract.Approval{Hash: "h1", Who: "bob", Why: "seen"})
		began := false
		w.before = func(name string) {
			if name == contract.NoteRepairActivity && !began {
				began = true
				env.UpdateWorkflow(contract.ApproveUpdate, "4", &late, contract.Approval{Hash: "h1", Who: "eve"})
			}
		}
		env.ExecuteWorkflow(Repair, in)
		var r contract.RepairResult
		if err := env.GetWorkflowResult(&r); err != nil {
			t.Fatal(err)
		}
		if errorType(other.refused) != "RepairPlanChanged" || errorType(unnamed.refused) != "ApprovalInput" || errorType(late.refused) != "NoApprovalAwaited" {
			t.Errorf("refused: %v, %v, %v", other.refused, unnamed.refused, late.refused)
		}
		if !right.complete || right.refused != nil || right.err != nil || r.Approved == nil || r.Approved.Who != "bob" || r.Awaits != "" || !r.Applied || r.Failed() != 0 {
			t.Errorf("%+v %+v", right, r)
		}
		if !strings.Contains(w.names()[1], "approved_by:bob approved_why:seen") {
			t.Error("calls", w.names())
		}
	}
	// Few keys are repaired however small their table is.
	w := newWorld()
	w.keys = 100
	env := repairEnv(t, w)
	env.ExecuteWorkflow(Repair, repairInput)
	if err := env.GetWorkflowError(); err != nil {
		t.Error(err)
	}
}

func TestRepairIsNotApproved(t *testing.T) {
	w := newWorld()
	in := repairInput
	in.MaxKeys = 1
	env := repairEnv(t, w)
	began := env.Now()
	env.ExecuteWorkflow(Repair, in)
	if err := env.GetWorkflowError(); errorType(err) != "RepairNotApproved" || len(w.names()) != 1 {
		t.Errorf("%v after %v", err, w.names())
	}
	if took := env.Now().Sub(began); took < approvalBound {
		t.Errorf("it waited %s", took)
	}
	// A cancellation ends the wait, too.
	w = newWorld()
	env = repairEnv(t, w)
	env.RegisterDelayedCallback(env.CancelWorkflow, time.Hour)
	env.ExecuteWorkflow(Repair, in)
	if err := env.GetWorkflowError(); !temporal.IsCanceledError(err) || len(w.names()) != 1 {
		t.Errorf("%v after %v", err, w.names())
	}
}

// What cannot be told to the audit trail is not done, nor is a plan that changed.
func TestRepairCannotBegin(t *testing.T) {
	w := newWorld()
	w.fail[contract.NoteRepairActivity] = permanent("SinkPrivilege")
	env := repairEnv(t, w)
	env.ExecuteWorkflow(Repair, repairInput)
	if err := env.GetWorkflowError(); errorType(err) != "SinkPrivilege" || len(w.steps()) != 0 {
		t.Errorf("%v after %v", err, w.names())
	}
	for _, code := range []string{"RepairPlanChanged", "RepairPlanMissing"} {
		w := newWorld()
		w.fail[contract.LoadRepairActivity] = permanent(code)
		env := repairEnv(t, w)
		env.ExecuteWorkflow(Repair, repairInput)
		if err := env.GetWorkflowError(); errorType(err) != code || len(w.names()) != 1 {
			t.Errorf("%v after %v", err, w.names())
		}
	}
	w = newWorld()
	w.fail[contract.PlanRepairActivity] = permanent("PipelineMissing")
	env = repairEnv(t, w)
	env.ExecuteWorkflow(Repair, contract.RepairInput{Pipeline: "shop"})
	if err := env.GetWorkflowError(); errorType(err) != "PipelineMissing" || len(w.names()) != 1 {
		t.Errorf("%v after %v", err, w.names())
	}
}

func TestCheckTrail(t *testing.T) {
	w := newWorld()
	w.once[contract.CheckTrailActivity] = []error{temporal.NewApplicationError("away", "SinkUnreachable")}
	env := environment(t, w)
	env.ExecuteWorkflow(CheckTrail, contract.TrailTask{Pipeline: "shop", Known: []contract.TrailSink{{Sink: "warehouse", Entries: 9, Hash: "f"}}})
	var v contract.TrailVerdict
	if err := env.GetWorkflowResult(&v); err != nil || len(v.Sinks) != 2 || v.Sinks[1].Broken == "" || w.count("CheckTrail 1") != 2 {
		t.Errorf("%+v, %v after %v", v, err, w.names())
	}
	w = newWorld()
	w.fail[contract.CheckTrailActivity] = errors.New("no")
	env = environment(t, w)
	env.ExecuteWorkflow(CheckTrail, contract.TrailTask{Pipeline: "shop"})
	if err := env.GetWorkflowError(); err == nil || w.count("CheckTrail 0") != auditPlanTries {
		t.Errorf("%v after %v", err, w.names())
	}
}

// The list of workflows tells, and so alerts, which repairs wait for an approval and which
// left keys failed; of a plan it tells nothing.
func TestRepairPhases(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*world, *contract.RepairInput)
		want []string
	}{
		"plan":     {func(_ *world, in *contract.RepairInput) { in.Plan = "" }, nil},
		"repaired": {func(*world, *contract.RepairInput) {}, []string{contract.RepairGoesOn, contract.RepairDone}},
		"failed": {func(w *world, _ *contract.RepairInput) {
			w.once[contract.QuarantineKeysActivity] = []error{permanent("KeyHeld")}
		}, []string{contract.RepairGoesOn, contract.RepairLeftKeys}},
		"approved":   {func(_ *world, in *contract.RepairInput) { in.MaxKeys = 7 }, []string{contract.RepairAwaitsApproval, contract.RepairGoesOn, contract.RepairDone}},
		"unapproved": {func(_ *world, in *contract.RepairInput) { in.MaxKeys = 6 }, []string{contract.RepairAwaitsApproval}},
	} {
		t.Run(name, func(t *testing.T) {
			w, in := newWorld(), repairInput
			c.edit(w, &in)
			env := repairEnv(t, w)
			var phases []string
			env.OnUpsertTypedSearchAttributes(mock.Anything).Run(func(args mock.Arguments) {
				if ph, ok := args.Get(0).(temporal.SearchAttributes).GetKeyword(temporal.NewSearchAttributeKeyKeyword(contract.PhaseAttribute)); ok {
					phases = append(phases, ph)
				}
			}).Return(nil)
			if name == "approved" {
				ask(env, 2*time.Hour, contract.ApproveUpdate, contract.Approval{Hash: "h1", Who: "bob"})
			}
			env.ExecuteWorkflow(Repair, in)
			if !slices.Equal(phases, c.want) {
				t.Errorf("phases %q, want %q", phases, c.want)
			}
		})
	}
}

package workflows

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/verify"
)

func TestAudit(t *testing.T) {
	w := newWorld()
	w.once[contract.VerifyTableActivity] = []error{temporal.NewApplicationError("away", "SourceUnreachable")}
	env := environment(t, w)
	env.ExecuteWorkflow(Audit, contract.AuditInput{Pipeline: "shop", RowsPerSecond: 50})
	var r contract.AuditResult
	if err := env.GetWorkflowResult(&r); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range r.Tables {
		got = append(got, v.Table.String()+" "+v.Sink)
		if n := w.count(fmt.Sprintf("VerifyTable %s %s id > 0 50", v.Sink, v.Table)); n < 1 || n > 2 {
			t.Errorf("%s at %s was verified %d times", v.Table, v.Sink, n)
		}
	}
	want := []string{"shop.customers warehouse", "shop.customers analytics", "shop.orders warehouse", "shop.orders analytics"}
	if !slices.Equal(got, want) || r.Convergence != 1 || r.Pipeline != "shop" || r.At.IsZero() || len(r.Skipped) != 1 || !strings.HasPrefix(r.Run, r.At.Format("20060102T")) {
		t.Errorf("%+v", r)
	}
	if w.count("ConcludeAudit 2 sinks, 0 failed") != 1 || len(w.names()) != 1+5+1 {
		t.Error("calls", w.names())
	}
}

// What an audit is to look at, each verification is told, and each verdict says.
func TestAuditOfChanges(t *testing.T) {
	w := newWorld()
	w.once[contract.VerifyTableActivity] = []error{permanent("TableMismatch")}
	env := environment(t, w)
	env.ExecuteWorkflow(Audit, contract.AuditInput{Pipeline: "shop", Changed: true})
	var r contract.AuditResult
	if err := env.GetWorkflowResult(&r); err != nil || len(r.Tables) != 4 || r.Convergence != 0.75 {
		t.Fatalf("%v %+v", err, r)
	}
	for _, v := range r.Tables {
		if v.Scope != contract.ScopeChanged {
			t.Errorf("%+v", v)
		}
	}
}

// A table that fails for good has no verdict; the others have theirs, and so has one
// that differs, although the ledgers cannot be tidied.
func TestAuditGoesOn(t *testing.T) {
	w := newWorld()
	w.once[contract.VerifyTableActivity] = []error{nil, temporal.NewNonRetryableApplicationError("TableMismatch: "+strings.Repeat("x", 2*maxReason), "TableMismatch", nil)}
	w.fail[contract.ConcludeAuditActivity] = errors.New("no")
	env := environment(t, w)
	env.ExecuteWorkflow(Audit, contract.AuditInput{Pipeline: "shop"})
	var r contract.AuditResult
	if err := env.GetWorkflowResult(&r); err != nil {
		t.Fatal(err)
	}
	if len(r.Tables) != 4 || r.Convergence != 0.75 || r.Count(verify.Equal) != 3 {
		t.Fatalf("%+v", r)
	}
	v := r.Tables[1]
	if v.Verdict != verify.Inconclusive || v.Sink != "analytics" || !strings.HasPrefix(v.Reason, "TableMismatch: xx") || len(v.Reason) > maxReason+5 {
		t.Errorf("%+v", v)
	}
	if w.count("ConcludeAudit 2 sinks, 1 failed") != 3 {
		t.Error("calls", w.names())
	}

	// What passes is not waited for for ever.
	w = newWorld()
	w.tables = w.tables[:1]
	w.fail[contract.VerifyTableActivity] = temporal.NewApplicationError("SinkUnreachable: away", "SinkUnreachable")
	env = environment(t, w)
	env.ExecuteWorkflow(Audit, contract.AuditInput{Pipeline: "shop"})
	if err := env.GetWorkflowResult(&r); err != nil || r.Convergence != 0 || r.Tables[0].Reason != "SinkUnreachable: away" {
		t.Errorf("%v %+v", err, r)
	}
}

func TestAuditCannotBegin(t *testing.T) {
	w := newWorld()
	w.fail[contract.PlanAuditActivity] = permanent("PipelineMissing")
	env := environment(t, w)
	env.ExecuteWorkflow(Audit, contract.AuditInput{Pipeline: "shop"})
	if err := env.GetWorkflowError(); errorType(err) != "PipelineMissing" || len(w.names()) != 1 {
		t.Errorf("%v after %v", err, w.names())
	}
}

// No more tables are verified at a time than asked for, and all that is allowed.
func TestAuditInParallel(t *testing.T) {
	w := newWorld()
	w.tables = nil
	for i := range 20 {
		w.tables = append(w.tables, change.TableID{Schema: "s", Name: fmt.Sprintf("t%02d", i)})
	}
	var now, most atomic.Int64
	w.verify = func(context.Context) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(10 * time.Millisecond)
	}
	env := environment(t, w)
	env.ExecuteWorkflow(Audit, contract.AuditInput{Pipeline: "shop", Parallel: 3})
	var r contract.AuditResult
	if err := env.GetWorkflowResult(&r); err != nil {
		t.Fatal(err)
	}
	if most.Load() != 3 || len(r.Tables) != 40 || r.Tables[39].Table.Name != "t19" {
		t.Errorf("%d at a time, %d verdicts", most.Load(), len(r.Tables))
	}
}

// The status tells how far it is; a cancellation ends it soon.
func TestAuditIsCancelled(t *testing.T) {
	w := newWorld()
	env := environment(t, w)
	over := make(chan struct{})
	w.verify = func(context.Context) {
		if w.count("VerifyTable warehouse shop.customers id > 0 0") == 1 {
			<-over
		}
	}
	env.RegisterDelayedCallback(func() { // time passes as it does while an activity runs
		defer close(over)
		var st contract.AuditStatus
		if v, err := env.QueryWorkflow(contract.StatusQuery); err != nil || v.Get(&st) != nil || st.Total != 4 || len(st.Tables) != 1 || st.Done || st.Convergence != 1 {
			t.Errorf("%+v %v", st, err)
		}
		env.CancelWorkflow()
	}, 300*time.Millisecond)
	env.ExecuteWorkflow(Audit, contract.AuditInput{Pipeline: "shop"})
	if err := env.GetWorkflowError(); !temporal.IsCanceledError(err) {
		t.Error(err)
	}
	if w.count("ConcludeAudit 2 sinks, 0 failed") != 0 || len(w.names()) > 3 {
		t.Error("calls", w.names())
	}
}

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/dataplane/verify"
)

// ruin makes rows of transfers wrong at both sinks, each in another way, and returns
// how many. The load leaves them alone.
func (p *pipe) ruin() (keys int) {
	t := p.r.t
	t.Helper()
	const first = untouched + 1
	ids := func(n int) string { return strconv.Itoa(first + n) }
	for n := range 8 {
		p.r.exec(fmt.Sprintf("INSERT INTO shop.transfers VALUES (%s, 1, 2, %d.50, now())", ids(n), n))
	}
	p.r.exec("DELETE FROM shop.transfers WHERE id IN (" + ids(6) + ", " + ids(7) + ")")
	p.converged()
	// Missing, changed, and deleted at the source but alive at the sink.
	for _, q := range []string{
		"DELETE FROM shop.transfers WHERE id IN (" + ids(0) + ", " + ids(1) + ")",
		"UPDATE shop.transfers SET amount = 7.25 WHERE id = " + ids(2),
		"UPDATE shop.transfers SET amount = 0 WHERE id = " + ids(3),
		"INSERT INTO shop.transfers VALUES (" + ids(6) + ", 1, 2, 6.50, now()), (" + ids(7) + ", 1, 2, 7.50, now())",
	} {
		p.r.one(p.r.sinkDSN, q)
	}
	for _, q := range []string{
		"DELETE FROM %s.transfers WHERE id IN (" + ids(0) + ", " + ids(1) + ")",
		"ALTER TABLE %s.transfers UPDATE amount = 7.25 WHERE id = " + ids(2) + " SETTINGS mutations_sync = 1",
		"ALTER TABLE %s.transfers UPDATE amount = 0 WHERE id = " + ids(3) + " SETTINGS mutations_sync = 1",
		"ALTER TABLE %s.transfers UPDATE _deleted = 0 WHERE id IN (" + ids(6) + ", " + ids(7) + ") SETTINGS mutations_sync = 1",
	} {
		p.r.click(fmt.Sprintf(q, p.r.clickDB))
	}
	return 6
}

// keep runs a statement again and again, over a connection of its own, until stop,
// which returns how often.
func (r *rig) keep(every time.Duration, statement func(n int) string) (stop func() int) {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.source)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan int)
	go func() {
		n := 0
		for ctx.Err() == nil {
			if _, err := conn.Exec(context.WithoutCancel(ctx), statement(n)); err != nil {
				r.t.Errorf("writing all along: %v", err)
				break
			}
			n++
			select {
			case <-time.After(every):
			case <-ctx.Done():
			}
		}
		_ = conn.Close(context.WithoutCancel(ctx))
		done <- n
	}()
	var n int
	var once sync.Once
	stop = func() int {
		once.Do(func() {
			cancel()
			n = <-done
		})
		return n
	}
	r.t.Cleanup(func() { stop() })
	return stop
}

func (p *pipe) startRepair(id string, in contract.RepairInput) client.WorkflowRun {
	p.r.t.Helper()
	in.Pipeline, in.Who = p.name, "test"
	run, err := p.r.tc.ExecuteWorkflow(p.r.t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: contract.Queue(p.r.queue, contract.Control)}, contract.RepairWorkflow, in)
	if err != nil {
		p.r.t.Fatal(err)
	}
	p.r.t.Cleanup(func() {
		_ = p.r.tc.TerminateWorkflow(context.Background(), run.GetID(), run.GetRunID(), "the test is over")
	})
	return run
}

func (p *pipe) repaired(run client.WorkflowRun) (res contract.RepairResult) {
	p.r.t.Helper()
	ctx, cancel := context.WithTimeout(p.r.t.Context(), max(bound, p.r.patience))
	defer cancel()
	if err := run.Get(ctx, &res); err != nil {
		p.r.t.Fatalf("repair: %v", err)
	}
	for i := range res.Tables {
		v := &res.Tables[i]
		p.r.t.Logf("%s at %s: %s, %d keys, %d settled, made from %v, %d read, %d released, %d failed %s", v.Table, v.Sink, v.State, v.Keys, v.Settled, v.From, v.Read, v.Released, v.Failed, v.Reason)
	}
	return res
}

// free: nothing is held, and nothing is set aside.
func (p *pipe) free() {
	p.r.t.Helper()
	for name, k := range p.sinks() {
		ts, err := k.Tables(p.r.t.Context())
		if err != nil {
			p.r.t.Fatal(err)
		}
		for _, t := range ts {
			hs, err := k.Holds(p.r.t.Context(), t.ID)
			if err != nil || len(hs) > 0 {
				p.r.t.Errorf("%s holds %d keys of %s: %v", name, len(hs), t.ID, err)
			}
		}
		dead(p.r.t, name, p, k)
		_ = k.Close()
	}
}

// TestRepair: rows that are wrong in every way are found, planned, and repaired at both
// sinks while both are written to; the repaired keys themselves, too. What was done is in
// an audit trail.
func TestRepair(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fast = true
	r.seedShop(0.002)
	r.fleet()
	p := r.pipe(fewTables)
	for i := range p.spec.Sinks {
		p.spec.Sinks[i].QuarantineViews = true
	}
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	keys := p.ruin()
	endLoad := r.load(20)
	audit := p.verdicts(p.startAudit(contract.AuditInput{Tables: ids("shop.transfers")}), 1)
	for _, v := range audit.Tables {
		if v.Verdict != verify.Different || v.Findings() != keys || v.Missing != 2 || v.Changed != 2 || v.Extra != 2 {
			t.Errorf("%+v", v)
		}
	}
	plan := p.repaired(p.startRepair("repair/"+p.name+"/plan", contract.RepairInput{}))
	if plan.Applied || plan.Hash == "" || len(plan.Tables) != 2 {
		t.Fatalf("plan %+v", plan)
	}
	for i := range plan.Tables {
		// A row of ClickHouse that was changed in place has the version of the right one.
		if v := &plan.Tables[i]; v.Keys != keys || v.From["log"] == 0 || v.Sink == "pg" && v.From["log"] != keys {
			t.Errorf("plan of %s: %d keys, %v", v.Sink, v.Keys, v.From)
		}
	}
	var app interface{ Type() string }
	if err := p.startRepair("repair/"+p.name+"/other", contract.RepairInput{Plan: plan.Name, Hash: strings.Repeat("0", 64)}).Get(t.Context(), nil); !errors.As(err, &app) || app.Type() != "RepairPlanChanged" {
		t.Errorf("a plan by another hash: %v", err)
	}
	// More keys than nobody need approve.
	run := p.startRepair("repair/"+p.name, contract.RepairInput{Plan: plan.Name, Hash: plan.Hash, MaxKeys: 3, Why: "a drill"})
	until(t, bound, "the repair waits for an approval", func(ctx context.Context) error {
		v, err := r.tc.QueryWorkflow(ctx, run.GetID(), run.GetRunID(), contract.StatusQuery)
		var st contract.RepairResult
		if err == nil {
			err = v.Get(&st)
		}
		if err == nil && st.Awaits == "" {
			err = errors.New("it does not")
			if d, derr := r.tc.DescribeWorkflowExecution(ctx, run.GetID(), run.GetRunID()); derr == nil && d.WorkflowExecutionInfo.Status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
				t.Fatalf("the repair is over: %v", run.Get(ctx, nil))
			}
		}
		return err
	})
	h, err := r.tc.UpdateWorkflow(t.Context(), client.UpdateWorkflowOptions{WorkflowID: run.GetID(), UpdateName: contract.ApproveUpdate,
		WaitForStage: client.WorkflowUpdateStageCompleted, Args: []any{contract.Approval{Hash: plan.Hash, Who: "somebody"}}})
	if err == nil {
		err = h.Get(t.Context(), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	shown := p.watchHeld()
	// The keys themselves are written to meanwhile, all along.
	stop := r.keep(20*time.Millisecond, func(int) string {
		return fmt.Sprintf("UPDATE shop.transfers SET amount = amount + 1 WHERE id BETWEEN %d AND %d", untouched+1, untouched+6)
	})
	res := p.repaired(run)
	t.Logf("%d updates of the keys meanwhile", stop())
	if !res.Applied || res.Failed() > 0 || res.Approved == nil || len(res.Trails) != 2 {
		t.Errorf("result %+v", res)
	}
	for i := range res.Tables {
		if v := &res.Tables[i]; v.State != contract.RepairReleased || v.Released != keys {
			t.Errorf("%s: %+v", v.Sink, v)
		}
	}
	p.free()
	if pg, ch := shown(); pg != keys || ch != keys {
		t.Errorf("readers were shown %d and %d keys, of %d that were held", pg, ch, keys)
	}
	if after := p.verdicts(p.startAudit(contract.AuditInput{}), fewTablesIs-1); after.Convergence != 1 {
		t.Errorf("after the repair: %+v", after)
	}
	if again := p.repaired(p.startRepair("repair/"+p.name+"/again", contract.RepairInput{})); len(again.Tables) != 2 || again.Tables[0].Keys+again.Tables[1].Keys > 0 || again.Tables[0].Settled != keys {
		t.Errorf("a plan of what is repaired: %+v", again)
	}
	endLoad()
	p.converged()

	// The trail is whole; an edit of it is seen, and so is an end that was cut off.
	trail := func() map[string]string {
		t.Helper()
		var v contract.TrailVerdict
		run, err := r.tc.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{TaskQueue: contract.Queue(r.queue, contract.Control)}, contract.CheckTrailWorkflow, contract.TrailTask{Pipeline: p.name, Known: res.Trails})
		if err == nil {
			err = run.Get(t.Context(), &v)
		}
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for _, s := range v.Sinks {
			out[s.Sink] = s.Broken
			if s.Broken == "" && s.Entries < int64(keys)+6 {
				t.Errorf("%+v", s)
			}
		}
		return out
	}
	if got := trail(); !maps.Equal(got, map[string]string{"pg": "", "ch": ""}) {
		t.Errorf("trails %v", got)
	}
	r.one(r.sinkDSN, "UPDATE syncline.audit_trail SET actor = 'nobody' WHERE pipeline = '"+p.name+"' AND n = 2")
	if got := trail(); !strings.Contains(got["pg"], "entry 2") || got["ch"] != "" {
		t.Errorf("trails after an edit %v", got)
	}
	r.one(r.sinkDSN, "UPDATE syncline.audit_trail SET actor = 'test' WHERE pipeline = '"+p.name+"' AND n = 2")
	r.one(r.sinkDSN, "DELETE FROM syncline.audit_trail WHERE pipeline = '"+p.name+"' AND n = (SELECT max(n) FROM syncline.audit_trail WHERE pipeline = '"+p.name+"')")
	if got := trail(); !strings.Contains(got["pg"], "missing") {
		t.Errorf("trails after a cut %v", got)
	}
	p.keyless(run)

	// Without the option the views are gone, and the pipeline goes on.
	for i := range p.spec.Sinks {
		p.spec.Sinks[i].QuarantineViews = false
	}
	p.mustApply()
	until(t, bound, "the views are gone", func(ctx context.Context) error {
		n, err := scalar(ctx, r.sinkDSN, "SELECT count(*)::text FROM pg_views WHERE viewname LIKE '%\\_quarantined'")
		if ch := strings.TrimSpace(r.click("SELECT count() FROM system.tables WHERE database = '" + r.clickDB + "' AND name LIKE '%\\_quarantined'")); err == nil && (n != "0" || ch != "0") {
			err = fmt.Errorf("%s and %s are there", n, ch)
		}
		return err
	})
	p.converged()
}

// watchHeld looks at the views of held keys until the function that it returns is called,
// which tells how many keys each sink has shown. What Postgres shows is at every moment
// what its ledger holds; in the end neither shows any.
func (p *pipe) watchHeld() (stop func() (pg, ch int)) {
	t := p.r.t
	t.Helper()
	const inView = "SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), '') FROM shop.transfers_quarantined"
	both := "SELECT (" + inView + ") || '|' || (SELECT coalesce(string_agg(btrim(key, '(\")'), ' ' ORDER BY btrim(key, '(\")')::bigint), '') FROM syncline.repairs WHERE pipeline = '" + p.name + "' AND source_table = 'shop.transfers' AND held)"
	click := "SELECT arrayStringConcat(arrayMap(i -> toString(i), groupArray(id)), ' ') FROM " + p.r.clickDB + ".transfers_quarantined"
	if pg, ch := p.r.one(p.r.sinkDSN, both), strings.TrimSpace(p.r.click(click)); pg != "|" || ch != "" {
		t.Fatalf("before the repair readers are shown %q and %q", pg, ch)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	seen := [2]map[string]bool{{}, {}}
	note := func(n int, ids string) {
		for id := range strings.FieldsSeq(ids) {
			seen[n][id] = true
		}
	}
	watching.Go(func() {
		for ctx.Err() == nil {
			so, err := scalar(context.WithoutCancel(ctx), p.r.sinkDSN, both)
			view, ledger, _ := strings.Cut(so, "|")
			if err != nil || view != ledger {
				t.Errorf("readers are shown %q while %q are held: %v", view, ledger, err)
				return
			}
			note(0, view)
		}
	})
	watching.Go(func() {
		for ctx.Err() == nil {
			ids, err := p.r.tryClick(context.WithoutCancel(ctx), click)
			if err != nil {
				t.Errorf("ClickHouse: %v", err)
				return
			}
			note(1, ids)
		}
	})
	t.Cleanup(cancel)
	return func() (int, int) {
		t.Helper()
		cancel()
		watching.Wait()
		if pg, ch := p.r.one(p.r.sinkDSN, both), strings.TrimSpace(p.r.click(click)); pg != "|" || ch != "" {
			t.Errorf("after the repair readers are shown %q and %q", pg, ch)
		}
		return len(seen[0]), len(seen[1])
	}
}

// TestKillDuringRepair: whoever is killed at whatever step, the repair comes to its end,
// and so do the keys of one that is cancelled or that nobody ends.
func TestKillDuringRepair(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fast = true
	r.seedShop(0.002)
	f := r.fleet()
	p := r.pipe(fewTables)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	keys := p.ruin()
	endLoad := r.load(20)
	p.verdicts(p.startAudit(contract.AuditInput{Tables: ids("shop.transfers")}), 1)
	plan := p.repaired(p.startRepair("repair/"+p.name+"/plan", contract.RepairInput{}))
	run := p.startRepair("repair/"+p.name, contract.RepairInput{Plan: plan.Name, Hash: plan.Hash})
	// Each step of the first table, as it is begun.
	seen := map[string]bool{}
	for _, step := range []string{contract.QuarantineKeysActivity, contract.ReplayKeysActivity, contract.ReverifyKeysActivity, contract.ReleaseKeysActivity} {
		until(t, bound, step+" is under way, or over", func(ctx context.Context) error {
			it := r.tc.GetWorkflowHistory(ctx, run.GetID(), run.GetRunID(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
			for it.HasNext() {
				e, err := it.Next()
				if err != nil {
					return err
				}
				if a := e.GetActivityTaskScheduledEventAttributes(); a != nil && a.ActivityType.GetName() == step {
					return nil
				}
			}
			return errors.New("not begun")
		})
		if !seen[step] {
			seen[step] = true
			f.kill(contract.Snapshot)
			if step == contract.ReleaseKeysActivity {
				f.kill(contract.Deliver)
			}
		}
	}
	res := p.repaired(run)
	for i := range res.Tables {
		if v := &res.Tables[i]; v.State != contract.RepairReleased || v.Released != keys {
			t.Errorf("%s: %+v", v.Sink, v)
		}
	}
	p.free()
	// A repair that is cancelled while it holds keys lets them go.
	p.wrong("0.25")
	p.verdicts(p.startAudit(contract.AuditInput{Tables: ids("shop.transfers")}), 1)
	plan = p.repaired(p.startRepair("repair/"+p.name+"/plan", contract.RepairInput{}))
	ks := p.sinks()["pg"]
	defer func() { _ = ks.Close() }()
	run = p.startRepair("repair/"+p.name, contract.RepairInput{Plan: plan.Name, Hash: plan.Hash})
	until(t, bound, "keys are held", func(ctx context.Context) error {
		hs, err := ks.Holds(ctx, ids("shop.transfers")[0])
		d, derr := r.tc.DescribeWorkflowExecution(ctx, run.GetID(), run.GetRunID())
		if derr == nil && d.WorkflowExecutionInfo.Status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
			return nil // it was too quick to be met
		}
		if err == nil && len(hs) == 0 {
			err = errors.New("none")
		}
		return err
	})
	if err := r.tc.CancelWorkflow(t.Context(), run.GetID(), run.GetRunID()); err != nil {
		t.Fatal(err)
	}
	_ = run.Get(t.Context(), nil) // cancelled, or done already
	until(t, bound, "no key is held", func(ctx context.Context) error {
		hs, err := ks.Holds(ctx, ids("shop.transfers")[0])
		if err == nil && len(hs) > 0 {
			err = fmt.Errorf("%d are", len(hs))
		}
		return err
	})
	endLoad()
	p.free()
}

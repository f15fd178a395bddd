package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/proto"

	"syncline/activities/codec"
	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
)

// untouched is a transfer that the load leaves alone, of a number that is nowhere else.
const untouched = 734645217

// startAudit starts an audit as a Temporal client of any kind does.
func (p *pipe) startAudit(in contract.AuditInput) client.WorkflowRun {
	p.r.t.Helper()
	in.Pipeline = p.name
	run, err := p.r.tc.ExecuteWorkflow(p.r.t.Context(), client.StartWorkflowOptions{TaskQueue: contract.Queue(p.r.queue, contract.Control)}, contract.AuditWorkflow, in)
	if err != nil {
		p.r.t.Fatal(err)
	}
	p.r.t.Cleanup(func() { // one that goes on would keep its pipeline's servers busy
		_ = p.r.tc.TerminateWorkflow(context.Background(), run.GetID(), run.GetRunID(), "the test is over")
	})
	return run
}

// verdicts waits for an audit, which must have verified so many tables at each sink.
func (p *pipe) verdicts(run client.WorkflowRun, tables int) (res contract.AuditResult) {
	p.r.t.Helper()
	ctx, cancel := context.WithTimeout(p.r.t.Context(), max(bound, p.r.patience))
	defer cancel()
	begun := time.Now()
	if err := run.Get(ctx, &res); err != nil {
		p.r.t.Fatalf("audit: %v", err)
	}
	for _, v := range res.Tables {
		p.r.t.Logf("%s at %s: %s, %d rows in %d parts, %d differed at first, %d keys looked at: %d missing, %d extra, %d changed, %d twice %s",
			v.Table, v.Sink, v.Verdict, v.Rows, v.Parts, v.Differing, v.Suspects, v.Missing, v.Extra, v.Changed, v.Twice, v.Reason)
	}
	p.r.t.Logf("run %s: convergence %.2f after %s", res.Run, res.Convergence, time.Since(begun).Round(100*time.Millisecond))
	if want := tables * len(p.spec.Sinks); len(res.Tables) != want {
		p.r.t.Errorf("%d verdicts, want %d", len(res.Tables), want)
	}
	return res
}

// wrong makes one row wrong at both sinks, and right again when it is called with the
// difference taken back.
func (p *pipe) wrong(by string) {
	p.r.t.Helper()
	p.r.one(p.r.sinkDSN, "UPDATE shop.transfers SET amount = amount + "+by+" WHERE id = "+strconv.Itoa(untouched))
	p.r.click(fmt.Sprintf("ALTER TABLE %s.transfers UPDATE amount = amount + %s WHERE id = %d SETTINGS mutations_sync = 1", p.r.clickDB, by, untouched))
}

// found: of both sinks the audit says that the one row differs, in its amount, and
// every other table is equal.
func (p *pipe) found(res contract.AuditResult) {
	p.r.t.Helper()
	transfers := change.TableID{Schema: "shop", Name: "transfers"}
	for _, v := range res.Tables {
		want := contract.TableVerdict{Verdict: verify.Equal}
		if v.Table == transfers {
			want = contract.TableVerdict{Verdict: verify.Different, Changed: 1}
		}
		if v.Verdict != want.Verdict || v.Changed != want.Changed || v.Findings() != want.Changed || v.Columns["amount"] != want.Changed {
			p.r.t.Errorf("%+v", v)
		}
	}
	for name, k := range p.sinks() {
		all := 0
		ts, err := k.Tables(p.r.t.Context())
		if err != nil {
			p.r.t.Fatal(err)
		}
		for _, t := range ts {
			fs, err := k.(sink.Findings).Findings(p.r.t.Context(), res.Run, t.ID)
			if err != nil {
				p.r.t.Fatal(err)
			}
			all += len(fs)
			for _, f := range fs {
				key, err := f.Key.Values()
				if err != nil || t.ID != transfers || !slices.Equal(key, []string{strconv.Itoa(untouched)}) || f.Kind != verify.Changed || !slices.Equal(f.Columns, []string{"amount"}) {
					p.r.t.Errorf("%s: %s: %+v %v", name, t.ID, f, err)
				}
			}
		}
		if all != 1 {
			p.r.t.Errorf("%s has %d findings of the run, want 1", name, all)
		}
		_ = k.Close()
	}
}

// keyless: the history of an audit holds no key.
func (p *pipe) keyless(run client.WorkflowRun) {
	p.r.t.Helper()
	it := p.r.tc.GetWorkflowHistory(p.r.t.Context(), run.GetID(), run.GetRunID(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	events := 0
	for it.HasNext() {
		e, err := it.Next()
		if err != nil {
			p.r.t.Fatal(err)
		}
		events++
		if b, err := proto.Marshal(e); err != nil || bytes.Contains(b, []byte(strconv.Itoa(untouched))) {
			p.r.t.Errorf("a key is in the history: %v %v", e, err)
		}
	}
	p.r.t.Logf("%d events", events)
}

// TestAudit: while the source changes, an audit tells a true copy from one with a
// wrong row, says where that is, and takes nothing else for wrong.
func TestAudit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.recorded()
	r.seedShop(0.005)
	r.exec(fmt.Sprintf("INSERT INTO shop.transfers VALUES (%d, 1, 2, 3.50, now())", untouched))
	w := r.start()
	p := r.pipe(fewTables)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	endLoad := r.load(40)

	const tables = fewTablesIs - 1 // the journal has no key
	res := p.verdicts(p.startAudit(contract.AuditInput{}), tables)
	if res.Convergence != 1 || len(res.Skipped) != 2 || res.Skipped[0].Table.Name != "journal" {
		t.Errorf("a true copy: %+v", res)
	}
	first := res.Run
	p.wrong("0.25")
	run := p.startAudit(contract.AuditInput{Parallel: 2})
	res = p.verdicts(run, tables)
	p.found(res)
	p.keyless(run)
	second := res.Run
	p.wrong("-0.25")
	if res = p.verdicts(p.startAudit(contract.AuditInput{Tables: ids("shop.transfers"), Sinks: []string{"pg", "ch"}}), 1); res.Convergence != 1 {
		t.Errorf("after it was corrected: %+v", res)
	}
	// Of what changed since, all is equal, whatever is wrong with a row that did not.
	p.wrong("0.25")
	res = p.verdicts(p.startAudit(contract.AuditInput{Tables: ids("shop.transfers"), Changed: true}), 1)
	for _, v := range res.Tables {
		if v.Verdict != verify.Equal || v.Scope != contract.ScopeChanged {
			t.Errorf("what changed: %+v", v)
		}
	}
	p.wrong("-0.25")
	endLoad()
	// One that cannot be read for good has no verdict, and that is recorded, too.
	r.one(r.sinkDSN, "ALTER TABLE shop.addresses RENAME TO gone")
	res = p.verdicts(p.startAudit(contract.AuditInput{Tables: ids("shop.addresses", "shop.inventory")}), 2)
	if res.Count(verify.Equal) != 3 || res.Count(verify.Inconclusive) != 1 {
		t.Errorf("with a table that is gone: %+v", res)
	}
	third := res.Run
	r.one(r.sinkDSN, "ALTER TABLE shop.gone RENAME TO addresses")
	var app interface{ Type() string }
	if err := p.startAudit(contract.AuditInput{Tables: ids("shop.transfer")}).Get(t.Context(), nil); !errors.As(err, &app) || app.Type() != "TableNotInPipeline" {
		t.Errorf("a table that is not there: %v", err)
	}
	w.stop() // which hands over what it recorded last
	for q, want := range map[string]int64{
		"countIf(run = '" + first + "' AND verdict = 'equal')":                                                                    2 * tables,
		"countIf(run = '" + second + "' AND verdict = 'equal')":                                                                   2*tables - 2,
		"countIf(run = '" + second + "' AND verdict = 'different' AND differing = 1 AND reason LIKE '%amount%')":                  2,
		"countIf(run = '" + third + "' AND sink = 'pg' AND tab = 'shop.addresses' AND verdict = 'inconclusive' AND reason != '')": 1,
		"countIf(verdict = 'inconclusive')":                                                                                       1,
		"countIf(kind = 'changed' AND verdict = 'equal')":                                                                         2,
		"countIf(kind NOT IN ('full', 'changed') OR pipeline != '" + p.name + "')":                                                0,
		"count()": 2*2*tables + 2 + 2 + 4,
	} {
		if have := r.sum("SELECT " + q + " FROM {db}.verifications"); have != want {
			t.Errorf("%s: %d, want %d", q, have, want)
		}
	}
}

// under returns how far the verification of a table at a sink is; nil if none is under way.
func (p *pipe) under(run client.WorkflowRun, table, sink string) *contract.VerifyProgress {
	p.r.t.Helper()
	d, err := p.r.tc.DescribeWorkflowExecution(p.r.t.Context(), run.GetID(), run.GetRunID())
	if err != nil {
		p.r.t.Fatal(err)
	}
	for _, a := range d.PendingActivities {
		var v contract.VerifyProgress
		if a.ActivityType.GetName() == contract.VerifyTableActivity && codec.ConverterOf(p.r.tc).FromPayloads(a.HeartbeatDetails, &v) == nil && v.Table.String() == table && v.Sink == sink {
			return &v
		}
	}
	return nil
}

// resumes kills the worker that verifies a large table in its middle. The next attempt
// goes on from there: it tells of no fewer rows.
func (p *pipe) resumes(run client.WorkflowRun, f *fleet, table, sink string) {
	p.r.t.Helper()
	const middle, more = 15_000, 25_000
	until(p.r.t, bound, table+" is verified to its middle", func(context.Context) error {
		if v := p.under(run, table, sink); v == nil || v.Rows < middle {
			return fmt.Errorf("%+v", v)
		}
		return nil
	})
	time.Sleep(300 * time.Millisecond) // it is told first, and then recorded
	f.kill(contract.Snapshot)
	until(p.r.t, bound, table+" is verified on", func(context.Context) error {
		v := p.under(run, table, sink)
		switch {
		case v == nil: // the attempt has ended
			return nil
		case v.Rows > 0 && v.Rows < middle:
			p.r.t.Fatalf("it began anew: %+v", v)
		case v.Rows < more:
			return fmt.Errorf("%+v", v)
		}
		return nil
	})
}

// TestKillDuringAudit: an audit whose workers are killed comes to the same verdicts, and
// reads no table anew.
func TestKillDuringAudit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fast = true
	r.seedShop(0.005)
	r.exec(fmt.Sprintf("INSERT INTO shop.transfers VALUES (%d, 1, 2, 3.50, now())", untouched))
	r.exec("INSERT INTO shop.transfers SELECT 900000000 + i, 1, 2, 3.50, now() FROM generate_series(1, 40000) i")
	f := r.fleet()
	p := r.pipe(fewTables)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	endLoad := r.load(40)
	p.wrong("0.25")
	// Slow enough to be met at work: the first part alone waits for 5000 rows.
	run := p.startAudit(contract.AuditInput{RowsPerSecond: 2500, Parallel: 2})
	at := func(done int) {
		t.Helper()
		until(t, bound, fmt.Sprintf("the audit is at work after %d tables", done), func(ctx context.Context) error {
			d, err := r.tc.DescribeWorkflowExecution(ctx, run.GetID(), run.GetRunID())
			if err != nil {
				return err
			}
			if d.WorkflowExecutionInfo.Status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
				t.Fatalf("the audit is %s already", d.WorkflowExecutionInfo.Status)
			}
			v, err := r.tc.QueryWorkflow(ctx, run.GetID(), run.GetRunID(), contract.StatusQuery)
			if err != nil {
				return err
			}
			var st contract.AuditStatus
			if err := v.Get(&st); err != nil || len(st.Tables) < done {
				return fmt.Errorf("%d of %d tables, %v", len(st.Tables), st.Total, err)
			}
			for _, a := range d.PendingActivities {
				if a.ActivityType.GetName() == contract.VerifyTableActivity && a.State == enumspb.PENDING_ACTIVITY_STATE_STARTED {
					return nil
				}
			}
			return errors.New("no table is being verified")
		})
	}
	at(0)
	f.kill(contract.Snapshot)
	at(2)
	f.kill(contract.Control)
	at(4)
	f.kill(contract.Deliver)
	p.resumes(run, f, "shop.transfers", "pg")
	res := p.verdicts(run, fewTablesIs-1)
	p.found(res)
	p.keyless(run)
	endLoad()
}

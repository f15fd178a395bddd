package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/dataplane/change"
)

func (p *pipe) sync(since, until string, meanwhile func()) (res contract.BatchSyncResult, err error) {
	p.r.t.Helper()
	ctx, cancel := context.WithTimeout(p.r.t.Context(), bound)
	defer cancel()
	in := contract.BatchSyncInput{Spec: *p.spec, Column: "at", Tables: []change.TableID{{Schema: "public", Name: "job"}}}
	in.Since, in.Until = must(time.Parse(time.RFC3339Nano, since))(p.r.t), must(time.Parse(time.RFC3339Nano, until))(p.r.t)
	run, err := p.r.tc.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: contract.Queue(p.r.queue, contract.Control)}, contract.BatchSyncWorkflow, in)
	if err == nil && meanwhile != nil {
		meanwhile()
	}
	if err == nil {
		err = run.Get(ctx, &res)
	}
	return res, err
}

// Ranges of time are brought to empty sinks and over what is there, with a worker that is
// killed; a range that is brought again replaces itself; a table that streams is refused.
func TestBatchSync(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fast = true
	r.exec("CREATE TABLE job (id bigint PRIMARY KEY, at timestamptz, body text)",
		"INSERT INTO job SELECT i, timestamptz '2026-01-01 00:00Z' + i * interval '1 minute', 'one ' || i FROM generate_series(0, 2879) i",
		"INSERT INTO job VALUES (-1, NULL, 'never')")
	f := r.fleet()
	p := r.pipe("  include: [public.job]\n" + smallChunks)
	state := func() [2]string {
		t.Helper()
		const what = "count(*) || ' ' || min(id) || ' ' || max(id) || ' ' || sum(CASE WHEN body LIKE 'two%' THEN 1 ELSE 0 END)"
		return [2]string{r.one(r.sinkDSN, "SELECT "+what+" FROM job"),
			strings.TrimSpace(r.click("SELECT concat(toString(count()), ' ', toString(min(id)), ' ', toString(max(id)), ' ', toString(countIf(body LIKE 'two%'))) FROM " + r.clickDB + ".job_live"))}
	}
	want := func(what, is string) {
		t.Helper()
		if got := state(); got != [2]string{is, is} {
			t.Errorf("%s: the sinks have %q, want %s", what, got, is)
		}
	}
	rows := func(res contract.BatchSyncResult, err error, each int64) {
		t.Helper()
		if err != nil || len(res.Tables) != 2 || res.Tables[0].Rows != each || res.Tables[1].Rows != each || res.Rows != 2*each {
			t.Fatalf("%+v, %v, want %d rows each", res, err, each)
		}
	}
	res, err := p.sync("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", func() { f.kill(contract.Snapshot) })
	rows(res, err, 1440)
	want("the first day", "1440 0 1439 0")
	r.exec("UPDATE job SET body = 'two ' || id WHERE id BETWEEN 1400 AND 1499")
	res, err = p.sync("2026-01-01T23:20:00Z", "2026-01-02T12:00:00Z", nil) // from minute 1400 on
	rows(res, err, 760)
	want("with half of the second", "2160 0 2159 100")
	res, err = p.sync("2026-01-01T23:20:00Z", "2026-01-02T12:00:00Z", nil)
	rows(res, err, 760)
	want("once more", "2160 0 2159 100")
	res, err = p.sync("2027-01-01T00:00:00Z", "2027-01-02T00:00:00Z", nil)
	rows(res, err, 0)
	want("of a range without rows", "2160 0 2159 100")
	if n := r.one(r.sinkDSN, "SELECT count(*) FROM syncline.tables"); n != "0" {
		t.Errorf("%s tables are left in the ledger", n)
	}

	for i := range p.spec.Sinks {
		p.spec.Sinks[i].OnExisting = "truncate"
	}
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	if _, err := p.sync("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", nil); err == nil || !strings.Contains(err.Error(), "BatchSyncLive") {
		t.Error(fmt.Sprint("of a table that streams: ", err))
	}
}

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/trail"
)

// erase starts an erasure of keys, hands them over, and calls on while it is at it.
func (p *pipe) erase(in contract.EraseInput, keys contract.EraseKeys, meanwhile func()) (id string, res contract.EraseResult, err error) {
	p.r.t.Helper()
	ctx, cancel := context.WithTimeout(p.r.t.Context(), bound)
	defer cancel()
	in.Pipeline = p.name
	run, err := p.r.tc.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: contract.Queue(p.r.queue, contract.Control)}, contract.EraseWorkflow, in)
	if err != nil {
		return "", res, err
	}
	for !res.Waits {
		v, err := p.r.tc.QueryWorkflow(ctx, run.GetID(), "", contract.StatusQuery)
		if err != nil || v.Get(&res) != nil || res.Waits {
			if err != nil {
				return run.GetID(), res, err
			}
			continue
		}
		time.Sleep(50 * time.Millisecond)
	}
	sealed, err := contract.SealKeys(res.Public, keys)
	if err != nil {
		return run.GetID(), res, err
	}
	h, err := p.r.tc.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{WorkflowID: run.GetID(), UpdateName: contract.KeysUpdate, Args: []any{sealed}, WaitForStage: client.WorkflowUpdateStageCompleted})
	if err == nil {
		err = h.Get(ctx, nil)
	}
	if err != nil {
		return run.GetID(), res, err
	}
	if meanwhile != nil {
		meanwhile()
	}
	res = contract.EraseResult{}
	err = run.Get(ctx, &res)
	return run.GetID(), res, err
}

// What a subject had is found by none of the ways in which it could be found: not in the
// sinks' tables, with old versions and what deletes hide, not in the ledgers, nor in the
// texts that ClickHouse keeps of what it did, nor in Temporal's history. What is left is
// the log, and it is said until when. Others keep what they had; a worker that is killed
// changes nothing of that, and nothing changes when it is done again.
func TestErase(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fast = true
	const key, marker = "987654321", "planted-7c1f"
	r.exec("CREATE TABLE event (id bigint PRIMARY KEY, severity text NOT NULL, body text)",
		"INSERT INTO event SELECT i, 'info', 'b' || i FROM generate_series(1, 300) i",
		"INSERT INTO event VALUES ("+key+", 'info', '"+marker+" 0')")
	f := r.fleet()
	p := r.pipe("  include: [public.event]\n" + fastStream + hourly)
	p.spec.Kafka.Format = "debezium"
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	p.converged()
	// Of the key a change streams, others wait, and its row goes; at one sink there is a row
	// that the source never had.
	r.exec("UPDATE event SET severity = 'critical', body = '"+marker+" 1' WHERE id = "+key, "UPDATE event SET severity = 'info', body = '"+marker+" 2' WHERE id = "+key)
	id := change.TableID{Schema: "public", Name: "event"}
	row := func(id string) contract.EraseRow {
		return contract.EraseRow{Table: change.TableID{Schema: "public", Name: "event"}, Key: map[string]string{"id": id}}
	}
	keys := contract.EraseKeys{Salt: "a salt of the test", Rows: []contract.EraseRow{row(key), row("987654322")}}
	in := contract.EraseInput{Reason: "ticket 7", Who: "ann"}
	if _, _, err := p.erase(in, keys, nil); err == nil || !strings.Contains(err.Error(), "EraseAtSource") {
		t.Fatalf("of a row that is there: %v", err)
	}
	r.exec("DELETE FROM event WHERE id = " + key)
	if got := r.one(r.sinkDSN, "INSERT INTO event VALUES (987654322, 'info', '"+marker+" stray') RETURNING 'put'"); got != "put" {
		t.Fatal(got)
	}
	_, dry, err := p.erase(contract.EraseInput{Search: true}, keys, nil)
	if err != nil || dry.Left == 0 || r.one(r.sinkDSN, "SELECT count(*) FROM event WHERE id = 987654322") != "1" {
		t.Fatalf("a search: %+v, %v", dry, err)
	}

	workflow, res, err := p.erase(in, keys, func() { f.kill(contract.Snapshot) })
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]int64{}
	for _, pl := range res.Places {
		if strings.HasPrefix(pl.Place, "topic ") {
			left[pl.Place] = pl.After
			if pl.Until.Before(time.Now()) {
				t.Errorf("%+v", pl)
			}
		} else if pl.After != 0 {
			t.Errorf("%+v", pl)
		}
	}
	if len(left) != 2 || res.Left == 0 || res.Until.IsZero() || len(res.Plan.Tables) != 1 || len(res.Plan.Tables[0].Digests) != 2 {
		t.Errorf("%+v", res)
	}
	r.withoutTraces(p, workflow, key, marker)
	if a, b := r.one(r.sinkDSN, "SELECT count(*) FROM event"), strings.TrimSpace(r.click("SELECT count() FROM "+r.clickDB+".event FINAL WHERE _deleted = 0")); a != "300" || b != "300" {
		t.Errorf("%s and %s rows are left, want 300", a, b)
	}
	// The record of it, without the keys.
	for _, s := range p.sinks() {
		var is *trail.Entry
		if err := s.Trail(t.Context(), func(e trail.Entry) error {
			if e.Action == "erased" {
				is = &e
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if is == nil || is.Actor != "ann" || is.Table != id.String() || !strings.Contains(string(is.Detail), res.Plan.Tables[0].Digests[0]) || strings.Contains(string(is.Detail), key) {
			t.Errorf("%+v", is)
		}
	}

	// Again, and with a row of that key that has come since.
	r.exec("INSERT INTO event VALUES (" + key + ", 'critical', 'anew')")
	p.converged()
	if _, _, err := p.erase(in, keys, nil); err == nil || !strings.Contains(err.Error(), "EraseAtSource") {
		t.Errorf("of a row that has come: %v", err)
	}
	p.tier("hourly")
	p.converged()
	p.equal(1)
	r.exec("DELETE FROM event WHERE id = " + key)
	if _, res, err = p.erase(in, keys, nil); err != nil {
		t.Fatal(err)
	}
	p.converged()
	p.equal(1)
	r.withoutTraces(p, workflow, key, marker)
}

// withoutTraces looks for texts wherever a sink or the history could have them.
func (r *rig) withoutTraces(p *pipe, workflow string, texts ...string) {
	r.t.Helper()
	for _, text := range texts {
		for _, table := range strings.Fields(r.one(r.sinkDSN, "SELECT string_agg(format('%I.%I', schemaname, tablename), ' ') FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')")) {
			if n := r.one(r.sinkDSN, "SELECT count(*) FROM "+table+" t WHERE strpos(t::text, $1) > 0 OR strpos(t::text, encode($1::bytea, 'hex')) > 0", text); n != "0" {
				r.t.Errorf("%s rows of %s have %s", n, table, text)
			}
		}
		for _, table := range strings.Fields(r.click("SELECT concat(database, '.', name) FROM system.tables WHERE database IN ('syncline', '" + r.clickDB + "') AND engine LIKE '%MergeTree'")) {
			if n := strings.TrimSpace(r.click("SELECT countIf(position(toString(tuple(*)), '" + text + "') > 0) FROM " + table + " SETTINGS apply_deleted_mask = 0")); n != "0" {
				r.t.Errorf("%s rows of %s have %s", n, table, text)
			}
		}
		if n := strings.TrimSpace(r.click("SELECT countIf(position(command, '" + text + "') > 0) FROM system.mutations")); n != "0" {
			r.t.Errorf("%s mutations have %s", n, text)
		}
		for it := r.tc.GetWorkflowHistory(r.t.Context(), workflow, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); it.HasNext(); {
			e, err := it.Next()
			if err != nil {
				r.t.Fatal(err)
			}
			if b, _ := json.Marshal(e); strings.Contains(fmt.Sprint(e), text) || strings.Contains(string(b), text) {
				r.t.Errorf("event %d of %s has %s", e.EventId, p.name, text)
			}
		}
	}
}

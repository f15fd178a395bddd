package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/protobuf/encoding/protojson"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/pipeline"
)

// registerErase stands in for the activities of an erasure, with a key pair as they have one.
func (f *fakes) registerErase(reg func(string, any)) {
	priv, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	reg(contract.PlanBatchSyncActivity, func(_ context.Context, in contract.BatchSyncInput) (contract.BatchSyncPlan, error) {
		out := contract.BatchSyncPlan{Spec: in.Spec, Tables: in.Tables}
		return out, f.did(contract.PlanBatchSyncActivity, in.Until.Sub(in.Since))
	})
	reg(contract.OpenEraseActivity, func(_ context.Context, in contract.EraseTask) (contract.EraseOpened, error) {
		return contract.EraseOpened{Spec: pipeline.Spec{Name: in.Pipeline, Sinks: []pipeline.Sink{{Name: "warehouse"}}}, Public: priv.PublicKey().Bytes()}, f.did(contract.OpenEraseActivity, in.Reason)
	})
	reg(contract.PlanEraseActivity, func(_ context.Context, in contract.EraseTask) (contract.ErasePlan, error) {
		var keys contract.EraseKeys
		if in.Keys.IsZero() {
			text, err := contract.OpenKeys(priv.Bytes(), in.Sealed)
			if err == nil {
				err = json.Unmarshal(text, &keys)
			}
			if err != nil {
				return contract.ErasePlan{}, temporal.NewNonRetryableApplicationError(err.Error(), contract.EraseKeysError, nil)
			}
		}
		out := contract.ErasePlan{At: change.Position{Epoch: 1, Commit: 0x500}}
		for _, r := range keys.Rows {
			d, err := contract.KeyDigest(keys.Salt, r.Table, change.Key(r.Key["id"]))
			if err != nil {
				return out, err
			}
			out.Tables = append(out.Tables, contract.EraseTable{Table: r.Table, Keys: 1, Digests: []string{d}, Aggregates: []contract.EraseAggregates{{Tier: "bulk", ByKey: true}, {Tier: "days"}}})
		}
		return out, f.did(contract.PlanEraseActivity, len(out.Tables))
	})
	reg(contract.EraseAtActivity, func(_ context.Context, in contract.EraseSink) ([]contract.ErasePlace, error) {
		return []contract.ErasePlace{{Sink: in.Sink.Name, Place: "table shop.users", Before: 2}, {Sink: in.Sink.Name, Place: "aggregates shop.users_days_partials", Sums: true, Stays: "sums of tier days"}}, f.did(contract.EraseAtActivity, in.Search)
	})
	reg(contract.SearchLogActivity, func(_ context.Context, in contract.EraseTask) ([]contract.ErasePlace, error) {
		f.mu.Lock()
		left := f.left
		f.mu.Unlock()
		return []contract.ErasePlace{left}, f.did(contract.SearchLogActivity, in.Plan.At)
	})
	reg(contract.NoteEraseActivity, func(_ context.Context, in contract.EraseNote) error { return f.did(contract.NoteEraseActivity, in.Who) })
	reg(contract.ForgetEraseActivity, func(_ context.Context, in contract.EraseTask) error {
		return f.did(contract.ForgetEraseActivity, in.Name)
	})
}

func listErasures(pipeline string) *workflowservice.ListWorkflowExecutionsRequest {
	return &workflowservice.ListWorkflowExecutionsRequest{Query: "WorkflowType = '" + contract.EraseWorkflow + "' AND " + contract.PipelineAttribute + " = '" + pipeline + "'"}
}

func TestErase(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	s.starter("apply", s.file).exits(exitOK)
	s.streams()
	leaves := func(p contract.ErasePlace) {
		s.fakes.mu.Lock()
		defer s.fakes.mu.Unlock()
		s.fakes.left = p
	}
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	leaves(contract.ErasePlace{Place: "topic x", Before: 3, After: 3, Stays: "retention", Until: until})
	file := filepath.Join(t.TempDir(), "proof.json")
	row := []string{"erase", s.name, "--table", "shop.users", "--key", "id=planted4711"}
	s.starter(append(row, "--reason", "ticket 7", "--proof", file)...).exits(exitOK).
		says("table shop.users: 2 found, 0 after it", "topic x: 3 found, 3 after it; retention, until "+until.Format(time.RFC3339), "3 records left, the last until", "not reached: backups",
			"aggregates of tier bulk: their groups", "aggregates of tier days: they are by other columns", "aggregates shop.users_days_partials: sums of tier days")
	var p proof
	b, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(b, &p) != nil || p.Salt == "" || len(p.Plan.Tables) != 1 || len(p.Plan.Tables[0].Digests) != 1 || strings.Contains(string(b), "planted4711") {
		t.Fatalf("%s, %v", b, err)
	}
	if !s.fakes.called(contract.NoteEraseActivity) || !s.fakes.called(contract.ForgetEraseActivity) {
		t.Error(s.fakes.calls)
	}
	// Nothing of the key is in the history.
	list, err := s.c.ListWorkflow(t.Context(), listErasures(s.name))
	for err == nil && len(list.Executions) == 0 { // visibility comes later
		time.Sleep(50 * time.Millisecond)
		list, err = s.c.ListWorkflow(t.Context(), listErasures(s.name))
	}
	if err != nil {
		t.Fatal(err)
	}
	events := 0
	for it := s.c.GetWorkflowHistory(t.Context(), list.Executions[0].Execution.WorkflowId, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); it.HasNext(); events++ {
		e, err := it.Next()
		if err != nil {
			t.Fatal(err)
		}
		if text, err := protojson.Marshal(e); err != nil || strings.Contains(e.String(), "planted4711") || strings.Contains(string(text), "cGxhbnRlZDQ3MTE") {
			t.Errorf("%v: %s", err, text)
		}
	}
	if events < 10 {
		t.Errorf("%d events", events)
	}

	// A search says what is left, of those rows alone.
	s.starter(append(row, "--verify", file)...).exits(exitDifferent).says("topic x: 3 found", "3 records left")
	leaves(contract.ErasePlace{Place: "topic x"})
	s.starter(append(row, "--verify", file)...).exits(exitOK).says("nothing is left")
	s.starter("erase", s.name, "--table", "shop.users", "--key", "id=4712", "--verify", file).exits(exitFailed).says("the proof is of other rows")
	s.starter(append(row, "--dry-run")...).exits(exitOK).says("table shop.users: 2 found")

	leaves(contract.ErasePlace{Place: "ledger chunks", Before: 1, After: 1, Stays: "its load"})
	rows := write(t, "rows.yaml", `- {table: shop.users, key: {id: "1"}}
- {table: shop.orders, key: {id: "2"}}
`)
	var two proof
	r := s.starter("erase", s.name, "--file", rows, "--reason", "x", "--proof", file, "--json").exits(exitDifferent).object(&two)
	if len(two.Plan.Tables) != 2 || two.Left != 1 {
		t.Errorf("%s", r.out)
	}
	s.starter("erase", s.name, "--keys", "env:KEYS", "--reason", "x", "--proof", file).exits(exitDifferent)
	s.fakes.set(contract.PlanEraseActivity, temporal.NewNonRetryableApplicationError("still there", "EraseAtSource", nil))
	s.starter(append(row, "--reason", "x")...).exits(exitFailed).says("EraseAtSource")

	for _, c := range []struct{ args, want string }{
		{"--table shop.users --key id=1", "does not say why"},
		{"--reason x", "one of three ways"},
		{"--reason x --keys env:A --file b", "one of three ways"},
		{"--reason x --keys nothing", "--keys: "},
		{"--reason x --table users --key id=1", "name a table as schema.name"},
		{"--reason x --table shop.users", "does not say which row"},
		{"--reason x --table shop.users --key id", "not COLUMN=VALUE"},
		{"--reason x --table shop.users --key id=1 --key id=2", "not COLUMN=VALUE"},
		{"--reason x --file " + s.file, "is no list of rows"},
		{"--reason x --file /none", "cannot be read"},
		{"--table shop.users --key id=1 --verify /none", "cannot be read"},
	} {
		s.starter(append([]string{"erase", s.name}, strings.Fields(c.args)...)...).exits(exitInvalid).says(c.want)
	}
	s.starter("erase", "other", "--table", "shop.users", "--key", "id=1", "--verify", file).exits(exitInvalid).says("of pipeline")
}

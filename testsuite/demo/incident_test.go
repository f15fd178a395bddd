package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/trail"
	"syncline/dataplane/verify"
)

// The report of an incident says when, what, by whom, and of each key what it was and is.
func TestReport(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	id := change.TableID{Schema: "billing", Name: "payments"}
	key := func(text string) change.Key {
		k, err := change.ParseKey(text)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	so := &found{
		pipeline: "payments", made: at.Add(time.Minute),
		equal: &contract.AuditResult{Run: "run-1", At: at},
		audit: &contract.AuditResult{Run: "run-2", At: at.Add(2 * time.Minute), Tables: []contract.TableVerdict{
			{Sink: "orders", Table: id, Verdict: verify.Different, Missing: 1, Changed: 1}, {Sink: "analytics", Table: id, Verdict: verify.Equal}}},
		repair: contract.RepairResult{Name: "plan-3", Seconds: 4.25, Tables: []contract.RepairedTable{
			{RepairTable: contract.RepairTable{Sink: "orders", Table: id, Keys: 2, Missing: 1, Changed: 1}, Released: 2}}},
		keys: map[string]map[change.TableID][]sink.RepairKey{"orders": {id: {
			{Key: key(`("7")`), Kind: verify.Missing, From: "log", State: sink.Released, After: json.RawMessage(`{"id":"7","state":"paid","note":null}`)},
			{Key: key(`("8")`), Kind: verify.Changed, Columns: []string{"state"}, From: "source", State: sink.Released,
				Before: json.RawMessage(`{"id":"8","state":"a|b"}`), After: json.RawMessage(`{"id":"8","state":"paid"}`)},
		}}},
		trail: []trail.Entry{
			{N: 1, ID: "plan-3/began", At: at.Add(3 * time.Minute), Actor: "ann", Action: "began", Detail: json.RawMessage(`{"keys":2,"why":"ticket 7"}`)},
			{N: 2, ID: "plan-3/billing.payments/quarantined", At: at.Add(3 * time.Minute), Actor: "ann", Action: "quarantined", Table: id.String(), Detail: json.RawMessage(`{"keys":2}`)},
			{N: 3, ID: "plan-3/billing.payments/key/ab", At: at.Add(3 * time.Minute), Actor: "ann", Action: "released", Table: id.String()},
		},
	}
	text := string(report(so))
	for _, want := range []string{
		"| Began | between 03:04:05.000, when audit `run-1` found all equal, and 03:06:05.000 |",
		"| billing.payments at orders | 2 keys: 1 missing, 0 extra, 1 changed, 0 twice; 2 released, 0 failed |",
		"| 03:07:05.000 | began, 2 keys: ticket 7 (by ann, entry 1 of the audit trail) |",
		"| 03:07:05.000 | quarantined billing.payments, 2 keys (by ann, entry 2 of the audit trail) |",
		"Of 1 keys the log has every change", "The rows of 1 keys were read at the source", "billing.payments at analytics was equal",
		"| `(\"7\")` | missing | log | no row | id `7`, note NULL, state `paid` | released  |",
		"| `(\"8\")` | changed | source | state `a\\|b` | state `paid` | released  |",
		"1 entries of the audit trail tell of single keys",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

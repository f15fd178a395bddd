package view

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/verify"
	"syncline/pipeline"
)

func TestDrawAudit(t *testing.T) {
	r := &contract.AuditResult{Pipeline: "shop", Run: "20260301T120000Z-1b2c3d4e", At: noon, Tables: []contract.TableVerdict{
		{Sink: "warehouse", Table: id("customers"), Verdict: verify.Equal, Scope: contract.ScopeFull, Rows: 60_000, Parts: 7},
		{Sink: "warehouse", Table: id("items"), Verdict: verify.Equal, Scope: contract.ScopeChanged, Rows: 12, Parts: 2},
		{Sink: "analytics", Table: id("customers"), Verdict: verify.Equal, Rows: 60_000, Parts: 7},
		{Sink: "warehouse", Table: id("orders"), Verdict: verify.Different, Rows: 1_000_000, Parts: 31, Missing: 1, Extra: 2, Twice: 3, Changed: 9,
			Columns: map[string]int{"note": 9, "a": 1, "b": 1, "c": 1, "d": 1, "e": 2, "f": 1, "g": 1, "h": 1, "i": 1}, More: true},
		{Sink: "analytics", Table: id("orders"), Verdict: verify.Different, Rows: 40, Parts: 1, Changed: 1, Columns: map[string]int{"total": 1}, Reason: "TableMismatch: it was dropped"},
		{Sink: "warehouse", Table: id("stock"), Verdict: verify.Inconclusive, Reason: "the sink was not at 0/2A0 within 1m0s: partition 3 is at 1:0/100:7"},
	}, Skipped: []contract.AuditSkipped{
		{Sink: "warehouse", Table: id("events"), Reason: "it is append-only: no key tells its rows apart"},
		{Sink: "analytics", Table: id("events"), Reason: "it is append-only: no key tells its rows apart"},
		{Sink: "analytics", Table: id("stock"), Reason: "it is gated"},
	}}
	sinks := []pipeline.Sink{{Name: "warehouse", Type: pipeline.SinkPostgres}, {Name: "analytics", Type: pipeline.SinkClickHouse}, {Name: "other", Type: pipeline.SinkPostgres}}
	for name, s := range map[string]Style{"audit": plain, "audit.color": fancy} {
		var b bytes.Buffer
		DrawAudit(&b, s, r, sinks)
		goldenText(t, name, b.String())
		for line := range strings.Lines(b.String()) {
			if s.Width > 0 && !strings.Contains(line, "SELECT") && seen(strings.TrimSuffix(line, "\n")) > s.Width {
				t.Errorf("%s: too wide: %s", name, line)
			}
		}
	}
	st := &contract.AuditStatus{AuditResult: *r, Total: 8}
	var b bytes.Buffer
	DrawVerifying(&b, plain, &contract.AuditStatus{}, nil, noon)
	DrawVerifying(&b, plain, st, []contract.VerifyProgress{{Sink: "analytics", Table: id("stock"), Rows: 123, Parts: 1}, {Sink: "w", Table: id("x"), Findings: 2, Paused: "the source has 57 active sessions, limit 40"}}, noon.Add(90*time.Second))
	goldenText(t, "audit.progress", b.String())
}

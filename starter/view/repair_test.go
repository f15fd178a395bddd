package view

import (
	"bytes"
	"strings"
	"testing"

	"syncline/activities/contract"
	"syncline/pipeline"
)

const planned = "4c0a5e5b8f7e1d2c3b4a59687786950a1b2c3d4e5f60718293a4b5c6d7e8f901"

func samplePlan() *contract.RepairResult {
	r := &contract.RepairResult{Pipeline: "shop", Name: "20260301T120000Z-1b2c3d4e", Hash: planned, At: noon}
	for _, t := range []contract.RepairTable{
		{Sink: "warehouse", Table: id("orders"), Keys: 12, Missing: 1, Extra: 2, Changed: 9, Columns: map[string]int{"note": 9, "total": 1}, From: map[string]int{"log": 8, "source": 4}, Settled: 2},
		{Sink: "analytics", Table: id("orders"), Keys: 1, Twice: 1, From: map[string]int{"source": 1}, More: true},
		{Sink: "other", Table: id("orders"), Settled: 1},
	} {
		r.Tables = append(r.Tables, contract.RepairedTable{RepairTable: t, State: contract.RepairPlanned, Since: noon})
	}
	return r
}

func TestDrawRepair(t *testing.T) {
	sinks := []pipeline.Sink{{Name: "warehouse", Type: pipeline.SinkPostgres}, {Name: "analytics", Type: pipeline.SinkClickHouse}, {Name: "other", Type: pipeline.SinkPostgres}}
	done := samplePlan()
	done.Applied, done.Seconds = true, 12.3456
	done.Trails = []contract.TrailSink{{Sink: "warehouse", Entries: 19, Hash: planned}, {Sink: "analytics", Entries: 1, Hash: planned}}
	x := &done.Tables[0]
	x.State, x.Released, x.Failed, x.Read, x.Reason = contract.RepairFailed, 11, 1, 40, "1 of 12 keys could not be repaired: the ledger tells which, and why"
	x = &done.Tables[1]
	x.State, x.Released, x.Read = contract.RepairReleased, 1, 2
	for name, r := range map[string]*contract.RepairResult{
		"repair.plan": samplePlan(), "repair.applied": done,
		"repair.none":    {Pipeline: "shop", Tables: []contract.RepairedTable{}},
		"repair.settled": {Pipeline: "shop", Tables: samplePlan().Tables[2:]},
	} {
		for suffix, s := range map[string]Style{"": plain, ".color": fancy} {
			if suffix != "" && r.Hash == "" {
				continue
			}
			var b bytes.Buffer
			DrawRepair(&b, s, r, sinks)
			goldenText(t, name+suffix, b.String())
			for line := range strings.Lines(b.String()) {
				if s.Width > 0 && !strings.Contains(line, "SELECT") && !strings.Contains(line, "--hash") && seen(strings.TrimSuffix(line, "\n")) > s.Width {
					t.Errorf("%s: too wide: %s", name, line)
				}
			}
		}
	}
}

func TestDrawRepairing(t *testing.T) {
	var b bytes.Buffer
	DrawRepairing(&b, plain, &contract.RepairResult{Pipeline: "shop"})
	waits := samplePlan()
	waits.Awaits = "1300 keys are more than the 1000 that need no approval"
	narrow := fancy
	narrow.Width = 72
	DrawRepairing(&b, narrow, waits)
	if !strings.Contains(b.String(), planned) {
		t.Error("a hash that is cut cannot be approved")
	}
	under := samplePlan()
	under.Tables[0].State, under.Tables[1].State = contract.RepairReleased, contract.RepairQuarantined
	DrawRepairing(&b, fancy, under)
	DrawRepairing(&b, Style{Height: 1}, &contract.RepairResult{Tables: make([]contract.RepairedTable, 7)})
	goldenText(t, "repair.progress", b.String())
}

func TestDrawTrails(t *testing.T) {
	v := &contract.TrailVerdict{Pipeline: "shop", Sinks: []contract.TrailSink{
		{Sink: "warehouse", Entries: 19, Hash: planned}, {Sink: "one", Entries: 1, Hash: planned}, {Sink: "analytics"},
		{Sink: "lake", Entries: 4, Broken: "entry 5: it was edited, or is not of this trail: its hash is not that of what it says"},
	}}
	var b bytes.Buffer
	DrawTrails(&b, plain, v)
	DrawTrails(&b, Style{Color: true, Width: 60}, v)
	goldenText(t, "trails", b.String())
}

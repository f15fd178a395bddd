package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/analytics/bill"
	"syncline/dataplane/change"
	"syncline/pipeline"
	"syncline/starter/view"
)

const classified = `tiers: [{name: hourly, every: 1h, jitter: 2m}]
classify:
  - {match: shop.events, where: "severity in ('critical', 'error')", tier: stream}
  - {match: shop.events, columns: [hits], tier: hourly}
  - {match: shop.events, where: severity is not null, tier: hourly}
`

func TestExplain(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	col := func(name, base string) change.Column {
		return change.Column{Name: name, Type: change.Type{Name: base, Kind: change.Base, Base: base}}
	}
	id := change.TableID{Schema: "shop", Name: "events"}
	schema := &change.Schema{Table: id, Key: []int{0}, Columns: []change.Column{col("id", "int8"), col("severity", "text"), col("hits", "int4")}}
	s.fakes.report = contract.Report{OK: true, Tables: []contract.TableReport{{Table: id, Schema: schema}}}
	file := write(t, "tiers.yaml", declaration(s.name)+classified)
	explain := func(args ...string) result {
		t.Helper()
		return s.starter(append([]string{"tiers", "explain", file, "--table", "shop.events"}, args...)...)
	}
	explain("--row", `{"id": 1, "severity": "critical", "hits": 0}`).exits(exitOK).
		says("table shop.events", "yes  classify[0]: all changes where severity in ('critical', 'error'): stream", "tier stream: it goes at once, since classify[0] is the first that matches")
	explain("--row", `{"id": 1, "severity": "info", "hits": 0}`).exits(exitOK).
		says("no   classify[0]", "no   classify[1]: updates of only hits: hourly", "yes  classify[2]", "tier hourly: it waits for the next run, 1h at most and 2m of jitter")
	explain("--row", `{"id": 1, "severity": null}`).exits(exitOK).says("tier stream: it goes at once, since no rule matches it")
	explain("--row", `{"id": 1}`).exits(exitOK).says("open classify[0]", "cannot be decided by what the log carries")
	// Which columns an update changed is in the log of tables with REPLICA IDENTITY FULL only.
	update := []string{"--row", `{"id": 1, "severity": null, "hits": 2}`, "--old", `{"hits": 1}`}
	explain(update...).exits(exitOK).says("open classify[1]")
	schema.Full = true
	var e explained
	explain(append(update, "--json")...).exits(exitOK).object(&e)
	if e.Tier != "hourly" || e.Every != "1h" || e.Jitter != "2m" || len(e.Rules) != 2 || e.Rules[1] != (ruleSaid{1, "classify[1]: updates of only hits: hourly", "yes"}) {
		t.Errorf("%+v", e)
	}
	schema.Full = false
	explain("--row", `{"id": 1, "severity": "info"}`, "--deleted").exits(exitOK).says("open classify[0]", "tier stream")
	s.starter("tiers", "explain", file, "--table", "shop.orders", "--row", "{}").exits(exitOK).says("since classify gives no change of it to a tier that waits")

	// What sinks hold of a row is by the tier of its insertion, whatever changed it.
	thin := write(t, "thin.yaml", declaration(s.name)+strings.Replace(classified, "{name: hourly, every: 1h, jitter: 2m}", "{name: hourly, every: 1h}, {name: debug, every: 1d, omit: [hits], sample: {by: id, rate: 20%}}", 1)+
		"  - {match: shop.events, tier: debug}\n")
	schema.Full = true
	explainThin := func(args ...string) result {
		t.Helper()
		return s.starter(append([]string{"tiers", "explain", thin, "--table", "shop.events"}, args...)...)
	}
	explainThin("--row", `{"id": 1, "severity": null, "hits": 0}`).exits(exitOK).says("tier debug: it waits", "its row is of tier debug, without hits", "a sample of 20% of (id); this one is not in it: its row is not there")
	explainThin("--row", `{"id": 6, "severity": null, "hits": 2}`, "--old", `{"hits": 1}`).exits(exitOK).says("tier hourly: it waits", "its row is of tier debug, without hits", "this one is in it")
	explainThin("--row", `{"severity": null, "hits": 0}`).exits(exitOK).says("of this one the row does not tell")
	if out := explainThin("--row", `{"id": 1, "severity": "info", "hits": 0}`).exits(exitOK).out; strings.Contains(out, "sample") {
		t.Errorf("a row of another tier: %s", out)
	}
	schema.Full = false

	// Of a pipeline whose budget is spent it says what the tier promises now.
	s.file = write(t, "spent.yaml", declaration(s.name)+classified+"budget: {amount: 1 USD, slow: 3}\n")
	s.starter("apply", s.file).exits(exitOK)
	now := time.Now()
	if err := s.c.SignalWorkflow(t.Context(), contract.PipelineID(s.name), "", contract.BudgetSignal, bill.Budget{Standing: bill.Over, Amount: decimal.NewFromInt(1), Currency: "USD", Per: pipeline.PerMonth, Spent: decimal.NewFromInt(2), End: now.AddDate(0, 1, 0), At: now}); err != nil {
		t.Fatal(err)
	}
	s.until("the tiers are slowed", func(r result) bool {
		return strings.Contains(r.out, "up to 3 times as rarely (hourly every 3h, declared 1h)")
	}, "status", s.name)
	s.starter("status", s.name).exits(exitOK).says("budget: over, 2.00 of 1 USD a month")
	s.starter("tiers", "explain", s.name, "--table", "shop.events", "--row", `{"id": 1, "severity": "info", "hits": 0}`).exits(exitOK).
		says("tier hourly: it waits for the next run, 3h at most and 2m of jitter (declared 1h, and slowed since the budget is spent)")
	s.starter("destroy", s.name, "--yes").exits(exitOK)

	for _, c := range []struct{ args, want string }{
		{"--row {}", "explain needs a table and a row"},
		{"--table shop.events", "explain needs a table and a row"},
		{"--table events --row {}", "name it as schema.name"},
		{"--table other.events --row {}", "does not take table other.events"},
		{"--table shop.events --row {} --old {} --deleted", "exclude each other"},
		{`--table shop.events --row {"sev":1}`, `--row: table shop.events has no column "sev"; its columns are id, severity, hits`},
		{`--table shop.events --row {} --old []`, "--old: not a JSON object"},
		{`--table shop.events --row {"severity":"info","hits":"many"}`, ""},
	} {
		r := s.starter(append([]string{"tiers", "explain", file}, strings.Fields(c.args)...)...)
		if c.want != "" {
			r.exits(exitInvalid).says(c.want)
		}
	}
	s.starter("tiers").exits(exitInvalid).says("tiers takes a command")
	s.starter("tiers", "advice").exits(exitInvalid).says(`"advice" is not a command of tiers`)

	// A tier that keeps aggregates, of a table that rows are only added to.
	keeps := write(t, "keeps.yaml", declaration(s.name)+`tiers: [{name: bulk-hourly, every: 1h, aggregate: {group: [severity], values: [{column: hits, functions: [sum, p99]}]}}]
classify: [{match: shop.events, tier: bulk-hourly}]
`)
	s.starter("tiers", "explain", keeps, "--table", "shop.events", "--row", "{}").exits(exitInvalid).says("classify[0].tier: tier bulk-hourly: aggregate.group: table shop.events: the table is not append_only")
	schema.Key = nil
	s.starter("tiers", "explain", keeps, "--table", "shop.events", "--row", `{"severity": "info"}`).exits(exitOK).
		says("yes  classify[0]: all changes: bulk-hourly, as aggregates by severity: number of rows; sum, p99 of hits", "aggregates are kept in view events_bulk_hourly, and not the rows")
	schema.Key = []int{0}

	// A rule that does not fit the table, and a table that cannot be read.
	bad := write(t, "bad.yaml", declaration(s.name)+strings.Replace(classified, "severity is not null", "level = 1", 1))
	s.starter("tiers", "explain", bad, "--table", "shop.events", "--row", "{}").exits(exitInvalid).says(`classify[2].where: at character 1: table shop.events has no column "level"`)
	s.fakes.report = contract.Report{}
	explain("--row", "{}").exits(exitFailed).says("cannot be read at the source", "starter plan")
}

func TestTiersRun(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	s.file = write(t, "tiers.yaml", declaration(s.name)+classified)
	s.starter("apply", s.file).exits(exitOK)
	s.streams()
	s.starter("tiers", "run", s.name, "hourly").exits(exitOK).says("warehouse: 5 changes that waited in 1 table took effect, in 1.0 s", "analytics: ", "up to 1:0/500")
	var res contract.TierResult
	s.starter("tiers", "run", s.name, "hourly", "--json").exits(exitOK).object(&res)
	if res.Tier != "hourly" || len(res.Sinks) != 2 || res.Sinks[0].Waited != 5 {
		t.Errorf("%+v", res)
	}
	s.starter("tiers", "run", s.name, "hourli").exits(exitFailed).says(`has no tier "hourli" that waits; did you mean "hourly"?`)
	s.starter("tiers", "run", s.name).exits(exitInvalid).says("takes a pipeline name and a tier")
	s.starter("tiers", "run", "nothing", "hourly").exits(exitFailed).says(`no pipeline is called "nothing"`)
	skip := func(why string) {
		s.fakes.mu.Lock()
		defer s.fakes.mu.Unlock()
		s.fakes.skip = why
	}
	skip("the pipeline is paused")
	s.starter("tiers", "run", s.name, "hourly").exits(exitOK).says("nothing was done: the pipeline is paused")
	s.fakes.set(contract.DrainTierActivity, temporal.NewNonRetryableApplicationError("told to", "SinkPrivilege", nil))
	skip("")
	s.starter("tiers", "run", s.name, "hourly").exits(exitFailed).says("TierBehind", "SinkPrivilege")
	s.steersTiers()
	// A running pipeline can be asked by its name.
	s.starter("tiers", "explain", s.name, "--table", "shop.orders", "--row", "{}").exits(exitOK).says("tier stream")
	s.starter("destroy", s.name, "--yes").exits(exitOK).says("schedules of tiers")
}

// steersTiers lists, pauses and resumes a tier whose Schedule an activity would have made.
func (s *server) steersTiers() {
	s.t.Helper()
	s.starter("tiers", "list", s.name).exits(exitOK).says("hourly", "1h2m0s", "never", "no schedule: starter apply makes it", "late by 42s", "warehouse: 14 changes waiting, for ")
	s.starter("status", s.name).exits(exitOK).says("tier hourly late by 42s")
	s.starter("tiers", "pause", s.name, "hourly").exits(exitFailed).says("has no Schedule (fix: starter apply")
	id := contract.TierScheduleID(s.name, "hourly")
	_, err := s.c.ScheduleClient().Create(s.t.Context(), client.ScheduleOptions{ID: id, Spec: client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: time.Hour}}},
		Action: &client.ScheduleWorkflowAction{ID: id, Workflow: contract.BatchTierWorkflow, TaskQueue: contract.Queue(s.prefix, contract.Control), Args: []any{contract.TierInput{Pipeline: s.name, Tier: "hourly"}}}})
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() {
		if err := s.c.ScheduleClient().GetHandle(context.Background(), id).Delete(context.Background()); err != nil {
			s.t.Error(err)
		}
	}()
	s.starter("tiers", "list", s.name).exits(exitOK).says("scheduled", "in ")
	s.starter("tiers", "pause", s.name, "hourly", "--reason", "quarter end").exits(exitOK).says("paused: paused by ", ": quarter end")
	s.starter("tiers", "resume", s.name, "hourly").exits(exitOK).says("scheduled")
	if err := s.c.ScheduleClient().GetHandle(s.t.Context(), id).Trigger(s.t.Context(), client.ScheduleTriggerOptions{}); err != nil {
		s.t.Fatal(err)
	}
	s.until("the last run", func(r result) bool { return strings.Contains(r.out, " ago failed") }, "tiers", "list", s.name) // sinks are told to
	var v view.Tiers
	s.starter("tiers", "list", s.name, "--json").exits(exitOK).object(&v)
	if len(v.Tiers) != 1 || v.Tiers[0].Promise != "1h2m0s" || v.Tiers[0].Next.IsZero() || v.Tiers[0].LastRun == "" || len(v.Sinks) != 2 || v.Sinks[0].Waits != 14 ||
		len(v.Tiers[0].Fresh) != 2 || v.Tiers[0].Fresh[0].Changes != 6 || v.Tiers[0].Fresh[0].Waits != 14 || v.Tiers[0].Fresh[0].Late != 2 {
		s.t.Errorf("%+v", v)
	}
	s.starter("tiers", "pause", s.name, "hourli").exits(exitFailed).says(`did you mean "hourly"?`)
}

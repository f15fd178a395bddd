package main

import (
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/pipeline"
	"syncline/starter/view"
	"syncline/tiers/experiment"
	"syncline/tiers/simulate"
)

// advice is what a worker would say.
func advice() contract.AdviseResult {
	at := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	metrics := change.TableID{Schema: "shop", Name: "metrics"}
	tier := func(every time.Duration) contract.Declared {
		t := pipeline.Tier{Name: "every-" + pipeline.Duration(every).String(), Every: pipeline.Duration(every)}
		return contract.Declared{Name: "shop.metrics: all, every " + t.Every.String(), Tiers: []pipeline.Tier{t}, Classify: []pipeline.Class{{Match: "shop.metrics", Columns: []string{"hits"}, Tier: t.Name}}}
	}
	sinks := []contract.AdviseSink{{Sink: "warehouse"}, {Sink: "analytics"}}
	return contract.AdviseResult{From: at, To: at.Add(24 * time.Hour), Records: 9000, One: 4, Kept: 2250, Notes: []string{"the log has already deleted changes"},
		Tables: []contract.AdviseTable{{Table: metrics, Changes: 9000, Bytes: 3 << 20, Volatile: []string{"hits", "seen"}, Share: 0.93, Few: []simulate.Few{{Column: "severity", Values: 3, Shares: []float64{0.9, 0.07, 0.03}}}},
			{Table: change.TableID{Schema: "shop", Name: "orders"}, Changes: 10, Bytes: 900, Blind: true}},
		Candidates: []contract.AdviseCandidate{
			{Kind: contract.CandidateNow, Declared: contract.Declared{Name: "as it is"}, AdviseFigures: contract.AdviseFigures{Changes: 9010, Rows: 18_020, Bytes: 6 << 20, Sinks: sinks}},
			{Kind: contract.CandidateTable, Declared: tier(15 * time.Minute), AdviseFigures: contract.AdviseFigures{Changes: 9010, Waited: 9000, Rows: 2000, Bytes: 1 << 20, P50: 450, P95: 855, Max: 900, Promise: 900, Sinks: sinks}},
			{Kind: contract.CandidateTable, Declared: tier(time.Hour), AdviseFigures: contract.AdviseFigures{Changes: 9010, Waited: 9000, Rows: 500, Bytes: 1 << 18, P50: 1800, P95: 3420, Max: 3600, Promise: 3600, Sinks: sinks}},
			{Kind: contract.CandidateGiven, Declared: contract.Declared{Name: "--with other.yaml"}, DominatedBy: "as it is", AdviseFigures: contract.AdviseFigures{Changes: 9010, Rows: 18_020, Bytes: 6 << 20, Sinks: sinks}},
			{Kind: contract.CandidateTable, Declared: contract.Declared{Name: "shop.orders: all, every 1h"}, DominatedBy: "as it is", AdviseFigures: contract.AdviseFigures{Changes: 9010, Rows: 18_020, Bytes: 6 << 20, Max: 3000, Sinks: sinks}},
		}}
}

func TestAdvise(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	s.starter("apply", s.file).exits(exitOK)
	s.streams()
	s.fakes.advice = advice()
	s.starter("tiers", "advise", s.name).exits(exitOK).says(
		"9010 changes of 2 tables, from 2026-01-02 03:00 until 2026-01-03 03:00 UTC (1d)", "one of 4 keys was looked at", "note: the log has already deleted changes",
		"93% of its updates change only hits, seen", "column severity has 3 values, in 90%, 7%, 3% of the changes", "REPLICA IDENTITY FULL would tell",
		"→ shop.metrics: all, every 15m", "83.33%", "no better than as it is", "1 more save next to nothing", "with waits of at most 15m",
		"  - {name: every-15m, every: 15m}", `  - {match: "shop.metrics", columns: ["hits"], tier: every-15m}`)
	s.starter("tiers", "advise", s.name, "--within", "2h", "--all").exits(exitOK).says("→ shop.metrics: all, every 1h", "shop.orders: all, every 1h")
	s.starter("tiers", "advise", s.name, "--within", "1m").exits(exitOK).says("with waits of at most 1m nothing writes less than what is declared")

	// By prices, what is read of the log counts too, and what has no price is named.
	prices := write(t, "prices.yaml", `version: 1
currency: EUR
unit: GB
routes:
  - {name: within, from: eu, to: same, prices: [{from: 2026-01-01, price: 0}]}
  - {name: out, from: eu, to: us, prices: [{from: 2026-01-01, price: 0.50}]}
`)
	s.fakes.advice.Region = "eu"
	for i := range s.fakes.advice.Candidates {
		for n := range s.fakes.advice.Candidates[i].Sinks {
			c := &s.fakes.advice.Candidates[i]
			c.Sinks = append([]contract.AdviseSink(nil), c.Sinks...)
			c.Sinks[n].Bytes = c.Bytes * 500
		}
	}
	var priced view.Advice
	s.starter("tiers", "advise", s.name, "--prices", prices, "--json").exits(exitOK).object(&priced)
	if p := priced.Prices; p == nil || p.Currency != "EUR" || len(p.Costs) != 5 || p.Costs[0] != 0 || len(p.Unpriced) != 2 {
		t.Errorf("regions that nobody said: %+v", p)
	}
	file := write(t, "regions.yaml", strings.NewReplacer("127.0.0.1:9092\"]", "127.0.0.1:9092\"], region: eu", "name: warehouse,", "name: warehouse, region: us,", "name: analytics,", "name: analytics, region: eu,").Replace(declaration(s.name)))
	s.starter("apply", file).exits(exitOK)
	s.starter("tiers", "advise", s.name, "--prices", prices).exits(exitOK).says("EUR", "1.57", "0.26", "the least is paid with", "costs are of the bytes")
	s.starter("tiers", "advise", s.name, "--prices", file).exits(exitInvalid)
	s.starter("tiers", "advise", s.name, "--prices", "nowhere.yaml").exits(exitInvalid).says("the price table cannot be read")
	s.starter("apply", s.file).exits(exitOK)

	other := write(t, "other.yaml", declaration(s.name)+classified)
	var a view.Advice
	s.starter("tiers", "advise", s.name, "--with", other, "--sample", "1/10", "--max-bytes", "1GiB", "--since", "2h", "--until", "1h", "--json").exits(exitOK).object(&a)
	if a.Recommend != "shop.metrics: all, every 15m" || len(a.Candidates) != 5 || a.Pipeline != s.name {
		t.Errorf("%+v", a)
	}
	in := s.fakes.advised[len(s.fakes.advised)-1]
	if in.One != 10 || in.MaxBytes != 1<<30 || in.Until.Sub(in.Since) != time.Hour || len(in.With) != 1 || in.With[0].Name != "--with other.yaml" || len(in.With[0].Tiers) != 1 || len(in.With[0].Classify) != 3 {
		t.Errorf("%+v", in)
	}

	more := write(t, "more.yaml", strings.Replace(declaration(s.name), "name: analytics,", "name: analytics, lanes: 3,", 1)+classified)
	foreign := write(t, "foreign.yaml", declaration("other")+classified)
	for _, c := range []struct {
		args, want string
		code       int
	}{
		{"--with " + more, "more than tiers and classify: sinks[analytics].lanes", exitInvalid},
		{"--with " + foreign, "is a declaration of pipeline other", exitInvalid},
		{"--with nowhere.yaml", "cannot be read", exitInvalid},
		{"--sample 10", `--sample is "10" (fix: write it like 1/10`, exitInvalid},
		{"--sample 1/0", "--sample", exitInvalid},
		{"--max-bytes lots", "--max-bytes", exitInvalid},
		{"--since tomorrow", "--since", exitInvalid},
		{"--since 1h --until 2h", "not before --until", exitInvalid},
		{"--within 1s", "want at least 10s", exitInvalid},
		{strings.Repeat("--with "+other+" ", 8), "--with is given 8 times (fix: at most 7 at once)", exitInvalid},
	} {
		s.starter(append([]string{"tiers", "advise", s.name}, strings.Fields(c.args)...)...).exits(c.code).says(c.want)
	}
	s.starter("tiers", "advise").exits(exitInvalid).says("one pipeline name")
	s.starter("tiers", "advise", "nothing").exits(exitFailed).says(`no pipeline is called "nothing"`)
	s.fakes.set(contract.AdviseTiersActivity, temporal.NewNonRetryableApplicationError("no change of it is in the log", "NoTraffic", nil))
	s.starter("tiers", "advise", s.name).exits(exitFailed).says("NoTraffic")
}

func TestExperiment(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	s.starter("apply", s.file).exits(exitOK)
	s.streams()
	r := advice()
	known := func(v, low, high float64) experiment.Estimate {
		return experiment.Estimate{Known: true, Value: v, Low: low, High: high}
	}
	arm := func(name, class string, wait experiment.Estimate) contract.ExperimentArm {
		return contract.ExperimentArm{Arm: name, Classification: class, Entities: 300, Units: 200, Changes: 3000, Measured: []contract.ExperimentMeasured{
			{Quantity: contract.BytesPerChange, Estimate: known(100, 95, 105)}, {Quantity: contract.WaitPerChange, Estimate: wait}}}
	}
	differs := func(name, what string, e experiment.Estimate) contract.ExperimentDifference {
		return contract.ExperimentDifference{Arm: name, ExperimentMeasured: contract.ExperimentMeasured{Quantity: what, Estimate: e}}
	}
	r.Experiment = &contract.ExperimentResult{Moments: 24, Unassigned: 2, ExperimentInput: contract.ExperimentInput{Table: r.Tables[0].Table, Salt: "pepper", Entity: []string{"device"}},
		Arms: []contract.ExperimentArm{arm("A", "as it is", known(0, 0, 0)), arm("A'", "as it is", known(0, 0, 0)), arm("B", "--with other.yaml", known(450, 430, 470))},
		Differences: []contract.ExperimentDifference{differs("A'", contract.BytesPerChange, known(1, -4, 6)), differs("A'", contract.WaitPerChange, known(0, 0, 0)),
			differs("B", contract.BytesPerChange, known(-40, -50, -30)), differs("B", contract.WaitPerChange, known(450, 430, 470))}}
	s.fakes.advice = r
	other := write(t, "other.yaml", declaration(s.name)+classified)
	try := func(more ...string) result {
		return s.starter(append([]string{"tiers", "experiment", s.name, "--table", "shop.metrics", "--with", other}, more...)...)
	}
	try("--entity", "device", "--sum", "hits", "--salt", "pepper").exits(exitOK).says("entities by device of shop.metrics", `salt "pepper"`, "note: in no arm: 2 keys of which", "+1.0% (-4.0% to +6.0%), may be chance",
		"-40.0% (-50.0% to -30.0%)", "450 (430 to 470)", "differ by no more than chance explains", "at 24 moments")
	in := s.fakes.advised[len(s.fakes.advised)-1]
	if x := in.Experiment; x == nil || x.Table.Name != "metrics" || x.Sum != "hits" || len(x.Entity) != 1 || x.Salt != "pepper" || len(in.With) != 1 {
		t.Errorf("%+v", in)
	}
	r.Experiment.Off = []string{contract.BytesPerChange}
	try().exits(exitOK).says("A and A' differ in bytes per change although they were treated alike")
	if in := s.fakes.advised[len(s.fakes.advised)-1]; in.Experiment.Salt != s.name {
		t.Errorf("%+v", in.Experiment)
	}
	r.Experiment.Arms[2].Units, r.Experiment.Arms[2].Entities = 3, 3
	try().exits(exitOK).says("arm B is of 3: of fewer than 10 entities")
	var out contract.AdviseResult
	if try("--json").exits(exitOK).object(&out); out.Experiment == nil || len(out.Experiment.Arms) != 3 {
		t.Errorf("%+v", out)
	}
	s.starter("tiers", "experiment", s.name, "--with", other).exits(exitInvalid).says("an experiment is on one table")
	s.starter("tiers", "experiment", s.name, "--table", "shop.metrics").exits(exitInvalid).says("there is nothing to compare")
	s.starter("tiers", "experiment", s.name, "--table", "metrics", "--with", other).exits(exitInvalid).says("name it as schema.name")
}

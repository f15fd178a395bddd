package main

import (
	"testing"

	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/analytics/bill"
)

func TestCost(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	s.starter("cost", "prices", "show").exits(exitFailed).says("no price table was applied (fix: starter cost prices apply FILE")
	s.starter("cost", "prices", "apply", "../examples/prices.yaml", "--why", "ticket 7").exits(exitOK).says("prices v1 count from now on")
	s.starter("cost", "prices", "apply", "../examples/prices.yaml").exits(exitOK).says("prices v1 count already, since")
	s.starter("cost", "prices", "show").exits(exitOK).says("# v1 in USD, applied ", ": ticket 7", "name: same-region")
	var p contract.PricesResult
	s.starter("cost", "prices", "show", "--json").exits(exitOK).object(&p)
	if len(p.Applied) != 1 || p.Applied[0].Why != "ticket 7" {
		t.Errorf("%+v", p)
	}
	s.starter("cost", "shop").exits(exitOK).says("shop from ", "(30d)", "in USD", "tier", "stream", "7.00", "no forecast: too little")
	s.starter("cost", "nobody").exits(exitFailed).says(`no pipeline is called "nobody"`)
	s.starter("cost", "--by", "route", "--since", "2026-01-01", "--until", "2026-01-02").exits(exitOK).says("all pipelines from 2026-01-01 00:00 until 2026-01-02 00:00")
	var r bill.Report
	s.starter("cost", "--json", "--by", "day").exits(exitOK).object(&r)
	if r.Currency != "USD" || r.Total.Cost.String() != "7" || len(r.By) != 1 {
		t.Errorf("%+v", r)
	}
	s.starter("cost", "reprice", "--from", "2026-01-01", "--until", "2026-01-02").exits(exitOK).says("priced 24 hours from 2026-01-01 00:00 until 2026-01-02 00:00", "+3.00")
	s.starter("cost", "reprice", "--from", "30d", "--dry-run", "--prices", "../examples/prices.yaml").exits(exitOK).says("would price", "nothing was written")
	if !s.fakes.called("PriceHours false false") || !s.fakes.called("PriceHours true true") {
		t.Errorf("%v", s.fakes.calls)
	}
	s.fakes.set(contract.ReportCostActivity, temporal.NewNonRetryableApplicationError("NoPrices: no price table was applied (fix: starter cost prices apply FILE)", "NoPrices", nil))
	var f failure
	s.starter("cost", "--json").exits(exitFailed).object(&f)
	if f.Code != "NoPrices" {
		t.Errorf("%+v", f)
	}
}

// Wrong input is named before anything is asked of Temporal.
func TestCostInput(t *testing.T) {
	bad := write(t, "p.yaml", "version: 1\ncurrency: USD\nunit: Gb\nroutes: []\n")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"a", "b"}, "cost takes at most one pipeline name, not 2 arguments"},
		{[]string{"--by", "colour"}, `--by has "colour" (fix: name one to three of pipeline, table`},
		{[]string{"--by", "tabel"}, `did you mean "table"?`},
		{[]string{"--by", "tier,tier"}, `--by has "tier" twice`},
		{[]string{"--by", "tier,table,sink,route"}, "--by names 4 things"},
		{[]string{"--since", "soon"}, `--since is "soon", which is no time`},
		{[]string{"prices"}, "cost prices takes a command (fix: starter cost prices apply FILE"},
		{[]string{"prices", "drop"}, `"drop" is not a command of cost prices`},
		{[]string{"prices", "apply", bad}, `:3:7: unit: is the text "Gb"; expected one of GB, GiB; did you mean "GB"?`},
		{[]string{"prices", "apply", bad}, "starter: 1 mistake in the price table"},
		{[]string{"prices", "apply", "missing.yaml"}, "the price table cannot be read: "},
		{[]string{"reprice"}, "reprice needs a beginning (fix: add --from TIME"},
		{[]string{"reprice", "--from", "1d", "--prices", "x.yaml"}, "--prices is for --dry-run"},
		{[]string{"reprice", "--from", "1d", "--until", "2d"}, "--from 1d is not before --until 2d"},
	} {
		starter(t, append([]string{"cost"}, c.args...)...).exits(exitInvalid).says(c.want)
	}
}

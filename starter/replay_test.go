package main

import (
	"strings"
	"testing"

	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/dataplane/verify"
)

func TestReplay(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	s.starter("apply", s.file).exits(exitOK)
	s.streams()
	ask := []string{"replay", s.name, "--table", "shop.orders", "--sink", "warehouse", "--to", "orders_again"}
	s.starter(ask...).exits(exitOK).says("orders_again at warehouse: 7 changes of shop.orders", "1 change set aside")
	var res contract.ReplayResult
	s.starter(append(ask, "--since", "1:0/16:1", "--json")...).exits(exitOK).object(&res)
	if res.Changes != 7 || res.To != "orders_again" || !s.fakes.called(contract.PlanReplayActivity+" 1:0/16:1") || !s.fakes.called(contract.ForgetReplayActivity+" false") {
		t.Errorf("%+v %v", res, s.fakes.calls)
	}
	s.fakes.compared(&contract.Compared{Verdict: verify.Equal, Both: 5, OnlyLive: 2, Loaded: 3})
	s.starter(ask...).exits(exitOK).says("equal: 5 rows alike, 0 different, 2 only in the live table, 0 only in the new one", "the live table's load brought 3 rows")
	s.fakes.compared(&contract.Compared{Verdict: verify.Different, Both: 5, Different: 1})
	s.starter(ask...).exits(exitDifferent).says("different: 5 rows alike, 1 different")
	s.fakes.compared(&contract.Compared{Verdict: verify.Inconclusive, Reason: "the live table went on"})
	s.starter(ask...).exits(exitInconclusive).says("the live table went on")
	s.fakes.compared(nil)
	s.fakes.set(contract.ReplayTableActivity, temporal.NewNonRetryableApplicationError("ReplayTableExists: it is there (fix: x)", "ReplayTableExists", nil))
	var f failure
	s.starter(append(ask, "--json")...).exits(exitFailed).object(&f)
	if f.Code != "ReplayTableExists" || !s.fakes.called(contract.ForgetReplayActivity+" true") {
		t.Errorf("%+v", f)
	}
	s.fakes.set(contract.ReplayTableActivity, nil)
	s.starter("replay", s.name, "--table", "shop.order", "--sink", "warehouse", "--to", "x").exits(exitFailed).says(`did you mean "shop.orders"?`)
	open := s.fakes.gate(contract.ReplayTableActivity)
	defer open()
	s.starter(append(ask, "--timeout", "1s")...).exits(exitFailed).says("no result within 1s; the replay goes on as workflow replay/" + s.name + "/")
	var d map[string]string
	s.starter(append(ask, "--detach", "--json")...).exits(exitOK).object(&d)
	if !strings.HasPrefix(d["workflow"], "replay/"+s.name+"/") {
		t.Errorf("%v", d)
	}
	open()
	s.starter("destroy", s.name, "--yes").exits(exitOK)
}

// Wrong input is named before anything is asked of Temporal.
func TestReplayInput(t *testing.T) {
	ok := []string{"a", "--table", "s.t", "--sink", "w", "--to", "x"}
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "replay takes one pipeline name, not 0 arguments"},
		{[]string{"a"}, "replay of which table? (fix: --table schema.name)"},
		{[]string{"a", "--table", "s.t"}, "replay at which sink? (fix: --sink NAME)"},
		{[]string{"a", "--table", "s.t", "--sink", "w"}, "a replay into the live table is not possible (fix: --to NEWTABLE"},
		{[]string{"a", "--table", "t", "--sink", "w", "--to", "x"}, `table "t": want schema.name (fix: `},
		{append(ok, "--since", "yesterday"), `--since: "yesterday" is neither a position (epoch:LSN:ordinal) nor a time`},
		{append(ok, "--until", "1:2"), `--until: "1:2" is neither`},
	} {
		starter(t, append([]string{"replay"}, c.args...)...).exits(exitInvalid).says(c.want)
	}
}

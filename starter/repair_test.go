package main

import (
	"errors"
	"strings"
	"testing"

	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
)

func TestRepair(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	s.starter("repair", s.name, "--plan").exits(exitFailed).says(`no pipeline is called "` + s.name + `"`)
	s.starter("apply", s.file).exits(exitOK)
	s.streams()

	s.starter("repair", s.name, "--plan").exits(exitOK).says("warehouse", "shop.orders", "planned", "3 changed", "3 from the log", "FROM syncline.repairs WHERE pipeline = '"+s.name+"'",
		"starter repair "+s.name+" --apply 2", "--hash h1 --why")
	var plan contract.RepairResult
	s.starter("repair", s.name, "--plan", "--audit", "run1", "--json").exits(exitOK).object(&plan)
	if plan.Applied || plan.Hash != "h1" || plan.Name == "" || !s.fakes.called(contract.PlanRepairActivity+" run1") || s.fakes.called(contract.NoteRepairActivity+" began ann") {
		t.Errorf("%+v", plan)
	}
	apply := []string{"repair", s.name, "--apply", plan.Name, "--hash", plan.Hash, "--who", "ann"}
	s.starter(apply...).exits(exitOK).says("released", "3 from the log", "3 of 3 keys released, 0 failed", "audit trail of warehouse: 7 entries")
	if !s.fakes.called(contract.LoadRepairActivity+" "+plan.Name+" h1") || !s.fakes.called(contract.NoteRepairActivity+" ended ann") {
		t.Error("calls", s.fakes.calls)
	}
	s.starter("repair", s.name, "--plan", "--table", "shop.order").exits(exitFailed).says(`did you mean "shop.orders"?`)

	// Only one is carried out at a time, and one that waits for its approval says so.
	s.starter("repair", s.name, "--approve", "--hash", "h1").exits(exitFailed).says("no repair of pipeline " + s.name + " is under way")
	waits := make(chan result)
	go func() { waits <- s.starter(append(apply, "--max-keys", "2")...) }()
	s.until("the approval is awaited", func(r result) bool { return strings.Contains(r.err, "RepairPlanChanged") }, "repair", s.name, "--approve", "--hash", "h2")
	s.starter(apply...).exits(exitFailed).says("a repair of pipeline " + s.name + " is under way (fix: temporal workflow result --workflow-id repair/" + s.name)
	s.starter("status", s.name).exits(exitOK).says("repair ", "waits for an approval", "--approve --hash")
	s.starter(append(apply[:2:2], "--approve", "--hash", "h1", "--timeout", "30s")...).exits(exitOK).says("approved: the repair of " + s.name + " goes on")
	(<-waits).exits(exitOK).says("3 of 3 keys released")

	s.fakes.set(contract.ReverifyKeysActivity, temporal.NewNonRetryableApplicationError("KeyNotHeld: it lapsed (fix: x)", "KeyNotHeld", nil))
	s.starter(apply...).exits(exitDifferent).says("failed", "KeyNotHeld: it lapsed (fix: x)", "0 of 3 keys released, 3 failed")
	s.fakes.set(contract.ReverifyKeysActivity, nil)
	s.fakes.set(contract.LoadRepairActivity, temporal.NewNonRetryableApplicationError("RepairPlanChanged: no (fix: x)", contract.RepairPlanChangedError, nil))
	var f failure
	s.starter(append(apply, "--json")...).exits(exitFailed).object(&f)
	if f.Code != contract.RepairPlanChangedError {
		t.Errorf("%+v", f)
	}

	s.starter("audit-trail", "verify", s.name).exits(exitOK).says("warehouse: whole, 7 entries, the last is abc", "analytics: no entries, nothing was repaired")
	s.until("the ends of repairs are found", func(result) bool { return s.fakes.called(contract.CheckTrailActivity + " 3") }, "audit-trail", "verify", s.name)
	s.fakes.set(contract.CheckTrailActivity, errors.New("as if"))
	s.starter("audit-trail", "verify", s.name).exits(exitDifferent).says("warehouse: broken: entry 3: it is not what was written")
	s.starter("destroy", s.name, "--yes").exits(exitOK)
}

// Wrong input is named before anything is asked of Temporal.
func TestRepairInput(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", "repair takes one pipeline name, not 0 arguments"},
		{"a", "repair takes one of --plan, --apply PLAN and --approve (fix: begin with --plan)"},
		{"a --plan --approve", "repair takes one of --plan"},
		{"a --plan --apply p", "repair takes one of --plan"},
		{"a --apply p", "which plan? (fix: --hash HASH, as --plan printed it)"},
		{"a --approve", "which plan? (fix: --hash HASH"},
		{"a --approve --hash h --who=", "--who is empty (fix: leave it out, or name who asks for the repair)"},
		{"a --plan --max-keys 0", "--max-keys is 0, want 1 or more"},
		{"a --plan --max-percent 0", "--max-percent is 0, want more than 0 and no more than 100"},
		{"a --plan --max-percent 101", "--max-percent is 101, want"},
		{"a --plan --max-percent NaN", "--max-percent is NaN, want"},
		{"a --plan --table t", `table "t": want schema.name (fix: `},
		{"a --plan --timeout 0s", `invalid argument "0s"`},
		{"a --pln", `unknown flag: --pln; did you mean "--plan"?`},
	} {
		starter(t, append([]string{"repair"}, strings.Fields(c.args)...)...).exits(exitInvalid).says(c.want)
	}
	starter(t, "repair", "--help").exits(exitOK).says("starter repair NAME --plan | --apply PLAN | --approve", "--max-percent", `default "you, at this machine"`)
	if who := whoami(); !strings.Contains(who, "@") {
		t.Errorf("%q is nobody at no machine", who)
	}
}

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/verify"
	"syncline/testsuite/stack"
)

func TestVerify(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	s.starter("verify", s.name).exits(exitFailed).says(`no pipeline is called "` + s.name + `"`)
	s.starter("apply", s.file).exits(exitOK)
	s.streams()

	r := s.starter("verify", s.name).exits(exitOK).says("warehouse", "analytics", "shop.customers", "shop.orders", "equal", "12.3k", "4 of 4 verdicts equal, 0 different, 0 inconclusive (run 2")
	if strings.Contains(r.out, "SELECT") || strings.Contains(r.out, "\x1b") {
		t.Errorf("nothing was found, and this is no terminal: %s", r.out)
	}
	var res contract.AuditResult
	s.starter("verify", s.name, "--table", "shop.orders", "--sink", "warehouse", "--rows-per-second", "50", "--parallel", "2", "--json").exits(exitOK).object(&res)
	if len(res.Tables) != 1 || res.Tables[0].Sink != "warehouse" || res.Convergence != 1 || res.Pipeline != s.name || !s.fakes.called(contract.PlanAuditActivity+" 50 2") {
		t.Errorf("%+v", res)
	}

	s.starter("verify", s.name, "--changed").exits(exitOK).says("of the keys that changed since", "4 of 4 verdicts equal")

	orders := change.TableID{Schema: "shop", Name: "orders"}
	s.fakes.answer(contract.TableVerdict{Sink: "analytics", Table: orders, Verdict: verify.Inconclusive, Reason: "it is gated: a column has gone"})
	s.starter("verify", s.name).exits(exitInconclusive).says("inconclusive", "it is gated: a column has gone", "3 of 4 verdicts equal, 0 different, 1 inconclusive")
	s.fakes.answer(contract.TableVerdict{Sink: "analytics", Table: orders, Verdict: verify.Inconclusive, Reason: "late"},
		contract.TableVerdict{Sink: "warehouse", Table: orders, Verdict: verify.Different, Missing: 2, Changed: 3, Columns: map[string]int{"note": 1, "total": 3}})
	s.starter("verify", s.name).exits(exitDifferent).says("2 missing, 3 changed", "changed in total, note", "the keys are in the ledger of warehouse, for postgres:",
		"  SELECT source_table, key, kind, columns FROM syncline.findings WHERE pipeline = '"+s.name+"' AND run = '2")
	r = s.starter("verify", s.name, "--json").exits(exitDifferent)
	r.object(&res)
	if res.Convergence != 0.5 || res.Count(verify.Different) != 1 {
		t.Errorf("%+v", res)
	}

	// One that fails for good holds up no other, and one that is terminated has failed.
	s.fakes.set(contract.VerifyTableActivity, temporal.NewNonRetryableApplicationError("TableMismatch: no (fix: x)", "TableMismatch", nil))
	s.starter("verify", s.name).exits(exitInconclusive).says("TableMismatch: no (fix: x)", "0 of 4 verdicts equal")
	s.fakes.set(contract.VerifyTableActivity, nil)
	s.fakes.set(contract.PlanAuditActivity, temporal.NewNonRetryableApplicationError("NothingToVerify: it is paused (fix: starter resume)", "NothingToVerify", nil))
	var f failure
	s.starter("verify", s.name, "--json").exits(exitFailed).object(&f)
	if f.Code != "NothingToVerify" {
		t.Errorf("%+v", f)
	}
	s.fakes.set(contract.PlanAuditActivity, nil)

	s.starter("verify", s.name, "--table", "shop.order").exits(exitFailed).says("has no table shop.order", `did you mean "shop.orders"?`, "fix: name one of shop.customers, shop.orders")
	s.starter("verify", s.name, "--sink", "warehose").exits(exitFailed).says("has no sink warehose", `did you mean "warehouse"?`)
	open := s.fakes.gate(contract.VerifyTableActivity)
	defer open()
	s.starter("verify", s.name, "--timeout", "1s").exits(exitFailed).says("no verdict on every table within 1s; the audit goes on as workflow audit/" + s.name + "/")
	s.starter("verify", s.name, "--detach").exits(exitOK).says("runs as workflow audit/"+s.name+"/", "temporal workflow result --workflow-id")
	var d map[string]string
	s.starter("verify", s.name, "--detach", "--json").exits(exitOK).object(&d)
	if !strings.HasPrefix(d["workflow"], "audit/"+s.name+"/") {
		t.Errorf("%v", d)
	}
	open()
	s.starter("destroy", s.name, "--yes").exits(exitOK)
	s.starter("verify", s.name).exits(exitFailed).says("has ended")
}

// Wrong input is named before anything is asked of Temporal.
func TestVerifyInput(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "verify takes one pipeline name, not 0 arguments"},
		{[]string{"a", "--table", "orders"}, `table "orders": want schema.name (fix: name a table as schema.name`},
		{[]string{"a", "--rows-per-second", "-1"}, "--rows-per-second is -1, want 0 or more (fix: "},
		{[]string{"a", "--rows-per-second", "NaN"}, "--rows-per-second is NaN"},
		{[]string{"a", "--rows-per-second", "many"}, `invalid argument "many"`},
		{[]string{"a", "--max-lag", "-5s"}, "--max-lag is below 0 (fix: "},
		{[]string{"a", "--max-sessions", "-1"}, "--max-sessions is -1 (fix: "},
		{[]string{"a", "--parallel", "0"}, "--parallel is 0 (fix: name a number from 1 to 32)"},
		{[]string{"a", "--timeout", "0s"}, "want at least 1s"},
		{[]string{"a", "--tabel", "s.t"}, `did you mean "--table"?`},
	} {
		starter(t, append([]string{"verify"}, c.args...)...).exits(exitInvalid).says(c.want)
	}
}

var scheduleSection = regexp.MustCompile("(?s)```sh\n(temporal schedule create .*?)```")

// TestAuditOnASchedule makes the schedules of docs/operations.md with the real program,
// and lets them run.
func TestAuditOnASchedule(t *testing.T) {
	t.Parallel()
	cli := stack.TemporalCLI(t)
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := scheduleSection.FindAllSubmatch(text, -1)
	if len(shown) != 2 {
		t.Fatalf("operations.md shows %d schedules", len(shown))
	}
	s := newServer(t)
	s.workers()
	dir := t.TempDir()
	if err := os.Symlink(cli, filepath.Join(dir, "temporal")); err != nil {
		t.Fatal(err)
	}
	for i, calls := range []string{" 5000 0", " 0 0 changed"} {
		schedule := fmt.Sprintf("audit-%s-%d", s.name, i)
		line := strings.NewReplacer("audit-shop-changed", schedule, "audit-shop", schedule, "audit/shop", "audit/"+s.name, `"shop"`, `"`+s.name+`"`, "syncline-control", s.prefix+"-control").
			Replace(continued.ReplaceAllString(string(shown[i][1]), ""))
		shell(t, dir, line)
		t.Cleanup(func() { shell(t, dir, "temporal schedule delete --schedule-id "+schedule) })
		shell(t, dir, "temporal schedule trigger --schedule-id "+schedule)
		end := time.Now().Add(patience)
		for !s.fakes.called(contract.ConcludeAuditActivity) || !s.fakes.called(contract.PlanAuditActivity+calls) {
			if time.Now().After(end) {
				t.Fatalf("no audit%s has ended: %v", calls, s.fakes.calls)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

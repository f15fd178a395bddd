package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
	"syncline/pipeline"
)

func shopTable(name string) change.TableID { return change.TableID{Schema: "shop", Name: name} }

// shopStatus is a pipeline of which some tables can be verified.
func shopStatus() contract.PipelineStatus {
	both := func(w, a sink.State) map[string]sink.State {
		return map[string]sink.State{"warehouse": w, "analytics": a}
	}
	return contract.PipelineStatus{
		Name: "shop", Phase: contract.Degraded,
		Spec: pipeline.Spec{Name: "shop", Sinks: []pipeline.Sink{{Name: "warehouse", Type: pipeline.SinkPostgres}, {Name: "analytics", Type: pipeline.SinkClickHouse}},
			Tables: pipeline.Tables{Options: []pipeline.TableOption{{Match: "shop.orders", Where: "id > 7"}}}},
		Tables: []contract.TableStatus{
			{Table: shopTable("events"), AppendOnly: true, Sinks: both(sink.Streaming, sink.Streaming)},
			{Table: shopTable("items"), Sinks: both(sink.Gated, sink.Loading)},
			{Table: shopTable("orders"), Sinks: both(sink.Streaming, contract.LoadFailed)},
			{Table: shopTable("users"), Sinks: both(sink.Streaming, sink.Streaming)},
		},
	}
}

func TestPlanAudit(t *testing.T) {
	for _, c := range []struct {
		in            contract.AuditInput
		tasks, sinks  string
		skipped       int
		whatIsSkipped string
	}{
		{contract.AuditInput{}, "orders/warehouse users/warehouse users/analytics", "warehouse analytics", 5, "it is gated"},
		{contract.AuditInput{Sinks: []string{"analytics"}}, "users/analytics", "analytics", 3, "it is load-failed"},
		{contract.AuditInput{Tables: []change.TableID{shopTable("orders"), shopTable("orders")}}, "orders/warehouse orders/analytics", "warehouse analytics", 0, ""},
		{contract.AuditInput{Tables: []change.TableID{shopTable("events")}, Sinks: []string{"warehouse"}}, "events/warehouse", "warehouse", 0, ""},
	} {
		st := shopStatus()
		plan, err := planAudit(&st, c.in)
		if err != nil {
			t.Errorf("%+v: %v", c.in, err)
			continue
		}
		var tasks, sinks, why []string
		for _, x := range plan.Tasks {
			tasks = append(tasks, x.Table.Name+"/"+x.Sink)
			if (x.Where != "") != (x.Table.Name == "orders") {
				t.Errorf("%+v", x)
			}
		}
		for _, x := range plan.Sinks {
			sinks = append(sinks, x.Name)
		}
		for _, x := range plan.Skipped {
			why = append(why, x.Reason)
		}
		if strings.Join(tasks, " ") != c.tasks || strings.Join(sinks, " ") != c.sinks || len(why) != c.skipped || c.skipped > 0 && !slices.Contains(why, c.whatIsSkipped) {
			t.Errorf("%+v: %v at %v, without %v", c.in, tasks, sinks, why)
		}
	}
}

// Who reads the log has to know where it is; others need not.
func TestPlanAuditOfChanges(t *testing.T) {
	st := shopStatus()
	st.Spec.Kafka.Brokers = []string{"k:9092"}
	for _, changed := range []bool{false, true} {
		plan, err := planAudit(&st, contract.AuditInput{Changed: changed})
		if err != nil || (plan.Kafka != nil) != changed || changed && plan.Kafka.Brokers[0] != "k:9092" {
			t.Errorf("%v: %+v, %v", changed, plan.Kafka, err)
		}
	}
}

func TestPlanAuditRefuses(t *testing.T) {
	for _, c := range []struct {
		in   contract.AuditInput
		edit func(*contract.PipelineStatus)
		code fault.Code
		says string
	}{
		{in: contract.AuditInput{Sinks: []string{"warehose"}}, code: "SinkMissing", says: `has no sink "warehose" (did you mean warehouse?) (fix: name one of warehouse, analytics)`},
		{in: contract.AuditInput{Tables: []change.TableID{shopTable("order")}}, code: CodeTableNotInPipeline, says: "shop.order is not in pipeline shop (did you mean shop.orders?)"},
		{edit: func(s *contract.PipelineStatus) { s.Phase = contract.Paused }, code: CodeNothingToVerify, says: "fix: starter resume shop"},
		{edit: func(s *contract.PipelineStatus) { s.Phase = contract.Destroyed }, code: CodeNothingToVerify, says: "pipeline shop is destroyed"},
		{edit: func(s *contract.PipelineStatus) { s.Tables = s.Tables[:2] }, code: CodeNothingToVerify, says: "no table of pipeline shop streams and has a key"},
		{edit: func(s *contract.PipelineStatus) {
			s.Tables = nil
			for i := range 501 {
				s.Tables = append(s.Tables, contract.TableStatus{Table: shopTable(fmt.Sprint(i)), Sinks: map[string]sink.State{"warehouse": sink.Streaming, "analytics": sink.Streaming}})
			}
		}, code: CodeAuditInput, says: "1002 tables at sinks are too many for one audit"},
	} {
		st := shopStatus()
		if c.edit != nil {
			c.edit(&st)
		}
		if _, err := planAudit(&st, c.in); !fault.Is(err, c.code) || fault.Retryable(err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("want %s %q: %v", c.code, c.says, err)
		}
	}
	for _, in := range []contract.AuditInput{{}, {Pipeline: "shop", Parallel: 33}, {Pipeline: "shop", Parallel: -1}, {Pipeline: "shop", RowsPerSecond: -1}, {Pipeline: "shop", VerifyLimits: contract.VerifyLimits{MaxSessions: -1}}} {
		if err := checkAudit(in); !fault.Is(err, CodeAuditInput) || fault.Retryable(err) {
			t.Errorf("%+v: %v", in, err)
		}
	}
}

// A verdict counts what was found; no key and no value is in it.
func TestVerdictsHoldNoKeys(t *testing.T) {
	in := contract.VerifyTask{TableTask: contract.TableTask{Endpoint: contract.Endpoint{Sink: pipeline.Sink{Name: "s"}}, Table: shopTable("orders")}}
	v := verdictOf(in, &verify.Result{Verdict: verify.Different, Rows: 9, Parts: 2, Differing: 1, Suspects: 6, Findings: []sink.Finding{
		{Key: "secret-1", Kind: verify.Missing}, {Key: "secret-2", Kind: verify.Extra}, {Key: "secret-3", Kind: verify.Twice},
		{Key: "secret-4", Kind: verify.Changed, Columns: []string{"a", "b"}}, {Key: "secret-5", Kind: verify.Changed, Columns: []string{"b"}},
	}}, 1500*time.Millisecond)
	if v.Missing != 1 || v.Extra != 1 || v.Twice != 1 || v.Changed != 2 || v.Findings() != 5 || v.Columns["a"] != 1 || v.Columns["b"] != 2 || v.Took != 1.5 || v.Sink != "s" {
		t.Errorf("%+v", v)
	}
	b, err := json.Marshal(v)
	if err != nil || strings.Contains(string(b), "secret") {
		t.Errorf("%s %v", b, err)
	}
}

// loaded is a source and a sink that is behind it.
type loaded struct {
	verify.Source
	verify.Ledger
	sessions int
	at       change.LSN
}

func (l *loaded) ActiveSessions(context.Context) (int, error) { return l.sessions, nil }

func (l *loaded) Position(context.Context) (change.LSN, error) {
	l.at += 500_000
	return l.at, nil
}

func (l *loaded) Table(_ context.Context, id change.TableID) (sink.Table, error) {
	return sink.Table{ID: id, State: sink.Streaming, Partitions: 1}, nil
}

func (l *loaded) Watermarks(context.Context) ([]sink.Watermark, error) { return nil, nil }

// A verification pauses while its source or its sink has more to do than it may have.
func TestWhyItPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			limits contract.VerifyLimits
			after  time.Duration
			want   string
		}{
			{contract.VerifyLimits{}, 30 * time.Second, ""},
			{contract.VerifyLimits{}, 61 * time.Second, "the sink is 1m1s behind (500 kB of log), limit 1m0s"},
			{contract.VerifyLimits{MaxLag: 2.5}, 3 * time.Second, "the sink is 3s behind (500 kB of log), limit 2.5s"},
			{contract.VerifyLimits{MaxLag: -1}, time.Hour, ""},
			{contract.VerifyLimits{MaxSessions: 57}, time.Second, ""},
			{contract.VerifyLimits{MaxSessions: 40}, 0, "the source has 57 active sessions, limit 40"},
		} {
			l := &loaded{sessions: 57}
			f := why(l, l, contract.VerifyTask{VerifyLimits: c.limits})
			first, err := f(t.Context())
			time.Sleep(c.after)
			if second, err2 := f(t.Context()); second != c.want || err != nil || err2 != nil || first != "" && c.after > 0 {
				t.Errorf("%+v after %s: %q, %q", c.limits, c.after, first, second)
			}
		}
	})
}

// A verification may fail as often as it likes while it comes on, and ends when it has
// not for too long, over all its attempts.
func TestVerificationIsStuck(t *testing.T) {
	long := time.Now().Add(-maxStuck - time.Second)
	away := named(fault.Transient(sink.CodeUnreachable, nil, "away"))
	var app *temporal.ApplicationError
	if err := stuck(away, long); !errors.As(err, &app) || !app.NonRetryable() || app.Type() != string(CodeVerificationStuck) || !strings.Contains(err.Error(), "away") {
		t.Errorf("%v", err)
	}
	if err := stuck(away, time.Now()); err != away {
		t.Errorf("soon: %v", err)
	}
	for _, err := range []error{nil, context.Canceled, named(fault.Permanent("SinkType", nil, "", "no")), temporal.NewApplicationError("stops", contract.WorkerStoppedError)} {
		if got := stuck(err, long); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
	for _, before := range []any{nil, contract.VerifyProgress{Rows: 7}, contract.VerifyProgress{Since: long}} {
		var suite testsuite.WorkflowTestSuite
		env := suite.NewTestActivityEnvironment()
		if before != nil {
			env.SetHeartbeatDetails(before)
		}
		var at time.Time
		look := func(ctx context.Context) error { at = cameOn(ctx); return nil }
		env.RegisterActivity(look)
		if _, err := env.ExecuteActivity(look); err != nil {
			t.Fatal(err)
		}
		p, _ := before.(contract.VerifyProgress)
		if old := !p.Since.IsZero(); old != at.Equal(long) || !old && time.Since(at) > time.Minute {
			t.Errorf("after %+v: %s", before, at)
		}
	}
}

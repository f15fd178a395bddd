package activities

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.temporal.io/sdk/interceptor"

	"syncline/activities/observe"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/secrets"
)

type failing struct {
	interceptor.ActivityInboundInterceptorBase
	err error
}

func (f *failing) ExecuteActivity(context.Context, *interceptor.ExecuteActivityInput) (any, error) {
	return nil, f.err
}

// However an activity ends, a failure of security is counted once under its kind,
// and nothing else is.
func TestSecurityFailuresAreCounted(t *testing.T) {
	a := &Activities{Metrics: observe.NewMetrics("b1")}
	run := func(err error) {
		t.Helper()
		in := a.Watch().InterceptActivity(t.Context(), &failing{err: named(err)})
		if _, got := in.ExecuteActivity(t.Context(), nil); (got == nil) != (err == nil) {
			t.Fatalf("%v became %v", err, got)
		}
	}
	run(fault.Transient(sink.CodeAuth, nil, "refused"))
	run(fault.Permanent(sink.CodePrivilege, nil, "grant it", "refused"))
	run(fault.Permanent(codeTLSFile, nil, "mend it", "no certificate"))
	run(fault.Transient(secrets.CodeVaultSealed, nil, "sealed"))
	run(fault.Transient(secrets.CodeVaultUnreachable, nil, "away"))
	run(fault.Transient(sink.CodeUnreachable, nil, "away"))
	run(errors.New("something else"))
	run(nil)
	want := `# HELP syncline_security_failures_total Refused credentials, missing rights, secrets and certificates that fail.
# TYPE syncline_security_failures_total counter
syncline_security_failures_total{kind="auth"} 1
syncline_security_failures_total{kind="permission"} 1
syncline_security_failures_total{kind="secret"} 2
syncline_security_failures_total{kind="tls"} 1
`
	if err := testutil.GatherAndCompare(a.Metrics.Registry, strings.NewReader(want), "syncline_security_failures_total"); err != nil {
		t.Error(err)
	}
}

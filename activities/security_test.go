package activities

import (
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"syncline/activities/observe"
	"syncline/dataplane/certs"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/secrets"
)

// A failure of security is counted once under its kind,
// and nothing else is.
func TestSecurityFailuresAreCounted(t *testing.T) {
	a := &Activities{Metrics: observe.NewMetrics("b1")}
	run := func(err error) { a.refused("p", "capture", fault.CodeOf(err), "message") }
	run(fault.Transient(sink.CodeAuth, nil, "refused"))
	run(fault.Permanent(sink.CodePrivilege, nil, "grant it", "refused"))
	run(fault.Permanent(certs.CodeTLSFile, nil, "mend it", "no certificate"))
	run(fault.Transient(secrets.CodeVaultSealed, nil, "sealed"))
	run(fault.Transient(secrets.CodeVaultUnreachable, nil, "away"))
	run(fault.Transient(sink.CodeUnreachable, nil, "away"))
	run(errors.New("something else"))
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

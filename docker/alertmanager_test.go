package docker_test

import (
	"os/exec"
	"strings"
	"testing"

	"syncline/analytics/board"
	"syncline/testsuite/stack"
)

// The real amtool reads the configuration, and each alert gets to the receiver of
// its severity, with others of its cause and pipeline.
func TestAlertsAreRouted(t *testing.T) {
	m := stack.Prometheus(t)
	amtool := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), m.Amtool, args...).CombinedOutput()
		if err != nil {
			t.Errorf("amtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	const file = "alertmanager/alertmanager.yml"
	amtool("check-config", file)
	for _, a := range board.Alerts(board.Default()) {
		if to := amtool("config", "routes", "test", "--config.file="+file, "alertname="+a.Name, "severity="+a.Severity, "cause="+a.Cause); to != a.Severity {
			t.Errorf("%s goes to %q, not to %s", a.Name, to, a.Severity)
		}
	}
	if !strings.Contains(read(t, file), "group_by: [cause, pipeline]\n") {
		t.Error("alerts are not grouped by cause and pipeline")
	}
}

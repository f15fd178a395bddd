package observe

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"go.temporal.io/sdk/log"
	"go.uber.org/zap"

	"syncline/dataplane/fault"
	"syncline/secrets"
)

func lines(t *testing.T, b *bytes.Buffer) []map[string]any {
	t.Helper()
	var out []map[string]any
	for line := range strings.Lines(b.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		out = append(out, m)
	}
	b.Reset()
	return out
}

func TestLoggerWritesJSONWithoutSecrets(t *testing.T) {
	var b bytes.Buffer
	z := NewLogger(&b, zap.InfoLevel, zap.String("build_id", "b1"))
	z.Debug("not shown")
	cause := errors.New("cannot connect to postgres://app:hunter2@db/shop")
	z.With(zap.String("dsn", "host=db password=hunter2")).Warn("failed: postgres://app:hunter2@db/shop",
		zap.Error(fault.Transient("SourceUnreachable", cause, "db")), zap.Any("secret", secrets.NewSecret("hunter2")),
		zap.Stringer("ref", secrets.MustParseRef("env:DSN")), zap.String("pipeline", "shop"), zap.Error(nil))
	if strings.Contains(b.String(), "hunter2") {
		t.Fatalf("holds a secret: %s", b.String())
	}
	got := lines(t, &b)
	if len(got) != 1 {
		t.Fatalf("%d lines", len(got))
	}
	for k, want := range map[string]any{
		"level": "warn", "build_id": "b1", "pipeline": "shop", "ref": "env:DSN",
		"error_code": "SourceUnreachable", "error_retry": true,
	} {
		if got[0][k] != want {
			t.Errorf("%s: got %v, want %v", k, got[0][k], want)
		}
	}
}

func TestTemporalLogger(t *testing.T) {
	var b bytes.Buffer
	l := TemporalLogger(NewLogger(&b, zap.DebugLevel))
	l = log.With(l, "WorkflowID", "pipeline/shop", "RunID", "r1")
	l.Info("Started", "ActivityType", "Capture", "Attempt", 3, "Other", 1.5)
	l.Error("Failed", "Error", errors.New("password=hunter2 refused"), "dangling")
	l.Debug("d", zap.String("field", "f"), "k", "v")
	log.Skip(l, 1).Warn("w")
	got := lines(t, &b)
	if len(got) != 4 {
		t.Fatalf("%d lines", len(got))
	}
	for i, want := range []map[string]any{
		{"level": "info", "msg": "Started", "logger": "temporal", "workflow_id": "pipeline/shop", "run_id": "r1", "activity_type": "Capture", "attempt": 3.0, "Other": 1.5},
		{"level": "error", "error": "password=*** refused", "dangling": "(no value)"},
		{"level": "debug", "field": "f", "k": "v"},
		{"level": "warn"},
	} {
		for k, v := range want {
			if got[i][k] != v {
				t.Errorf("line %d: %s is %v, want %v", i, k, got[i][k], v)
			}
		}
	}
}

package activities

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/activities/observe"
)

// A loop that only looks has not got on: its other end may be gone.
func TestLookingIsNotProgress(t *testing.T) {
	var p progress
	for i, step := range []struct {
		idle     bool
		at, with uint64
		want     bool
	}{
		{false, 0, 0, true}, // it has begun
		{false, 0, 0, false},
		{true, 0, 0, true},
		{false, 5, 0, true},
		{false, 5, 0, false},
		{false, 5, 7, true}, // positions move without changes
		{false, 5, 7, false},
	} {
		if got := p.made(step.idle, step.at, step.with); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
}

func TestWhatGoesOn(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	down := temporal.NewApplicationError("gone", "SourceUnreachable")
	for _, c := range []struct {
		name string
		ctx  context.Context
		err  error
		want bool
	}{
		{"a failure that passes", t.Context(), down, true},
		{"one for good, which waits for an operator", t.Context(), temporal.NewNonRetryableApplicationError("x", "SlotMissing", nil), false},
		{"the worker stops", t.Context(), temporal.NewApplicationError("x", contract.WorkerStoppedError), false},
		{"another worker has it", t.Context(), temporal.NewApplicationError("x", "Fenced"), false},
		{"cancelled", over, down, false},
		{"no failure", t.Context(), nil, false},
	} {
		if got := goesOn(c.ctx, c.err); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// A metric that nobody feeds is an alert that never comes.
func TestEveryMetricIsFed(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		code.Write(b)
	}
	for _, h := range []any{&observe.Capture{}, &observe.Deliver{}, &observe.Snapshot{}} {
		for m := range reflect.TypeOf(h).Methods() {
			if !strings.Contains(code.String(), "."+m.Name+"(") {
				t.Errorf("%T.%s is never called", h, m.Name)
			}
		}
	}
}

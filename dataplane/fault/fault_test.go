package fault

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestEnded(t *testing.T) {
	if err := Ended(t.Context(), "X", "doing it"); err != nil {
		t.Errorf("a context that lasts: %v", err)
	}
	gone, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("another loop failed"))
	if err := Ended(gone, "X", "doing it"); !errors.Is(err, context.Canceled) || CodeOf(err) != "" || Retryable(err) {
		t.Errorf("cancelled: %v", err)
	}
	late, stop := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer stop()
	if err := Ended(late, "X", "doing it"); !errors.Is(err, context.DeadlineExceeded) || CodeOf(err) != "X" || !Retryable(err) {
		t.Errorf("late: %v", err)
	}
}

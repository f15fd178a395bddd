package activities

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/secrets"
)

// beat is how often a long activity reports; the worker's heartbeat throttle is
// set to the same, so that what operators see is at most this old.
const beat = time.Second

// long runs a loop of the data plane until the activity is cancelled, the worker
// stops, or the loop ends. It heartbeats with status() meanwhile.
func long(ctx context.Context, status func() any, run func(context.Context) error) error {
	loop, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	beaten := make(chan struct{})
	go func() {
		defer close(beaten)
		t := time.NewTicker(beat)
		defer t.Stop()
		stopping := activity.GetWorkerStopChannel(ctx)
		activity.RecordHeartbeat(ctx, status())
		for {
			select {
			case <-stopping:
				stop()
				stopping = nil
			case <-t.C:
				activity.RecordHeartbeat(ctx, status())
			case <-done:
				return
			}
		}
	}()
	err := run(loop)
	close(done)
	<-beaten
	return ended(ctx, err)
}

// ended turns what a step of the data plane returned into what Temporal wants.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) && !workerStopping(ctx) {
		return ctx.Err()
	}
	if workerStopping(ctx) && (err == nil || errors.Is(err, context.Canceled)) {
		return temporal.NewApplicationErrorWithOptions("the worker is shutting down", contract.WorkerStoppedError,
			temporal.ApplicationErrorOptions{NextRetryDelay: 50 * time.Millisecond})
	}
	return named(err)
}

func workerStopping(ctx context.Context) bool {
	select {
	case <-activity.GetWorkerStopChannel(ctx):
		return true
	default:
		return false
	}
}

// named gives an error its fault's code as type, and says whether a retry can help.
func named(err error) error {
	if err == nil {
		return nil
	}
	var app *temporal.ApplicationError
	if errors.As(err, &app) || errors.Is(err, context.Canceled) {
		return err
	}
	code := fault.CodeOf(err)
	o := temporal.ApplicationErrorOptions{NonRetryable: !fault.Retryable(err) && code != sink.CodeFenced}
	if code == sink.CodeFenced {
		o.NextRetryDelay = 100 * time.Millisecond
	}
	if code == "" {
		code = "Error"
	}
	// The cause is left out: its text is in the message, redacted, and causes of
	// drivers may quote connection strings.
	return temporal.NewApplicationErrorWithOptions(secrets.Redact(err.Error()), string(code), o)
}

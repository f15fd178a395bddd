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

// long runs a loop of the data plane until the activity is cancelled, the worker
// stops, or the loop ends. It heartbeats with status() meanwhile.
func long(ctx context.Context, status func() any, run func(context.Context) error) error {
	loop, stop := context.WithCancel(ctx)
	defer stop()
	still := keepBeating(ctx, status)
	defer still()
	stopping := make(chan struct{})
	go func() {
		defer close(stopping)
		select {
		case <-activity.GetWorkerStopChannel(ctx):
			stop()
		case <-loop.Done():
		}
	}()
	err := run(loop)
	stop()
	<-stopping
	still()
	return ended(ctx, err)
}

// ended turns what a step of the data plane returned into what Temporal wants.
func ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); ctx.Err() != nil && !workerStopping(ctx) && (temporal.IsCanceledError(cause) || errors.Is(cause, context.Canceled)) {
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

package workflows

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
)

// Long activities run until they are cancelled. What ends a dead one is its
// heartbeat, so the start-to-close timeout is only Temporal's obligatory bound.
const (
	longRun = 365 * 24 * time.Hour
	// A killed worker is replaced after that. It leaves five missed beats for a
	// machine that is busy: an attempt that is taken for dead and is not does no
	// harm, but it makes a busy machine busier.
	heartbeat = 6 * time.Second
	// Chunks are dear to begin again, and nobody waits for one of them.
	chunkHeartbeat = 20 * time.Second
)

func queue(ctx workflow.Context, r contract.Role) string {
	return contract.Queue(contract.QueuePrefix(workflow.GetInfo(ctx).TaskQueueName), r)
}

// short is for control activities: idempotent, done in seconds, tried for as
// long as attempts allow (0: until they succeed or name a permanent condition).
func short(ctx workflow.Context, summary string, attempts int32) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 2 * time.Minute,
		HeartbeatTimeout:    30 * time.Second,
		Summary:             summary,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval:    500 * time.Millisecond,
			BackoffCoefficient: 2,
			MaximumInterval:    15 * time.Second,
			MaximumAttempts:    attempts,
		},
	})
}

// slotBound is how long the creation of a slot waits for transactions that run at
// the source. It heartbeats with them, so that a worker that dies is missed all the
// same, and a cancellation ends the wait at once.
const slotBound = time.Hour

// removeBound is how long one thing that is to be removed is tried for. What a
// destroy does one after the other (stopBound, slot, publication) fits into the
// starter's ten minutes twice.
const removeBound = 90 * time.Second

// removing is short, with a bound on all attempts together: somebody waits for the
// answer, and an end that cannot be reached may let each attempt run into its timeout.
func removing(ctx workflow.Context, summary string) workflow.Context {
	ctx = short(ctx, summary, setupTries)
	o := workflow.GetActivityOptions(ctx)
	o.StartToCloseTimeout, o.ScheduleToCloseTimeout = removeBound, removeBound
	return workflow.WithActivityOptions(ctx, o)
}

// long is for activities that run until cancelled. The retry interval does not
// grow: an attempt that dies after a week must be replaced as fast as the first,
// and attempts that fail say themselves how long to wait.
func long(ctx workflow.Context, r contract.Role, id, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		ActivityID:          id,
		TaskQueue:           queue(ctx, r),
		StartToCloseTimeout: longRun,
		HeartbeatTimeout:    heartbeat,
		WaitForCancellation: true,
		Summary:             summary,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval:    300 * time.Millisecond,
			BackoffCoefficient: 1,
		},
	})
}

// work is for the steps of a load: long, but they end.
func work(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue:           queue(ctx, contract.Snapshot),
		StartToCloseTimeout: 24 * time.Hour,
		HeartbeatTimeout:    chunkHeartbeat,
		WaitForCancellation: true,
		Summary:             summary,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval:    300 * time.Millisecond,
			BackoffCoefficient: 1.5,
			MaximumInterval:    10 * time.Second,
		},
	})
}

// verifying is for the verification of a table, which may be told to take days. One
// that fails for minutes ends without a verdict, so that the others get theirs.
func verifying(ctx workflow.Context, summary string) workflow.Context {
	o := workflow.GetActivityOptions(work(ctx, summary))
	o.StartToCloseTimeout = longRun
	o.RetryPolicy = &temporal.RetryPolicy{
		InitialInterval:    time.Second,
		BackoffCoefficient: 2,
		MaximumInterval:    time.Minute,
		// The activity says when it has failed for too long; this is for one that kills its worker.
		MaximumAttempts: 100,
	}
	return workflow.WithActivityOptions(ctx, o)
}

// failure names what went wrong. Application errors carry a fault's code as their type.
func failure(err error, step string) *contract.Failure {
	if err == nil {
		return nil
	}
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		// A fault's text begins with its code, which is beside it here.
		return &contract.Failure{Code: app.Type(), Message: strings.TrimPrefix(app.Message(), app.Type()+": "), Step: step}
	}
	return &contract.Failure{Code: "Error", Message: err.Error(), Step: step}
}

func errorType(err error) string {
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		return app.Type()
	}
	return ""
}

func refuse(format string, args ...any) error {
	return temporal.NewNonRetryableApplicationError(fmt.Sprintf(format, args...), contract.RefusedError, nil)
}

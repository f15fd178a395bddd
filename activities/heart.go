package activities

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
)

// beat is how often a long activity reports: what operators see is at most this
// old, and a cancellation arrives as soon.
const beat = time.Second

// keepBeating reports status until the returned function is called.
//
// The SDK's own heartbeats give up after the interval between two of them, here a
// second, and then cancel the activity: whenever Temporal was busy or restarted,
// everything stopped, snapshots were given up, and the restarts made it busier.
// These go on until Temporal answers. Whether an attempt still counts is for
// Temporal to say, and whether it may still write for the fencing in sinks and log.
func keepBeating(ctx context.Context, status func() any) (stop func()) {
	beats, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		info := activity.GetInfo(ctx)
		// One call must not keep the next from being in time.
		patience := max(info.HeartbeatTimeout/2, 2*beat)
		t := time.NewTicker(beat)
		defer t.Stop()
		for {
			call, end := context.WithTimeout(beats, patience)
			err := activity.GetClient(ctx).RecordActivityHeartbeat(call, info.TaskToken, status())
			end()
			if decided(err) {
				// By the SDK's own heartbeat Temporal's reason becomes that of ctx.
				activity.RecordHeartbeat(ctx, status())
			}
			select {
			case <-t.C:
			case <-beats.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		done.Wait()
	}
}

// decided reports whether Temporal has answered, and does not want the attempt to go on.
func decided(err error) bool {
	var gone *serviceerror.NotFound
	var inactive *serviceerror.NamespaceNotActive
	var namespace *serviceerror.NamespaceNotFound
	return temporal.IsCanceledError(err) || errors.Is(err, activity.ErrActivityPaused) || errors.Is(err, activity.ErrActivityReset) ||
		errors.As(err, &gone) || errors.As(err, &inactive) || errors.As(err, &namespace)
}

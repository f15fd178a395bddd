package activities

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"syncline/testsuite/stack"
)

// A loop outlives a Temporal that does not answer heartbeats for a while, and
// ends when Temporal, back again, says so.
func TestTemporalMayBeAway(t *testing.T) {
	address := stack.Temporal(t)
	ends := map[string]func(client.Client, string) error{
		"cancelled":  func(c client.Client, id string) error { return c.CancelWorkflow(t.Context(), id, "") },
		"terminated": func(c client.Client, id string) error { return c.TerminateWorkflow(t.Context(), id, "", "") },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var away atomic.Bool
			unanswered := make(chan struct{}, 100)
			c, err := client.Dial(client.Options{HostPort: address, ConnectionOptions: client.ConnectionOptions{DialOptions: []grpc.DialOption{
				grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
					if away.Load() && strings.HasSuffix(method, "/RecordActivityTaskHeartbeat") {
						<-ctx.Done()
						unanswered <- struct{}{}
						return status.FromContextError(ctx.Err()).Err()
					}
					return invoke(ctx, method, req, reply, cc, opts...)
				})}}})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			queue := stack.Name(t)
			w := worker.New(c, queue, worker.Options{})
			begun, ended := make(chan struct{}), make(chan struct{})
			w.RegisterActivityWithOptions(func(ctx context.Context) error {
				return long(ctx, func() any { return nil }, func(ctx context.Context) error {
					close(begun)
					defer close(ended)
					<-ctx.Done()
					return ctx.Err()
				})
			}, activity.RegisterOptions{Name: "loop"})
			w.RegisterWorkflowWithOptions(func(ctx workflow.Context) error {
				return workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
					StartToCloseTimeout: 5 * time.Minute, HeartbeatTimeout: 12 * time.Second, WaitForCancellation: true,
					RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1},
				}), "loop").Get(ctx, nil)
			}, workflow.RegisterOptions{Name: "flow"})
			if err := w.Start(); err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: queue, TaskQueue: queue}, "flow")
			if err != nil {
				t.Fatal(err)
			}
			wait := func(what string, ch <-chan struct{}) {
				t.Helper()
				select {
				case <-ch:
				case <-time.After(time.Minute):
					t.Fatalf("%s did not come", what)
				}
			}
			wait("the loop", begun)
			away.Store(true)
			wait("a heartbeat without an answer", unanswered)
			away.Store(false)
			select {
			case <-ended:
				t.Fatal("the loop has ended with a heartbeat that had no answer")
			case <-time.After(2 * beat): // what would end it comes at once
			}
			if err := end(c, run.GetID()); err != nil {
				t.Fatal(err)
			}
			wait("the end of the loop", ended)
			err = run.Get(t.Context(), nil)
			var cancelled *temporal.CanceledError
			if name == "cancelled" && !errors.As(err, &cancelled) {
				t.Errorf("the workflow ended with %v", err)
			}
		})
	}
}

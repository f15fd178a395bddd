package workflows

import (
	"fmt"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
)

// Stream keeps capture and all lanes running until it is cancelled. Each is one
// long activity; when one fails for good, Stream reports it and waits for
// RetrySignal before it tries that one again.
func Stream(ctx workflow.Context, in contract.StreamInput) error {
	s := &stream{in: in}
	if err := workflow.SetQueryHandler(ctx, contract.StatusQuery, func() (contract.StreamStatus, error) {
		return contract.StreamStatus{Components: s.components}, nil
	}); err != nil {
		return err
	}
	retry := workflow.GetSignalChannel(ctx, contract.RetrySignal)
	workflow.Go(ctx, func(ctx workflow.Context) {
		for retry.Receive(ctx, nil) {
			s.retries++
		}
	})

	done := workflow.NewWaitGroup(ctx)
	start := func(name, summary string, role contract.Role, activity string, input any) {
		s.components = append(s.components, contract.ComponentState{Name: name, Since: workflow.Now(ctx)})
		i := len(s.components) - 1
		done.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer done.Done()
			s.keep(ctx, i, func(ctx workflow.Context) error {
				return workflow.ExecuteActivity(long(ctx, role, name, summary), activity, input).Get(ctx, nil)
			})
		})
	}
	start(contract.CaptureComponent, "slot → Kafka", contract.Capture, contract.CaptureActivity,
		contract.CaptureInput{Spec: in.Spec, Epoch: in.Epoch, SlotAt: in.SlotAt})
	for _, sk := range in.Spec.Sinks {
		for lane := range sk.Lanes {
			start(contract.LaneComponent(sk.Name, lane), fmt.Sprintf("Kafka → %s, lane %d of %d", sk.Name, lane+1, sk.Lanes),
				contract.Deliver, contract.DeliverActivity, contract.DeliverInput{Spec: in.Spec, Epoch: in.Epoch, Sink: sk.Name, Lane: lane})
		}
	}
	done.Wait(ctx)

	// The pipeline waits for this signal before it starts another Stream.
	last, _ := workflow.NewDisconnectedContext(ctx)
	s.tell(last, contract.StoppedSignal, contract.StreamStopped{})
	return ctx.Err()
}

type stream struct {
	in         contract.StreamInput
	components []contract.ComponentState
	retries    int
}

// keep runs one component until the stream is cancelled.
func (s *stream) keep(ctx workflow.Context, i int, run func(workflow.Context) error) {
	for {
		err := run(ctx)
		if ctx.Err() != nil || temporal.IsCanceledError(err) {
			return
		}
		if err == nil { // the data plane's loops end only with an error
			continue
		}
		s.set(ctx, i, failure(err, ""))
		seen := s.retries
		if workflow.Await(ctx, func() bool { return s.retries > seen }) != nil {
			return
		}
		s.set(ctx, i, nil)
	}
}

func (s *stream) set(ctx workflow.Context, i int, f *contract.Failure) {
	s.components[i] = contract.ComponentState{Name: s.components[i].Name, Failed: f != nil, Failure: f, Since: workflow.Now(ctx)}
	s.tell(ctx, contract.ComponentSignal, s.components[i])
}

func (s *stream) tell(ctx workflow.Context, signal string, arg any) {
	if s.in.Parent == "" {
		return
	}
	if err := workflow.SignalExternalWorkflow(ctx, s.in.Parent, "", signal, arg).Get(ctx, nil); err != nil {
		workflow.GetLogger(ctx).Warn("pipeline not told", "signal", signal, "error", err)
	}
}

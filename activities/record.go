package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/analytics"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/secrets"
)

// Recording is an interceptor that records what activities fail with, and those
// that changed something outside, for who asks later.
func (a *Activities) Recording() interceptor.WorkerInterceptor { return &recording{a: a} }

type recording struct {
	interceptor.WorkerInterceptorBase
	a *Activities
}

func (r *recording) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	i := &recorded{a: r.a}
	i.Next = next
	return i
}

type recorded struct {
	interceptor.ActivityInboundInterceptorBase
	a *Activities
}

func (i *recorded) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	var arg any
	if len(in.Args) > 0 {
		arg = in.Args[0]
	}
	w := subjectOf(activity.GetInfo(ctx).ActivityType.Name, arg)
	out, err := i.Next.ExecuteActivity(context.WithValue(ctx, subjectKey{}, w), in)
	if err != nil {
		i.a.failed(ctx, w, err)
	} else if changes[activity.GetInfo(ctx).ActivityType.Name] {
		i.a.did(ctx, w, out)
	}
	return out, err
}

// changes are the activities that leave something changed outside.
var changes = map[string]bool{
	contract.EnsureTopicsActivity: true, contract.EnsurePublicationActivity: true, contract.CreateSlotActivity: true,
	contract.PrepareSinkActivity: true, contract.DropSlotActivity: true, contract.DropPublicationActivity: true,
	contract.DeleteTopicsActivity: true, contract.ForgetSinkActivity: true, contract.ResetTableActivity: true,
	contract.RemoveTableActivity: true, contract.FinishLoadActivity: true,
}

// subject is what an activity works on. sink and tab are empty if it is not for one.
type subject struct{ pipeline, component, object, sink, tab string }

type subjectKey struct{}

// subjectIn is that of the activity whose context it is, as far as it is known.
func subjectIn(ctx context.Context) subject {
	s, _ := ctx.Value(subjectKey{}).(subject)
	return s
}

func subjectOf(name string, arg any) subject {
	s := subject{component: name}
	table := func(in contract.TableTask) {
		s.pipeline, s.object = in.Pipeline, in.Sink.Name+" "+in.Table.String()
		s.sink, s.tab = in.Sink.Name, in.Table.String()
	}
	replay := func(pipeline, sink string, t change.TableID) {
		s.pipeline, s.object, s.sink, s.tab = pipeline, sink+" "+t.String(), sink, t.String()
	}
	switch in := arg.(type) {
	case contract.CaptureInput:
		s.pipeline, s.component = in.Spec.Name, captureComponent
	case contract.DeliverInput:
		s.pipeline, s.component, s.sink = in.Spec.Name, deliverComponent(in.Sink, in.Lane), in.Sink
	case contract.SetupInput:
		s.pipeline, s.object = in.Spec.Name, in.Spec.SlotName()
	case contract.SinkInput:
		s.pipeline, s.object, s.sink = in.Spec.Name, in.Sink, in.Sink
	case contract.TeardownInput:
		s.pipeline, s.object = in.Spec.Name, in.Spec.SlotName()
	case contract.TableTask:
		table(in)
	case contract.ChunkTask:
		table(in.TableTask)
		s.object += fmt.Sprintf(" chunk %d", in.N)
	case contract.HoldInput:
		s.pipeline = in.Pipeline
	case contract.AuditInput:
		s.pipeline = in.Pipeline
	case contract.VerifyTask:
		table(in.TableTask)
	case contract.RepairTask:
		table(in.TableTask)
	case contract.TierTask:
		s.pipeline, s.object, s.sink = in.Pipeline, in.Sink.Name+" "+in.Tier, in.Sink.Name
	case contract.ReplayInput:
		replay(in.Pipeline, in.Sink, in.Table)
	case contract.ReplayTask:
		replay(in.Spec.Name, in.Sink, in.Table)
	case contract.ReplayEnd:
		replay(in.Spec.Name, in.Sink, in.Table)
	case contract.AuditConclusion:
		s.pipeline, s.object = in.Pipeline, in.Run
	}
	return s
}

const captureComponent = "capture"

func deliverComponent(sink string, lane int) string { return fmt.Sprintf("deliver/%s/%d", sink, lane) }

// failed records what ended an attempt. A worker that stops and a fenced attempt
// are not failures of the pipeline.
func (a *Activities) failed(ctx context.Context, s subject, err error) {
	var app *temporal.ApplicationError
	if !errors.As(err, &app) || app.Type() == contract.WorkerStoppedError {
		return
	}
	info := activity.GetInfo(ctx)
	now, message := time.Now().UTC(), secrets.Redact(app.Message())
	a.Analytics.Put(&analytics.Errors{
		Time: now, Pipeline: s.pipeline, Component: s.component, Code: app.Type(), Retryable: !app.NonRetryable(), Message: message,
		Worker: a.Worker, Workflow: info.WorkflowExecution.ID, Run: info.WorkflowExecution.RunID, Attempt: uint32(info.Attempt),
	})
	if goesOn(ctx, err) {
		a.Analytics.Put(&analytics.Retries{Time: now.Truncate(analytics.Window), Pipeline: s.pipeline, Component: s.component, Code: app.Type(), Count: 1})
	}
	a.refused(s.pipeline, s.component, fault.Code(app.Type()), message)
}

// did records a step that changed something outside.
func (a *Activities) did(ctx context.Context, s subject, detail any) {
	text := []byte("{}")
	if detail != nil {
		var err error
		if text, err = json.Marshal(detail); err != nil { // it was just sent to Temporal in that form
			text = []byte("{}")
		}
	}
	info := activity.GetInfo(ctx)
	a.Analytics.Put(&analytics.AuditTrail{
		Time: time.Now().UTC(), Pipeline: s.pipeline, Actor: a.Worker, Action: info.ActivityType.Name, Object: s.object, Detail: string(text),
		Workflow: info.WorkflowExecution.ID, Run: info.WorkflowExecution.RunID,
	})
}

// schemaMet records a definition.
func (a *Activities) schemaMet(pipeline string, s *change.Schema) {
	type column struct {
		Name string `json:"name"`
		Type string `json:"type"`
		Key  bool   `json:"key,omitempty"`
	}
	cols := make([]column, len(s.Columns))
	for i := range s.Columns {
		cols[i] = column{s.Columns[i].Name, s.Columns[i].Type.Name, s.IsKey(i)}
	}
	text, err := json.Marshal(cols)
	if err != nil { // strings and flags always have a form
		return
	}
	a.Analytics.Put(&analytics.SchemaVersions{Time: time.Now().UTC(), Pipeline: pipeline, Tab: s.Table.String(), Version: s.Version().String(), Columns: uint32(len(cols)), Definition: string(text)})
}

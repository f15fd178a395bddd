// Package view gathers what a person wants to know of a running pipeline from
// Temporal alone (queries and heartbeats; no database is touched, no secret
// needed) and draws it.
//
// A View is one moment. What cannot be had at that moment, for example the
// heartbeat of an activity that waits for a worker, is left empty, and Notes says why.
package view

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"syncline/activities/codec"
	"syncline/activities/contract"
)

// View is one pipeline at one moment.
type View struct {
	Status  contract.PipelineStatus   `json:"status"`
	Closed  string                    `json:"closed,omitempty"`  // how the pipeline's workflow ended, if it has
	Loads   []contract.LoadStatus     `json:"loads,omitempty"`   // bootstraps under way
	Copying []contract.ChunkProgress  `json:"copying,omitempty"` // their chunks under way
	Capture Component                 `json:"capture"`
	Sinks   []Sink                    `json:"sinks"`
	Notes   []string                  `json:"notes,omitempty"`
	At      time.Time                 `json:"at"`
	Flow    *contract.CaptureProgress `json:"flow,omitempty"` // capture's heartbeat
	// WaitingFor are the transactions at the source that must end before the slot can
	// be created.
	WaitingFor []string `json:"waiting_for,omitempty"`
	// Repair is the one under way.
	Repair *contract.RepairResult `json:"repair,omitempty"`
}

// States of a Component.
const (
	StateRunning  = "running"
	StateWaiting  = "waiting for a worker"
	StateRetrying = "retrying"
	StateFailed   = "failed" // for good: resume tries again
	StateStopped  = "stopped"
)

// Component is the state of one long activity.
type Component struct {
	Name    string            `json:"name"`
	State   string            `json:"state"`
	Worker  string            `json:"worker,omitempty"`
	Attempt int32             `json:"attempt,omitempty"`
	Failure *contract.Failure `json:"failure,omitempty"` // of the last attempt, or for good
}

// Sink is the delivery into one sink, its lanes together.
type Sink struct {
	Name       string      `json:"name"`
	Lanes      []Component `json:"lanes"`
	Rate       float64     `json:"rate"`            // changes per second
	LagP50     float64     `json:"lag_p50_seconds"` // of the slowest lane
	LagP99     float64     `json:"lag_p99_seconds"`
	Backlog    int64       `json:"backlog"` // records
	Applied    int64       `json:"applied"`
	Duplicates int64       `json:"duplicates"`
	Skipped    int64       `json:"skipped"`
	Dead       int64       `json:"dead"`
	Waits      int64       `json:"waits,omitempty"`      // changes that wait for their tier's next run
	WaitsSince time.Time   `json:"waits_since,omitzero"` // no later than when the first of them was committed
	// Tiers is how well they keep what they promise, all lanes together.
	Tiers map[string]contract.TierWait `json:"tiers,omitempty"`
}

// wait takes in how well one lane keeps what a tier promises.
func (s *Sink) wait(tier string, w contract.TierWait) {
	if s.Tiers == nil {
		s.Tiers = map[string]contract.TierWait{}
	}
	t := s.Tiers[tier]
	if w.Waits > 0 && (t.Waits == 0 || w.Since.Before(t.Since)) {
		t.Since = w.Since
	}
	t.Waits, t.Overdue = t.Waits+w.Waits, max(t.Overdue, w.Overdue)
	t.Changes, t.Late, t.Longest = t.Changes+w.Changes, t.Late+w.Late, max(t.Longest, w.Longest)
	if w.At.After(t.At) {
		t.At = w.At
	}
	s.Tiers[tier] = t
}

// ErrNotFound: no pipeline of that name.
var ErrNotFound = errors.New("no such pipeline")

// Gather asks Temporal for one pipeline.
func Gather(ctx context.Context, c client.Client, name string) (*View, error) {
	v := &View{At: time.Now()}
	id := contract.PipelineID(name)
	desc, err := c.DescribeWorkflowExecution(ctx, id, "")
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	if err != nil {
		return nil, err
	}
	if s := desc.WorkflowExecutionInfo.Status; s != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		v.Closed = s.String()
	}
	if err := query(ctx, c, id, &v.Status); err != nil {
		return nil, fmt.Errorf("status of pipeline %s: %w", name, err)
	}
	if v.Closed != "" {
		return v, nil
	}
	for _, b := range v.Status.Loading {
		var l contract.LoadStatus
		if err := query(ctx, c, b, &l); err != nil {
			v.Notes = append(v.Notes, fmt.Sprintf("%s: %v", b, err))
			continue
		}
		v.Loads = append(v.Loads, l)
		v.Copying = append(v.Copying, Chunks(ctx, c, b)...)
	}
	for _, a := range desc.PendingActivities {
		if a.ActivityType.GetName() == contract.CreateSlotActivity {
			if p := details[contract.SlotProgress](c, a.HeartbeatDetails); p != nil {
				v.WaitingFor = p.WaitingFor
			}
		}
	}
	v.stream(ctx, c, name)
	v.repair(ctx, c, name)
	return v, nil
}

// repair fills in the repair under way; mostly there is none.
func (v *View) repair(ctx context.Context, c client.Client, name string) {
	id := contract.RepairID(name)
	desc, err := c.DescribeWorkflowExecution(ctx, id, "")
	if err != nil || desc.WorkflowExecutionInfo.Status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return
	}
	var r contract.RepairResult
	if err := query(ctx, c, id, &r); err != nil {
		v.Notes = append(v.Notes, fmt.Sprintf("%s: %v", id, err))
		return
	}
	v.Repair = &r
}

// Chunks returns what the readers of a load have copied of unfinished chunks.
// It is for show: not being able to tell is no error.
func Chunks(ctx context.Context, c client.Client, workflow string) (out []contract.ChunkProgress) {
	desc, err := c.DescribeWorkflowExecution(ctx, workflow, "")
	if err != nil {
		return nil
	}
	for _, a := range desc.PendingActivities {
		if a.ActivityType.GetName() != contract.CopyChunkActivity {
			continue
		}
		if p := details[contract.ChunkProgress](c, a.HeartbeatDetails); p != nil && p.Sink != "" {
			out = append(out, *p)
		}
	}
	return out
}

func query(ctx context.Context, c client.Client, id string, into any) error {
	r, err := c.QueryWorkflow(ctx, id, "", contract.StatusQuery)
	if err != nil {
		return err
	}
	return r.Get(into)
}

// stream fills in the components from the pending activities of the Stream workflow.
func (v *View) stream(ctx context.Context, c client.Client, name string) {
	v.Capture = Component{Name: contract.CaptureComponent, State: StateStopped}
	for _, s := range v.Status.Spec.Sinks {
		sk := Sink{Name: s.Name}
		for lane := range s.Lanes {
			sk.Lanes = append(sk.Lanes, Component{Name: contract.LaneComponent(s.Name, lane), State: StateStopped})
		}
		v.Sinks = append(v.Sinks, sk)
	}
	desc, err := c.DescribeWorkflowExecution(ctx, contract.StreamID(name), "")
	if err != nil || desc.WorkflowExecutionInfo.Status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return
	}
	for _, a := range desc.PendingActivities {
		if a.ActivityId == contract.CaptureComponent {
			v.Capture = component(c, a)
			v.Flow = details[contract.CaptureProgress](c, a.HeartbeatDetails)
			continue
		}
		sinkName, lane, ok := contract.ParseLaneComponent(a.ActivityId)
		i := slices.IndexFunc(v.Sinks, func(s Sink) bool { return s.Name == sinkName })
		if !ok || i < 0 || lane >= len(v.Sinks[i].Lanes) {
			continue
		}
		v.Sinks[i].Lanes[lane] = component(c, a)
		if p := details[contract.DeliverProgress](c, a.HeartbeatDetails); p != nil {
			s := &v.Sinks[i]
			s.Rate += p.Rate
			s.LagP50, s.LagP99 = max(s.LagP50, p.LagP50), max(s.LagP99, p.LagP99)
			s.Backlog += p.Backlog
			s.Applied += p.Applied
			s.Duplicates += p.Duplicates
			s.Skipped += p.Skipped
			s.Dead += p.Dead
			if p.Waits > 0 && (s.Waits == 0 || p.WaitsSince.Before(s.WaitsSince)) {
				s.WaitsSince = p.WaitsSince
			}
			s.Waits += p.Waits
			for tier, w := range p.Tiers {
				s.wait(tier, w)
			}
		}
	}
	for _, cs := range v.Status.Components {
		if !cs.Failed {
			continue
		}
		f := Component{Name: cs.Name, State: StateFailed, Failure: cs.Failure}
		if cs.Name == contract.CaptureComponent {
			v.Capture = f
		} else if sinkName, lane, ok := contract.ParseLaneComponent(cs.Name); ok {
			if i := slices.IndexFunc(v.Sinks, func(s Sink) bool { return s.Name == sinkName }); i >= 0 && lane < len(v.Sinks[i].Lanes) {
				v.Sinks[i].Lanes[lane] = f
			}
		}
	}
}

func component(tc client.Client, a *workflowpb.PendingActivityInfo) Component {
	c := Component{Name: a.ActivityId, Worker: a.LastWorkerIdentity, Attempt: a.Attempt, State: StateRunning}
	if a.State == enumspb.PENDING_ACTIVITY_STATE_SCHEDULED {
		c.State = StateWaiting
		if a.Attempt > 1 {
			c.State = StateRetrying
		}
	}
	if f := a.LastFailure; f != nil {
		converter.DecodeCommonFailureAttributes(codec.ConverterOf(tc), f)
		c.Failure = &contract.Failure{Code: f.GetApplicationFailureInfo().GetType(), Message: f.Message}
		if f.GetTimeoutFailureInfo() != nil {
			c.Failure.Code = "HeartbeatTimeout"
		}
	}
	return c
}

func details[T any](c client.Client, p *commonpb.Payloads) *T {
	var v T
	if p == nil || codec.ConverterOf(c).FromPayloads(p, &v) != nil {
		return nil
	}
	return &v
}

// Settled reports whether the pipeline has nothing left to load.
func (v *View) Settled() bool { return v.Status.Phase == contract.Streaming && len(v.Loads) == 0 }

// Queue returns the task queue whose workers answer for a pipeline.
func Queue(ctx context.Context, c client.Client, name string) (string, error) {
	desc, err := c.DescribeWorkflowExecution(ctx, contract.PipelineID(name), "")
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return "", fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	if err != nil {
		return "", err
	}
	return desc.WorkflowExecutionInfo.TaskQueue, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/proxy"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/proto"

	"syncline/activities/codec"
)

// keyUse is what can be read with one key alone.
type keyUse struct {
	Key       string   `json:"key"` // "": clear text
	Running   []string `json:"running"`
	Ended     int      `json:"ended"`
	Schedules []string `json:"schedules"`
}

// keyUses finds out by looking at every payload that Temporal holds in the namespace. It
// needs no key.
type keyUses struct {
	c         client.Client
	namespace string
	by        map[string]*keyUse
}

func (u *keyUses) of(key string) *keyUse {
	if u.by[key] == nil {
		u.by[key] = &keyUse{Key: key, Running: []string{}, Schedules: []string{}}
	}
	return u.by[key]
}

// keysOf collects the ids of the keys of a message's payloads.
func keysOf(ctx context.Context, m proto.Message, into map[string]bool) error {
	return proxy.VisitPayloads(ctx, m, proxy.VisitPayloadsOptions{SkipSearchAttributes: true,
		Visitor: func(_ *proxy.VisitPayloadsContext, ps []*commonpb.Payload) ([]*commonpb.Payload, error) {
			for _, p := range ps {
				id := ""
				if string(p.GetMetadata()[converter.MetadataEncoding]) == codec.Encoding {
					id = string(p.Metadata[codec.MetadataID])
				}
				into[id] = true
			}
			return ps, nil
		}})
}

func gone(err error) bool { return errors.As(err, new(*serviceerror.NotFound)) }

func (u *keyUses) workflow(ctx context.Context, e *workflowpb.WorkflowExecutionInfo) error {
	id, run := e.GetExecution().GetWorkflowId(), e.GetExecution().GetRunId()
	keys := map[string]bool{}
	for it := u.c.GetWorkflowHistory(ctx, id, run, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); it.HasNext(); {
		event, err := it.Next()
		if gone(err) {
			return nil // its retention has ended meanwhile
		}
		if err != nil {
			return err
		}
		if err := keysOf(ctx, event, keys); err != nil {
			return err
		}
	}
	running := e.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
	if running { // heartbeats, failures of attempts, and the memo are in no history
		d, err := u.c.DescribeWorkflowExecution(ctx, id, run)
		if err != nil && !gone(err) {
			return err
		}
		if err == nil {
			if err := keysOf(ctx, d, keys); err != nil {
				return err
			}
		}
	}
	for k := range keys {
		if use := u.of(k); running {
			use.Running = append(use.Running, id)
		} else {
			use.Ended++
		}
	}
	return nil
}

func (u *keyUses) look(ctx context.Context) error {
	for page := []byte(nil); ; {
		r, err := u.c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: u.namespace, NextPageToken: page})
		if err != nil {
			return err
		}
		for _, e := range r.GetExecutions() {
			if err := u.workflow(ctx, e); err != nil {
				return err
			}
		}
		if page = r.GetNextPageToken(); len(page) == 0 {
			break
		}
	}
	for page := []byte(nil); ; {
		r, err := u.c.WorkflowService().ListSchedules(ctx, &workflowservice.ListSchedulesRequest{Namespace: u.namespace, MaximumPageSize: 100, NextPageToken: page})
		if err != nil {
			return err
		}
		for _, s := range r.GetSchedules() {
			d, err := u.c.WorkflowService().DescribeSchedule(ctx, &workflowservice.DescribeScheduleRequest{Namespace: u.namespace, ScheduleId: s.GetScheduleId()})
			if gone(err) {
				continue
			}
			if err != nil {
				return err
			}
			keys := map[string]bool{}
			if err := keysOf(ctx, d, keys); err != nil {
				return err
			}
			for k := range keys {
				u.of(k).Schedules = append(u.of(k).Schedules, s.GetScheduleId())
			}
		}
		if page = r.GetNextPageToken(); len(page) == 0 {
			return nil
		}
	}
}

func (t *tool) usedKeysCommand() *cobra.Command {
	return &cobra.Command{
		Use: "used", Short: "tell which keys are needed to read what Temporal holds",
		Long: `used looks at every payload that Temporal holds in the namespace, and tells for each key
how many workflows that run, workflows that have ended and Schedules need it. A key
that is not listed can be retired. It needs no keys itself, and reads every history:
in a namespace that holds many it takes its time. With --json, workflows that run and
Schedules are named.`,
		Args: args(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := t.dial(cmd.Context())
			if err != nil {
				return err
			}
			u := &keyUses{c: c, namespace: t.namespace, by: map[string]*keyUse{}}
			if err := u.look(cmd.Context()); err != nil {
				return err
			}
			out := []*keyUse{}
			for _, k := range slices.Sorted(maps.Keys(u.by)) {
				out = append(out, u.by[k])
			}
			return t.print(map[string]any{"keys": out}, func() {
				w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "key\trunning\tended\tschedules")
				for _, use := range out {
					name := use.Key
					if name == "" {
						name = "(clear text)"
					}
					fmt.Fprintf(w, "%s\t%d\t%d\t%d\n", name, len(use.Running), use.Ended, len(use.Schedules))
				}
				_ = w.Flush()
			})
		},
	}
}

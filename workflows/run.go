package workflows

import (
	"fmt"
	"slices"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// start is reconcile while no update runs: a child that starts while an update
// stops all work would be missed by it, and run on.
func (p *entity) start(ctx workflow.Context) error {
	if p.alone {
		if err := p.lock.Lock(ctx); err != nil {
			return err
		}
		defer p.lock.Unlock()
	}
	return p.reconcile(ctx)
}

// reconcile starts what should run and does not: the stream, and a bootstrap for
// tables that are loading.
func (p *entity) reconcile(ctx workflow.Context) error {
	if p.state.Paused || p.ended || p.state.Phase == contract.Destroying {
		p.settle(ctx)
		return nil
	}
	if !p.state.StreamOn {
		p.state.Components = nil
		if err := p.child(ctx, contract.StreamID(p.spec.Name), "keeps capture and delivery running", Stream, contract.StreamInput{
			Spec: p.spec, Epoch: p.state.Epoch, SlotAt: p.state.SlotAt, Parent: workflow.GetInfo(ctx).WorkflowExecution.ID,
		}); err != nil {
			return err
		}
		p.state.StreamOn = true
	}
	if len(p.state.Loading) == 0 {
		for _, l := range p.loading() {
			if _, err := p.bootstrap(ctx, l.tables, l.sinks); err != nil {
				return err
			}
		}
	}
	p.settle(ctx)
	return nil
}

// toLoad is some tables that the same sinks still have to load; no sinks: all.
type toLoad struct {
	tables []change.TableID
	sinks  []string
}

// loading returns what is still to be loaded. A sink that has a table already,
// or has gated it, must not be asked to load it.
func (p *entity) loading() (out []toLoad) {
	for _, t := range p.state.Tables {
		var sinks []string
		for _, s := range p.spec.Sinks {
			if t.Sinks[s.Name] == sink.Loading {
				sinks = append(sinks, s.Name)
			}
		}
		switch len(sinks) {
		case 0:
			continue
		case len(p.spec.Sinks):
			sinks = nil
		}
		i := slices.IndexFunc(out, func(l toLoad) bool { return slices.Equal(l.sinks, sinks) })
		if i < 0 {
			i, out = len(out), append(out, toLoad{sinks: sinks})
		}
		out[i].tables = append(out[i].tables, t.Table)
	}
	return out
}

func (p *entity) bootstrap(ctx workflow.Context, tables []change.TableID, sinks []string) (string, error) {
	p.state.Bootstraps++
	id := fmt.Sprintf("bootstrap/%s/%d", p.spec.Name, p.state.Bootstraps)
	if p.alone { // noted before it begins: it may end before its start is seen
		p.state.Loading = append(p.state.Loading, id)
	}
	err := p.child(ctx, id, fmt.Sprintf("loads %d tables", len(tables)), Bootstrap, contract.BootstrapInput{
		Spec: p.spec, Tables: tables, Sinks: sinks, Parent: workflow.GetInfo(ctx).WorkflowExecution.ID,
	})
	if err == nil && !p.alone {
		p.state.Loading = append(p.state.Loading, id)
	}
	if err != nil && p.alone {
		p.state.Loading = slices.DeleteFunc(p.state.Loading, func(x string) bool { return x == id })
	}
	return id, err
}

// child starts a workflow that outlives this run: the entity continues as new
// while its children go on, and they tell it by signals what became of them.
func (p *entity) child(ctx workflow.Context, id, summary string, fn, input any) error {
	cctx := workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:          id,
		ParentClosePolicy:   enumspb.PARENT_CLOSE_POLICY_ABANDON,
		WaitForCancellation: true,
		StaticSummary:       p.spec.Name + ": " + summary,
	})
	for wait := 100 * time.Millisecond; ; wait *= 2 {
		err := workflow.ExecuteChildWorkflow(cctx, fn, input).GetChildWorkflowExecution().Get(ctx, nil)
		// A stopped child tells before it has closed: its id is free a moment later.
		if !temporal.IsWorkflowExecutionAlreadyStartedError(err) || wait > 10*time.Second {
			return err
		}
		if err := workflow.Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// stopBound is how long a stop waits for activities to flush and end.
const stopBound = 2 * time.Minute

// stopWork cancels stream and bootstraps, waits until they have ended, and returns
// those that did not within stopBound.
func (p *entity) stopWork(ctx workflow.Context) (running []string) {
	ids := slices.Clone(p.state.Loading)
	if p.state.StreamOn {
		ids = append(ids, contract.StreamID(p.spec.Name))
	}
	for _, id := range ids {
		if err := workflow.RequestCancelExternalWorkflow(ctx, id, "").Get(ctx, nil); err != nil {
			// Not there any more: somebody terminated it, and no signal will come.
			if id == contract.StreamID(p.spec.Name) {
				p.state.StreamOn = false
			}
			p.state.Loading = slices.DeleteFunc(p.state.Loading, func(x string) bool { return x == id })
		}
	}
	ok, err := workflow.AwaitWithTimeout(ctx, stopBound, func() bool { return !p.state.StreamOn && len(p.state.Loading) == 0 })
	if err != nil || !ok {
		workflow.GetLogger(ctx).Warn("stream or bootstrap did not end in time", "bound", stopBound.String())
		running = slices.Clone(p.state.Loading)
		if p.state.StreamOn {
			running = append(running, contract.StreamID(p.spec.Name))
		}
	}
	return running
}

package workflows

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/pipeline"
)

// Pipeline is the entity behind one declaration.
func Pipeline(ctx workflow.Context, in contract.PipelineInput) error {
	p := &entity{spec: in.Spec, lock: workflow.NewMutex(ctx)}
	if in.Carried != nil {
		p.state = *in.Carried
		p.ready, p.applied, p.failed = true, true, in.Carried.Failure
	} else {
		p.state = contract.PipelineState{Phase: contract.Preparing, Epoch: 1, LoadEpoch: 1, Since: workflow.Now(ctx)}
	}
	if err := p.handlers(ctx); err != nil {
		return err
	}
	p.listen(ctx)
	if !p.ready {
		err := normalise(ctx, &p.spec)
		if err == nil {
			p.show(ctx)
			err = p.setup(ctx)
		}
		if err != nil {
			p.failed = failure(err, "")
			p.phase(ctx, contract.SetupFailed)
			// Whoever waits for apply is answered before the workflow closes.
			last, _ := workflow.NewDisconnectedContext(ctx)
			_ = workflow.Await(last, func() bool { return workflow.AllHandlersFinished(last) })
			return err
		}
		p.ready = true
	}
	p.alone = workflow.GetVersion(ctx, "one-at-a-time", workflow.DefaultVersion, 1) >= 1
	if err := p.start(ctx); err != nil {
		return err
	}
	for {
		err := p.await(ctx, func() bool {
			return p.ended || p.dirty || p.unpaced(ctx) || workflow.GetInfo(ctx).GetContinueAsNewSuggested() && workflow.AllHandlersFinished(ctx)
		})
		if err != nil { // cancelled: stop what runs, keep what exists
			last, _ := workflow.NewDisconnectedContext(ctx)
			p.stopWork(last)
			return err
		}
		switch {
		case p.ended:
			_ = workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) })
			return nil
		case p.dirty:
			p.dirty = false
			if err := p.start(ctx); err != nil {
				return err
			}
		case p.unpaced(ctx):
			if err := p.pace(ctx); err != nil {
				return err
			}
		case !workflow.GetInfo(ctx).GetContinueAsNewSuggested() || !workflow.AllHandlersFinished(ctx): // a time has come: look again
		default:
			p.drain(ctx)
			p.state.Failure = p.failed
			return workflow.NewContinueAsNewError(ctx, Pipeline, contract.PipelineInput{Spec: p.spec, Carried: &p.state})
		}
	}
}

// entity is the state of a running Pipeline. Handlers that change it hold lock,
// so that updates take effect one after the other.
type entity struct {
	spec    pipeline.Spec
	state   contract.PipelineState
	failed  *contract.Failure
	lock    workflow.Mutex
	ready   bool // setup is done
	applied bool // the first apply has been answered
	ended   bool // destroyed
	dirty   bool // reconcile has work to do

	// alone: what runs is started while no update runs, and a destroy is joined, not
	// refused. Runs that an older release began go on as they were recorded.
	alone    bool
	removing *removal  // the last destroy
	repace   time.Time // before that the Schedules of tiers are not tried again
}

func (p *entity) status() contract.PipelineStatus {
	return contract.PipelineStatus{
		Name: p.spec.Name, Phase: p.state.Phase, Since: p.state.Since, Epoch: p.state.Epoch, LoadEpoch: p.state.LoadEpoch, SlotAt: p.state.SlotAt,
		Tables: p.state.Tables, Components: p.state.Components, Loading: p.state.Loading, Spec: p.spec, Failure: p.failed,
		Budget: p.budget(), Slowed: p.state.Slowed,
	}
}

func (p *entity) phase(ctx workflow.Context, ph contract.Phase) {
	if p.state.Phase != ph {
		p.state.Phase, p.state.Since = ph, workflow.Now(ctx)
	}
	p.show(ctx)
}

// settle derives the phase from what runs.
func (p *entity) settle(ctx workflow.Context) {
	if !p.ready || p.state.Phase == contract.Destroying || p.ended {
		return
	}
	ph := contract.Streaming
	for i := range p.state.Tables {
		if t := &p.state.Tables[i]; ph == contract.Streaming && p.anySink(t, sink.Loading) {
			ph = contract.Bootstrapping
		} else if p.anySink(t, sink.Gated) || p.anySink(t, contract.LoadFailed) {
			ph = contract.Degraded
		}
	}
	for _, c := range p.state.Components {
		if c.Failed {
			ph = contract.Degraded
		}
	}
	if p.state.Paused {
		ph = contract.Paused
	}
	p.phase(ctx, ph)
}

// show keeps the Web UI's list and page readable.
func (p *entity) show(ctx workflow.Context) {
	sinks := make([]string, len(p.spec.Sinks))
	for i, s := range p.spec.Sinks {
		sinks[i] = s.Name
	}
	region := temporal.NewSearchAttributeKeyKeyword(contract.RegionAttribute)
	of := region.ValueUnset()
	if r := p.spec.Source.Region; r != "" {
		of = region.ValueSet(r)
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, of,
		temporal.NewSearchAttributeKeyKeyword(contract.PipelineAttribute).ValueSet(p.spec.Name),
		temporal.NewSearchAttributeKeyKeyword(contract.PhaseAttribute).ValueSet(string(p.state.Phase)),
		temporal.NewSearchAttributeKeyKeyword(contract.SourceAttribute).ValueSet(p.spec.Source.Type),
		temporal.NewSearchAttributeKeyKeywordList(contract.SinkAttribute).ValueSet(sinks),
		temporal.NewSearchAttributeKeyKeywordList(contract.TierAttribute).ValueSet(p.spec.TierNames()),
	); err != nil {
		workflow.GetLogger(ctx).Warn("search attributes not set", "error", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "**%s** since %s · epoch %d · slot began at `%s`\n\n", p.state.Phase, p.state.Since.UTC().Format("2006-01-02 15:04:05Z"), p.state.Epoch, p.state.SlotAt)
	if p.failed != nil {
		fmt.Fprintf(&b, "`%s` %s\n\n", p.failed.Code, p.failed.Message)
	}
	if s := p.state.Budget; s != nil && p.state.Slowed > 1 {
		fmt.Fprintf(&b, "- over its budget (%s of %s %s a %s): batch tiers run %d times as rarely, until %s at most\n", s.Spent.StringFixed(2), s.Amount, s.Currency, s.Per, p.state.Slowed, s.End.UTC().Format("2006-01-02 15:04Z"))
	}
	for _, c := range p.state.Components {
		if c.Failed {
			fmt.Fprintf(&b, "- %s failed: `%s` %s\n", c.Name, c.Failure.Code, c.Failure.Message)
		}
	}
	if len(p.state.Tables) > 0 {
		b.WriteString("\n| table |")
		for _, s := range sinks {
			fmt.Fprintf(&b, " %s |", s)
		}
		b.WriteString(" rows loaded |\n|---|" + strings.Repeat("---|", len(sinks)) + "---|\n")
		for i, t := range p.state.Tables {
			if i == 50 {
				fmt.Fprintf(&b, "| … and %d more |\n", len(p.state.Tables)-i)
				break
			}
			fmt.Fprintf(&b, "| %s |", t.Table)
			for _, s := range sinks {
				fmt.Fprintf(&b, " %s |", t.Sinks[s])
			}
			fmt.Fprintf(&b, " %d |\n", t.Rows)
		}
	}
	workflow.SetCurrentDetails(ctx, b.String())
}

func (p *entity) table(t change.TableID) *contract.TableStatus {
	for i := range p.state.Tables {
		if p.state.Tables[i].Table == t {
			return &p.state.Tables[i]
		}
	}
	return nil
}

// anySink reports whether the table is in the state at some sink.
func (p *entity) anySink(t *contract.TableStatus, st sink.State) bool {
	return slices.ContainsFunc(p.spec.Sinks, func(s pipeline.Sink) bool { return t.Sinks[s.Name] == st })
}

func (p *entity) addTables(ts []contract.ResolvedTable) {
	for _, t := range ts {
		if p.table(t.Table) != nil {
			continue
		}
		st := contract.TableStatus{Table: t.Table, AppendOnly: t.AppendOnly, LoadEpoch: p.state.LoadEpoch, Sinks: map[string]sink.State{}}
		for _, s := range p.spec.Sinks {
			st.Sinks[s.Name] = sink.Loading
		}
		p.state.Tables = append(p.state.Tables, st)
	}
	slices.SortFunc(p.state.Tables, func(a, b contract.TableStatus) int {
		return cmp.Compare(a.Table.String(), b.Table.String())
	})
}

// listen takes the signals of the pipeline's children.
func (p *entity) listen(ctx workflow.Context) {
	each(ctx, contract.ComponentSignal, p.onComponent)
	each(ctx, contract.LoadedSignal, p.onLoaded)
	each(ctx, contract.GatedSignal, p.onGated)
	each(ctx, contract.BootstrapSignal, p.onBootstrap)
	each(ctx, contract.StoppedSignal, p.onStopped)
	each(ctx, contract.BudgetSignal, p.onBudget)
}

func each[T any](ctx workflow.Context, name string, take func(workflow.Context, T)) {
	ch := workflow.GetSignalChannel(ctx, name)
	workflow.Go(ctx, func(ctx workflow.Context) {
		for {
			var v T
			if !ch.Receive(ctx, &v) {
				return
			}
			take(ctx, v)
		}
	})
}

// drain takes the signals that have come but were not received yet, so that none
// is lost when the run ends.
func (p *entity) drain(ctx workflow.Context) {
	drain(ctx, contract.ComponentSignal, p.onComponent)
	drain(ctx, contract.LoadedSignal, p.onLoaded)
	drain(ctx, contract.GatedSignal, p.onGated)
	drain(ctx, contract.BootstrapSignal, p.onBootstrap)
	drain(ctx, contract.StoppedSignal, p.onStopped)
	drain(ctx, contract.BudgetSignal, p.onBudget)
}

func drain[T any](ctx workflow.Context, name string, take func(workflow.Context, T)) {
	ch := workflow.GetSignalChannel(ctx, name)
	for {
		var v T
		if !ch.ReceiveAsync(&v) {
			return
		}
		take(ctx, v)
	}
}

func (p *entity) onComponent(ctx workflow.Context, c contract.ComponentState) {
	i, found := slices.BinarySearchFunc(p.state.Components, c.Name, func(x contract.ComponentState, n string) int { return cmp.Compare(x.Name, n) })
	if found {
		p.state.Components[i] = c
	} else {
		p.state.Components = slices.Insert(p.state.Components, i, c)
	}
	p.settle(ctx)
}

func (p *entity) onLoaded(ctx workflow.Context, l contract.TableLoaded) {
	t := p.table(l.Table)
	if t == nil { // removed meanwhile
		return
	}
	if l.Failure != nil {
		t.Reason = fmt.Sprintf("%s: %s: %s", l.Sink, l.Failure.Code, l.Failure.Message)
		t.Sinks[l.Sink] = contract.LoadFailed
	} else {
		t.Sinks[l.Sink] = sink.Streaming
		if strings.HasPrefix(t.Reason, l.Sink+": ") { // another sink's stays
			t.Reason = ""
		}
		t.Rows = max(t.Rows, l.Rows)
		if why, ok := t.Early[l.Sink]; ok { // a lane was faster than the word of the load's end
			t.Sinks[l.Sink], t.Reason = sink.Gated, why
		}
	}
	delete(t.Early, l.Sink)
	p.settle(ctx)
}

func (p *entity) onGated(ctx workflow.Context, g contract.TableGated) {
	t := p.table(g.Table)
	if t == nil { // removed
		return
	}
	why := fmt.Sprintf("%s: %s (resync-table loads it again)", g.Sink, g.Reason)
	if t.Sinks[g.Sink] == sink.Loading {
		if g.Epoch > 0 && g.Epoch >= t.LoadEpoch { // not of a load before, which is being made good
			if t.Early == nil {
				t.Early = map[string]string{}
			}
			t.Early[g.Sink] = why
		}
		return
	}
	t.Sinks[g.Sink], t.Reason = sink.Gated, why
	p.settle(ctx)
}

func (p *entity) onBootstrap(ctx workflow.Context, b contract.BootstrapEnded) {
	p.state.Loading = slices.DeleteFunc(p.state.Loading, func(id string) bool { return id == b.ID })
	if b.Failure != nil {
		p.failed = b.Failure
	}
	p.settle(ctx)
}

func (p *entity) onStopped(workflow.Context, contract.StreamStopped) { p.state.StreamOn = false }

package workflows

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/pipeline"
)

// handlers registers the status query and the updates. Validators refuse with a
// reason before anything enters history; handlers run one at a time.
func (p *entity) handlers(ctx workflow.Context) error {
	if err := workflow.SetQueryHandler(ctx, contract.StatusQuery, func() (contract.PipelineStatus, error) { return p.status(), nil }); err != nil {
		return err
	}
	set := func(name, what string, handler, validator any) error {
		return workflow.SetUpdateHandlerWithOptions(ctx, name, handler, workflow.UpdateHandlerOptions{Validator: validator, Description: what})
	}
	for _, err := range []error{
		set(contract.ApplyUpdate, "make the pipeline as declared", p.apply, p.mayApply),
		set(contract.PauseUpdate, "stop capture, delivery and loads; the slot keeps what comes", p.pause, p.mayPause),
		set(contract.ResumeUpdate, "start again, and try failed components again", p.resume, p.mayResume),
		set(contract.AddTableUpdate, "load tables and deliver them", p.addTable, p.mayAdd),
		set(contract.RemoveTableUpdate, "stop delivering tables", p.removeTable, p.mayRemove),
		set(contract.ResyncTableUpdate, "empty tables at the sinks and load them again", p.resyncTable, p.mayResync),
		set(contract.DestroyUpdate, "remove slot, publication, topics and ledger, and end", p.destroy, p.mayDestroy),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// exclusive waits for the setup, then runs fn while no other update runs.
func (p *entity) exclusive(ctx workflow.Context, fn func() error) error {
	if err := workflow.Await(ctx, func() bool { return p.ready || p.failed != nil && p.state.Phase == contract.SetupFailed }); err != nil {
		return err
	}
	if !p.ready {
		return temporal.NewNonRetryableApplicationError(p.failed.Message, p.failed.Code, nil)
	}
	if err := p.lock.Lock(ctx); err != nil {
		return err
	}
	defer p.lock.Unlock()
	if p.ended {
		return refuse("pipeline %s has been destroyed", p.spec.Name)
	}
	return fn()
}

func (p *entity) alive() error {
	if p.ended || p.state.Phase == contract.Destroying {
		return refuse("pipeline %s is being destroyed", p.spec.Name)
	}
	return nil
}

func (p *entity) mayApply(_ workflow.Context, spec pipeline.Spec) error {
	if err := p.alive(); err != nil {
		return err
	}
	if err := spec.Normalise(); err != nil {
		return temporal.NewNonRetryableApplicationError(err.Error(), "InvalidDeclaration", nil)
	}
	var no []string
	for _, c := range pipeline.Diff(&p.spec, &spec) {
		if c.Effect == pipeline.Refused {
			no = append(no, c.String())
		}
	}
	if len(no) > 0 {
		return refuse("cannot be changed while the pipeline runs: %s", strings.Join(no, "; "))
	}
	return nil
}

// apply answers once the pipeline is set up as declared. The first apply is the
// one that started the workflow.
func (p *entity) apply(ctx workflow.Context, spec pipeline.Spec) (res contract.ApplyResult, err error) {
	if err := normalise(ctx, &spec); err != nil {
		return res, err
	}
	err = p.exclusive(ctx, func() error {
		res.Changes = pipeline.Diff(&p.spec, &spec)
		if len(res.Changes) == 0 {
			res.Created = !p.applied
			p.applied = true
			return nil
		}
		if !slices.ContainsFunc(res.Changes, func(c pipeline.Change) bool { return !strings.HasPrefix(c.Path, "budget") }) {
			p.spec.Budget = spec.Budget // nothing that runs needs it
			return nil
		}
		return p.change(ctx, spec)
	})
	for _, t := range p.state.Tables {
		res.Tables = append(res.Tables, t.Table)
	}
	return res, err
}

// change moves the pipeline to another declaration. Tables that come or go are
// added and removed; whatever else changes, the stream is started again with it.
func (p *entity) change(ctx workflow.Context, spec pipeline.Spec) error {
	var found contract.Resolved
	if err := workflow.ExecuteActivity(short(ctx, "find the tables", setupTries), contract.ResolveActivity, contract.SetupInput{Spec: spec}).Get(ctx, &found); err != nil {
		return err
	}
	want := tablesOf(found)
	var come, go_ []change.TableID
	for _, t := range want {
		if p.table(t) == nil {
			come = append(come, t)
		}
	}
	for _, t := range p.state.Tables {
		if !slices.Contains(want, t.Table) {
			go_ = append(go_, t.Table)
		}
	}
	if no := p.reshaped(&spec, want); len(no) > 0 {
		return refuse("%s", strings.Join(no, "; "))
	}
	p.stopWork(ctx)
	defer func() { p.dirty = true }()
	old := p.spec
	p.spec = spec
	if len(go_) > 0 {
		if err := p.remove(ctx, go_, false); err != nil {
			p.spec = old
			return err
		}
	}
	undo, err := p.addSinks(ctx, &old)
	if err == nil {
		err = p.add(ctx, found, come)
	}
	if err == nil && len(come) == 0 && topicsDiffer(&old, &spec) && workflow.GetVersion(ctx, "topic-settings", workflow.DefaultVersion, 1) >= 1 {
		err = workflow.ExecuteActivity(short(ctx, "adapt the topics", setupTries), contract.EnsureTopicsActivity, contract.SetupInput{Spec: spec, Tables: want}).Get(ctx, nil)
	}
	if err == nil && !reflect.DeepEqual(old.SlowedTiers(p.state.Slowed), spec.SlowedTiers(p.state.Slowed)) {
		err = p.scheduleTiers(ctx, old.Tiers)
	}
	if err != nil {
		undo()
		p.spec = old.WithTables(nil, go_) // they are gone all the same
		if !reflect.DeepEqual(old.SlowedTiers(p.state.Slowed), spec.SlowedTiers(p.state.Slowed)) {
			if err := p.scheduleTiers(ctx, spec.Tiers); err != nil {
				workflow.GetLogger(ctx).Warn("schedules of tiers not taken back", "error", err)
			}
		}
		return err
	}
	p.knowSinks()
	return nil
}

// topicsDiffer reports whether topics that exist are to be changed, or others made
// beside them.
func topicsDiffer(a, b *pipeline.Spec) bool {
	return a.Kafka.Retention != b.Kafka.Retention || a.Kafka.MaxMessageBytes != b.Kafka.MaxMessageBytes || a.Kafka.Format != b.Kafka.Format
}

// reshaped names what cannot change of tables that are in the pipeline: what the
// source publishes of them, and what they are at the sinks, was made when they came.
func (p *entity) reshaped(spec *pipeline.Spec, tables []change.TableID) (no []string) {
	for _, t := range tables {
		if p.table(t) == nil {
			continue
		}
		was, is := p.spec.Options(t), spec.Options(t)
		was.ChunkBytes, is.ChunkBytes = 0, 0
		if !reflect.DeepEqual(was, is) {
			no = append(no, fmt.Sprintf("options of table %s cannot change while it is in the pipeline (fix: starter remove-table %s %s --drop-rows, then apply again)", t, spec.Name, t))
		}
	}
	for _, s := range spec.Sinks {
		if old := p.spec.Sink(s.Name); old != nil && (old.Schema != s.Schema || old.Database != s.Database) {
			no = append(no, fmt.Sprintf("sink %s cannot move to another database or schema (fix: declare a sink of another name)", s.Name))
		}
	}
	return no
}

// addSinks makes the tables of the pipeline in the sinks that the old declaration
// did not have. undo takes it back.
func (p *entity) addSinks(ctx workflow.Context, old *pipeline.Spec) (undo func(), err error) {
	spec, epoch := p.spec, p.state.LoadEpoch
	var made []string
	undo = func() {
		for _, name := range made {
			if err := workflow.ExecuteActivity(short(ctx, "remove the tables made in "+name, setupTries), contract.ForgetSinkActivity,
				contract.SinkInput{Spec: spec, Sink: name, DropRows: true}).Get(ctx, nil); err != nil {
				workflow.GetLogger(ctx).Warn("sink not cleaned up", "sink", name, "error", err)
			}
		}
	}
	all := make([]change.TableID, len(p.state.Tables))
	for i := range p.state.Tables {
		all[i] = p.state.Tables[i].Table
	}
	for _, sk := range spec.Sinks {
		if old.Sink(sk.Name) != nil {
			continue
		}
		made = append(made, sk.Name)
		if err := workflow.ExecuteActivity(short(ctx, "prepare sink "+sk.Name, setupTries), contract.PrepareSinkActivity,
			contract.SinkInput{Spec: spec, Sink: sk.Name, Tables: all, Epoch: epoch, Fresh: true, Topics: true}).Get(ctx, nil); err != nil {
			return undo, err
		}
	}
	return undo, nil
}

// knowSinks gives every table a state at each sink of the declaration, and at no
// other: a sink that has come has it to load.
func (p *entity) knowSinks() {
	for i := range p.state.Tables {
		was := p.state.Tables[i].Sinks
		is := map[string]sink.State{}
		for _, s := range p.spec.Sinks {
			is[s.Name] = sink.Loading
			if st, ok := was[s.Name]; ok {
				is[s.Name] = st
			}
		}
		p.state.Tables[i].Sinks = is
	}
}

func (p *entity) mayPause(workflow.Context) error {
	if p.state.Paused {
		return refuse("pipeline %s is paused already", p.spec.Name)
	}
	return p.alive()
}

func (p *entity) pause(ctx workflow.Context) (st contract.PipelineStatus, err error) {
	err = p.exclusive(ctx, func() error {
		p.state.Paused = true
		running := p.stopWork(ctx)
		p.settle(ctx)
		if len(running) > 0 {
			return temporal.NewNonRetryableApplicationError(fmt.Sprintf("told to stop, and still running after %s: %s; they end when their workers answer, and nothing is started meanwhile",
				stopBound, strings.Join(running, ", ")), contract.StillRunningError, nil)
		}
		return nil
	})
	return p.status(), err
}

func (p *entity) mayResume(workflow.Context) error {
	if !p.state.Paused && p.state.Phase != contract.Degraded && p.failed == nil && !p.loadFailed() {
		return refuse("pipeline %s is neither paused nor has it failed components", p.spec.Name)
	}
	return p.alive()
}

func (p *entity) loadFailed() bool {
	return slices.ContainsFunc(p.state.Tables, func(t contract.TableStatus) bool { return p.anySink(&t, contract.LoadFailed) })
}

func (p *entity) resume(ctx workflow.Context) (st contract.PipelineStatus, err error) {
	err = p.exclusive(ctx, func() error {
		p.failed = nil
		for i := range p.state.Tables { // loads that had failed are tried again
			for _, s := range p.spec.Sinks {
				if t := &p.state.Tables[i]; t.Sinks[s.Name] == contract.LoadFailed {
					t.Sinks[s.Name], t.Reason = sink.Loading, ""
				}
			}
		}
		if p.state.Paused {
			p.state.Paused = false
		} else if p.state.StreamOn {
			if err := workflow.SignalExternalWorkflow(ctx, contract.StreamID(p.spec.Name), "", contract.RetrySignal, nil).Get(ctx, nil); err != nil {
				p.state.StreamOn = false // it is gone: reconcile starts it again
			}
		}
		return p.reconcile(ctx)
	})
	return p.status(), err
}

func (p *entity) mayAdd(_ workflow.Context, in contract.TablesInput) error {
	if len(in.Tables) == 0 {
		return refuse("no table named")
	}
	for _, t := range in.Tables {
		if p.table(t) != nil {
			return refuse("table %s is in the pipeline already", t)
		}
	}
	return p.alive()
}

func (p *entity) addTable(ctx workflow.Context, in contract.TablesInput) (res contract.TablesResult, err error) {
	err = p.exclusive(ctx, func() error {
		spec := p.spec.WithTables(in.Tables, nil)
		var found contract.Resolved
		if err := workflow.ExecuteActivity(short(ctx, "find the tables", setupTries), contract.ResolveActivity, contract.SetupInput{Spec: spec, Tables: in.Tables}).Get(ctx, &found); err != nil {
			return err
		}
		old := p.spec
		p.spec = spec
		if err := p.add(ctx, found, in.Tables); err != nil {
			p.spec = old
			return err
		}
		res.Tables = in.Tables
		if !p.state.Paused {
			res.Bootstrap, err = p.bootstrap(ctx, in.Tables, nil)
		}
		p.settle(ctx)
		return err
	})
	return res, err
}

// add makes topics, the publication's entries and the sinks' tables, without
// touching the stream of the tables that run.
func (p *entity) add(ctx workflow.Context, found contract.Resolved, tables []change.TableID) error {
	if len(tables) == 0 {
		return nil
	}
	all := slices.Clone(tables)
	for _, t := range p.state.Tables {
		all = append(all, t.Table)
	}
	for _, sk := range p.spec.Sinks {
		if err := workflow.ExecuteActivity(short(ctx, "prepare sink "+sk.Name, setupTries), contract.PrepareSinkActivity,
			contract.SinkInput{Spec: p.spec, Sink: sk.Name, Tables: tables, Epoch: p.state.LoadEpoch}).Get(ctx, nil); err != nil {
			return err
		}
	}
	for _, step := range []struct{ name, activity string }{
		{"create the topics", contract.EnsureTopicsActivity},
		{"extend the publication", contract.EnsurePublicationActivity},
	} {
		if err := workflow.ExecuteActivity(short(ctx, step.name, setupTries), step.activity, contract.SetupInput{Spec: p.spec, Tables: all}).Get(ctx, nil); err != nil {
			return err
		}
	}
	var add []contract.ResolvedTable
	for _, t := range found.Tables {
		if slices.Contains(tables, t.Table) {
			add = append(add, t)
		}
	}
	p.addTables(add)
	return nil
}

func (p *entity) known(in contract.TablesInput) error {
	if len(in.Tables) == 0 {
		return refuse("no table named")
	}
	for _, t := range in.Tables {
		if p.table(t) == nil {
			return refuse("table %s is not in the pipeline%s", t, p.nearest(t))
		}
	}
	return p.alive()
}

func (p *entity) nearest(t change.TableID) string {
	names := make([]string, len(p.state.Tables))
	for i := range names {
		names[i] = p.state.Tables[i].Table.String()
	}
	if n := pipeline.Nearest(t.String(), names); n != "" {
		return fmt.Sprintf("; did you mean %s?", n)
	}
	return ""
}

func (p *entity) mayRemove(_ workflow.Context, in contract.TablesInput) error {
	if err := p.known(in); err != nil {
		return err
	}
	if len(in.Tables) >= len(p.state.Tables) {
		return refuse("that would leave no table; use destroy")
	}
	return nil
}

func (p *entity) removeTable(ctx workflow.Context, in contract.TablesInput) (res contract.TablesResult, err error) {
	err = p.exclusive(ctx, func() error {
		old := p.spec
		p.spec = p.spec.WithTables(nil, in.Tables)
		if err := p.remove(ctx, in.Tables, in.DropRows); err != nil {
			p.spec = old
			return err
		}
		res.Tables = in.Tables
		p.settle(ctx)
		return nil
	})
	return res, err
}

func (p *entity) remove(ctx workflow.Context, tables []change.TableID, drop bool) error {
	var stay []change.TableID
	for _, t := range p.state.Tables {
		if !slices.Contains(tables, t.Table) {
			stay = append(stay, t.Table)
		}
	}
	if err := workflow.ExecuteActivity(short(ctx, "shrink the publication", setupTries), contract.EnsurePublicationActivity,
		contract.SetupInput{Spec: p.spec, Tables: stay}).Get(ctx, nil); err != nil {
		return err
	}
	for _, sk := range p.spec.Sinks {
		for _, t := range tables {
			if st := p.table(t); st == nil || st.Sinks[sk.Name] == "" { // a sink that is about to come
				continue
			}
			task := contract.TableTask{Endpoint: contract.Endpoint{Pipeline: p.spec.Name, Source: p.spec.Source, Sink: sk}, Table: t, DropRows: drop}
			if err := workflow.ExecuteActivity(short(ctx, fmt.Sprintf("%s: remove %s", sk.Name, t), setupTries), contract.RemoveTableActivity, task).Get(ctx, nil); err != nil {
				return err
			}
		}
	}
	p.state.Tables = slices.DeleteFunc(p.state.Tables, func(t contract.TableStatus) bool { return slices.Contains(tables, t.Table) })
	return nil
}

func (p *entity) mayResync(_ workflow.Context, in contract.TablesInput) error {
	if err := p.known(in); err != nil {
		return err
	}
	for _, name := range in.Sinks {
		if p.spec.Sink(name) == nil {
			return refuse("no sink is called %q", name)
		}
	}
	for _, t := range in.Tables {
		if p.anySink(p.table(t), sink.Loading) {
			return refuse("table %s is loading already", t)
		}
	}
	return nil
}

func (p *entity) resyncTable(ctx workflow.Context, in contract.TablesInput) (res contract.TablesResult, err error) {
	err = p.exclusive(ctx, func() error {
		p.state.LoadEpoch++
		for _, sk := range p.spec.Sinks {
			if len(in.Sinks) > 0 && !slices.Contains(in.Sinks, sk.Name) {
				continue
			}
			for _, t := range in.Tables {
				task := contract.TableTask{Endpoint: contract.Endpoint{Pipeline: p.spec.Name, Source: p.spec.Source, Sink: sk}, Table: t, Epoch: p.state.LoadEpoch,
					Kafka: &p.spec.Kafka, NoRows: p.spec.Snapshot.Mode == pipeline.SnapshotNever}
				if err := workflow.ExecuteActivity(short(ctx, fmt.Sprintf("%s: reset %s", sk.Name, t), setupTries), contract.ResetTableActivity, task).Get(ctx, nil); err != nil {
					return err
				}
				p.table(t).Sinks[sk.Name] = sink.Loading
				p.table(t).LoadEpoch = p.state.LoadEpoch
				delete(p.table(t).Early, sk.Name)
			}
		}
		res.Tables = in.Tables
		if !p.state.Paused {
			res.Bootstrap, err = p.bootstrap(ctx, in.Tables, in.Sinks)
		}
		p.settle(ctx)
		return err
	})
	return res, err
}

package workflows

import (
	"fmt"
	"slices"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/pipeline"
)

// loader copies tables into sinks. Every sink has its own readers and its own
// pace; all share the generations of one snapshot holder.
type loader struct {
	in       contract.BootstrapInput
	loads    []*contract.LoadState
	gen      contract.Generation
	gone     int   // generations up to it cannot be read any more
	holder   error // why no generation will come any more
	draining bool  // history is long: finish what is under way and continue as new
	done     bool
	loaded   func(workflow.Context, *contract.LoadState)
}

func newLoader(ctx workflow.Context, in contract.BootstrapInput) (*loader, error) {
	l := &loader{in: in}
	if l.in.Begun.IsZero() {
		l.in.Begun = workflow.Now(ctx)
	}
	if len(in.Loads) > 0 {
		for i := range in.Loads {
			l.loads = append(l.loads, &in.Loads[i])
		}
	} else {
		for _, sk := range in.Spec.Sinks {
			if len(in.Sinks) > 0 && !slices.Contains(in.Sinks, sk.Name) {
				continue
			}
			for _, t := range in.Tables {
				l.loads = append(l.loads, &contract.LoadState{Sink: sk.Name, Table: t, State: sink.Loading})
			}
		}
	}
	l.gen.N, l.gone = in.Gens, in.Gens
	return l, workflow.SetQueryHandler(ctx, contract.StatusQuery, func() (contract.LoadStatus, error) { return l.status(), nil })
}

func (l *loader) status() contract.LoadStatus {
	s := contract.LoadStatus{Pipeline: l.in.Spec.Name, Generation: l.gen.N, Begun: l.in.Begun, Done: l.done}
	for _, ld := range l.loads {
		s.Loads = append(s.Loads, *ld)
	}
	return s
}

// run loads everything. It returns a continue-as-new error when history has
// become long, and otherwise nil or the cancellation: what failed for good is in
// the load states, so that one bad table does not hold up the others.
func (l *loader) run(ctx workflow.Context, self any) error {
	hold, release := workflow.WithCancel(ctx)
	defer release()
	generations := workflow.GetSignalChannel(ctx, contract.GenerationSignal)
	workflow.Go(hold, func(ctx workflow.Context) {
		for {
			var g contract.Generation
			more := false
			workflow.NewSelector(ctx).
				AddReceive(generations, func(c workflow.ReceiveChannel, _ bool) { more = c.Receive(ctx, &g) }).
				AddReceive(ctx.Done(), func(workflow.ReceiveChannel, bool) {}).
				Select(ctx)
			if !more {
				return
			}
			if g.N > l.gen.N {
				l.gen = g
			}
		}
	})
	holder := workflow.ExecuteActivity(long(hold, contract.Capture, "snapshot-holder", "holds the snapshot that all chunk readers share"), contract.HoldSnapshotActivity,
		contract.HoldInput{Pipeline: l.in.Spec.Name, Source: l.in.Spec.Source, Workflow: workflow.GetInfo(ctx).WorkflowExecution.ID,
			After: l.gen.N, MaxHold: l.in.Spec.Snapshot.MaxHold.Std()})
	workflow.Go(ctx, func(ctx workflow.Context) {
		if err := holder.Get(ctx, nil); err != nil && !temporal.IsCanceledError(err) {
			l.holder = err
		}
	})

	wg := workflow.NewWaitGroup(ctx)
	for _, sk := range l.in.Spec.Sinks {
		readers := workflow.NewSemaphore(ctx, int64(l.in.Spec.Snapshot.Parallelism))
		for _, ld := range l.loads {
			if ld.Sink != sk.Name || ld.State != sink.Loading || ld.Failure != nil {
				continue
			}
			wg.Add(1)
			workflow.Go(ctx, func(ctx workflow.Context) {
				defer wg.Done()
				if err := l.load(ctx, sk, ld, readers); err != nil && ctx.Err() == nil {
					ld.Failure, ld.Ended = failure(err, ""), workflow.Now(ctx)
					l.tell(ctx, ld)
				}
			})
		}
	}
	wg.Wait(ctx)
	release()
	_ = holder.Get(ctx, nil) // the transaction at the source ends before the load is called over

	if ctx.Err() != nil {
		return ctx.Err()
	}
	if l.draining {
		next := l.in
		next.Loads, next.Gens = l.status().Loads, l.gen.N
		return workflow.NewContinueAsNewError(ctx, self, next)
	}
	l.done = true
	return nil
}

func (l *loader) tell(ctx workflow.Context, ld *contract.LoadState) {
	if l.loaded != nil {
		l.loaded(ctx, ld)
	}
}

// load copies one table into one sink.
func (l *loader) load(ctx workflow.Context, sk pipeline.Sink, ld *contract.LoadState, readers workflow.Semaphore) error {
	task := l.task(sk, ld.Table)
	if !ld.Planned {
		if err := readers.Acquire(ctx, 1); err != nil {
			return err
		}
		var plan contract.ChunkPlan
		err := workflow.ExecuteActivity(work(ctx, fmt.Sprintf("%s → %s: cut into chunks", ld.Table, sk.Name)), contract.PlanChunksActivity, task).Get(ctx, &plan)
		readers.Release(1)
		if err != nil {
			return err
		}
		ld.Planned, ld.Chunks, ld.Estimate, ld.Size, ld.Begun = true, plan.Chunks, plan.Estimate, plan.Bytes, workflow.Now(ctx)
	}
	var failed error
	under := workflow.NewWaitGroup(ctx)
	for ld.Next < ld.Chunks && failed == nil {
		if err := readers.Acquire(ctx, 1); err != nil {
			failed = err
			break
		}
		if workflow.GetInfo(ctx).GetContinueAsNewSuggested() {
			l.draining = true
		}
		if l.draining || failed != nil {
			readers.Release(1)
			break
		}
		n := ld.Next
		ld.Next++
		under.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer under.Done()
			defer readers.Release(1)
			done, err := l.chunk(ctx, task, n, ld.Chunks)
			if err != nil {
				failed = err
				return
			}
			ld.Done, ld.Rows, ld.Bytes = ld.Done+1, ld.Rows+done.Rows, ld.Bytes+done.Bytes
		})
	}
	under.Wait(ctx)
	if failed != nil || l.draining {
		return failed
	}
	if err := workflow.ExecuteActivity(work(ctx, fmt.Sprintf("%s → %s: indexes, then delivery", ld.Table, sk.Name)), contract.FinishLoadActivity, task).Get(ctx, nil); err != nil {
		return err
	}
	ld.State, ld.Ended = sink.Streaming, workflow.Now(ctx)
	l.tell(ctx, ld)
	return nil
}

// chunk copies one chunk in the newest generation; when that one is gone, it
// waits for the next.
func (l *loader) chunk(ctx workflow.Context, task contract.TableTask, n, of int) (done contract.ChunkDone, err error) {
	for {
		if err := workflow.Await(ctx, func() bool { return l.gen.N > l.gone || l.holder != nil }); err != nil {
			return done, err
		}
		if l.gen.N <= l.gone {
			return done, l.holder
		}
		gen := l.gen
		actx := work(ctx, fmt.Sprintf("%s → %s: chunk %d of %d", task.Table, task.Sink.Name, n+1, of))
		err := workflow.ExecuteActivity(actx, contract.CopyChunkActivity, contract.ChunkTask{TableTask: task, N: n, Generation: gen}).Get(ctx, &done)
		if errorType(err) != contract.SnapshotGoneError {
			return done, err
		}
		l.gone = max(l.gone, gen.N)
	}
}

func (l *loader) task(sk pipeline.Sink, t change.TableID) contract.TableTask {
	o := l.in.Spec.Options(t)
	return contract.TableTask{
		Endpoint:   contract.Endpoint{Pipeline: l.in.Spec.Name, Source: l.in.Spec.Source, Sink: sk},
		Table:      t,
		Where:      o.Where,
		Shape:      l.in.Spec.Shape(t, sk.Name),
		Tiers:      l.in.Spec.LoadRules(t),
		Listed:     o.Columns != nil,
		NoRows:     l.in.Spec.Snapshot.Mode == pipeline.SnapshotNever && !l.in.OneOff,
		ChunkBytes: int64(o.ChunkBytes),
	}
}

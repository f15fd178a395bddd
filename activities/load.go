package activities

import (
	"context"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/activity"
	"go.uber.org/zap"

	"syncline/activities/contract"
	"syncline/analytics"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	source "syncline/dataplane/source/postgres"
	"syncline/tiers/shape"
)

// HoldSnapshot exports a snapshot, tells the workflow, and holds the transaction
// open until it is cancelled. After MaxHold it exports a new one, so that no
// transaction is held for days; chunks being copied in the old one go on.
func (a *Activities) HoldSnapshot(ctx context.Context, in contract.HoldInput) (err error) {
	info := activity.GetInfo(ctx)
	log := a.logger(ctx, in.Pipeline)
	var n atomic.Int64
	return long(ctx, func() any { return n.Load() }, func(ctx context.Context) error {
		srv, err := a.source(ctx, in.Pipeline, in.Source)
		if err != nil {
			return err
		}
		defer srv.Close()
		// Generations must grow from attempt to attempt, also of a holder that was
		// taken for dead and is not.
		next := in.After + int(info.Attempt-1)*generationsPerAttempt
		for {
			next++
			n.Store(int64(next))
			err := a.hold(ctx, srv, in, next, log)
			if fault.Is(err, source.CodeSnapshotGone) && ctx.Err() == nil {
				// Permanent for this snapshot, as for a chunk that reads in it; not for its
				// holder, who is there to export the next one.
				log.Warn("the snapshot is gone; exporting another", zap.Int("generation", next), zap.Error(err))
				continue
			}
			if err != nil {
				return err
			}
		}
	})
}

// generationsPerAttempt leaves room for the renewals of one attempt.
const generationsPerAttempt = 1000

func (a *Activities) hold(ctx context.Context, srv *source.Server, in contract.HoldInput, n int, log *zap.Logger) error {
	ex, err := srv.Export(ctx)
	if err != nil {
		return err
	}
	defer ex.Close()
	g := contract.Generation{N: n, Name: ex.Name, Snapshot: ex.Snapshot, LSN: ex.LSN}
	if err := a.Client.SignalWorkflow(ctx, in.Workflow, "", contract.GenerationSignal, g); err != nil {
		if ended := fault.Ended(ctx, "TemporalUnreachable", "tell the load's workflow of its snapshot"); ended != nil {
			return ended
		}
		return fault.Transient("TemporalUnreachable", err, "tell workflow %s of its snapshot", in.Workflow)
	}
	log.Info("snapshot exported", zap.Int("generation", n), zap.Stringer("lsn", ex.LSN))
	until := time.NewTimer(in.MaxHold)
	if in.MaxHold <= 0 {
		until.Stop()
	}
	defer until.Stop()
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-until.C:
			return nil
		case <-ex.Moved(): // another one by the login in force; chunks that are being read go on
			return nil
		case <-look.C:
			if err := ex.Alive(ctx); err != nil {
				return err
			}
		}
	}
}

// ends opens both ends of a load.
func (a *Activities) ends(ctx context.Context, in contract.TableTask) (*source.Server, sink.Sink, error) {
	srv, err := a.source(ctx, in.Pipeline, in.Source)
	if err != nil {
		return nil, nil, err
	}
	sk, err := a.sink(ctx, in.Pipeline, in.Sink)
	if err != nil {
		srv.Close()
		return nil, nil, err
	}
	return srv, sk, nil
}

// redefine gives a table whose load begins the definition that it has at the
// source now: a table is often loaded again because that has changed.
func (a *Activities) redefine(ctx context.Context, srv *source.Server, sk sink.Sink, in contract.TableTask, t sink.Table) (*change.Schema, error) {
	if t.State != sink.Loading || t.Chunks > 0 {
		return t.Schema, nil
	}
	ask := source.PublishedTable{ID: in.Table, AppendOnly: t.Options.AppendOnly}
	own := shape.Own(t.Schema)
	for i := range own.Columns {
		if in.Listed {
			ask.Columns = append(ask.Columns, own.Columns[i].Name)
		}
	}
	described, err := srv.Describe(ctx, []source.PublishedTable{ask})
	if err != nil {
		return nil, err
	}
	now := described[0]
	sh, err := a.shapeOf(ctx, now, in.Shape, shape.All)
	if err != nil {
		return nil, err
	}
	if sh != nil {
		now = sh.Schema()
	}
	if now.Version() == t.Schema.Version() {
		return t.Schema, nil
	}
	return now, sk.Redefine(ctx, in.Table, now)
}

// PlanChunks cuts a table and records the cut in the sink's ledger.
func (a *Activities) PlanChunks(ctx context.Context, in contract.TableTask) (out contract.ChunkPlan, err error) {
	err = beating(ctx, func(ctx context.Context) error {
		srv, sk, err := a.ends(ctx, in)
		if err != nil {
			return err
		}
		defer srv.Close()
		defer sk.Close()
		t, err := sk.Table(ctx, in.Table)
		if err != nil {
			return err
		}
		if t.Schema, err = a.redefine(ctx, srv, sk, in, t); err != nil {
			return err
		}
		sort, err := sorting(in.Tiers, t.Schema)
		if err != nil {
			return err
		}
		if sort != nil && t.State == sink.Loading {
			// Before any chunk, and by one: what an older declaration left behind goes with it.
			if err := sk.MakePartials(ctx, in.Table, sort.Plans); err != nil {
				return err
			}
		}
		if in.NoRows {
			_, err := sk.PlanChunks(ctx, in.Table, []sink.Chunk{})
			return err
		}
		where := in.Where
		sh, err := a.shapeOf(ctx, t.Schema, in.Shape, shape.All)
		if err != nil {
			return err
		}
		if sh != nil { // bounds are keys, which go to the sink
			where = sh.Where(where)
		}
		cut, err := srv.PlanChunks(ctx, shape.Own(t.Schema), source.ChunkOptions{ChunkBytes: in.ChunkBytes, Where: where})
		if err != nil {
			return err
		}
		plan, err := sk.PlanChunks(ctx, in.Table, cut)
		if err != nil {
			return err
		}
		out.Chunks = len(plan)
		ins, err := srv.Inspect(ctx, "", "")
		if err != nil {
			return err
		}
		for _, i := range ins.Tables {
			if i.ID == in.Table {
				out.Estimate, out.Bytes = max(i.Rows, 0), i.Bytes
			}
		}
		return nil
	})
	return out, err
}

// CopyChunk copies one chunk from the exported snapshot of its generation.
func (a *Activities) CopyChunk(ctx context.Context, in contract.ChunkTask) (out contract.ChunkDone, err error) {
	var bytes atomic.Int64
	begun := time.Now()
	err = long(ctx, func() any {
		return contract.ChunkProgress{Sink: in.Sink.Name, Table: in.Table, N: in.N, Bytes: bytes.Load()}
	}, func(ctx context.Context) error {
		srv, sk, err := a.ends(ctx, in.TableTask)
		if err != nil {
			return err
		}
		defer srv.Close()
		defer sk.Close()
		c, schema, err := sk.Chunk(ctx, in.Table, in.N)
		if err != nil {
			return err
		}
		if !c.Done {
			if !in.Listed { // a column list is the publication's own: what is not on it is not streamed either
				if err := srv.SameColumns(ctx, in.Generation.Name, schema); err != nil {
					return err
				}
			}
			sh, err := a.shapeOf(ctx, schema, in.Shape, shape.All)
			if err != nil {
				return err
			}
			sort, err := sorting(in.Tiers, schema)
			if err != nil {
				return err
			}
			var read int64
			copy := countCopy(srv.CopyChunk(in.Generation.Name, schema, c, in.Where, sh), &read)
			c, err = sk.LoadChunk(ctx, in.Table, in.N, sink.Loaded{Snapshot: in.Generation.Snapshot, LSN: in.Generation.LSN, Sort: sort}, copy, bytes.Store)
			if err != nil {
				return err
			}
			m := a.Metrics.Snapshot(in.Pipeline, in.Sink.Name)
			m.Copied(in.Table.String(), c.Rows, c.Bytes)
			m.Chunk(time.Since(begun))
			tally := a.Analytics.Tally(analytics.Labels{Pipeline: in.Pipeline, Sink: in.Sink.Name, Worker: a.Worker})
			tally.Passed(analytics.StageSnapshot, in.Table.String(), 0, c.Rows, c.Bytes, 1, time.Since(begun))
			tally.Close()
			// COPY's text is the values with one byte behind each; a binary copy is about as long.
			tab, text := part{tab: in.Table.String()}, max(read-c.Rows*int64(len(schema.Columns)), 0)
			a.Wires.account(ctx, in.Pipeline, sourceEnd, in.Source.Region).carried(received, tab, 0, 0, read)
			a.Wires.account(ctx, in.Pipeline, sinkEnd(in.Sink.Name), in.Sink.Region).carried(sent, tab, c.Rows, text, c.Bytes)
		}
		out = contract.ChunkDone{Rows: c.Rows, Bytes: c.Bytes}
		return nil
	})
	return out, err
}

// FinishLoad builds what is built after the rows, and begins delivery.
func (a *Activities) FinishLoad(ctx context.Context, in contract.TableTask) error {
	return beating(ctx, func(ctx context.Context) error {
		sk, err := a.sink(ctx, in.Pipeline, in.Sink)
		if err != nil {
			return err
		}
		defer sk.Close()
		return sk.FinishLoad(ctx, in.Table)
	})
}

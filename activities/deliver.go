package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.uber.org/zap"

	"syncline/activities/contract"
	"syncline/activities/observe"
	"syncline/analytics"
	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/trace"
	"syncline/dataplane/transport/kafka"
	"syncline/pipeline"
	"syncline/secrets"
	"syncline/tiers"
	"syncline/tiers/shape"
)

// stalled is how long a loop may get nowhere, with work to do, before /healthz is red.
const stalled = 30 * time.Second

// progress tells steps forward from signs of life: a loop whose other end does
// not answer goes on looking.
type progress struct {
	seen     bool
	at, with uint64
}

// made notes where a loop is, in two counts, and reports whether it got on since
// the last time or has nothing to do.
func (p *progress) made(idle bool, at, with uint64) bool {
	moved := !p.seen || at != p.at || with != p.with
	p.seen, p.at, p.with = true, at, with
	return idle || moved
}

// goesOn reports whether another attempt follows on one that ended so.
func goesOn(ctx context.Context, err error) bool {
	var app *temporal.ApplicationError
	return ctx.Err() == nil && errors.As(err, &app) && !app.NonRetryable() && app.Type() != contract.WorkerStoppedError && app.Type() != string(sink.CodeFenced)
}

// retried counts an attempt that is followed by another.
func (a *Activities) retried(ctx context.Context, pipeline string, err error) {
	var app *temporal.ApplicationError
	if goesOn(ctx, err) && errors.As(err, &app) {
		a.Metrics.Retried(pipeline, app.Type())
	}
}

// Deliver runs one lane of one sink until it is cancelled.
func (a *Activities) Deliver(ctx context.Context, in contract.DeliverInput) (err error) {
	info := activity.GetInfo(ctx)
	log := a.logger(ctx, in.Spec.Name).With(zap.String("sink", in.Sink), zap.Int("lane", in.Lane))
	metrics := a.Metrics.Deliver(in.Spec.Name, in.Sink, in.Lane)
	defer metrics.Close()
	tally := a.Analytics.Tally(analytics.Labels{Pipeline: in.Spec.Name, Sink: in.Sink, Lane: in.Lane, Component: deliverComponent(in.Sink, in.Lane), Worker: a.Worker})
	defer tally.Close()
	loop := fmt.Sprintf("deliver/%s/%s/%d", in.Spec.Name, in.Sink, in.Lane)
	done := a.Health.Expect(loop, stalled)
	began := time.Now()
	tracer := a.tracer(ctx, in.Spec.Name, trace.AttrSink.String(in.Sink), trace.AttrLane.Int(in.Lane))
	defer func() {
		done(goesOn(ctx, err))
		a.retried(ctx, in.Spec.Name, err)
	}()
	var moves progress
	var last atomic.Pointer[contract.DeliverProgress]
	last.Store(&contract.DeliverProgress{Worker: a.Worker, Attempt: info.Attempt, At: time.Now()})

	err = long(ctx, func() any { return last.Load() }, func(ctx context.Context) (err error) {
		defer func() { attemptFailed(ctx, tracer, "deliver", began, err) }()
		conf, err := findSink(&in.Spec, in.Sink)
		if err != nil {
			return err
		}
		sk, err := a.sink(ctx, in.Spec.Name, conf)
		if err != nil {
			return err
		}
		defer sk.Close()
		if err := sk.Init(ctx); err != nil { // it may be that of an older release
			return err
		}
		srv, err := a.source(ctx, in.Spec.Name, in.Spec.Source)
		if err != nil {
			return err
		}
		defer srv.Close()
		ko, err := a.kafkaOptions(ctx, &in.Spec)
		if err != nil {
			return err
		}
		records, err := kafka.OpenLog(ctx, ko, kafka.LogOptions{BufferBytes: int(in.Spec.Stream.MemoryLimit / 4)})
		if err != nil {
			return err
		}
		defer records.Close()
		of, err := a.shapes(ctx, &in.Spec, in.Sink, shape.FromLog)
		if err != nil {
			return err
		}
		clock := &clock{}
		watch, stop := context.WithCancel(ctx)
		var watching sync.WaitGroup
		watching.Go(func() { clock.watch(watch, srv, log) })
		if in.Lane == 0 { // one for all lanes of the sink
			watching.Go(func() { showHeld(watch, sk, conf.QuarantineViews, log) })
			watching.Go(func() { watchGates(watch, sk, metrics) })
			watching.Go(func() { a.storage(watch, in.Spec.Name, sinkEnd(in.Sink), conf.Region, storedAt(sk), log) })
		}
		pace := &pace{spec: &in.Spec}
		if len(in.Spec.Tiers) > 0 {
			watching.Go(func() { pace.watch(watch, a.statusOf) })
		}
		defer func() { // before the connection goes
			stop()
			watching.Wait()
		}()
		tally.Skew(clock.read)
		var token atomic.Int64
		metrics.Capacity(capacity(&in.Spec))
		obs := a.deliverObserver(&in, pace, metrics, tally, &token, log)
		fromLog, toSink := a.Wires.account(ctx, in.Spec.Name, kafkaEnd, in.Spec.Kafka.Region), a.Wires.account(ctx, in.Spec.Name, sinkEnd(in.Sink), conf.Region)
		if toSink != nil {
			obs.Used = func(t change.TableID, tier string, u deliver.Used) {
				p := part{t.String(), cmp.Or(tier, tiers.Stream)}
				fromLog.carried(received, p, 0, 0, u.Read)
				toSink.carried(sent, p, int64(u.Changes), u.Text, u.Sent)
			}
		}
		waits := &tierWaits{pace: pace}
		swept := obs.Swept
		obs.Swept = func(t change.TableID, tier string, d time.Duration, n int) {
			swept(t, tier, d, n)
			waits.swept(tier, d, n, time.Now())
		}
		gates := a.tellGates(ctx, in.Spec.Name, in.Sink, log)
		known, err := sk.Tables(ctx)
		if err != nil {
			return err
		}
		for _, t := range known { // the attempt that gated it may not have been heard
			if t.State == sink.Gated {
				gates(t, t.Reason)
			}
		}
		closed := obs.Closed
		obs.Closed = func(t sink.Table, st sink.State, reason string) {
			closed(t, st, reason)
			if st == sink.Gated {
				gates(t, reason)
			}
		}
		obs.Status = func(s deliver.Status) {
			token.Store(s.Token)
			metrics.Backlog(s.Backlog)
			if s.Waits > 0 {
				metrics.Waiting(s.Waits, time.Now().Add(clock.ahead()).Sub(s.WaitsSince))
			} else {
				metrics.Waiting(0, 0)
			}
			tierly := waits.status(s.Tables, time.Now().Add(clock.ahead()))
			for _, t := range in.Spec.Tiers {
				metrics.Overdue(t.Name, time.Duration(tierly[t.Name].Overdue*float64(time.Second)))
			}
			tally.Backlog(s.Backlog, s.Bytes)
			if moves.made(s.Backlog == 0, uint64(s.Changes+s.Duplicates+s.Contained+s.Dead), uint64(s.Oldest.Commit)) {
				a.Health.Progress(loop, s.Oldest.String())
			}
			last.Store(&contract.DeliverProgress{
				Worker: a.Worker, Attempt: info.Attempt, Token: s.Token, Partitions: len(s.Tables), Applied: s.Changes,
				Duplicates: s.Duplicates, Skipped: s.Contained, Dead: s.Dead, Rate: s.Rate, LagP50: s.P50 / 1000, LagP99: s.P99 / 1000,
				Backlog: s.Backlog, Waits: s.Waits, WaitsSince: s.WaitsSince, Tiers: tierly, Through: s.Through, At: time.Now(),
			})
		}
		o := deliverOptions(&in, &conf)
		o.SourceAhead, o.Trace = clock.ahead, tracer
		return deliver.Run(ctx, o, viewOf(records, of), sk, sourceOf(srv, of), obs)
	})
	if fault.Is(err, sink.CodeFenced) {
		metrics.Fenced()
	}
	return err
}

// watchGates shows how many tables the ledger calls gated, which knows best: also of
// those that are removed or loaded again meanwhile.
func watchGates(ctx context.Context, sk sink.Sink, m *observe.Deliver) {
	for {
		if tables, err := sk.Tables(ctx); err == nil {
			n := 0
			for _, t := range tables {
				if t.State == sink.Gated {
					n++
				}
			}
			m.Gated(n)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(5 * time.Second):
		}
	}
}

// showHeld makes or drops the views of held keys, as the declaration has it now. That
// something is in the way of a view is no reason to hold changes up; a repair does not
// begin then.
func showHeld(ctx context.Context, sk sink.Sink, show bool, log *zap.Logger) {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		err := sk.ShowHeld(ctx, show)
		if err == nil || ctx.Err() != nil {
			return
		}
		log.Warn("views of held keys are not as declared", zap.Bool("quarantine_views", show), zap.Duration("in", wait), zap.Error(err))
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// tellGates returns a function that tells the pipeline of a table that is not
// delivered any more: a status that says less would be taken for "in sync".
func (a *Activities) tellGates(ctx context.Context, name, sinkName string, log *zap.Logger) func(sink.Table, string) {
	return func(t sink.Table, reason string) {
		g := contract.TableGated{Sink: sinkName, Table: t.ID, Reason: secrets.Redact(reason), Epoch: t.Epoch}
		go func() {
			for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
				err := a.Client.SignalWorkflow(ctx, contract.PipelineID(name), "", contract.GatedSignal, g)
				var gone *serviceerror.NotFound
				if err == nil || errors.As(err, &gone) || ctx.Err() != nil {
					return
				}
				log.Warn("pipeline not told of a gated table", zap.Stringer("table", t.ID), zap.Error(err))
				select {
				case <-ctx.Done():
				case <-time.After(wait):
				}
			}
		}()
	}
}

// Of the memory limit a quarter is for what is fetched, as bytes, and an eighth
// for what is decoded, counted as bytes too: decoded it takes several times that.
func deliverOptions(in *contract.DeliverInput, s *pipeline.Sink) deliver.Options {
	o := deliver.Options{
		Lane: in.Lane, Lanes: s.Lanes, Epoch: in.Epoch, MaxBatchRows: s.MaxBatchRows, MaxBatchBytes: int(s.MaxBatchBytes),
		MaxBufferBytes: int(in.Spec.Stream.MemoryLimit / 8), Transactional: in.Spec.Stream.Order == pipeline.OrderTransaction,
	}
	if !o.Transactional { // also without rules: what waits by those of before is to be known
		o.Tiers = delivered{&in.Spec}
	}
	if s.Type == pipeline.SinkClickHouse {
		o.Compression = map[string]string{}
		for _, t := range in.Spec.Tiers {
			o.Compression[t.Name] = cmp.Or(t.Compression, s.Compression)
		}
	}
	return o
}

func (a *Activities) deliverObserver(in *contract.DeliverInput, pace *pace, m *observe.Deliver, tally *analytics.Tally, token *atomic.Int64, log *zap.Logger) deliver.Observer {
	promised := a.promises(&in.Spec, tally)
	return deliver.Observer{
		Applied: func(t change.TableID, op change.Op, n int) {
			m.Applied(t.String(), op.String(), n)
			tally.Applied(t.String(), op.String(), n)
			promised.taken(n)
		},
		Duplicates: func(t change.TableID, n int) {
			m.Duplicates(t.String(), n)
			tally.Duplicates(t.String(), n, 0)
		},
		Contained: func(t change.TableID, n int) {
			m.SkippedBySnapshot(t.String(), n)
			tally.Duplicates(t.String(), 0, n)
		},
		Dead: func(t change.TableID, code fault.Code, n int) {
			m.DeadLetters(t.String(), n)
			tally.Dead(t.String(), string(code), n)
			promised.refused(n)
			log.Warn("changes set aside", zap.Stringer("table", t), zap.String("code", string(code)), zap.Int("changes", n))
		},
		Batch: func(rows, bytes int, took time.Duration) {
			m.Batch(took)
			tally.Passed(analytics.StageDeliver, "", 0, int64(rows), int64(bytes), 1, took)
		},
		Lag: func(t change.TableID, d time.Duration, n int) {
			m.Visible(d)
			tally.Lag(t.String(), d, n)
			promised.arrived(d, n)
		},
		Swept: func(t change.TableID, tier string, d time.Duration, n int) {
			m.Waited(tier, d, n)
			tally.Waited(t.String(), tier, d, pace.promise(tier, time.Now()), n)
		},
		Moved: func(p sink.Partition, from, to int64, pos change.Position) {
			tally.Moved(p.Table.String(), p.N, from, to, pos.String(), token.Load())
		},
		Opened: func(t change.TableID, to change.LSN) {
			log.Info("table is delivered", zap.Stringer("table", t), zap.Stringer("consistent_at", to))
		},
		Closed: func(t sink.Table, st sink.State, reason string) {
			log.Info("table is not delivered any more", zap.Stringer("table", t.ID), zap.String("state", string(st)), zap.String("reason", reason))
		},
		Retry: func(what string, err error, wait time.Duration) {
			m.Retried(string(fault.CodeOf(err)))
			tally.Retried(string(fault.CodeOf(err)))
			a.refused(in.Spec.Name, deliverComponent(in.Sink, in.Lane), fault.CodeOf(err), err.Error())
			log.Warn("trying again", zap.String("what", what), zap.Duration("in", wait), zap.Error(err))
		},
	}
}

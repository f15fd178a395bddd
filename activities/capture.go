package activities

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/activity"
	"go.uber.org/zap"

	"syncline/activities/contract"
	"syncline/activities/observe"
	"syncline/analytics"
	"syncline/dataplane/capture"
	"syncline/dataplane/change"
	"syncline/dataplane/shaped"
	source "syncline/dataplane/source/postgres"
	"syncline/dataplane/transport/kafka"
	"syncline/pipeline"
	"syncline/tiers/shape"
)

// Capture moves committed changes from the slot to Kafka until it is cancelled.
func (a *Activities) Capture(ctx context.Context, in contract.CaptureInput) (err error) {
	info := activity.GetInfo(ctx)
	log := a.logger(ctx, in.Spec.Name)
	metrics := a.Metrics.Capture(in.Spec.Name)
	defer metrics.Close()
	tally := a.Analytics.Tally(analytics.Labels{Pipeline: in.Spec.Name, Component: captureComponent, Worker: a.Worker})
	defer tally.Close()
	loop := "capture/" + in.Spec.Name
	done := a.Health.Expect(loop, stalled)
	began := time.Now()
	tracer := a.tracer(ctx, in.Spec.Name)
	defer func() {
		done(goesOn(ctx, err))
		a.retried(ctx, in.Spec.Name, err)
	}()
	var moves progress
	var last atomic.Pointer[contract.CaptureProgress]
	last.Store(&contract.CaptureProgress{Worker: a.Worker, Attempt: info.Attempt, At: time.Now()})

	return long(ctx, func() any { return last.Load() }, func(ctx context.Context) (err error) {
		defer func() { attemptFailed(ctx, tracer, "capture", began, err) }()
		srv, err := a.source(ctx, in.Spec.Name, in.Spec.Source)
		if err != nil {
			return err
		}
		defer srv.Close()
		ko, err := a.kafkaOptions(ctx, &in.Spec)
		if err != nil {
			return err
		}
		wo, err := writerOptions(&in.Spec)
		if err != nil {
			return err
		}
		if err := ensureIndex(ctx, ko, &in.Spec); err != nil { // changes are captured without one, too
			log.Warn("no index of the log: places in it cannot be looked up", zap.Error(err))
		}
		records, err := kafka.OpenWriter(ctx, ko, wo)
		if err != nil {
			return err
		}
		defer records.Close()
		streams := &streams{srv: srv, log: log, o: source.StreamOptions{
			Slot: in.Spec.SlotName(), Publication: in.Spec.PublicationName(), Epoch: in.Epoch,
			MemoryLimit: int64(in.Spec.Stream.MemoryLimit / 2), SpillDir: a.spill(&in.Spec),
			HeartbeatInterval: in.Spec.Stream.HeartbeatInterval.Std(),
			// Temporal gave this attempt the work: whoever still holds the slot is stopped or cut off.
			TakeOver: true,
		}}
		defer streams.close()
		watch, stop := context.WithCancel(ctx)
		var watching sync.WaitGroup
		var end atomic.Uint64 // of the source's log, as its catalog has it
		watching.Go(func() { watchSlot(watch, srv, in.Spec.SlotName(), metrics, &end, log) })
		watching.Go(func() { a.storage(watch, in.Spec.Name, kafkaEnd, in.Spec.Kafka.Region, storedIn(ko), log) })
		defer func() { // before the gauges are taken back
			stop()
			watching.Wait()
		}()
		rate := newRate()
		var written capture.Status // as of the last look
		var to capture.Log = records
		if tracer != nil {
			traced := capture.Trace(records, tracer)
			defer traced.Finish()
			to = traced
		}
		counted := &countedLog{Log: to, m: metrics, tally: tally, pending: map[countKey]*counted{}, encoded: map[change.TableID]int64{}, records: records,
			from: a.Wires.account(ctx, in.Spec.Name, sourceEnd, in.Spec.Source.Region), into: a.Wires.account(ctx, in.Spec.Name, kafkaEnd, in.Spec.Kafka.Region)}
		defer counted.weigh()
		defer counted.flush()
		to = counted
		of, err := a.shapes(ctx, &in.Spec, "", shape.ToLog)
		if err != nil {
			return err
		}
		if of != nil {
			to = shaped.NewCapture(counted, of)
		}
		var before, sum capture.Status // by streams that have ended, and with the one that runs
		obs := capture.Observer{
			Started: func(confirmed change.LSN, p capture.Progress, resumed bool) {
				log.Info("capture begins", zap.Stringer("slot_at", confirmed), zap.Stringer("log_at", p.Through), zap.Bool("resumed", resumed))
			},
			Schema: func(s *change.Schema) {
				a.schemaMet(in.Spec.Name, s)
				log.Info("schema", zap.Stringer("table", s.Table), zap.Stringer("version", s.Version()), zap.Int("columns", len(s.Columns)))
			},
			Status: func(s capture.Status) {
				s.Changes, s.Bytes = s.Changes+before.Changes, s.Bytes+before.Bytes
				sum = s
				// A stream that comes in slowly does not tell how much more there is.
				s.ServerEnd = max(s.ServerEnd, change.LSN(end.Load()))
				metrics.Lag(s.LagBytes())
				acked := s.Changes - s.InFlight
				metrics.Written(int(acked-written.Changes), int(s.Bytes-written.Bytes))
				tally.Passed(analytics.StageCapture, "", 0, int64(acked-written.Changes), int64(s.Bytes-written.Bytes), 0, 0)
				counted.flush()
				counted.weigh()
				tally.Tick()
				written.Changes, written.Bytes = acked, s.Bytes
				if moves.made(s.InFlight == 0, acked, uint64(s.Acked)) {
					a.Health.Progress(loop, s.Acked.String())
				}
				last.Store(&contract.CaptureProgress{
					Worker: a.Worker, Attempt: info.Attempt, Read: s.Through, Through: s.Acked, Confirmed: s.Acked,
					Changes: int64(s.Changes), Bytes: int64(s.Bytes), Rate: rate.at(time.Now(), s.Changes), LagBytes: int64(s.LagBytes()),
					SpillBytes: streams.spilled(), At: time.Now(),
				})
			},
		}
		for {
			stream, move, err := streams.next(ctx)
			if err != nil {
				return err
			}
			err = capture.Run(ctx, stream, to, capture.Options{
				Epoch: in.Epoch, CreatedAt: in.SlotAt, StatusInterval: in.Spec.Stream.StatusInterval.Std(), Move: move,
			}, obs)
			if !errors.Is(err, capture.ErrMoved) || ctx.Err() != nil {
				return cmp.Or(err, ctx.Err()) // without an error only with its context, which must not look like a success
			}
			log.Info("capture moves to another login", zap.Stringer("through", sum.Acked))
			before.Changes, before.Bytes = sum.Changes, sum.Bytes
		}
	})
}

// watchSlot shows how much log the source keeps for the slot, notes where that ends,
// and warns while there is time: an invalidated slot means that everything is loaded
// again.
func watchSlot(ctx context.Context, srv *source.Server, name string, m *observe.Capture, end *atomic.Uint64, log *zap.Logger) {
	status := ""
	for {
		if i, err := srv.Slot(ctx, name); err == nil {
			m.SlotRetained(uint64(max(i.RetainedBytes, 0)))
			end.Store(uint64(i.ServerLSN))
			if i.WALStatus != status && (i.WALStatus == "unreserved" || i.WALStatus == "lost") {
				log.Warn("the source is about to remove log that the slot needs: raise max_slot_wal_keep_size",
					zap.String("wal_status", i.WALStatus), zap.Int64("retained_bytes", i.RetainedBytes), zap.Int64("safe_bytes", i.SafeBytes))
			}
			status = i.WALStatus
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(5 * time.Second):
		}
	}
}

func writerOptions(spec *pipeline.Spec) (kafka.WriterOptions, error) {
	c, err := kafka.ParseCompression(spec.Kafka.Compression)
	n := spec.Kafka.Partitions
	return kafka.WriterOptions{
		Partitions:  func(change.TableID) int { return n },
		Compression: c, MaxMessageBytes: int(spec.Kafka.MaxMessageBytes), WindowBytes: int(spec.Stream.MemoryLimit / 4),
	}, err
}

// countedLog counts changes by table and operation on their way to the log.
type countedLog struct {
	capture.Log
	m       *observe.Capture
	tally   *analytics.Tally
	mu      sync.Mutex
	pending map[countKey]*counted
	n       int

	records    encoded
	encoded    map[change.TableID]int64 // as of the last look
	from, into *account
}

// encoded is what a kafka.Writer tells of the sizes of its records.
type encoded interface {
	Encoded(func(change.TableID, int64))
}

// counted are changes of one table and operation, and the bytes of their values.
type counted struct{ changes, text int }

type countKey struct {
	table change.TableID
	op    change.Op
}

// Append is called from one goroutine.
func (l *countedLog) Append(ctx context.Context, c *change.Change) (uint64, error) {
	seq, err := l.Log.Append(ctx, c)
	if err == nil {
		l.mu.Lock()
		k := countKey{c.Table, c.Op}
		p := l.pending[k]
		if p == nil {
			p = new(counted)
			l.pending[k] = p
		}
		p.changes++
		if l.into != nil {
			if p.text += c.New.TextBytes(); c.New == nil {
				p.text += c.Old.TextBytes()
			}
		}
		l.n++
		full := l.n >= 1000 // label look-ups cost more than the rest of this: pay them now and then
		l.mu.Unlock()
		if full {
			l.flush()
		}
	}
	return seq, err
}

// flush counts what is pending; the loop's status calls it too, so that a few
// changes do not wait for more.
func (l *countedLog) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, p := range l.pending {
		if p.changes == 0 {
			continue
		}
		tab := part{tab: k.table.String()}
		l.m.Changes(tab.tab, k.op.String(), p.changes)
		l.tally.Passed(analytics.StageCapture, tab.tab, int64(p.changes), 0, 0, 0, 0)
		l.from.weigh(tab, int64(p.text))
		l.into.carried(sent, tab, int64(p.changes), int64(p.text), 0)
		*p = counted{}
	}
	l.n = 0
}

// weigh counts the bytes of records.
func (l *countedLog) weigh() {
	l.records.Encoded(func(t change.TableID, n int64) {
		if d := n - l.encoded[t]; d > 0 {
			l.encoded[t] = n
			l.into.carried(sent, part{tab: t.String()}, 0, 0, d)
		}
	})
}

// rate is a sliding average of a counter, per second.
type rate struct {
	times  []time.Time
	counts []uint64
}

// rateOver is the span of the average.
const rateOver = 5 * time.Second

func newRate() *rate { return &rate{} }

func (r *rate) at(now time.Time, count uint64) float64 {
	r.times, r.counts = append(r.times, now), append(r.counts, count)
	for len(r.times) > 2 && now.Sub(r.times[0]) > rateOver {
		r.times, r.counts = r.times[1:], r.counts[1:]
	}
	if took := now.Sub(r.times[0]).Seconds(); took > 0 {
		return float64(count-r.counts[0]) / took
	}
	return 0
}

// ensureIndex does not wait for brokers that are away: the writer does.
func ensureIndex(ctx context.Context, o kafka.Options, spec *pipeline.Spec) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	admin, err := kafka.OpenAdmin(o)
	if err != nil {
		return err
	}
	defer admin.Close()
	return admin.EnsureIndex(ctx, topicOptions(spec))
}

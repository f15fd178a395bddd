package capture

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// CodeEpochBehind: the log has progress of a higher epoch; this attempt is of
// before a resync.
const CodeEpochBehind fault.Code = "EpochBehind"

// ErrMoved: Run ended because Options.Move was closed.
var ErrMoved = errors.New("capture: another stream goes on")

// Options of Run. The zero value of each but Epoch and CreatedAt has a default.
type Options struct {
	Epoch uint32
	// CreatedAt is where the slot began: what is before it, snapshots hold.
	CreatedAt change.LSN
	// StatusInterval is how often progress is written and confirmed. Default 1 s.
	StatusInterval time.Duration
	// Quiet is how long the source must have been silent for its last changes to be
	// recorded and confirmed ahead of StatusInterval: readers that wait for a position,
	// and idle tables, learn then that nothing more comes before it. Default 20 ms.
	Quiet time.Duration
	// Move, when it is closed, ends Run with ErrMoved at the end of a transaction, once all
	// that was read is confirmed: so that another stream can go on from there. A transaction
	// that goes on for longer than MoveTimeout (default 1 s) is read again by that one.
	Move        <-chan struct{}
	MoveTimeout time.Duration
	// DrainTimeout bounds the wait for acknowledgements when Run ends. Default 5 s.
	DrainTimeout time.Duration
}

// Status is how far capture has come.
type Status struct {
	Started   change.LSN      // where the source began this time
	Read      change.Position // last change handed to the log
	Through   change.LSN      // everything up to here was handed to the log
	Acked     change.LSN      // everything up to here is in the log for good
	At        time.Time       // when what Acked covers was committed, on the source's clock
	ServerEnd change.LSN      // end of the source's log, 0 if it does not say
	Changes   uint64          // handed to the log since the start
	Bytes     uint64          // of their values
	InFlight  uint64          // handed over and not acknowledged
}

// LagBytes is how much of the source's log is not yet safe in ours.
func (s Status) LagBytes() uint64 {
	if s.ServerEnd <= s.Acked {
		return 0
	}
	return uint64(s.ServerEnd - s.Acked)
}

// Observer is told what happens. Each func may be nil; each must be quick.
type Observer struct {
	Started func(confirmed change.LSN, last Progress, resumed bool)
	Schema  func(*change.Schema)
	Status  func(Status) // every StatusInterval and at the end, from one goroutine
}

// serverEnd is a source that knows the end of its log.
type serverEnd interface{ ServerEnd() change.LSN }

// Run moves changes until ctx ends, which is no error, or something fails. It
// writes a last progress record either way. It closes neither source nor log.
func Run(ctx context.Context, src Source, log Log, o Options, obs Observer) error {
	if o.Epoch == 0 {
		return errors.New("capture: epoch 0 is for no position")
	}
	if o.StatusInterval <= 0 {
		o.StatusInterval = time.Second
	}
	if o.Quiet <= 0 {
		o.Quiet = 20 * time.Millisecond
	}
	if o.DrainTimeout <= 0 {
		o.DrainTimeout = 5 * time.Second
	}
	if o.MoveTimeout <= 0 {
		o.MoveTimeout = time.Second
	}
	r := &runner{src: src, log: log, o: o, obs: obs, schemas: map[change.Version]bool{}, marked: make(chan struct{}, 1)}
	if err := r.start(ctx); err != nil {
		return ended(ctx, err)
	}
	pumpCtx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	pumped := make(chan error, 1)
	var pump sync.WaitGroup
	pump.Go(func() { pumped <- r.pump(pumpCtx) })
	err := r.tend(pumpCtx, pumped)
	stop(err)
	pump.Wait() // source and log honour the context; nothing may be appended after the last checkpoint
	drained := r.drain(context.WithoutCancel(ctx), err)
	if err := ended(ctx, err); err != nil {
		return err
	}
	return drained
}

// ended drops errors that are only the echo of a context that has ended.
func ended(ctx context.Context, err error) error {
	if err == nil || (ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx)))) {
		return nil
	}
	return err
}

type runner struct {
	src Source
	log Log
	o   Options
	obs Observer

	schemas map[change.Version]bool // made known in this run; used by pump alone
	within  atomic.Bool             // a transaction: something was read since the last mark
	moving  atomic.Bool             // the pump ends at the next mark
	marked  chan struct{}           // holds a token when changes and their commit were handed over
	state   state
	last    Progress // last written
	lastAt  time.Time
	started change.LSN
	inLog   change.LSN // commits before it are in the log already, with these positions

	system   string // that the source runs on
	timeline int32
}

// start compares the source with the log, see the package comment.
func (r *runner) start(ctx context.Context) error {
	last, found, err := r.log.LastProgress(ctx)
	if err != nil {
		return fmt.Errorf("read the last progress record: %w", err)
	}
	if found && last.Epoch > r.o.Epoch {
		return fault.Permanent(CodeEpochBehind, nil, "start capture with the pipeline's present epoch",
			"the log has progress of epoch %d, this is epoch %d", last.Epoch, r.o.Epoch)
	}
	resumed := found && last.Epoch == r.o.Epoch
	safe := r.o.CreatedAt
	if found && last.Through > safe { // of an earlier epoch too: it may still be the same slot
		safe = last.Through
	}
	who, identified := r.src.(Identified)
	if identified && resumed {
		who.Expect(last.System, last.Timeline)
	}
	confirmed, err := r.src.Start(ctx)
	if err != nil {
		return err
	}
	if identified {
		r.system, r.timeline = who.System()
	}
	if confirmed > safe {
		return fault.Permanent(CodeSlotAhead, nil, "resync the tables: the changes in between are lost; find out who advanced the slot",
			"the slot begins at %s, but the log ends at %s", confirmed, safe)
	}
	r.started = confirmed
	if resumed {
		r.last, r.inLog = last, last.Through
	} else {
		// From now on this epoch has a record to compare with.
		r.last = Progress{Epoch: r.o.Epoch, Through: confirmed, At: time.Now().UTC(), System: r.system, Timeline: r.timeline, End: r.end()}
		if err := r.log.PutProgress(ctx, r.last); err != nil {
			return fmt.Errorf("write the first progress record: %w", err)
		}
	}
	r.state.through, r.state.acked = confirmed, confirmed
	if r.obs.Started != nil {
		r.obs.Started(confirmed, last, resumed)
	}
	return nil
}

// pump hands events of the source to the log. The log's window bounds it.
func (r *runner) pump(ctx context.Context) error {
	appended := false
	for {
		ev, err := r.src.Next(ctx)
		if err != nil {
			return err
		}
		r.within.Store(ev.Through == 0)
		if ev.Schema != nil {
			if err := r.schema(ctx, ev.Schema); err != nil {
				return err
			}
		}
		if c := ev.Change; c != nil && c.Pos.Commit >= r.inLog {
			seq, err := r.log.Append(ctx, c)
			if err != nil {
				return fmt.Errorf("append a change of table %s at %s: %w", c.Table, c.Pos, err)
			}
			r.state.appended(c, seq)
			appended = true
		}
		if ev.Through != 0 {
			if r.state.mark(ev.Through, ev.At) {
				n, err := r.log.Acked()
				r.state.ack(n)
				if err != nil {
					return err
				}
			}
			if appended {
				appended = false
				select {
				case r.marked <- struct{}{}:
				default:
				}
			}
			if r.moving.Load() {
				return ErrMoved
			}
		}
	}
}

func (r *runner) schema(ctx context.Context, s *change.Schema) error {
	v := s.Version()
	if r.schemas[v] {
		return nil
	}
	if err := r.log.PutSchema(ctx, s); err != nil {
		return fmt.Errorf("record the schema of table %s: %w", s.Table, err)
	}
	r.schemas[v] = true
	if r.obs.Schema != nil {
		r.obs.Schema(s)
	}
	return nil
}

// earliest is the least time between two checkpoints, as a part of StatusInterval.
const earliest = 8

// tend writes and confirms progress until the pump ends or something fails.
func (r *runner) tend(ctx context.Context, pumped <-chan error) error {
	tick := time.NewTicker(r.o.StatusInterval)
	defer tick.Stop()
	settled := time.NewTimer(time.Hour)
	settled.Stop()
	defer settled.Stop()
	move, late := r.o.Move, (<-chan time.Time)(nil)
	for {
		select {
		case <-move:
			r.moving.Store(true)
			if !r.within.Load() {
				return ErrMoved
			}
			move, late = nil, time.After(r.o.MoveTimeout)
		case <-late:
			return ErrMoved
		case err := <-pumped:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-r.marked: // a busy source puts this off until the tick
			settled.Reset(max(r.o.Quiet, r.o.StatusInterval/earliest-time.Since(r.lastAt)))
		case <-settled.C:
			if n, err := r.log.Acked(); err == nil && !r.state.done(n) {
				settled.Reset(r.o.Quiet)
				continue
			}
			if err := r.checkpoint(ctx); err != nil {
				return err
			}
		case <-tick.C:
			if err := r.checkpoint(ctx); err != nil {
				return err
			}
		}
	}
}

// checkpoint makes what is acknowledged known, in this order: progress record,
// then source. A crash between the two resends; the other order would lose.
func (r *runner) checkpoint(ctx context.Context) error {
	r.lastAt = time.Now()
	n, logErr := r.log.Acked()
	through, at := r.state.ack(n)
	if through > r.last.Through {
		p := Progress{Epoch: r.o.Epoch, Through: through, At: at, System: r.system, Timeline: r.timeline, End: r.end()}
		if err := r.log.PutProgress(ctx, p); err != nil {
			return errors.Join(logErr, fmt.Errorf("write the progress record: %w", err))
		}
		r.last = p
	}
	// After a restart the source may be behind the record: what it resends is not
	// read yet, but it is in the log, so confirming only what was read is enough.
	if through > r.started {
		if err := r.src.Confirm(ctx, through); err != nil {
			return errors.Join(logErr, err)
		}
	}
	if r.obs.Status != nil {
		r.obs.Status(r.status(n))
	}
	return logErr
}

func (r *runner) status(acked uint64) Status {
	s := r.state.status(acked)
	s.Started, s.ServerEnd = r.started, r.end()
	return s
}

func (r *runner) end() change.LSN {
	if e, ok := r.src.(serverEnd); ok {
		return e.ServerEnd()
	}
	return 0
}

// drain waits for acknowledgements of what was handed over, for a while, and
// writes the last progress record.
func (r *runner) drain(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(ctx, r.o.DrainTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		n, err := r.log.Acked()
		if err != nil || r.state.done(n) || ctx.Err() != nil {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	// What cannot be written now is resent later; the first error is the one to report.
	final, stop := context.WithTimeout(context.WithoutCancel(ctx), r.o.DrainTimeout)
	defer stop()
	if err := r.checkpoint(final); err != nil && (cause == nil || errors.Is(cause, context.Canceled)) {
		return fmt.Errorf("last checkpoint: %w", err)
	}
	return nil
}

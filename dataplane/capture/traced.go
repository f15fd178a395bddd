package capture

import (
	"context"
	"slices"
	"sync"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/trace"
)

// AckedLog is a Log that tells when something is acknowledged.
type AckedLog interface {
	Log
	// WaitAcked returns when Acked would return at least n, or an error.
	WaitAcked(ctx context.Context, n uint64) error
}

// Traced is a Log that decides which transactions are traced, marks their changes
// and makes their capture spans. Appends come from one goroutine.
type Traced struct {
	AckedLog
	p *trace.Pipeline

	at      change.Position // of the transaction that is being appended, with ordinal 0
	sampled bool
	tx      trace.Transaction
	told    string // the traceparent that it came with
	parent  string // the one that it goes with
	open    waiting

	wait chan waiting
	once sync.Once
	done chan struct{}
	stop context.CancelFunc
}

// waiting is a transaction that is not acknowledged yet.
type waiting struct {
	tx  trace.Transaction
	seq uint64 // of its last change
	c   trace.Captured
}

// maxWaiting bounds the transactions whose acknowledgement is waited for; further
// ones go without a capture span.
const maxWaiting = 4096

// Trace returns log, traced. Finish must be called before log is closed.
func Trace(log AckedLog, p *trace.Pipeline) *Traced {
	ctx, stop := context.WithCancel(context.Background())
	t := &Traced{AckedLog: log, p: p, wait: make(chan waiting, maxWaiting), done: make(chan struct{}), stop: stop}
	go t.run(ctx)
	return t
}

// Append implements Log.
func (t *Traced) Append(ctx context.Context, c *change.Change) (uint64, error) {
	next := c.Pos.Commit != t.at.Commit || c.Pos.Epoch != t.at.Epoch
	if next || !t.sampled && c.Trace != t.told { // the application may tell it late
		t.end()
		t.at, t.told = change.Position{Epoch: c.Pos.Epoch, Commit: c.Pos.Commit}, c.Trace
		if t.tx, t.sampled = t.p.Sample(t.at, c.Trace); t.sampled {
			t.parent = t.tx.Traceparent()
		}
	}
	if !t.sampled {
		return t.AckedLog.Append(ctx, c)
	}
	marked := *c
	marked.Trace = t.parent
	seq, err := t.AckedLog.Append(ctx, &marked)
	if err != nil {
		return seq, err
	}
	t.open.tx, t.open.seq = t.tx, seq
	t.open.c.Position, t.open.c.XID, t.open.c.Committed = c.Pos, c.XID, c.CommitTime
	t.open.c.Changes++
	if name := c.Table.String(); len(t.open.c.Tables) < trace.MaxTables && !slices.Contains(t.open.c.Tables, name) {
		t.open.c.Tables = append(t.open.c.Tables, name)
	}
	if c.Last {
		t.end()
	}
	return seq, nil
}

// end hands the open transaction over to be waited for.
func (t *Traced) end() {
	if t.open.c.Changes == 0 {
		return
	}
	select {
	case t.wait <- t.open:
	default: // the log is slow, and must not be made slower
	}
	t.open = waiting{}
}

// run makes spans in the order of the log.
func (t *Traced) run(ctx context.Context) {
	defer close(t.done)
	for w := range t.wait {
		if t.WaitAcked(ctx, w.seq) != nil {
			return // the log has stopped: what is left is sent again, and traced then
		}
		w.c.Acked = time.Now()
		t.p.Captured(w.tx, w.c)
	}
}

// finishIn bounds how long Finish waits.
const finishIn = time.Second

// Finish makes the spans of what is acknowledged by now, or very soon.
func (t *Traced) Finish() {
	t.once.Do(func() {
		close(t.wait)
		limit := time.AfterFunc(finishIn, t.stop)
		defer limit.Stop()
		<-t.done
		t.stop()
	})
}

package clickhouse

import (
	"context"
	"sync"
	"time"
)

// following is a context that ends with the caller's, or at its deadline, until it
// is released; from then on it never ends. The client library watches a batch's
// context in a goroutine that may first look at it when the batch has been sent and
// its connection is another's: if the context has ended by then, it closes that.
type following struct {
	context.Context // of the caller: values
	deadline        time.Time
	done            chan struct{}
	stop            func() bool
	timer           *time.Timer

	mu       sync.Mutex
	err      error
	released bool
}

func follow(ctx context.Context, timeout time.Duration) *following {
	f := &following{Context: ctx, deadline: time.Now().Add(timeout), done: make(chan struct{})}
	if d, ok := ctx.Deadline(); ok && d.Before(f.deadline) {
		f.deadline = d
	}
	f.timer = time.AfterFunc(time.Until(f.deadline), func() { f.end(context.DeadlineExceeded) })
	f.stop = context.AfterFunc(ctx, func() { f.end(ctx.Err()) })
	return f
}

func (f *following) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil && !f.released {
		f.err = err
		close(f.done)
	}
}

func (f *following) release() {
	f.timer.Stop()
	f.stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.released = true
}

// Deadline is the caller's or the statement's, whichever is sooner.
func (f *following) Deadline() (time.Time, bool) { return f.deadline, true }

// Done is closed when the context ends.
func (f *following) Done() <-chan struct{} { return f.done }

// Err says why the context has ended.
func (f *following) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

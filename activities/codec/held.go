package codec

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

const (
	// renewEvery bounds the age of what is held, with jitter below it.
	renewEvery  = time.Minute
	renewJitter = 15 * time.Second
	// readBound is how long one read may take.
	readBound = 10 * time.Second
)

// Held is a value that is kept elsewhere and may change there. It has no goroutine of
// its own: whoever uses it when it has aged starts a read, and goes on with what is there.
type Held[T any] struct {
	read func(context.Context) (T, error)
	warn func(error)

	flight singleflight.Group
	sooner *rate.Limiter // of reads before their time

	mu    sync.Mutex
	value T
	due   time.Time
}

// Hold reads for the first time, which must succeed. Later failures are told to warn,
// if that is not nil, and leave the value as it was.
func Hold[T any](ctx context.Context, read func(context.Context) (T, error), warn func(error)) (*Held[T], error) {
	h := &Held[T]{read: read, warn: warn, sooner: rate.NewLimiter(rate.Every(2*time.Second), 2)}
	if _, err := h.renew(ctx); err != nil {
		return nil, err
	}
	return h, nil
}

// Get never waits.
func (h *Held[T]) Get() T {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := time.Now(); now.After(h.due) {
		h.due = now.Add(renewEvery) // not again for every caller meanwhile
		go func() {
			if _, err := h.renew(context.Background()); err != nil && h.warn != nil {
				h.warn(err)
			}
		}()
	}
	return h.value
}

// Sooner reads now, for whoever misses something in the value; who comes while that is
// done waits with the first. If it was done just before, or fails, it gives what there
// is, with the reason in the second case.
func (h *Held[T]) Sooner(ctx context.Context) (T, error) {
	got, err, _ := h.flight.Do("sooner", func() (any, error) {
		if !h.sooner.Allow() {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.value, nil
		}
		return h.renew(ctx)
	})
	v, _ := got.(T)
	return v, err
}

func (h *Held[T]) renew(ctx context.Context) (T, error) {
	got, err, _ := h.flight.Do("renew", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readBound)
		defer cancel()
		v, err := h.read(ctx)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.due = time.Now().Add(renewEvery - rand.N(renewJitter))
		if err != nil {
			return h.value, err
		}
		h.value = v
		return v, nil
	})
	v, _ := got.(T) // nil, if T is an interface and was never read
	return v, err
}

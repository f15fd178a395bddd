package login

import (
	"context"
	"sync"
	"time"
)

// Adopt tells move of each login that comes into force after a generation, until ctx ends.
// One that it does not get to work is told to the Source, and tried again, each time after a
// longer pause: meanwhile its owner goes on with the one of before. Calls do not overlap.
func Adopt(ctx context.Context, s Source, generation int64, move func(context.Context, Login) error) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.Changed(generation):
		}
		for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
			l, err := s.Login(ctx)
			if err == nil && l.Generation == generation { // it was put back
				break
			}
			if err == nil {
				if err = move(ctx, l); err == nil {
					generation = l.Generation
					break
				}
				if ctx.Err() == nil {
					_, _ = s.Refused(ctx, l) // there may be yet another one by now
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
	}
}

// Pools keeps pools of connections of drivers that fix user and password when a pool is
// opened: one for the login in force. When another comes into force, it is tried first;
// then the pool of before is closed as soon as nobody works with it any more. Safe for
// concurrent use.
type Pools[P any] struct {
	src  Source
	o    PoolOptions[P]
	stop func()

	moving sync.Mutex // held while another login is tried

	mu      sync.Mutex
	current *pooled[P]
	ended   bool
}

// PoolOptions say how pools are made. All are needed.
type PoolOptions[P any] struct {
	Open func(Login) (P, error)
	// Try connects, to find out whether a login works.
	Try  func(context.Context, P) error
	Shut func(P)
}

type pooled[P any] struct {
	pool  P
	login Login
	users int
	stale bool
}

// NewPools makes none yet. Of a nil Source there is one pool, opened with the zero Login.
func NewPools[P any](src Source, o PoolOptions[P]) *Pools[P] {
	p := &Pools[P]{src: src, o: o, stop: func() {}}
	if src == nil {
		return p
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	p.stop = func() {
		cancel()
		done.Wait()
	}
	l, err := src.Login(ctx)
	if err != nil {
		l.Generation = 0
	}
	done.Go(func() { Adopt(ctx, src, l.Generation, p.move) })
	return p
}

// move makes a login the one that pools are of, if it works.
func (p *Pools[P]) move(ctx context.Context, l Login) error {
	p.moving.Lock()
	defer p.moving.Unlock()
	p.mu.Lock()
	old := p.current
	p.mu.Unlock()
	if old == nil || old.login.Generation == l.Generation { // the first Take opens one
		return nil
	}
	pool, err := p.o.Open(l)
	if err != nil {
		return err
	}
	if err := p.o.Try(ctx, pool); err != nil {
		p.o.Shut(pool)
		return err
	}
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		p.o.Shut(pool)
		return context.Canceled
	}
	p.current, old.stale = &pooled[P]{pool: pool, login: l}, true
	idle := old.users == 0
	p.mu.Unlock()
	if idle {
		p.o.Shut(old.pool)
	}
	return nil
}

// Take gives the pool, for until done is called.
func (p *Pools[P]) Take(ctx context.Context) (pool P, l Login, done func(), err error) {
	if p.src != nil {
		if l, err = p.src.Login(ctx); err != nil {
			return pool, l, nil, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return pool, l, nil, context.Canceled
	}
	if p.current == nil {
		made, err := p.o.Open(l)
		if err != nil {
			return pool, l, nil, err
		}
		p.current = &pooled[P]{pool: made, login: l}
	}
	c := p.current
	c.users++
	return c.pool, c.login, sync.OnceFunc(func() {
		p.mu.Lock()
		c.users--
		idle := c.stale && c.users == 0
		p.mu.Unlock()
		if idle {
			p.o.Shut(c.pool)
		}
	}), nil
}

// Refused is told that a server refused the login of a pool. It reports whether there is a
// pool of another one by now, which works.
func (p *Pools[P]) Refused(ctx context.Context, l Login) bool {
	if p.src == nil {
		return false
	}
	now, err := p.src.Refused(ctx, l)
	return err == nil && now.Generation != l.Generation && p.move(ctx, now) == nil
}

// Close closes the pool. What is at work with it ends with an error.
func (p *Pools[P]) Close() {
	p.stop()
	p.mu.Lock()
	old := p.current
	p.current, p.ended = nil, true
	p.mu.Unlock()
	if old != nil {
		p.o.Shut(old.pool)
	}
}

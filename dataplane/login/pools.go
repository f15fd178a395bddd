package login

import (
	"context"
	"sync"
)

// Pools keeps pools of connections of drivers that fix user and password when a pool is
// opened: one for the login in force. When another comes into force, the pool of before is
// closed as soon as nobody works with it any more. Safe for concurrent use.
type Pools[P any] struct {
	src  Source
	open func(Login) (P, error)
	shut func(P)
	stop func()

	mu      sync.Mutex
	current *pooled[P]
	ended   bool
}

type pooled[P any] struct {
	pool  P
	login Login
	users int
	stale bool
}

// NewPools makes none yet. Of a nil Source there is one pool, opened with the zero Login.
func NewPools[P any](src Source, open func(Login) (P, error), shut func(P)) *Pools[P] {
	p := &Pools[P]{src: src, open: open, shut: shut, stop: func() {}}
	if src == nil {
		return p
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Follow(ctx, src, 0, func(l Login) { p.leave(l.Generation) })
	}()
	p.stop = func() {
		cancel()
		<-done
	}
	return p
}

// leave gives up the pool of another generation than that in force.
func (p *Pools[P]) leave(inForce int64) {
	p.mu.Lock()
	old := p.current
	if old == nil || old.login.Generation == inForce {
		p.mu.Unlock()
		return
	}
	p.current, old.stale = nil, true
	idle := old.users == 0
	p.mu.Unlock()
	if idle {
		p.shut(old.pool)
	}
}

// Take gives the pool of the login in force, for until done is called.
func (p *Pools[P]) Take(ctx context.Context) (pool P, l Login, done func(), err error) {
	if p.src != nil {
		if l, err = p.src.Login(ctx); err != nil {
			return pool, l, nil, err
		}
		p.leave(l.Generation)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return pool, l, nil, context.Canceled
	}
	if p.current == nil {
		made, err := p.open(l)
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
			p.shut(c.pool)
		}
	}), nil
}

// Refused tells that a server refused the login of a pool; the next Take gives what is in
// force after another look.
func (p *Pools[P]) Refused(ctx context.Context, l Login) {
	if p.src != nil {
		_, _ = p.src.Refused(ctx, l)
	}
}

// Close closes the pool. What is at work with it ends with an error.
func (p *Pools[P]) Close() {
	p.stop()
	p.mu.Lock()
	old := p.current
	p.current, p.ended = nil, true
	p.mu.Unlock()
	if old != nil {
		p.shut(old.pool)
	}
}

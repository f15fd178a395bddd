package stack

import (
	"context"
	"fmt"
	"sync"
	"time"

	"syncline/devstack/internal/proc"
)

// service is one server.
type service struct {
	name    string
	address string
	note    string // shown in the table
	spec    proc.Spec
	// setup makes the data folder, once; it may be called again.
	setup func(ctx context.Context) error
	ready func(ctx context.Context) error

	op    sync.Mutex // one start, stop or kill at a time
	mu    sync.Mutex // state below
	p     *proc.Process
	state state
}

type state string

const (
	starting state = "starting"
	ready    state = "ready"
	stopped  state = "stopped"
	failed   state = "failed"
)

const (
	startTimeout = 2 * time.Minute
	stopTimeout  = 30 * time.Second
	readyTimeout = 5 * time.Second
	readyPause   = 50 * time.Millisecond
	respawnPause = 300 * time.Millisecond
	// settled is how long a process must have run for its end to count as a
	// failure at once: a server whose killed predecessor still lets go of memory
	// or files ends within moments and is tried again.
	respawnWindow = 20 * time.Second
)

func (s *service) set(st state) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = st
}

func (s *service) current() (state, *proc.Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.p
}

// start returns when the service answers. ended is told if it ends by itself
// later on.
func (s *service) start(ctx context.Context, ended func(*service, error)) error {
	s.op.Lock()
	defer s.op.Unlock()
	if st, _ := s.current(); st == ready {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if s.setup != nil {
		if err := s.setup(ctx); err != nil {
			return fmt.Errorf("prepare %s: %w", s.name, err)
		}
	}
	s.set(starting)
	begun := time.Now()
	for {
		p, err := proc.Start(s.spec)
		if err != nil {
			s.set(failed)
			return fmt.Errorf("start %s: %w", s.name, err)
		}
		s.mu.Lock()
		s.p = p
		s.mu.Unlock()
		err = s.await(ctx, p)
		if err == nil {
			s.set(ready)
			go s.watch(p, ended)
			return nil
		}
		select {
		case <-p.Done():
			if ctx.Err() == nil && time.Since(begun) < respawnWindow {
				time.Sleep(respawnPause)
				continue
			}
		default:
		}
		p.Kill()
		s.set(failed)
		return fmt.Errorf("%s does not start: %w; its log %s ends with: %s", s.name, err, s.spec.Log, proc.LastLine(s.spec.Log))
	}
}

// await polls until the service answers, ends, or time is up.
func (s *service) await(ctx context.Context, p *proc.Process) error {
	for {
		once, cancel := context.WithTimeout(ctx, readyTimeout)
		err := s.ready(once)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-p.Done():
			return fmt.Errorf("it ended (%w)", exit(p.Err()))
		case <-ctx.Done():
			return fmt.Errorf("it did not answer in time: %w", err)
		case <-time.After(readyPause):
		}
	}
}

type exitedFine struct{}

func (exitedFine) Error() string { return "exit status 0" }

func exit(err error) error {
	if err == nil {
		return exitedFine{}
	}
	return err
}

// watch reports an end that nobody asked for.
func (s *service) watch(p *proc.Process, ended func(*service, error)) {
	<-p.Done()
	s.mu.Lock()
	unasked := s.p == p && s.state == ready
	if unasked {
		s.state = failed
	}
	s.mu.Unlock()
	if unasked {
		ended(s, exit(p.Err()))
	}
}

// end stops the service, in order or by SIGKILL, and returns when it is gone.
func (s *service) end(kill bool) {
	s.op.Lock()
	defer s.op.Unlock()
	s.mu.Lock()
	p := s.p
	s.state = stopped
	s.mu.Unlock()
	if p == nil {
		return
	}
	if kill {
		p.Kill()
	} else {
		p.Stop(stopTimeout)
	}
}

// Health is what status tells about a service.
type Health struct {
	Name    string `json:"name"`
	State   string `json:"state"`
	Address string `json:"address"`
	PID     int    `json:"pid,omitempty"`
	Note    string `json:"note,omitempty"`
	Log     string `json:"log"`
}

// health asks the service itself, not only our memory of it.
func (s *service) health(ctx context.Context) Health {
	st, p := s.current()
	h := Health{Name: s.name, State: string(st), Address: s.address, Note: s.note, Log: s.spec.Log}
	if st == ready {
		h.PID = p.PID()
		ctx, cancel := context.WithTimeout(ctx, readyTimeout)
		defer cancel()
		if err := s.ready(ctx); err != nil {
			h.State, h.Note = "unwell", err.Error()
		}
	}
	return h
}

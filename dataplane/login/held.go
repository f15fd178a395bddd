package login

import (
	"context"
	"maps"
	"sync"
)

// Held is a Source whose login somebody sets: the part that all have in common.
type Held struct {
	mu      sync.Mutex
	current Login
	changed chan struct{}
	open    map[int64]int
	left    chan struct{} // closed and made anew when a connection is closed
}

// NewHeld begins with a login.
func NewHeld(l Login) *Held {
	return &Held{current: l, changed: make(chan struct{}), open: map[int64]int{}, left: make(chan struct{})}
}

// Put brings a login into force, if it is of a later generation.
func (h *Held) Put(l Login) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l.Generation <= h.current.Generation {
		return false
	}
	h.current = l
	close(h.changed)
	h.changed = make(chan struct{})
	return true
}

// Login gives the login in force.
func (h *Held) Login(context.Context) (Login, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.current, nil
}

// Refused gives the login in force.
func (h *Held) Refused(ctx context.Context, _ Login) (Login, error) { return h.Login(ctx) }

// Changed is closed when another generation than this is in force.
func (h *Held) Changed(generation int64) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if generation != h.current.Generation {
		done := make(chan struct{})
		close(done)
		return done
	}
	return h.changed
}

// Opened counts a connection of a generation.
func (h *Held) Opened(generation int64) (closed func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open[generation]++
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.open[generation]--; h.open[generation] == 0 {
			delete(h.open, generation)
		}
		close(h.left)
		h.left = make(chan struct{})
	}
}

// Counts gives the open connections by generation, and what is closed when one of them is.
func (h *Held) Counts() (open map[int64]int, left <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.open), h.left
}

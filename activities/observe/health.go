package observe

import (
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Health knows which loops should progress, and when each last did.
type Health struct {
	now func() time.Time

	mu       sync.Mutex
	loops    map[string]*loop
	notReady string // why; "" when ready
}

type loop struct {
	within   time.Duration
	last     time.Time
	position string
	failed   time.Time // when it ended with an error; zero while it runs
}

// between is how long a loop that failed still counts: another attempt is due.
const between = 5 * time.Second

// Stalled describes a loop that is overdue. It is part of /healthz's answer.
type Stalled struct {
	Loop      string    `json:"loop"`
	Since     time.Time `json:"since"`
	Seconds   float64   `json:"seconds"`
	Allowed   float64   `json:"allowed_seconds"`
	Position  string    `json:"last_position,omitempty"`
	Condition string    `json:"condition"`
}

// NewHealth begins not ready and with no loops.
func NewHealth() *Health {
	return &Health{now: time.Now, loops: map[string]*loop{}, notReady: "starting"}
}

// Expect registers a loop that must progress at least once within each such
// span, beginning now; or, if the attempt before it failed here lately, since that
// one's last progress: a loop that fails again and again does not progress. A
// later loop of the same name owns it. Call done when the loop ends, and say
// whether it failed, so that another attempt is due.
func (h *Health) Expect(name string, within time.Duration) (done func(failed bool)) {
	l := &loop{within: within, last: h.now()}
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.loops[name]; old != nil && !old.failed.IsZero() && l.last.Sub(old.failed) < within {
		l.last, l.position = old.last, old.position
	}
	h.loops[name] = l
	return func(failed bool) {
		h.mu.Lock()
		defer h.mu.Unlock()
		switch {
		case h.loops[name] != l:
		case failed:
			l.failed = h.now()
		default:
			delete(h.loops, name)
		}
	}
}

// Progress notes that a loop got on, or looked and found nothing to do. The
// position says how far; it must hold no row values. A name that is not
// expected is ignored, since it may just have ended.
func (h *Health) Progress(name, position string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.loops[name]; l != nil && l.failed.IsZero() {
		l.last = h.now()
		if position != "" {
			l.position = position
		}
	}
}

// Stalled lists the overdue loops, longest first.
func (h *Health) Stalled() []Stalled {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	var out []Stalled
	for name, l := range h.loops {
		if ended := now.Sub(l.failed); !l.failed.IsZero() && ended > between {
			if ended > l.within { // nobody goes on with it here
				delete(h.loops, name)
			}
			continue
		}
		idle := now.Sub(l.last)
		if idle <= l.within {
			continue
		}
		out = append(out, Stalled{
			Loop: name, Since: l.last.UTC(), Seconds: idle.Seconds(), Allowed: l.within.Seconds(), Position: l.position,
			Condition: fmt.Sprintf("no progress for %s, %s allowed", idle.Round(time.Second), l.within),
		})
	}
	sort.Slice(out, func(i, j int) bool {
		if !out[i].Since.Equal(out[j].Since) {
			return out[i].Since.Before(out[j].Since)
		}
		return out[i].Loop < out[j].Loop
	})
	return out
}

// Loops is the number of loops that are expected to progress.
func (h *Health) Loops() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, l := range h.loops {
		if l.failed.IsZero() {
			n++
		}
	}
	return n
}

// Ready says that the worker polls its task queues.
func (h *Health) Ready() { h.setNotReady("") }

// NotReady says why it does not: "draining".
func (h *Health) NotReady(why string) { h.setNotReady(why) }

func (h *Health) setNotReady(why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notReady = why
}

func (h *Health) readiness() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.notReady
}

// Register adds the number of expected and of stalled loops to the metrics, for
// alerts that do not look at /healthz.
func (h *Health) Register(m *Metrics) {
	m.Registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "syncline_loops_expected", Help: "Loops of this worker that should progress."},
			func() float64 { return float64(h.Loops()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "syncline_loops_stalled", Help: "Loops of this worker that should have progressed and did not."},
			func() float64 { return float64(len(h.Stalled())) }),
	)
}

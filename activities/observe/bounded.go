package observe

import "sync"

// other stands for all values of a label beyond its bound.
const other = "_other"

// bounded lets a label have a limited number of values, so that neither a
// pipeline over ten thousand tables nor a bug can fill the memory of Prometheus.
type bounded struct {
	max  int
	mu   sync.RWMutex
	seen map[string]bool
}

func newBounded(max int) *bounded { return &bounded{max: max, seen: map[string]bool{}} }

func (b *bounded) value(v string) string {
	b.mu.RLock()
	known := b.seen[v]
	b.mu.RUnlock()
	if known {
		return v
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen[v] {
		return v
	}
	if len(b.seen) >= b.max {
		return other
	}
	b.seen[v] = true
	return v
}

package simulate

import (
	"math"
	"time"
)

// Waits is how long changes waited, to within one percent, in bounded memory.
type Waits struct {
	n, sum, max int64         // microseconds
	by          map[int]int64 // by logarithm
}

const waitBase = 1.01

func (w *Waits) add(micros, n int64) {
	micros = max(micros, 0)
	if w.by == nil {
		w.by = map[int]int64{}
	}
	b := -1
	if micros > 0 {
		b = int(math.Log(float64(micros)) / math.Log(waitBase))
	}
	w.by[b] += n
	w.n += n
	w.sum += micros * n
	w.max = max(w.max, micros)
}

// Merge takes in others.
func (w *Waits) Merge(o *Waits) {
	if w.by == nil {
		w.by = map[int]int64{}
	}
	for b, n := range o.by {
		w.by[b] += n
	}
	w.n, w.sum, w.max = w.n+o.n, w.sum+o.sum, max(w.max, o.max)
}

// Quantile returns how long the q-th part waited at most.
func (w *Waits) Quantile(q float64) time.Duration {
	if w.n == 0 {
		return 0
	}
	rank, seen := int64(math.Ceil(q*float64(w.n))), int64(0)
	for b := -1; ; b++ {
		if seen += w.by[b]; seen >= rank {
			micros := math.Pow(waitBase, float64(b)+0.5)
			if b < 0 {
				micros = 0
			}
			return time.Duration(min(int64(micros), w.max)) * time.Microsecond
		}
	}
}

// Max returns the longest wait.
func (w *Waits) Max() time.Duration { return time.Duration(w.max) * time.Microsecond }

// Sum returns all waits together.
func (w *Waits) Sum() time.Duration { return time.Duration(w.sum) * time.Microsecond }

// Count returns how many waited.
func (w *Waits) Count() int64 { return w.n }

package deliver

import (
	"math/bits"
	"time"
)

// window keeps counts and lags of the last seconds.
type window struct {
	slots [windowSlots]slot
	began int64 // second of the first note
}

const (
	windowSlots = 30
	rateSlots   = 10
	subBuckets  = 8 // per power of two: lags are exact within 1/8
	lagBuckets  = 40 * subBuckets
)

type slot struct {
	second  int64
	changes int64
	lags    [lagBuckets]uint32
}

func (w *window) at(now time.Time) *slot {
	sec := now.Unix()
	if w.began == 0 {
		w.began = sec
	}
	s := &w.slots[sec%windowSlots]
	if s.second != sec {
		*s = slot{second: sec}
	}
	return s
}

func (w *window) note(now time.Time, lag time.Duration, n int) {
	s := w.at(now)
	s.changes += int64(n)
	s.lags[lagBucket(lag)] += uint32(n)
}

// read returns changes per second over the last whole seconds, and the median
// and 99th percentile of the lags of the whole window.
func (w *window) read(now time.Time) (rate float64, p50, p99 time.Duration) {
	if w.began == 0 {
		return 0, 0, 0
	}
	sec := now.Unix()
	var changes, all int64
	var lags [lagBuckets]int64
	for i := range w.slots {
		s := &w.slots[i]
		if s.second == 0 || s.second <= sec-windowSlots {
			continue
		}
		if s.second < sec && s.second >= sec-rateSlots {
			changes += s.changes
		}
		for b, n := range s.lags {
			lags[b] += int64(n)
			all += int64(n)
		}
	}
	if span := min(sec-w.began, rateSlots); span > 0 {
		rate = float64(changes) / float64(span)
	}
	return rate, percentile(&lags, all, 50), percentile(&lags, all, 99)
}

func percentile(lags *[lagBuckets]int64, all, p int64) time.Duration {
	if all == 0 {
		return 0
	}
	left := (all*p + 99) / 100
	for b, n := range lags {
		if left -= n; left <= 0 {
			return bucketTop(b)
		}
	}
	return bucketTop(lagBuckets - 1)
}

// lagBucket puts microseconds into buckets: the power of two, then eighths.
func lagBucket(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 0))
	if us < subBuckets {
		return int(us)
	}
	exp := bits.Len64(us) - 1 // at least 3
	sub := int(us>>(exp-3)) & (subBuckets - 1)
	return min((exp-2)*subBuckets+sub, lagBuckets-1)
}

func bucketTop(b int) time.Duration {
	if b < subBuckets {
		return time.Duration(b) * time.Microsecond
	}
	exp, sub := b/subBuckets+2, b%subBuckets
	us := (uint64(subBuckets+sub+1) << (exp - 3)) - 1
	return time.Duration(us) * time.Microsecond
}

// lags tells how long changes took from their commits until they were visible. Neighbours
// that differ by less than a hundredth are told together, by the longest: each telling
// costs, and a backlog has many commits.
func lags(runs []commitRun, visible time.Time, tell func(d time.Duration, n int)) {
	of := func(r commitRun) time.Duration { return max(visible.Sub(time.Unix(0, r.at)), 0) }
	for i := 0; i < len(runs); {
		low, high := of(runs[i]), of(runs[i])
		n := 0
		for ; i < len(runs); i++ {
			d := of(runs[i])
			if max(high, d)-min(low, d) > max(high/128, 50*time.Microsecond) {
				break
			}
			low, high, n = min(low, d), max(high, d), n+runs[i].n
		}
		tell(high, n)
	}
}

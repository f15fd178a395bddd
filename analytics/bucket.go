package analytics

import (
	"math/bits"
	"time"
)

// Lags are counted in buckets: exact below 64 µs, then within 1/32 of themselves.
const (
	subBits    = 5
	subBuckets = 1 << subBits
)

// LagBucket returns the bucket of a lag; a negative one counts as none.
func LagBucket(d time.Duration) uint16 {
	us := uint64(max(d.Microseconds(), 0))
	if us < 2*subBuckets {
		return uint16(us)
	}
	exp := bits.Len64(us) - 1 - subBits // at least 1
	return uint16(exp*subBuckets) + uint16(us>>exp)
}

// BucketMicros returns the upper end of a bucket, in microseconds.
func BucketMicros(b uint16) uint64 {
	if b < 2*subBuckets {
		return uint64(b)
	}
	exp := uint(b)/subBuckets - 1
	return (uint64(b)%subBuckets+subBuckets+1)<<exp - 1
}

// Percentile returns the lag, in microseconds, that p of 100 changes stayed below
// or at; 0 without changes.
func Percentile(buckets map[uint16]uint64, p float64) uint64 {
	var all uint64
	var top uint16
	for b, n := range buckets {
		all, top = all+n, max(top, b)
	}
	if all == 0 {
		return 0
	}
	left := int64(float64(all)*p/100 + 0.999999)
	for b := uint16(0); b < top; b++ {
		if left -= int64(buckets[b]); left <= 0 {
			return BucketMicros(b)
		}
	}
	return BucketMicros(top)
}

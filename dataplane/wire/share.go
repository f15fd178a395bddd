package wire

import (
	"cmp"
	"math/bits"
	"slices"
)

// Share divides n among weights, in proportion: the parts' sum is n, and none is off by
// one or more (largest remainders; of equal ones the first). nil if no weight is above
// zero. Neither n nor a weight may be negative.
func Share(n int64, weights []int64) []int64 {
	var all uint64
	for _, w := range weights {
		all += uint64(w)
	}
	if all == 0 {
		return nil
	}
	out := make([]int64, len(weights))
	type remainder struct {
		i    int
		left uint64
	}
	rest := make([]remainder, len(weights))
	left := n
	for i, w := range weights {
		hi, lo := bits.Mul64(uint64(n), uint64(w))
		whole, r := bits.Div64(hi, lo, all) // hi < all, since n·w < 2⁶⁴·w and w ≤ all
		out[i], rest[i] = int64(whole), remainder{i, r}
		left -= int64(whole)
	}
	slices.SortStableFunc(rest, func(a, b remainder) int { return cmp.Compare(b.left, a.left) })
	for _, r := range rest[:left] {
		out[r.i]++
	}
	return out
}

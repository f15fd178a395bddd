package wire

import (
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestShare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(0, 1<<62).Draw(t, "n")
		weights := rapid.SliceOfN(rapid.OneOf(rapid.Int64Range(0, 3), rapid.Int64Range(0, 1<<58)), 0, 20).Draw(t, "weights")
		got := Share(n, weights)
		all := new(big.Int)
		for _, w := range weights {
			all.Add(all, big.NewInt(w))
		}
		if all.Sign() == 0 {
			if got != nil {
				t.Fatalf("%v of no weight", got)
			}
			return
		}
		sum := int64(0)
		for i, part := range got {
			sum += part
			// |part·all − n·w| < all
			off := new(big.Int).Mul(big.NewInt(part), all)
			off.Sub(off, new(big.Int).Mul(big.NewInt(n), big.NewInt(weights[i]))).Abs(off)
			if off.Cmp(all) >= 0 {
				t.Fatalf("part %d of %d by %v is %d", i, n, weights, part)
			}
			if weights[i] == 0 && part != 0 {
				t.Fatalf("%d for a weight of zero", part)
			}
		}
		if sum != n {
			t.Fatalf("the parts %v of %d have the sum %d", got, n, sum)
		}
	})
	if got := Share(10, []int64{1, 1, 1}); !slices.Equal(got, []int64{4, 3, 3}) {
		t.Error(got)
	}
	if got := Share(3, []int64{9, 9, 0, 82}); !slices.Equal(got, []int64{0, 0, 0, 3}) {
		t.Error(got)
	}
}

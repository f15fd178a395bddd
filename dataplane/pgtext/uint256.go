package pgtext

import "math/bits"

var pow10 = func() (p [20]uint64) {
	p[0] = 1
	for i := 1; i < len(p); i++ {
		p[i] = p[i-1] * 10
	}
	return
}()

// mulAdd sets u to u*m + a.
func (u *Uint256) mulAdd(m, a uint64) {
	carry := a
	for i := range u {
		hi, lo := bits.Mul64(u[i], m)
		var c uint64
		u[i], c = bits.Add64(lo, carry, 0)
		carry = hi + c
	}
}

// Negate returns the two's complement.
func (u Uint256) Negate() Uint256 {
	carry := uint64(1)
	for i := range u {
		u[i], carry = bits.Add64(^u[i], 0, carry)
	}
	return u
}

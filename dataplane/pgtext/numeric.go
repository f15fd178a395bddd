package pgtext

import "bytes"

// Numeric is a parsed numeric. Whole and Frac point into the text: the digits
// before (without leading zeros) and after the point.
type Numeric struct {
	Class       Class
	Neg         bool
	Whole, Frac []byte
}

// ParseNumeric reads the form in which Postgres prints a numeric: digits with
// at most one point, NaN, Infinity or -Infinity. It never has an exponent.
func ParseNumeric(b []byte) (n Numeric, err error) {
	if len(b) == 0 {
		return n, bad("numeric", 0, "empty")
	}
	i := 0
	if b[0] == '-' {
		n.Neg = true
		i = 1
	}
	if i < len(b) && b[i] > '9' {
		switch string(b) {
		case "NaN":
			return Numeric{Class: NaN}, nil
		case "Infinity":
			return Numeric{Class: Infinity}, nil
		case "-Infinity":
			return Numeric{Class: NegInfinity, Neg: true}, nil
		}
		return n, bad("numeric", i, "neither a digit nor NaN nor Infinity")
	}
	start := i
	for i < len(b) && isDigit(b[i]) {
		i++
	}
	n.Whole = b[start:i]
	if i < len(b) && b[i] == '.' {
		n.Frac = b[i+1:]
		for j := i + 1; j < len(b); j++ {
			if !isDigit(b[j]) {
				return n, bad("numeric", j, "not a digit")
			}
		}
	} else if i < len(b) {
		return n, bad("numeric", i, "not a digit")
	}
	if len(n.Whole)+len(n.Frac) == 0 {
		return n, bad("numeric", len(b), "no digits")
	}
	n.Whole = bytes.TrimLeft(n.Whole, "0")
	return n, nil
}

// Uint256 is an unsigned integer, least significant word first.
type Uint256 [4]uint64

// Unscaled returns the number times 10^scale as a magnitude; the sign is Neg.
// exact is false if digits other than zeros stand beyond the scale; ok is false
// if it has more than precision digits (at most 76) or is not finite.
func (n *Numeric) Unscaled(precision, scale int) (u Uint256, exact, ok bool) {
	if n.Class != Finite || len(n.Whole)+scale > precision && len(n.Whole) > 0 || precision > 76 {
		return u, false, false
	}
	frac, pad := n.Frac, 0
	exact = true
	if len(frac) > scale {
		exact = len(bytes.TrimLeft(frac[scale:], "0")) == 0
		frac = frac[:scale]
	} else {
		pad = scale - len(frac)
	}
	if precision <= 18 { // fits one word: the common case
		var v uint64
		for _, c := range n.Whole {
			v = v*10 + uint64(c-'0')
		}
		for _, c := range frac {
			v = v*10 + uint64(c-'0')
		}
		u[0] = v * pow10[pad]
		return u, exact, true
	}
	u.addDigits(n.Whole)
	u.addDigits(frac)
	for ; pad > 0; pad -= min(pad, 19) {
		u.mulAdd(pow10[min(pad, 19)], 0)
	}
	return u, exact, true
}

// addDigits shifts in up to 19 digits at a time, which is what a word holds.
func (u *Uint256) addDigits(d []byte) {
	for len(d) > 0 {
		k := min(len(d), 19)
		var v uint64
		for _, c := range d[:k] {
			v = v*10 + uint64(c-'0')
		}
		u.mulAdd(pow10[k], v)
		d = d[k:]
	}
}

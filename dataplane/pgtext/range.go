package pgtext

// Range is a parsed range. A bound that is not there is unbounded; one that is
// there may be the subtype's own infinity.
type Range struct {
	Empty              bool
	HasLower, HasUpper bool
	LowerInc, UpperInc bool
	Lower, Upper       []byte
}

// ParseRange reads empty, [1,5), ["a b",), and so on. Bounds are copied out of b
// only if they were quoted.
func ParseRange(b []byte) (r Range, err error) {
	if string(b) == "empty" {
		return Range{Empty: true}, nil
	}
	r, n, err := rangeAt(b, 0)
	if err == nil && n != len(b) {
		err = bad("range", n, "more text than a range")
	}
	return r, err
}

// ParseMultirange reads {[1,2),[5,6)}.
func ParseMultirange(b []byte) (rs []Range, err error) {
	const form = "multirange"
	if len(b) < 2 || b[0] != '{' {
		return nil, bad(form, 0, "want an opening brace")
	}
	if b[1] == '}' && len(b) == 2 {
		return nil, nil
	}
	for i := 1; ; i++ {
		r, n, err := rangeAt(b, i)
		if err != nil {
			return nil, err
		}
		rs = append(rs, r)
		if i = n; i >= len(b) {
			return nil, bad(form, i, "ends inside the braces")
		}
		switch {
		case b[i] == '}' && i+1 == len(b):
			return rs, nil
		case b[i] != ',':
			return nil, bad(form, i, "want a comma or the closing brace")
		}
	}
}

func rangeAt(b []byte, i int) (r Range, n int, err error) {
	const form = "range"
	if i >= len(b) || b[i] != '[' && b[i] != '(' {
		return r, i, bad(form, i, "want an opening bracket")
	}
	r.LowerInc = b[i] == '['
	if r.Lower, r.HasLower, i, err = rangeBound(b, i+1); err != nil {
		return r, i, err
	}
	if i >= len(b) || b[i] != ',' {
		return r, i, bad(form, i, "want a comma")
	}
	if r.Upper, r.HasUpper, i, err = rangeBound(b, i+1); err != nil {
		return r, i, err
	}
	if i >= len(b) || b[i] != ']' && b[i] != ')' {
		return r, i, bad(form, i, "want a closing bracket")
	}
	r.UpperInc = b[i] == ']'
	return r, i + 1, nil
}

// rangeBound reads up to a comma or bracket outside of quotes. Inside quotes a
// doubled quote and a backslash both escape.
func rangeBound(b []byte, i int) (text []byte, has bool, n int, err error) {
	start, plain, quoted := i, true, false
	var out []byte
	for ; i < len(b); i++ {
		c := b[i]
		if !quoted && (c == ',' || c == ']' || c == ')' || c == '[' || c == '(') {
			break
		}
		if (c == '"' || c == '\\') && plain {
			out = append(make([]byte, 0, len(b)-start), b[start:i]...)
			plain = false
		}
		switch {
		case c == '\\':
			if i++; i >= len(b) {
				return nil, false, i, bad("range", i, "ends after a backslash")
			}
			out = append(out, b[i])
		case c == '"' && quoted && i+1 < len(b) && b[i+1] == '"':
			out = append(out, '"')
			i++
		case c == '"':
			quoted = !quoted
		case !plain:
			out = append(out, c)
		}
	}
	if quoted {
		return nil, false, i, bad("range", i, "quoted bound does not end")
	}
	if plain {
		return b[start:i], i > start, i, nil
	}
	return out, true, i, nil
}

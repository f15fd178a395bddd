package pgtext

// Dim is one dimension of an array.
type Dim struct{ Lower, Len int }

// Elem is an element: NULL or a text.
type Elem struct {
	Null bool
	Text []byte
}

// MaxDims is Postgres' own limit.
const MaxDims = 6

// Array is a parsed array; Elems are in row-major order. Its buffers are
// reused by the next Parse.
type Array struct {
	Dims  []Dim
	Elems []Elem
	buf   []byte
}

// Plain reports whether the array is empty or has one dimension that starts at 1:
// whether Elems alone say all of it.
func (a *Array) Plain() bool {
	return len(a.Dims) == 0 || len(a.Dims) == 1 && a.Dims[0].Lower == 1
}

// Parse reads the text form of an array: {1,NULL,"a b"}, {{1,2},{3,4}},
// [0:1]={1,2}. The delimiter is a comma for every type but box. Elems point
// into b or into a's own buffer, until the next Parse.
func (a *Array) Parse(b []byte, delim byte) error {
	const form = "array"
	a.Dims, a.Elems, a.buf = a.Dims[:0], a.Elems[:0], a.buf[:0]
	i, err := a.bounds(b)
	if err != nil {
		return err
	}
	given := len(a.Dims)
	if i >= len(b) || b[i] != '{' {
		return bad(form, i, "want an opening brace")
	}
	if i+2 == len(b) && b[i+1] == '}' && given == 0 {
		return nil
	}
	if cap(a.buf) < len(b) {
		a.buf = make([]byte, 0, len(b)) // never grows below, so that Elems stay valid
	}
	var (
		count [MaxDims]int // elements so far in the open brace of each depth
		size  [MaxDims]int // length that a closed brace of the depth had; 0: none yet
		leaf  int          // depth at which elements stand; 0: not seen yet
		depth int
	)
	for want := true; ; { // want: an element or a brace must come
		if i >= len(b) {
			return bad(form, i, "ends inside a brace")
		}
		switch c := b[i]; {
		case c == '{':
			if !want || depth == MaxDims || leaf > 0 && depth >= leaf {
				return bad(form, i, "unexpected opening brace")
			}
			count[depth] = 0
			depth++
			i++
		case c == '}':
			if want || depth == 0 {
				return bad(form, i, "unexpected closing brace")
			}
			depth--
			n := count[depth]
			if size[depth] == 0 {
				size[depth] = n
			} else if size[depth] != n {
				return bad(form, i, "sub-arrays of different lengths")
			}
			i++
			if depth == 0 {
				if i != len(b) {
					return bad(form, i, "text after the last brace")
				}
				return a.finish(given, leaf, size[:leaf])
			}
			count[depth-1]++
			want = false
		case c == delim && !want:
			want = true
			i++
		case !want:
			return bad(form, i, "want a delimiter or a closing brace")
		default:
			if leaf == 0 {
				leaf = depth
			}
			if depth != leaf || depth == 0 {
				return bad(form, i, "an element where a sub-array stood")
			}
			if i, err = a.elem(b, i, delim); err != nil {
				return err
			}
			count[depth-1]++
			want = false
		}
	}
}

// bounds reads [l:u][l:u]…= if it is there.
func (a *Array) bounds(b []byte) (int, error) {
	i := 0
	for i < len(b) && b[i] == '[' {
		lo, j, err := bound(b, i+1, ':')
		if err != nil {
			return 0, err
		}
		hi, k, err := bound(b, j+1, ']')
		if err != nil {
			return 0, err
		}
		if hi < lo || len(a.Dims) == MaxDims {
			return 0, bad("array", i, "bounds out of range")
		}
		a.Dims = append(a.Dims, Dim{lo, hi - lo + 1})
		i = k + 1
	}
	if len(a.Dims) == 0 {
		return 0, nil
	}
	if i >= len(b) || b[i] != '=' {
		return 0, bad("array", i, "want an equals sign after the bounds")
	}
	return i + 1, nil
}

func bound(b []byte, i int, end byte) (n, at int, err error) {
	j := i
	for j < len(b) && b[j] != end {
		j++
	}
	if j == len(b) {
		return 0, 0, bad("array", i, "bounds do not end")
	}
	v, err := ParseInt(b[i:j], 32)
	if err != nil {
		return 0, 0, bad("array", i, "bound is not a number")
	}
	return int(v), j, nil
}

// elem reads one element from i on and returns where it ends.
func (a *Array) elem(b []byte, i int, delim byte) (int, error) {
	const form = "array"
	start := len(a.buf)
	if b[i] == '"' {
		for i++; ; i++ {
			if i >= len(b) {
				return i, bad(form, i, "quoted element does not end")
			}
			c := b[i]
			if c == '"' {
				a.Elems = append(a.Elems, Elem{Text: a.buf[start:len(a.buf):len(a.buf)]})
				return i + 1, nil
			}
			if c == '\\' {
				if i++; i >= len(b) {
					return i, bad(form, i, "ends after a backslash")
				}
				c = b[i]
			}
			a.buf = append(a.buf, c)
		}
	}
	first, escaped := i, false
	for ; i < len(b) && b[i] != delim && b[i] != '}'; i++ {
		switch b[i] {
		case '{', '"':
			return i, bad(form, i, "quote or brace in a bare element")
		case '\\':
			if i++; i >= len(b) {
				return i, bad(form, i, "ends after a backslash")
			}
			escaped = true
		}
		a.buf = append(a.buf, b[i])
	}
	if i == first {
		return i, bad(form, i, "empty element")
	}
	t := a.buf[start:len(a.buf):len(a.buf)]
	if !escaped && isNull(t) {
		a.Elems = append(a.Elems, Elem{Null: true})
		return i, nil
	}
	a.Elems = append(a.Elems, Elem{Text: t})
	return i, nil
}

func isNull(t []byte) bool {
	return len(t) == 4 && t[0]|0x20 == 'n' && t[1]|0x20 == 'u' && t[2]|0x20 == 'l' && t[3]|0x20 == 'l'
}

func (a *Array) finish(given, leaf int, size []int) error {
	if given == 0 {
		for _, n := range size {
			a.Dims = append(a.Dims, Dim{1, n})
		}
		return nil
	}
	if given != leaf {
		return bad("array", 0, "bounds and braces disagree")
	}
	for d, n := range size {
		if a.Dims[d].Len != n {
			return bad("array", 0, "bounds and elements disagree")
		}
	}
	return nil
}

package digest

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Canonical is the text of a value of a form that is compared in Go: equal for two texts
// if, and only if, they are the same value as far as both sides can hold it. A text
// that is no JSON is taken as it is.
func (f Form) Canonical(text []byte) []byte {
	if f == Masked {
		return text
	}
	c := canon{in: text, paths: f == Paths}
	out := c.value(make([]byte, 0, len(text)+len(text)/4))
	if c.space(); c.err != nil || c.at != len(text) {
		return append([]byte("!"), text...) // no value begins like this
	}
	return out
}

// canon rewrites a JSON text: objects by name, strings behind their length, numbers in
// one spelling.
type canon struct {
	in    []byte
	at    int
	paths bool // members of members count as members, as ClickHouse has them
	wide  bool // integers may be floating-point numbers, in a list of numbers
	err   error
}

// member of an object, with its value rewritten.
type member struct {
	name string
	text []byte
}

var errSyntax = errors.New("not JSON")

func (c *canon) space() {
	for c.at < len(c.in) && strings.IndexByte(" \t\r\n", c.in[c.at]) >= 0 {
		c.at++
	}
}

// peek returns the next byte that is no white space; 0 at the end.
func (c *canon) peek() byte {
	if c.space(); c.err != nil || c.at == len(c.in) {
		return 0
	}
	return c.in[c.at]
}

func (c *canon) take(want byte) bool {
	if c.peek() != want || want == 0 {
		return false
	}
	c.at++
	return true
}

func (c *canon) expect(want byte) {
	if !c.take(want) {
		c.err = errSyntax
	}
}

func (c *canon) value(out []byte) []byte {
	switch b := c.peek(); b {
	case '{':
		return object(out, c.members("", nil))
	case '[':
		return c.array(out)
	case '"':
		return sized(out, c.string())
	case 't', 'f', 'n':
		return append(out, c.word()...)
	default:
		return c.number(out)
	}
}

func (c *canon) word() string {
	for _, w := range []string{"true", "false", "null"} {
		if bytes.HasPrefix(c.in[c.at:], []byte(w)) {
			c.at += len(w)
			return w
		}
	}
	c.err = errSyntax
	return ""
}

func (c *canon) array(out []byte) []byte {
	if c.paths && !c.wide {
		c.wide = numbers(c.in[c.at:])
		defer func() { c.wide = false }()
	}
	c.at++
	out = append(out, '[')
	for n := 0; c.err == nil && !c.take(']'); n++ {
		if n > 0 {
			c.expect(',')
			out = append(out, ',')
		}
		from := len(out)
		out = c.value(out)
		if v := string(out[from:]); c.paths && (v == "null" || v == "[]" || v == "{}") {
			out = append(out[:from], '~') // beside a list null is an empty one
		}
	}
	return append(out, ']')
}

// numbers reports whether a list, or a list of such lists, has numbers alone. ClickHouse
// may have them as floating-point numbers: if one is, or if others of the path are.
func numbers(text []byte) bool {
	depth, at, deepest := 0, 0, 0 // at: where the numbers are
	for i := 0; i < len(text); i++ {
		switch b := text[i]; b {
		case '[':
			depth++
			deepest = max(deepest, depth)
		case ']':
			if depth--; depth == 0 {
				return deepest == at
			}
		case ',', ' ', '\t', '\r', '\n', 'n', 'u', 'l': // null is of any type
		case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '.', 'e', 'E', '+':
			if at != 0 && at != depth {
				return false
			}
			at = depth
		default:
			return false
		}
	}
	return false
}

// members appends those of an object, and of paths those of its members. A member that
// is null, or an object without members, is then none, and of members that are named
// alike the first counts, or the first two if one of them is an object.
func (c *canon) members(prefix string, into []member) []member {
	c.at++
	var seen map[string]bool
	for n := 0; c.err == nil && !c.take('}'); n++ {
		if n > 0 {
			c.expect(',')
		}
		if c.peek() != '"' {
			c.err = errSyntax
			break
		}
		name := prefix + string(c.string())
		c.expect(':')
		if !c.paths {
			into = append(into, member{name, c.value(nil)})
			continue
		}
		b := c.peek()
		kind := name
		if b == '{' {
			kind += "."
		} else {
			kind += "="
		}
		if again := seen[kind]; again {
			c.value(nil)
			continue
		}
		if seen == nil {
			seen = map[string]bool{}
		}
		seen[kind] = true
		switch b {
		case '{':
			into = c.members(name+".", into)
		case 'n':
			c.word()
		default:
			into = append(into, member{name, c.value(nil)})
		}
	}
	if !c.paths {
		slices.Reverse(into) // of two that are named alike the last one counts
	}
	return into
}

// object appends members by name. Of those that are named alike, the first counts.
func object(out []byte, ms []member) []byte {
	slices.SortStableFunc(ms, func(a, b member) int { return strings.Compare(a.name, b.name) })
	out = append(out, '{')
	for i, m := range ms {
		if i > 0 && ms[i-1].name == m.name {
			continue
		}
		out = sized(out, []byte(m.name))
		out = append(out, m.text...)
		out = append(out, ',')
	}
	return append(out, '}')
}

// sized appends a string so that nothing in it can end it.
func sized(out, s []byte) []byte {
	out = strconv.AppendInt(append(out, '"'), int64(len(s)), 10)
	return append(append(out, ':'), s...)
}

// string takes a string and returns it without escapes.
func (c *canon) string() []byte {
	from, escaped := c.at, false
	for c.at++; c.at < len(c.in); c.at++ {
		switch c.in[c.at] {
		case '\\':
			escaped = true
			c.at++
		case '"':
			c.at++
			if !escaped {
				return c.in[from+1 : c.at-1]
			}
			var s string
			if json.Unmarshal(c.in[from:c.at], &s) != nil {
				c.err = errSyntax
			}
			return []byte(s)
		}
	}
	c.at, c.err = len(c.in), errSyntax
	return nil
}

func (c *canon) number(out []byte) []byte {
	from := c.at
	for c.at < len(c.in) && strings.IndexByte("+-.0123456789eE", c.in[c.at]) >= 0 {
		c.at++
	}
	text := c.in[from:c.at]
	if !json.Valid(text) {
		c.err = errSyntax
		return out
	}
	if c.paths {
		return double(out, text, c.wide)
	}
	return exact(out, text)
}

// double is a number as 64 bits hold it: an integer, unless it is to be wide, or else the
// nearest floating-point number, of which the shortest digits that tell it from others
// count. What they do not hold keeps its value.
func double(out, text []byte, wide bool) []byte {
	if !wide && !bytes.ContainsAny(text, ".eE") {
		if string(text) == "-0" {
			text = text[1:]
		}
		return append(out, text...)
	}
	f, err := strconv.ParseFloat(string(text), 64)
	switch {
	case err != nil:
		return exact(out, text)
	case f == 0:
		return append(out, '0')
	case f == math.Trunc(f) && math.Abs(f) < 1e21:
		return strconv.AppendFloat(out, f, 'f', -1, 64)
	}
	return strconv.AppendFloat(out, f, 'e', -1, 64)
}

// exact is a number by its value: digits without zeros at either end, and a power of ten.
func exact(out, text []byte) []byte {
	negative := text[0] == '-'
	mantissa, exp, _ := bytes.Cut(bytes.ToLower(bytes.TrimPrefix(text, []byte("-"))), []byte("e"))
	whole, frac, _ := bytes.Cut(mantissa, []byte("."))
	e, _ := strconv.Atoi(string(exp)) // beyond an int no server has it
	e -= len(frac)
	digits := bytes.TrimLeft(slices.Concat(whole, frac), "0")
	short := bytes.TrimRight(digits, "0")
	if len(short) == 0 {
		return append(out, '0')
	}
	if negative {
		out = append(out, '-')
	}
	out = append(append(out, short...), 'e')
	return strconv.AppendInt(out, int64(e+len(digits)-len(short)), 10)
}

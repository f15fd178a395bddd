// Package jsontest generates JSON values, and texts of them, for tests of what compares
// them. It has no state; a draw that cannot be made ends the test.
package jsontest

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"pgregory.net/rapid"
)

// Value is nil, a bool, a string, an int64, a float64, a []Value or a map[string]Value.
type Value any

// words are strings that a server may take for something else.
var words = []string{"", "a", "ü漢😀", "\"\\/\b\n\t", "1", "1.0", "true", "null", "2024-01-01", "2024-01-01 00:00:00", "2024-01-01T00:00:00Z", "00:00:01",
	"10.0.0.1", "6e0dc1b0-7d3f-4f0c-8a4e-0b9c8a1d2e3f", "{}", "[1]"}

// Leaf draws a value without others in it; of integers, those up to 64 bits unsigned.
func Leaf(t *rapid.T) Value {
	switch rapid.IntRange(0, 6).Draw(t, "kind") {
	case 0:
		return rapid.Bool().Draw(t, "bool")
	case 1:
		return rapid.SampledFrom(words).Draw(t, "word")
	case 2:
		return rapid.StringOf(rapid.RuneFrom([]rune("ab. é"))).Draw(t, "string")
	case 3:
		return rapid.Int64().Draw(t, "integer")
	case 4:
		f := rapid.Float64().Draw(t, "float")
		if f == 0 { // which has two signs, and no server both
			return int64(0)
		}
		return f
	case 5:
		return nil
	}
	return int64(rapid.IntRange(-9, 9).Draw(t, "number"))
}

// Any draws a value of any shape.
func Any(t *rapid.T, depth int) Value {
	switch n := rapid.IntRange(0, 5).Draw(t, "shape"); {
	case depth == 0 || n > 3:
		return Leaf(t)
	case n > 1:
		return Object(t, depth)
	}
	list := make([]Value, rapid.IntRange(0, 4).Draw(t, "length"))
	for i := range list {
		list[i] = Any(t, depth-1)
	}
	return list
}

// Object draws an object. Names have no dots in them.
func Object(t *rapid.T, depth int) Value {
	out := map[string]Value{}
	for range rapid.IntRange(0, 5).Draw(t, "members") {
		out[rapid.SampledFrom([]string{"a", "b", "c", "ä", "", "`", "\"", "a b", "A", "0"}).Draw(t, "name")] = Any(t, depth-1)
	}
	return out
}

// Spelling says which texts of one value are drawn.
type Spelling struct {
	Doubles bool // numbers with a fraction or an exponent are 64 bits wide
	Last    bool // of equal names the last one counts; or else the first
	Unkept  bool // members that are null or empty objects are as good as none, and dots in names as objects
}

// Text draws a text of the value.
func (s Spelling) Text(t *rapid.T, v Value) string {
	var b strings.Builder
	s.write(t, &b, v)
	return b.String()
}

func blank(t *rapid.T) string {
	return rapid.SampledFrom([]string{"", "", " ", "\n\t"}).Draw(t, "blank")
}

func (s Spelling) write(t *rapid.T, b *strings.Builder, v Value) {
	b.WriteString(blank(t))
	defer func() { b.WriteString(blank(t)) }()
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case string:
		b.WriteString(quoted(t, v))
	case int64:
		text := strconv.FormatInt(v, 10)
		if v == 0 {
			text = rapid.SampledFrom([]string{"0", "-0", "0.0", "-0e7"}).Draw(t, "digits")
		} else if !s.Doubles || v > -1<<53 && v < 1<<53 {
			text = rapid.SampledFrom([]string{text, text + ".0", text + "e0", text + ".00E+00", text + "0e-1"}).Draw(t, "digits")
		}
		b.WriteString(text)
	case float64:
		b.WriteString(float(t, v))
	case []Value:
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			s.write(t, b, e)
		}
		b.WriteByte(']')
	case map[string]Value:
		s.object(t, b, v)
	default:
		t.Fatalf("no JSON: %T", v)
	}
}

func float(t *rapid.T, f float64) string {
	texts := []string{strconv.FormatFloat(f, 'e', -1, 64)}
	if math.Abs(f) < 1e20 && math.Abs(f) > 1e-5 {
		texts = append(texts, strconv.FormatFloat(f, 'f', -1, 64)+map[bool]string{true: ".0"}[f == math.Trunc(f)])
	}
	return rapid.SampledFrom(texts).Draw(t, "digits")
}

func quoted(t *rapid.T, s string) string {
	b, err := json.Marshal(s) // which escapes some that need not be
	if err != nil {
		t.Fatal(err)
	}
	if !rapid.Bool().Draw(t, "escaped") {
		return string(b)
	}
	var out strings.Builder
	for _, r := range s {
		if r < 0x10000 {
			fmt.Fprintf(&out, `\u%04x`, r)
		} else {
			r -= 0x10000
			fmt.Fprintf(&out, `\u%04X\u%04X`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
	}
	return `"` + out.String() + `"`
}

func (s Spelling) object(t *rapid.T, b *strings.Builder, v map[string]Value) {
	names := slices.Sorted(maps.Keys(v))
	if len(names) > 1 {
		names = rapid.Permutation(names).Draw(t, "order")
	}
	b.WriteByte('{')
	n := 0
	member := func(name string, v Value) {
		if n++; n > 1 {
			b.WriteByte(',')
		}
		b.WriteString(blank(t) + quoted(t, name) + blank(t) + ":")
		s.write(t, b, v)
	}
	for _, name := range names {
		twice := rapid.IntRange(0, 9).Draw(t, "twice") == 0 && leaf(v[name]) // of objects, members count
		if twice && s.Last {
			member(name, "before")
		}
		inner, is := v[name].(map[string]Value)
		if is && s.Unkept && len(inner) == 1 && rapid.Bool().Draw(t, "dotted") {
			for k, e := range inner {
				member(name+"."+k, e)
			}
		} else {
			member(name, v[name])
		}
		if twice && !s.Last {
			member(name, "after")
		}
	}
	if s.Unkept && rapid.Bool().Draw(t, "more") {
		member("none", rapid.SampledFrom([]Value{nil, map[string]Value{}, map[string]Value{"x": nil}}).Draw(t, "nothing"))
	}
	b.WriteByte('}')
}

func leaf(v Value) bool {
	switch v.(type) {
	case nil, map[string]Value, []Value:
		return false
	}
	return true
}

// Change returns the value with one leaf changed that is drawn; ok is false if it has none.
// A null counts as one only in a list.
func Change(t *rapid.T, v Value) (changed Value, ok bool) {
	n := count(v)
	if n == 0 {
		return v, false
	}
	at := rapid.IntRange(0, n-1).Draw(t, "leaf")
	return change(v, &at), true
}

func count(v Value) (n int) {
	switch v := v.(type) {
	case nil:
		return 0
	case []Value:
		for _, e := range v {
			n += count(e)
		}
		return n
	case map[string]Value:
		for _, e := range v {
			n += count(e)
		}
		return n
	}
	return 1
}

func change(v Value, at *int) Value {
	switch v := v.(type) {
	case []Value:
		out := slices.Clone(v)
		for i := range out {
			out[i] = change(out[i], at)
		}
		return out
	case map[string]Value:
		out := map[string]Value{}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			out[name] = change(v[name], at)
		}
		return out
	case nil:
		return v
	}
	if *at--; *at != -1 {
		return v
	}
	switch v := v.(type) {
	case bool:
		return !v
	case string:
		return v + "x"
	case int64:
		return ^v // far away, also as a floating-point number
	case float64:
		return math.Nextafter(v, 0)
	}
	return v
}

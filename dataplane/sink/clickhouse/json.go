package clickhouse

import (
	"bytes"
	"strconv"
)

const typeJSON = "JSON"

// mapJSON keeps values in the type JSON. Of those that it does not take the text is in
// _exact; what else it does not hold, digest.Paths takes for the same.
func mapJSON() mapping {
	m := text()
	m.typ, m.parse, m.reread, m.zero, m.clamps = typeJSON, appendJSON, appendString, []byte{2, '{', '}'}, true
	m.lossy = "white space, order, duplicate keys, members that are null or empty objects, dots in keys, and digits of fractions beyond 64 bits"
	return m
}

// appendJSON appends the text of an object that the type JSON takes; of anything else an
// empty one.
func appendJSON(dst, b []byte) ([]byte, bool, error) {
	if !fitsJSON(b) {
		return append(dst, 2, '{', '}'), false, nil
	}
	return appendString(dst, b)
}

// deepJSON is how many lists and objects are in each other, at most; the server's limit
// for its parser is above.
const deepJSON = 100

// fitsJSON reports whether the server takes a valid JSON text for a value of type JSON. It
// refuses, with all of the block, what is no object, numbers beyond 64 bits, halves of
// surrogate pairs, and what is nested too deep.
func fitsJSON(b []byte) bool {
	if !bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte("{")) {
		return false
	}
	depth := 0
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '{' || c == '[':
			if depth++; depth > deepJSON {
				return false
			}
		case c == '}' || c == ']':
			depth--
		case c == '"':
			n := bytes.IndexAny(b[i+1:], "\"\\")
			if n < 0 {
				return false
			}
			if i += 1 + n; b[i] == '"' {
				continue
			}
			if i = stringEnd(b, i); i < 0 {
				return false
			}
		case c == '-' || c >= '0' && c <= '9':
			n := i + 1
			for n < len(b) && bytes.IndexByte([]byte("+-.0123456789eE"), b[n]) >= 0 {
				n++
			}
			if !fitsNumber(b[i:n]) {
				return false
			}
			i = n - 1
		}
	}
	return true
}

// stringEnd returns where a string ends, from its first escape on; -1 if it has half of a
// surrogate pair.
func stringEnd(b []byte, i int) int {
	unit := func(i int) uint64 {
		if i+6 > len(b) || b[i] != '\\' || b[i+1] != 'u' {
			return 0
		}
		n, _ := strconv.ParseUint(string(b[i+2:i+6]), 16, 16)
		return n
	}
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			return i
		case '\\':
			switch u := unit(i); {
			case u >= 0xdc00 && u < 0xe000, u >= 0xd800 && u < 0xdc00 && (unit(i+6) < 0xdc00 || unit(i+6) >= 0xe000):
				return -1
			case u >= 0xd800 && u < 0xdc00:
				i += 11
			default:
				i++
			}
		}
	}
	return -1
}

func fitsNumber(text []byte) bool {
	if len(text) <= 18 && bytes.IndexByte(text, 'e') < 0 && bytes.IndexByte(text, 'E') < 0 {
		return true
	}
	s := string(text)
	if bytes.ContainsAny(text, ".eE") {
		_, err := strconv.ParseFloat(s, 64)
		return err == nil
	}
	if _, err := strconv.ParseInt(s, 10, 64); err == nil {
		return true
	}
	_, err := strconv.ParseUint(s, 10, 64)
	return err == nil
}

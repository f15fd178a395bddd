package predicate

import (
	"strings"
	"unicode/utf8"
)

// token of a predicate.
type token struct {
	at   int
	kind byte   // w: a word, q: a quoted name, s: a string, n: a number, o: an operator or parenthesis, 0: the end
	text string // of a word in lower case; of names and strings without quotes
}

func isLetter(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= utf8.RuneSelf
}

func isDigit(c byte) bool { return c-'0' <= 9 }

// lex cuts a text into tokens, the last of which is the end.
func lex(s string) ([]token, error) {
	var out []token
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
			i++
		case isLetter(c):
			j := i + 1
			for j < len(s) && (isLetter(s[j]) || isDigit(s[j]) || s[j] == '$') {
				j++
			}
			// Postgres folds ASCII only, in databases of any but a single-byte encoding.
			word := strings.Map(func(r rune) rune {
				if r >= 'A' && r <= 'Z' {
					return r + 'a' - 'A'
				}
				return r
			}, s[i:j])
			if j < len(s) && (s[j] == '\'' && (word == "e" || word == "b" || word == "x" || word == "n") || s[j] == '&' && word == "u") {
				return nil, mistake(i, "write a plain string: '…'", "a string with a prefix is not supported")
			}
			out = append(out, token{i, 'w', word})
			i = j
		case c == '"' || c == '\'':
			text, end, ok := quoted(s, i)
			if !ok {
				return nil, mistake(i, "", "a quote is not closed")
			}
			if strings.IndexByte(text, 0) >= 0 {
				return nil, mistake(i, "", "a NUL character cannot be in a value")
			}
			if !utf8.ValidString(text) {
				return nil, mistake(i, "", "this is not UTF-8")
			}
			kind := byte('s')
			if c == '"' {
				kind = 'q'
				if text == "" {
					return nil, mistake(i, "", "a name is empty")
				}
			}
			out = append(out, token{i, kind, text})
			i = end
		case isDigit(c) || c == '.' && i+1 < len(s) && isDigit(s[i+1]):
			j := i
			for j < len(s) && isDigit(s[j]) {
				j++
			}
			if j < len(s) && s[j] == '.' {
				for j++; j < len(s) && isDigit(s[j]); j++ {
				}
			}
			if j < len(s) && (isLetter(s[j]) || s[j] == '.') {
				return nil, mistake(i, "write digits with at most one point", "this is not a number")
			}
			out = append(out, token{i, 'n', s[i:j]})
			i = j
		default:
			op, err := operator(s, i)
			if err != nil {
				return nil, err
			}
			out = append(out, token{i, 'o', op})
			i += len(op)
		}
	}
	return append(out, token{at: len(s)}), nil
}

// quoted reads from a quote on to its match; a doubled quote stands for one.
func quoted(s string, i int) (text string, end int, ok bool) {
	q := s[i]
	var b strings.Builder
	for i++; i < len(s); i++ {
		if s[i] == q {
			if i+1 == len(s) || s[i+1] != q {
				return b.String(), i + 1, true
			}
			i++
		}
		b.WriteByte(s[i])
	}
	return "", 0, false
}

func operator(s string, i int) (string, error) {
	rest := s[i:]
	switch {
	case strings.HasPrefix(rest, "--") || strings.HasPrefix(rest, "/*"):
		return "", mistake(i, "", "comments are not supported")
	case strings.HasPrefix(rest, "::"):
		return "", mistake(i, "leave it out: a constant is read as its column's type", "casts are not supported")
	}
	for _, op := range []string{"<=", ">=", "<>", "!=", "=", "<", ">", "(", ")", ",", "-", "+"} {
		if strings.HasPrefix(rest, op) {
			return op, nil
		}
	}
	_, n := utf8.DecodeRuneInString(rest)
	return "", mistake(i, "a column is compared with constants by = <> < <= > >= IN BETWEEN LIKE or IS", "%q is not supported", rest[:n])
}

// Package predicate reads conditions on rows in a subset of SQL, and decides them on
// the changes of the log as Postgres decides them on the row.
//
// # Language
//
//	severity in ('critical', 'error') and not (host like 'test-%' or bytes between 1 and 100)
//
// AND, OR, NOT and parentheses; a column compared with constants: = <> != < <= > >=,
// [NOT] IN, [NOT] BETWEEN, [NOT] LIKE, IS [NOT] DISTINCT FROM, IS [NOT] NULL, and for a
// boolean column the column alone or IS [NOT] TRUE, FALSE or UNKNOWN. Names without
// double quotes are folded to lower case. A constant is read as its column's type.
//
// What Postgres would decide by something that the log does not carry is refused and
// not guessed: the order of texts (a collation's), patterns without regard to case (a
// locale's), timestamps with time zone without an offset (a session's).
//
// # Answers
//
// Logic has three values, and NULL does not match, as in WHERE. There is a fourth
// answer, Open: the change does not have what is asked for, because it is a deletion
// of which the log has the key only, or a large value that was not sent since it did not
// change. What to do then is the caller's policy.
//
// # Failure
//
// Parse and Compile return an Error with the place in the text. Match cannot fail but
// for a value that is not of its column's type, which is a damaged change.
package predicate

import (
	"fmt"
	"strings"
)

// Error is a mistake in a predicate.
type Error struct {
	At      int    // byte offset in the text
	Message string // what is wrong
	Hint    string // what to write instead, if that can be told
}

func (e *Error) Error() string {
	s := fmt.Sprintf("at character %d: %s", e.At+1, e.Message)
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

func mistake(at int, hint, format string, args ...any) *Error {
	return &Error{At: at, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// Answer to a predicate.
type Answer byte

// The answers.
const (
	False Answer = iota
	True
	Null
	Open // the change does not carry what is asked for
)

// String returns the answer's word.
func (a Answer) String() string {
	return [...]string{"false", "true", "null", "open"}[a]
}

func (a Answer) not() Answer {
	switch a {
	case False:
		return True
	case True:
		return False
	}
	return a
}

func answer(b bool) Answer {
	if b {
		return True
	}
	return False
}

// Predicate is a parsed condition; it knows no table yet.
type Predicate struct {
	text string
	root node
}

// String returns the text that was parsed.
func (p *Predicate) String() string { return p.text }

// Columns returns the names of the columns that it asks for, each once, in order of
// appearance.
func (p *Predicate) Columns() []string {
	var out []string
	seen := map[string]bool{}
	p.root.tests(func(t *test) {
		if !seen[t.column] {
			seen[t.column] = true
			out = append(out, t.column)
		}
	})
	return out
}

// node of the tree.
type node interface {
	tests(func(*test))
}

type (
	// logic is a chain of ANDs or ORs.
	logic struct {
		or    bool
		parts []node
	}
	negation struct{ of node }
	// test asks for one column.
	test struct {
		at     int // of the column's name
		column string
		op     string // =, <>, <, <=, >, >=, in, between, like, null, distinct, true, false, unknown
		not    bool   // NOT IN, NOT LIKE, NOT BETWEEN, IS NOT …
		consts []constant
	}
	constant struct {
		at   int
		kind byte // s: a string, n: a number, b: TRUE or FALSE, 0: NULL
		text string
	}
)

func (n *logic) tests(f func(*test)) {
	for _, p := range n.parts {
		p.tests(f)
	}
}
func (n *negation) tests(f func(*test)) { n.of.tests(f) }
func (t *test) tests(f func(*test))     { f(t) }

// quote writes a name as SQL takes it.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

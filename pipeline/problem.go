package pipeline

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one mistake in a declaration.
type Problem struct {
	File       string `json:"file,omitempty"`
	Line       int    `json:"line,omitempty"`       // from 1; 0: not known
	Column     int    `json:"column,omitempty"`     // from 1, in characters
	Path       string `json:"path,omitempty"`       // sinks[0].lanes
	Message    string `json:"message"`              // what is wrong
	Expected   string `json:"expected,omitempty"`   // what is accepted
	Suggestion string `json:"suggestion,omitempty"` // what was probably meant
}

// String returns file:line:col: path: message; expected …; did you mean "…"?
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		b.WriteByte(':')
	}
	if p.Line > 0 {
		fmt.Fprintf(&b, "%d:%d:", p.Line, p.Column)
	}
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	if p.Path != "" {
		b.WriteString(p.Path)
		b.WriteString(": ")
	}
	b.WriteString(p.Message)
	if p.Expected != "" {
		b.WriteString("; expected ")
		b.WriteString(p.Expected)
	}
	if p.Suggestion != "" {
		fmt.Fprintf(&b, "; did you mean %q?", p.Suggestion)
	}
	return b.String()
}

// Problems are all mistakes of one declaration, in the order of the file. It is
// the error of Parse, Decode and Normalise.
type Problems []Problem

// Error returns one line per problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// sorted returns the problems in the order of the file, each once.
func (ps Problems) sorted() Problems {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return slices.Compact(ps)
}

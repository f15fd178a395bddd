// Package problem is for what the person at the keyboard must change: it says in
// one line what is wrong and how to put it right.
package problem

import (
	"errors"
	"fmt"
)

// Problem is an error of the environment, not of the program.
type Problem struct {
	What string
	Fix  string // may be empty where What says it
	Err  error
}

func (p *Problem) Error() string {
	s := p.What
	if p.Err != nil {
		s += " (" + p.Err.Error() + ")"
	}
	if p.Fix != "" {
		s += ": " + p.Fix
	}
	return s
}

func (p *Problem) Unwrap() error { return p.Err }

// New makes a problem from what is wrong and how to fix it.
func New(fix, format string, args ...any) *Problem {
	return &Problem{What: fmt.Sprintf(format, args...), Fix: fix}
}

// Is tells whether an error is the environment's.
func Is(err error) bool {
	var p *Problem
	return errors.As(err, &p)
}

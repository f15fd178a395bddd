// Package fault is the one error type that crosses package borders in the data
// plane: it has a stable code that users and runbooks can search for, says
// whether trying again can help, and says what to do when it cannot.
//
// An error without a Fault in its chain is taken to be transient (a lost
// connection, a restarted server) and may be retried.
package fault

import (
	"context"
	"errors"
	"fmt"
)

// Code names a condition. Codes are CamelCase, stable, and documented in README.
type Code string

// Error is a named condition. Create it with New or Permanent.
type Error struct {
	Code  Code
	Retry bool   // whether trying again, unchanged, can help
	What  string // the condition, with the object it concerns; never row values or secrets
	Fix   string // what an operator can do; may be empty when Retry is set
	Err   error  // the cause, if any
}

func (e *Error) Error() string {
	s := string(e.Code) + ": " + e.What
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Fix != "" {
		s += " (fix: " + e.Fix + ")"
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is(err, &Error{Code: c}) compare codes.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Transient returns a named condition that may go away by itself.
func Transient(code Code, cause error, format string, args ...any) *Error {
	return &Error{Code: code, Retry: true, What: fmt.Sprintf(format, args...), Err: cause}
}

// Permanent returns a named condition that stays until somebody applies fix.
func Permanent(code Code, cause error, fix, format string, args ...any) *Error {
	return &Error{Code: code, Fix: fix, What: fmt.Sprintf(format, args...), Err: cause}
}

// CodeOf returns the code of the outermost fault in err's chain, or "".
func CodeOf(err error) Code {
	var f *Error
	if errors.As(err, &f) {
		return f.Code
	}
	return ""
}

// Is reports whether err's chain holds a fault with this code.
func Is(err error, code Code) bool { return errors.Is(err, &Error{Code: code}) }

// Ended returns nil while ctx lasts. Afterwards it returns ctx's error, which came
// up while doing what: as it is if somebody cancelled, and as code, a condition
// that may go away, if time ran out. Whoever names a driver's errors asks it
// first: a call that is given up shows as a cancelled query, a closed connection
// or a timeout of its socket, and none of these says anything of the server.
func Ended(ctx context.Context, code Code, what string) error {
	err := ctx.Err()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", what, err)
	}
	return Transient(code, err, "%s: no answer in time", what)
}

// Retryable reports whether trying again can help. Cancellation is not a
// failure to be retried; unknown errors are.
func Retryable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	var f *Error
	if errors.As(err, &f) {
		return f.Retry
	}
	return true
}

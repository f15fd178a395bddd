// Package pgtext reads the text forms in which Postgres sends values: the COPY
// text stream, arrays, numbers, dates and times, bytea, uuid, bit strings,
// hstore and ranges. The session's settings are taken to be DateStyle ISO,
// IntervalStyle postgres, bytea_output hex, time zone UTC. An interval is not
// read: its text is already the exact and shortest form.
//
// It is pure, keeps every digit, and allocates nothing per value: results point
// into the input or into buffers that the caller reuses.
//
// # Failure
//
// An Error names the form and the offset of the byte that does not fit, and
// never the bytes themselves, since they are row data. It is never worth a
// retry: the same text fails again.
package pgtext

import "strconv"

// Error says that a text is not of its form.
type Error struct {
	Form string // what was expected: numeric, array, COPY row, …
	Off  int    // offset of the offending byte in the text
	Why  string // never holds bytes of the text
}

func (e *Error) Error() string {
	return e.Form + ": " + e.Why + " at byte " + strconv.Itoa(e.Off)
}

func bad(form string, off int, why string) error { return &Error{Form: form, Off: off, Why: why} }

// Class tells finite values from the others that some types have.
type Class byte

// The classes.
const (
	Finite      Class = iota
	Infinity          // 'infinity', 'Infinity'
	NegInfinity       // '-infinity'
	NaN               // numeric only
)

func isDigit(c byte) bool { return c-'0' <= 9 }

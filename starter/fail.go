package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/dataplane/fault"
	"syncline/pipeline"
	"syncline/starter/view"
)

// The exit codes; see the package comment.
const (
	exitOK           = 0
	exitFailed       = 1
	exitInvalid      = 2
	exitUnreachable  = 3
	exitDifferent    = 4
	exitInconclusive = 5
)

// exitError carries the exit code of an error.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func invalid(format string, args ...any) error {
	return &exitError{exitInvalid, fmt.Errorf(format, args...)}
}

func unreachable(format string, args ...any) error {
	return &exitError{exitUnreachable, fmt.Errorf(format, args...)}
}

func failed(format string, args ...any) error {
	return &exitError{exitFailed, fmt.Errorf(format, args...)}
}

// errSilent: everything was said already.
var errSilent = errors.New("failed")

func exitCode(err error) int {
	var e *exitError
	var ps pipeline.Problems
	switch {
	case errors.As(err, &e):
		return e.code
	case errors.As(err, &ps):
		return exitInvalid
	}
	return exitFailed
}

// failure is the JSON form of an error.
type failure struct {
	Error    string            `json:"error"`
	Code     string            `json:"code,omitempty"`
	Exit     int               `json:"exit"`
	Problems pipeline.Problems `json:"problems,omitempty"`
}

// report prints an error the way the output is wanted, and returns the exit code.
func (t *tool) report(err error) int {
	err = t.explain(err)
	code := exitCode(err)
	if errors.Is(err, errSilent) {
		return code
	}
	var ps pipeline.Problems
	if t.json {
		t.reportJSON(t.out, err)
	} else if errors.As(err, &ps) {
		s := t.errStyle()
		for _, p := range ps {
			fmt.Fprintln(t.err, s.Paint("31", "✗")+" "+p.String())
		}
		in := "declaration"
		var m *mistaken
		if errors.As(err, &m) {
			in = m.in
		}
		fmt.Fprintf(t.err, "starter: %s in the %s\n", view.Plural(len(ps), "mistake"), in)
	} else {
		fmt.Fprintln(t.err, "starter:", err)
	}
	return code
}

func (t *tool) reportJSON(w io.Writer, err error) {
	out := failure{Error: err.Error(), Exit: exitCode(err)}
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		out.Code = app.Type()
	} else {
		out.Code = string(fault.CodeOf(err))
	}
	errors.As(err, &out.Problems)
	_ = json.NewEncoder(w).Encode(out)
}

// explain gives Temporal's errors the words and the exit code of the tool.
func (t *tool) explain(err error) error {
	var done *exitError
	var app *temporal.ApplicationError
	switch {
	case errors.As(err, &done):
		return err
	case errors.As(err, &app):
		return &plain{view.Said(app.Type(), app.Message()), err}
	case errors.Is(err, context.Canceled):
		return failed("interrupted; what was begun goes on in the workers")
	}
	if text := t.away(err); text != "" {
		return &exitError{exitUnreachable, &plain{text, err}}
	}
	var missing *serviceerror.NotFound
	var gone *temporal.CanceledError
	var ended *temporal.TerminatedError
	switch {
	case errors.As(err, &missing):
		return failed("the workflow has ended meanwhile (fix: starter status tells how)")
	case errors.As(err, &gone), errors.As(err, &ended):
		return failed("somebody cancelled or terminated the workflow (fix: see its page in Temporal's Web UI, then run the command again)")
	}
	return err
}

// away says what cannot be reached, and "" of errors that have another reason.
func (t *tool) away(err error) string {
	var late *serviceerror.DeadlineExceeded
	refusal := ""
	if t.at.Address != "" { // somebody has tried to connect
		refusal = t.at.Refusal(context.Background(), err)
	}
	var lateUpdate *client.WorkflowUpdateServiceTimeoutOrCanceledError
	var timeout *temporal.TimeoutError
	var down *serviceerror.Unavailable
	var namespace *serviceerror.NamespaceNotFound
	var idle *serviceerror.FailedPrecondition
	var unready *serviceerror.WorkflowNotReady
	switch {
	case errors.As(err, &namespace):
		return fmt.Sprintf("Temporal at %s has no namespace %q (fix: create it, or name another with --namespace or SYNCLINE_TEMPORAL_NAMESPACE)", t.address, t.namespace)
	case refusal != "":
		return refusal
	case errors.As(err, &down):
		return fmt.Sprintf("Temporal at %s does not answer: %s (fix: start it, or say where it is with --address or SYNCLINE_TEMPORAL_ADDRESS)", t.address, short(down.Message))
	case errors.As(err, &late), errors.As(err, &lateUpdate), errors.As(err, &timeout), errors.As(err, &idle), errors.As(err, &unready),
		errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer in time: %s (fix: see that a worker with the role control runs on task queue %s and what it logs; what was asked may still take effect, starter status tells)",
			short(err.Error()), t.controlQueue())
	}
	return ""
}

// short takes gRPC's decoration off.
func short(s string) string {
	s = strings.TrimPrefix(s, "failed reaching server: ")
	if _, desc, ok := strings.Cut(s, "desc = "); ok {
		s = strings.Trim(desc, `"`)
	}
	return strings.TrimPrefix(s, "transport: ")
}

func (t *tool) controlQueue() string { return contract.Queue(t.queue, contract.Control) }

// plain shows an error in words of its own.
type plain struct {
	text string
	err  error
}

func (p *plain) Error() string { return p.text }
func (p *plain) Unwrap() error { return p.err }

// Command starter is the command-line tool of Syncline. It reads declarations,
// starts and steers the workflows of pipelines, and shows what they do. It
// connects to Temporal only: databases, Kafka and secrets are the workers'.
//
// # Exit codes
//
//	0  it worked
//	1  it failed: the operation was refused, or ended with an error
//	2  invalid input: flags, arguments or the declaration
//	3  the environment cannot be reached: Temporal, or no worker answers
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"syncline/pipeline"
)

// The exit codes; see the package comment.
const (
	exitOK          = 0
	exitFailed      = 1
	exitInvalid     = 2
	exitUnreachable = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, newTool(os.Stdout, os.Stderr), os.Args[1:])
	stop()
	os.Exit(code)
}

// run is main for tests.
func run(ctx context.Context, t *tool, args []string) int {
	root := t.command()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	t.close()
	if err == nil {
		return exitOK
	}
	return t.report(err)
}

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

// Command starter is the command-line tool of Syncline. It reads declarations,
// starts and steers the workflows of pipelines, and shows what they do. It
// connects to Temporal only: databases, Kafka and secrets are the workers'.
//
// # Output
//
// Text for people by default. With --json exactly one JSON object goes to
// standard output, also when the command fails; status --watch prints one
// object a line. Colour and bars appear on a terminal only, and not with NO_COLOR.
//
// # Exit codes
//
//	0  it worked
//	1  it failed: the operation was refused, or ended with an error
//	2  invalid input: flags, arguments or the declaration
//	3  the environment cannot be reached: Temporal, or no worker answers
//	4  verify: a table differs from the source; replay: from the live one; repair: a key
//	   could not be repaired; audit-trail verify: a trail is broken
//	5  verify: no table differs, and of some it could not be told
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, newTool(os.Stdin, os.Stdout, os.Stderr), os.Args[1:])
	stop()
	os.Exit(code)
}

// run is main for tests.
func run(ctx context.Context, t *tool, args []string) int {
	t.json = wantsJSON(args)
	root := t.command()
	root.SetArgs(append([]string{}, args...)) // nil would mean os.Args
	err := root.ExecuteContext(ctx)
	t.close()
	if err == nil {
		return exitOK
	}
	return t.report(err)
}

// wantsJSON looks ahead: an error in the flags must be reported as they ask,
// although parsing stopped at it.
func wantsJSON(args []string) bool {
	for _, a := range args {
		switch a {
		case "--json", "--json=true":
			return true
		case "--":
			return false
		}
	}
	return false
}

// Command devstack runs the servers that Syncline works with on one machine,
// without containers: Temporal with its Web UI, Kafka, ClickHouse, a source and
// a sink Postgres, and Vault if wanted.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"syncline/devstack/internal/problem"
)

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitEnvironment = 3
)

// usageError is a mistake in the command line.
type usageError struct{ error }

// exitError ends with a code and says nothing more.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := execute(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	// Not by return: the engine of ClickHouse, if loaded, cannot be unloaded.
	os.Exit(code)
}

func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := run(ctx, args, stdout, stderr)
	var usage usageError
	var code exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "devstack: %v\n", err)
		return exitUsage
	case problem.Is(err):
		fmt.Fprintf(stderr, "devstack: %s\n", oneLine(err))
		return exitEnvironment
	default:
		fmt.Fprintf(stderr, "devstack: %s\n", oneLine(err))
		return exitFailed
	}
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return usageError{errors.New("say what to do: up, down, status, start, stop, kill or restart (devstack help)")}
	}
	verb, rest := args[0], args[1:]
	switch verb {
	case "up":
		return up(ctx, rest, stdout, stderr)
	case "down":
		return down(ctx, rest, stdout)
	case "status":
		return status(ctx, rest, stdout)
	case "start", "stop", "kill", "restart":
		return control(ctx, verb, rest, stdout)
	case "prepare":
		return prepare(ctx, rest, stderr)
	case "serve":
		return serve(ctx, rest, stderr)
	case "help", "-h", "--help":
		fmt.Fprint(stdout, help)
		return nil
	}
	return usageError{fmt.Errorf("unknown command %q: use up, down, status, start, stop, kill or restart", verb)}
}

const help = `devstack runs Temporal, Kafka, ClickHouse and two Postgres servers on this machine.

  devstack up [flags]          start all, print addresses, stay until Ctrl-C
      --data DIR               folder for data and logs (.devstack)
      --detach                 return when all services answer
      --env-file FILE          write the environment as export lines
      --kafka embedded|apache  which broker (embedded)
      --postgres 15|16|17      which version (15)
      --fsync=false            Postgres without durability, for speed
      --vault                  run Vault too
      --ports-base N           first of the block of ports (27000)
      --temporal-port N ...    also ui, metrics, source, sink, kafka, kafka-secured, kafka-mutual, controller,
                           clickhouse, clickhouse-native, vault, vault-tls, prometheus
  devstack status [--data DIR] [--json] [--env]
  devstack down [--data DIR]   stop it; data stay
  devstack kill|start|stop|restart SERVICE [--data DIR]
  devstack prepare [--kafka apache] [--vault] [--postgres N]   fetch and build only

Exit codes: 0 done, 1 failed, 2 wrong command line, 3 something on this machine must change first.
Built and fetched programs are kept in SYNCLINE_CACHE, or syncline in the user's cache folder.
`

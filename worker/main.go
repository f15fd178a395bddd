// Command worker does the work of Syncline's pipelines. It is configured by its
// environment alone (see README), takes on any of four roles, and can be killed
// at any moment: another worker goes on from what sinks, Kafka and slots hold.
//
//	worker               run
//	worker codec-server  decrypt payloads for Temporal's Web UI and command-line tool
//	worker probe         ask the running worker's /healthz; exit code 0 if it is green
//	worker version       print the version
//
// Exit codes: 0 stopped, 1 failed, 2 mistakes in the environment, 3 Temporal refuses
// the connection. That Temporal is not there yet is waited for.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"go.uber.org/zap"

	"syncline/activities/observe"
	"syncline/worker/config"
)

func main() {
	if len(os.Args) > 1 {
		os.Exit(command(os.Args[1]))
	}
	os.Exit(serve())
}

func command(name string) int {
	switch name {
	case "probe":
		c, err := config.Load(os.Environ())
		if err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			err = observe.Probe(ctx, c.HTTPAddr, "/healthz")
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "worker:", err)
			return 1
		}
		return 0
	case "codec-server":
		return serveCodec()
	case "version":
		fmt.Println("syncline worker", version())
		return 0
	}
	fmt.Fprintf(os.Stderr, "worker: unknown command %q; want none, codec-server, probe or version\n", name)
	return 2
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return info.Main.Version
}

func serve() int {
	c, err := config.Load(os.Environ())
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		return 2
	}
	host, _ := os.Hostname()
	identity := fmt.Sprintf("%s/%d", host, os.Getpid())
	// A core file would have every password that the worker has in memory.
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		fmt.Fprintln(os.Stderr, "worker: core files cannot be ruled out:", err)
	}
	log := observe.NewLogger(os.Stderr, c.LogLevel, zap.String("worker", identity), zap.String("build", c.BuildID))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c, identity, log); err != nil {
		log.Error("worker ended", zap.Error(err))
		var r *refused
		if errors.As(err, &r) {
			return 3
		}
		return 1
	}
	return 0
}

// Command demo shows a pipeline at work on this machine: it starts the servers
// of the development stack and two workers, seeds a shop, applies
// examples/shop.yaml, shows the load and then the stream under a steady load of
// changes, and checks that both sinks equal the source.
//
// With --incident it plays another piece: payments of two databases diverge, which a
// scheduled audit finds and a repair mends; the report is in the data folder.
//
// It stays up until it is interrupted; with --once it ends by itself, with exit
// code 0 only if everything matched. Whatever goes wrong, nothing is left running.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"
)

type options struct {
	once     bool
	incident bool
	build    string // folder with devstack, worker and starter
	data     string
	pipeline string
	scale    float64
	rate     float64
	stream   time.Duration // under load, before the check
	kafka    string
}

func main() {
	var o options
	flag.BoolVar(&o.once, "once", false, "end after the check")
	flag.BoolVar(&o.incident, "incident", false, "play an incident instead: rows diverge, are found and repaired, and a report is written")
	flag.StringVar(&o.build, "build", ".build", "folder with the built programs")
	flag.StringVar(&o.data, "data", ".data/demo", "folder for the servers' data and all logs; emptied at the start")
	flag.StringVar(&o.pipeline, "pipeline", "examples/shop.yaml", "declaration")
	flag.Float64Var(&o.scale, "scale", 1, "size of the shop; 1 has a million rows in its largest table")
	flag.Float64Var(&o.rate, "rate", 1000, "changed rows per second")
	flag.DurationVar(&o.stream, "stream", 20*time.Second, "how long to stream under load before the check")
	flag.StringVar(&o.kafka, "kafka", "embedded", "embedded or apache")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "demo: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	d := &demo{o: o, terminal: term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == ""}
	run := d.run
	if o.incident {
		run = d.incident
	}
	err := run(ctx)
	d.stop()
	switch {
	case err == nil:
	case errors.Is(err, errEnvironment):
		os.Exit(3) // the devstack has said what is wrong
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "demo: interrupted")
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

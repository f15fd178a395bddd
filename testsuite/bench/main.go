// Command bench measures Syncline against peers on the same servers, in the same
// run, and prints ratios: figures of one machine say little on another.
//
//	testsuite/with-stack go run ./testsuite/bench            all
//	testsuite/with-stack go run ./testsuite/bench -run drain one of them
//
// Runs alternate between peer and Syncline, rows are counted at the sink, and
// the spread of the peer's own runs is shown as noise: a difference within it
// is none.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
)

// figure is one line of the result.
type figure struct {
	Name  string
	Value string
	Note  string
}

type benchmark struct {
	name string
	what string
	run  func(context.Context, *bench) ([]figure, error)
}

var benchmarks = []benchmark{
	{"snapshot-postgres", "load of a table into Postgres, against one COPY (binary) | COPY pipe", snapshotPostgres},
	{"snapshot-clickhouse", "load of a table into ClickHouse, against its own postgresql() function", snapshotClickHouse},
	{"drain", "a backlog of pgbench changes, against pg_recvlogical and native logical replication", drain},
	{"lag", "commit to visible at a steady rate, and the gap when the delivering worker is killed", lag},
	{"instrumentation", "what recording costs: a backlog with and without it, and bytes in analytics", instrumentation},
	{"accounting", "what part of a worker's CPU goes into analytics, metrics and counting bytes", accounting},
	{"verification", "digests of a million rows by engine, and planted errors found while rows change", verification},
	{"compression", "bytes on the wire for a row of telemetry, by the size of batches and codec", compression},
	{"telemetry", "telemetry from region to region by different policies: bytes, their price, and freshness", telemetry},
	{"memory", "peak memory of a worker during one large transaction", memory},
}

// bench has the sizes of a run.
type bench struct {
	build   string
	logs    string // folder to keep the workers' logs in; empty: none
	runs    int
	rows    int   // of a snapshot's table
	changes int   // of a backlog
	rate    int   // changes per second
	seconds int   // of the lag's measurement
	large   int64 // rows of the large transaction
	price   float64
	drawn   string // file of the chart
}

func (b *bench) level() string {
	if b.logs == "" {
		return "warn"
	}
	return "info"
}

func main() {
	b := &bench{}
	only := flag.String("run", ".", "benchmarks to run, a regular expression")
	flag.StringVar(&b.build, "build", ".build", "folder with the built worker")
	flag.StringVar(&b.logs, "logs", "", "folder to keep the workers' logs in")
	flag.IntVar(&b.runs, "runs", 3, "runs of each side")
	flag.IntVar(&b.rows, "rows", 2_000_000, "rows of the snapshots' table")
	flag.IntVar(&b.changes, "changes", 300_000, "changes of the backlog")
	flag.IntVar(&b.rate, "rate", 1000, "changes per second of the lag's load")
	flag.IntVar(&b.seconds, "seconds", 30, "how long the lag is measured")
	flag.Int64Var(&b.large, "large", 5_000_000, "rows of the large transaction")
	flag.Float64Var(&b.price, "price", 0.02, "price of a GB (10^9 bytes) from region to region, of the telemetry")
	flag.StringVar(&b.drawn, "chart", ".data/telemetry.html", "file for the chart of the telemetry")
	flag.Parse()
	match, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: -run:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failed := false
	for _, bm := range benchmarks {
		if !match.MatchString(bm.name) {
			continue
		}
		fmt.Printf("\n%s: %s\n", bm.name, bm.what)
		figures, err := bm.run(ctx, b)
		for _, f := range figures {
			fmt.Printf("  %-46s %-22s %s\n", f.Name, f.Value, f.Note)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", bm.name, err)
			failed = true
		}
	}
	if failed {
		stop()
		os.Exit(1)
	}
}

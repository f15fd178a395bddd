package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/pipeline"
	"syncline/testsuite/check"
)

// instrumentation times the same backlog with what records it turned off, on, and
// on while each of its servers is away; and measures what a steady load leaves in analytics.
func instrumentation(ctx context.Context, b *bench) ([]figure, error) {
	r, err := b.rig(ctx, "instrumentation")
	if err != nil {
		return nil, err
	}
	defer r.close()
	database, drop, err := r.analytics(ctx)
	if err != nil {
		return nil, err
	}
	defer drop()
	closed, err := closedPort()
	if err != nil {
		return nil, err
	}
	on := []string{"SYNCLINE_ANALYTICS=env:BENCH_CLICKHOUSE", "SYNCLINE_ANALYTICS_DATABASE=" + database}
	away := []string{"BENCH_AWAY=http://default@" + closed, "SYNCLINE_ANALYTICS=env:BENCH_AWAY"}
	q, err := r.queued(ctx)
	if err != nil {
		return nil, err
	}
	defer q.close()
	figures, err := q.compare(ctx, []variant{
		{name: "backlog → Postgres, nothing recorded"},
		{name: "the same, recording into ClickHouse", env: on},
		{name: "the same, while ClickHouse is away", env: away},
		{name: "the same, traced, while the collector is away", env: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + closed}},
	})
	if err != nil {
		return nil, err
	}
	more, err := r.stored(ctx, q.worker, q.name, database, on)
	return append(figures, more...), err
}

// analytics makes room for what workers record, in a database of the rig.
func (r *rig) analytics(ctx context.Context) (database string, drop func(), err error) {
	database = "bench_" + r.name + "_analytics"
	_, err = r.clickhouseQuery(ctx, "DROP DATABASE IF EXISTS "+database)
	return database, func() {
		_, _ = r.clickhouseQuery(context.WithoutCancel(ctx), "DROP DATABASE IF EXISTS "+database)
	}, err
}

// variant is a worker's environment, and what it took with it.
type variant struct {
	name string
	env  []string
	took []time.Duration
	cpu  []time.Duration // of the worker, while it got through the backlog
}

// queue is a pipeline from pgbench to Postgres that gets through backlogs.
type queue struct {
	r      *rig
	name   string
	led    sink.Sink
	worker *exec.Cmd
}

func (r *rig) queued(ctx context.Context, env ...string) (*queue, error) {
	if err := program(ctx, "pgbench", "-q", "-i", "-s", "10", r.source); err != nil {
		return nil, err
	}
	w, err := r.worker(env...)
	if err != nil {
		return nil, err
	}
	spec, err := r.spec([]string{pipeline.SinkPostgres}, pipeline.Tables{Include: []string{"public.pgbench_*"},
		Options: []pipeline.TableOption{{Match: "public.pgbench_history", AppendOnly: new(true)}}})
	if err != nil {
		return nil, err
	}
	if err := r.apply(ctx, spec); err != nil {
		return nil, err
	}
	led, err := r.ledger(pipeline.SinkPostgres, spec.Name)
	return &queue{r, spec.Name, led, w}, err
}

func (q *queue) close() { _ = q.led.Close() }

// fill pauses the pipeline and makes a backlog for it, of so many changes.
func (q *queue) fill(ctx context.Context) (changes int, err error) {
	const clients, perTransaction = 4, 4
	if err := q.r.update(ctx, q.name, contract.PauseUpdate); err != nil {
		return 0, err
	}
	each := q.r.b.changes / perTransaction / clients
	return each * clients * perTransaction, program(ctx, "pgbench", "-n", "-c", fmt.Sprint(clients), "-t", fmt.Sprint(each), q.r.source)
}

// compare times the same backlog with each of the variants in turn; the first is what
// the others are compared with.
func (q *queue) compare(ctx context.Context, variants []variant) ([]figure, error) {
	r := q.r
	changes := 0
	for run := range r.b.runs {
		for i := range variants {
			v := &variants[(i+run)%len(variants)] // tables grow from one to the next
			var err error
			if changes, err = q.fill(ctx); err != nil {
				return nil, err
			}
			if q.worker, err = r.instead(q.worker, v.env...); err != nil {
				return nil, err
			}
			end, err := (&check.Postgres{DSN: r.source, Source: true}).Position(ctx)
			if err != nil {
				return nil, err
			}
			before, err := cpuTime(q.worker.Process.Pid)
			if err != nil {
				return nil, err
			}
			d, err := r.resumed(ctx, q.name, q.led, end)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", v.name, err)
			}
			after, err := cpuTime(q.worker.Process.Pid)
			if err != nil {
				return nil, err
			}
			v.took, v.cpu = append(v.took, d), append(v.cpu, after-before)
		}
	}
	base, cpu := median(variants[0].took), median(variants[0].cpu)
	figures := []figure{{variants[0].name, perSecond(changes, base), fmt.Sprintf("noise ±%.0f %%; the worker's CPU %.2f s, noise ±%.1f %%", spread(variants[0].took)/2, cpu.Seconds(), spread(variants[0].cpu)/2)}}
	for _, v := range variants[1:] {
		figures = append(figures, figure{v.name, perSecond(changes, median(v.took)), fmt.Sprintf("ratio %.3f (best of each %.3f); the worker's CPU %+.1f %%", base.Seconds()/median(v.took).Seconds(), slices.Min(variants[0].took).Seconds()/slices.Min(v.took).Seconds(), 100*(median(v.cpu).Seconds()/cpu.Seconds()-1))})
	}
	return figures, nil
}

// instead stops a worker and starts another.
func (r *rig) instead(w *exec.Cmd, env ...string) (*exec.Cmd, error) {
	_ = w.Process.Signal(syscall.SIGTERM)
	_ = w.Wait() // its code says nothing here
	r.workers = slices.DeleteFunc(r.workers, func(c *exec.Cmd) bool { return c == w })
	return r.worker(env...)
}

// resumed times a paused pipeline until it has come to a position.
func (r *rig) resumed(ctx context.Context, name string, led check.Ledger, end change.LSN) (time.Duration, error) {
	at := time.Now()
	if err := r.update(ctx, name, contract.ResumeUpdate); err != nil {
		return 0, err
	}
	err := check.Await(ctx, pipeline.SinkPostgres, led, end)
	return time.Since(at), err
}

// cpuTime is what a process has used: clock ticks are hundredths of a second.
func cpuTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ") // behind the name, which may hold anything
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	var ticks int64
	for _, x := range f[11:13] { // user and system
		n, err := strconv.ParseInt(x, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// stored measures the tables after a steady load.
func (r *rig) stored(ctx context.Context, w *exec.Cmd, name, database string, on []string) ([]figure, error) {
	if _, err := r.clickhouseQuery(ctx, "DROP DATABASE IF EXISTS "+database); err != nil {
		return nil, err
	}
	w, err := r.instead(w, on...)
	if err != nil {
		return nil, err
	}
	if err := program(ctx, "pgbench", "-n", "-R", strconv.Itoa(r.b.rate/4), "-T", strconv.Itoa(r.b.seconds*2), r.source); err != nil {
		return nil, err
	}
	if err := r.update(ctx, name, contract.PauseUpdate); err != nil {
		return nil, err
	}
	if _, err := r.instead(w, on...); err != nil { // the first hands over what it holds
		return nil, err
	}
	q := func(sql string) (float64, error) {
		text, err := r.clickhouseQuery(ctx, sql)
		if err != nil {
			return 0, err
		}
		return strconv.ParseFloat(text, 64)
	}
	changes, err := q("SELECT sum(changes) FROM " + database + ".lag")
	if err != nil || changes == 0 {
		return nil, fmt.Errorf("nothing was recorded: %w", err)
	}
	tables, err := r.clickhouseQuery(ctx, "SELECT name FROM system.tables WHERE database = '"+database+"' AND engine LIKE '%MergeTree'")
	if err != nil {
		return nil, err
	}
	for t := range strings.FieldsSeq(tables) {
		if _, err := r.clickhouseQuery(ctx, "OPTIMIZE TABLE "+database+"."+t+" FINAL"); err != nil {
			return nil, err
		}
	}
	size := "SELECT sum(data_compressed_bytes) FROM system.parts WHERE active AND database = '" + database + "'"
	all, err := q(size)
	if err != nil {
		return nil, err
	}
	hourly, err := q(size + " AND table LIKE '%_hourly'")
	if err != nil {
		return nil, err
	}
	return []figure{{fmt.Sprintf("analytics at %d changes/s to one sink", r.b.rate), fmt.Sprintf("%.0f KiB", (all-hourly)/changes*1e6/1024),
		fmt.Sprintf("per million changes, kept 14 days; hourly rollups %.1f KiB for the hour, kept a year", hourly/1024)}}, nil
}

// closedPort is an address where nobody listens.
func closedPort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

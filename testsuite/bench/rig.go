package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/jackc/pgx/v5"

	"syncline/activities/contract"
	"syncline/dataplane/sink"
	chsink "syncline/dataplane/sink/clickhouse"
	pgsink "syncline/dataplane/sink/postgres"
	"syncline/pipeline"
	"syncline/secrets"
)

// rig is what one benchmark works with: databases of its own and workers.
type rig struct {
	b            *bench
	name         string
	source, sink string // DSNs of databases of this rig
	clickhouse   string
	tc           client.Client
	queue        string
	dir          string
	workers      []*exec.Cmd
	undo         []func()
}

func need(name string) (string, error) {
	if v := os.Getenv(name); v != "" {
		return v, nil
	}
	return "", fmt.Errorf("%s is not set: run this through testsuite/with-stack", name)
}

func (b *bench) rig(ctx context.Context, name string) (_ *rig, err error) {
	r := &rig{b: b, name: name, queue: fmt.Sprintf("bench-%s-%d", name, os.Getpid())}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	for _, v := range []struct {
		env string
		dsn *string
	}{{"SYNCLINE_SOURCE_DSN", &r.source}, {"SYNCLINE_SINK_DSN", &r.sink}} {
		server, err := need(v.env)
		if err != nil {
			return nil, err
		}
		db := "bench_" + name
		if err := r.exec(ctx, server, "DROP DATABASE IF EXISTS "+db+" WITH (FORCE)", "CREATE DATABASE "+db); err != nil {
			return nil, err
		}
		u, err := url.Parse(server)
		if err != nil {
			return nil, err
		}
		u.Path = "/" + db
		*v.dsn = u.String()
	}
	if r.clickhouse, err = need("SYNCLINE_CLICKHOUSE_URL"); err != nil {
		return nil, err
	}
	temporal, err := need("SYNCLINE_TEMPORAL_ADDRESS")
	if err != nil {
		return nil, err
	}
	if r.dir, err = os.MkdirTemp(b.logs, "syncline-bench-"+name+"-"); err != nil {
		return nil, err
	}
	if b.logs == "" {
		r.undo = append(r.undo, func() { _ = os.RemoveAll(r.dir) })
	}
	r.tc, err = client.DialContext(ctx, client.Options{HostPort: temporal, Logger: silent{}})
	return r, err
}

func (r *rig) close() {
	for _, w := range r.workers {
		_ = w.Process.Signal(syscall.SIGTERM)
	}
	for _, w := range r.workers {
		_ = w.Wait()
	}
	for _, f := range slices.Backward(r.undo) {
		f()
	}
	if r.tc != nil {
		r.tc.Close()
	}
}

// worker starts one worker process; env overrides.
func (r *rig) worker(env ...string) (*exec.Cmd, error) {
	log, err := os.Create(filepath.Join(r.dir, fmt.Sprintf("worker-%d.log", len(r.workers))))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(r.b.build, "worker"))
	cmd.Env = append(os.Environ(), "SYNCLINE_TASK_QUEUE_PREFIX="+r.queue, "SYNCLINE_HTTP_ADDR=127.0.0.1:0", "SYNCLINE_LOG_LEVEL="+r.b.level(),
		"SYNCLINE_SPILL_DIR="+filepath.Join(r.dir, "spill"), "BENCH_SOURCE="+r.source, "BENCH_SINK="+r.sink, "BENCH_CLICKHOUSE="+r.clickhouse)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a worker (make build makes it): %w", err)
	}
	r.workers = append(r.workers, cmd)
	return cmd, nil
}

// spec is a pipeline between the rig's databases.
func (r *rig) spec(sinks []string, tables pipeline.Tables) (pipeline.Spec, error) {
	brokers, err := need("SYNCLINE_KAFKA_BROKERS")
	if err != nil {
		return pipeline.Spec{}, err
	}
	s := pipeline.Spec{
		Version: 1, Name: "bench-" + strings.ReplaceAll(r.name, "_", "-"),
		Source: pipeline.Source{Type: "postgres", DSN: secrets.MustParseRef("env:BENCH_SOURCE")},
		Kafka:  pipeline.Kafka{Brokers: strings.Split(brokers, ","), TopicPrefix: r.queue + "."},
		Tables: tables,
	}
	for _, k := range sinks {
		switch k {
		case pipeline.SinkPostgres:
			s.Sinks = append(s.Sinks, pipeline.Sink{Name: k, Type: k, DSN: secrets.MustParseRef("env:BENCH_SINK")})
		case pipeline.SinkClickHouse:
			s.Sinks = append(s.Sinks, pipeline.Sink{Name: k, Type: k, DSN: secrets.MustParseRef("env:BENCH_CLICKHOUSE"), Schema: "bench_" + r.name})
		}
	}
	return s, s.Normalise()
}

// ledger opens a sink to read its ledger.
func (r *rig) ledger(kind, name string) (sink.Sink, error) {
	if kind == pipeline.SinkPostgres {
		return pgsink.Open(pgsink.Config{DSN: r.sink, Pipeline: name})
	}
	return chsink.Open(chsink.Config{DSN: r.clickhouse, Pipeline: name})
}

func (r *rig) options(id string) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{ID: id, TaskQueue: contract.Queue(r.queue, contract.Control),
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING}
}

// apply starts a pipeline and waits until every table is delivered.
func (r *rig) apply(ctx context.Context, s pipeline.Spec) error {
	id := contract.PipelineID(s.Name)
	if _, err := r.tc.ExecuteWorkflow(ctx, r.options(id), contract.PipelineWorkflow, contract.PipelineInput{Spec: s}); err != nil {
		return err
	}
	r.undo = append(r.undo, func() { _ = r.tc.TerminateWorkflow(context.Background(), id, "", "bench is over") })
	if err := r.update(ctx, s.Name, contract.ApplyUpdate, s); err != nil {
		return err
	}
	return r.phase(ctx, s.Name, contract.Streaming)
}

func (r *rig) update(ctx context.Context, name, update string, args ...any) error {
	h, err := r.tc.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{WorkflowID: contract.PipelineID(name), UpdateName: update, Args: args, WaitForStage: client.WorkflowUpdateStageCompleted})
	if err != nil {
		return err
	}
	return h.Get(ctx, nil)
}

func (r *rig) phase(ctx context.Context, name string, want contract.Phase) error {
	for {
		v, err := r.tc.QueryWorkflow(ctx, contract.PipelineID(name), "", contract.StatusQuery)
		if err != nil {
			return err
		}
		var st contract.PipelineStatus
		if err := v.Get(&st); err != nil {
			return err
		}
		if st.Phase == want {
			return nil
		}
		if st.Phase == contract.Degraded || st.Phase == contract.SetupFailed {
			return fmt.Errorf("pipeline %s is %s: %+v", name, st.Phase, st.Failure)
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// destroy ends a pipeline and removes what it made at the source and in Kafka.
func (r *rig) destroy(ctx context.Context, name string) error {
	return r.update(ctx, name, contract.DestroyUpdate, contract.DestroyInput{})
}

func (r *rig) exec(ctx context.Context, dsn string, statements ...string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			return fmt.Errorf("%.60s…: %w", s, err)
		}
	}
	return nil
}

func (r *rig) value(ctx context.Context, dsn, query string, into ...any) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	return conn.QueryRow(ctx, query).Scan(into...)
}

// program runs one of the programs of Postgres, or a shell.
func program(ctx context.Context, name string, args ...string) error {
	if dir := os.Getenv("SYNCLINE_PG_BINDIR"); dir != "" {
		if p := filepath.Join(dir, name); exists(p) {
			name = p
		}
	}
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(name), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func exists(p string) bool { _, err := os.Stat(p); return err == nil }

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// peakMiB is the largest resident size that a process has had.
func peakMiB(pid int) (float64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(v)[0], 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("no VmHWM in /proc")
}

func median(ds []time.Duration) time.Duration {
	s := slices.Clone(ds)
	slices.Sort(s)
	return s[len(s)/2]
}

// spread is how far apart runs of the same thing are, in percent of their median.
func spread(ds []time.Duration) float64 {
	return 100 * float64(slices.Max(ds)-slices.Min(ds)) / float64(median(ds))
}

// quantile of sorted values.
func quantile(s []time.Duration, q float64) time.Duration {
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

func perSecond(n int, d time.Duration) string {
	return fmt.Sprintf("%.1fk/s", float64(n)/d.Seconds()/1000)
}

type silent struct{}

func (silent) Debug(string, ...any) {}
func (silent) Info(string, ...any)  {}
func (silent) Warn(string, ...any)  {}
func (silent) Error(string, ...any) {}

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"

	"syncline/pipeline"
	"syncline/starter/view"
	"syncline/testsuite/shop"
)

// errEnvironment: the devstack cannot run here, and has said why.
var errEnvironment = errors.New("the development stack did not start")

// workerPorts are where the two workers serve metrics and health.
var workerPorts = []int{9464, 9465}

type demo struct {
	o        options
	terminal bool
	env      []string // of the programs
	up       bool     // the devstack was started
	workers  []*exec.Cmd
	step     int
}

func (d *demo) say(format string, args ...any) {
	d.step++
	fmt.Printf("[%d] %s\n", d.step, fmt.Sprintf(format, args...))
}

func (d *demo) program(name string) string { return filepath.Join(d.o.build, name) }

func (d *demo) run(ctx context.Context) error {
	begun := time.Now()
	for _, p := range workerPorts {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			return fmt.Errorf("port %d, for a worker's metrics, is taken: stop what listens there (%w)", p, err)
		}
		_ = l.Close()
	}
	d.say("starting Temporal, Kafka, ClickHouse and two Postgres servers (the first time, this builds them)")
	if err := d.startStack(ctx); err != nil {
		return err
	}
	source := d.get("SYNCLINE_SOURCE_DSN")
	d.say("seeding a shop")
	at := time.Now()
	sizes, err := shop.Seed(ctx, source, d.o.scale)
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	fmt.Printf("    %s rows in the largest table, in %s\n", view.Count(float64(sizes.Items)), time.Since(at).Round(100*time.Millisecond))
	d.say("starting two workers")
	if err := d.startWorkers(ctx); err != nil {
		return err
	}
	d.say("applying %s, while the shop goes on at %.0f changes/s", d.o.pipeline, d.o.rate)
	spec, err := d.spec()
	if err != nil {
		return err
	}
	tc, err := client.DialContext(ctx, client.Options{HostPort: d.get("SYNCLINE_TEMPORAL_ADDRESS"), Logger: silent{}})
	if err != nil {
		return fmt.Errorf("connect to Temporal: %w", err)
	}
	defer tc.Close()

	// The load runs from before the snapshot, as in production.
	loadCtx, endLoad := context.WithCancel(ctx)
	defer endLoad()
	var changed atomic.Int64
	loaded := make(chan error, 1)
	go func() {
		_, err := shop.Load(loadCtx, source, shop.LoadOptions{Rate: d.o.rate, Seed: 1, Progress: func(c shop.Counts) { changed.Store(c.Changes()) }})
		loaded <- err
	}()
	if err := d.command(ctx, "starter", "apply", d.o.pipeline); err != nil {
		return err
	}
	if err := d.watchLoad(ctx, tc, spec.Name); err != nil {
		return err
	}
	d.say("streaming")
	if err := d.watchStream(ctx, tc, spec.Name, d.o.stream, &changed); err != nil {
		return err
	}
	d.say("verifying both sinks")
	endLoad() // under load it takes as long as the slower sink is behind, part by part
	if err := <-loaded; err != nil && loadCtx.Err() == nil {
		return fmt.Errorf("the shop's load: %w", err)
	}
	if err := d.command(ctx, "starter", "verify", spec.Name); err != nil {
		return err
	}
	d.say("checking that by other means: every row and value, in the demo itself")
	if err := d.check(ctx, spec); err != nil {
		return err
	}
	d.say("asking how well it did")
	page := filepath.Join(d.o.data, "report.html")
	if err := d.command(ctx, "starter", "report", spec.Name, "--since", fmt.Sprintf("%ds", int(time.Since(begun).Seconds())+1), "--html", page); err != nil {
		return err
	}
	d.next(spec, time.Since(begun))
	if d.o.once {
		return nil
	}
	fmt.Println("\nThe shop goes on. Ctrl-C ends everything.")
	go func() {
		_, err := shop.Load(ctx, source, shop.LoadOptions{Rate: d.o.rate, Seed: 2, Retry: true, Progress: func(c shop.Counts) { changed.Store(c.Changes()) }})
		loaded <- err
	}()
	err = d.watchStream(ctx, tc, spec.Name, 0, &changed)
	if ctx.Err() != nil {
		fmt.Println()
		return nil // that is how it ends
	}
	return err
}

func (d *demo) startStack(ctx context.Context) error {
	_ = d.devstack(ctx, "down", "--data", d.o.data).Run() // of a demo that was killed
	if err := os.RemoveAll(d.o.data); err != nil {
		return fmt.Errorf("empty %s: %w", d.o.data, err)
	}
	if err := os.MkdirAll(filepath.Join(d.o.data, "logs"), 0o755); err != nil {
		return err
	}
	env := filepath.Join(d.o.data, "env")
	cmd := d.devstack(ctx, "up", "--data", d.o.data, "--detach", "--kafka", d.o.kafka, "--env-file", env)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	d.up = true
	if err := cmd.Run(); err != nil {
		return errEnvironment
	}
	return d.readEnv(env)
}

func (d *demo) devstack(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, d.program("devstack"), args...)
}

// readEnv takes the export lines that the devstack wrote.
func (d *demo) readEnv(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	d.env = os.Environ()
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if kv, ok := strings.CutPrefix(s.Text(), "export "); ok {
			k, v, _ := strings.Cut(kv, "=")
			d.env = append(d.env, k+"="+strings.Trim(v, `"'`))
		}
	}
	return nil
}

func (d *demo) get(name string) string {
	v := ""
	for _, kv := range d.env { // the last one holds
		if k, x, _ := strings.Cut(kv, "="); k == name {
			v = x
		}
	}
	return v
}

func (d *demo) lookup(name string) (string, bool) {
	v := d.get(name)
	return v, v != ""
}

func (d *demo) spec() (*pipeline.Spec, error) {
	b, err := os.ReadFile(d.o.pipeline)
	if err != nil {
		return nil, err
	}
	return pipeline.Parse(d.o.pipeline, b, d.lookup)
}

func (d *demo) startWorkers(ctx context.Context) error {
	for i, port := range workerPorts {
		log, err := os.Create(filepath.Join(d.o.data, "logs", fmt.Sprintf("worker-%d.log", i+1)))
		if err != nil {
			return err
		}
		cmd := exec.Command(d.program("worker"))
		cmd.Env = append(d.env, fmt.Sprintf("SYNCLINE_HTTP_ADDR=127.0.0.1:%d", port), "SYNCLINE_SPILL_DIR="+filepath.Join(d.o.data, "spill"),
			"SYNCLINE_ANALYTICS=env:SYNCLINE_CLICKHOUSE_URL")
		cmd.Stdout, cmd.Stderr = log, log
		// Ctrl-C is for the demo, which stops the workers in order.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start a worker: %w", err)
		}
		_ = log.Close()
		d.workers = append(d.workers, cmd)
	}
	for i, port := range workerPorts {
		if err := ready(ctx, port); err != nil {
			return fmt.Errorf("worker %d does not get ready: %w (its log: %s)", i+1, err, filepath.Join(d.o.data, "logs"))
		}
	}
	return nil
}

func (d *demo) command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, d.program(name), args...)
	cmd.Env = d.env
	out, err := cmd.CombinedOutput()
	for _, line := range strings.Split(strings.Trim(string(out), "\n"), "\n") {
		fmt.Println("    " + line)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}

// stop ends what runs, in order: workers flush, then the servers go.
func (d *demo) stop() {
	for _, w := range d.workers {
		_ = w.Process.Signal(syscall.SIGTERM)
	}
	for _, w := range d.workers {
		done := make(chan struct{})
		go func() { _ = w.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(15 * time.Second):
			_ = w.Process.Kill()
			<-done
		}
	}
	if d.up {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = d.devstack(ctx, "down", "--data", d.o.data).Run()
	}
}

type silent struct{}

func (silent) Debug(string, ...any) {}
func (silent) Info(string, ...any)  {}
func (silent) Warn(string, ...any)  {}
func (silent) Error(string, ...any) {}

var _ sdklog.Logger = silent{}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"syncline/devstack/internal/clickhouse"
	"syncline/devstack/internal/kafkaserver"
	"syncline/devstack/internal/problem"
	"syncline/devstack/internal/stack"
)

// downTimeout covers Postgres's last checkpoint.
const downTimeout = time.Minute

func flags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard) // the error says it
	return f
}

func parse(f *flag.FlagSet, args []string) error {
	// Flags may follow the service's name.
	var words []string
	for {
		if err := f.Parse(args); err != nil {
			return usageError{err}
		}
		if f.NArg() == 0 {
			break
		}
		words = append(words, f.Arg(0))
		args = f.Args()[1:]
	}
	if err := f.Parse(append([]string{"--"}, words...)); err != nil {
		return usageError{err}
	}
	return nil
}

func dataFlag(f *flag.FlagSet) *string {
	return f.String("data", ".devstack", "folder for data and logs")
}

// upFlags are the flags of up, with ports as offsets from the base unless given.
func upFlags(name string, args []string) (cfg stack.Config, detach bool, err error) {
	f := flags(name)
	data := dataFlag(f)
	f.StringVar(&cfg.Kafka, "kafka", "embedded", "embedded or apache")
	f.BoolVar(&cfg.Vault, "vault", false, "run Vault too")
	f.BoolVar(&cfg.Prometheus, "prometheus", false, "run Prometheus too")
	f.StringVar(&cfg.Rules, "prometheus-rules", "", "file of rules for Prometheus")
	f.IntVar(&cfg.Postgres, "postgres", 15, "major version")
	f.BoolVar(&cfg.Fsync, "fsync", true, "durable Postgres")
	f.StringVar(&cfg.EnvFile, "env-file", "", "file for export lines")
	f.BoolVar(&detach, "detach", false, "return when all services answer")
	free := f.Float64("min-free-gb", 2, "space that must be left")
	base := f.Int("ports-base", stack.DefaultBase, "first port")
	var own stack.Ports
	ports := []struct {
		name string
		own  *int
		use  *int
	}{
		{"temporal", &own.Temporal, &cfg.Ports.Temporal}, {"ui", &own.UI, &cfg.Ports.UI}, {"source", &own.Source, &cfg.Ports.Source},
		{"sink", &own.Sink, &cfg.Ports.Sink}, {"kafka", &own.Kafka, &cfg.Ports.Kafka}, {"clickhouse", &own.ClickHouse, &cfg.Ports.ClickHouse},
		{"clickhouse-native", &own.Native, &cfg.Ports.Native},
		{"vault", &own.Vault, &cfg.Ports.Vault}, {"controller", &own.Controller, &cfg.Ports.Controller}, {"metrics", &own.Metrics, &cfg.Ports.Metrics},
		{"kafka-secured", &own.KafkaSecured, &cfg.Ports.KafkaSecured}, {"prometheus", &own.Prometheus, &cfg.Ports.Prometheus},
		{"kafka-mutual", &own.KafkaMutual, &cfg.Ports.KafkaMutual}, {"vault-tls", &own.VaultTLS, &cfg.Ports.VaultTLS},
	}
	for _, p := range ports {
		f.IntVar(p.own, p.name+"-port", 0, "port of "+p.name)
	}
	if err := parse(f, args); err != nil {
		return cfg, false, err
	}
	if f.NArg() > 0 {
		return cfg, false, usageError{fmt.Errorf("%s takes no %q", name, f.Arg(0))}
	}
	cfg.Ports = stack.PortsFrom(*base)
	for _, p := range ports {
		if *p.own != 0 {
			*p.use = *p.own
		}
	}
	cfg.Data, cfg.MinFree = *data, uint64(*free*1e9)
	if err := cfg.Normalize(); err != nil {
		return cfg, false, usageError{err}
	}
	return cfg, detach, nil
}

func up(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	cfg, detached, err := upFlags("up", args)
	if err != nil {
		return err
	}
	if detached {
		return detach(ctx, cfg, args, stdout, stderr)
	}
	say := sayer(stderr)
	parts, err := stack.OpenComponents(say)
	if err != nil {
		return err
	}
	begun := time.Now()
	err = stack.Run(ctx, cfg, parts, say, func(s *stack.Stack) {
		stack.Table(stdout, s.Health(ctx))
		fmt.Fprintf(stdout, "\n%s\nAll services answer after %.1f s. Data and logs: %s. Ctrl-C or `devstack down` stops them; data stay.\n",
			s.Exports(), time.Since(begun).Seconds(), cfg.Data)
	})
	if errors.Is(err, context.Canceled) {
		return nil // Ctrl-C while starting
	}
	return err
}

func sayer(w io.Writer) func(string, ...any) {
	return func(format string, args ...any) { fmt.Fprintf(w, "devstack: "+format+"\n", args...) }
}

// detach starts itself without --detach in a session of its own and waits until
// that one answers or has ended.
func detach(ctx context.Context, cfg stack.Config, args []string, stdout, stderr io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("own path: %w", err)
	}
	if pid := stack.Running(cfg.Data); pid > 0 {
		return problem.New("stop it with `devstack down --data "+cfg.Data+"` or choose another --data", "a devstack (process %d) already runs in %s", pid, cfg.Data)
	}
	path := filepath.Join(cfg.Data, "logs", "devstack.log")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return problem.New("choose a folder that you may write with --data", "the data folder cannot be made: %v", err)
	}
	// `go run` removes its binary when it returns, and children start from it.
	if self, err = keepBinary(self, cfg.Data); err != nil {
		return err
	}
	log, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(self, append([]string{"up", "--detach=false"}, without(args, "detach")...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start in the background: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	client, err := stack.NewClient(cfg.Data)
	if err != nil {
		return err
	}
	said := follow(path, stderr)
	for {
		select {
		case err := <-ended:
			said()
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				return exitError(exit.ExitCode()) // its words have been passed on
			}
			return fmt.Errorf("the background process ended (log: %s)", path)
		case <-ctx.Done():
			_ = cmd.Process.Signal(syscall.SIGTERM)
			<-ended
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
			said()
			if all, env, err := client.Status(ctx); err == nil {
				stack.Table(stdout, all)
				fmt.Fprintf(stdout, "\n%s", env)
				return nil
			}
		}
	}
}

// without drops a boolean flag from a command line.
func without(args []string, name string) []string {
	var out []string
	for _, a := range args {
		if a == "-"+name || a == "--"+name || a == "-"+name+"=true" || a == "--"+name+"=true" {
			continue
		}
		out = append(out, a)
	}
	return out
}

func trimName(line string) string {
	const prefix = "devstack: "
	if len(line) > len(prefix) && line[:len(prefix)] == prefix {
		return line[len(prefix):]
	}
	return line
}

// keepBinary copies the running program into the data folder.
func keepBinary(self, data string) (string, error) {
	in, err := os.Open(self)
	if err != nil {
		return "", fmt.Errorf("own program: %w", err)
	}
	defer func() { _ = in.Close() }()
	tmp, err := os.CreateTemp(data, ".devstack-")
	if err != nil {
		return "", fmt.Errorf("copy of the program: %w", err)
	}
	_, err = io.Copy(tmp, in)
	if err := errors.Join(err, tmp.Chmod(0o755), tmp.Close()); err != nil {
		return "", fmt.Errorf("copy of the program: %w", err)
	}
	to := filepath.Join(data, "devstack")
	return to, os.Rename(tmp.Name(), to)
}

// follow passes on what the background process says before it is ready, such as
// that it builds for minutes.
func follow(path string, w io.Writer) func() {
	var at int64
	return func() {
		f, err := os.Open(path)
		if err != nil {
			return
		}
		defer func() { _ = f.Close() }()
		_, _ = f.Seek(at, io.SeekStart)
		b, _ := io.ReadAll(io.LimitReader(f, 1<<16))
		at += int64(len(b))
		for line := range lines(b) {
			if trimName(line) != line {
				fmt.Fprintln(w, line)
			}
		}
	}
}

func lines(b []byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		start := 0
		for i, c := range b {
			if c == '\n' {
				if !yield(string(b[start:i])) {
					return
				}
				start = i + 1
			}
		}
	}
}

func down(ctx context.Context, args []string, stdout io.Writer) error {
	f := flags("down")
	data := dataFlag(f)
	if err := parse(f, args); err != nil {
		return err
	}
	pid := stack.Running(*data)
	if pid == 0 {
		fmt.Fprintln(stdout, "no devstack runs in", *data)
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop process %d: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	for stack.Running(*data) != 0 {
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d is still there: %w", pid, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
	fmt.Fprintln(stdout, "stopped; data stay in", *data)
	return nil
}

func status(ctx context.Context, args []string, stdout io.Writer) error {
	f := flags("status")
	data := dataFlag(f)
	asJSON := f.Bool("json", false, "print JSON")
	onlyEnv := f.Bool("env", false, "print the environment only")
	if err := parse(f, args); err != nil {
		return err
	}
	client, err := stack.NewClient(*data)
	if err != nil {
		return err
	}
	all, env, err := client.Status(ctx)
	if err != nil {
		return err
	}
	switch {
	case *onlyEnv:
		fmt.Fprint(stdout, env)
	case *asJSON:
		e := json.NewEncoder(stdout)
		if err := e.Encode(all); err != nil {
			return fmt.Errorf("print: %w", err)
		}
	default:
		stack.Table(stdout, all)
	}
	for _, h := range all {
		if h.State != "ready" {
			return fmt.Errorf("%s is %s; its log: %s", h.Name, h.State, h.Log)
		}
	}
	return nil
}

func control(ctx context.Context, verb string, args []string, stdout io.Writer) error {
	f := flags(verb)
	data := dataFlag(f)
	if err := parse(f, args); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return usageError{fmt.Errorf("%s takes the name of one service: source, sink, kafka, clickhouse, temporal, vault or prometheus", verb)}
	}
	client, err := stack.NewClient(*data)
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := client.Do(ctx, verb, f.Arg(0)); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s %s: done in %.1f s\n", verb, f.Arg(0), time.Since(begun).Seconds())
	return nil
}

func prepare(ctx context.Context, args []string, stderr io.Writer) error {
	cfg, _, err := upFlags("prepare", args)
	if err != nil {
		return err
	}
	parts, err := stack.OpenComponents(sayer(stderr))
	if err != nil {
		return err
	}
	return stack.Prepare(ctx, cfg, parts)
}

// serve runs one of the servers that devstack has inside; up starts it as a child.
func serve(ctx context.Context, args []string, stderr io.Writer) error {
	if len(args) == 0 {
		return usageError{errors.New("serve takes kafka or clickhouse")}
	}
	f := flags("serve")
	port := f.Int("port", 0, "port on 127.0.0.1")
	native := f.Int("native-port", 0, "port of ClickHouse's native protocol")
	dir := f.String("dir", "", "data folder")
	library := f.String("library", "", "path of libchdb")
	sync := f.Bool("sync", false, "write every batch through to the disk")
	if err := parse(f, args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "kafka":
		return kafkaserver.Run(ctx, kafkaserver.Options{Port: *port, Dir: *dir, Sync: *sync, Log: stderr})
	case "clickhouse":
		return clickhouse.Run(ctx, clickhouse.Options{Port: *port, Native: *native, Dir: *dir, Library: *library, Log: stderr})
	}
	return usageError{fmt.Errorf("serve knows no %q", args[0])}
}

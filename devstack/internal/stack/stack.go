package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"

	"syncline/devstack/internal/cache"
	"syncline/devstack/internal/components"
	"syncline/devstack/internal/problem"
)

// Stack is the running servers.
type Stack struct {
	cfg      Config
	programs programs
	services []*service
	say      func(format string, args ...any)
	down     context.CancelFunc
}

// Run starts everything, calls up when all services answer, and serves until ctx
// ends. Whatever happens, nothing runs when it returns.
func Run(ctx context.Context, cfg Config, parts *components.Components, say func(string, ...any), up func(*Stack)) error {
	if err := cfg.Normalize(); err != nil {
		return err
	}
	if err := checkSpace(cfg.MinFree, cfg.Data, parts.Cache.Dir()); err != nil {
		return err
	}
	release, err := hold(cfg.Data)
	if err != nil {
		return err
	}
	defer release()
	if err := cfg.checkPorts(); err != nil {
		return err
	}
	programs, err := find(ctx, &cfg, parts)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &Stack{cfg: cfg, programs: programs, say: say, down: cancel}
	if s.services, err = services(&cfg, programs); err != nil {
		return err
	}
	defer s.stop()
	if err := s.start(ctx); err != nil {
		return err
	}
	stopControl, err := s.control()
	if err != nil {
		return err
	}
	defer stopControl()
	if cfg.EnvFile != "" {
		if err := s.writeEnv(); err != nil {
			return err
		}
	}
	up(s)
	<-ctx.Done()
	return nil
}

func services(c *Config, p programs) ([]*service, error) {
	source, err := postgresService(c, p, Source, c.Ports.Source)
	if err != nil {
		return nil, err
	}
	sink, err := postgresService(c, p, Sink, c.Ports.Sink)
	if err != nil {
		return nil, err
	}
	all := []*service{source, sink, kafkaService(c, p), clickHouseService(c, p), temporalService(c, p)}
	if c.Vault {
		all = append(all, vaultService(c, p))
	}
	if c.Prometheus {
		all = append(all, prometheusService(c, p))
	}
	return all, nil
}

// start starts all services at once; the first that fails ends the others.
func (s *Stack) start(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, v := range s.services {
		wg.Go(func() {
			if err := v.start(ctx, s.ended); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return nil
}

func (s *Stack) ended(v *service, err error) {
	s.say("%s ended by itself (%v); see %s; `devstack start %s` starts it again", v.name, err, v.spec.Log, v.name)
}

// stop ends all services in order.
func (s *Stack) stop() {
	var wg sync.WaitGroup
	for _, v := range s.services {
		wg.Go(func() { v.end(false) })
	}
	wg.Wait()
}

func (s *Stack) find(name string) (*service, error) {
	var names []string
	for _, v := range s.services {
		if v.name == name {
			return v, nil
		}
		names = append(names, v.name)
	}
	return nil, fmt.Errorf("there is no service %q: use %s", name, strings.Join(names, ", "))
}

// Health asks every service.
func (s *Stack) Health(ctx context.Context) []Health {
	out := make([]Health, len(s.services))
	var wg sync.WaitGroup
	for i, v := range s.services {
		wg.Go(func() { out[i] = v.health(ctx) })
	}
	wg.Wait()
	return out
}

// Env lists the variables that point a worker and the tests at the stack.
func (s *Stack) Env() [][2]string {
	c := &s.cfg
	env := [][2]string{
		{"SYNCLINE_TEMPORAL_ADDRESS", loopback(c.Ports.Temporal)},
		// A developer's own profile, perhaps of Temporal Cloud, must not reach into the stack.
		{"TEMPORAL_CONFIG_FILE", os.DevNull},
		{"SYNCLINE_TEMPORAL_UI", "http://" + loopback(c.Ports.UI)},
		{"SYNCLINE_TEMPORAL_CLI", s.programs.temporal},
		{"SYNCLINE_SOURCE_DSN", postgresDSN(c.Ports.Source)},
		{"SYNCLINE_SINK_DSN", postgresDSN(c.Ports.Sink)},
		{"SYNCLINE_KAFKA_BROKERS", loopback(c.Ports.Kafka)},
		{"SYNCLINE_CLICKHOUSE_URL", "http://default@" + loopback(c.Ports.ClickHouse) + "/default"},
		{"SYNCLINE_CLICKHOUSE_NATIVE_URL", "clickhouse://default@" + loopback(c.Ports.Native) + "/default"},
		{"SYNCLINE_DEVSTACK_SOCKET", SocketPath(c.Data)},
		{"SYNCLINE_PG_BINDIR", s.programs.postgres},
	}
	if c.Kafka == "apache" {
		env = append(env, [2]string{"SYNCLINE_KAFKA_SECURED", loopback(c.Ports.KafkaSecured)}, [2]string{"SYNCLINE_KAFKA_CA", c.kafkaCA()},
			[2]string{"SYNCLINE_KAFKA_USER", kafkaUser}, [2]string{"SYNCLINE_KAFKA_PASSWORD", kafkaPassword},
			[2]string{"SYNCLINE_KAFKA_MUTUAL", loopback(c.Ports.KafkaMutual)}, [2]string{"SYNCLINE_KAFKA_CERT", c.kafkaClientCert()}, [2]string{"SYNCLINE_KAFKA_KEY", c.kafkaClientKey()})
	}
	if c.Vault {
		env = append(env, [2]string{"SYNCLINE_VAULT_ADDR", "http://" + loopback(c.Ports.Vault)}, [2]string{"SYNCLINE_VAULT_TOKEN_FILE", c.tokenFile()},
			[2]string{"SYNCLINE_VAULT_TLS_ADDR", "https://" + loopback(c.Ports.VaultTLS)}, [2]string{"SYNCLINE_VAULT_CA", c.vaultCA()}, [2]string{"SYNCLINE_VAULT_TLS_PAIR", c.vaultPair()})
	}
	if c.Prometheus {
		env = append(env, [2]string{"SYNCLINE_PROMETHEUS_URL", "http://" + loopback(c.Ports.Prometheus)}, [2]string{"SYNCLINE_PROMETHEUS_DIR", c.prometheusDir()},
			[2]string{"SYNCLINE_PROMTOOL", filepath.Join(s.programs.prometheus, "promtool")}, [2]string{"SYNCLINE_AMTOOL", filepath.Join(s.programs.prometheus, "amtool")})
	}
	return env
}

// Exports is the environment as lines for a shell.
func (s *Stack) Exports() string {
	var b strings.Builder
	for _, kv := range s.Env() {
		fmt.Fprintf(&b, "export %s=%s\n", kv[0], shellQuote(kv[1]))
	}
	return b.String()
}

// shellQuote leaves plain words as they are.
func shellQuote(v string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/:.,@_-=+%", r)
	}
	if v != "" && strings.IndexFunc(v, func(r rune) bool { return !plain(r) }) < 0 {
		return v
	}
	return "'" + strings.ReplaceAll(v, "'", `'\''`) + "'"
}

// writeEnv replaces the file in one step, since others may be reading it.
func (s *Stack) writeEnv() error {
	tmp, err := os.CreateTemp(filepath.Dir(s.cfg.EnvFile), ".env-")
	if err != nil {
		return problem.New("give --env-file a folder that exists and that you may write", "the environment file cannot be written: %v", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.WriteString(s.Exports())
	if err := errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return fmt.Errorf("write environment file: %w", err)
	}
	if err := os.Rename(tmp.Name(), s.cfg.EnvFile); err != nil {
		return fmt.Errorf("write environment file: %w", err)
	}
	return nil
}

// Table prints where what runs.
func Table(w io.Writer, all []Health) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SERVICE\tSTATE\tADDRESS\tPID\tNOTE")
	for _, h := range all {
		pid := ""
		if h.PID > 0 {
			pid = strconv.Itoa(h.PID)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", h.Name, h.State, h.Address, pid, h.Note)
	}
	_ = t.Flush()
}

// hold takes the data folder for this process; the lock goes with the process.
func hold(data string) (release func(), err error) {
	if err := os.MkdirAll(filepath.Join(data, "logs"), 0o755); err != nil {
		return nil, problem.New("choose a folder that you may write with --data", "the data folder cannot be made: %v", err)
	}
	f, err := os.OpenFile(filepath.Join(data, "devstack.pid"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, problem.New("choose a folder that you may write with --data", "the data folder cannot be used: %v", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid := readPID(data)
		_ = f.Close()
		return nil, problem.New("stop it with `devstack down --data "+data+"` or choose another --data",
			"a devstack (process %d) already runs in %s", pid, data)
	}
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("pid file: %w", err)
	}
	return func() { _ = f.Close() }, nil
}

func readPID(data string) int {
	b, err := os.ReadFile(filepath.Join(data, "devstack.pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

// Running is the process that holds a data folder, or 0.
func Running(data string) int {
	f, err := os.Open(filepath.Join(data, "devstack.pid"))
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil {
		return 0
	}
	return readPID(data)
}

// OpenComponents is the cache and devstack's own source.
func OpenComponents(say func(string, ...any)) (*components.Components, error) {
	c, err := cache.Open(say)
	if err != nil {
		return nil, err
	}
	src, err := components.FindSource()
	if err != nil {
		return nil, err
	}
	return &components.Components{Cache: c, Source: src}, nil
}

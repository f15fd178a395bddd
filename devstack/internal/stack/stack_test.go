package stack

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"syncline/devstack/internal/problem"
	"syncline/devstack/internal/proc"
)

func config(t *testing.T) Config {
	t.Helper()
	c := Config{Data: t.TempDir(), Kafka: "embedded", Postgres: 15, Fsync: true, Ports: PortsFrom(DefaultBase)}
	if err := c.Normalize(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMistakesInTheConfigurationAreAllNamed(t *testing.T) {
	c := Config{Data: "x", Kafka: "rabbit", Postgres: 9, Ports: PortsFrom(27000)}
	c.Ports.Sink = c.Ports.Source
	c.Ports.UI = 70000
	err := c.Normalize()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"rabbit", "--postgres is 9", "source and sink would both use port 27002", "--ui-port is 70000"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	ok := config(t)
	ok.Ports.Controller = ok.Ports.Kafka // unused with the embedded broker
	if err := ok.Normalize(); err != nil {
		t.Error(err)
	}
}

func TestTakenPortAndFullDiskSayHowToFixThem(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c := config(t)
	c.Ports.ClickHouse = l.Addr().(*net.TCPAddr).Port
	if err := c.checkPorts(); !problem.Is(err) || !strings.Contains(err.Error(), "--clickhouse-port") {
		t.Errorf("port: %v", err)
	}
	if err := checkSpace(1<<62, c.Data); !problem.Is(err) || !strings.Contains(err.Error(), "free ") || strings.Contains(err.Error(), "\n") {
		t.Errorf("space: %v", err)
	}
	if err := checkSpace(1, c.Data); err != nil {
		t.Errorf("space: %v", err)
	}
}

func TestDataFolderHasOneHolder(t *testing.T) {
	dir := t.TempDir()
	release, err := hold(dir)
	if err != nil {
		t.Fatal(err)
	}
	if Running(dir) != os.Getpid() {
		t.Errorf("running: %d", Running(dir))
	}
	if _, err := hold(dir); !problem.Is(err) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("second holder: %v", err)
	}
	release()
	if Running(dir) != 0 {
		t.Error("still held")
	}
	again, err := hold(dir)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestEnvironmentIsSafeForAShell(t *testing.T) {
	for in, want := range map[string]string{
		"postgres://postgres@127.0.0.1:1/postgres": "postgres://postgres@127.0.0.1:1/postgres",
		"/a b/it's": `'/a b/it'\''s'`, "": "''", "$(rm)": "'$(rm)'",
	} {
		if got := shellQuote(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
	c := config(t)
	c.Vault, c.Prometheus, c.EnvFile = true, true, filepath.Join(t.TempDir(), "env")
	s := &Stack{cfg: c, programs: programs{temporal: "/t", postgres: "/p", prometheus: "/m"}}
	if err := s.writeEnv(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(c.EnvFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"export SYNCLINE_TEMPORAL_ADDRESS=127.0.0.1:27000", "export SYNCLINE_TEMPORAL_UI=http://127.0.0.1:27001", "export SYNCLINE_TEMPORAL_CLI=/t",
		"export SYNCLINE_SOURCE_DSN=postgres://postgres@127.0.0.1:27002/postgres", "export SYNCLINE_SINK_DSN=postgres://postgres@127.0.0.1:27003/postgres",
		"export SYNCLINE_KAFKA_BROKERS=127.0.0.1:27004", "export SYNCLINE_CLICKHOUSE_URL=http://default@127.0.0.1:27005/default",
		"export SYNCLINE_CLICKHOUSE_NATIVE_URL=clickhouse://default@127.0.0.1:27009/default",
		"export SYNCLINE_PG_BINDIR=/p", "export SYNCLINE_VAULT_ADDR=http://127.0.0.1:27006", "export SYNCLINE_VAULT_TLS_ADDR=https://127.0.0.1:27013",
		"export SYNCLINE_PROMETHEUS_URL=http://127.0.0.1:27011", "export SYNCLINE_PROMTOOL=/m/promtool", "export SYNCLINE_AMTOOL=/m/amtool",
	} {
		if !strings.Contains(string(b), line+"\n") {
			t.Errorf("%s is missing in:\n%s", line, b)
		}
	}
	c.EnvFile = "/nowhere/env"
	if err := (&Stack{cfg: c}).writeEnv(); !problem.Is(err) {
		t.Errorf("unwritable: %v", err)
	}
}

// dummy is a service that is ready while its file exists.
func dummy(t *testing.T, name, script string) *service {
	t.Helper()
	dir := t.TempDir()
	mark := filepath.Join(dir, "ready")
	return &service{
		name: name, address: "127.0.0.1:0",
		spec: proc.Spec{Path: "/bin/sh", Args: []string{"-c", script}, Log: filepath.Join(dir, "log"), Env: []string{"MARK=" + mark}},
		ready: func(context.Context) error {
			_, err := os.Stat(mark)
			return err
		},
	}
}

const serveScript = `touch "$MARK"; trap 'rm -f "$MARK"; exit 0' TERM; while :; do sleep 0.02; done`

func TestServicesAreKilledStartedAndRestartedOnRequest(t *testing.T) {
	ctx := context.Background()
	var ended atomic.Int32
	s := &Stack{cfg: config(t), say: func(string, ...any) { ended.Add(1) }, services: []*service{dummy(t, "one", serveScript), dummy(t, "two", serveScript)}}
	defer s.stop()
	if err := s.start(ctx); err != nil {
		t.Fatal(err)
	}
	stop, err := s.control()
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	c, err := NewClient(s.cfg.Data)
	if err != nil {
		t.Fatal(err)
	}
	state := func(name string) (string, int) {
		all, _, err := c.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range all {
			if h.Name == name {
				return h.State, h.PID
			}
		}
		t.Fatal("not listed")
		return "", 0
	}
	_, first := state("one")
	for _, verb := range []string{"kill", "start", "restart", "stop", "start"} {
		if err := c.Do(ctx, verb, "one"); err != nil {
			t.Fatal(err)
		}
		want := "ready"
		if verb == "kill" || verb == "stop" {
			want = "stopped"
		}
		if got, _ := state("one"); got != want {
			t.Errorf("after %s: %s", verb, got)
		}
	}
	if _, now := state("one"); now == first {
		t.Error("it is the same process")
	}
	if got, _ := state("two"); got != "ready" {
		t.Errorf("the other one is %s", got)
	}
	if ended.Load() != 0 {
		t.Error("ends by request were reported as failures")
	}
	if err := c.Do(ctx, "kill", "three"); err == nil || !strings.Contains(err.Error(), "one, two") {
		t.Errorf("unknown service: %v", err)
	}
	// An end that nobody asked for.
	_, pid := state("two")
	_ = syscall.Kill(pid, syscall.SIGKILL)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if got, _ := state("two"); got == "failed" && ended.Load() == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the failure is not reported")
		}
	}
}

func TestOneThatCannotStartStopsAll(t *testing.T) {
	good, bad := dummy(t, "good", serveScript), dummy(t, "bad", "echo no such thing >&2; sleep 600")
	bad.setup = func(context.Context) error { return errors.New("no room") }
	s := &Stack{cfg: config(t), say: t.Logf, services: []*service{good, bad}}
	if err := s.start(context.Background()); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("got %v", err)
	}
	s.stop()
	for _, v := range s.services {
		if _, p := v.current(); p != nil {
			select {
			case <-p.Done():
			default:
				t.Errorf("%s runs on", v.name)
			}
		}
	}
}

// A server whose killed predecessor still holds something ends at once and is
// tried again.
func TestEarlyEndIsTriedAgain(t *testing.T) {
	dir := t.TempDir()
	script := `n=$(cat ` + dir + `/n 2>/dev/null || echo 0); echo $((n+1)) > ` + dir + `/n; [ $n -lt 2 ] && exit 1; ` + serveScript
	v := dummy(t, "late", script)
	if err := v.start(context.Background(), func(*service, error) {}); err != nil {
		t.Fatal(err)
	}
	v.end(true)
}

func TestSocketPathIsShort(t *testing.T) {
	if p := SocketPath("/" + strings.Repeat("long/", 50)); len(p) > 104 {
		t.Errorf("%d bytes: %s", len(p), p)
	}
	if p := SocketPath("/data"); p != "/data/control.sock" {
		t.Error(p)
	}
}

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"syncline/activities/contract"
	"syncline/testsuite/stack"
)

// ownStack starts servers that no other test uses, because this one ends them,
// and returns the environment that points at them. It needs the devstack program
// that `make` builds.
func ownStack(t *testing.T) (vars []string) {
	t.Helper()
	stack.Postgres(t) // no servers wanted: skip
	program := os.Getenv("E2E_DEVSTACK")
	if program == "" {
		program = filepath.Join("..", "..", ".build", "devstack")
	}
	if _, err := os.Stat(program); err != nil {
		if os.Getenv(stack.EnvRequired) != "" {
			t.Fatalf("%v: make devstack builds it", err)
		}
		t.Skipf("%v: make devstack builds it", err)
	}
	data, err := os.MkdirTemp("", "e2e-stack-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(data, 0o755); err != nil { // Postgres runs as another user
		t.Fatal(err)
	}
	kafka := "embedded"
	if os.Getenv(stack.EnvRequired) != "" { // where everything is required, the real thing is, too
		kafka = "apache"
	}
	env, log := filepath.Join(data, "env"), filepath.Join(data, "up.log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "up", "--data", data, "--env-file", env, "--kafka", kafka, "--ports-base", fmt.Sprint(freeBlock(t)))
	cmd.Stdout, cmd.Stderr = out, out
	// Ends, with all servers, when the test does, however that happens.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = out.Close()
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if t.Failed() {
			t.Logf("logs of the servers: %s/logs", data)
		} else {
			_ = os.RemoveAll(data)
		}
	})
	until(t, bound, "the servers are up", func(context.Context) error {
		select {
		case <-ended:
			b, _ := os.ReadFile(log)
			t.Fatalf("devstack ended:\n%s", b)
		default:
		}
		_, err := os.Stat(env)
		return err
	})
	b, err := os.ReadFile(env)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if k, v, ok := strings.Cut(strings.TrimPrefix(line, "export "), "="); ok {
			vars = append(vars, k+"="+strings.Trim(v, "'"))
		}
	}
	return vars
}

// freeBlock finds ports for a stack. Between the look and the start another
// program may take one; then the stack says so.
func freeBlock(t *testing.T) int {
	t.Helper()
	for base := 20000 + os.Getpid()%400*20; base < 30000; base += 20 {
		free := true
		for n := range 11 {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+n))
			if err != nil {
				free = false
				break
			}
			_ = l.Close()
		}
		if free {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
}

// TestServersRestart ends every server under load, by SIGKILL and in order, and
// starts it again.
func TestServersRestart(t *testing.T) {
	if os.Getenv(withOwnServers) != "" {
		serversRestart(t)
		return
	}
	t.Parallel()
	// In a process of its own: which servers a test uses is in the environment.
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestServersRestart$", "-test.v", "-test.timeout=30m")
	cmd.Env = append(append(os.Environ(), withOwnServers+"=1"), ownStack(t)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) } // it says where it hangs
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: TestServersRestart") {
		t.Errorf("in its own process: %v", err)
	}
}

// withOwnServers tells the process that its servers are for it alone.
const withOwnServers = "E2E_OWN_SERVERS"

func serversRestart(t *testing.T) {
	ctl := stack.Control(t)
	r, rnd := newRig(t), moments(t)
	r.fast = true // as the others run with the race detector
	sizes := r.seedShop(0.005)
	r.start(contract.Control, contract.Capture)
	r.start(contract.Snapshot, contract.Deliver)
	p := r.pipe(shopPipeline)
	endLoad := r.load(150)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	endWatch := p.watch("version", counted...)
	endAudit := p.auditSlot()
	// A crash of the sink's server may take back what was committed last, since it
	// commits without waiting for the disk: rows and watermarks together, so that the
	// log brings them again. Counters are watched on both sides of it.
	kill := func(s stack.Service) {
		if s == stack.SinkService {
			endWatch()
		}
		ctl.Kill(s)
	}
	startAgain := func(s stack.Service) {
		ctl.Start(s)
		if s == stack.SinkService {
			endWatch = p.watch("version", counted...)
		}
	}
	all := []stack.Service{stack.KafkaService, stack.ClickHouseService, stack.SinkService, stack.SourceService, stack.TemporalService}
	for _, i := range rnd.Perm(len(all)) {
		s := all[i]
		begun := time.Now()
		pause(t, rnd, time.Second)
		kill(s)
		pause(t, rnd, 3*time.Second)
		startAgain(s)
		p.converged()
		t.Logf("%s killed and back: %s", s, time.Since(begun).Round(100*time.Millisecond))
		if rnd.IntN(2) == 0 {
			pause(t, rnd, time.Second)
			ctl.Restart(s)
			p.converged()
			t.Logf("%s restarted, too", s)
		}
	}
	// A load that every server leaves once.
	for _, i := range rnd.Perm(len(all)) {
		v, err := p.view(t.Context())
		if err == nil && v.Settled() {
			in := contract.TablesInput{}
			for _, x := range v.Status.Tables {
				in.Tables = append(in.Tables, x.Table)
			}
			p.mustUpdate(contract.ResyncTableUpdate, in, nil)
		}
		pause(t, rnd, 2*time.Second)
		kill(all[i])
		pause(t, rnd, time.Second)
		startAgain(all[i])
		until(t, bound, "Temporal answers", func(ctx context.Context) error { _, err := p.view(ctx); return err })
	}
	p.awaitPhase(bound, contract.Streaming)
	endLoad()
	p.settled(sizes, shopTables)
	endWatch()
	endAudit()
}

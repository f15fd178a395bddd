package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"syncline/activities/contract"
)

// programs are built once per run of the tests, when the first test needs them.
var (
	buildDir  string
	raceBuild = sync.OnceValues(func() (string, error) { return build("worker-race", "-race", "../../worker") })
	fastBuild = sync.OnceValues(func() (string, error) { return build("worker", "../../worker") })
)

// built names the variables that tell where a program is that was built already.
var built = map[string]string{"worker-race": "E2E_WORKER", "worker": "E2E_WORKER_FAST"}

func TestMain(m *testing.M) {
	if os.Getenv(racyProcess) != "" {
		race()
		os.Exit(0)
	}
	var err error
	if buildDir, err = os.MkdirTemp("", "syncline-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(buildDir)
	os.Exit(code)
}

func build(name string, args ...string) (string, error) {
	if p := os.Getenv(built[name]); p != "" {
		return p, nil
	}
	path := filepath.Join(buildDir, name)
	out, err := exec.Command("go", append([]string{"build", "-o", path}, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

// worker is one worker process.
type worker struct {
	t     testing.TB
	name  string
	log   string // path
	cmd   *exec.Cmd
	ended chan struct{}
	code  error // once ended
	asked bool  // to end
}

// start runs a worker with the roles, all if none is named, and waits until it is ready.
func (r *rig) start(roles ...contract.Role) *worker {
	r.t.Helper()
	w := r.launch(roles...)
	w.ready()
	return w
}

// launch does not wait.
func (r *rig) launch(roles ...contract.Role) *worker {
	r.t.Helper()
	program, err := raceBuild()
	if r.fast {
		program, err = fastBuild()
	}
	if err != nil {
		r.t.Fatalf("build the worker: %v", err)
	}
	if len(roles) == 0 {
		roles = []contract.Role{contract.Control, contract.Capture, contract.Snapshot, contract.Deliver}
	}
	var names []string
	for _, x := range roles {
		names = append(names, string(x))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	w := &worker{t: r.t, name: fmt.Sprintf("%02d-%s", len(r.workers), strings.Join(names, "+")), ended: make(chan struct{})}
	w.log = filepath.Join(r.dir, w.name+".log")
	f, err := os.Create(w.log)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	w.cmd = exec.Command(program)
	for _, kv := range os.Environ() { // a worker refuses variables that it does not know
		if !strings.HasPrefix(kv, "SYNCLINE_") && !strings.HasPrefix(kv, "VAULT_") {
			w.cmd.Env = append(w.cmd.Env, kv)
		}
	}
	w.cmd.Env = append(w.cmd.Env,
		"SYNCLINE_TEMPORAL_ADDRESS="+r.temporal, "SYNCLINE_TASK_QUEUE_PREFIX="+r.queue, "SYNCLINE_ROLES="+strings.Join(names, ","),
		"SYNCLINE_HTTP_ADDR=127.0.0.1:0", "SYNCLINE_SPILL_DIR="+filepath.Join(r.dir, "spill"), "SYNCLINE_SHUTDOWN_TIMEOUT=10s",
		"GORACE=halt_on_error=1 exitcode=66")
	w.cmd.Env = append(w.cmd.Env, r.env...)
	w.cmd.Stdout, w.cmd.Stderr = f, f
	// Dies with the test process, however that ends.
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := w.cmd.Start(); err != nil {
		r.t.Fatalf("start a worker: %v", err)
	}
	r.workers = append(r.workers, w)
	go func() {
		w.code = w.cmd.Wait()
		close(w.ended)
	}()
	return w
}

// identity is how Temporal knows the process.
func (w *worker) identity() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("%s/%d", host, w.cmd.Process.Pid)
}

// http returns where the worker serves metrics and health.
func (w *worker) http() string {
	b, _ := os.ReadFile(w.log)
	_, rest, ok := bytes.Cut(b, []byte(`"metrics":"`))
	at, _, found := bytes.Cut(rest, []byte(`/metrics"`))
	if !ok || !found {
		return ""
	}
	return string(at)
}

func (w *worker) get(ctx context.Context, path string) (string, error) {
	at := w.http()
	if at == "" {
		return "", fmt.Errorf("worker %s has not said where it listens", w.name)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at+path, nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	var b bytes.Buffer
	_, err = b.ReadFrom(res.Body)
	if res.StatusCode != http.StatusOK && err == nil {
		err = fmt.Errorf("%s answers %s: %s", path, res.Status, b.String())
	}
	return b.String(), err
}

func (w *worker) ready() {
	w.t.Helper()
	until(w.t, 2*time.Minute, "worker "+w.name+" is ready", func(ctx context.Context) error {
		select {
		case <-w.ended:
			w.t.Fatalf("worker %s ended: %v", w.name, w.code)
		default:
		}
		_, err := w.get(ctx, "/readyz")
		return err
	})
}

func (w *worker) signal(s syscall.Signal) {
	w.t.Helper()
	w.asked = w.asked || s == syscall.SIGKILL || s == syscall.SIGTERM
	if err := w.cmd.Process.Signal(s); err != nil {
		w.t.Fatalf("worker %s: %v: %v", w.name, s, err)
	}
}

// kill is SIGKILL; it returns when the process is gone.
func (w *worker) kill() {
	w.t.Helper()
	w.signal(syscall.SIGKILL)
	<-w.ended
}

func (w *worker) freeze() { w.t.Helper(); w.signal(syscall.SIGSTOP) }
func (w *worker) thaw()   { w.t.Helper(); w.signal(syscall.SIGCONT) }

// stop is SIGTERM; the worker must end in order.
func (w *worker) stop() {
	w.t.Helper()
	w.signal(syscall.SIGTERM)
	select {
	case <-w.ended:
		if w.code != nil {
			w.t.Errorf("worker %s after SIGTERM: %v", w.name, w.code)
		}
	case <-time.After(30 * time.Second):
		w.t.Errorf("worker %s does not end after SIGTERM", w.name)
		w.kill()
	}
}

// raceMark begins a report of the race detector.
const raceMark = "WARNING: DATA RACE"

// TestRaceReportsAreSeen: what the rig looks for is what the detector writes.
func TestRaceReportsAreSeen(t *testing.T) {
	if !raceEnabled {
		t.Skip("built without the race detector")
	}
	w := &worker{t: t, log: filepath.Join(t.TempDir(), "log")}
	f, err := os.Create(w.log)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), racyProcess+"=1", "GORACE=halt_on_error=1 exitcode=66")
	cmd.Stderr = f
	if err := cmd.Run(); err == nil || w.race() == "" {
		t.Errorf("a process with a race ended with %v and was not noticed", err)
	}
	if err := f.Truncate(0); err != nil || w.race() != "" {
		t.Errorf("a race in an empty log: %v", err)
	}
}

// racyProcess makes the test binary race, and nothing else.
const racyProcess = "E2E_RACY_PROCESS"

func race() {
	n, done := 0, make(chan struct{})
	go func() { n++; close(done) }()
	n++
	<-done
}

// race returns how a report of the race detector in the worker's log begins.
func (w *worker) race() string {
	w.t.Helper()
	b, err := os.ReadFile(w.log)
	if err != nil {
		w.t.Errorf("log of worker %s: %v", w.name, err)
	}
	_, report, found := bytes.Cut(b, []byte(raceMark))
	if !found {
		return ""
	}
	lines := strings.SplitN(raceMark+string(report), "\n", 41)
	return strings.Join(lines[:min(len(lines), 40)], "\n")
}

func (w *worker) running() bool {
	select {
	case <-w.ended:
		return false
	default:
		return true
	}
}

// hwm is the most memory that the process ever had, in bytes.
func (w *worker) hwm() int64 {
	w.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.cmd.Process.Pid))
	if err != nil {
		w.t.Fatal(err)
	}
	var kb int64
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		w.t.Fatal(err)
	}
	return kb << 10
}

package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/testsuite/stack"
)

// asWorker makes the test binary behave as the worker.
const asWorker = "TEST_AS_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(asWorker) != "" {
		main()
	}
	os.Exit(m.Run())
}

func workerProcess(t *testing.T, env ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append([]string{asWorker + "=1", "PATH=" + os.Getenv("PATH"), "SYNCLINE_ROLES=control", "SYNCLINE_HTTP_ADDR=127.0.0.1:0"}, env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, &out
}

// ends waits for the process and returns its exit code.
func ends(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	late := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	_ = cmd.Wait() // the code says how it ended
	return cmd.ProcessState.ExitCode()
}

// A worker takes work from a frontend that wants a client certificate, or an API key
// that is kept in a file; one that is refused ends at once and says why.
func TestWorkerOnSecuredTemporal(t *testing.T) {
	const right, wrong = "right-6f1c", "wrong-93ab"
	tc, err := client.Dial(client.Options{HostPort: stack.Temporal(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer tc.Close()
	byCert, byKey := stack.SecuredTemporal(t, ""), stack.SecuredTemporal(t, right)
	cert, key := byCert.Authority.Sign("worker")
	file := func(text string) string {
		f := t.TempDir() + "/key"
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	certEnv := []string{
		"TEMPORAL_ADDRESS=" + byCert.Address, "TEMPORAL_TLS_SERVER_CA_CERT_PATH=" + byCert.Authority.File,
		"TEMPORAL_TLS_CLIENT_CERT_PATH=" + cert, "TEMPORAL_TLS_CLIENT_KEY_PATH=" + key,
	}
	keyEnv := []string{
		"SYNCLINE_TEMPORAL_ADDRESS=" + byKey.Address, "TEMPORAL_ADDRESS=127.0.0.1:1", "TEMPORAL_TLS_SERVER_CA_CERT_PATH=" + byKey.Authority.File,
		"TEMPORAL_API_KEY=" + wrong, "SYNCLINE_TEMPORAL_API_KEY=file:" + file(right+"\n"),
	}
	for name, env := range map[string][]string{"certificate": certEnv, "key": keyEnv} {
		t.Run(name, func(t *testing.T) {
			prefix := stack.Name(t)
			cmd, out := workerProcess(t, append(env, "SYNCLINE_TASK_QUEUE_PREFIX="+prefix)...)
			polls := func() bool {
				r, err := tc.DescribeTaskQueue(t.Context(), contract.Queue(prefix, contract.Control), enumspb.TASK_QUEUE_TYPE_WORKFLOW)
				return err == nil && len(r.GetPollers()) > 0
			}
			for end := time.Now().Add(time.Minute); !polls(); time.Sleep(50 * time.Millisecond) {
				if time.Now().After(end) {
					_ = cmd.Process.Kill()
					_ = cmd.Wait()
					t.Fatalf("takes no work:\n%s", out)
				}
			}
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if code := ends(t, cmd); code != 0 {
				t.Errorf("exit code %d:\n%s", code, out)
			}
			if strings.Contains(out.String(), right) || strings.Contains(out.String(), wrong) {
				t.Errorf("the log shows the key:\n%s", out)
			}
		})
	}
	for name, c := range map[string]struct {
		env  []string
		code int
		says string
	}{
		"another authority":     {append(certEnv, "TEMPORAL_TLS_SERVER_CA_CERT_PATH="+stack.NewAuthority(t).File), 3, "is not trusted"},
		"no client certificate": {append(certEnv, "TEMPORAL_TLS_CLIENT_CERT_PATH=", "TEMPORAL_TLS_CLIENT_KEY_PATH="), 3, "refuses the TLS connection"},
		"wrong key":             {append(keyEnv, "SYNCLINE_TEMPORAL_API_KEY=file:"+file(wrong)), 3, "refuses access"},
		"no such key":           {append(keyEnv, "SYNCLINE_TEMPORAL_API_KEY=file:/nowhere/key"), 1, "file:/nowhere/key"},
		"no such certificate":   {append(certEnv, "TEMPORAL_TLS_CLIENT_CERT_PATH=/nowhere/cert"), 2, "/nowhere/cert"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd, out := workerProcess(t, c.env...)
			code := ends(t, cmd)
			if code != c.code || strings.Count(out.String(), c.says) != 1 || strings.Contains(out.String(), wrong) {
				t.Errorf("exit code %d, want %d, and once %q:\n%s", code, c.code, c.says, out)
			}
		})
	}
}

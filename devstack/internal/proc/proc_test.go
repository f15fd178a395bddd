package proc

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary stands in for devstack in TestChildrenDieWithTheirParent.
func TestMain(m *testing.M) {
	if os.Getenv("PROC_TEST_PARENT") != "" {
		p, err := Start(Spec{Path: "/bin/sleep", Args: []string{"600"}, Log: os.DevNull})
		if err != nil {
			panic(err)
		}
		os.Stdout.WriteString(strconv.Itoa(p.PID()) + "\n")
		select {}
	}
	os.Exit(m.Run())
}

func TestChildrenDieWithTheirParent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends children with their parent")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(self)
	parent.Env = append(os.Environ(), "PROC_TEST_PARENT=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	_ = parent.Process.Kill()
	_ = parent.Wait()
	eventually(t, func() bool { return gone(child) })
}

// gone counts a process that nobody has waited for as ended.
func gone(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(state, "Z")
}

func TestStopAsksFirstAndKillsThen(t *testing.T) {
	for _, c := range []struct {
		script string
		kind   string
	}{{"trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done", "bye"}, {"trap '' TERM; echo up; while :; do sleep 0.05; done", "up"}} {
		log := filepath.Join(t.TempDir(), "log")
		p, err := Start(Spec{Path: "/bin/sh", Args: []string{"-c", c.script}, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { return LastLine(log) == "up" })
		p.Stop(300 * time.Millisecond)
		if got := LastLine(log); got != c.kind {
			t.Errorf("last line %q, want %q", got, c.kind)
		}
		if err := syscall.Kill(p.PID(), 0); err == nil {
			t.Error("still there")
		}
	}
}

func TestReachable(t *testing.T) {
	a := &Account{UID: 54321, GID: 54321}
	dir := t.TempDir()
	inner := filepath.Join(dir, "closed", "data")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "closed"), 0o700); err != nil {
		t.Fatal(err)
	}
	if Reachable(inner, a) {
		t.Error("passes through a closed folder")
	}
	if !Reachable("/usr/bin/env", a) {
		t.Error("/usr/bin is open to all")
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 10 s")
		}
	}
}

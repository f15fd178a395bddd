// Package proc runs the servers as children that never outlive their parent.
//
// Each child leads a process group of its own, so that Ctrl-C reaches only the
// parent, which then stops the children in order. On Linux the kernel ends them
// too if the parent is killed; elsewhere only an orderly end does.
package proc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Spec says what to run.
type Spec struct {
	Path string
	Args []string
	Env  []string // added to the parent's
	Dir  string
	Log  string // file that takes all output
	User *Account
	// StopSignal asks for an orderly end; SIGTERM if it is 0.
	StopSignal syscall.Signal
}

// Account is a user to run as.
type Account struct {
	Name     string
	UID, GID uint32
}

// Process is a child.
type Process struct {
	cmd  *exec.Cmd
	spec Spec
	done chan struct{}
	err  error
}

// The kernel's death signal follows the thread that started the child, not the
// process, so one thread that lives as long as the process starts them all.
var (
	spawnOnce sync.Once
	spawns    = make(chan func())
)

func spawn(f func() error) error {
	spawnOnce.Do(func() {
		go func() {
			runtime.LockOSThread()
			for s := range spawns {
				s()
			}
		}()
	})
	result := make(chan error, 1)
	spawns <- func() { result <- f() }
	return <-result
}

// Start starts a child.
func Start(spec Spec) (*Process, error) {
	if err := os.MkdirAll(filepath.Dir(spec.Log), 0o755); err != nil {
		return nil, fmt.Errorf("log folder: %w", err)
	}
	log, err := os.OpenFile(spec.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("log file: %w", err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Dir, cmd.Env = spec.Dir, append(os.Environ(), spec.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = attributes(spec.User)
	if err := spawn(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(spec.Path), err)
	}
	p := &Process{cmd: cmd, spec: spec, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID is the child's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the child has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err tells how the child ended; read it after Done.
func (p *Process) Err() error { return p.err }

// Stop asks for an orderly end and kills after a timeout.
func (p *Process) Stop(timeout time.Duration) {
	sig := p.spec.StopSignal
	if sig == 0 {
		sig = syscall.SIGTERM
	}
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
	case <-time.After(timeout):
		p.Kill()
	}
}

// Kill ends the child and its group at once and waits until it is gone.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
	<-p.done
}

// Unprivileged finds an account for servers that refuse to run as root.
func Unprivileged() (*Account, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("account %s: %w", name, err)
		}
		return &Account{Name: name, UID: uint32(uid), GID: uint32(gid)}, nil
	}
	return nil, errors.New("neither an account postgres nor nobody exists")
}

// Reachable tells whether an account may pass through all folders above a path.
func Reachable(path string, a *Account) bool {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && !mayEnter(info, a) {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

func mayEnter(info os.FileInfo, a *Account) bool {
	bit := os.FileMode(0o001)
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		switch {
		case st.Uid == a.UID:
			bit = 0o100
		case st.Gid == a.GID:
			bit = 0o010
		}
	}
	return info.Mode()&bit != 0
}

// LastLine is the last line of a log, to say why a child ended.
func LastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	const window = 4096
	if info, err := f.Stat(); err == nil && info.Size() > window {
		_, _ = f.Seek(-window, 2)
	}
	b := make([]byte, window)
	n, _ := f.Read(b)
	lines := strings.Split(strings.TrimSpace(string(b[:n])), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

//go:build unix

package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/sink/postgres"
	"syncline/dataplane/sink/sinktest"
	"syncline/testsuite/stack"
)

// cluster is a server of one test, which may crash it.
type cluster struct {
	*testing.T
	bin, dir string
	as       *syscall.Credential // Postgres refuses to run as root
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{T: t, bin: stack.PostgresBinaries(t)}
	dir, err := os.MkdirTemp("", "syncline-pg") // short: a socket's path is limited
	must(t, err)
	c.dir = dir
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skip("Postgres does not run as root, and there is no user postgres")
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		c.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		must(t, os.Chown(dir, uid, gid))
	}
	c.run("initdb", "-D", filepath.Join(dir, "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
	c.start()
	t.Cleanup(func() {
		c.run("pg_ctl", "-D", filepath.Join(dir, "data"), "-m", "immediate", "-w", "stop")
		must(t, os.RemoveAll(dir))
	})
	return c
}

func (c *cluster) run(name string, args ...string) {
	c.Helper()
	cmd := osexec.Command(filepath.Join(c.bin, name), args...)
	cmd.Dir = c.dir
	if c.as != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.as}
	}
	log, err := os.Create(filepath.Join(c.dir, name+".out")) // a file: the server would keep a pipe open
	must(c, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		out, _ := os.ReadFile(log.Name())
		c.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func (c *cluster) start() {
	c.Helper()
	// A slow WAL writer leaves more commits to lose.
	c.run("pg_ctl", "-D", filepath.Join(c.dir, "data"), "-w", "-l", filepath.Join(c.dir, "log"),
		"-o", "-k "+c.dir+" -c listen_addresses= -c wal_writer_delay=2s", "start")
}

func (c *cluster) dsn() string { return "host=" + c.dir + " user=postgres dbname=postgres" }

// TestServerCrash crashes the server under load. Commits that were not flushed are
// gone; the session finds out, and in the end every row is there once.
func TestServerCrash(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	k := open(t, c.dsn(), "crash", postgres.Options{})
	defer k.Close()
	must(t, k.Init(t.Context()))
	s := sinktest.Schema("log", 0, sinktest.Col("n", sinktest.Int4))
	tab := sink.Table{ID: s.Table, Partitions: 1, Epoch: 1, Schema: s}
	must(t, k.AddTable(t.Context(), tab))
	_, err := k.PlanChunks(t.Context(), tab.ID, nil)
	must(t, err)
	must(t, k.FinishLoad(t.Context(), tab.ID))

	const crashes, batches = 3, 400
	lost := 0
	// deliver goes on from the watermark until n batches are applied, under new
	// sessions where it must.
	deliver := func(n int64) error {
		x, err := k.Claim(t.Context(), 0, 1)
		if err != nil {
			return err
		}
		defer x.Close()
		ws, err := x.Watermarks(t.Context(), []sink.Partition{{Table: tab.ID}})
		if err != nil {
			return err
		}
		for at := max(ws[0].Offset, 0) + 1; at <= n; {
			_, err := x.Apply(t.Context(), sinktest.Batch(tab, at, sinktest.Put(s, int(at), fmt.Sprint(at))))
			switch {
			case fault.Is(err, sink.CodeSessionLost):
				lost++
				return err
			case err != nil && !fault.Retryable(err):
				return err
			case err != nil:
				time.Sleep(10 * time.Millisecond) // the same batch again, in the same session
			default:
				at++
			}
		}
		return nil
	}
	done := make(chan error)
	go func() {
		var err error
		for {
			if err = deliver(crashes * batches); err == nil || errors.Is(err, context.Canceled) || !fault.Retryable(err) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		done <- err
	}()
	for n := range crashes {
		sinktest.Await(t, "batches are applied", func() bool {
			ws, err := k.Watermarks(t.Context())
			return err == nil && len(ws) == 1 && ws[0].Offset > int64(n*batches+batches/2)
		})
		c.run("pg_ctl", "-D", filepath.Join(c.dir, "data"), "-m", "immediate", "-w", "stop")
		c.start()
	}
	must(t, <-done)
	t.Logf("%d crashes, after which %d sessions had lost commits", crashes, lost)
	n := fmt.Sprint(crashes * batches)
	rows := query(t, c.dsn(), "SELECT count(*), count(DISTINCT n), max(n) FROM log")
	if got := sinktest.Lines(rows); got[0] != fmt.Sprintf("%q | %q | %q", n, n, n) {
		t.Fatalf("rows, distinct rows, last: %s, want %s of each", got[0], n)
	}
}

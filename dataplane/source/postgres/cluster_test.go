package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/testsuite/stack"
)

// cluster is a server of the test's own, to be restarted and starved.
type cluster struct {
	t    *testing.T
	bin  string
	data string
	port int
}

func newCluster(t *testing.T, settings ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, bin: stack.PostgresBinaries(t)}
	dir, err := os.MkdirTemp("", "pg") // a short path: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if uid, gid, ok := postgresUser(); ok {
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	c.data = filepath.Join(dir, "data")
	c.port = freePort(t)
	c.run("initdb", "-D", c.data, "-U", "postgres", "-A", "trust", "--wal-segsize=1", "--no-sync")
	c.configure(append([]string{"listen_addresses='127.0.0.1'", "port=" + strconv.Itoa(c.port), "unix_socket_directories='" + dir + "'", "fsync=off",
		"wal_level=logical", "max_wal_senders=5", "min_wal_size=2MB", "max_wal_size=4MB"}, settings...)...)
	c.start()
	t.Cleanup(c.end)
	return c
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// configure adds settings; the last of a name counts.
func (c *cluster) configure(settings ...string) {
	c.t.Helper()
	f, err := os.OpenFile(filepath.Join(c.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	_, err = f.WriteString("\n" + strings.Join(settings, "\n") + "\n")
	if err := errors.Join(err, f.Close()); err != nil {
		c.t.Fatal(err)
	}
}

func postgresUser() (uid, gid int, ok bool) {
	if os.Geteuid() != 0 {
		return 0, 0, false
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return 0, 0, false
	}
	uid, _ = strconv.Atoi(u.Uid)
	gid, _ = strconv.Atoi(u.Gid)
	return uid, gid, true
}

func (c *cluster) run(name string, args ...string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, name), args...)
	if uid, gid, ok := postgresUser(); ok {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	cmd.Dir = "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("%s: %v: %s", name, err, out)
	}
}

func (c *cluster) start() {
	c.t.Helper()
	c.run("pg_ctl", "-D", c.data, "-w", "-l", filepath.Join(c.data, "log"), "start")
}

func (c *cluster) stop(mode string) {
	c.t.Helper()
	c.run("pg_ctl", "-D", c.data, "-w", "-m", mode, "stop")
}

// end stops the server if it runs.
func (c *cluster) end() {
	if _, err := os.Stat(filepath.Join(c.data, "postmaster.pid")); err == nil {
		c.stop("immediate")
	}
}

func (c *cluster) rig() *rig {
	c.t.Helper()
	r := &rig{t: c.t, dsn: fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres", c.port), slot: "slot"}
	var err error
	if r.s, err = NewServer(ServerOptions{DSN: r.dsn, Pipeline: "own"}); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = r.s.Close() })
	r.reconnect()
	return r
}

func (r *rig) reconnect() {
	r.t.Helper()
	var err error
	if r.conn, err = pgx.Connect(r.ctx(), r.dsn); err != nil {
		r.t.Fatal(err)
	}
	conn := r.conn
	r.t.Cleanup(func() { _ = conn.Close(context.Background()) })
}

// A server that stops, by request or by force, ends the stream with a transient
// fault; the next stream goes on where it was confirmed.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	r := c.rig()
	r.exec("CREATE TABLE t (id int PRIMARY KEY)")
	r.publish(table("t"))
	for i, mode := range []string{"immediate", "fast"} {
		st := r.stream(StreamOptions{})
		r.exec(fmt.Sprintf("INSERT INTO t VALUES (%d)", i*10))
		cs, _ := r.drain(st)
		if len(cs) != 1+i { // what was not confirmed comes again
			t.Errorf("%q", texts(cs))
		}
		if mode == "fast" { // a clean stop waits until everything is confirmed
			if err := st.Confirm(r.ctx(), st.through); err != nil {
				t.Error(err)
			}
		}
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			c.stop(mode)
		}()
		ctx := r.ctx()
		for {
			ev, err := st.Next(ctx)
			if err != nil {
				wantFault(t, err, CodeUnreachable, true)
				break
			}
			if mode == "fast" && ev.Through > 0 {
				_ = st.Confirm(ctx, ev.Through)
			}
		}
		_ = st.Close()
		<-stopped
		_, err := r.s.Slot(r.ctx(), r.slot)
		wantFault(t, err, CodeUnreachable, true)
		c.start()
		r.reconnect()
	}
	r.exec("INSERT INTO t VALUES (99)")
	cs, _ := r.drain(r.stream(StreamOptions{}))
	// Before 17 a restart forgets confirmations that moved nothing else: then they come again.
	if len(cs) == 0 || cs[len(cs)-1].Key.String() != `("99")` {
		t.Errorf("%q", texts(cs))
	}
}

// A slot whose WAL was removed is named, not taken for a lost connection.
func TestSlotInvalidated(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "max_slot_wal_keep_size=2MB", "max_replication_slots=1")
	r := c.rig()
	r.exec("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE noise (v text)")
	r.publish(table("t"))
	_, err := r.s.CreateSlot(r.ctx(), "second")
	wantFault(t, err, CodeSlotsExhausted, false)
	i, err := r.s.Inspect(r.ctx(), "second", testPublication)
	if err != nil || len(i.Problems) != 1 || i.Problems[0].Code != CodeSlotsExhausted {
		t.Errorf("%+v %v", i, err)
	}
	for n := 0; ; n++ {
		r.exec("INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 3000)")
		r.exec("CHECKPOINT")
		s, err := r.s.Slot(r.ctx(), r.slot)
		if err != nil {
			t.Fatal(err)
		}
		if s.WALStatus == "lost" {
			break
		}
		if n > 20 {
			t.Fatalf("the slot lives: %+v", s)
		}
	}
	st, err := r.s.NewStream(StreamOptions{Slot: r.slot, Publication: testPublication, Epoch: 1, SpillDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	_, err = st.Start(r.ctx())
	wantFault(t, err, CodeSlotInvalidated, false)
	if err := r.s.DropSlot(r.ctx(), r.slot); err != nil {
		t.Error(err)
	}
}

func TestWALLevel(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "wal_level=replica")
	r := c.rig()
	_, err := r.s.CreateSlot(r.ctx(), r.slot)
	wantFault(t, err, CodeWALLevel, false)
	st, err := r.s.NewStream(StreamOptions{Slot: r.slot, Publication: testPublication, Epoch: 1, SpillDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	_, err = st.Start(r.ctx())
	wantFault(t, err, CodeWALLevel, false)
	i, err := r.s.Inspect(r.ctx(), r.slot, testPublication)
	if err != nil || len(i.Problems) != 1 || i.Problems[0].Code != CodeWALLevel {
		t.Errorf("%+v %v", i, err)
	}
}

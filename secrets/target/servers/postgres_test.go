package servers

import (
	"context"
	"errors"
	"fmt"
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

	"syncline/secrets/target"
	"syncline/testsuite/stack"
)

const superPassword = "super-51d7"

// server is a Postgres of the test's own, which asks for passwords and logs all statements.
type server struct {
	data string
	port int
}

func (s *server) spec() target.Spec {
	return target.Spec{Name: "main", Type: target.Postgres, Host: "127.0.0.1", Port: s.port, SSLMode: "disable"}
}

func run(t *testing.T, uid, gid int, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(stack.PostgresBinaries(t), name), args...)
	if uid > 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	cmd.Dir = "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}

func newServer(t *testing.T, hba string) *server {
	t.Helper()
	stack.PostgresBinaries(t)
	dir, err := os.MkdirTemp("", "pg") // a short path: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	var uid, gid int
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ = strconv.Atoi(u.Uid)
		gid, _ = strconv.Atoi(u.Gid)
	}
	s := &server{data: filepath.Join(dir, "data"), port: closedPort(t)}
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte(superPassword), 0o600); err != nil {
		t.Fatal(err)
	}
	if uid > 0 {
		if err := errors.Join(os.Chown(dir, uid, gid), os.Chown(secret, uid, gid)); err != nil {
			t.Fatal(err)
		}
	}
	run(t, uid, gid, "initdb", "-D", s.data, "-U", "postgres", "-A", "scram-sha-256", "--pwfile", secret, "--wal-segsize=1", "--no-sync")
	f, err := os.OpenFile(filepath.Join(s.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintf(f, "\nlisten_addresses='127.0.0.1'\nport=%d\nunix_socket_directories='%s'\nfsync=off\nlog_statement=all\nlog_connections=on\n", s.port, dir)
	if err := errors.Join(err, f.Close(), os.WriteFile(filepath.Join(s.data, "pg_hba.conf"), []byte(hba), 0o600)); err != nil {
		t.Fatal(err)
	}
	run(t, uid, gid, "pg_ctl", "-D", s.data, "-w", "-l", filepath.Join(s.data, "log"), "start")
	t.Cleanup(func() { run(t, uid, gid, "pg_ctl", "-D", s.data, "-w", "-m", "immediate", "stop") })
	return s
}

func (s *server) connect(t *testing.T, user, password string) *pgx.Conn {
	t.Helper()
	c, err := pgx.ParseConfig(fmt.Sprintf("postgres://127.0.0.1:%d/postgres?sslmode=disable&application_name=mine", s.port))
	if err != nil {
		t.Fatal(err)
	}
	c.User, c.Password = user, password
	conn, err := pgx.ConnectConfig(inTime(t), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func exec1(t *testing.T, c *pgx.Conn, sql string) {
	t.Helper()
	if _, err := c.Exec(inTime(t), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	s := newServer(t, "host all all 127.0.0.1/32 scram-sha-256\n")
	super := s.connect(t, "postgres", superPassword)
	const odd = `app "a" o'x\ ö`
	exec1(t, super, `CREATE ROLE boss LOGIN CREATEROLE PASSWORD 'boss'; CREATE ROLE app_a LOGIN; CREATE ROLE app_b; CREATE ROLE repl REPLICATION; CREATE ROLE big SUPERUSER;
		GRANT app_a, app_b TO boss WITH ADMIN OPTION; CREATE ROLE `+ident(odd)+`; CREATE ROLE meek LOGIN PASSWORD 'meek'; CREATE ROLE other; CREATE ROLE plainly LOGIN CREATEROLE PASSWORD 'plainly'`)
	boss := open(t, s.spec(), "boss", "boss")
	ctx := inTime(t)

	life(t, boss, "app_a")
	life(t, boss, "app_b")
	life(t, open(t, s.spec(), "postgres", superPassword), odd)
	anyPassword(t, boss, "app_b")

	t.Run("nothing in the log", func(t *testing.T) {
		p := target.NewPassword(40)
		if err := boss.Set(ctx, "app_a", p); err != nil {
			t.Fatal(err)
		}
		if _, err := boss.Try(ctx, "app_a", p); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(s.data, "log"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), `ALTER ROLE "app_a" WITH LOGIN PASSWORD 'SCRAM-SHA-256$`) || strings.Contains(string(b), p.Reveal()) {
			t.Error("the log lacks the statement, or has the password")
		}
	})
	t.Run("sessions", func(t *testing.T) {
		p := target.NewPassword(40)
		if err := boss.Set(ctx, "app_a", p); err != nil {
			t.Fatal(err)
		}
		mine := s.connect(t, "app_a", p.Reveal())
		if err := boss.Disable(ctx, "app_a"); err != nil {
			t.Fatal(err)
		}
		exec1(t, mine, "SELECT 1")
		got, err := boss.Sessions(ctx, "app_a")
		if err != nil || !got.Known || len(got.Open) != 1 || got.Open[0].Application != "mine" || got.Open[0].Address != "127.0.0.1" || time.Since(got.Open[0].Since) > time.Hour {
			t.Errorf("%+v, %v", got, err)
		}
		_, err = open(t, s.spec(), "meek", "meek").End(ctx, "app_a")
		wantFault(t, err, target.CodePrivilege, "GRANT pg_signal_backend")
		if n, err := boss.End(ctx, "app_a"); n != 1 || err != nil {
			t.Errorf("%d ended, %v", n, err)
		}
		if got, err := boss.Sessions(ctx, "app_a"); err != nil || len(got.Open) != 0 {
			t.Errorf("%+v, %v", got, err)
		}
		if n, err := boss.End(ctx, "app_a"); n != 0 || err != nil {
			t.Errorf("%d ended, %v", n, err)
		}
	})
	t.Run("faults", func(t *testing.T) {
		p := target.NewPassword(30)
		wantFault(t, boss.Check(ctx, "app_a", "ghost"), target.CodeMissing, "ghost", "CREATE ROLE")
		wantFault(t, boss.Set(ctx, "ghost", p), target.CodeMissing)
		var version int
		if err := super.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
			t.Fatal(err)
		}
		if version >= 160000 {
			wantFault(t, boss.Check(ctx, "other"), target.CodePrivilege, `GRANT "other" TO "boss" WITH ADMIN OPTION`)
			wantFault(t, boss.Set(ctx, "other", p), target.CodePrivilege)
			wantFault(t, open(t, s.spec(), "plainly", "plainly").Check(ctx, "app_a"), target.CodePrivilege, "ADMIN OPTION")
			wantFault(t, open(t, s.spec(), "meek", "meek").Check(ctx, "app_a"), target.CodePrivilege, "CREATEROLE", "ADMIN OPTION")
		} else {
			wantFault(t, boss.Check(ctx, "repl"), target.CodePrivilege, "superuser")
			wantFault(t, boss.Set(ctx, "repl", p), target.CodePrivilege)
			wantFault(t, open(t, s.spec(), "meek", "meek").Check(ctx, "app_a"), target.CodePrivilege, "CREATEROLE")
		}
		wantFault(t, boss.Check(ctx, "big"), target.CodePrivilege, "superuser")
		bad := open(t, s.spec(), "boss", "wrong-77")
		wantFault(t, bad.Check(ctx, "app_a"), target.CodeAdmin)
		wantFault(t, bad.Set(ctx, "app_a", p), target.CodeAdmin)
		if err := bad.Disable(ctx, "app_a"); err == nil || strings.Contains(err.Error(), "wrong-77") {
			t.Errorf("%v", err)
		}
		exec1(t, super, "ALTER ROLE boss SET default_transaction_read_only = on")
		wantFault(t, boss.Set(ctx, "app_a", p), target.CodeReadOnly, "primary")
		exec1(t, super, "ALTER ROLE boss RESET default_transaction_read_only")
		gone := s.spec()
		gone.Port = closedPort(t)
		unreachable(t, open(t, gone, "boss", "boss"))
	})
}

// Where passwords are not asked for, a rotation says so before it begins.
func TestPostgresTrusts(t *testing.T) {
	t.Parallel()
	s := newServer(t, "host all all 127.0.0.1/32 trust\n")
	super := s.connect(t, "postgres", "")
	exec1(t, super, "CREATE ROLE app_a LOGIN; CREATE ROLE app_b")
	ctx := inTime(t)
	x := open(t, s.spec(), "postgres", "")
	wantFault(t, x.Check(ctx, "app_a", "app_b"), target.CodeVoid, "app_a", "pg_hba.conf")
	meant := s.spec()
	meant.Passwordless = true
	x = open(t, meant, "postgres", "")
	if err := x.Check(ctx, "app_a", "app_b"); err != nil {
		t.Error(err)
	}
	if err := x.Disable(ctx, "app_a"); err != nil {
		t.Fatal(err)
	}
	_, err := x.Try(ctx, "app_a", target.NewPassword(30))
	wantFault(t, err, target.CodeLogin)
}

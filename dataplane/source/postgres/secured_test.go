package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	sinkpostgres "syncline/dataplane/sink/postgres"
	"syncline/testsuite/stack"
)

// secure makes the server take encrypted connections with a password only, ordinary
// and replication alike.
func (c *cluster) secure(a *stack.Authority, password string) {
	c.t.Helper()
	r := &rig{t: c.t, dsn: fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres", c.port)}
	r.reconnect()
	r.exec("SET password_encryption = 'scram-sha-256'; ALTER ROLE postgres PASSWORD '" + password + "'")
	cert, key := a.Sign("postgres.example")
	for name, from := range map[string]string{"server.crt": cert, "server.key": key} {
		b, err := os.ReadFile(from)
		if err != nil {
			c.t.Fatal(err)
		}
		c.file(name, string(b))
	}
	c.file("pg_hba.conf", "hostssl all,replication all 127.0.0.1/32 scram-sha-256\n")
	c.configure("ssl=on")
	c.stop("fast")
	c.start()
}

// file writes a file of the data folder, which only the server's user may read.
func (c *cluster) file(name, text string) {
	c.t.Helper()
	path := filepath.Join(c.data, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if uid, gid, ok := postgresUser(); ok {
		if err := os.Chown(path, uid, gid); err != nil {
			c.t.Fatal(err)
		}
	}
}

// Source and sink work with a server that wants TLS and a password, on every
// connection, and verify it; what is wrong has its name and shows no password.
func TestSecuredServer(t *testing.T) {
	t.Parallel()
	const right, wrong = "right-6f1c", "wrong-93ab"
	c := newCluster(t)
	a := stack.NewAuthority(t)
	c.secure(a, right)
	dsn := func(host, password, options string) string {
		return fmt.Sprintf("postgres://postgres:%s@%s:%d/postgres?%s", password, host, c.port, options)
	}
	good := dsn("127.0.0.1", right, "sslmode=verify-full&sslrootcert="+a.File)

	s, err := NewServer(ServerOptions{DSN: good, Pipeline: "own"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	r := &rig{t: t, dsn: good, slot: "slot", s: s}
	r.reconnect()
	r.exec("CREATE TABLE t (id int PRIMARY KEY)")
	r.publish(table("t"))
	st := r.stream(StreamOptions{})
	r.exec("INSERT INTO t VALUES (7)")
	if changes, _ := r.drain(st); len(changes) != 1 {
		t.Errorf("%d changes", len(changes))
	}
	sk, err := sinkpostgres.Open(sinkpostgres.Config{DSN: good, Pipeline: "own"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sk.Close() })
	if err := sk.Init(r.ctx()); err != nil {
		t.Fatal(err)
	}
	session, err := sk.Claim(r.ctx(), 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = session.Close() }()
	var senders, ours, plain int
	row := r.conn.QueryRow(r.ctx(), `SELECT count(*) FILTER (WHERE backend_type = 'walsender'), count(*) FILTER (WHERE application_name LIKE 'syncline%'), count(*) FILTER (WHERE NOT ssl)
		FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE backend_type IN ('client backend', 'walsender')`, pgx.QueryExecModeSimpleProtocol)
	if err := row.Scan(&senders, &ours, &plain); err != nil {
		t.Fatal(err)
	}
	if senders != 1 || ours < 3 || plain != 0 {
		t.Errorf("%d WAL senders, %d connections of ours, %d in plain text", senders, ours, plain)
	}
	_ = st.Close()

	for name, x := range map[string]struct {
		dsn          string
		source, sink fault.Code
		says         string
	}{
		"another authority": {dsn("127.0.0.1", right, "sslmode=verify-full&sslrootcert="+stack.NewAuthority(t).File), CodeUnreachable, sink.CodeUnreachable, "certificate"},
		"another name":      {dsn("localhost", right, "sslmode=verify-full&sslrootcert="+a.File), CodeUnreachable, sink.CodeUnreachable, "certificate"},
		"wrong password":    {dsn("127.0.0.1", wrong, "sslmode=verify-full&sslrootcert="+a.File), CodeAuth, sink.CodeAuth, ""},
		"plain text":        {dsn("127.0.0.1", right, "sslmode=disable"), CodeAuth, sink.CodeAuth, ""},
	} {
		t.Run(name, func(t *testing.T) {
			check := func(what string, err error, code fault.Code) {
				t.Helper()
				if !fault.Is(err, code) || !fault.Retryable(err) || !strings.Contains(err.Error(), x.says) {
					t.Errorf("%s: want %s, retried, with %q: %v", what, code, x.says, err)
				}
				if err != nil && (strings.Contains(err.Error(), right) || strings.Contains(err.Error(), wrong)) {
					t.Errorf("%s shows the password: %v", what, err)
				}
			}
			s, err := NewServer(ServerOptions{DSN: x.dsn, Pipeline: "own"})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			check("source", s.Ping(r.ctx()), x.source)
			st, err := s.NewStream(StreamOptions{Slot: "slot", Publication: testPublication, Epoch: 1, SpillDir: t.TempDir(), HeartbeatInterval: -1})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = st.Close() }()
			_, err = st.Start(r.ctx())
			check("replication", err, x.source)
			sk, err := sinkpostgres.Open(sinkpostgres.Config{DSN: x.dsn, Pipeline: "own"})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = sk.Close() }()
			check("sink", sk.Init(r.ctx()), x.sink)
		})
	}
}

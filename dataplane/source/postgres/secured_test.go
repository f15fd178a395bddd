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

// Server, client and authority get other certificates while a source and a sink are open:
// trust both, swap the leaves, drop the old. Their next connections have what is there.
func TestCertificatesRotate(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	old, new := stack.NewAuthority(t), stack.NewAuthority(t)
	c.secure(old, "unused")
	c.file("pg_hba.conf", "hostssl all,replication postgres 127.0.0.1/32 cert\n")
	dir := t.TempDir()
	put := func(name string, from ...string) string {
		t.Helper()
		var all []byte
		for _, f := range from {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, b...)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, all, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	text := func(from ...string) string {
		t.Helper()
		b, err := os.ReadFile(put("text", from...))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	cert, key := old.Sign("postgres")
	ca, leaf, private := put("ca.pem", old.File), put("client.pem", cert), put("client.key", key)
	c.file("clients.pem", text(old.File))
	c.configure("ssl_ca_file='clients.pem'")
	c.stop("fast")
	c.start()
	reload := func() {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=verify-full&sslrootcert=%s&sslcert=%s&sslkey=%s", c.port, ca, leaf, private))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close(t.Context()) }()
		if _, err := conn.Exec(t.Context(), "SELECT pg_reload_conf()"); err != nil {
			t.Fatal(err)
		}
	}
	dsn := fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=verify-full&sslrootcert=%s&sslcert=%s&sslkey=%s", c.port, ca, leaf, private)
	s, err := NewServer(ServerOptions{DSN: dsn, Pipeline: "own"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	sk, err := sinkpostgres.Open(sinkpostgres.Config{DSN: dsn, Pipeline: "own"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sk.Close() })
	r := &rig{t: t, dsn: dsn, s: s}
	if err := sk.Init(r.ctx()); err != nil {
		t.Fatal(err)
	}
	works := func(step string) {
		t.Helper()
		s.pool.Reset() // so that what was open does not answer
		if err := s.Ping(r.ctx()); err != nil {
			t.Errorf("%s: source: %v", step, err)
		}
		conn, _, err := s.connectReplication(r.ctx())
		if err != nil {
			t.Errorf("%s: replication: %v", step, err)
			return
		}
		_ = conn.Close(r.ctx())
		session, err := sk.Claim(r.ctx(), 0, 1)
		if err != nil {
			t.Errorf("%s: sink: %v", step, err)
			return
		}
		_ = session.Close()
	}
	works("at first")
	put("ca.pem", old.File, new.File)
	c.file("clients.pem", text(old.File, new.File))
	reload()
	works("both trusted")
	sc, sk2 := new.Sign("postgres.example")
	c.file("server.crt", text(sc))
	c.file("server.key", text(sk2))
	reload()
	works("the server's leaf is swapped")
	cert, key = new.Sign("postgres")
	put("client.pem", cert)
	put("client.key", key)
	works("the client's leaf is swapped")
	put("ca.pem", new.File)
	c.file("clients.pem", text(new.File))
	reload()
	works("the old one is dropped")
	put("ca.pem", stack.NewAuthority(t).File)
	s.pool.Reset()
	if err := s.Ping(r.ctx()); !fault.Is(err, CodeUnreachable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an authority that is not trusted: %v", err)
	}
}

package login_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/login"
	"syncline/dataplane/sink"
	sinkpg "syncline/dataplane/sink/postgres"
	"syncline/testsuite/stack"
)

// roles are two logins of a database with the same rights, used in turn.
type roles struct {
	t     *testing.T
	admin *pgx.Conn
	dsn   string // without user and password
	names [2]string
	src   *login.Held
	last  login.Login
}

func newRoles(t *testing.T, dsn string) *roles {
	t.Helper()
	r := &roles{t: t}
	var err error
	if r.admin, err = pgx.Connect(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	database := strings.TrimPrefix(u.Path, "/")
	u.User = nil
	r.dsn = u.String()
	base := strings.ToLower(stack.Name(t))
	owner := base + "_o"
	r.exec("CREATE ROLE %s NOLOGIN REPLICATION", owner)
	r.exec("GRANT pg_signal_backend TO %s", owner)
	r.exec("ALTER DATABASE %s OWNER TO %s", quoted(database), quoted(owner))
	r.exec("ALTER SCHEMA public OWNER TO %s", owner)
	for i := range r.names {
		r.names[i] = base + string(rune('a'+i))
		r.exec("CREATE ROLE %s LOGIN REPLICATION PASSWORD 'first' IN ROLE %s", r.names[i], owner)
		r.exec("ALTER ROLE %s SET role = %s", r.names[i], quoted(owner))
	}
	r.last = login.Login{User: r.names[0], Password: "first", Generation: 1}
	r.src = login.NewHeld(r.last)
	r.exec("SET ROLE %s", owner)
	t.Cleanup(func() {
		ctx := context.Background()
		_, _ = r.admin.Exec(ctx, "RESET ROLE; DROP PUBLICATION IF EXISTS adopt, adopt_append; REASSIGN OWNED BY "+quoted(owner)+" TO CURRENT_USER; DROP OWNED BY "+quoted(owner))
		for _, n := range append(r.names[:], owner) {
			if _, err := r.admin.Exec(ctx, "DROP ROLE IF EXISTS "+quoted(n)); err != nil {
				t.Log(err)
			}
		}
		_ = r.admin.Close(ctx)
	})
	return r
}

func quoted(s string) string { return pgx.Identifier{strings.Trim(s, `"`)}.Sanitize() }

func (r *roles) exec(format string, names ...string) {
	r.t.Helper()
	args := make([]any, len(names))
	for i, n := range names {
		args[i] = quoted(n)
	}
	if _, err := r.admin.Exec(context.Background(), fmt.Sprintf(format, args...)); err != nil {
		r.t.Fatalf("%s: %v", format, err)
	}
}

// rotate lets the other role log in and puts it into force.
func (r *roles) rotate() (old login.Login) {
	r.t.Helper()
	old = r.last
	next := login.Login{User: r.names[(old.Generation)%2], Password: "first", Generation: old.Generation + 1}
	r.exec("ALTER ROLE %s LOGIN", next.User)
	r.last = next
	if !r.src.Put(next) {
		r.t.Fatal("not put into force")
	}
	return old
}

// end makes the server refuse a role: on the loopback it asks for no password.
func (r *roles) end(old login.Login) {
	r.t.Helper()
	r.exec("ALTER ROLE %s NOLOGIN", old.User)
}

// left waits until no connection of a generation is open, here and at the server.
func (r *roles) left(old login.Login) time.Duration {
	r.t.Helper()
	begun := time.Now()
	deadline := time.After(2 * time.Second)
	for {
		open, changed := r.src.Counts()
		if open[old.Generation] == 0 {
			break
		}
		select {
		case <-changed:
		case <-deadline:
			r.t.Fatalf("%d connections of generation %d are open after 2 s: %v", open[old.Generation], old.Generation, open)
		}
	}
	took := time.Since(begun)
	for {
		var n int
		if err := r.admin.QueryRow(r.t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", old.User).Scan(&n); err != nil {
			r.t.Fatal(err)
		}
		if n == 0 {
			return took
		}
		if time.Since(begun) > 3*time.Second {
			r.t.Fatalf("the server has %d sessions of %s", n, old.User)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A pool's connections, idle ones too, and an idle lane's of a sink move.
func TestPostgresSinkMoves(t *testing.T) {
	t.Parallel()
	dsn := stack.Database(t, stack.SinkPostgres(t))
	r := newRoles(t, dsn)
	r.exec("RESET ROLE")
	sk, err := sinkpg.Open(sinkpg.Config{DSN: r.dsn, Pipeline: stack.Name(t), Login: r.src})
	if err != nil {
		t.Fatal(err)
	}
	defer sk.Close()
	if err := sk.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	x, err := sk.Claim(t.Context(), 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	for i := range 10 {
		if i%2 == 0 { // else the lane has no connection when the login changes
			if _, err := x.Apply(t.Context(), &sink.Batch{}); err != nil {
				t.Fatal(err)
			}
		}
		old := r.rotate()
		t.Logf("left after %v", r.left(old))
		r.end(old)
		if _, err := x.Watermarks(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	// The login in use is ended without a word; the next one is in force when the pool
	// is refused.
	r.exec("RESET ROLE")
	if _, err := r.admin.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", r.last.User); err != nil {
		t.Fatal(err)
	}
	old := r.rotate()
	r.end(old)
	if _, err := x.Apply(t.Context(), &sink.Batch{}); err != nil {
		t.Fatal(err)
	}
	r.left(old)
}

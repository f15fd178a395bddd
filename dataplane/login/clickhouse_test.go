package login_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"syncline/analytics"
	"syncline/dataplane/login"
	sinkch "syncline/dataplane/sink/clickhouse"
	"syncline/testsuite/stack"
)

// users are two users of a ClickHouse server, used in turn; over the native protocol nobody
// is asked for a password.
type users struct {
	t    *testing.T
	dsn  string
	gate *stack.Users
	src  *login.Held
	last login.Login
	busy bool // calls are being made
}

func newUsers(t *testing.T, dsn string) *users {
	t.Helper()
	to, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	to.User = nil
	u := &users{t: t, dsn: to.String()}
	if to.Scheme == "http" {
		u.gate = stack.NewUsers(t, dsn, "boss", "boss")
		u.dsn = u.gate.URL
	}
	u.allow("a", "pw1")
	u.last = login.Login{User: "a", Password: "pw1", Generation: 1}
	u.src = login.NewHeld(u.last)
	return u
}

func (u *users) allow(user, password string) {
	if u.gate != nil {
		u.gate.Put(user, password)
	}
}

func (u *users) rotate() (old login.Login) {
	old = u.last
	u.last = login.Login{User: string("ab"[old.Generation%2]), Password: fmt.Sprint("pw", old.Generation+1), Generation: old.Generation + 1}
	u.allow(u.last.User, u.last.Password)
	u.src.Put(u.last)
	return old
}

// left waits until no connection of a generation is open, then locks its user out.
func (u *users) left(old login.Login) {
	u.t.Helper()
	begun := time.Now()
	for {
		open, changed := u.src.Counts()
		// While calls are made one of them is under the new login; before, none may be
		// under the old one by chance.
		if open[old.Generation] == 0 && (!u.busy || open[u.last.Generation] > 0) {
			break
		}
		select {
		case <-changed:
		case <-time.After(5 * time.Millisecond): // one that is opened is not told of
		}
		if time.Since(begun) > 2*time.Second {
			u.t.Fatalf("connections by generation after 2 s: %v", open)
		}
	}
	u.t.Logf("generation %d left after %v", old.Generation, time.Since(begun).Round(time.Millisecond))
	if u.gate != nil {
		if n := u.gate.Running(old.User); n != 0 {
			u.t.Errorf("%d statements of %s run", n, old.User)
		}
	}
	u.allow(old.User, "gone")
}

// through calls f, again and again and by two goroutines, while the login changes.
func (u *users) through(f func(context.Context) error) {
	u.t.Helper()
	if err := f(u.t.Context()); err != nil {
		u.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(u.t.Context())
	done := make(chan error, 2)
	for range 2 {
		go func() {
			for ctx.Err() == nil {
				if err := f(u.t.Context()); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	u.busy = true
	for range 10 {
		u.left(u.rotate())
	}
	if u.gate != nil { // a login that does not work stops nothing
		works := u.last
		u.src.Put(login.Login{User: works.User, Password: "wrong", Generation: works.Generation + 1})
		for range 5 {
			if err := f(u.t.Context()); err != nil {
				u.t.Fatal(err)
			}
		}
		u.last.Generation += 2
		u.rotate()
		u.left(works)
	}
	stop()
	for range 2 {
		if err := <-done; err != nil {
			u.t.Error(err)
		}
	}
	u.busy = false
	u.left(u.rotate()) // idle
	if err := f(u.t.Context()); err != nil {
		u.t.Error(err)
	}
	// One that is refused has been followed by another, of which nobody was told yet.
	u.allow(u.last.User, "gone")
	u.rotate()
	if err := f(u.t.Context()); err != nil {
		u.t.Error(err)
	}
}

func must(u *url.URL, err error) *url.URL {
	if err != nil {
		panic(err)
	}
	return u
}

func TestClickHouseSinkMoves(t *testing.T) {
	t.Parallel()
	for name, dsn := range map[string]string{"http": stack.ClickHouse(t), "native": stack.ClickHouseNative(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUsers(t, dsn)
			ledger := strings.TrimPrefix(must(url.Parse(stack.ClickHouseDatabase(t))).Path, "/")
			sk, err := sinkch.Open(sinkch.Config{DSN: u.dsn, Pipeline: stack.Name(t), Login: u.src, Options: sinkch.Options{Ledger: ledger}})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = sk.Close() }()
			if err := sk.Init(t.Context()); err != nil {
				t.Fatal(err)
			}
			n := 0
			u.through(func(ctx context.Context) error {
				_, err := sk.Tables(ctx)
				return err
			})
			// An INSERT too.
			for range 3 {
				n++
				if _, err := sk.SaveErasure(t.Context(), fmt.Sprint(n), []byte("s")); err != nil {
					t.Fatal(err)
				}
				u.left(u.rotate())
			}
		})
	}
}

func TestAnalyticsMoves(t *testing.T) {
	t.Parallel()
	for name, dsn := range map[string]string{"http": stack.ClickHouse(t), "native": stack.ClickHouseNative(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUsers(t, dsn)
			s, err := analytics.OpenStore(u.dsn, "default", u.src)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			u.through(func(ctx context.Context) error {
				rows, err := s.Query(ctx, "SELECT number FROM numbers(10)")
				if err != nil {
					return err
				}
				for rows.Next() {
				}
				return rows.Close()
			})
		})
	}
}

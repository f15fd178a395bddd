package login_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"syncline/dataplane/login"
)

func TestPrintsNoPassword(t *testing.T) {
	l := login.Login{User: "app", Password: "hunter2", Generation: 3}
	j, err := json.Marshal(map[string]any{"login": l, "at": &l})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprint(l), fmt.Sprintf("%+v %#v %s %q %x", l, l, l, l, l), fmt.Sprintf("%v", &l), fmt.Sprintf("%+v", []login.Login{l}), string(j)} {
		if strings.Contains(s, "hunter2") || strings.Contains(s, fmt.Sprintf("%x", "hunter2")) {
			t.Errorf("shows the password: %s", s)
		}
	}
}

func TestDialCounts(t *testing.T) {
	src := login.NewHeld(login.Login{User: "app", Password: "x", Generation: 7})
	var ends []net.Conn
	dial := login.Dial(src, login.Login{Generation: 7}, func(context.Context, string, string) (net.Conn, error) {
		a, b := net.Pipe()
		ends = append(ends, b)
		return a, nil
	})
	one, err := dial(t.Context(), "tcp", "x")
	if err != nil {
		t.Fatal(err)
	}
	two, _ := dial(t.Context(), "tcp", "x")
	if n := open(src, 7); n != 2 {
		t.Fatalf("%d connections, want 2", n)
	}
	_ = one.Close()
	_ = one.Close()
	if n := open(src, 7); n != 1 {
		t.Fatalf("%d connections after one was closed twice, want 1", n)
	}
	_ = two.Close()
	failing := login.Dial(src, login.Login{Generation: 7}, func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") })
	if _, err := failing(t.Context(), "tcp", "x"); err == nil {
		t.Fatal("want an error")
	}
	if n := open(src, 7); n != 0 {
		t.Fatalf("%d connections, want none", n)
	}
	for _, e := range ends {
		_ = e.Close()
	}
}

// A login that does not work is tried again, and told; one that does is adopted once.
func TestAdopt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := login.NewHeld(login.Login{User: "a", Password: "1", Generation: 1})
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		var seen []string
		broken := 3
		go login.Adopt(ctx, src, 1, func(_ context.Context, l login.Login) error {
			mu.Lock()
			defer mu.Unlock()
			if l.User == "broken" && broken > 0 {
				broken--
				return errors.New("refused")
			}
			seen = append(seen, fmt.Sprint(l))
			return nil
		})
		src.Put(login.Login{User: "b", Generation: 2})
		synctest.Wait()
		src.Put(login.Login{User: "broken", Generation: 3})
		time.Sleep(time.Minute)
		synctest.Wait()
		src.Put(login.Login{User: "a", Generation: 4})
		synctest.Wait()
		cancel()
		synctest.Wait()
		if got := strings.Join(seen, ", "); got != "b (generation 2), broken (generation 3), a (generation 4)" || broken != 0 {
			t.Errorf("moved to %s", got)
		}
	})
}

func open(h *login.Held, generation int64) int {
	n, _ := h.Counts()
	return n[generation]
}

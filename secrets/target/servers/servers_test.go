package servers

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
	"unicode"

	"pgregory.net/rapid"

	"syncline/dataplane/fault"
	"syncline/dataplane/login"
	"syncline/secrets"
	"syncline/secrets/target"
)

func open(t *testing.T, s target.Spec, user, password string) target.Target {
	t.Helper()
	x, err := Open(s, login.Login{User: user, Password: password}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.Close)
	return x
}

func inTime(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func wantFault(t *testing.T, err error, c fault.Code, says ...string) {
	t.Helper()
	if !fault.Is(err, c) {
		t.Errorf("want %s: %v", c, err)
		return
	}
	if transient := c == target.CodeUnreachable || c == target.CodeSpread; fault.Retryable(err) != transient {
		t.Errorf("retried: %v: %v", !transient, err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("does not say %q: %v", s, err)
		}
	}
}

// life is what all targets have in common: set, set again, another, disabled, back.
func life(t *testing.T, x target.Target, user string) {
	t.Helper()
	ctx := inTime(t)
	if err := x.Check(ctx, user); err != nil {
		t.Fatal(err)
	}
	one, two := target.NewPassword(40), secrets.NewSecret(`p'a"s\s w$o{r}d;--%&/?@:#ö`)
	let := func(p secrets.Secret, in bool) {
		t.Helper()
		as, err := x.Try(ctx, user, p)
		switch {
		case in && (err != nil || !strings.HasSuffix(as, user)):
			t.Fatalf("as %q: %v", as, err)
		case !in:
			wantFault(t, err, target.CodeLogin)
			if strings.Contains(err.Error(), p.Reveal()) {
				t.Errorf("shows the password: %v", err)
			}
		}
	}
	set := func(p secrets.Secret) {
		t.Helper()
		if err := x.Set(ctx, user, p); err != nil {
			t.Fatal(err)
		}
	}
	disable := func() {
		t.Helper()
		if err := x.Disable(ctx, user); err != nil {
			t.Fatal(err)
		}
	}
	set(one)
	let(one, true)
	set(one)
	let(one, true)
	let(two, false)
	set(two)
	let(two, true)
	let(one, false)
	if err := x.Check(ctx, user); err != nil {
		t.Error(err)
	}
	let(two, true) // a check changes nothing
	disable()
	let(two, false)
	disable()
	let(two, false)
	if err := x.Check(ctx, user); err != nil {
		t.Error(err)
	}
	set(two)
	let(two, true)
	if err := x.Disable(ctx, "nobody-there"); err != nil {
		t.Errorf("nobody: %v", err)
	}
	if err := x.Set(ctx, user, secrets.NewSecret("tab\there")); !fault.Is(err, target.CodePassword) {
		t.Errorf("%v", err)
	}
}

// printable makes passwords of all characters that a keyboard has, and some more.
func printable() *rapid.Generator[string] {
	return rapid.StringOfN(rapid.OneOf(rapid.RuneFrom(nil, &unicode.RangeTable{R16: []unicode.Range16{{Lo: 0x20, Hi: 0x7e, Stride: 1}}}), rapid.RuneFrom([]rune("äß€漢яé"))), 1, 60, -1)
}

// anyPassword holds that a password that is taken lets in.
func anyPassword(t *testing.T, x target.Target, user string) {
	t.Helper()
	ctx := inTime(t)
	g := printable()
	for seed := range 25 {
		p := secrets.NewSecret(g.Example(seed))
		if err := x.Set(ctx, user, p); err != nil {
			t.Fatal(err)
		}
		if _, err := x.Try(ctx, user, p); err != nil {
			t.Fatal(err)
		}
		if _, err := x.Try(ctx, user, secrets.NewSecret(p.Reveal()+"x")); !fault.Is(err, target.CodeLogin) {
			t.Fatalf("another: %v", err)
		}
	}
}

// closedPort is where nobody listens.
func closedPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func unreachable(t *testing.T, x target.Target) {
	t.Helper()
	ctx := inTime(t)
	p := target.NewPassword(30)
	_, tried := x.Try(ctx, "app_a", p)
	for _, err := range []error{x.Check(ctx, "app_a"), x.Set(ctx, "app_a", p), x.Disable(ctx, "app_a"), tried} {
		wantFault(t, err, target.CodeUnreachable)
	}
}

// What is in time cancelled is no fault of a server.
func TestCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, s := range []target.Spec{
		{Name: "p", Type: "postgres", Host: "127.0.0.1", Port: 1}, {Name: "c", Type: "clickhouse", Host: "127.0.0.1", Port: 1},
	} {
		if err := open(t, s, "admin", "x").Check(ctx, "a"); !errors.Is(err, context.Canceled) || fault.CodeOf(err) != "" {
			t.Errorf("%s: %v", s.Type, err)
		}
	}
}

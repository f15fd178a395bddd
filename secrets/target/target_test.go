package target

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"syncline/dataplane/certs"
	"syncline/dataplane/fault"
	"syncline/dataplane/login"
	"syncline/secrets"
	"syncline/testsuite/stack"
)

// eventually: brokers learn of users one after the other.
func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	t.Fatalf("not seen: %s: %v", what, err)
}

func want(err error, code fault.Code) error {
	if !fault.Is(err, code) {
		return fmt.Errorf("got %v, want %s", err, code)
	}
	return nil
}

// conforms holds what every target has to do.
func conforms(t *testing.T, open func(admin login.Login) Target, admin login.Login, users [2]string) {
	tg := open(admin)
	defer tg.Close()
	ctx := t.Context()
	tries := func(user, password string, code fault.Code) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s as %q", user, code), func() error {
			as, err := tg.Try(ctx, user, secrets.NewSecret(password))
			switch {
			case code != "":
				return want(err, code)
			case err == nil && !strings.HasSuffix(as, user):
				return fmt.Errorf("it is called %s", as)
			}
			return err
		})
	}
	if err := tg.Check(ctx, users[0], users[1]); err != nil {
		t.Fatal(err)
	}
	one, err := NewPassword(40)
	if err != nil {
		t.Fatal(err)
	}
	two, _ := NewPassword(40)
	for range 2 { // a repetition changes nothing
		if err := tg.Set(ctx, users[0], one); err != nil {
			t.Fatal(err)
		}
		tries(users[0], one.Reveal(), "")
	}
	tries(users[0], two.Reveal(), CodeLoginRefused)
	tries(users[1], one.Reveal(), CodeLoginRefused)
	if err := tg.Set(ctx, users[1], two); err != nil {
		t.Fatal(err)
	}
	tries(users[1], two.Reveal(), "")
	tries(users[0], one.Reveal(), "") // the other one is as it was
	for range 2 {
		if err := tg.Disable(ctx, users[0]); err != nil {
			t.Fatal(err)
		}
		tries(users[0], one.Reveal(), CodeLoginRefused)
	}
	tries(users[1], two.Reveal(), "")
	if err := tg.Set(ctx, users[0], one); err != nil { // and back
		t.Fatal(err)
	}
	tries(users[0], one.Reveal(), "")

	wrong := open(login.Login{User: admin.User + "x", Password: "wrong"})
	defer wrong.Close()
	if err := wrong.Check(ctx, users[0], users[1]); err == nil || fault.Retryable(err) {
		t.Errorf("an administrator that is refused: %v", err)
	}
	if err := wrong.Set(ctx, users[0], two); want(err, CodeTargetAdmin) != nil || strings.Contains(err.Error(), two.Reveal()) {
		t.Errorf("set by one that is refused: %v", err)
	}
	tries(users[0], one.Reveal(), "")
	gone, cancel := context.WithTimeout(ctx, time.Nanosecond)
	defer cancel()
	<-gone.Done()
	if _, err := tg.Try(gone, users[0], one); fault.Is(err, CodeLoginRefused) || !fault.Retryable(err) {
		t.Errorf("no answer is no refusal: %v", err)
	}
}

type pg struct {
	t    *testing.T
	dsn  string
	spec Spec
}

func newPG(t *testing.T) *pg {
	dsn := stack.Postgres(t)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	port, _ := strconv.Atoi(u.Port())
	p := &pg{t, dsn, Spec{Name: "main", Type: Postgres, Host: u.Hostname(), Port: port, Database: strings.TrimPrefix(u.Path, "/"), SSLMode: "disable"}}
	p.exec(`DO $$ BEGIN CREATE ROLE passwords NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$`)
	return p
}

func (p *pg) exec(sql ...string) {
	p.t.Helper()
	// Also after the test.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, p.dsn)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = c.Close(ctx) }()
	for _, s := range sql {
		if _, err := c.Exec(ctx, s); err != nil {
			p.t.Fatalf("%s: %v", s, err)
		}
	}
}

func (p *pg) role(name, with string) string {
	p.t.Helper()
	q := pgx.Identifier{name}.Sanitize()
	p.exec("CREATE ROLE " + q + " " + with)
	p.t.Cleanup(func() { p.exec("DROP ROLE " + q) })
	return name
}

func (p *pg) open(admin login.Login) Target {
	p.t.Helper()
	tg, err := Open(Options{Spec: p.spec, Admin: admin})
	if err != nil {
		p.t.Fatal(err)
	}
	return tg
}

func TestPostgres(t *testing.T) {
	p := newPG(t)
	name := stack.Name(t)
	a, b := p.role(name+`_"a b`, "LOGIN IN ROLE passwords"), p.role(name+"_B", "NOLOGIN IN ROLE passwords")
	conforms(t, p.open, login.Login{User: "postgres"}, [2]string{a, b})
}

// The administrator need not be a superuser, and the password is in no log.
func TestPostgresAdministrators(t *testing.T) {
	p := newPG(t)
	name := stack.Name(t)
	a, b := p.role(name+"_a", "LOGIN IN ROLE passwords"), p.role(name+"_b", "LOGIN IN ROLE passwords")
	admin := p.role(name+"_admin", "LOGIN CREATEROLE PASSWORD 'admin-password' IN ROLE passwords")
	nobody := p.role(name+"_nobody", "LOGIN PASSWORD 'nobody-password' IN ROLE passwords")
	as := login.Login{User: admin, Password: "admin-password"}
	// Of Postgres 16 and later.
	p.exec(fmt.Sprintf("GRANT %s, %s TO %s WITH ADMIN OPTION", a, b, admin))
	t.Cleanup(func() { p.exec(fmt.Sprintf("REVOKE %s, %s FROM %s", a, b, admin)) })
	tg := p.open(as)
	if err := tg.Check(t.Context(), a, b); err != nil {
		t.Fatal(err)
	}
	pw, _ := NewPassword(40)
	if err := tg.Set(t.Context(), a, pw); err != nil {
		t.Fatal(err)
	}
	if err := want(tg.Check(t.Context(), a, name+"_none"), CodeTargetUser); err != nil {
		t.Error(err)
	}
	if err := want(p.open(login.Login{User: nobody, Password: "nobody-password"}).Check(t.Context(), a, b), CodeTargetAdmin); err != nil {
		t.Error(err)
	}
	if err := want(p.open(login.Login{User: nobody, Password: "nobody-password"}).Set(t.Context(), a, pw), CodeTargetAdmin); err != nil {
		t.Error(err)
	}
	// Users that the server trusts, whatever they say.
	trusted := p.role(name+"_trusted", "LOGIN")
	if err := want(p.open(login.Login{User: "postgres"}).Check(t.Context(), trusted), CodeTargetOpen); err != nil {
		t.Error(err)
	}
	dead := p.spec
	dead.Port = 1
	lost, err := Open(Options{Spec: dead, Admin: as})
	if err != nil {
		t.Fatal(err)
	}
	if err := lost.Set(t.Context(), a, pw); want(err, CodeTargetUnreachable) != nil || !fault.Retryable(err) {
		t.Errorf("nobody is there: %v", err)
	}
	for _, dir := range []string{"../../.data/logs", os.Getenv("SYNCLINE_STACK_LOGS")} {
		files, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, f := range files {
			if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), pw.Reveal()) {
				t.Errorf("the password is in %s", f)
			}
		}
	}
}

// Statements that are logged or counted by the server have no password in them.
func TestPostgresSeesNoPassword(t *testing.T) {
	p := newPG(t)
	a := p.role(stack.Name(t)+"_a", "LOGIN IN ROLE passwords")
	pw, _ := NewPassword(40)
	v, err := verifier(pw)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(v, pw.Reveal()) || !strings.HasPrefix(v, "SCRAM-SHA-256$4096:") {
		t.Errorf("the verifier is %s", v)
	}
	if err := p.open(login.Login{User: "postgres"}).Set(t.Context(), a, pw); err != nil {
		t.Fatal(err)
	}
	c, err := pgx.Connect(t.Context(), p.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	var kept string
	if err := c.QueryRow(t.Context(), "SELECT rolpassword FROM pg_authid WHERE rolname = $1", a).Scan(&kept); err != nil || !strings.HasPrefix(kept, "SCRAM-SHA-256$") {
		t.Errorf("the server keeps %q, %v: not the verifier as it was sent", kept, err)
	}
}

func TestPostgresSessions(t *testing.T) {
	p := newPG(t)
	a := p.role(stack.Name(t)+"_a", "LOGIN IN ROLE passwords")
	tg := p.open(login.Login{User: "postgres"})
	pw, _ := NewPassword(40)
	if err := tg.Set(t.Context(), a, pw); err != nil {
		t.Fatal(err)
	}
	cc, err := pgx.ParseConfig(p.dsn + "?application_name=reports")
	if err != nil {
		t.Fatal(err)
	}
	cc.User, cc.Password = a, pw.Reveal()
	c, err := pgx.ConnectConfig(t.Context(), cc)
	if err != nil {
		t.Fatal(err)
	}
	if err := tg.Disable(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	s, err := tg.Sessions(t.Context(), a)
	if err != nil || !s.Known || s.Count != 1 || s.List[0].Application != "reports" || !strings.HasPrefix(s.List[0].String(), "reports from 127.0.0.1 since ") {
		t.Fatalf("%+v, %v", s, err)
	}
	if n, err := tg.End(t.Context(), a); err != nil || n != 1 {
		t.Fatalf("ended %d, %v", n, err)
	}
	eventually(t, "the end of the session", func() error {
		if s, err := tg.Sessions(t.Context(), a); err != nil || s.Count != 0 {
			return fmt.Errorf("%+v, %w", s, err)
		}
		return nil
	})
	if _, err := c.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("the session goes on")
	}
}

func TestKafka(t *testing.T) {
	s := stack.KafkaSecured(t)
	pem, err := os.ReadFile(s.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	for _, mechanism := range []string{"scram-sha-256", "scram-sha-512"} {
		t.Run(mechanism, func(t *testing.T) {
			open := func(admin login.Login) Target {
				tg, err := Open(Options{Spec: Spec{Name: "log", Type: Kafka, Brokers: s.Brokers, Mechanism: mechanism}, Admin: admin, TLS: certs.Fixed(&tls.Config{RootCAs: pool})})
				if err != nil {
					t.Fatal(err)
				}
				return tg
			}
			name := stack.Name(t)
			admin := login.Login{User: s.User, Password: s.Password}
			t.Cleanup(func() {
				for _, u := range []string{name + "_a", name + "_b"} {
					_ = open(admin).Disable(context.Background(), u)
				}
			})
			conforms(t, open, admin, [2]string{name + "_a", name + "_b"})
			if s, err := open(admin).Sessions(t.Context(), name+"_a"); err != nil || s.Known {
				t.Errorf("brokers tell no sessions: %+v, %v", s, err)
			}
		})
	}
}

func TestNewPassword(t *testing.T) {
	seen := map[string]bool{}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(27, 128).Draw(t, "length")
		p, err := NewPassword(n)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Reveal()) != n || strings.Trim(p.Reveal(), letters) != "" || seen[p.Reveal()] {
			t.Fatal("not one of its own, of letters and digits")
		}
		seen[p.Reveal()] = true
	})
	if _, err := NewPassword(26); err == nil {
		t.Error("too short a password")
	}
}

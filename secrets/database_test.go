package secrets_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"syncline/dataplane/fault"
	"syncline/dataplane/login"
	"syncline/secrets"
	"syncline/testsuite/stack"
)

// databaseEngine is Vault's own, at a Postgres whose users of it have to give a password.
func (v *realVault) databaseEngine() (mount, dsn string) {
	v.t.Helper()
	mount, dsn = v.v2+"_db", stack.Postgres(v.t)
	must(v.t, v.c.Sys().Mount(mount, &vaultapi.MountInput{Type: "database"}))
	v.t.Cleanup(func() { must(v.t, v.c.Sys().Unmount(mount)) }) // which revokes all leases
	u, err := url.Parse(dsn)
	must(v.t, err)
	_, err = v.c.Logical().Write(mount+"/config/pg", map[string]any{
		"plugin_name": "postgresql-database-plugin", "allowed_roles": "*", "username": "postgres", "password": "none is asked for",
		"connection_url": fmt.Sprintf("postgresql://{{username}}:{{password}}@%s%s?sslmode=disable", u.Host, u.Path),
	})
	must(v.t, err)
	exec(v.t, dsn, `DO $$ BEGIN CREATE ROLE passwords NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$`)
	return mount, dsn
}

func exec(t *testing.T, dsn, sql string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	must(t, err)
	defer func() { _ = c.Close(context.Background()) }()
	_, err = c.Exec(t.Context(), sql)
	must(t, err)
}

// logsIn reports whether a server takes a login.
func logsIn(dsn string, l login.Login) bool {
	u, err := url.Parse(dsn)
	if err != nil {
		return false
	}
	u.User = url.UserPassword(l.User, l.Password)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, u.String())
	if err != nil {
		return false
	}
	return c.Close(ctx) == nil
}

// dynamicRole is the role app of an engine.
func (v *realVault) dynamicRole(mount, ttl, longest string) {
	v.t.Helper()
	_, err := v.c.Logical().Write(mount+"/roles/app", map[string]any{
		"db_name": "pg", "default_ttl": ttl, "max_ttl": longest,
		"creation_statements":   []string{`CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE passwords`},
		"revocation_statements": []string{`DROP ROLE IF EXISTS "{{name}}"`},
	})
	must(v.t, err)
}

// moves collects the logins that come into force.
type moves struct {
	mu  sync.Mutex
	all []login.Login
}

func (m *moves) add(_ secrets.LoginRef, l login.Login) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = append(m.all, l)
}

func (m *moves) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.all)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(40 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not seen: %s", what)
		}
	}
}

// The lease of a dynamic role is renewed for as long as Vault grants it, then another user
// is made, before the first is gone: at no moment is the login in force one that is refused.
func TestDynamicRole(t *testing.T) {
	v := newRealVault(t)
	mount, dsn := v.databaseEngine()
	v.dynamicRole(mount, "3s", "9s")
	policy := v.reader + "_db"
	must(t, v.c.Sys().PutPolicy(policy, fmt.Sprintf(`path "%s/creds/*" { capabilities = ["read"] }`, mount)))
	r := v.resolver(secrets.VaultOptions{Token: secrets.NewSecret(v.token("1h", false, policy).ClientToken)})
	var m moves
	ls := r.Logins(secrets.LoginsOptions{Moved: m.add, Failed: func(_ secrets.LoginRef, err error) { t.Error(err) }})
	defer ls.Close()
	a, err := ls.Of(t.Context(), loginRef(t, "vault:"+mount+"/creds/app"))
	must(t, err)
	first, err := a.Login(t.Context())
	must(t, err)
	eventually(t, "two more users", func() bool {
		l, err := a.Login(t.Context())
		if err != nil || !logsIn(dsn, l) {
			if now, _ := a.Login(t.Context()); now.Generation == l.Generation {
				t.Fatalf("%s is in force and refused: %v", l, err)
			}
		}
		return m.count() >= 2
	})
	if first.Generation != 1 || !strings.HasPrefix(first.User, "v-") {
		t.Errorf("the first was %s", first)
	}
	m.mu.Lock()
	second := m.all[0]
	m.mu.Unlock()
	if second.Generation != 2 || second.User == first.User {
		t.Errorf("after %s came %s", first, second)
	}
	eventually(t, "the end of the first", func() bool { return !logsIn(dsn, first) })
}

// Vault gives a static role another password at its turn, and connections move then.
func TestStaticRole(t *testing.T) {
	v := newRealVault(t)
	mount, dsn := v.databaseEngine()
	user := strings.ToLower(v.v2) + "_static"
	exec(t, dsn, fmt.Sprintf(`CREATE ROLE %s LOGIN IN ROLE passwords`, user))
	t.Cleanup(func() {
		c, err := pgx.Connect(context.Background(), dsn)
		must(t, err)
		_, err = c.Exec(context.Background(), "DROP ROLE "+user)
		must(t, err)
		_ = c.Close(context.Background())
	})
	_, err := v.c.Logical().Write(mount+"/static-roles/app", map[string]any{"db_name": "pg", "username": user, "rotation_period": "5s"})
	must(t, err)
	r := v.resolver(secrets.VaultOptions{Token: secrets.NewSecret(v.c.Token())})
	var m moves
	ls := r.Logins(secrets.LoginsOptions{Moved: m.add})
	defer ls.Close()
	a, err := ls.Of(t.Context(), loginRef(t, "vault:"+mount+"/static-creds/app"))
	must(t, err)
	eventually(t, "two more passwords", func() bool { return m.count() >= 2 })
	l, _ := a.Login(t.Context())
	if l.User != user || l.Generation != 3 || !logsIn(dsn, l) {
		t.Errorf("in force is %s", l)
	}
}

const mayRevoke = `
path "sys/leases/revoke" { capabilities = ["update"] }`

// dynamic is a login of a dynamic role whose leases do not end during a test.
type dynamic struct {
	t     *testing.T
	dsn   string
	token string // in the file
	r     *secrets.Resolver
	ls    *secrets.Logins
	a     *secrets.Account
	told  chan error // of what was revoked, or why it was not

	asked atomic.Pointer[func()] // when Vault is asked to revoke; nil: it is Vault's
}

// dynamic opens one by a token that may have what the policy adds: AppRole's, or if o is not
// for that, one from a file.
func (v *realVault) dynamic(o secrets.VaultOptions, adds string) *dynamic {
	v.t.Helper()
	mount, dsn := v.databaseEngine()
	v.dynamicRole(mount, "1h", "2h")
	must(v.t, v.c.Sys().PutPolicy(v.reader, fmt.Sprintf(`path "%s/creds/*" { capabilities = ["read"] }`, mount)+adds))
	d := &dynamic{t: v.t, dsn: dsn, told: make(chan error, 10)}
	if o.RoleID == "" {
		d.token = v.token("1h", false, v.reader).ClientToken
		o.TokenFile = filepath.Join(v.t.TempDir(), "token")
		must(v.t, os.WriteFile(o.TokenFile, []byte(d.token), 0o600))
	}
	to, err := url.Parse(v.addr)
	must(v.t, err)
	proxy := httputil.NewSingleHostReverseProxy(to)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := d.asked.Load(); f != nil && r.URL.Path == "/v1/sys/leases/revoke" {
			(*f)()
			if r.Context().Err() != nil { // nobody waits any more
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	v.t.Cleanup(front.Close)
	o.Address = front.URL
	d.r, err = secrets.New(secrets.Options{Vault: o, CacheFor: -1})
	must(v.t, err)
	v.t.Cleanup(d.r.Close)
	d.ls = d.r.Logins(secrets.LoginsOptions{Jitter: time.Millisecond, Revoked: func(_ secrets.LoginRef, _ string, err error) { d.told <- err }})
	v.t.Cleanup(d.ls.Close)
	d.a, err = d.ls.Of(v.t.Context(), loginRef(v.t, "vault:"+mount+"/creds/app"))
	must(v.t, err)
	return d
}

func (d *dynamic) login() login.Login {
	d.t.Helper()
	l, err := d.a.Login(d.t.Context())
	must(d.t, err)
	return l
}

// connect opens a connection by the login in force, which is counted.
func (d *dynamic) connect() *pgx.Conn {
	d.t.Helper()
	l := d.login()
	cfg, err := pgx.ParseConfig(d.dsn)
	must(d.t, err)
	cfg.User, cfg.Password, cfg.DialFunc = l.User, l.Password, pgconn.DialFunc(login.Dial(d.a, l, nil))
	c, err := pgx.ConnectConfig(d.t.Context(), cfg)
	must(d.t, err)
	d.t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func (d *dynamic) exists(l login.Login) bool {
	d.t.Helper()
	c, err := pgx.Connect(d.t.Context(), d.dsn)
	must(d.t, err)
	defer func() { _ = c.Close(context.Background()) }()
	var is bool
	must(d.t, c.QueryRow(d.t.Context(), "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", l.User).Scan(&is))
	return is
}

// close ends the process's use of logins, which has to take a few seconds at most.
func (d *dynamic) close() {
	d.t.Helper()
	begun := time.Now()
	d.ls.Close()
	// Twice the bound, for a machine that has other things to do.
	if took := time.Since(begun); took > 8*time.Second {
		d.t.Errorf("the end took %s", took)
	}
}

var tokens = map[string]func(*realVault) secrets.VaultOptions{
	"token file": func(*realVault) secrets.VaultOptions { return secrets.VaultOptions{} },
	"AppRole":    func(v *realVault) secrets.VaultOptions { return v.appRole("1h") },
}

// An account that another replaces is revoked when its connections are closed, and at the
// end of the process so is the last one.
func TestDynamicAccountsAreRevoked(t *testing.T) {
	for name, options := range tokens {
		t.Run(name, func(t *testing.T) {
			v := newRealVault(t)
			d := v.dynamic(options(v), mayRevoke)
			early := func() {
				if open, _ := d.a.Counts(); len(open) > 0 {
					t.Errorf("revoked while connections are open: %v", open)
				}
			}
			d.asked.Store(&early)
			first, conn := d.login(), d.connect()
			second, err := d.a.Refused(t.Context(), first) // a refusal has another made
			must(t, err)
			if second.User == first.User || second.Generation != 2 || !d.exists(first) {
				t.Fatalf("%s was followed by %s; it exists: %v", first, second, d.exists(first))
			}
			must(t, conn.Close(t.Context()))
			must(t, <-d.told)
			eventually(t, "the end of the first", func() bool { return !d.exists(first) })

			conn = d.connect()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				d.close()
			}()
			must(t, conn.Close(t.Context()))
			<-ended
			must(t, <-d.told)
			eventually(t, "the end of the second", func() bool { return !d.exists(second) })
			if _, err := d.a.Refused(t.Context(), second); err != nil || d.login().Generation != 2 {
				t.Errorf("another account is made after the end: %s, %v", d.login(), err)
			}
			d.r.Close()
			if d.token != "" { // which is not ours
				must(t, v.lookup(d.token))
			}
		})
	}
}

// A connection that is not closed holds up the end of the process for a moment only.
func TestRevokedUnderAConnection(t *testing.T) {
	v := newRealVault(t)
	d := v.dynamic(secrets.VaultOptions{}, mayRevoke)
	d.connect()
	d.close()
	must(t, <-d.told)
	eventually(t, "the end of the account", func() bool { return !d.exists(d.login()) })
}

// Without the right to revoke all goes on as before: accounts end with their lease, or with
// the token if it is the process's own.
func TestMayNotRevoke(t *testing.T) {
	for name, options := range tokens {
		t.Run(name, func(t *testing.T) {
			v := newRealVault(t)
			d := v.dynamic(options(v), "")
			first := d.login()
			second, err := d.a.Refused(t.Context(), first)
			must(t, err)
			for _, l := range []login.Login{first, second} {
				if l == second {
					d.close()
				}
				if err := <-d.told; !fault.Is(err, secrets.CodeVaultPermissionDenied) || !strings.Contains(err.Error(), "sys/leases/revoke") || strings.Contains(err.Error(), l.Password) {
					t.Errorf("told %v", err)
				}
				if !d.exists(l) {
					t.Errorf("%s is gone", l)
				}
			}
			d.r.Close()
			if d.token == "" {
				eventually(t, "the end of both", func() bool { return !d.exists(first) && !d.exists(second) })
			}
		})
	}
}

// A Vault that does not answer holds up the end of the process for a moment only.
func TestVaultIsSilentAtTheEnd(t *testing.T) {
	v := newRealVault(t)
	d := v.dynamic(secrets.VaultOptions{}, mayRevoke)
	over := make(chan struct{})
	silent := func() { <-over }
	d.asked.Store(&silent)
	d.close()
	close(over)
	if err := <-d.told; !fault.Is(err, secrets.CodeVaultUnreachable) || strings.Contains(err.Error(), d.login().Password) || strings.Contains(err.Error(), d.token) {
		t.Errorf("told %v", err)
	}
}

// lookup fails for a token that is no longer good.
func (v *realVault) lookup(token string) error {
	_, err := v.c.Auth().Token().LookupWithContext(v.t.Context(), token)
	return err
}

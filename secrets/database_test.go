package secrets_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	"github.com/jackc/pgx/v5"

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
	_, err := v.c.Logical().Write(mount+"/roles/app", map[string]any{
		"db_name": "pg", "default_ttl": "3s", "max_ttl": "9s",
		"creation_statements":   []string{`CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE passwords`},
		"revocation_statements": []string{`DROP ROLE IF EXISTS "{{name}}"`},
	})
	must(t, err)
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

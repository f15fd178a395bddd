package secrets_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	vaultapi "github.com/hashicorp/vault/api"

	"syncline/dataplane/fault"
	"syncline/secrets"
	"syncline/testsuite/stack"
)

// realVault is a namespace of our own in a real Vault: two KV engines, an
// AppRole mount and policies that nobody else uses.
type realVault struct {
	t              *testing.T
	c              *vaultapi.Client
	addr           string
	v1, v2, role   string // mounts
	reader, nobody string // policies
}

func newRealVault(t *testing.T) *realVault {
	addr, file := stack.Vault(t)
	token, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cfg := vaultapi.DefaultConfig()
	cfg.Address = addr
	c, err := vaultapi.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.SetToken(strings.TrimSpace(string(token)))
	name := stack.Name(t)
	v := &realVault{t: t, c: c, addr: addr, v1: name + "_v1", v2: name + "_v2", role: name + "_role", reader: name + "_reader", nobody: name + "_nobody"}
	must(t, c.Sys().Mount(v.v1, &vaultapi.MountInput{Type: "kv", Options: map[string]string{"version": "1"}}))
	must(t, c.Sys().Mount(v.v2, &vaultapi.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}))
	must(t, c.Sys().EnableAuthWithOptions(v.role, &vaultapi.EnableAuthOptions{Type: "approle"}))
	t.Cleanup(func() {
		must(t, c.Sys().Unmount(v.v1))
		must(t, c.Sys().Unmount(v.v2))
		must(t, c.Sys().DisableAuth(v.role))
	})
	must(t, c.Sys().PutPolicy(v.reader, `path "`+v.v1+`/*" { capabilities = ["read"] }
path "`+v.v2+`/data/app/*" { capabilities = ["read"] }`))
	must(t, c.Sys().PutPolicy(v.nobody, `path "`+v.v2+`/data/other" { capabilities = ["read"] }`))

	// A fresh engine of version 2 upgrades itself first and refuses writes meanwhile.
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, err := c.KVv2(v.v2).Put(t.Context(), "app/db", map[string]any{"password": "pass-v2", "port": 5432})
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	must(t, c.KVv1(v.v1).Put(t.Context(), "db", map[string]any{"password": "pass-v1"}))
	return v
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (v *realVault) token(ttl string, noDefault bool, policies ...string) *vaultapi.SecretAuth {
	s, err := v.c.Auth().Token().Create(&vaultapi.TokenCreateRequest{Policies: policies, TTL: ttl, NoDefaultPolicy: noDefault})
	must(v.t, err)
	return s.Auth
}

func (v *realVault) resolver(o secrets.VaultOptions) *secrets.Resolver {
	o.Address = v.addr
	r, err := secrets.New(secrets.Options{Vault: o, CacheFor: -1})
	must(v.t, err)
	v.t.Cleanup(r.Close)
	return r
}

func (v *realVault) want(r *secrets.Resolver, ref, value string) {
	v.t.Helper()
	s, err := r.Resolve(v.t.Context(), secrets.MustParseRef(ref))
	if err != nil {
		v.t.Fatalf("%s: %v", ref, err)
	}
	if s.Reveal() != value {
		v.t.Fatalf("%s: another value", ref)
	}
}

func (v *realVault) wantFault(r *secrets.Resolver, ref string, code fault.Code, retry bool) {
	v.t.Helper()
	_, err := r.Resolve(v.t.Context(), secrets.MustParseRef(ref))
	if fault.CodeOf(err) != code || fault.Retryable(err) != retry {
		v.t.Fatalf("%s: got %v, want %s (retry %v)", ref, err, code, retry)
	}
	var f *fault.Error
	if !errors.As(err, &f) || f.Fix == "" {
		v.t.Errorf("%s: no fix in %v", ref, err)
	}
}

func TestRealVaultReads(t *testing.T) {
	v := newRealVault(t)
	r := v.resolver(secrets.VaultOptions{Token: secrets.NewSecret(v.token("1h", false, v.reader).ClientToken)})
	v.want(r, "vault:"+v.v2+"/app/db#password", "pass-v2")
	v.want(r, "vault:"+v.v2+"/data/app/db#password", "pass-v2")
	v.want(r, "vault:"+v.v2+"/app/db#port", "5432")
	v.want(r, "vault:"+v.v1+"/db#password", "pass-v1")
	v.wantFault(r, "vault:"+v.v2+"/app/db#pass", secrets.CodeSecretFieldMissing, false)
	v.wantFault(r, "vault:"+v.v2+"/app/none#password", secrets.CodeSecretMissing, false)
	v.wantFault(r, "vault:"+v.v1+"/none#password", secrets.CodeSecretMissing, false)
	v.wantFault(r, "vault:"+v.v2+"/elsewhere#password", secrets.CodeVaultPermissionDenied, false)
	v.wantFault(r, "vault:"+v.v1+"-none/db#password", secrets.CodeVaultPermissionDenied, false)

	kv := v.c.KVv2(v.v2)
	must(t, kv.Delete(t.Context(), "app/db"))
	v.wantFault(r, "vault:"+v.v2+"/app/db#password", secrets.CodeSecretVersionDeleted, false)
	must(t, kv.Undelete(t.Context(), "app/db", []int{1}))
	v.want(r, "vault:"+v.v2+"/app/db#password", "pass-v2")
	must(t, kv.Destroy(t.Context(), "app/db", []int{1}))
	v.wantFault(r, "vault:"+v.v2+"/app/db#password", secrets.CodeSecretVersionDeleted, false)
	_, err := kv.Put(t.Context(), "app/db", map[string]any{"password": "rotated"})
	must(t, err)
	v.want(r, "vault:"+v.v2+"/app/db#password", "rotated")
	must(t, kv.DeleteMetadata(t.Context(), "app/db"))
	v.wantFault(r, "vault:"+v.v2+"/app/db#password", secrets.CodeSecretMissing, false)
}

func TestRealVaultTokens(t *testing.T) {
	v := newRealVault(t)
	ref := "vault:" + v.v2 + "/app/db#password"
	v.wantFault(v.resolver(secrets.VaultOptions{Token: secrets.NewSecret("hvs.never-was")}), ref, secrets.CodeVaultTokenExpired, false)
	v.wantFault(v.resolver(secrets.VaultOptions{Token: secrets.NewSecret(v.token("1h", false, v.nobody).ClientToken)}), ref, secrets.CodeVaultPermissionDenied, false)
	v.want(v.resolver(secrets.VaultOptions{Token: secrets.NewSecret(v.token("1h", true, v.reader).ClientToken)}), ref, "pass-v2")

	static := v.token("1h", false, v.reader)
	r := v.resolver(secrets.VaultOptions{Token: secrets.NewSecret(static.ClientToken)})
	v.want(r, ref, "pass-v2")
	must(t, v.c.Auth().Token().RevokeAccessor(static.Accessor))
	v.wantFault(r, ref, secrets.CodeVaultTokenExpired, false)

	first, second := v.token("1h", false, v.reader), v.token("1h", false, v.reader)
	file := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(file, []byte(first.ClientToken+"\n"), 0o600))
	r = v.resolver(secrets.VaultOptions{TokenFile: file})
	v.want(r, ref, "pass-v2")
	must(t, v.c.Auth().Token().RevokeAccessor(first.Accessor))
	v.wantFault(r, ref, secrets.CodeVaultTokenExpired, true)
	must(t, os.WriteFile(file, []byte(second.ClientToken+"\n"), 0o600))
	v.want(r, ref, "pass-v2")
}

func TestRealVaultAppRole(t *testing.T) {
	v := newRealVault(t)
	ref := "vault:" + v.v2 + "/app/db#password"
	o := v.appRole("2s")
	r := v.resolver(o)
	v.want(r, ref, "pass-v2")
	before := v.tokens()

	// Well beyond the token's time to live, the same token must still be at work.
	until := time.Now().Add(5 * time.Second)
	for time.Now().Before(until) {
		v.want(r, ref, "pass-v2")
		time.Sleep(100 * time.Millisecond)
	}
	for accessor := range before {
		if !v.tokens()[accessor] {
			t.Error("the token was not renewed but replaced")
		}
	}
	for accessor := range v.tokens() {
		must(t, v.c.Auth().Token().RevokeAccessor(accessor))
	}
	v.want(r, ref, "pass-v2") // logs in again
	r.Close()
	if left := v.tokens(); len(left) != 0 {
		t.Errorf("%d tokens left after Close", len(left))
	}

	must(t, os.WriteFile(o.SecretIDFile, []byte("another"), 0o600))
	v.wantFault(v.resolver(o), ref, secrets.CodeVaultLoginRefused, false)
}

// appRole makes a role and gives the options that log in by it.
func (v *realVault) appRole(ttl string) secrets.VaultOptions {
	v.t.Helper()
	path := "auth/" + v.role + "/role/worker"
	_, err := v.c.Logical().Write(path, map[string]any{"token_policies": v.reader, "token_ttl": ttl, "token_max_ttl": "1h"})
	must(v.t, err)
	id, err := v.c.Logical().Read(path + "/role-id")
	must(v.t, err)
	sid, err := v.c.Logical().Write(path+"/secret-id", nil)
	must(v.t, err)
	file := filepath.Join(v.t.TempDir(), "secret-id")
	must(v.t, os.WriteFile(file, []byte(sid.Data["secret_id"].(string)+"\n"), 0o600))
	return secrets.VaultOptions{RoleID: id.Data["role_id"].(string), SecretIDFile: file, AppRoleMount: v.role}
}

// tokens are the accessors of the live tokens that our AppRole mount made.
func (v *realVault) tokens() map[string]bool {
	v.t.Helper()
	list, err := v.c.Logical().ListWithContext(context.Background(), "auth/token/accessors")
	must(v.t, err)
	out := map[string]bool{}
	keys, _ := list.Data["keys"].([]any)
	for _, k := range keys {
		accessor, _ := k.(string)
		about, err := v.c.Auth().Token().LookupAccessor(accessor)
		if err != nil {
			continue // expired meanwhile
		}
		if p, _ := about.Data["path"].(string); strings.HasPrefix(p, "auth/"+v.role+"/") {
			out[accessor] = true
		}
	}
	return out
}

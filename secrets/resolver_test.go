package secrets

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"syncline/dataplane/fault"
)

func resolver(t *testing.T, o Options) *Resolver {
	t.Helper()
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func withToken(f *fakeVault, token string) Options {
	return Options{CacheFor: -1, Vault: VaultOptions{Address: f.URL, Token: NewSecret(token), Timeout: 2 * time.Second}}
}

func want(t *testing.T, r *Resolver, ref, value string) {
	t.Helper()
	s, err := r.Resolve(t.Context(), MustParseRef(ref))
	if err != nil {
		t.Fatalf("%s: %v", ref, err)
	}
	if s.Reveal() != value {
		t.Fatalf("%s: not the value that was stored", ref)
	}
}

func wantFault(t *testing.T, r *Resolver, ref string, code fault.Code, retry bool, say string) {
	t.Helper()
	_, err := r.Resolve(t.Context(), MustParseRef(ref))
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != code || f.Retry != retry || !strings.Contains(err.Error(), say) {
		t.Fatalf("%s: got %v; want %s, retry %v, saying %q", ref, err, code, retry, say)
	}
	if f.Fix == "" {
		t.Errorf("%s: %s without a fix", ref, code)
	}
	for _, secret := range []string{"s3cr3t-pass", "root", "secret-id-", "login-1"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: error holds a secret: %v", ref, err)
		}
	}
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not seen: %s", what)
		}
	}
}

func TestEnvAndFile(t *testing.T) {
	dir := t.TempDir()
	r := resolver(t, Options{Getenv: func(n string) string { return map[string]string{"DSN": "from-env"}[n] }})
	want(t, r, "env:DSN", "from-env")
	wantFault(t, r, "env:OTHER", CodeEnvNotSet, false, "OTHER")

	for text, value := range map[string]string{"x": "x", "x\n": "x", "x\r\n": "x", "x\n\n": "x\n", " x ": " x "} {
		want(t, r, "file:"+write(t, filepath.Join(dir, "f"), text), value)
	}
	wantFault(t, r, "file:"+filepath.Join(dir, "none"), CodeFileUnreadable, false, "none")
	wantFault(t, r, "file:"+dir, CodeFileUnreadable, false, "")
	wantFault(t, r, "file:"+write(t, filepath.Join(dir, "empty"), "\n"), CodeFileUnreadable, false, "empty")
	wantFault(t, r, "file:/dev/zero", CodeFileUnreadable, false, "larger than")
	if _, err := r.Resolve(t.Context(), Ref{}); !fault.Is(err, CodeRefInvalid) {
		t.Errorf("zero Ref: %v", err)
	}
}

func TestKVVersionsAndPathForms(t *testing.T) {
	for _, noMounts := range []bool{false, true} {
		f := newFakeVault(t)
		f.noMounts = noMounts
		r := resolver(t, withToken(f, "root"))
		want(t, r, "vault:secret/db#password", "s3cr3t-pass")
		want(t, r, "vault:secret/data/db#password", "s3cr3t-pass")
		want(t, r, "vault:secret/db#port", "5432")
		want(t, r, "vault:secret/db#tls", "true")
		want(t, r, "vault:old/db#password", "v1-pass")
	}
}

// A version 1 secret may itself have fields called data and metadata.
func TestVersion1WithFieldsLikeVersion2(t *testing.T) {
	f := newFakeVault(t)
	f.v1["old/odd"] = map[string]any{"data": "a", "metadata": "b"}
	r := resolver(t, withToken(f, "root"))
	want(t, r, "vault:old/odd#data", "a")
}

func TestFailureMatrix(t *testing.T) {
	f := newFakeVault(t)
	f.tokens["narrow"] = &token{denied: true}
	f.tokens["no-default"] = &token{noLookup: true}
	f.v2["secret/data/deleted"] = "deleted"
	f.v2["secret/data/destroyed"] = "destroyed"
	r := resolver(t, withToken(f, "root"))

	wantFault(t, r, "vault:secret/none#x", CodeSecretMissing, false, "secret/none")
	wantFault(t, r, "vault:old/none#x", CodeSecretMissing, false, "old/none")
	wantFault(t, r, "vault:secret/db#pasword", CodeSecretFieldMissing, false, "did you mean #password?")
	wantFault(t, r, "vault:secret/db#empty", CodeSecretFieldMissing, false, "empty")
	wantFault(t, r, "vault:secret/db#object", CodeSecretFieldMissing, false, "neither text")
	wantFault(t, r, "vault:secret/deleted#x", CodeSecretVersionDeleted, false, "vault kv undelete -versions=3")
	wantFault(t, r, "vault:secret/destroyed#x", CodeSecretVersionDeleted, false, "destroyed")
	wantFault(t, r, "vault:database/creds/app#password", CodeRefInvalid, false, "database engine")

	wantFault(t, resolver(t, withToken(f, "narrow")), "vault:secret/db#password", CodeVaultPermissionDenied, false, "read capability")
	wantFault(t, resolver(t, withToken(f, "gone")), "vault:secret/db#password", CodeVaultTokenExpired, false, "VAULT_TOKEN")
	want(t, resolver(t, withToken(f, "no-default")), "vault:secret/db#password", "s3cr3t-pass")

	for _, status := range []int{500, 502, 429} {
		f.set(func() { f.broken = status })
		wantFault(t, r, "vault:secret/db#password", CodeVaultUnreachable, true, "answered")
		wantFault(t, resolver(t, withToken(f, "root")), "vault:secret/db#password", CodeVaultUnreachable, true, "answered")
	}
	f.set(func() { f.broken = 0; f.sealed = true })
	wantFault(t, r, "vault:secret/db#password", CodeVaultSealed, true, "unseal")
	wantFault(t, resolver(t, withToken(f, "root")), "vault:secret/db#password", CodeVaultSealed, true, "unseal")
	f.set(func() { f.sealed = false })
	want(t, r, "vault:secret/db#password", "s3cr3t-pass")

	f.set(func() { delete(f.tokens, "root") })
	wantFault(t, r, "vault:secret/db#password", CodeVaultTokenExpired, false, "VAULT_TOKEN")
	f.Server.Close()
	wantFault(t, r, "vault:secret/db#password", CodeVaultUnreachable, true, "does not answer")
}

func TestUnknownCertificateNamesTheSetting(t *testing.T) {
	f := newFakeVault(t)
	o := withToken(f, "root")
	o.Vault.Address = newTLS(t, f)
	wantFault(t, resolver(t, o), "vault:secret/db#password", CodeVaultUnreachable, true, "SYNCLINE_VAULT_CACERT")
	o.Vault.CACert = filepath.Join(t.TempDir(), "none.pem")
	wantFault(t, resolver(t, o), "vault:secret/db#password", CodeVaultNotConfigured, false, "SYNCLINE_VAULT_CACERT")
}

func TestNotConfigured(t *testing.T) {
	wantFault(t, resolver(t, Options{}), "vault:secret/db#x", CodeVaultNotConfigured, false, "SYNCLINE_VAULT_ADDR")
	wantFault(t, resolver(t, Options{Vault: VaultOptions{Address: "http://127.0.0.1:1"}}), "vault:secret/db#x", CodeVaultNotConfigured, false, "SYNCLINE_VAULT_TOKEN_FILE")
	for _, o := range []VaultOptions{
		{Address: "vault:8200"},
		{Address: "http://u:p@h"},
		{RoleID: "r"},
		{SecretIDFile: "/f"},
		{RoleID: "r", SecretIDFile: "/f", TokenFile: "/t"},
	} {
		if _, err := New(Options{Vault: o}); !fault.Is(err, CodeVaultNotConfigured) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestTokenFileIsReadAgain(t *testing.T) {
	f := newFakeVault(t)
	f.tokens["first"], f.tokens["second"] = &token{}, &token{}
	file := write(t, filepath.Join(t.TempDir(), "token"), "first\n")
	r := resolver(t, Options{CacheFor: -1, Vault: VaultOptions{Address: f.URL, TokenFile: file, Timeout: time.Second}})
	want(t, r, "vault:secret/db#password", "s3cr3t-pass")
	f.set(func() { delete(f.tokens, "first") })
	wantFault(t, r, "vault:secret/db#password", CodeVaultTokenExpired, true, "read again by itself")
	write(t, file, "second\n")
	want(t, r, "vault:secret/db#password", "s3cr3t-pass")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	wantFault(t, r, "vault:secret/db#password", CodeFileUnreadable, true, "SYNCLINE_VAULT_TOKEN_FILE")
}

func appRole(t *testing.T, f *fakeVault, secretID string) Options {
	return Options{CacheFor: -1, Vault: VaultOptions{
		Address: f.URL, RoleID: "role", SecretIDFile: write(t, filepath.Join(t.TempDir(), "sid"), secretID+"\n"),
		Namespace: "team-a", Timeout: 2 * time.Second,
	}}
}

func TestAppRoleLogsInAgain(t *testing.T) {
	f := newFakeVault(t)
	r := resolver(t, appRole(t, f, "secret-id"))
	want(t, r, "vault:secret/db#password", "s3cr3t-pass")
	want(t, r, "vault:secret/db#port", "5432")
	f.set(func() {
		if f.logins != 1 || f.seenNS != "team-a" {
			t.Errorf("logins %d, namespace %q", f.logins, f.seenNS)
		}
		delete(f.tokens, "login-1")
	})
	want(t, r, "vault:secret/db#password", "s3cr3t-pass")
	r.Close()
	f.set(func() {
		if f.logins != 2 || f.revoked != 1 {
			t.Errorf("logins %d, revoked %d", f.logins, f.revoked)
		}
	})
	if _, err := r.Resolve(t.Context(), MustParseRef("vault:secret/db#password")); err == nil || fault.Retryable(err) {
		t.Errorf("after Close: %v", err)
	}
}

func TestAppRoleRefused(t *testing.T) {
	f := newFakeVault(t)
	wantFault(t, resolver(t, appRole(t, f, "secret-id-used-up")), "vault:secret/db#password", CodeVaultLoginRefused, false, "secret id")
	o := appRole(t, f, "secret-id")
	o.Vault.SecretIDFile += "-none"
	wantFault(t, resolver(t, o), "vault:secret/db#password", CodeFileUnreadable, false, "SYNCLINE_VAULT_SECRET_ID_FILE")
	f.set(func() { f.sealed = true })
	wantFault(t, resolver(t, appRole(t, f, "secret-id")), "vault:secret/db#password", CodeVaultSealed, true, "sealed")
}

func TestTokenIsRenewed(t *testing.T) {
	f := newFakeVault(t)
	f.tokens["short"] = &token{ttl: 1, renewTo: 1}
	r := resolver(t, withToken(f, "short"))
	want(t, r, "vault:secret/db#password", "s3cr3t-pass")
	until(t, "two renewals", func() (ok bool) { f.set(func() { ok = f.renewals >= 2 }); return })
}

// At its maximum age a token is granted less; AppRole then logs in anew before
// anybody is refused.
func TestAppRoleLogsInBeforeTheTokenEnds(t *testing.T) {
	f := newFakeVault(t)
	f.ttl = 3
	r := resolver(t, appRole(t, f, "secret-id"))
	want(t, r, "vault:secret/db#password", "s3cr3t-pass")
	f.set(func() { f.tokens["login-1"].renewTo = 1 })
	until(t, "a second login", func() (ok bool) {
		want(t, r, "vault:secret/db#password", "s3cr3t-pass")
		f.set(func() { ok = f.logins == 2 })
		return
	})
	f.set(func() {
		if f.renewals == 0 {
			t.Error("the first token was never renewed")
		}
	})
}

func TestCacheRefetchAndSharing(t *testing.T) {
	f := newFakeVault(t)
	o := withToken(f, "root")
	o.CacheFor = time.Hour
	r := resolver(t, o)
	ref := MustParseRef("vault:secret/db#password")
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if s, err := r.Resolve(t.Context(), ref); err != nil || s.Reveal() != "s3cr3t-pass" {
				t.Errorf("%v", err)
			}
		})
	}
	all.Wait()
	f.set(func() {
		if f.reads > 2 {
			t.Errorf("%d reads for one cached value", f.reads)
		}
		f.v2["secret/data/db"] = map[string]any{"password": "rotated"}
	})
	want(t, r, "vault:secret/db#password", "s3cr3t-pass")
	s, err := r.Refetch(t.Context(), ref)
	if err != nil || s.Reveal() != "rotated" {
		t.Fatalf("refetch: %v", err)
	}
	want(t, r, "vault:secret/db#password", "rotated")

	// A value that Vault no longer gives is not kept alive by the cache.
	f.set(func() { delete(f.v2, "secret/data/db") })
	if _, err := r.Refetch(t.Context(), ref); !fault.Is(err, CodeSecretMissing) {
		t.Fatal(err)
	}
	wantFault(t, r, "vault:secret/db#password", CodeSecretMissing, false, "")
}

func TestNothingIsContactedWithoutAVaultReference(t *testing.T) {
	r := resolver(t, Options{Vault: VaultOptions{Address: "http://127.0.0.1:1", TokenFile: "/nonexistent"}, Getenv: func(string) string { return "x" }})
	want(t, r, "env:ANY", "x")
}

func TestCallerThatGivesUp(t *testing.T) {
	f := newFakeVault(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := resolver(t, withToken(f, "root"))
	if _, err := r.Resolve(ctx, MustParseRef("vault:secret/db#password")); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	want(t, r, "vault:secret/db#password", "s3cr3t-pass")
}

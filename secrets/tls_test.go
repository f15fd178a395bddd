package secrets_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"syncline/dataplane/fault"
	"syncline/secrets"
	"syncline/testsuite/stack"
)

// put replaces a file in one step, as mounted secrets are.
func put(t *testing.T, path string, texts ...[]byte) {
	t.Helper()
	var all []byte
	for _, b := range texts {
		all = append(all, b...)
	}
	must(t, os.WriteFile(path+".new", all, 0o600))
	must(t, os.Rename(path+".new", path))
}

func contents(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

// says asks for a reference that is refused, and wants words in the error.
func (v *realVault) says(r *secrets.Resolver, ref string, words ...string) {
	v.t.Helper()
	v.wantFault(r, ref, secrets.CodeVaultUnreachable, true)
	_, err := r.Resolve(v.t.Context(), secrets.MustParseRef(ref))
	var f *fault.Error
	errors.As(err, &f)
	for _, w := range words {
		if !strings.Contains(f.What+" "+f.Fix, w) {
			v.t.Errorf("no %q in %v", w, err)
		}
	}
}

// Vault's certificate and the authorities that the worker trusts rotate while it reads by
// one token: trust both, swap the leaf, drop the old.
func TestRealVaultTLS(t *testing.T) {
	v, s := newRealVault(t), stack.VaultTLS(t)
	v.addr = s.Addr
	ref := "vault:" + v.v2 + "/app/db#password"
	old, leaf := contents(t, s.CA), contents(t, s.Pair)
	t.Cleanup(func() { put(t, s.Pair, leaf) })
	other := stack.NewAuthority(t)
	cert, key := other.Sign("localhost")

	o := v.appRole("1h")
	o.CACert = filepath.Join(t.TempDir(), "ca.pem")
	put(t, o.CACert, old)
	r := v.resolver(o)
	reads := func(step string) {
		t.Helper()
		v.want(r, ref, "pass-v2")
		tokens := len(v.tokens())
		if tokens != 1 {
			t.Errorf("%s: %d tokens", step, tokens)
		}
		again := v.resolver(o) // logs in anew, on connections of its own
		v.want(again, ref, "pass-v2")
		again.Close()
	}
	reads("at first")
	put(t, o.CACert, old, contents(t, other.File))
	reads("both trusted")
	put(t, s.Pair, contents(t, key), contents(t, cert))
	reads("the leaf is swapped")
	put(t, o.CACert)
	v.want(r, ref, "pass-v2") // somebody is writing it
	put(t, o.CACert, contents(t, other.File))
	reads("the old one is dropped")

	// Its connections are new ones since then, and would not be opened to the old leaf.
	put(t, s.Pair, leaf)
	v.says(v.resolver(o), ref, "does not trust", "SYNCLINE_VAULT_CACERT")
	put(t, o.CACert, old)
	reads("back")
	put(t, o.CACert, contents(t, other.File))
	v.says(r, ref, "does not trust", "SYNCLINE_VAULT_CACERT")
	put(t, o.CACert, old)
	reads("healed")
}

// What is wrong about an address or an authority is named, with what to do.
func TestRealVaultTLSRefuses(t *testing.T) {
	v, s := newRealVault(t), stack.VaultTLS(t)
	ref := "vault:" + v.v2 + "/app/db#password"
	token := secrets.VaultOptions{Token: secrets.NewSecret(v.token("1h", false, v.reader).ClientToken)}
	logins := map[string]secrets.VaultOptions{"token": token, "AppRole": v.appRole("1h")}
	plain := v.addr
	for name, o := range logins {
		t.Run(name, func(t *testing.T) {
			v := *v
			v.t = t
			v.addr = s.Addr
			v.says(v.resolver(o), ref, "does not trust", "SYNCLINE_VAULT_CACERT") // of the system's authorities, none signed it
			o.CACert = stack.NewAuthority(t).File
			v.says(v.resolver(o), ref, "does not trust", "SYNCLINE_VAULT_CACERT")
			o.CACert = filepath.Join(t.TempDir(), "none.pem")
			v.wantFault(v.resolver(o), ref, secrets.CodeVaultNotConfigured, false)
			o.CACert = s.CA
			v.want(v.resolver(o), ref, "pass-v2")
			v.addr = "http" + strings.TrimPrefix(s.Addr, "https")
			v.says(v.resolver(o), ref, "wants TLS", "https://")
			v.addr = "https" + strings.TrimPrefix(plain, "http")
			v.says(v.resolver(o), ref, "http://")
		})
	}
}

// A Vault without namespaces takes no notice of one: it is not Enterprise, and says nothing
// that a fault could pass on.
func TestRealVaultNamespace(t *testing.T) {
	v := newRealVault(t)
	o := v.appRole("1h")
	o.Namespace = "team"
	v.want(v.resolver(o), "vault:"+v.v2+"/app/db#password", "pass-v2")
}

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	vaultapi "github.com/hashicorp/vault/api"

	"syncline/activities/contract"
)

// roles makes roles of Vault's database engine, whose accounts act as the owner of what is in
// a database, and lets workers use them by a token that is somebody else's.
func (v *vaulted) roles(dsns map[string]string, owner map[string]string) (token string) {
	v.r.t.Helper()
	ctx, db := v.r.t.Context(), v.mount+"_db"
	ok := func(err error) {
		v.r.t.Helper()
		if err != nil {
			v.r.t.Fatal(err)
		}
	}
	ok(v.c.Sys().MountWithContext(ctx, db, &vaultapi.MountInput{Type: "database"}))
	v.r.t.Cleanup(func() { _ = v.c.Sys().Unmount(db) }) // which revokes all leases
	for name, dsn := range dsns {
		u := mustURL(v.r.t, dsn)
		_, err := v.c.Logical().WriteWithContext(ctx, db+"/config/"+name, map[string]any{
			"plugin_name": "postgresql-database-plugin", "allowed_roles": name, "username": "postgres", "password": "none is asked for",
			"connection_url": fmt.Sprintf("postgresql://{{username}}:{{password}}@%s%s?sslmode=disable", u.Host, u.Path),
		})
		ok(err)
		_, err = v.c.Logical().WriteWithContext(ctx, db+"/roles/"+name, map[string]any{
			"db_name": name, "default_ttl": "1h", "max_ttl": "2h",
			"creation_statements": []string{
				fmt.Sprintf(`CREATE ROLE "{{name}}" LOGIN REPLICATION PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE %s, passwords`, owner[name]),
				fmt.Sprintf(`ALTER ROLE "{{name}}" SET role TO %s`, owner[name]),
			},
			"revocation_statements": []string{`DROP ROLE IF EXISTS "{{name}}"`},
		})
		ok(err)
	}
	ok(v.c.Sys().PutPolicyWithContext(ctx, db, fmt.Sprintf(`path "%s/creds/*" { capabilities = ["read"] }
path "sys/leases/revoke" { capabilities = ["update"] }`, db)))
	made, err := v.c.Auth().Token().CreateWithContext(ctx, &vaultapi.TokenCreateRequest{Policies: []string{db}, TTL: "1h"})
	ok(err)
	file := filepath.Join(v.r.dir, "token")
	ok(os.WriteFile(file, []byte(made.Auth.ClientToken), 0o600))
	v.r.env = append(v.r.env, "SYNCLINE_VAULT_ROLE_ID=", "SYNCLINE_VAULT_SECRET_ID_FILE=", "SYNCLINE_VAULT_TOKEN_FILE="+file)
	return made.Auth.ClientToken
}

// Accounts that Vault makes for a worker are gone once it has stopped, hours before the end
// of their leases, and it hands over as it does by other logins.
func TestAccountsEndWithTheWorker(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.vault()
	prefix := strings.ReplaceAll(r.queue, "-", "_")
	v.users(r.source, "source", prefix+"_s")
	v.users(r.sinkDSN, "sink", prefix+"_k")
	dsns := map[string]string{"source": r.source, "sink": r.sinkDSN}
	owners := map[string]string{"source": prefix + "_s_own", "sink": prefix + "_k_own"}
	token := v.roles(dsns, owners)
	r.seedShop(0.05)
	r.own("shop", prefix+"_s")
	accounts := func(ctx context.Context, name string) (string, error) {
		return scalar(ctx, dsns[name], `SELECT string_agg(r.rolname, ' ') FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member
			WHERE m.roleid = $1::regrole AND r.rolname LIKE 'v-%'`, owners[name])
	}
	w := r.start()
	s, k := mustURL(t, r.source), mustURL(t, r.sinkDSN)
	p := r.pipe(fmt.Sprintf(rotatedPipeline, s.Hostname(), s.Port(), strings.TrimPrefix(s.Path, "/"), "vault:"+v.mount+"_db/creds/source",
		k.Hostname(), k.Port(), strings.TrimPrefix(k.Path, "/"), "vault:"+v.mount+"_db/creds/sink") + fewTables)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	stop := r.load(100)
	p.converged()
	for name := range dsns {
		if all, err := accounts(t.Context(), name); err != nil || all == "" {
			t.Fatalf("the worker has no account at the %s: %v", name, err)
		}
	}
	begun := time.Now()
	w.stop()
	t.Logf("stopped in %s", time.Since(begun).Round(time.Millisecond))
	for name := range dsns {
		until(t, bound, "no account is left at the "+name, func(ctx context.Context) error {
			all, err := accounts(ctx, name)
			if err == nil && all != "" {
				err = fmt.Errorf("there are %s", all)
			}
			return err
		})
	}
	text, err := os.ReadFile(w.log)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "an account is revoked"); n < len(dsns) || strings.Contains(string(text), "cannot be revoked") {
		t.Errorf("its log tells of %d that were revoked: %s", n, w.log)
	}
	if _, err := v.c.Auth().Token().LookupWithContext(t.Context(), token); err != nil {
		t.Errorf("the token of others: %v", err)
	}
	r.start()
	stop()
	p.equal(fewTablesIs)
	r.neverRefused()
}

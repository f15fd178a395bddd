package e2e

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/pipeline"
	"syncline/secrets"
	"syncline/testsuite/stack"
)

// vaulted is a Vault of a test's own: an engine, and what its rotations rotate.
type vaulted struct {
	r     *rig
	c     *vaultapi.Client
	mount string
}

// vault gives the workers a Vault, by AppRole: those that may move pointers may write.
func (r *rig) vault() *vaulted {
	r.t.Helper()
	addr, file := stack.Vault(r.t)
	token, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	cfg := vaultapi.DefaultConfig()
	cfg.Address = addr
	c, err := vaultapi.NewClient(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	c.SetToken(strings.TrimSpace(string(token)))
	v := &vaulted{r: r, c: c, mount: strings.ReplaceAll(r.queue, "-", "_")}
	ctx := r.t.Context()
	ok := func(err error) {
		r.t.Helper()
		if err != nil {
			r.t.Fatal(err)
		}
	}
	ok(c.Sys().MountWithContext(ctx, v.mount, &vaultapi.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}))
	ok(c.Sys().EnableAuthWithOptionsWithContext(ctx, v.mount, &vaultapi.EnableAuthOptions{Type: "approle"}))
	r.t.Cleanup(func() {
		_ = c.Sys().Unmount(v.mount)
		_ = c.Sys().DisableAuth(v.mount)
	})
	ok(c.Sys().PutPolicyWithContext(ctx, v.mount, fmt.Sprintf(`path "%s/data/*" { capabilities = ["read", "create", "update"] }`, v.mount)))
	_, err = c.Logical().WriteWithContext(ctx, "auth/"+v.mount+"/role/worker", map[string]any{"token_policies": []string{v.mount}, "token_ttl": "5m"})
	ok(err)
	id, err := c.Logical().ReadWithContext(ctx, "auth/"+v.mount+"/role/worker/role-id")
	ok(err)
	sec, err := c.Logical().WriteWithContext(ctx, "auth/"+v.mount+"/role/worker/secret-id", nil)
	ok(err)
	secretID := filepath.Join(r.dir, "secret-id")
	ok(os.WriteFile(secretID, []byte(sec.Data["secret_id"].(string)), 0o600))
	r.env = append(r.env, "SYNCLINE_VAULT_ADDR="+addr, "SYNCLINE_VAULT_ROLE_ID="+id.Data["role_id"].(string), "SYNCLINE_VAULT_SECRET_ID_FILE="+secretID,
		"SYNCLINE_VAULT_APPROLE_MOUNT="+v.mount)
	return v
}

func (v *vaulted) put(path string, data map[string]any) {
	v.r.t.Helper()
	// A fresh engine of version 2 upgrades itself first and refuses writes meanwhile.
	until(v.r.t, time.Minute, "Vault takes "+path, func(ctx context.Context) error {
		_, err := v.c.KVv2(v.mount).Put(ctx, path, data)
		return err
	})
}

func (v *vaulted) get(path string) map[string]any {
	v.r.t.Helper()
	var s *vaultapi.KVSecret
	// Another test may have killed it.
	until(v.r.t, time.Minute, "Vault gives "+path, func(ctx context.Context) (err error) {
		s, err = v.c.KVv2(v.mount).Get(ctx, path)
		return err
	})
	return s.Data
}

func (v *vaulted) ref(path string) string { return "vault:" + v.mount + "/" + path }

// values are all passwords that were ever in Vault.
func (v *vaulted) values(paths ...string) (all []string) {
	v.r.t.Helper()
	for _, p := range paths {
		meta, err := v.c.KVv2(v.mount).GetVersionsAsList(v.r.t.Context(), p)
		if err != nil {
			continue
		}
		for _, m := range meta {
			s, err := v.c.KVv2(v.mount).GetVersion(v.r.t.Context(), p, m.Version)
			if err == nil {
				if pw, _ := s.Data["password"].(string); len(pw) > 12 {
					all = append(all, pw)
				}
			}
		}
	}
	return all
}

// users makes two users of a database that have to give a password, with the rights of
// its owner, whom all belongs to, and a login in Vault that is not one of two yet.
func (v *vaulted) users(dsn, path, prefix string) {
	v.r.t.Helper()
	db := strings.TrimPrefix(mustURL(v.r.t, dsn).Path, "/")
	for _, s := range []string{
		`DO $$ BEGIN CREATE ROLE passwords NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$`,
		fmt.Sprintf(`CREATE ROLE %s_own NOLOGIN REPLICATION`, prefix),
		fmt.Sprintf(`CREATE ROLE %s_a LOGIN REPLICATION PASSWORD 'first-password-of-a' IN ROLE %s_own, passwords`, prefix, prefix),
		fmt.Sprintf(`CREATE ROLE %s_b LOGIN REPLICATION IN ROLE %s_own, passwords`, prefix, prefix),
		fmt.Sprintf(`ALTER ROLE %s_a SET role TO %s_own`, prefix, prefix),
		fmt.Sprintf(`ALTER ROLE %s_b SET role TO %s_own`, prefix, prefix),
		fmt.Sprintf(`ALTER DATABASE %q OWNER TO %s_own`, db, prefix),
		fmt.Sprintf(`ALTER SCHEMA public OWNER TO %s_own`, prefix),
	} {
		v.r.one(dsn, s)
	}
	v.r.t.Cleanup(func() {
		// What the users own goes with the database.
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		for _, u := range []string{"_a", "_b", "_own"} {
			_, _ = scalar(ctx, dsn, fmt.Sprintf("DROP OWNED BY %s%s CASCADE", prefix, u))
			_, _ = scalar(ctx, dsn, fmt.Sprintf("DROP ROLE %s%s", prefix, u))
		}
	})
	v.put(path, map[string]any{"username": prefix + "_a", "password": "first-password-of-a"})
}

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// own gives all tables of a schema to the owner of the database's users.
func (r *rig) own(schema, prefix string) {
	r.t.Helper()
	r.exec(fmt.Sprintf(`ALTER SCHEMA %s OWNER TO %s_own`, schema, prefix),
		fmt.Sprintf(`DO $$ DECLARE t record; BEGIN
			FOR t IN SELECT c.oid::regclass AS n FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace WHERE s.nspname = '%s' AND c.relkind IN ('r', 'p') LOOP
				EXECUTE format('ALTER TABLE %%s OWNER TO %s_own', t.n);
			END LOOP; END $$`, schema, prefix))
}

// rotates is a rotation of a login at one Postgres.
func (v *vaulted) rotates(path, dsn string) pipeline.Rotation {
	v.r.t.Helper()
	u := mustURL(v.r.t, dsn)
	v.put("admin", map[string]any{"username": "postgres", "password": "none is asked for"})
	text := fmt.Sprintf("version: 1\nlogin: %s\npatience: 1m\ngone: 1m\ntargets:\n- {name: main, type: postgres, host: %s, port: %s, database: %q, sslmode: disable, admin: %s}\n",
		v.ref(path), u.Hostname(), u.Port(), strings.TrimPrefix(u.Path, "/"), v.ref("admin"))
	rot, err := pipeline.ParseRotation("rotation.yaml", []byte(text))
	if err != nil {
		v.r.t.Fatal(err)
	}
	return *rot
}

// begin starts a rotation.
func (v *vaulted) begin(in contract.RotateInput) client.WorkflowRun {
	v.r.t.Helper()
	id := contract.RotationID(in.Rotation.Login)
	if in.Plan {
		id = contract.RotationPlanID(in.Rotation.Login)
	}
	run, err := v.r.tc.ExecuteWorkflow(v.r.t.Context(), client.StartWorkflowOptions{
		ID: id, TaskQueue: contract.Queue(v.r.queue, contract.Control), WorkflowExecutionErrorWhenAlreadyStarted: true,
	}, contract.RotateWorkflow, in)
	if err != nil {
		v.r.t.Fatal(err)
	}
	v.r.t.Cleanup(func() {
		_ = v.r.tc.TerminateWorkflow(context.Background(), run.GetID(), run.GetRunID(), "the test is over")
	})
	return run
}

func (v *vaulted) status(l secrets.LoginRef) (r contract.Rotated) {
	if x, err := v.r.tc.QueryWorkflow(context.WithoutCancel(v.r.t.Context()), contract.RotationID(l), "", contract.StatusQuery); err == nil {
		_ = x.Get(&r)
	}
	return r
}

// known is the status of a rotation that there is or was, however often it has to be asked for.
func (v *vaulted) known(l secrets.LoginRef) (r contract.Rotated) {
	for r.Run == "" && v.r.t.Context().Err() == nil {
		r = v.status(l)
	}
	return r
}

func (v *vaulted) rotate(in contract.RotateInput) (r contract.Rotated) {
	v.r.t.Helper()
	ctx, cancel := context.WithTimeout(v.r.t.Context(), bound)
	defer cancel()
	if err := v.begin(in).Get(ctx, &r); err != nil {
		v.r.t.Fatalf("%v: %+v", err, v.status(in.Rotation.Login))
	}
	return r
}

// works reports which of the users of a database can log in, by trying.
func (v *vaulted) works(dsn, user, password string) bool {
	u := mustURL(v.r.t, dsn)
	u.User = url.UserPassword(user, password)
	who, err := scalar(v.r.t.Context(), u.String(), "SELECT session_user::text")
	return err == nil && who == user
}

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	enums "go.temporal.io/api/enums/v1"
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
	s, err := v.c.KVv2(v.mount).Get(v.r.t.Context(), path)
	if err != nil {
		v.r.t.Fatal(err)
	}
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
	run, err := v.r.tc.ExecuteWorkflow(v.r.t.Context(), client.StartWorkflowOptions{
		ID: contract.RotationID(in.Rotation.Login), TaskQueue: contract.Queue(v.r.queue, contract.Control), WorkflowExecutionErrorWhenAlreadyStarted: true,
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

// rotatedPipeline is one whose logins at source and Postgres sink rotate.
const rotatedPipeline = `version: 1
name: ${NAME}
source: {type: postgres, host: "%[1]s", port: %[2]s, database: "%[3]s", sslmode: disable, login: "%[4]s"}
kafka: {brokers: "${BROKERS}", topic_prefix: e2e., partitions: 4, retention: 1h}
sinks:
  - {name: pg, type: postgres, host: "%[5]s", port: %[6]s, database: "%[7]s", sslmode: disable, login: "%[8]s", lanes: 2}
  - {name: ch, type: clickhouse, dsn: "env:E2E_CLICKHOUSE", lanes: 2, schema: "${DATABASE}"}
tables:
`

func (v *vaulted) pipe(tables string) *pipe {
	v.r.t.Helper()
	s, k := mustURL(v.r.t, v.r.source), mustURL(v.r.t, v.r.sinkDSN)
	return v.r.pipe(fmt.Sprintf(rotatedPipeline, s.Hostname(), s.Port(), strings.TrimPrefix(s.Path, "/"), v.ref("source"),
		k.Hostname(), k.Port(), strings.TrimPrefix(k.Path, "/"), v.ref("sink")) + tables)
}

// Both logins of a pipeline are rotated again and again while it streams. No worker is
// restarted, no attempt ends, nobody is refused, no change is lost or applied twice, the
// old users cannot log in, and no password is anywhere but in Vault.
func TestRotation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.vault()
	prefix := strings.ReplaceAll(r.queue, "-", "_")
	v.users(r.source, "source", prefix+"_s")
	v.users(r.sinkDSN, "sink", prefix+"_k")
	r.seedShop(0.1)
	r.own("shop", prefix+"_s")
	r.start(contract.Control, contract.Capture)
	r.start(contract.Control, contract.Deliver, contract.Snapshot)
	p := v.pipe(fewTables)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	before := r.attempts(p)
	stop := r.load(300)
	lag := p.lags()

	src, snk := v.rotates("source", r.source), v.rotates("sink", r.sinkDSN)
	for n := range 3 {
		for _, x := range []struct {
			rot    pipeline.Rotation
			path   string
			dsn    string
			prefix string
		}{{src, "source", r.source, prefix + "_s"}, {snk, "sink", r.sinkDSN, prefix + "_k"}} {
			in := contract.RotateInput{Rotation: x.rot, Who: "test"}
			if n == 0 {
				in.Init = x.prefix + "_b"
			}
			res := v.rotate(in)
			if res.Outcome != contract.RotatedOutcome || res.To.Generation != int64(n+2) || len(res.Consumers) != 2 || len(res.Uses) != 1 {
				t.Fatalf("rotation %d of %s: %+v", n, x.path, res)
			}
			now, old := v.get(x.path+"/"+string(res.To.Slot)), v.get(x.path+"/"+string(res.From.Slot))
			if !v.works(x.dsn, now["username"].(string), now["password"].(string)) || v.works(x.dsn, old["username"].(string), old["password"].(string)) {
				t.Errorf("after rotation %d of %s the wrong user can log in", n, x.path)
			}
			if left := r.one(x.dsn, "SELECT count(*)::text FROM pg_stat_activity WHERE usename = $1", old["username"]); left != "0" {
				t.Errorf("%s sessions of %s are left", left, old["username"])
			}
			var took []string
			for _, s := range res.Steps {
				took = append(took, fmt.Sprintf("%s %.1f", s.Phase, s.Seconds))
			}
			t.Logf("rotation %d of %s in %.1f s: %s", n, x.path, res.Ended.Sub(res.Began).Seconds(), strings.Join(took, ", "))
		}
	}
	t.Logf("longest lag seen: %s", lag())
	stop()
	p.equal(fewTablesIs)
	if after := r.attempts(p); after != before {
		t.Errorf("attempts of the stream before: %s, after: %s", before, after)
	}
	values := append(v.values("source/a", "source/b", "sink/a", "sink/b"), "first-password-of-a")
	if len(values) < 7 {
		t.Fatalf("%d passwords", len(values))
	}
	r.nowhere(values, contract.RotationID(src.Login), contract.RotationID(snk.Login), contract.PipelineID(p.name), contract.StreamID(p.name))
}

// attempts are those of the activities of a stream: one more, and something ended.
func (r *rig) attempts(p *pipe) string {
	r.t.Helper()
	d, err := r.tc.DescribeWorkflowExecution(r.t.Context(), contract.StreamID(p.name), "")
	if err != nil {
		r.t.Fatal(err)
	}
	var all []string
	for _, a := range d.PendingActivities {
		all = append(all, fmt.Sprintf("%s:%d", a.ActivityId, a.Attempt))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// lags looks at how far the sinks are behind until it is called.
func (p *pipe) lags() (longest func() time.Duration) {
	ctx, cancel := context.WithCancel(p.r.t.Context())
	done := make(chan time.Duration, 1)
	go func() {
		var most time.Duration
		for ctx.Err() == nil {
			if v, err := p.view(ctx); err == nil {
				for _, s := range v.Sinks {
					most = max(most, time.Duration(s.LagP99*float64(time.Second)))
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(500 * time.Millisecond):
			}
		}
		done <- most
	}()
	return func() time.Duration {
		cancel()
		return <-done
	}
}

// nowhere searches histories and logs for values.
func (r *rig) nowhere(values []string, workflows ...string) {
	r.t.Helper()
	found := func(where string, text []byte) {
		for _, v := range values {
			if bytes.Contains(text, []byte(v)) {
				r.t.Errorf("a password is in %s", where)
			}
		}
	}
	for _, id := range workflows {
		it := r.tc.GetWorkflowHistory(r.t.Context(), id, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		n := 0
		for it.HasNext() {
			e, err := it.Next()
			if err != nil {
				r.t.Fatal(err)
			}
			n++
			found("the history of "+id, []byte(e.String()))
		}
		if n == 0 {
			r.t.Errorf("%s has no history", id)
		}
	}
	err := filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		found(path, b)
		return err
	})
	if err != nil {
		r.t.Error(err)
	}
}

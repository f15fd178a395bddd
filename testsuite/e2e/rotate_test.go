package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	vaultapi "github.com/hashicorp/vault/api"
	"github.com/jackc/pgx/v5"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/dataplane/login"
	"syncline/pipeline"
	"syncline/secrets"
	"syncline/secrets/target"
	"syncline/secrets/target/servers"
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
	rounds, rate, calm := 3, 300.0, time.Duration(0)
	if s := os.Getenv("E2E_ROTATIONS"); s != "" { // make rotations: how many of each login
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("E2E_ROTATIONS is %q", s)
		}
		rounds, rate, r.fast = n, 2000, true
		calm = time.Duration(n) * 6 * time.Second // about what the rotations take
		if s := os.Getenv("E2E_ROTATIONS_RATE"); s != "" {
			if rate, err = strconv.ParseFloat(s, 64); err != nil || rate <= 0 {
				t.Fatalf("E2E_ROTATIONS_RATE is %q", s)
			}
		}
	}
	v := r.vault()
	prefix := strings.ReplaceAll(r.queue, "-", "_")
	v.users(r.source, "source", prefix+"_s")
	v.users(r.sinkDSN, "sink", prefix+"_k")
	r.seedShop(0.1)
	r.exec(probeSQL)
	r.own("shop", prefix+"_s")
	r.env = append(r.env, "SYNCLINE_ANALYTICS=env:E2E_CLICKHOUSE", "SYNCLINE_ANALYTICS_DATABASE="+r.clickDB)
	r.start(contract.Control, contract.Capture)
	r.start(contract.Control, contract.Deliver, contract.Snapshot)
	p := v.pipe(strings.Replace(fewTables, "include: [", "include: [shop.probe, ", 1))
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	before := r.attempts(p)
	stop := r.load(rate)
	lag := p.lags()
	fresh := r.probe()
	if calm > 0 {
		fresh.calm(calm)
	}

	src, snk := v.rotates("source", r.source), v.rotates("sink", r.sinkDSN)
	if plan := v.rotate(contract.RotateInput{Rotation: src, Plan: true, Init: prefix + "_s_b"}); plan.Outcome != contract.PlannedOutcome || plan.To.User != prefix+"_s_b" || v.get("source")["slot"] != nil {
		t.Errorf("the plan is %+v, and Vault has %v", plan, v.get("source")["slot"])
	}
	var seconds []float64
	for n := range rounds {
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
			begun := time.Now()
			res := v.rotate(in)
			fresh.rotated(begun)
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
			seconds = append(seconds, res.Ended.Sub(res.Began).Seconds())
			t.Logf("rotation %d of %s in %.1f s: %s", n, x.path, res.Ended.Sub(res.Began).Seconds(), strings.Join(took, ", "))
		}
	}
	slices.Sort(seconds)
	stalls := r.stalls()
	t.Logf("ROTATIONS %d, median %.1f s, longest %.1f s; the stream stood still %d times, median %s, longest %s; longest lag of a sink (p99 of a lane) %s", len(seconds), seconds[len(seconds)/2], seconds[len(seconds)-1],
		len(stalls), stalls[len(stalls)/2], stalls[len(stalls)-1], lag())
	fresh.report(calm > 0)
	stop()
	p.equal(fewTablesIs)
	if after := r.attempts(p); after != before {
		t.Errorf("attempts of the stream before: %s, after: %s", before, after)
	}
	// What was done is on record: each step, at each target and worker.
	until(t, bound, "the record of the rotations", func(ctx context.Context) error {
		got, err := r.tryClick(ctx, "SELECT step, count() FROM "+r.clickDB+".rotations WHERE result = 'ok' GROUP BY step ORDER BY step FORMAT TSV")
		var want strings.Builder
		for _, x := range []struct {
			step string
			each int
		}{{"adopt", 2}, {"end", 1}, {"preflight", 1}, {"promote", 1}, {"revoke", 1}, {"set", 1}, {"stage", 1}, {"verify", 2}} {
			fmt.Fprintf(&want, "%s\t%d\n", x.step, x.each*2*rounds)
		}
		if err == nil && got != want.String() {
			err = fmt.Errorf("on record is\n%swant\n%s", got, want.String())
		}
		return err
	})
	values := append(v.values("source/a", "source/b", "sink/a", "sink/b"), "first-password-of-a")
	if len(values) < min(2*rounds+1, 20) {
		t.Fatalf("%d passwords", len(values))
	}
	p.nowhere(values, contract.RotationID(src.Login), contract.RotationID(snk.Login), contract.PipelineID(p.name), contract.StreamID(p.name))
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

// stalls are the times between the end of a stream by one login and the beginning of the
// next by another, as the workers' logs have them, sorted.
func (r *rig) stalls() (all []time.Duration) {
	r.t.Helper()
	for _, w := range r.workers {
		text, err := os.ReadFile(w.log)
		if err != nil {
			r.t.Fatal(err)
		}
		var ended time.Time
		for line := range bytes.Lines(text) {
			var l struct {
				Time time.Time `json:"time"`
				Msg  string    `json:"msg"`
			}
			if json.Unmarshal(line, &l) != nil {
				continue
			}
			switch {
			case l.Msg == "capture moves to another login":
				ended = l.Time
			case l.Msg == "capture begins" && !ended.IsZero():
				all = append(all, l.Time.Sub(ended).Round(time.Millisecond))
				ended = time.Time{}
			}
		}
	}
	if len(all) == 0 {
		r.t.Fatal("no stream moved")
	}
	slices.Sort(all)
	return all
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

// nowhere searches histories, logs, the log's topics, tables and ledgers for values, and
// makes sure that no core file of a worker could hold one.
func (p *pipe) nowhere(values []string, workflows ...string) {
	r := p.r
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
	for _, text := range p.records() {
		found("a topic", text)
	}
	for name, text := range p.ledgers() {
		found("ledger "+name, []byte(text))
	}
	for table := range strings.FieldsSeq(r.one(r.sinkDSN, "SELECT string_agg(quote_ident(schemaname) || '.' || quote_ident(relname), ' ') FROM pg_stat_user_tables")) {
		found("table "+table, []byte(r.one(r.sinkDSN, "SELECT string_agg(t::text, ' ') FROM "+table+" t")))
	}
	for table := range strings.FieldsSeq(r.click("SELECT name FROM system.tables WHERE database = '" + r.clickDB + "'")) {
		found("table "+table, []byte(r.click("SELECT * FROM "+r.clickDB+"."+table+" FORMAT TSVRaw")))
	}
	for _, w := range r.workers {
		if !w.running() {
			continue
		}
		if limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", w.cmd.Process.Pid)); err == nil && !regexp.MustCompile(`Max core file size\s+0\s+0\s`).Match(limits) {
			r.t.Errorf("worker %s may write a core file, with what it has in memory:\n%s", w.name, limits)
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

// gate is a way to a server on which connections of one phase of a rotation can be held up.
type gate struct {
	t    *testing.T
	addr string

	mu   sync.Mutex
	held func() bool   // whether a new connection is; nil: none is
	open chan struct{} // closed when those that are held may go on
	seen chan struct{} // one token: a connection is held
}

func newGate(t *testing.T, to string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	g := &gate{t: t, addr: l.Addr().String(), seen: make(chan struct{}, 1)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go g.pass(c, to)
		}
	}()
	return g
}

func (g *gate) pass(c net.Conn, to string) {
	defer func() { _ = c.Close() }()
	g.mu.Lock()
	held, open := g.held, g.open
	g.mu.Unlock()
	if held != nil && held() {
		select {
		case g.seen <- struct{}{}:
		default:
		}
		<-open
	}
	s, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer func() { _ = s.Close() }()
	go func() {
		_, _ = io.Copy(s, c)
		_ = s.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(c, s)
}

// stall lets a rotation get as far as the setting of a password, and no farther until the
// returned function is called.
func (v *vaulted) stall(g *gate, l secrets.LoginRef, begin func() client.WorkflowRun) (run client.WorkflowRun, release func()) {
	v.r.t.Helper()
	g.mu.Lock()
	open := make(chan struct{})
	g.open = open
	g.held = func() bool { return v.status(l).Phase == contract.RotationSetting }
	g.mu.Unlock()
	run = begin()
	release = sync.OnceFunc(func() {
		g.mu.Lock()
		g.held = nil
		g.mu.Unlock()
		close(open)
	})
	v.r.t.Cleanup(release)
	select {
	case <-g.seen:
	case <-time.After(time.Minute):
		st := v.status(l)
		v.r.t.Fatalf("the password is not set: %+v, %v", st, st.Failure)
	}
	return run, release
}

// Whatever goes wrong with a rotation, the pipeline streams on as if there were none, one
// login works, and the next rotation gets through.
func TestRotationsGoWrong(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.vault()
	prefix := strings.ReplaceAll(r.queue, "-", "_") + "_s"
	v.users(r.source, "source", prefix)
	v.users(r.sinkDSN, "sink", strings.ReplaceAll(r.queue, "-", "_")+"_k")
	r.seedShop(0.05)
	r.own("shop", prefix)
	r.start(contract.Control, contract.Capture, contract.Deliver, contract.Snapshot)
	p := v.pipe(fewTables)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	before := r.attempts(p)
	stop := r.load(100)
	rot := v.rotates("source", r.source)
	g := newGate(t, fmt.Sprintf("%s:%d", rot.Targets[0].Host, rot.Targets[0].Port))
	host, port, err := net.SplitHostPort(g.addr)
	if err != nil {
		t.Fatal(err)
	}
	rot.Targets[0].Host = host
	if rot.Targets[0].Port, err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	l := rot.Login
	in := contract.RotateInput{Rotation: rot, Who: "test"}
	begin := func() client.WorkflowRun { return v.begin(in) }
	first := in
	first.Init = prefix + "_b"
	if res := v.rotate(first); res.To.User != prefix+"_b" {
		t.Fatalf("%+v", res)
	}
	// asBefore checks that a user is in force, and nobody else can log in.
	force := func(what, user string, generation int64) {
		t.Helper()
		pointer := v.get("source")
		slot := v.get("source/" + pointer["slot"].(string))
		if slot["username"] != user || fmt.Sprint(pointer["generation"]) != fmt.Sprint(generation) || pointer["lock"] != nil {
			t.Errorf("%s: in force is %v, by %v", what, slot["username"], pointer)
		}
		for _, s := range []string{"a", "b"} {
			at := v.get("source/" + s)
			name, pw := at["username"].(string), at["password"].(string)
			if can := v.works(r.source, name, pw); can != (name == user) {
				t.Errorf("%s: %s can log in: %v", what, name, can)
			}
		}
	}
	ended := func(run client.WorkflowRun, what string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), bound)
		defer cancel()
		err := run.Get(ctx, nil)
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("ended with %v, want %q", err, what)
		}
	}
	force("rotated", prefix+"_b", 2)

	// Another rotation is started, and this one is cancelled.
	run, release := v.stall(g, l, begin)
	if _, err := r.tc.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: run.GetID(), TaskQueue: contract.Queue(r.queue, contract.Control), WorkflowExecutionErrorWhenAlreadyStarted: true},
		contract.RotateWorkflow, in); err == nil {
		t.Error("a second rotation began")
	}
	if err := r.tc.CancelWorkflow(t.Context(), run.GetID(), ""); err != nil {
		t.Fatal(err)
	}
	release()
	ended(run, "canceled")
	force("cancelled", prefix+"_b", 2)

	// Somebody else moves the pointer meanwhile: the same login, as another generation.
	run, release = v.stall(g, l, begin)
	pointer := v.get("source")
	pointer["generation"], pointer["rotation"] = 3, "somebody"
	v.put("source", pointer)
	release()
	ended(run, "PointerMoved")
	delete(pointer, "lock")
	v.put("source", pointer) // its lock is that of a rotation that has ended
	force("moved by somebody else", prefix+"_b", 3)

	// The new user lacks a right that the pipeline needs.
	r.exec(fmt.Sprintf("REVOKE %s_own FROM %s_a", prefix, prefix), fmt.Sprintf("ALTER ROLE %s_a RESET role", prefix))
	ended(begin(), "ConsumerFailed")
	force("a right is lacking", prefix+"_b", 3)
	r.exec(fmt.Sprintf("GRANT %s_own TO %s_a", prefix, prefix), fmt.Sprintf("ALTER ROLE %s_a SET role TO %s_own", prefix, prefix))

	// Its workflow is terminated, and its lock left behind: the next one takes it. A worker
	// is killed while that one runs; it is waited for until it is known to be gone.
	run, release = v.stall(g, l, begin)
	if err := r.tc.TerminateWorkflow(t.Context(), run.GetID(), run.GetRunID(), "test"); err != nil {
		t.Fatal(err)
	}
	release()

	// Somebody else has a session of the old login: both work until it is over. Meanwhile
	// Vault and a worker that rotates are killed, and it is rolled back.
	held := v.hold(r.source, "source")
	run = begin()
	waits := func() {
		t.Helper()
		until(t, bound, "the rotation waits for the session", func(context.Context) error {
			if st := v.status(l); st.Phase != contract.RotationRevoking {
				if st.Run == run.GetRunID() && st.Phase == contract.RotationDone {
					t.Fatalf("it is over: %+v, %v", st, st.Failure)
				}
				return fmt.Errorf("it is %s: %+v", st.Phase, st.Failure)
			}
			return nil
		})
	}
	waits()
	if st := v.status(l); st.Held == "" && len(st.Consumers) != 1 {
		t.Errorf("%+v", st)
	}
	if err := v.update(l, contract.RollbackUpdate); err != nil {
		t.Error(err)
	}
	ended(run, "rolled back")
	force("rolled back", prefix+"_b", 5)
	held()

	// After a leak nobody is waited for: what operations.md says is typed.
	held = v.hold(r.source, "source")
	old := v.get("source/" + v.get("source")["slot"].(string))
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, runbook, _ := strings.Cut(string(text), "### After a leak")
	runbook, _, _ = strings.Cut(runbook, "\n## ")
	declared, err := yaml.Marshal(map[string]any{"version": 1, "login": rot.Login.String(), "targets": []any{map[string]any{
		"name": "main", "type": "postgres", "host": rot.Targets[0].Host, "port": rot.Targets[0].Port, "database": rot.Targets[0].Database, "sslmode": "disable", "admin": rot.Targets[0].Admin.String()}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(r.dir, "rotation.yaml")
	if err := os.WriteFile(file, declared, 0o600); err != nil {
		t.Fatal(err)
	}
	typed := 0
	for _, block := range runbookBlock.FindAllStringSubmatch(runbook, -1) {
		if block[1] != "" {
			continue
		}
		out, err := r.shell(block[2], append(r.toolEnv(r.tool()), "ROTATION="+file, "LOGIN="+rot.Login.String(), "PIPELINE="+p.name))
		if err != nil || strings.Count(out, "  rotated\n") != 2 || !strings.Contains(out, "0 different") {
			t.Errorf("%s: %v\n%s", block[2], err, out)
		}
		typed++
	}
	if typed != 1 {
		t.Errorf("%d blocks of the runbook of a leak were typed", typed)
	}
	if left := r.one(r.source, "SELECT count(*)::text FROM pg_stat_activity WHERE usename = $1", old["username"]); left != "0" {
		t.Errorf("after a leak %s sessions of %s are left", left, old["username"])
	}
	force("after a leak", prefix+"_a", 6)
	held()

	stop()
	p.equal(fewTablesIs)
	if after := r.attempts(p); after != before {
		t.Errorf("attempts of the stream before: %s, after: %s", before, after)
	}
	r.neverRefused()
	p.nowhere(v.values("source/a", "source/b"), contract.RotationID(l))
}

// neverRefused reads in the workers' logs that no server refused them, and that no batch
// had to be applied again.
func (r *rig) neverRefused() {
	r.t.Helper()
	for _, w := range r.workers {
		text, err := os.ReadFile(w.log)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, what := range []string{"SourceAuthFailed", "SinkAuthFailed", "Authentication failed", `"what":"apply batch"`} {
			if bytes.Contains(text, []byte(what)) {
				r.t.Errorf("%s: its log has %s", w.name, what)
			}
		}
	}
}

// hold opens a session of the login in force, as another program would.
func (v *vaulted) hold(dsn, path string) (end func()) {
	v.r.t.Helper()
	at := v.get(path + "/" + v.get(path)["slot"].(string))
	u := mustURL(v.r.t, dsn)
	u.User = url.UserPassword(at["username"].(string), at["password"].(string))
	u.RawQuery = "application_name=reports"
	c, err := pgx.Connect(v.r.t.Context(), u.String())
	if err != nil {
		v.r.t.Fatal(err)
	}
	return func() { _ = c.Close(context.Background()) }
}

func (v *vaulted) update(l secrets.LoginRef, name string, args ...any) error {
	h, err := v.r.tc.UpdateWorkflow(v.r.t.Context(), client.UpdateWorkflowOptions{WorkflowID: contract.RotationID(l), UpdateName: name, Args: args, WaitForStage: client.WorkflowUpdateStageCompleted})
	if err != nil {
		return err
	}
	return h.Get(v.r.t.Context(), nil)
}

// The login to Kafka rotates, too, while capture writes to it and deliveries read from it.
func TestKafkaLoginRotates(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	k := stack.KafkaSecured(t)
	v := r.vault()
	user := strings.ReplaceAll(r.queue, "-", "_")
	v.put("admin", map[string]any{"username": k.User, "password": k.Password})
	v.put("kafka", map[string]any{"username": user + "_a", "password": "first-password-of-a"})
	text := fmt.Sprintf("version: 1\nlogin: %s\npatience: 1m\ntargets:\n- {name: log, type: kafka, brokers: %q, tls: {ca_file: %q}, admin: %s}\n", v.ref("kafka"), strings.Join(k.Brokers, ","), k.CA, v.ref("admin"))
	rot, err := pipeline.ParseRotation("rotation.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	spec := target.Spec{Name: "log", Type: target.Kafka, Brokers: k.Brokers, Mechanism: "scram-sha-512"}
	pem, err := os.ReadFile(k.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	admin, err := servers.Open(spec, login.Login{User: k.User, Password: k.Password}, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := admin.Set(t.Context(), user+"_a", secrets.NewSecret("first-password-of-a")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, u := range []string{user + "_a", user + "_b"} {
			_ = admin.Disable(context.Background(), u)
		}
	})
	r.seedShop(0.05)
	r.start()
	p := r.pipe(strings.Replace(declaration, `kafka: {`, fmt.Sprintf(`kafka: {sasl: {mechanism: scram-sha-512, login: "%s"}, tls: {ca_file: %q}, `, v.ref("kafka"), k.CA), 1) + fewTables)
	p.spec.Kafka.Brokers = k.Brokers
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	before := r.attempts(p)
	stop := r.load(150)
	for n := range 3 {
		in := contract.RotateInput{Rotation: *rot, Who: "test"}
		if n == 0 {
			in.Init = user + "_b"
		}
		res := v.rotate(in)
		if res.Outcome != contract.RotatedOutcome || len(res.Uses) != 1 || res.Uses[0].End != "kafka" {
			t.Fatalf("%+v", res)
		}
		old := v.get("kafka/" + string(res.From.Slot))
		if _, err := admin.Try(t.Context(), old["username"].(string), secrets.NewSecret(old["password"].(string))); err == nil {
			t.Errorf("%s can still log in", old["username"])
		}
		t.Logf("rotation %d in %.1f s", n, res.Ended.Sub(res.Began).Seconds())
	}
	stop()
	p.equal(fewTablesIs)
	if after := r.attempts(p); after != before {
		t.Errorf("attempts of the stream before: %s, after: %s", before, after)
	}
	p.nowhere(v.values("kafka/a", "kafka/b"), contract.RotationID(rot.Login), contract.PipelineID(p.name), contract.StreamID(p.name))
}

// The login to ClickHouse rotates in two regions, of a sink and of analytics. One region fails
// while the password is set, and later is cut off: nothing is revoked anywhere until it is
// back, or an operator declares it gone.
func TestClickHouseLoginRotates(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.vault()
	rot := pipeline.Rotation{}
	var broken atomic.Pointer[func(phase contract.RotationPhase, statement string) int]
	regions := map[string]*stack.Users{}
	declared := fmt.Sprintf("version: 1\nlogin: %s\npatience: 20s\ntargets:\n", v.ref("lake"))
	for _, name := range []string{"here", "there"} {
		u := stack.NewUsers(t, r.clickURL, "boss", "boss-password")
		u.Put("a", "first-password-of-a")
		u.Put("b", "nobody-knows-it")
		regions[name] = u
		at := mustURL(t, u.URL)
		declared += fmt.Sprintf("- {name: %s, type: clickhouse, protocol: http, host: %s, port: %s, admin: %s}\n", name, at.Hostname(), at.Port(), v.ref("admin"))
	}
	here, there := regions["here"], regions["there"]
	there.Break = func(statement string) int {
		if f := broken.Load(); f != nil {
			return (*f)(v.status(rot.Login).Phase, statement)
		}
		return 0
	}
	parsed, err := pipeline.ParseRotation("rotation.yaml", []byte(declared))
	if err != nil {
		t.Fatal(err)
	}
	rot = *parsed
	v.put("admin", map[string]any{"username": "boss", "password": "boss-password"})
	v.put("lake", map[string]any{"username": "a", "password": "first-password-of-a"})
	at := mustURL(t, here.URL)
	at.Path = "/"
	r.env = append(r.env, "E2E_ANALYTICS="+at.String(), "SYNCLINE_ANALYTICS=env:E2E_ANALYTICS", "SYNCLINE_ANALYTICS_LOGIN="+v.ref("lake"), "SYNCLINE_ANALYTICS_DATABASE="+r.clickDB)
	r.seedShop(0.05)
	r.start()
	p := r.pipe(strings.Replace(declaration, `dsn: "env:E2E_CLICKHOUSE"`, fmt.Sprintf(`host: %s, port: %s, database: "${DATABASE}", login: "%s"`, at.Hostname(), at.Port(), v.ref("lake")), 1) + fewTables)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	before := r.attempts(p)
	stop := r.load(150)
	in := contract.RotateInput{Rotation: rot, Who: "test", Init: "b"}
	// force holds that a user is in force in a region, and who else can log in there.
	force := func(what, user string, generation int64, both ...string) {
		t.Helper()
		pointer := v.get("lake")
		if fmt.Sprint(pointer["generation"]) != fmt.Sprint(generation) || pointer["lock"] != nil && len(both) == 0 {
			t.Errorf("%s: the pointer is %v", what, pointer)
		}
		for region, u := range regions {
			for _, slot := range []string{"a", "b"} {
				s := v.get("lake/" + slot)
				name, password := s["username"].(string), s["password"].(string)
				if can := u.Allows(name, password); can != (name == user || slices.Contains(both, region)) {
					t.Errorf("%s: %s can log in %s: %v", what, name, region, can)
				}
			}
		}
	}
	if res := v.rotate(in); res.Outcome != contract.RotatedOutcome || len(res.Uses) != 2 {
		t.Fatalf("%+v", res)
	}
	force("rotated", "b", 2)

	// The new user lacks what analytics need.
	here.Deny("a", "CREATE VIEW")
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	if err := v.begin(in).Get(ctx, nil); err == nil || !strings.Contains(err.Error(), contract.ConsumerFailedError) || !strings.Contains(err.Error(), "GRANT CREATE VIEW ON `"+r.clickDB+"`.* TO `a`") {
		t.Errorf("without a right it ended with %v", err)
	}
	here.Grant("a", "CREATE VIEW")
	force("a right is lacking", "b", 2)

	// The second region fails at the statement, when the first has the new password.
	set := func(phase contract.RotationPhase, statement string) int {
		if phase == contract.RotationSetting && strings.HasPrefix(statement, "ALTER USER") {
			return 243
		}
		return 0
	}
	broken.Store(&set)
	if err := v.begin(in).Get(ctx, nil); err == nil || !strings.Contains(err.Error(), contract.RotationFailedError) || !strings.Contains(err.Error(), "there") {
		t.Errorf("a partial setting ended with %v", err)
	}
	broken.Store(nil)
	force("set in part", "b", 2)

	// It is cut off once the pointer has moved.
	off := func(phase contract.RotationPhase, _ string) int {
		if phase == contract.RotationAdopting || phase == contract.RotationRevoking {
			return stack.Cut
		}
		return 0
	}
	waits := func(run client.WorkflowRun) {
		t.Helper()
		until(t, bound, "the rotation waits for the region", func(context.Context) error {
			if st := v.status(rot.Login); st.Run != run.GetRunID() || st.To.Generation == 0 || !strings.Contains(st.Held, "target there") {
				return fmt.Errorf("it is %s, held by %q: %v", st.Phase, st.Held, st.Failure)
			}
			return nil
		})
	}
	broken.Store(&off)
	run := v.begin(in)
	waits(run)
	force("cut off", "a", 3, "here", "there")
	broken.Store(nil)
	if err := run.Get(ctx, nil); err != nil {
		t.Errorf("back again: %v", err)
	}
	force("back again", "a", 3)

	broken.Store(&off)
	run = v.begin(in)
	waits(run)
	if err := v.update(rot.Login, contract.DeclareGoneUpdate, "target/there"); err != nil {
		t.Fatal(err)
	}
	var res contract.Rotated
	if err := run.Get(ctx, &res); err != nil || !strings.Contains(strings.Join(res.Left, " "), "target there") {
		t.Errorf("declared gone: %v, left is %v", err, res.Left)
	}
	force("declared gone", "b", 4, "there")
	broken.Store(nil)
	if res := v.rotate(in); res.Outcome != contract.RotatedOutcome {
		t.Errorf("%+v", res)
	}
	force("the one after", "a", 5)

	stop()
	p.equal(fewTablesIs)
	if after := r.attempts(p); after != before {
		t.Errorf("attempts of the stream before: %s, after: %s", before, after)
	}
	r.neverRefused()
	if n := r.sum("SELECT count() FROM {db}.rotations WHERE step = 'end' AND result = 'ok'"); n != 4 {
		t.Errorf("%d rotations are on record, want 4", n)
	}
	p.nowhere(v.values("lake/a", "lake/b"), contract.RotationID(rot.Login), contract.PipelineID(p.name), contract.StreamID(p.name))
}

// Workers and Vault are killed in the middle of a rotation. It comes to its end, one way or
// the other, and no change is lost.
func TestKillDuringRotation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fast = true
	v := r.vault()
	prefix := strings.ReplaceAll(r.queue, "-", "_")
	v.users(r.source, "source", prefix+"_s")
	v.users(r.sinkDSN, "sink", prefix+"_k")
	r.seedShop(0.05)
	r.own("shop", prefix+"_s")
	f := r.fleet()
	p := v.pipe(fewTables)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	stop := r.load(100)
	rot := v.rotates("source", r.source)
	rnd := moments(t)
	control := stack.Control(t)
	in := contract.RotateInput{Rotation: rot, Who: "test", Init: prefix + "_s_b"}
	run := v.begin(in)
	pause(t, rnd, 1800*time.Millisecond)
	victim := roles[rnd.IntN(len(roles))]
	t.Logf("killed in phase %s: a worker of role %s, and Vault", v.status(rot.Login).Phase, victim)
	f.kill(victim)
	control.Kill(stack.VaultService)
	control.Start(stack.VaultService)
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	err := run.Get(ctx, nil)
	st := v.status(rot.Login)
	t.Logf("ended as %s in %.0f s: %v", st.Outcome, st.Ended.Sub(st.Began).Seconds(), err)
	if ctx.Err() != nil {
		t.Fatalf("not ended: %+v", st)
	}
	check := func() {
		t.Helper()
		pointer := v.get("source")
		inForce := pointer["slot"].(string)
		for _, s := range []string{"a", "b"} {
			at := v.get("source/" + s)
			if can := v.works(r.source, at["username"].(string), at["password"].(string)); can != (s == inForce) {
				t.Errorf("in force is slot %s, and the user of slot %s can log in: %v", inForce, s, can)
			}
		}
		if pointer["lock"] != nil {
			t.Errorf("it stays locked: %v", pointer)
		}
	}
	check()
	if res := v.rotate(contract.RotateInput{Rotation: rot, Who: "test", Init: prefix + "_s_b"}); res.Outcome != contract.RotatedOutcome {
		t.Errorf("the next one: %+v", res)
	}
	check()
	stop()
	p.equal(fewTablesIs)
}

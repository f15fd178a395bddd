package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/jackc/pgx/v5"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/secrets"
)

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

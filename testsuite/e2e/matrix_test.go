package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/pipeline"
	"syncline/testsuite/stack"
)

// trap catches what a rotation asks of Vault or of ClickHouse in one of its steps.
type trap struct {
	phase   contract.RotationPhase
	vault   bool
	is      func(what string) bool // of the requests of the step
	now     func() contract.RotationPhase
	verdict func(n int) verdict // on the nth that is caught

	mu     sync.Mutex
	n      int
	caught chan struct{} // closed with the first
	open   chan struct{} // closed when all go on
}

// verdict is what becomes of a request.
type verdict int

const (
	passed  verdict = iota
	waited          // goes on when the trap is opened
	dropped         // is cut off; once the trap is open, goes on
	stuck           // is not answered until the trap is opened, and cut off then
	lost            // is done, and its answer is cut off
	refused         // is answered with a refusal; once the trap is open, goes on
)

// on judges a request. It returns passed, dropped, lost or refused.
func (tr *trap) on(vault bool, what string) verdict {
	if tr == nil || tr.vault != vault || !tr.is(what) || tr.now() != tr.phase {
		return passed
	}
	select {
	case <-tr.open:
		return passed
	default:
	}
	tr.mu.Lock()
	v := tr.verdict(tr.n)
	tr.n++
	if v != passed && tr.n == 1 {
		close(tr.caught)
	}
	tr.mu.Unlock()
	switch v {
	case waited:
		<-tr.open
		return passed
	case stuck:
		<-tr.open
		return dropped
	}
	return v
}

// vaultGate is a way to Vault on which a trap may be set.
func vaultGate(t *testing.T, to string, set *atomic.Pointer[trap]) string {
	t.Helper()
	at, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(at)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch set.Load().on(true, r.Method+" "+r.URL.Path) {
		case dropped:
			panic(http.ErrAbortHandler) // which is how a handler ends a connection
		case refused:
			http.Error(w, `{"errors": ["1 error occurred:\n\t* permission denied\n\n"]}`, http.StatusForbidden)
		case lost:
			proxy.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		default:
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// cell is one of the failure matrix in docs/operations.md: what happens in a step, and what
// comes of it.
type cell struct {
	phase contract.RotationPhase
	what  string
	want  string // an outcome, asBefore or heldUp
	long  bool   // it takes minutes
}

func (c *cell) String() string { return string(c.phase) + ": " + c.what }

const (
	killed    = "the worker that does it is killed"
	late      = "no answer in time"
	partly    = "done at some and not at others"
	denied    = "refused"
	cutOff    = "a server is cut off"
	another   = "another rotation is started"
	cancelled = "cancelled"

	asBefore = "as before"
	heldUp   = "held, then rotated"
)

var matrix = []cell{
	{contract.RotationPreflight, killed, contract.RotatedOutcome, true},
	{contract.RotationPreflight, late, asBefore, false},
	{contract.RotationPreflight, denied, asBefore, false},
	{contract.RotationPreflight, cutOff, asBefore, false},
	{contract.RotationPreflight, another, contract.RotatedOutcome, false},
	{contract.RotationPreflight, cancelled, asBefore, false},

	{contract.RotationStaging, killed, contract.RotatedOutcome, true},
	{contract.RotationStaging, late, asBefore, false},
	{contract.RotationStaging, denied, asBefore, false},
	{contract.RotationStaging, cutOff, asBefore, false},
	{contract.RotationStaging, another, contract.RotatedOutcome, false},
	{contract.RotationStaging, cancelled, asBefore, false},

	{contract.RotationSetting, killed, contract.RotatedOutcome, true},
	{contract.RotationSetting, late, asBefore, false},
	{contract.RotationSetting, partly, asBefore, false},
	{contract.RotationSetting, denied, asBefore, false},
	{contract.RotationSetting, cutOff, asBefore, false},
	{contract.RotationSetting, another, contract.RotatedOutcome, false},
	{contract.RotationSetting, cancelled, asBefore, false},

	{contract.RotationVerifying, killed, contract.RotatedOutcome, true},
	{contract.RotationVerifying, late, asBefore, true},
	{contract.RotationVerifying, partly, asBefore, false},
	{contract.RotationVerifying, denied, asBefore, false},
	{contract.RotationVerifying, cutOff, asBefore, false},
	{contract.RotationVerifying, another, contract.RotatedOutcome, false},
	{contract.RotationVerifying, cancelled, asBefore, false},

	{contract.RotationPromoting, killed, contract.RotatedOutcome, true},
	{contract.RotationPromoting, late, contract.RotatedOutcome, true},
	{contract.RotationPromoting, partly, contract.RotatedOutcome, false}, // its answer is lost
	{contract.RotationPromoting, denied, asBefore, false},
	{contract.RotationPromoting, cutOff, contract.RotatedOutcome, false},
	{contract.RotationPromoting, another, contract.RotatedOutcome, false},
	{contract.RotationPromoting, cancelled, contract.RolledBackOutcome, false},

	{contract.RotationAdopting, killed, contract.RotatedOutcome, true},
	{contract.RotationAdopting, late, heldUp, true},
	{contract.RotationAdopting, partly, heldUp, false},
	{contract.RotationAdopting, denied, contract.RolledBackOutcome, false},
	{contract.RotationAdopting, cutOff, heldUp, false},
	{contract.RotationAdopting, another, contract.RotatedOutcome, false},
	{contract.RotationAdopting, cancelled, contract.RolledBackOutcome, false},

	{contract.RotationRevoking, killed, contract.RotatedOutcome, true},
	{contract.RotationRevoking, late, heldUp, true},
	{contract.RotationRevoking, partly, heldUp, false},
	{contract.RotationRevoking, denied, heldUp, false},
	{contract.RotationRevoking, cutOff, heldUp, false},
	{contract.RotationRevoking, another, contract.RotatedOutcome, false},
	{contract.RotationRevoking, cancelled, contract.RolledBackOutcome, false},
}

// caughtBy says by what a step is known at Vault or ClickHouse.
func (c *cell) caughtBy(mount string) (vault bool, is func(string) bool) {
	begins := func(with string) func(string) bool {
		return func(s string) bool { return strings.HasPrefix(s, with) }
	}
	has := func(what string) func(string) bool {
		return func(s string) bool { return strings.Contains(s, what) }
	}
	switch c.phase {
	case contract.RotationPreflight:
		return false, has("system.users")
	case contract.RotationStaging:
		return true, begins("PUT /v1/" + mount + "/data/both/")
	case contract.RotationSetting:
		return false, begins("ALTER USER")
	case contract.RotationPromoting:
		return true, func(s string) bool { return s == "PUT /v1/"+mount+"/data/both" }
	case contract.RotationRevoking:
		if c.what == partly {
			return false, begins("ALTER USER")
		}
		return false, has("system.processes")
	}
	return false, has("currentUser()") // verifying and adopting: a login is tried
}

// verdict is what becomes of the nth request.
func (c *cell) verdict(n int) verdict {
	switch c.what {
	case killed, another, cancelled:
		return waited
	case late:
		if c.phase == contract.RotationPromoting && n > 0 {
			return passed
		}
		return stuck
	case denied:
		return refused
	case partly:
		switch c.phase {
		case contract.RotationPromoting:
			if n > 0 {
				return passed
			}
			return lost
		case contract.RotationVerifying: // one worker is refused, the other is not
			if n > 0 {
				return passed
			}
			return refused
		case contract.RotationSetting:
			return refused
		}
	case cutOff:
		if c.phase == contract.RotationPromoting && n > 2 {
			return passed
		}
	}
	return dropped
}

// Whatever goes wrong in whichever step, on real servers and while a pipeline streams by the
// login that rotates: what comes of it is what the matrix in docs/operations.md says, and
// exactly one login works. Some cells at random, or with E2E_ROTATION_MATRIX=all each.
func TestRotationMatrix(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rnd := moments(t)
	cells := slices.Clone(matrix)
	rnd.Shuffle(len(cells), func(i, j int) { cells[i], cells[j] = cells[j], cells[i] })
	switch only := os.Getenv("E2E_ROTATION_MATRIX"); only {
	case "all":
	case "":
		cells = slices.DeleteFunc(cells, func(c cell) bool { return c.long })[:5]
	default: // such as "adopting" or "setting: refused", or several with commas between
		cells = slices.DeleteFunc(cells, func(c cell) bool {
			return !slices.ContainsFunc(strings.Split(only, ","), func(s string) bool { return strings.HasPrefix(c.String(), s) })
		})
		if len(cells) == 0 {
			t.Fatalf("E2E_ROTATION_MATRIX=%s: no such cell", only)
		}
	}
	v := r.vault()
	var set atomic.Pointer[trap]
	addr, _ := stack.Vault(t)
	r.env = append(r.env, "SYNCLINE_VAULT_ADDR="+vaultGate(t, addr, &set)) // the last one counts
	prefix := strings.ReplaceAll(r.queue, "-", "_") + "_s"
	v.users(r.source, "both", prefix)
	lake := stack.NewUsers(t, r.clickURL, "boss", "boss-password")
	lake.Put(prefix+"_a", "first-password-of-a")
	lake.Put(prefix+"_b", "nobody-knows-it")
	lake.Break = func(statement string) int {
		switch set.Load().on(false, statement) {
		case dropped:
			return stack.Cut
		case refused:
			if strings.Contains(statement, "currentUser()") {
				return 516
			}
			return 497
		}
		return 0
	}
	v.put("boss", map[string]any{"username": "boss", "password": "boss-password"})
	rot := v.rotates("both", r.source)
	at := mustURL(t, lake.URL)
	text := fmt.Sprintf("version: 1\nlogin: %s\npatience: 10s\ngone: 1m\ntargets:\n- {name: lake, type: clickhouse, protocol: http, host: %s, port: %s, admin: %s}\n", v.ref("both"), at.Hostname(), at.Port(), v.ref("boss"))
	second, err := pipeline.ParseRotation("rotation.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	rot.Targets, rot.Patience = append(rot.Targets, second.Targets...), second.Patience

	r.seedShop(0.05)
	r.own("shop", prefix)
	r.start(contract.Capture, contract.Deliver, contract.Snapshot)
	r.start(contract.Control)
	r.start(contract.Control)
	src := mustURL(t, r.source)
	p := r.pipe(fmt.Sprintf(`version: 1
name: ${NAME}
source: {type: postgres, host: %s, port: %s, database: %q, sslmode: disable, login: "%s"}
kafka: {brokers: "${BROKERS}", topic_prefix: e2e., partitions: 4, retention: 1h}
sinks:
  - {name: pg, type: postgres, dsn: "env:E2E_SINK", lanes: 2}
  - {name: ch, type: clickhouse, host: %s, port: %s, database: "${DATABASE}", login: "%s", lanes: 2, schema: "${DATABASE}"}
tables:
`, src.Hostname(), src.Port(), strings.TrimPrefix(src.Path, "/"), v.ref("both"), at.Hostname(), at.Port(), v.ref("both")) + fewTables)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	before := r.attempts(p)
	stop := r.load(150)
	in := contract.RotateInput{Rotation: rot, Who: "test", Init: prefix + "_b"}
	if res := v.rotate(in); len(res.Uses) != 2 {
		t.Fatalf("%+v", res)
	}
	m := &matrixRun{t: t, r: r, v: v, in: in, lake: lake, set: &set}
	for _, c := range cells {
		m.play(c)
		if t.Failed() {
			break
		}
	}
	stop()
	p.equal(fewTablesIs)
	if after := r.attempts(p); after != before {
		t.Errorf("attempts of the stream before: %s, after: %s", before, after)
	}
	r.neverRefused()
	p.nowhere(v.values("both/a", "both/b"), contract.RotationID(rot.Login), contract.PipelineID(p.name), contract.StreamID(p.name))
}

// matrixRun plays cells, one after the other.
type matrixRun struct {
	t    *testing.T
	r    *rig
	v    *vaulted
	in   contract.RotateInput
	lake *stack.Users
	set  *atomic.Pointer[trap]
}

func (m *matrixRun) play(c cell) {
	t, v, l := m.t, m.v, m.in.Rotation.Login
	t.Helper()
	name := c.String()
	was := v.get("both")["slot"]
	var run client.WorkflowRun
	tr := &trap{phase: c.phase, verdict: c.verdict, caught: make(chan struct{}), open: make(chan struct{})}
	tr.vault, tr.is = c.caughtBy(v.mount)
	// The status of a rotation that has only just begun may still be that of the one before.
	begun := make(chan struct{})
	tr.now = func() contract.RotationPhase {
		<-begun
		if st := v.known(l); st.Run == run.GetRunID() {
			return st.Phase
		}
		return ""
	}
	m.set.Store(tr)
	release := sync.OnceFunc(func() { close(tr.open) })
	defer release()
	began := time.Now()
	in := m.in
	if c.what == killed {
		in.Rotation.Patience = pipeline.Duration(2 * time.Minute) // Temporal takes half a minute to know of it
	}
	run = v.begin(in)
	close(begun)
	select {
	case <-tr.caught:
	case <-time.After(time.Minute):
		st := v.status(l)
		t.Fatalf("%s: nothing was caught: %s, %v, held by %q", name, st.Phase, st.Failure, st.Held)
	}
	switch c.what {
	case killed:
		m.kill(run, c.phase)
		release()
	case another:
		_, err := m.r.tc.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: run.GetID(), TaskQueue: contract.Queue(m.r.queue, contract.Control), WorkflowExecutionErrorWhenAlreadyStarted: true},
			contract.RotateWorkflow, m.in)
		if err == nil {
			t.Errorf("%s: a second rotation began", name)
		}
		release()
	case cancelled:
		if err := m.r.tc.CancelWorkflow(t.Context(), run.GetID(), ""); err != nil {
			t.Fatal(err)
		}
		release()
	case late:
		if c.phase == contract.RotationPromoting {
			until(t, bound, name+": it is tried again", func(ctx context.Context) error {
				d, err := m.r.tc.DescribeWorkflowExecution(ctx, run.GetID(), run.GetRunID())
				if err == nil && (len(d.PendingActivities) != 1 || d.PendingActivities[0].Attempt < 2) {
					err = fmt.Errorf("%v", d.PendingActivities)
				}
				return err
			})
			release()
		}
	}
	if c.want == heldUp {
		until(t, bound, name+": it is held up", func(context.Context) error {
			st := v.status(l)
			if st.Run == run.GetRunID() && st.Phase == contract.RotationDone {
				t.Fatalf("%s: it is over: %+v, %v", name, st, st.Failure)
			}
			if st.Phase != c.phase || !strings.Contains(st.Held, "lake") && !strings.Contains(st.Held, "not disabled") && !strings.Contains(st.Held, "not left") {
				return fmt.Errorf("it is %s, held by %q: %v", st.Phase, st.Held, st.Failure)
			}
			return nil
		})
		release()
	}
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	err := run.Get(ctx, nil)
	if ctx.Err() != nil {
		t.Fatalf("%s: it does not end: %+v", name, v.status(l))
	}
	release()
	m.set.Store(nil)
	st := v.status(l)
	moved := c.want == contract.RotatedOutcome || c.want == heldUp
	switch {
	case moved != (err == nil), moved && st.Outcome != contract.RotatedOutcome, c.want == contract.RolledBackOutcome && st.Outcome != contract.RolledBackOutcome,
		c.want == asBefore && (st.Outcome == contract.RolledBackOutcome || st.To.Version > 0 && st.Outcome != contract.CompensatedOutcome):
		t.Errorf("%s: it ended as %q, %v; want %s", name, st.Outcome, err, c.want)
	}
	pointer := v.get("both")
	if (pointer["slot"] != was) != moved || pointer["lock"] != nil {
		t.Errorf("%s: the slot was %v, and the pointer is %v", name, was, pointer)
	}
	for _, slot := range []string{"a", "b"} {
		s := v.get("both/" + slot)
		user, password := s["username"].(string), s["password"].(string)
		should := slot == pointer["slot"]
		if pg, ch := v.works(m.r.source, user, password), m.lake.Allows(user, password); pg != should || ch != should {
			t.Errorf("%s: %s, in force %v, can log in at Postgres %v, at ClickHouse %v", name, user, should, pg, ch)
		}
	}
	t.Logf("MATRIX %s: %s, in %.1f s", name, c.want, time.Since(began).Seconds())
}

// kill kills the worker that does a step, and starts another in its place.
func (m *matrixRun) kill(run client.WorkflowRun, phase contract.RotationPhase) {
	m.t.Helper()
	var victim *worker
	until(m.t, bound, "it is known who does it", func(ctx context.Context) error {
		d, err := m.r.tc.DescribeWorkflowExecution(ctx, run.GetID(), run.GetRunID())
		if err != nil {
			return err
		}
		for _, a := range d.PendingActivities {
			for _, w := range m.r.workers {
				// The workers that stream are left alone: their end is another test's.
				if w.running() && w.identity() == a.LastWorkerIdentity && a.State == enumspb.PENDING_ACTIVITY_STATE_STARTED && !strings.Contains(w.name, string(contract.Capture)) {
					victim = w
				}
			}
		}
		if victim == nil {
			return fmt.Errorf("in phase %s: %v", phase, d.PendingActivities)
		}
		return nil
	})
	victim.kill()
	m.r.launch(contract.Control).ready()
}

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/dataplane/sink"
	chsink "syncline/dataplane/sink/clickhouse"
	pgsink "syncline/dataplane/sink/postgres"
	"syncline/dataplane/transport/kafka"
	"syncline/pipeline"
	"syncline/starter/view"
	"syncline/testsuite/stack"
)

// rig is the surroundings of one test: databases, workers and pipelines.
type rig struct {
	t   testing.TB
	dir string // logs
	// fast: workers without the race detector. Processes that are killed and started
	// all the time would, on two cores, mostly show how long a start with it takes;
	// races are looked for by all other tests.
	fast                      bool
	patience                  time.Duration // for one audit or repair; bound unless it is longer
	temporal, queue           string
	brokers                   []string
	source, sinkDSN, clickURL string
	chDSN                     string // of the sink: clickURL, or the same over the native protocol
	clickDB                   string
	env                       []string // of workers
	tc                        client.Client
	db                        *pgx.Conn // at the source, of the test's goroutine
	mu                        sync.Mutex
	workers                   []*worker
	pipes                     []*pipe
}

// newRig makes databases, and nothing that runs.
func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, temporal: stack.Temporal(t), brokers: stack.Kafka(t), queue: strings.ReplaceAll(stack.Name(t), "_", "-")}
	r.source = stack.Database(t, stack.Postgres(t))
	r.sinkDSN = stack.Database(t, stack.SinkPostgres(t))
	r.clickURL = stack.ClickHouseDatabase(t)
	r.chDSN = r.clickURL
	u, err := url.Parse(r.clickURL)
	if err != nil {
		t.Fatal(err)
	}
	r.clickDB = strings.TrimPrefix(u.Path, "/")
	r.env = []string{"E2E_SOURCE=" + r.source, "E2E_SINK=" + r.sinkDSN, "E2E_CLICKHOUSE=" + r.clickURL}
	if r.dir, err = os.MkdirTemp("", "e2e-"+r.queue+"-"); err != nil {
		t.Fatal(err)
	}
	if r.tc, err = client.Dial(client.Options{HostPort: r.temporal, Logger: silent{}}); err != nil {
		t.Fatalf("connect to Temporal: %v", err)
	}
	if r.db, err = pgx.Connect(t.Context(), r.source); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

// native lets the sink ch use ClickHouse's native protocol.
func (r *rig) native() {
	r.t.Helper()
	r.chDSN = stack.Native(r.t, r.clickURL)
	r.env = append(r.env, "E2E_CLICKHOUSE="+r.chDSN) // the last one counts
}

// close ends what runs and leaves nothing at the shared servers.
func (r *rig) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, p := range r.pipes {
		p.terminate(ctx)
	}
	for _, w := range r.workers {
		if w.running() {
			_ = w.cmd.Process.Kill()
			<-w.ended
		} else if !w.asked {
			r.t.Errorf("worker %s ended by itself: %v: %s", w.name, w.code, w.log)
		}
		// However it ended: one that was killed may have been at its report.
		if report := w.race(); report != "" {
			r.t.Errorf("worker %s: the race detector found something: %s\n%s", w.name, w.log, report)
		}
	}
	for _, p := range r.pipes {
		p.forget(ctx)
	}
	r.tc.Close()
	_ = r.db.Close(ctx)
	if r.t.Failed() {
		r.tails()
	} else if os.Getenv("E2E_KEEP") == "" {
		_ = os.RemoveAll(r.dir)
	}
}

// tails shows how the workers' logs end.
func (r *rig) tails() {
	r.t.Logf("logs of the workers: %s", r.dir)
	for i, w := range r.workers {
		if i < len(r.workers)-4 {
			continue
		}
		b, _ := os.ReadFile(w.log)
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		if len(lines) > 15 {
			lines = lines[len(lines)-15:]
		}
		r.t.Logf("%s:\n%s", filepath.Base(w.log), strings.Join(lines, "\n"))
	}
}

// exec runs statements at the source, one transaction each.
func (r *rig) exec(statements ...string) {
	r.t.Helper()
	for _, s := range statements {
		if _, err := r.db.Exec(r.t.Context(), s); err != nil {
			r.t.Fatalf("%s: %v", s, err)
		}
	}
}

// one returns the single value of a query as text.
func (r *rig) one(dsn, sql string, args ...any) string {
	r.t.Helper()
	v, err := scalar(r.t.Context(), dsn, sql, args...)
	if err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func scalar(ctx context.Context, dsn, sql string, args ...any) (string, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var v *string
	err = conn.QueryRow(ctx, sql, args...).Scan(&v)
	if errors.Is(err, pgx.ErrNoRows) { // or a statement that returns none
		return "", nil
	}
	if err != nil || v == nil {
		return "", err
	}
	return *v, nil
}

// click runs a query at ClickHouse and returns its answer.
func (r *rig) click(sql string) string {
	r.t.Helper()
	out, err := r.tryClick(r.t.Context(), sql)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *rig) tryClick(ctx context.Context, sql string) (string, error) {
	return stack.Ask(ctx, r.clickURL, sql)
}

// pipe is one pipeline.
type pipe struct {
	r    *rig
	name string
	spec *pipeline.Spec
}

// declaration that tests vary by replacing lines.
const declaration = `version: 1
name: ${NAME}
source: {type: postgres, dsn: "env:E2E_SOURCE"}
kafka: {brokers: "${BROKERS}", topic_prefix: e2e., partitions: 4, retention: 1h}
sinks:
  - {name: pg, type: postgres, dsn: "env:E2E_SINK", lanes: 2}
  - {name: ch, type: clickhouse, dsn: "env:E2E_CLICKHOUSE", lanes: 2, schema: "${DATABASE}"}
tables:
`

// smallChunks cuts even small tables, so that a load has many steps.
const smallChunks = "snapshot: {chunk_bytes: 64KiB, parallelism: 2}\n" + fastStream

// fastStream lets idle tables move on soon.
const fastStream = "stream: {status_interval: 200ms, heartbeat_interval: 1s}\n"

// pipe reads a declaration; text is what comes after the head, or all of it.
func (r *rig) pipe(text string) *pipe {
	r.t.Helper()
	p := &pipe{r: r, name: strings.ReplaceAll(stack.Name(r.t), "_", "-")}
	if !strings.HasPrefix(text, "version:") {
		text = declaration + text
	}
	vars := map[string]string{"NAME": p.name, "BROKERS": strings.Join(r.brokers, ","), "DATABASE": r.clickDB}
	spec, err := pipeline.Parse("pipeline.yaml", []byte(text), func(n string) (string, bool) { v, ok := vars[n]; return v, ok })
	if err != nil {
		r.t.Fatalf("%v\n%s", err, text)
	}
	p.spec = spec
	r.pipes = append(r.pipes, p)
	return p
}

// apply starts the pipeline, or changes it, as the command-line tool does.
func (p *pipe) apply() (contract.ApplyResult, error) {
	p.r.t.Helper()
	ctx, cancel := context.WithTimeout(p.r.t.Context(), 2*time.Minute)
	defer cancel()
	start := p.r.tc.NewWithStartWorkflowOperation(client.StartWorkflowOptions{
		ID: contract.PipelineID(p.name), TaskQueue: contract.Queue(p.r.queue, contract.Control),
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		TypedSearchAttributes:    temporal.NewSearchAttributes(temporal.NewSearchAttributeKeyKeyword(contract.PipelineAttribute).ValueSet(p.name)),
	}, contract.PipelineWorkflow, contract.PipelineInput{Spec: *p.spec})
	var res contract.ApplyResult
	h, err := p.r.tc.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
		StartWorkflowOperation: start,
		UpdateOptions: client.UpdateWorkflowOptions{
			WorkflowID: contract.PipelineID(p.name), UpdateName: contract.ApplyUpdate, Args: []any{*p.spec}, WaitForStage: client.WorkflowUpdateStageCompleted,
		},
	})
	if err == nil {
		err = h.Get(ctx, &res)
	}
	return res, err
}

func (p *pipe) mustApply() {
	p.r.t.Helper()
	if _, err := p.apply(); err != nil {
		p.r.t.Fatalf("apply %s: %v", p.name, err)
	}
}

// update calls an update; out may be nil.
func (p *pipe) update(name string, in, out any) error {
	p.r.t.Helper()
	ctx, cancel := context.WithTimeout(p.r.t.Context(), 2*time.Minute)
	defer cancel()
	o := client.UpdateWorkflowOptions{WorkflowID: contract.PipelineID(p.name), UpdateName: name, WaitForStage: client.WorkflowUpdateStageCompleted}
	if in != nil {
		o.Args = []any{in}
	}
	h, err := p.r.tc.UpdateWorkflow(ctx, o)
	if err != nil {
		return err
	}
	return h.Get(ctx, out)
}

func (p *pipe) mustUpdate(name string, in, out any) {
	p.r.t.Helper()
	if err := p.update(name, in, out); err != nil {
		p.r.t.Fatalf("%s of %s: %v", name, p.name, err)
	}
}

func (p *pipe) view(ctx context.Context) (*view.View, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return view.Gather(ctx, p.r.tc, p.name)
}

// awaitPhase waits for a phase; a failure that ends all hope ends the wait.
func (p *pipe) awaitPhase(within time.Duration, want contract.Phase) {
	p.r.t.Helper()
	until(p.r.t, within, fmt.Sprintf("pipeline %s is %s", p.name, want), func(ctx context.Context) error {
		v, err := p.view(ctx)
		if err != nil {
			return err
		}
		if want == contract.Streaming && !v.Settled() || v.Status.Phase != want {
			return fmt.Errorf("it is %s; %s", v.Status.Phase, p.troubles(v))
		}
		return nil
	})
}

func (p *pipe) troubles(v *view.View) string {
	var b strings.Builder
	for _, t := range v.Status.Tables {
		if t.Reason != "" {
			fmt.Fprintf(&b, "%s: %s; ", t.Table, t.Reason)
		}
	}
	cs := []view.Component{v.Capture}
	for _, s := range v.Sinks {
		cs = append(cs, s.Lanes...)
	}
	for _, c := range cs {
		fmt.Fprintf(&b, "%s %s attempt %d %v; ", c.Name, c.State, c.Attempt, c.Failure)
	}
	for _, l := range v.Loads {
		done, of := 0, 0
		for _, x := range l.Loads {
			done, of = done+x.Done, of+x.Chunks
		}
		fmt.Fprintf(&b, "load: %d of %d chunks, generation %d; ", done, of, l.Generation)
	}
	return b.String()
}

// sinks opens the sinks of the pipeline, to look at their ledgers.
func (p *pipe) sinks() map[string]sink.Sink {
	p.r.t.Helper()
	out := map[string]sink.Sink{}
	for _, s := range p.spec.Sinks {
		var k sink.Sink
		var err error
		if s.Type == pipeline.SinkPostgres {
			k, err = pgsink.Open(pgsink.Config{DSN: p.r.sinkDSN, Pipeline: p.name})
		} else {
			k, err = chsink.Open(chsink.Config{DSN: p.r.chDSN, Pipeline: p.name, Options: chsink.Options{Database: s.Schema}})
		}
		if err != nil {
			p.r.t.Fatalf("open sink %s: %v", s.Name, err)
		}
		out[s.Name] = k
	}
	return out
}

func (p *pipe) kafka() kafka.Options {
	return kafka.Options{Brokers: p.r.brokers, Prefix: p.spec.Kafka.TopicPrefix, Pipeline: p.name}
}

// terminate ends the pipeline's workflows without their help.
func (p *pipe) terminate(ctx context.Context) {
	ids := []string{contract.PipelineID(p.name), contract.StreamID(p.name)}
	list, err := p.r.tc.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Query: fmt.Sprintf("WorkflowId STARTS_WITH 'bootstrap/%s/' AND ExecutionStatus = 'Running'", p.name)})
	if err == nil {
		for _, e := range list.Executions {
			ids = append(ids, e.Execution.WorkflowId)
		}
	}
	for _, t := range p.spec.Tiers {
		_ = p.r.tc.ScheduleClient().GetHandle(ctx, contract.TierScheduleID(p.name, t.Name)).Delete(ctx)
	}
	for _, id := range ids {
		_ = p.r.tc.TerminateWorkflow(ctx, id, "", "the test is over")
	}
}

// forget removes what the pipeline has at the shared servers: topics, and its
// rows in ClickHouse's ledger. Databases with slots go by themselves.
func (p *pipe) forget(ctx context.Context) {
	if a, err := kafka.OpenAdmin(p.kafka()); err == nil {
		_ = a.DeleteTopics(ctx)
		_ = a.Close()
	}
	for _, k := range p.sinks() {
		_ = k.Forget(ctx)
		_ = k.Close()
	}
}

// until repeats look until it returns nil, and ends the test when that takes too long.
func until(t testing.TB, within time.Duration, what string, look func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	begun := time.Now()
	var last error
	for wait := 20 * time.Millisecond; ; wait = min(wait*3/2, 400*time.Millisecond) {
		err := look(ctx)
		if err == nil {
			if took := time.Since(begun); took > time.Second {
				t.Logf("after %s: %s", took.Round(100*time.Millisecond), what)
			}
			return
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited %s for: %s; last seen: %v", time.Since(begun).Round(time.Second), what, last)
		case <-time.After(wait):
		}
	}
}

// moments gives the random moments of a test.
func moments(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("E2E_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("E2E_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("E2E_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// kills is how often each role is killed in each phase.
func kills(t testing.TB) int {
	t.Helper()
	if s := os.Getenv("E2E_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("E2E_KILLS is %q", s)
		}
		return n
	}
	return 3
}

type silent struct{}

func (silent) Debug(string, ...any) {}
func (silent) Info(string, ...any)  {}
func (silent) Warn(string, ...any)  {}
func (silent) Error(string, ...any) {}

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	enums "go.temporal.io/api/enums/v1"

	"syncline/activities/contract"
	"syncline/pipeline"
	"syncline/testsuite/stack"
)

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

package e2e

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/analytics"
	"syncline/analytics/bill"
	"syncline/analytics/billing"
	"syncline/analytics/board"
	"syncline/testsuite/stack"
)

const alertingPipeline = `  include: [s.*]
stream: {status_interval: 200ms, heartbeat_interval: 1s}
tiers: [{name: later, every: 10s}]
classify: [{match: s.waits, tier: later}]
objectives:
  - {name: capacity, indicator: backlog, at_most: 100}
  - {name: fresh, indicator: lag, within: 5s, target: 99%}
  - {name: instant, indicator: lag, within: 1ms, target: 99%}
`

// TestAlertsFireAndClear breaks things under workers that a real Prometheus looks at,
// with the rules of production but for their times and limits. Each alert fires for
// what is broken, and clears when that is repaired.
func TestAlertsFireAndClear(t *testing.T) {
	t.Parallel()
	w := newAlerting(t)
	r := w.r
	r.exec("CREATE SCHEMA s", "CREATE TABLE s.items (id bigint PRIMARY KEY, v text)", "CREATE TABLE s.refused (id int PRIMARY KEY, v text)",
		"CREATE TABLE s.waits (id int PRIMARY KEY, n int)", "INSERT INTO s.waits VALUES (1, 1)",
		"CREATE TABLE s.gated (id int PRIMARY KEY, v int)", "INSERT INTO s.refused VALUES (1, 'fine')", "INSERT INTO s.gated VALUES (1, 1)")
	for _, s := range []string{"CREATE SCHEMA s", "CREATE TABLE s.refused (id int PRIMARY KEY, v text CHECK (v = 'fine'))"} {
		if _, err := scalar(t.Context(), r.sinkDSN, s); err != nil {
			t.Fatal(err)
		}
	}
	upstream := must(url.Parse(r.sinkDSN))(t)
	way := newGateway(t, upstream.Host)
	upstream.Host = way.l.Addr().String()
	origin := must(url.Parse(r.source))(t)
	line := newGateway(t, origin.Host)
	origin.Host = line.l.Addr().String()
	r.env = append(r.env, "E2E_SINK="+upstream.String(), "E2E_SOURCE="+origin.String())
	records := r.recorded()
	first, second := r.start(contract.Control, contract.Capture, contract.Snapshot), r.start(contract.Deliver)
	r.scraped(w.m, first, second)
	per := pricedPeriod(time.Now())
	text := alertingPipeline
	if per != "" {
		text += "budget: {amount: 1 USD, per: " + per + "}\n"
	}
	p := r.pipe(text)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	p.converged()
	here := `pipeline="` + p.name + `"`
	mine := `test="` + r.queue + `"`
	until(t, bound, "Prometheus sees both workers", func(ctx context.Context) error {
		if n, err := w.ask(ctx, `up{`+mine+`} == 1`); err != nil || len(n) != 2 {
			return fmt.Errorf("%d workers, %v", len(n), err)
		}
		return nil
	})
	w.quiet(here, mine)

	say := w.recorder()
	// A tier whose runs are put off while something waits for it, and usage that is priced
	// again only after some hours and costs more than the budget.
	later := r.tc.ScheduleClient().GetHandle(t.Context(), contract.TierScheduleID(p.name, "later"))
	if err := later.Pause(t.Context(), client.SchedulePauseOptions{}); err != nil {
		t.Fatal(err)
	}
	r.exec("UPDATE s.waits SET n = n + 1")
	ago := time.Now().UTC().Add(-4 * time.Hour)
	say(&analytics.Pricings{Time: ago, Hour: ago.Truncate(time.Hour).Add(-time.Hour), Actor: "e2e"})
	r.used(say, p.name)

	// One row that the sink refuses, one table that it cannot take any more, and a
	// secret that is not there.
	r.exec("INSERT INTO s.refused VALUES (2, 'not fine')", "ALTER TABLE s.gated ALTER COLUMN v TYPE numeric USING v + 0.5", "INSERT INTO s.gated VALUES (2, 2)")
	lost := r.pipe(strings.Replace(declaration, "env:E2E_SOURCE", "env:E2E_NOWHERE", 1) + "  include: [s.*]\n")
	if _, err := lost.apply(); err == nil {
		t.Error("a pipeline without its secret was set up")
	}
	w.fires("SynclineDeadLetters", here, `sink="pg"`, `table="s.refused"`)
	w.fires("SynclineTablesGated", here)
	w.fires("SynclineSecurityFailures", `kind="secret"`)
	w.fires("SynclineTierBehind", here, `sink="pg"`, `tier="later"`)
	w.fires("SynclinePricingBehind")
	if err := later.Unpause(t.Context(), client.ScheduleUnpauseOptions{}); err != nil {
		t.Fatal(err)
	}
	price := func() {
		t.Helper()
		var out bill.Pricing
		if r.asked(contract.PriceWorkflow, contract.PriceInput{Who: "e2e"}, &out); per != "" && len(out.Budgets) != 1 {
			t.Fatalf("budgets of others were looked at, or none: %+v", out)
		}
	}
	price()
	p.mustUpdate(contract.RemoveTableUpdate, contract.TablesInput{Tables: ids("s.gated"), DropRows: true}, nil)
	p.mustUpdate(contract.AddTableUpdate, contract.TablesInput{Tables: ids("s.gated")}, nil)
	p.awaitPhase(bound, contract.Streaming)
	w.clears("SynclineTablesGated", here)
	w.clears("SynclineDeadLetters", here)
	w.clears("SynclineSecurityFailures", `kind="secret"`)
	w.clears("SynclineTierBehind", here)
	w.clears("SynclinePricingBehind")
	if per != "" {
		w.fires("SynclineBudget", here)
		p.spec.Budget.Amount = "1000000 USD"
		p.mustApply()
		price()
	}

	// What verifications and rotations say, whoever runs them.
	verdict := func(v string) analytics.Row {
		return &analytics.Verifications{Time: time.Now().UTC(), Pipeline: p.name, Sink: "pg", Tab: "s.items", Run: rand.Text(), Kind: "check", Verdict: v}
	}
	rotation := func(result string) analytics.Row {
		return &analytics.Rotations{Time: time.Now().UTC(), Secret: r.queue, Run: rand.Text(), Step: analytics.RotationEnd, Result: result}
	}
	say(verdict(analytics.Different))
	say(rotation(analytics.RotationFailed))
	w.fires("SynclineDivergence", here)
	w.fires("SynclineRotationFailed")
	say(verdict(analytics.Inconclusive))
	w.fires("SynclineVerificationFailed", here)
	w.fires("SynclineDivergence", here) // still
	say(verdict(analytics.Equal))
	say(rotation(analytics.RotationOK))
	w.clears("SynclineDivergence", here)
	w.clears("SynclineVerificationFailed", here)
	w.clears("SynclineRotationFailed")
	if per != "" {
		w.clears("SynclineBudget", here)
	}

	// A folder for what waits that is gone.
	back := r.withoutSpill()
	w.fires("SynclineAnalyticsDrops")
	back()
	w.clears("SynclineAnalyticsDrops")

	// A sink that is away while changes go on, and the database of analytics with it.
	rest := r.trickle()
	w.fires("SynclineDeliveryLag", here, `sink="ch"`)
	way.set(true)
	records.set(true)
	for _, name := range []string{"SynclineRetrying", "SynclineSinkStuck", "SynclineBacklogGrows", "SynclineBacklogOverCapacity"} {
		w.fires(name, here)
	}
	w.fires("SynclineAnalyticsSpills", mine)
	records.set(false)
	w.fires("SynclineLoopStalled", mine)
	way.set(false)
	for _, name := range []string{"SynclineSinkStuck", "SynclineBacklogGrows", "SynclineBacklogOverCapacity", "SynclineRetrying"} {
		w.clears(name, here)
	}
	w.clears("SynclineLoopStalled", mine)
	// What had waited was late.
	w.fired("SynclineErrorBudgetBurns", here, `objective="fresh"`)
	w.clears("SynclineErrorBudgetBurns", here, `objective="fresh"`)
	w.fired("SynclineLagSpike", here, `sink="pg"`)
	w.clears("SynclineLagSpike", here)
	// This one was never kept.
	w.fires("SynclineErrorBudgetDrains", here, `objective="instant"`)
	but := unproduced
	if per == "" {
		but = slices.Concat(but, ofBudgets)
	}
	w.answers(p.name+"|"+lost.name, but...)
	rest()
	w.clears("SynclineDeliveryLag", here)
	w.clears("SynclineAnalyticsSpills", mine)
	w.clears("SynclineErrorBudgetDrains", here)

	// A transaction that does not end makes the source keep its log.
	release := r.holdLog(w.slotBytes)
	w.fires("SynclineSlotRetainsLog", here)
	release()
	w.clears("SynclineSlotRetainsLog", here)

	// A line to the source on which its changes come in slowly.
	line.slow.Store(200 << 10)
	// Of one transaction nearly all would count as passed: that is where the log ends
	// before its commit.
	r.exec("DO $$ BEGIN FOR i IN 1..1500 LOOP INSERT INTO s.items SELECT -i - 10, string_agg(md5(i || '/' || n), '') FROM generate_series(1, 100) n; COMMIT; END LOOP; END $$")
	w.fires("SynclineCaptureLag", here)
	line.slow.Store(0)
	w.clears("SynclineCaptureLag", here)

	// Workers die.
	second.kill()
	w.fires("SynclineWorkerDown", mine)
	first.kill()
	w.fires("SynclineNoWorker")
	third := r.start()
	r.scraped(w.m, third)
	w.clears("SynclineNoWorker")
	w.clears("SynclineWorkerDown", mine)
	p.converged()
	w.quiet(here, mine)
	t.Logf("fired and cleared: %s", strings.Join(slices.Sorted(maps.Keys(w.cleared)), ", "))
	for name := range w.seen {
		if !w.cleared[name] {
			t.Errorf("%s fired, and nobody looked whether it clears", name)
		}
	}
}

// alerting is a rig with rules that are fast.
type alerting struct {
	r             *rig
	m             stack.Monitoring
	slotBytes     int
	seen, cleared map[string]bool
}

func newAlerting(t *testing.T) *alerting {
	t.Helper()
	w := &alerting{m: stack.Prometheus(t), slotBytes: 40 << 20, seen: map[string]bool{}, cleared: map[string]bool{}}
	w.r = newRig(t)
	w.r.fast = true
	o := board.Plain()
	o.Speed = 100
	o.Limits = board.Limits{SlotBytes: float64(w.slotBytes), CaptureBytes: 2 << 20, LagSeconds: 0.0001, SpikeSeconds: 3, Backlog: 20, Retries: 0.1, PricingSeconds: 3 * 3600}
	file := filepath.Join(w.m.Dir, "rules", w.r.queue+".yml")
	if err := os.WriteFile(file, []byte(board.Rules(o)), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = os.Remove(file)
		w.reload(t)
	})
	w.reload(t)
	return w
}

func (w *alerting) reload(t *testing.T) {
	t.Helper()
	res, err := http.Post(w.m.URL+"/-/reload", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("Prometheus does not take the rules: %s", res.Status)
	}
}

// ask returns the labels of what a query finds.
func (w *alerting) ask(ctx context.Context, expr string) ([]map[string]string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.m.URL+"/api/v1/query?"+url.Values{"query": {expr}}.Encode(), nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	var a struct {
		Status, Error string
		Data          struct {
			Result []struct{ Metric map[string]string }
		}
	}
	if err := json.NewDecoder(res.Body).Decode(&a); err != nil {
		return nil, err
	}
	if a.Status != "success" {
		return nil, errors.New(a.Error)
	}
	var out []map[string]string
	for _, x := range a.Data.Result {
		out = append(out, x.Metric)
	}
	return out, nil
}

// recorder writes into the analytics of the rig, as any part of the product does.
func (w *alerting) recorder() func(analytics.Row) {
	w.r.t.Helper()
	u := must(url.Parse(w.r.clickURL))(w.r.t)
	u.Path = "/"
	s := must(analytics.OpenStore(u.String(), w.r.clickDB, nil))(w.r.t)
	w.r.t.Cleanup(func() { _ = s.Close() })
	return func(row analytics.Row) {
		w.r.t.Helper()
		if err := s.Insert(w.r.t.Context(), rand.Text(), []analytics.Row{row}); err != nil {
			w.r.t.Fatal(err)
		}
	}
}

// withoutSpill takes the folders away in which workers keep what they recorded.
func (r *rig) withoutSpill() (back func()) {
	r.t.Helper()
	dirs := must(filepath.Glob(filepath.Join(r.dir, "spill", "analytics", "writer-*")))(r.t)
	if len(dirs) == 0 {
		r.t.Fatal("no worker has a folder for analytics")
	}
	move := func(from, to string) {
		if err := os.Rename(from, to); err != nil {
			r.t.Fatal(err)
		}
	}
	for _, d := range dirs {
		move(d, filepath.Join(r.dir, filepath.Base(d)))
	}
	return func() {
		for _, d := range dirs {
			move(filepath.Join(r.dir, filepath.Base(d)), d)
		}
	}
}

func firing(labels ...string) string {
	return "ALERTS{" + strings.Join(append(labels, `alertstate="firing"`), ", ") + "}"
}

func (w *alerting) fires(name string, labels ...string) {
	w.r.t.Helper()
	w.await(name+" fires", firing(append(labels, `alertname="`+name+`"`)...), true)
	w.seen[name] = true
}

// fired is for alerts that may be over by now.
func (w *alerting) fired(name string, labels ...string) {
	w.r.t.Helper()
	w.await(name+" has fired", "count_over_time("+firing(append(labels, `alertname="`+name+`"`)...)+"[3m])", true)
	w.seen[name] = true
}

func (w *alerting) clears(name string, labels ...string) {
	w.r.t.Helper()
	w.await(name+" clears", firing(append(labels, `alertname="`+name+`"`)...), false)
	w.cleared[name] = true
}

func (w *alerting) await(what, expr string, want bool) {
	w.r.t.Helper()
	until(w.r.t, 4*time.Minute, what, func(ctx context.Context) error {
		found, err := w.ask(ctx, expr)
		if err == nil && (len(found) > 0) != want {
			all, _ := w.ask(ctx, "ALERTS")
			return fmt.Errorf("%v; all alerts: %v", found, all)
		}
		return err
	})
}

// used applies prices, and records usage of the last hour: 1.50 USD, and some without a price.
func (r *rig) used(say func(analytics.Row), pipeline string) {
	r.t.Helper()
	const prices = "version: 1\ncurrency: USD\nunit: GB\nroutes:\n  - {name: ocean, from: eu, to: us, prices: [{from: 2020-01-01, price: 0.05}]}\n"
	say(&analytics.Prices{Time: time.Now().UTC(), Version: billing.Version(prices), Actor: "e2e", Currency: "USD", Text: prices})
	hour := time.Now().UTC().Truncate(time.Hour).Add(-time.Hour)
	for destination, wire := range map[string]uint64{"us": 30_000_000_000, "moon": 1000} {
		say(&analytics.Usage{Time: hour, Pipeline: pipeline, Sink: "pg", Tab: "s.items", Tier: "stream", Component: "Deliver", Origin: "eu", Destination: destination, Wire: wire})
	}
}

// unproduced are panels over what nothing in this test makes: repairs, conflicts between
// regions, and restarts of a capture.
var unproduced = []string{"Repairs", "Conflicts", "Duplicates by cause", "Duplicates dropped", "Contained in a snapshot", "Fenced attempts"}

// ofBudgets are panels that show nothing while there can be no budget.
var ofBudgets = []string{"Budgets", "Budgets looked at"}

// answers: after changes and faults, every panel but some shows something of pipelines
// that match.
func (w *alerting) answers(pipelines string, but ...string) {
	w.r.t.Helper()
	for _, d := range board.Dashboards() {
		for _, panel := range d.Panels {
			if slices.Contains(but, panel.Title) {
				continue
			}
			q := panel.Expanded(w.r.clickDB, pipelines)
			until(w.r.t, bound, "an answer for "+d.Title+": "+panel.Title, func(ctx context.Context) error {
				if panel.Source == board.Prometheus {
					found, err := w.ask(ctx, q)
					if err == nil && len(found) == 0 {
						err = fmt.Errorf("none to %s", q)
					}
					return err
				}
				if w.r.click("SELECT count() FROM ("+q+")") == "0\n" {
					return fmt.Errorf("no row of %s", q)
				}
				return nil
			})
		}
	}
}

// quiet: nothing fires for this test.
func (w *alerting) quiet(selectors ...string) {
	w.r.t.Helper()
	for _, s := range selectors {
		w.await("no alert for "+s, firing(s), false)
	}
}

// trickle changes s.items, and s.waits, at a steady rate until it is told to stop.
func (r *rig) trickle() (stop func()) {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.source)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			_, err := conn.Exec(ctx, "INSERT INTO s.items VALUES ($1, repeat('x', 100))", n)
			if err == nil {
				_, err = conn.Exec(ctx, "UPDATE s.waits SET n = n + 1")
			}
			if err != nil {
				if ctx.Err() == nil {
					r.t.Errorf("change the source: %v", err)
				}
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return sync.OnceFunc(func() { cancel(); wg.Wait() })
}

// holdLog keeps a transaction open and writes more log than so many bytes.
func (r *rig) holdLog(bytes int) (release func()) {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.source)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, s := range []string{"BEGIN", "INSERT INTO s.items VALUES (-1, 'open')"} {
		if _, err := conn.Exec(r.t.Context(), s); err != nil {
			r.t.Fatal(err)
		}
	}
	for range bytes>>20 + 2 {
		r.exec("SELECT pg_logical_emit_message(false, 'e2e', repeat('x', 1 << 20))")
	}
	return func() {
		if err := conn.Close(r.t.Context()); err != nil { // rolls it back
			r.t.Error(err)
		}
		// The slot moves on where the log says which transactions run.
		for range 2 {
			r.exec("CHECKPOINT")
		}
	}
}

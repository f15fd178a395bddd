package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/dataplane/verify"
)

const hourly = `tiers: [{name: hourly, every: 30m}]
classify:
  - {match: public.event, where: "severity in ('critical')", tier: stream}
  - {match: public.event, tier: hourly}
`

const twoTiers = `tiers: [{name: hourly, every: 30m}, {name: bulk, every: 30m}]
classify:
  - {match: public.event, where: "severity in ('critical')", tier: stream}
  - {match: public.event, where: severity = 'debug', tier: bulk}
  - {match: public.event, tier: hourly}
`

// tier runs a tier and waits for its end.
func (p *pipe) tier(name string) contract.TierResult {
	p.r.t.Helper()
	return p.tierDuring(name, func() {})
}

// tierDuring does something while a run of a tier is under way.
func (p *pipe) tierDuring(name string, f func()) (res contract.TierResult) {
	p.r.t.Helper()
	ctx, cancel := context.WithTimeout(p.r.t.Context(), bound)
	defer cancel()
	run, err := p.r.tc.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: contract.Queue(p.r.queue, contract.Control)}, contract.BatchTierWorkflow, contract.TierInput{Pipeline: p.name, Tier: name})
	if err == nil {
		f()
		err = run.Get(ctx, &res)
	}
	if err != nil {
		p.r.t.Fatalf("run of tier %s: %v", name, err)
	}
	return res
}

// What may wait waits, by each tier's own time, what may not does not, and in the end the
// sinks are equal to the source: over runs of the tiers, a worker that is killed in one, a verification, and other
// rules.
func TestTiers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fast = true
	r.exec("CREATE TABLE event (id bigint PRIMARY KEY, severity text NOT NULL, hits int NOT NULL, body text)", "ALTER TABLE event ALTER body SET STORAGE EXTERNAL",
		"INSERT INTO event SELECT i, 'info', 0, CASE WHEN i % 50 = 0 THEN repeat('x', 5000) END FROM generate_series(1, 500) i")
	f := r.fleet()
	p := r.pipe("  include: [public.event]\n" + fastStream + twoTiers)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	p.converged()

	counts := func(where string) [2]string {
		t.Helper()
		return [2]string{r.one(r.sinkDSN, "SELECT count(*) FROM event WHERE "+where), r.click("SELECT count() FROM " + r.clickDB + ".event FINAL WHERE _deleted = 0 AND " + where)}
	}
	await := func(where, want string) {
		t.Helper()
		until(t, bound, want+" rows with "+where, func(context.Context) error {
			if got := counts(where); got[0] != want || strings.TrimSpace(got[1]) != want {
				return fmt.Errorf("there are %q", got)
			}
			return nil
		})
	}
	r.exec("UPDATE event SET severity = 'debug', hits = 3 WHERE id BETWEEN 201 AND 220")
	r.exec("UPDATE event SET hits = 1 WHERE id <= 100", "UPDATE event SET severity = 'critical', hits = 2 WHERE id BETWEEN 51 AND 60")
	await("hits = 2", "10")
	if got := counts("hits = 1"); got[0] != "0" || strings.TrimSpace(got[1]) != "0" {
		t.Errorf("rows that were to wait did not: %q", got)
	}
	until(t, bound, "status tells what waits", func(ctx context.Context) error {
		v, err := p.view(ctx)
		if err != nil {
			return err
		}
		for _, s := range v.Sinks {
			h, b := s.Tiers["hourly"], s.Tiers["bulk"]
			if s.Waits != 120 || s.WaitsSince.IsZero() || time.Since(s.WaitsSince) > time.Hour || h.Waits != 100 || b.Waits != 20 || !b.Since.Equal(s.WaitsSince) {
				return fmt.Errorf("%s: %d since %s; %+v", s.Name, s.Waits, s.WaitsSince, s.Tiers)
			}
		}
		return nil
	})
	schedule := r.tc.ScheduleClient().GetHandle(t.Context(), contract.TierScheduleID(p.name, "hourly"))
	d, err := schedule.Describe(t.Context())
	if err != nil || len(d.Schedule.Spec.Intervals) != 1 || d.Schedule.Spec.Intervals[0].Every != 30*time.Minute || d.Schedule.State.Paused {
		t.Fatalf("%+v, %v", d, err)
	}
	if err := schedule.Trigger(t.Context(), client.ScheduleTriggerOptions{}); err != nil {
		t.Fatal(err)
	}
	await("hits = 1", "90")
	if got := counts("hits = 3"); got[0] != "0" || strings.TrimSpace(got[1]) != "0" {
		t.Errorf("a run brought what waits in another tier: %q", got)
	}
	if res := p.tier("bulk"); len(res.Sinks) != 2 || res.Sinks[0].Waited != 20 {
		t.Errorf("%+v", res)
	}
	await("hits = 3", "20")
	p.converged()
	p.equal(1)

	// Writes of both kinds all along, with rows that go and come, and large values that
	// are left out, while workers are killed in the middle of runs.
	stop := r.keep(10*time.Millisecond, func(n int) string {
		id := 1 + n*7%500
		return []string{
			fmt.Sprintf("UPDATE event SET hits = hits + 1 WHERE id BETWEEN %d AND %d", id, id+20),
			fmt.Sprintf("UPDATE event SET severity = 'critical', hits = hits + 1 WHERE id = %d", id),
			fmt.Sprintf("UPDATE event SET severity = 'info', body = repeat('y', 4000 + %d) WHERE id = %d", n%100, id),
			fmt.Sprintf("UPDATE event SET severity = '%s' WHERE id = %d", []string{"critical", "debug"}[n/8%2], id),
			fmt.Sprintf("DELETE FROM event WHERE id = %d", id+1),
			fmt.Sprintf("INSERT INTO event VALUES (%d, '%s', %d, NULL) ON CONFLICT DO NOTHING", id+1, []string{"info", "critical", "debug"}[n%3], n),
			fmt.Sprintf("UPDATE event SET id = -id WHERE id = %d AND NOT EXISTS (SELECT FROM event e WHERE e.id = %d)", id+2, -(id + 2)),
			fmt.Sprintf("UPDATE event SET id = -id WHERE id = %d AND NOT EXISTS (SELECT FROM event e WHERE e.id = %d)", -(id + 2), id+2),
		}[n%8]
	})
	for i := range 3 {
		if i > 0 {
			f.kill(contract.Deliver)
		}
		if res := p.tier([]string{"hourly", "bulk", "hourly"}[i]); len(res.Sinks) != 2 || res.At.Commit == 0 || res.Skipped != "" {
			t.Errorf("%+v", res)
		}
	}
	// A verification lets what waits of the table take effect, and finds nothing.
	for _, v := range p.verdicts(p.startAudit(contract.AuditInput{}), 1).Tables {
		if v.Verdict != verify.Equal {
			t.Errorf("%+v", v)
		}
	}
	if n := stop(); n < 50 {
		t.Errorf("only %d writes", n)
	}
	p.tier("hourly")
	p.tier("bulk")
	p.converged()
	p.equal(1)

	// Other rules: what waited by those of before takes effect by itself.
	r.exec("UPDATE event SET hits = -7, severity = 'info' WHERE id <= 40")
	p.spec.Tiers, p.spec.Classify = nil, nil
	p.mustApply()
	p.converged()
	p.equal(1)
	var gone *serviceerror.NotFound
	if _, err := schedule.Describe(t.Context()); !errors.As(err, &gone) {
		t.Errorf("the schedule of a tier that is declared no more: %v", err)
	}
}

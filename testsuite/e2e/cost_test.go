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
	"syncline/analytics/bill"
	"syncline/pipeline"
)

// asked runs a workflow that answers at once.
func (r *rig) asked(workflow string, in, out any) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), bound)
	defer cancel()
	run, err := r.tc.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: contract.Queue(r.queue, contract.Control)}, workflow, in)
	if err == nil {
		err = run.Get(ctx, out)
	}
	if err != nil {
		r.t.Fatalf("%s: %v", workflow, err)
	}
}

// pricedPeriod is a budget's period in which an hour has ended, or none in the first hour of
// a week and a month.
func pricedPeriod(now time.Time) (per string) {
	hour := now.UTC().Truncate(time.Hour).Add(-time.Hour)
	for _, p := range []string{pipeline.PerMonth, pipeline.PerWeek} {
		if start, _ := (&pipeline.Budget{Per: p}).Period(now.UTC()); !hour.Before(start) {
			per = p
		}
	}
	return per
}

// What was used is priced as by hand. A pipeline that has spent its budget runs its batch
// tier more rarely, and as declared again once the budget is raised.
func TestCostAndBudget(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC()
	hour := now.Truncate(time.Hour).Add(-time.Hour)
	per := pricedPeriod(now)
	if per == "" {
		t.Skip("the first hour of a week and a month: no budget's period has an hour that has ended")
	}
	r := newRig(t)
	r.fast = true
	r.env = append(r.env, "SYNCLINE_ANALYTICS=env:E2E_CLICKHOUSE", "SYNCLINE_ANALYTICS_DATABASE="+r.clickDB)
	r.exec("CREATE TABLE event (id bigint PRIMARY KEY, severity text NOT NULL)", "INSERT INTO event SELECT i, 'info' FROM generate_series(1, 10) i")
	r.fleet()
	p := r.pipe("  include: [public.event]\n" + fastStream + strings.Replace(hourly, "every: 30m", "every: 5m", 1) + "budget: {amount: 1 USD, per: " + per + ", slow: 4}\n")
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)

	t.Cleanup(func() { // the one of the namespace
		var missing *serviceerror.NotFound
		if err := r.tc.ScheduleClient().GetHandle(context.Background(), contract.PriceScheduleID).Delete(context.Background()); err != nil && !errors.As(err, &missing) {
			t.Error(err)
		}
	})
	var applied contract.PricesResult
	r.asked(contract.PricesWorkflow, contract.PricesInput{Who: "ann", Text: `version: 1
currency: USD
unit: GB
routes:
  - {name: ocean, from: eu, to: us, prices: [{from: 2020-01-01, price: 0.02}]}
storage:
  - {name: log, place: kafka, region: eu, prices: [{from: 2020-01-01, price: 0.73}]}
`}, &applied)
	if !applied.Changed || len(applied.Applied) != 1 {
		t.Fatalf("%+v", applied)
	}
	if d, err := r.tc.ScheduleClient().GetHandle(t.Context(), contract.PriceScheduleID).Describe(t.Context()); err != nil || len(d.Schedule.Spec.Intervals) != 1 {
		t.Errorf("%+v, %v", d, err)
	}
	use := func(wire int64) {
		t.Helper()
		r.click(fmt.Sprintf("INSERT INTO %s.usage (ts, pipeline, sink, tab, tier, component, origin, destination, wire) VALUES (toDateTime64(%d, 3, 'UTC'), '%s', 'pg', 'public.event', 'stream', 'Deliver', 'eu', 'us', %d)", r.clickDB, hour.Unix(), p.name, wire))
	}
	use(30_000_000_000)                                                                                                                                                                                            // 0.60 USD
	use(10_000_000_000)                                                                                                                                                                                            // 0.20 USD
	r.click(fmt.Sprintf("INSERT INTO %s.storage (ts, pipeline, place, tab, region, bytes) VALUES (toDateTime64(%d, 3, 'UTC'), '%s', 'kafka', 'public.event', 'eu', 20000000000)", r.clickDB, hour.Unix(), p.name)) // 0.02 USD an hour
	price := func() (b bill.Budget) {
		t.Helper()
		var out bill.Pricing
		r.asked(contract.PriceWorkflow, contract.PriceInput{From: hour, Until: hour.Add(time.Hour), Who: "ann"}, &out)
		for _, b := range out.Budgets {
			if b.Pipeline == p.name {
				return b
			}
		}
		t.Fatalf("no budget of %s in %+v", p.name, out)
		return b
	}
	if b := price(); b.Standing != bill.Near || b.Spent.String() != "0.82" || b.Per != per {
		t.Errorf("%+v", b)
	}
	var rep bill.Report
	r.asked(contract.CostWorkflow, contract.CostInput{Pipeline: p.name, Since: hour, Until: hour.Add(time.Hour), By: []string{bill.ByTier, bill.ByRoute}}, &rep)
	costs := map[string]string{}
	for _, g := range rep.Groups {
		costs[strings.Join(g.Key, ": ")] = g.Cost.String()
	}
	if len(costs) != 2 || costs["stream: eu → us"] != "0.8" || costs[": kept in eu"] != "0.02" || rep.Total.Cost.String() != "0.82" || len(rep.Unpriced) != 0 {
		t.Errorf("%v of %+v", costs, rep)
	}

	every := func(want time.Duration, slowed int) {
		t.Helper()
		until(t, bound, fmt.Sprintf("the tier runs every %s", want), func(ctx context.Context) error {
			d, err := r.tc.ScheduleClient().GetHandle(ctx, contract.TierScheduleID(p.name, "hourly")).Describe(ctx)
			if err != nil {
				return err
			}
			v, err := p.view(ctx)
			if err != nil {
				return err
			}
			if got := d.Schedule.Spec.Intervals[0].Every; got != want || v.Status.Slowed != slowed || v.Status.Budget == nil && slowed > 0 {
				return fmt.Errorf("it runs every %s, slowed %d times: %+v", got, v.Status.Slowed, v.Status.Budget)
			}
			return nil
		})
	}
	every(5*time.Minute, 0)
	use(11_000_000_000) // 0.22 USD, which come late
	if b := price(); b.Standing != bill.Over || b.Spent.String() != "1.04" {
		t.Errorf("%+v", b)
	}
	every(20*time.Minute, 4)
	p.spec.Budget.Amount = "2 USD"
	p.mustApply()
	every(5*time.Minute, 0)
}

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/pipeline"
)

func (p *pipe) advised(in contract.AdviseInput) (res contract.AdviseResult, err error) {
	ctx, cancel := context.WithTimeout(p.r.t.Context(), bound)
	defer cancel()
	run, err := p.r.tc.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: contract.Queue(p.r.queue, contract.Control)}, contract.AdviseWorkflow, in)
	if err == nil {
		err = run.Get(ctx, &res)
	}
	return res, err
}

// Advice says which of two classifications writes less, and what it says of one is what is
// then written by it.
func TestAdvise(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fast = true
	const keys, rounds, every = 200, 40, 30 * time.Minute
	r.exec("CREATE TABLE reading (id bigint PRIMARY KEY, kind text NOT NULL, hits int NOT NULL)", "ALTER TABLE reading REPLICA IDENTITY FULL",
		fmt.Sprintf("INSERT INTO reading SELECT i, 'gauge', 0 FROM generate_series(1, %d) i", keys))
	r.fleet()
	p := r.pipe("  include: [public.reading]\n" + fastStream)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	p.converged()
	next := 1000
	// Readings go up some times a second, and now and then a new one comes.
	traffic := func() (since time.Time) {
		t.Helper()
		// No run is due meanwhile but that which the test asks for.
		if left := time.Until(time.Now().Truncate(every).Add(every)); left < time.Minute {
			time.Sleep(left)
		}
		since, err := time.Parse(time.RFC3339, r.one(r.source, `SELECT to_char(clock_timestamp() AT TIME ZONE 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`))
		if err != nil {
			t.Fatal(err)
		}
		for range rounds {
			next++
			r.exec(fmt.Sprintf("UPDATE reading SET hits = hits + 1 WHERE id <= %d", keys), fmt.Sprintf("INSERT INTO reading VALUES (%d, 'event', 0)", next))
			time.Sleep(100 * time.Millisecond) // so that some have waited longer than others
		}
		if len(p.spec.Tiers) > 0 {
			p.tier("soon")
		}
		p.converged()
		return since
	}
	written := func() int64 {
		t.Helper()
		n, err := strconv.ParseInt(r.one(r.sinkDSN, "SELECT (n_tup_ins + n_tup_upd + n_tup_del)::text FROM pg_stat_user_tables WHERE relname = 'reading'"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	tier := []pipeline.Tier{{Name: "soon", Every: pipeline.Duration(every)}}
	hits := contract.Declared{Name: "hits", Tiers: tier, Classify: []pipeline.Class{{Match: "public.reading", Columns: []string{"hits"}, Tier: "soon"}}}
	events := contract.Declared{Name: "events", Tiers: tier, Classify: []pipeline.Class{{Match: "public.reading", Where: "kind = 'event'", Tier: "soon"}}}

	since := traffic()
	res, err := p.advised(contract.AdviseInput{Pipeline: p.name, Since: since, With: []contract.Declared{hits, events}})
	if err != nil {
		t.Fatal(err)
	}
	find := func(res *contract.AdviseResult, name string) *contract.AdviseCandidate {
		t.Helper()
		i := slices.IndexFunc(res.Candidates, func(c contract.AdviseCandidate) bool { return c.Name == name })
		if i < 0 {
			t.Fatalf("no candidate is called %s: %+v", name, res)
		}
		return &res.Candidates[i]
	}
	now, best, vain := find(&res, "as it is"), find(&res, "hits"), find(&res, "events")
	if now.Waited != 0 || now.Changes != rounds*(keys+1) || now.Sinks[0].Streamed != now.Changes || res.One != 1 || len(res.Notes) != 0 {
		t.Errorf("%+v of %+v", now, res)
	}
	if best.Sinks[0].Streamed != rounds || best.Sinks[0].Swept != keys || best.Bytes >= now.Bytes/10 || best.DominatedBy == "as it is" || best.Max > every.Seconds() || best.P50 < 1 || vain.Rows != now.Rows || vain.DominatedBy != "as it is" {
		t.Errorf("%+v\n%+v", best, vain)
	}
	if c := find(&res, "public.reading: only hits, every 1m"); c.Rows < best.Rows || c.Rows > now.Rows/2 || c.Promise != 60 {
		t.Errorf("%+v", c)
	}

	p.spec.Tiers, p.spec.Classify = hits.Tiers, hits.Classify
	p.mustApply()
	p.converged()
	before := written()
	since = traffic()
	again, err := p.advised(contract.AdviseInput{Pipeline: p.name, Since: since, Given: true})
	if err != nil {
		t.Fatal(err)
	}
	said := find(&again, "as it is").Sinks[0]
	// The same traffic by the classification that was said to write least.
	until(t, bound, "what was written is what the advice says", func(context.Context) error {
		if did := written() - before; did != said.Streamed+said.Swept || did != best.Sinks[0].Streamed+best.Sinks[0].Swept {
			return fmt.Errorf("%d rows were written, and %+v simulated", did, said)
		}
		return nil
	})

	// On arms of the same traffic: at once costs more, and no reader is behind.
	at := contract.ExperimentInput{Table: change.TableID{Schema: "public", Name: "reading"}, Sum: "hits", Salt: "e2e"}
	tried, err := p.advised(contract.AdviseInput{Pipeline: p.name, Since: since, With: []contract.Declared{{Name: "stream"}}, Experiment: &at})
	if err != nil {
		t.Fatal(err)
	}
	x := tried.Experiment
	if x == nil || len(x.Arms) != 3 || len(x.Off) > 0 || len(x.Differences) != 10 || len(tried.Candidates) != 0 {
		t.Fatalf("%+v", x)
	}
	for _, d := range x.Differences {
		up := d.Known && d.Low > 0
		down := d.Known && d.High < 0
		switch d.Quantity {
		case contract.BytesPerChange, contract.RowsPerChange:
			if d.Arm == "B" && !up {
				t.Errorf("streaming writes more: %+v", d)
			}
		case contract.WaitPerChange, contract.SumError:
			if d.Arm == "B" && !down {
				t.Errorf("streaming is never behind: %+v", d)
			}
		}
	}

	for code, in := range map[string]contract.AdviseInput{
		"PipelineMissing":  {Pipeline: "nothing"},
		"NoTraffic":        {Pipeline: p.name, Since: time.Now().Add(time.Hour)},
		"BadAdviceRequest": {Pipeline: p.name, With: []contract.Declared{{Name: "stream"}}, Experiment: &contract.ExperimentInput{Table: change.TableID{Schema: "public", Name: "other"}}},
		"TierRules":        {Pipeline: p.name, With: []contract.Declared{{Name: "x", Tiers: tier, Classify: []pipeline.Class{{Match: "public.*", Where: "nothing = 1", Tier: "soon"}}}}},
	} {
		var app *temporal.ApplicationError
		if _, err := p.advised(in); !errors.As(err, &app) || app.Type() != code {
			t.Errorf("%+v: %v, want %s", in, err, code)
		}
	}
}

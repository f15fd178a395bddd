package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/change"
)

const aggregated = `  options: [{match: public.metrics, append_only: true}]
tiers:
  - name: bulk
    every: 30m
    aggregate:
      group: [host]
      time: {column: ts, bucket: 1h}
      values: [{column: v, functions: [sum, count, min, max, avg, p50, p99]}, {column: bytes, functions: [sum]}]
classify:
  - {match: public.metrics, where: severity = 'critical', tier: stream}
  - {match: public.metrics, tier: bulk}
`

// Critical rows are there at once, the others as aggregates that are those of the source:
// over the load of what was there, runs of the tier, and another load beside new rows, in
// all of which workers are killed. Erasure of a subject reaches them.
func TestAggregatingTier(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fast = true
	r.exec("CREATE TABLE metrics (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, host text, ts timestamptz NOT NULL, severity text NOT NULL, v numeric(12,3), bytes bigint NOT NULL)")
	insert := func(n, rows int) string {
		return fmt.Sprintf(`INSERT INTO metrics (host, ts, severity, v, bytes) SELECT CASE i %% 7 WHEN 0 THEN NULL ELSE 'h' || i %% 7 END, timestamptz '2024-05-01 00:00+00' + i %% 20000 * interval '13 minutes',
			CASE WHEN i %% 10 = 0 THEN 'critical' ELSE 'info' END, CASE WHEN i %% 11 > 0 THEN (i::bigint * 7919 %% 100003) / 1000.0 - 20 END, i::bigint * 1000003 FROM generate_series(%d, %d) i`, n, n+rows-1)
	}
	const before = 12_000
	r.exec(insert(100_000, before))
	f := r.fleet()
	p := r.pipe("  include: [public.metrics]\n" + aggregated + smallChunks)
	p.mustApply()
	p.loading()
	f.kill(contract.Snapshot)
	p.awaitPhase(bound, contract.Streaming)
	p.converged()
	r.aggregatesEqual()
	// Nothing came beside the load: what a tier aggregates is in no table.
	table := func() []string {
		return []string{r.one(r.sinkDSN, "SELECT count(*)::text FROM metrics WHERE severity <> 'critical'"),
			strings.TrimSpace(r.click("SELECT count() FROM " + r.clickDB + ".metrics_live WHERE severity <> 'critical'"))}
	}
	if n := table(); n[0] != "0" || n[1] != "0" {
		t.Errorf("%s rows of the tier were loaded into the tables", n)
	}
	kept := func(least int) {
		t.Helper()
		for _, n := range []string{r.one(r.sinkDSN, "SELECT sum(rows)::text FROM metrics_bulk"), strings.TrimSpace(r.click("SELECT sum(rows) FROM " + r.clickDB + ".metrics_bulk"))} {
			if rows, err := strconv.Atoi(n); err != nil || rows < least {
				t.Errorf("%s rows were aggregated, want %d", n, least)
			}
		}
	}
	kept(before * 9 / 10)

	stop := r.keep(20*time.Millisecond, func(n int) string { return insert(1000+20*n, 20) })
	for range 3 {
		if res := p.tierDuring("bulk", func() { f.kill(contract.Deliver) }); len(res.Sinks) != 2 || res.Skipped != "" {
			t.Errorf("%+v", res)
		}
	}
	if n := stop(); n < 50 {
		t.Errorf("only %d writes", n)
	}
	critical := r.one(r.source, "SELECT count(*) || ' ' || sum(bytes) FROM metrics WHERE severity = 'critical'")
	until(t, bound, "critical rows are at the sinks", func(context.Context) error {
		pg := r.one(r.sinkDSN, "SELECT count(*) || ' ' || sum(bytes) FROM metrics WHERE severity = 'critical'")
		ch := strings.TrimSpace(r.click("SELECT concat(toString(count()), ' ', toString(sum(bytes))) FROM " + r.clickDB + ".metrics_live WHERE severity = 'critical'"))
		if pg != critical || ch != critical {
			return fmt.Errorf("want %s, have %s and %s", critical, pg, ch)
		}
		return nil
	})
	p.tier("bulk")
	p.converged()
	r.aggregatesEqual()
	kept(before*9/10 + 500)

	// Loaded again beside new rows, of which each is in the load, in the table or in a run.
	stop = r.keep(20*time.Millisecond, func(n int) string { return insert(200_000+20*n, 20) })
	p.mustUpdate(contract.ResyncTableUpdate, contract.TablesInput{Tables: ids("public.metrics")}, nil)
	p.loading()
	f.kill(contract.Snapshot)
	p.tierDuring("bulk", func() { f.kill(contract.Deliver) })
	until(t, bound, "the load is over", func(ctx context.Context) error {
		v, err := p.view(ctx)
		if err == nil && !v.Settled() {
			err = fmt.Errorf("it is %s; %s", v.Status.Phase, p.troubles(v))
		}
		return err
	})
	p.tier("bulk")
	stop()
	p.tier("bulk")
	p.converged()
	r.aggregatesEqual()
	kept(before * 9 / 10)
	t.Logf("%s rows of the tier are in the tables, which came while it was loaded", table())

	// A subject that is gone at the source goes from tables and aggregates, though the table
	// has no key; all others keep what they had.
	id := change.TableID{Schema: "public", Name: "metrics"}
	keys := contract.EraseKeys{Salt: "a salt of the test", Rows: []contract.EraseRow{{Table: id, Key: map[string]string{"host": "h3"}}}}
	in := contract.EraseInput{Reason: "ticket 7", Who: "ann"}
	if _, _, err := p.erase(in, keys, nil); err == nil || !strings.Contains(err.Error(), "EraseAtSource") {
		t.Fatalf("of rows that are there: %v", err)
	}
	r.exec("DELETE FROM metrics WHERE host = 'h3'")
	_, res, err := p.erase(in, keys, func() { f.kill(contract.Snapshot) })
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int64{}
	for _, pl := range res.Places {
		kind, _, _ := strings.Cut(pl.Place, " ")
		found[pl.Sink+" "+kind] += pl.Before
		if kind != "topic" && pl.After != 0 {
			t.Errorf("%+v", pl)
		}
	}
	for _, place := range []string{"pg table", "ch table", "pg aggregates", "ch aggregates", " topic"} {
		if found[place] == 0 {
			t.Errorf("nothing was found at %s: %+v", place, res.Places)
		}
	}
	if a := res.Plan.Tables[0].Aggregates; len(a) != 1 || a[0] != (contract.EraseAggregates{Tier: "bulk", ByKey: true}) {
		t.Errorf("%+v", a)
	}
	r.aggregatesEqual()
	for _, n := range []string{r.one(r.sinkDSN, "SELECT count(*)::text FROM metrics WHERE host = 'h3'"),
		strings.TrimSpace(r.click("SELECT count() FROM " + r.clickDB + ".metrics WHERE host = 'h3' SETTINGS apply_deleted_mask = 0"))} {
		if n != "0" {
			t.Errorf("%s rows of the subject are left", n)
		}
	}
}

// aggregatesEqual compares aggregates, with what the tables hold, with those at the source.
func (r *rig) aggregatesEqual() {
	r.t.Helper()
	source := r.one(r.source, `SELECT string_agg(line, E'\n' ORDER BY line COLLATE "C") FROM (
		SELECT concat_ws(' ', coalesce(host, '-'), to_char(date_bin('1 hour', ts, 'epoch') AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), count(*), count(v), coalesce(sum(v), 0)::numeric(20,3), sum(bytes)) AS line
		FROM metrics WHERE severity <> 'critical' GROUP BY host, date_bin('1 hour', ts, 'epoch')) l`)
	pg := r.one(r.sinkDSN, `SELECT string_agg(line, E'\n' ORDER BY line COLLATE "C") FROM (
		SELECT concat_ws(' ', coalesce(host, '-'), to_char(bucket AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), sum(rows), sum(n), coalesce(sum(v), 0)::numeric(20,3), sum(bytes)) AS line FROM (
			SELECT host, bucket, rows, v_count AS n, v_sum AS v, bytes_sum AS bytes FROM metrics_bulk
			UNION ALL SELECT host, date_bin('1 hour', ts, 'epoch'), 1, (v IS NOT NULL)::int, v, bytes FROM metrics WHERE severity <> 'critical') a GROUP BY host, bucket) l`)
	ch := strings.TrimSpace(r.click(`SELECT arrayStringConcat(arraySort(groupArray(line)), '\n') FROM (
		SELECT concat(ifNull(host, '-'), ' ', formatDateTime(bucket, '%Y-%m-%d %H:%i:%S'), ' ', toString(sum(rows)), ' ', toString(sum(n)), ' ', toDecimalString(ifNull(sum(v), 0), 3), ' ', toString(sum(bytes))) AS line FROM (
			SELECT host, bucket, rows, v_count AS n, v_sum AS v, bytes_sum AS bytes FROM ` + r.clickDB + `.metrics_bulk
			UNION ALL SELECT host, toStartOfHour(ts), 1, v IS NOT NULL, v, bytes FROM ` + r.clickDB + `.metrics_live WHERE severity <> 'critical') GROUP BY host, bucket) FORMAT TSVRaw`))
	for name, have := range map[string]string{"postgres": pg, "clickhouse": ch} {
		if have != source {
			r.t.Errorf("%s holds\n%.2000s\nwant\n%.2000s", name, have, source)
		}
	}
	if n := strings.Count(source, "\n"); n < 100 {
		r.t.Errorf("only %d groups", n)
	}
}

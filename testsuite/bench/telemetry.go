package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/pipeline"
	"syncline/testsuite/check"
)

// Regions of the scenario: everything is in the near one, but for the sinks.
const (
	nearRegion = "eu-west-1"
	farRegion  = "us-east-1"
)

const telemetryDDL = `CREATE SCHEMA telemetry;
CREATE TABLE telemetry.readings (id bigint PRIMARY KEY, host text NOT NULL, metric text NOT NULL, severity text NOT NULL, at timestamptz NOT NULL, v double precision, labels text);
CREATE TABLE telemetry.gauges (host text, metric text, severity text NOT NULL, at timestamptz NOT NULL, v double precision, labels text, PRIMARY KEY (host, metric));`

const (
	insertReadings = `INSERT INTO telemetry.readings SELECT * FROM unnest($1::text[]::bigint[], $2::text[], $3::text[], $4::text[], $5::text[]::timestamptz[], $6::text[]::float8[], $7::text[])`
	setGauges      = `INSERT INTO telemetry.gauges SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]::timestamptz[], $5::text[]::float8[], $6::text[])
		ON CONFLICT (host, metric) DO UPDATE SET severity = excluded.severity, at = excluded.at, v = excluded.v, labels = excluded.labels`
)

// policy is one way to deliver the same telemetry.
type policy struct {
	name, what string
	declare    func(s *pipeline.Spec, hour time.Duration)
}

var policies = []policy{
	{"stream", "everything streams", func(*pipeline.Spec, time.Duration) {}},
	{"stream-zstd", "everything streams, zstd to ClickHouse", func(s *pipeline.Spec, _ time.Duration) { compress(s) }},
	{"hourly", "critical streams, the last state of the rest by the hour", func(s *pipeline.Spec, hour time.Duration) {
		compress(s)
		bulk(s, pipeline.Tier{Name: "bulk", Every: pipeline.Duration(hour)})
	}},
	{"rollup", "critical streams, aggregates and last states of the rest by the hour", func(s *pipeline.Spec, hour time.Duration) {
		compress(s)
		bulk(s, pipeline.Tier{Name: "bulk", Every: pipeline.Duration(hour)})
		rollup := pipeline.Tier{Name: "rollup", Every: pipeline.Duration(hour), Aggregate: &pipeline.Aggregate{
			Group: []string{"host", "metric"}, Time: &pipeline.AggregateTime{Column: "at", Bucket: pipeline.Duration(time.Hour)},
			Values: []pipeline.AggregateValue{{Column: "v", Functions: []string{"count", "sum", "avg", "min", "max", "p50", "p99"}}},
		}}
		s.Tiers = append(s.Tiers, rollup)
		s.Classify = slices.Insert(s.Classify, 1, pipeline.Class{Match: "telemetry.readings", Tier: rollup.Name})
		s.Tables.Options = []pipeline.TableOption{{Match: "telemetry.readings", AppendOnly: new(true)}}
	}},
}

func compress(s *pipeline.Spec) {
	for i := range s.Sinks {
		if s.Sinks[i].Type == pipeline.SinkClickHouse {
			s.Sinks[i].Compression = "zstd"
		}
	}
}

// bulk lets all wait that is not critical.
func bulk(s *pipeline.Spec, t pipeline.Tier) {
	s.Tiers = []pipeline.Tier{t}
	s.Classify = []pipeline.Class{{Match: "telemetry.*", Where: "severity = 'critical'", Tier: "stream"}, {Match: "telemetry.*", Tier: t.Name}}
}

// outcome is what one policy cost, and how fresh what was delivered.
type outcome struct {
	policy
	changes  int64         // at the source
	sent     carried       // over the link, by each sink in turn
	streamed time.Duration // mean lag of what streamed
	waited   time.Duration // mean of what waited for its tier; 0: nothing did
	counted  int64         // bytes to the far region, as the workers' accounts have them
	passed   int64         // the same by the link, from the beginning on
	tiers    []tierBytes
}

// tierBytes is what a tier sent to the far region.
type tierBytes struct {
	name           string
	changes, bytes int64
}

// gbPerMillion is what a million changes send to the far region.
func (o *outcome) gbPerMillion() float64 {
	return float64(o.sent.there) / 1e9 / float64(o.changes) * 1e6
}

// telemetry plays two regions with a counted link between them: one has the source, Kafka
// and the workers, the other both sinks. The same telemetry is delivered by one policy
// after the other.
func telemetry(ctx context.Context, b *bench) (figures []figure, err error) {
	hour := time.Duration(b.seconds) * time.Second
	if hour < 10*time.Second {
		return nil, errors.New("-seconds is below 10: an hour of the scenario takes so long, and no tier runs more often")
	}
	var all []*outcome
	for _, p := range policies {
		o, err := b.deliver(ctx, p, hour)
		if err != nil {
			return figures, fmt.Errorf("%s: %w", p.name, err)
		}
		all = append(all, o)
		note := fmt.Sprintf("streamed %s", o.streamed.Round(time.Millisecond))
		if o.waited > 0 {
			note += fmt.Sprintf("; the rest %s on average (%.0f min of the scenario's hour)", o.waited.Round(100*time.Millisecond), o.waited.Seconds()/hour.Seconds()*60)
		}
		figures = append(figures, figure{p.what, fmt.Sprintf("%.0f B/change", float64(o.sent.there)/float64(o.changes)),
			fmt.Sprintf("$%.4f per million changes, %.0f %% of streaming; fresh within: %s", o.gbPerMillion()*b.price, 100*o.gbPerMillion()/all[0].gbPerMillion(), note)})
		for _, t := range o.tiers {
			if t.changes > 0 {
				figures = append(figures, figure{"  tier " + t.name, fmt.Sprintf("%.0f B/change", float64(t.bytes)/float64(t.changes)), fmt.Sprintf("$%.4f per million changes at a sink", float64(t.bytes)/float64(t.changes)*1e6/1e9*b.price)})
			}
		}
		figures = append(figures, figure{"  counted by the workers", fmt.Sprintf("%.2f %%", 100*float64(o.counted)/float64(o.passed)), "of what the link counted"})
	}
	return figures, b.chart(all, hour)
}

// deliver plays two hours by one policy.
func (b *bench) deliver(ctx context.Context, p policy, hour time.Duration) (_ *outcome, err error) {
	name := "telemetry_" + strings.ReplaceAll(p.name, "-", "_")
	r, err := b.rig(ctx, name)
	if err != nil {
		return nil, err
	}
	defer r.close()
	l := &link{}
	defer l.close()
	far := map[string]string{}
	for env, dsn := range map[string]string{"BENCH_SINK": r.sink, "BENCH_CLICKHOUSE": r.clickhouse} {
		if far[env], err = l.dsn(dsn); err != nil {
			return nil, err
		}
	}
	analytics := name + "_analytics"
	forget := func(ctx context.Context) {
		for _, db := range []string{analytics, "bench_" + name} {
			_, _ = r.clickhouseQuery(ctx, "DROP DATABASE IF EXISTS "+db)
		}
	}
	forget(ctx)
	defer forget(context.WithoutCancel(ctx))
	if err := r.exec(ctx, r.source, strings.Split(telemetryDDL, "\n")...); err != nil {
		return nil, err
	}
	if _, err := r.worker("BENCH_SINK="+far["BENCH_SINK"], "BENCH_CLICKHOUSE="+far["BENCH_CLICKHOUSE"], "SYNCLINE_REGION="+nearRegion,
		"BENCH_ANALYTICS="+r.clickhouse, "SYNCLINE_ANALYTICS=env:BENCH_ANALYTICS", "SYNCLINE_ANALYTICS_DATABASE="+analytics); err != nil {
		return nil, err
	}
	spec, err := r.spec([]string{pipeline.SinkPostgres, pipeline.SinkClickHouse}, pipeline.Tables{Include: []string{"telemetry.*"}})
	if err != nil {
		return nil, err
	}
	spec.Source.Region, spec.Kafka.Region = nearRegion, nearRegion
	for i := range spec.Sinks {
		spec.Sinks[i].Region = farRegion
	}
	p.declare(&spec, hour)
	if err := spec.Normalise(); err != nil {
		return nil, err
	}
	if err := r.apply(ctx, spec); err != nil {
		return nil, err
	}
	before := l.carried()
	o := &outcome{policy: p}
	if o.changes, err = r.emit(ctx, 2*hour); err != nil {
		return nil, err
	}
	if err := r.delivered(ctx, &spec); err != nil {
		return nil, err
	}
	now := l.carried()
	o.sent = carried{now.there - before.there, now.back - before.back}
	if err := r.destroy(ctx, spec.Name); err != nil {
		return nil, err
	}
	r.close() // the worker hands over what it holds
	r.workers = nil
	o.passed = l.carried().there
	if err := r.freshness(ctx, analytics, o); err != nil {
		return nil, err
	}
	return o, r.accounts(ctx, analytics, o)
}

// emit changes telemetry at the bench's rate: half of it are readings, which come, and
// half are gauges, which change.
func (r *rig) emit(ctx context.Context, span time.Duration) (changes int64, err error) {
	conn, err := pgx.Connect(ctx, r.source)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	const batch = 100
	tick := time.NewTicker(2 * batch * time.Second / time.Duration(r.b.rate))
	defer tick.Stop()
	for begun, n := time.Now(), 0; time.Since(begun) < span; n += batch {
		var cols [7][]string
		rows := map[[2]string]bool{} // a statement changes a row once
		var gauges [6][]string
		for i := range batch {
			x := reading(n + i)
			for c, v := range x.texts() {
				cols[c] = append(cols[c], v)
			}
			x.host %= hosts / 5 // gauges are fewer, and change often
			t := x.texts()
			if k := [2]string{t[1], t[2]}; !rows[k] {
				rows[k] = true
				for c, v := range t[1:] {
					gauges[c] = append(gauges[c], v)
				}
			}
		}
		for _, st := range []struct {
			sql  string
			args []any
		}{
			{insertReadings, []any{cols[0], cols[1], cols[2], cols[3], cols[4], cols[5], cols[6]}},
			{setGauges, []any{gauges[0], gauges[1], gauges[2], gauges[3], gauges[4], gauges[5]}},
		} {
			tag, err := conn.Exec(ctx, st.sql, st.args...)
			if err != nil {
				return changes, err
			}
			changes += tag.RowsAffected()
		}
		select {
		case <-ctx.Done():
			return changes, ctx.Err()
		case <-tick.C:
		}
	}
	return changes, nil
}

// delivered runs each tier a last time and waits until both sinks have everything.
func (r *rig) delivered(ctx context.Context, spec *pipeline.Spec) error {
	for _, t := range spec.Tiers {
		run, err := r.tc.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: contract.Queue(r.queue, contract.Control)}, contract.BatchTierWorkflow, contract.TierInput{Pipeline: spec.Name, Tier: t.Name})
		if err != nil {
			return err
		}
		if err := run.Get(ctx, nil); err != nil {
			return err
		}
	}
	ledgers := map[string]check.Ledger{}
	for _, s := range spec.Sinks {
		k, err := r.ledger(s.Type, spec.Name)
		if err != nil {
			return err
		}
		defer k.Close()
		ledgers[s.Name] = k
	}
	_, err := check.Converge(ctx, &check.Postgres{DSN: r.source, Source: true}, ledgers)
	return err
}

// freshness reads how long changes took, as the workers recorded it.
func (r *rig) freshness(ctx context.Context, database string, o *outcome) error {
	mean := func(table string) (time.Duration, error) {
		text, err := r.clickhouseQuery(ctx, "SELECT sum(changes), sum(micros) FROM "+database+"."+table)
		if err != nil {
			return 0, err
		}
		var n [2]int64
		for i, f := range strings.Fields(text) {
			if n[i], err = strconv.ParseInt(f, 10, 64); err != nil {
				return 0, err
			}
		}
		return time.Duration(n[1]/max(n[0], 1)) * time.Microsecond, nil
	}
	var err error
	if o.streamed, err = mean("lag"); err == nil {
		o.waited, err = mean("freshness")
	}
	if err == nil && o.streamed == 0 {
		err = errors.New("no lag was recorded")
	}
	return err
}

// accounts reads what was sent to the far region, as the workers counted it.
func (r *rig) accounts(ctx context.Context, database string, o *outcome) error {
	text, err := r.clickhouseQuery(ctx, fmt.Sprintf("SELECT if(tier = '', '-', tier), sum(changes), sum(wire) FROM %s.usage WHERE origin = '%s' AND destination = '%s' GROUP BY tier ORDER BY tier", database, nearRegion, farRegion))
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		var t tierBytes
		if _, err := fmt.Sscan(line, &t.name, &t.changes, &t.bytes); err != nil {
			return err
		}
		o.counted += t.bytes
		if t.name != "-" {
			o.tiers = append(o.tiers, t)
		}
	}
	if o.counted == 0 {
		return errors.New("no usage was recorded")
	}
	return nil
}

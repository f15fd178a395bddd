package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	source "syncline/dataplane/source/postgres"
	"syncline/dataplane/verify"
	"syncline/pipeline"
	"syncline/testsuite/check"
)

// bound is how long a pipeline may take to get where a test waits for it. Two
// cores that run all tests at once are slow; nothing here measures time.
const bound = 6 * time.Minute

// converged waits until both sinks have taken in what the source has committed.
func (p *pipe) converged(tables ...change.TableID) change.LSN {
	p.r.t.Helper()
	ctx, cancel := context.WithTimeout(p.r.t.Context(), bound)
	defer cancel()
	ledgers := map[string]check.Ledger{}
	for name, k := range p.sinks() {
		ledgers[name] = k
		defer func() { _ = k.Close() }()
	}
	begun := time.Now()
	for { // servers may be starting
		lsn, err := check.Converge(ctx, &check.Postgres{DSN: p.r.source, Source: true}, ledgers, tables...)
		if err == nil {
			p.r.t.Logf("after %s: converged at %s", time.Since(begun).Round(100*time.Millisecond), lsn)
			return lsn
		}
		if ctx.Err() != nil {
			p.report()
			p.r.t.Fatalf("not converged: %v", err)
		}
		time.Sleep(100 * time.Millisecond) // between looks, not for an outcome
	}
}

func (p *pipe) report() {
	if v, err := p.view(context.Background()); err == nil {
		p.r.t.Logf("pipeline %s is %s; %s", p.name, v.Status.Phase, p.troubles(v))
	} else {
		p.r.t.Logf("pipeline %s: %v", p.name, err)
	}
}

func (p *pipe) side(name string) check.Side {
	s := p.spec.Sink(name)
	if s.Type == pipeline.SinkPostgres {
		return &check.Postgres{DSN: p.r.sinkDSN, Label: name}
	}
	return &check.ClickHouse{URL: p.r.clickURL, Database: p.r.clickDB, Label: name}
}

// tables are what a sink's ledger delivers, with the declaration's filters.
func (p *pipe) tables(k sink.Sink) []check.Table {
	p.r.t.Helper()
	ts, err := check.TablesOf(p.r.t.Context(), k)
	if err != nil {
		p.r.t.Fatal(err)
	}
	for i := range ts {
		ts[i].Where = p.spec.Options(ts[i].ID()).Where
	}
	return ts
}

// equal waits for the sinks and compares every row of every table. It returns
// the number of rows at the source by table.
func (p *pipe) equal(atLeast int) map[string]int64 {
	p.r.t.Helper()
	p.converged()
	rows := map[string]int64{}
	source := &check.Postgres{DSN: p.r.source, Source: true}
	for name, k := range p.sinks() {
		ts := p.tables(k)
		if len(ts) < atLeast {
			p.r.t.Errorf("%s delivers %d tables, want at least %d", name, len(ts), atLeast)
		}
		rep, err := check.Compare(p.r.t.Context(), source, ts, p.side(name))
		if err != nil {
			p.r.t.Fatalf("compare %s: %v", name, err)
		}
		for i, d := range rep.Differences {
			if i < 10 {
				p.r.t.Errorf("%s (want %s, have %s)", d, d.Want, d.Have)
			}
		}
		if n := len(rep.Differences) + rep.More; n > 0 {
			p.r.t.Errorf("%s: %d differences", name, n)
		}
		for id, n := range rep.Rows {
			rows[id.String()] = n
		}
		dead(p.r.t, name, p, k)
		_ = k.Close()
	}
	if p.r.t.Failed() {
		p.report()
	}
	return rows
}

// verified: verification says the same, without having to look at a single key, since
// nothing is written to.
func (p *pipe) verified() {
	p.r.t.Helper()
	src, err := source.NewServer(source.ServerOptions{DSN: p.r.source, Pipeline: p.name})
	if err != nil {
		p.r.t.Fatal(err)
	}
	defer func() { _ = src.Close() }()
	for name, k := range p.sinks() {
		ts, err := k.Tables(p.r.t.Context())
		if err != nil {
			p.r.t.Fatal(err)
		}
		for _, t := range ts {
			subject := verify.Subject{Schema: t.Schema, Options: t.Options, Where: p.spec.Options(t.ID).Where}
			res, err := verify.Table(p.r.t.Context(), src, k.(verify.Sink), k, subject, verify.Options{})
			want := verify.Equal
			if len(t.Schema.Key) == 0 {
				want = verify.Inconclusive
			}
			if err != nil || res.Verdict != want || res.Suspects > 0 {
				p.r.t.Errorf("%s: verification of %s: %+v, %v", name, t.ID, res, err)
			}
		}
		_ = k.Close()
	}
}

// dead: nothing was set aside.
func dead(t testing.TB, name string, p *pipe, k sink.Sink) {
	t.Helper()
	v, err := p.view(t.Context())
	if err != nil {
		return // no stream, or no Temporal: the comparison of rows says it all
	}
	for _, s := range v.Sinks {
		if s.Name == name && s.Dead > 0 {
			t.Errorf("%s: %d dead letters", name, s.Dead)
		}
	}
	_ = k
}

// watch samples the counters of tables in both sinks until the returned function
// is called, which reports those that went back.
func (p *pipe) watch(column string, tables ...string) (stop func()) {
	p.r.t.Helper()
	ctx, cancel := context.WithCancel(p.r.t.Context())
	type one struct {
		name string
		w    *check.Watcher
		done chan struct{}
	}
	var all []one
	for name, k := range p.sinks() {
		var cs []check.Counter
		for _, t := range p.tables(k) {
			for _, want := range tables {
				if t.ID().String() == want {
					cs = append(cs, check.Counter{Table: t, Column: column})
				}
			}
		}
		_ = k.Close()
		if len(cs) != len(tables) {
			p.r.t.Fatalf("%s: %d of the tables to watch", name, len(cs))
		}
		w, err := check.NewWatcher(p.side(name), cs...)
		if err != nil {
			p.r.t.Fatal(err)
		}
		// One at least, however soon the end; a table that is being written may need some looks.
		until(p.r.t, bound, "a sample of the counters at "+name, func(context.Context) error { return w.Sample(ctx) })
		o := one{name, w, make(chan struct{})}
		go func() { defer close(o.done); w.Run(ctx, 1500*time.Millisecond) }()
		all = append(all, o)
	}
	return func() {
		p.r.t.Helper()
		cancel()
		for _, o := range all {
			<-o.done
			n, back := o.w.Result()
			if n == 0 {
				p.r.t.Errorf("%s: no sample of the counters", o.name)
			}
			for _, d := range back[:min(len(back), 10)] {
				p.r.t.Errorf("%s (was %s, then %s)", d, d.Want, d.Have)
			}
		}
	}
}

// totals compares the sum of a column, which must be the same everywhere.
func (p *pipe) totals(table, column, must string) {
	p.r.t.Helper()
	source := &check.Postgres{DSN: p.r.source, Source: true}
	for name, k := range p.sinks() {
		for _, t := range p.tables(k) {
			if t.ID().String() != table {
				continue
			}
			ds, err := check.CompareTotals(p.r.t.Context(), source, &t, column, must, p.side(name))
			if err != nil {
				p.r.t.Fatal(err)
			}
			for _, d := range ds {
				p.r.t.Errorf("%s (want %s, have %s)", d, d.Want, d.Have)
			}
		}
		_ = k.Close()
	}
}

func id(s string) change.TableID {
	t, err := change.ParseTableID(s)
	if err != nil {
		panic(fmt.Sprintf("table %q: %v", s, err))
	}
	return t
}

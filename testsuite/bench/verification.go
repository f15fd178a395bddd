package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/digest"
	"syncline/dataplane/sink"
	source "syncline/dataplane/source/postgres"
	"syncline/dataplane/verify"
	"syncline/pipeline"
	"syncline/testsuite/check"
)

// verifiedRows is how many rows pgbench's scale of 10 has.
const verifiedRows = 1_000_000

// verification times the digests of a million rows at each engine, against the hashes
// that a person would write down, and then verifies both sinks again and again, with
// five rows planted wrong, while a million rows change at a steady rate.
func verification(ctx context.Context, b *bench) ([]figure, error) {
	r, err := b.rig(ctx, "verification")
	if err != nil {
		return nil, err
	}
	defer r.close()
	forget := func(ctx context.Context) error {
		_, err := r.clickhouseQuery(ctx, "DROP DATABASE IF EXISTS bench_"+r.name)
		return err
	}
	if err := forget(ctx); err != nil {
		return nil, err
	}
	defer func() { _ = forget(context.WithoutCancel(ctx)) }()
	if err := program(ctx, "pgbench", "-q", "-i", "-s", "10", r.source); err != nil {
		return nil, err
	}
	if _, err := r.worker(); err != nil {
		return nil, err
	}
	spec, err := r.spec([]string{pipeline.SinkPostgres, pipeline.SinkClickHouse}, pipeline.Tables{Include: []string{"public.pgbench_accounts"}})
	if err != nil {
		return nil, err
	}
	if err := r.apply(ctx, spec); err != nil {
		return nil, err
	}
	srv, err := source.NewServer(source.ServerOptions{DSN: r.source, Pipeline: spec.Name})
	if err != nil {
		return nil, err
	}
	defer srv.Close()
	sinks := map[string]sink.Sink{}
	for i := range spec.Sinks {
		s := &spec.Sinks[i]
		if sinks[s.Name], err = r.ledger(s.Type, spec.Name); err != nil {
			return nil, err
		}
		defer sinks[s.Name].Close()
		if _, err := check.Converge(ctx, &check.Postgres{DSN: r.source, Source: true}, map[string]check.Ledger{s.Name: sinks[s.Name]}); err != nil {
			return nil, err
		}
	}
	table := change.TableID{Schema: "public", Name: "pgbench_accounts"}
	figures, err := r.digestCosts(ctx, srv, &spec, sinks, table)
	if err != nil {
		return figures, err
	}
	more, err := r.underLoad(ctx, srv, &spec, sinks, table)
	return append(figures, more...), err
}

func (r *rig) subject(ctx context.Context, s *pipeline.Sink, k sink.Sink, table change.TableID) (*verify.Subject, error) {
	t, err := k.Table(ctx, table)
	if err != nil {
		return nil, err
	}
	sub := &verify.Subject{Schema: t.Schema, Options: t.Options}
	sub.Forms, _, err = k.(verify.Sink).Forms(ctx, sub)
	return sub, err
}

func (r *rig) digestCosts(ctx context.Context, srv *source.Server, spec *pipeline.Spec, sinks map[string]sink.Sink, table change.TableID) (out []figure, err error) {
	plain := "SELECT count(*)::text || sum(('x' || substr(md5(t::text), 1, 15))::bit(60)::bigint) FROM pgbench_accounts t"
	for i := range spec.Sinks {
		s := &spec.Sinks[i]
		sub, err := r.subject(ctx, s, sinks[s.Name], table)
		if err != nil {
			return out, err
		}
		var peer, mine, there []time.Duration
		for range r.b.runs {
			begun := time.Now()
			var text string
			if err := r.value(ctx, r.source, plain, &text); err != nil {
				return out, err
			}
			peer = append(peer, time.Since(begun))
			begun = time.Now()
			a, err := srv.Sum(ctx, sub, digest.Scope{})
			if err != nil {
				return out, err
			}
			mine = append(mine, time.Since(begun))
			begun = time.Now()
			z, err := sinks[s.Name].(verify.Sink).Sum(ctx, sub, digest.Scope{})
			if err != nil {
				return out, err
			}
			there = append(there, time.Since(begun))
			if a != z || a.Rows != verifiedRows {
				return out, fmt.Errorf("%s: digests differ: %+v and %+v", s.Name, a, z)
			}
		}
		if i == 0 {
			out = append(out, figure{"md5 of whole rows by hand, at the source", perSecond(verifiedRows, median(peer)), fmt.Sprintf("%.1f s a million rows, noise ±%.0f %%", median(peer).Seconds(), spread(peer)/2)},
				figure{"digest at the source", perSecond(verifiedRows, median(mine)), fmt.Sprintf("%.1f s a million rows, ratio %.2f", median(mine).Seconds(), median(peer).Seconds()/median(mine).Seconds())})
		}
		out = append(out, figure{"digest at the sink " + s.Name, perSecond(verifiedRows, median(there)), fmt.Sprintf("%.1f s a million rows", median(there).Seconds())})
	}
	return out, nil
}

// updates is how many rows one transaction of the load changes.
const updates = 10

func (r *rig) underLoad(ctx context.Context, srv *source.Server, spec *pipeline.Spec, sinks map[string]sink.Sink, table change.TableID) (out []figure, err error) {
	// Rows with a multiple of 1000 stay as they are: wrong ones among them stay wrong.
	for _, sql := range []string{
		"DELETE FROM pgbench_accounts WHERE aid = 1000", "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 2000",
		"UPDATE pgbench_accounts SET bid = NULL WHERE aid = 3000", "UPDATE pgbench_accounts SET filler = 'same length' WHERE aid = 500000",
		"INSERT INTO pgbench_accounts SELECT 2000000, bid, abalance, filler FROM pgbench_accounts WHERE aid = 4000",
	} {
		if err := r.exec(ctx, r.sink, "SET session_replication_role = replica", sql); err != nil {
			return nil, err
		}
		at := "`bench_" + r.name + "`.pgbench_accounts"
		sql = strings.ReplaceAll(sql, "pgbench_accounts", at)
		sql = strings.NewReplacer("DELETE FROM "+at, "ALTER TABLE "+at+" DELETE", "UPDATE "+at+" SET", "ALTER TABLE "+at+" UPDATE").Replace(sql)
		sql = strings.Replace(sql, "SELECT 2000000,", "(aid, bid, abalance, filler, _version) SELECT 2000000,", 1)
		sql = strings.Replace(sql, "filler FROM", "filler, _version FROM", 1)
		if strings.HasPrefix(sql, "ALTER") {
			sql += " SETTINGS mutations_sync = 1"
		}
		if _, err := r.clickhouseQuery(ctx, sql); err != nil {
			return nil, err
		}
	}
	planted := map[string]string{`("1000")`: verify.Missing, `("2000")`: verify.Changed, `("3000")`: verify.Changed, `("500000")`: verify.Changed, `("2000000")`: verify.Extra}
	var script strings.Builder
	for i := range updates {
		fmt.Fprintf(&script, "\\set a%d random(1, %d)\n", i, verifiedRows)
	}
	// One statement: a round trip for each row would measure those.
	script.WriteString("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 1000 <> 0 AND aid IN (")
	for i := range updates {
		fmt.Fprintf(&script, "%s:a%d", strings.Repeat(", ", min(i, 1)), i)
	}
	script.WriteString(");\n")
	file := filepath.Join(r.dir, "updates.sql")
	if err := os.WriteFile(file, []byte(script.String()), 0o600); err != nil {
		return nil, err
	}
	const updated = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'pgbench_accounts'"
	var before, after int64
	if err := r.value(ctx, r.source, updated, &before); err != nil {
		return nil, err
	}
	took := time.Duration(r.b.seconds*2) * time.Second
	// How fast one client commits to this disk is not what is measured.
	if err := r.exec(ctx, r.source, "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$"); err != nil {
		return nil, err
	}
	load := make(chan error, 1)
	go func() {
		// One client: two would wait for each other's rows in another order.
		load <- program(ctx, "pgbench", "-n", "-f", file, "-c", "1", "-R", fmt.Sprint(max(1, r.b.rate/updates)), "-T", fmt.Sprint(int(took.Seconds())), r.source)
	}()
	for end := time.Now().Add(took); ; {
		for i := range spec.Sinks {
			name := spec.Sinks[i].Name
			sub, err := r.subject(ctx, &spec.Sinks[i], sinks[name], table)
			if err != nil {
				return out, err
			}
			begun := time.Now()
			res, err := verify.Table(ctx, srv, sinks[name].(verify.Sink), sinks[name], *sub, verify.Options{})
			if err != nil {
				return out, err
			}
			missed, wrong := len(planted), 0
			for _, f := range res.Findings {
				if planted[f.Key.String()] == f.Kind {
					missed--
				} else {
					wrong++
				}
			}
			out = append(out, figure{fmt.Sprintf("under %d changes/s, %s", r.b.rate, name), perSecond(int(res.Rows), time.Since(begun)),
				fmt.Sprintf("%s: %d of 5 planted rows found, %d false alarms; %d parts, %d differed at first, %d keys looked at, %d unsettled",
					res.Verdict, len(planted)-missed, wrong, res.Parts, res.Differing, res.Suspects, res.Unsettled)})
			if missed > 0 || wrong > 0 {
				err = fmt.Errorf("%s: %d planted rows missed, %d false alarms", name, missed, wrong)
				return out, errors.Join(err, <-load)
			}
		}
		if time.Now().After(end) {
			if err := <-load; err != nil {
				return out, err
			}
			if err := r.value(ctx, r.source, updated, &after); err != nil {
				return out, err
			}
			return append(out, figure{"changes while it was verified", perSecond(int(after-before), took), fmt.Sprintf("%d in %s", after-before, took)}), nil
		}
	}
}

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"syncline/activities/contract"
	"syncline/pipeline"
)

const snapshotDDL = `(id bigint PRIMARY KEY, a integer NOT NULL, b integer, c text, d timestamptz, e numeric(12,2), f boolean, g double precision)`

func (r *rig) seedSnapshot(ctx context.Context, dsn string, rows int) error {
	return r.exec(ctx, dsn, "CREATE SCHEMA bench", "CREATE TABLE bench.t "+snapshotDDL,
		fmt.Sprintf(`INSERT INTO bench.t SELECT i, i %% 1000, i / 7, md5(i::text), timestamptz '2024-01-01' + i * interval '1 second', i * 0.25, i %% 2 = 0, sqrt(i) FROM generate_series(1, %d) i`, rows),
		"VACUUM ANALYZE bench.t", "CHECKPOINT")
}

// once loads by a one-off Snapshot workflow, from its start to its result.
func (r *rig) once(ctx context.Context, kind string) (time.Duration, error) {
	spec, err := r.spec([]string{kind}, pipeline.Tables{Include: []string{"bench.t"}})
	if err != nil {
		return 0, err
	}
	at := time.Now()
	run, err := r.tc.ExecuteWorkflow(ctx, r.options("snapshot/"+spec.Name), contract.SnapshotWorkflow, contract.BootstrapInput{Spec: spec})
	if err != nil {
		return 0, err
	}
	var st contract.LoadStatus
	if err := run.Get(ctx, &st); err != nil {
		return 0, err
	}
	took := time.Since(at)
	if len(st.Loads) != 1 || st.Loads[0].Rows != int64(r.b.rows) {
		return 0, fmt.Errorf("loaded %+v, want %d rows", st.Loads, r.b.rows)
	}
	return took, nil
}

func snapshotPostgres(ctx context.Context, b *bench) ([]figure, error) {
	r, err := b.rig(ctx, "snap_pg")
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := r.seedSnapshot(ctx, r.source, b.rows); err != nil {
		return nil, err
	}
	if _, err := r.worker(); err != nil {
		return nil, err
	}
	var peer, ours []time.Duration
	for range b.runs {
		if err := r.exec(ctx, r.sink, "DROP SCHEMA IF EXISTS bench CASCADE", "CREATE SCHEMA bench", "CREATE TABLE bench.t "+snapshotDDL, "CHECKPOINT"); err != nil {
			return nil, err
		}
		at := time.Now()
		pipe := fmt.Sprintf("set -o pipefail; psql -qX '%s' -c 'COPY bench.t TO STDOUT (FORMAT binary)' | psql -qX '%s' -c 'COPY bench.t FROM STDIN (FORMAT binary)'", r.source, r.sink)
		if err := program(ctx, "bash", "-c", pipe); err != nil {
			return nil, err
		}
		peer = append(peer, time.Since(at))
		if err := r.countRows(ctx); err != nil {
			return nil, err
		}
		if err := r.exec(ctx, r.sink, "DROP SCHEMA IF EXISTS bench CASCADE", "CHECKPOINT"); err != nil {
			return nil, err
		}
		took, err := r.once(ctx, pipeline.SinkPostgres)
		if err != nil {
			return nil, err
		}
		ours = append(ours, took)
		if err := r.countRows(ctx); err != nil {
			return nil, err
		}
	}
	return against("one COPY pipe, key in place", b.rows, peer, ours), nil
}

func (r *rig) countRows(ctx context.Context) error {
	var n int
	if err := r.value(ctx, r.sink, "SELECT count(*) FROM bench.t", &n); err != nil {
		return err
	}
	if n != r.b.rows {
		return fmt.Errorf("%d rows at the sink, want %d", n, r.b.rows)
	}
	return nil
}

// against compares medians of alternating runs.
func against(peer string, n int, theirs, ours []time.Duration) []figure {
	return []figure{
		{"peer: " + peer, perSecond(n, median(theirs)), fmt.Sprintf("noise %.0f %%", spread(theirs))},
		{"Syncline", perSecond(n, median(ours)), fmt.Sprintf("noise %.0f %%", spread(ours))},
		{"ratio", fmt.Sprintf("%.2f", median(theirs).Seconds()/median(ours).Seconds()), "above 1: faster than the peer"},
	}
}

func (r *rig) clickhouseQuery(ctx context.Context, query string) (string, error) {
	u, err := url.Parse(r.clickhouse)
	if err != nil {
		return "", err
	}
	u.Path = "/"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(query))
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	out, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(out)))
	}
	return strings.TrimSpace(string(out)), err
}

func snapshotClickHouse(ctx context.Context, b *bench) ([]figure, error) {
	r, err := b.rig(ctx, "snap_ch")
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := r.seedSnapshot(ctx, r.source, b.rows); err != nil {
		return nil, err
	}
	if _, err := r.worker(); err != nil {
		return nil, err
	}
	src, err := url.Parse(r.source)
	if err != nil {
		return nil, err
	}
	db := "bench_" + r.name
	reset := func() error {
		for _, q := range []string{"DROP DATABASE IF EXISTS " + db, "CREATE DATABASE " + db} {
			if _, err := r.clickhouseQuery(ctx, q); err != nil {
				return err
			}
		}
		return nil
	}
	defer func() { _ = reset() }()
	var peer, ours []time.Duration
	for range b.runs {
		if err := reset(); err != nil {
			return nil, err
		}
		if _, err := r.clickhouseQuery(ctx, "CREATE TABLE "+db+".t (id Int64, a Int32, b Nullable(Int32), c Nullable(String), d Nullable(DateTime64(6, 'UTC')), e Nullable(Decimal(12, 2)), f Nullable(Bool), g Nullable(Float64)) ENGINE = ReplacingMergeTree ORDER BY id"); err != nil {
			return nil, err
		}
		at := time.Now()
		if _, err := r.clickhouseQuery(ctx, fmt.Sprintf("INSERT INTO %s.t SELECT * FROM postgresql('%s', '%s', 't', '%s', '', 'bench')", db, src.Host, strings.TrimPrefix(src.Path, "/"), src.User.Username())); err != nil {
			return nil, fmt.Errorf("postgresql() of this engine: %w", err)
		}
		peer = append(peer, time.Since(at))
		if err := reset(); err != nil {
			return nil, err
		}
		took, err := r.once(ctx, pipeline.SinkClickHouse)
		if err != nil {
			return nil, err
		}
		ours = append(ours, took)
		n, err := r.clickhouseQuery(ctx, "SELECT count() FROM "+db+".t_live")
		if err != nil || n != fmt.Sprint(b.rows) {
			return nil, fmt.Errorf("%s rows at the sink, want %d: %w", n, b.rows, err)
		}
	}
	return against("INSERT … SELECT FROM postgresql()", b.rows, peer, ours), nil
}

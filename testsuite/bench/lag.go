package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/activities/contract"
	"syncline/pipeline"
	"syncline/starter/view"
)

// lag measures from outside: a marker row is committed at the source, and both
// sinks are asked until they show it.
func lag(ctx context.Context, b *bench) (figures []figure, err error) {
	r, err := b.rig(ctx, "lag")
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := r.exec(ctx, r.source, "CREATE SCHEMA bench", "CREATE TABLE bench.kv (id bigint PRIMARY KEY, n bigint NOT NULL, v text)",
		"INSERT INTO bench.kv SELECT i, 0, md5(i::text) FROM generate_series(1, 100000) i", "CREATE TABLE bench.marker (id bigint PRIMARY KEY)", "ANALYZE"); err != nil {
		return nil, err
	}
	for range 2 {
		if _, err := r.worker(); err != nil {
			return nil, err
		}
	}
	spec, err := r.spec([]string{pipeline.SinkPostgres, pipeline.SinkClickHouse}, pipeline.Tables{Include: []string{"bench.*"}})
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = r.clickhouseQuery(context.WithoutCancel(ctx), "DROP DATABASE IF EXISTS bench_"+r.name) }()
	if err := r.apply(ctx, spec); err != nil {
		return nil, err
	}
	load, endLoad := context.WithCancel(ctx)
	defer endLoad()
	var wg sync.WaitGroup
	wg.Go(func() { err = errors.Join(err, ignoreCancel(load, r.steady(load))) })
	if err := pause(ctx, 5*time.Second); err != nil {
		return nil, err
	}

	seen := map[string]func(context.Context, int64) (bool, error){
		pipeline.SinkPostgres: func(ctx context.Context, id int64) (ok bool, err error) {
			err = r.value(ctx, r.sink, fmt.Sprintf("SELECT EXISTS (SELECT FROM bench.marker WHERE id = %d)", id), &ok)
			return ok, err
		},
		pipeline.SinkClickHouse: func(ctx context.Context, id int64) (bool, error) {
			out, err := r.clickhouseQuery(ctx, fmt.Sprintf("SELECT count() FROM bench_%s.marker WHERE id = %d", r.name, id))
			return out != "0", err
		},
	}
	for _, kind := range []string{pipeline.SinkPostgres, pipeline.SinkClickHouse} {
		ds, err := r.markers(ctx, kind, time.Duration(b.seconds)*time.Second, seen[kind])
		if err != nil {
			return figures, err
		}
		figures = append(figures, figure{fmt.Sprintf("commit to visible in %s at %d changes/s", kind, b.rate),
			fmt.Sprintf("p50 %d ms, p99 %d ms", quantile(ds, .5).Milliseconds(), quantile(ds, .99).Milliseconds()), fmt.Sprintf("%d markers, from outside", len(ds))})
	}
	gap, err := r.killDelivering(ctx, spec.Name, seen[pipeline.SinkPostgres])
	figures = append(figures, figure{"SIGKILL of the delivering worker to the next applied change", fmt.Sprintf("%.1f s", gap.Seconds()), "Postgres sink, two workers"})
	endLoad()
	wg.Wait()
	return figures, errors.Join(err, r.destroy(ctx, spec.Name))
}

func ignoreCancel(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// steady changes rate rows a second in transactions of ten.
func (r *rig) steady(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, r.source)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	tick := time.NewTicker(time.Second * 10 / time.Duration(r.b.rate))
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if _, err := conn.Exec(ctx, "UPDATE bench.kv SET n = n + 1 WHERE id BETWEEN $1 AND $1 + 9", i*37%99_990+1); err != nil {
			return err
		}
	}
}

var nextMarker int64

// markers returns sorted lags of marker rows, one after the other.
func (r *rig) markers(ctx context.Context, _ string, span time.Duration, seen func(context.Context, int64) (bool, error)) ([]time.Duration, error) {
	var ds []time.Duration
	for begun := time.Now(); time.Since(begun) < span; {
		d, err := r.marker(ctx, seen)
		if err != nil {
			return nil, err
		}
		ds = append(ds, d)
	}
	slices.Sort(ds)
	return ds, nil
}

func (r *rig) marker(ctx context.Context, seen func(context.Context, int64) (bool, error)) (time.Duration, error) {
	nextMarker++
	if err := r.exec(ctx, r.source, fmt.Sprintf("INSERT INTO bench.marker VALUES (%d)", nextMarker)); err != nil {
		return 0, err
	}
	at := time.Now()
	for {
		ok, err := seen(ctx, nextMarker)
		if err != nil {
			return 0, err
		}
		if ok {
			return time.Since(at), nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// killDelivering kills the worker that has the first lane of the Postgres sink,
// and waits for a row that is committed after that.
func (r *rig) killDelivering(ctx context.Context, name string, seen func(context.Context, int64) (bool, error)) (time.Duration, error) {
	v, err := view.Gather(ctx, r.tc, name)
	if err != nil {
		return 0, err
	}
	lane := contract.LaneComponent(pipeline.SinkPostgres, 0)
	for _, s := range v.Sinks {
		for _, l := range s.Lanes {
			if l.Name != lane {
				continue
			}
			for i, w := range r.workers {
				if strings.HasSuffix(l.Worker, fmt.Sprintf("/%d", w.Process.Pid)) {
					if err := w.Process.Kill(); err != nil {
						return 0, err
					}
					_ = w.Wait()
					r.workers = slices.Delete(r.workers, i, i+1)
					// Every partition must go on, so markers of all of them have to arrive.
					at := time.Now()
					for range 12 {
						if _, err := r.marker(ctx, seen); err != nil {
							return 0, err
						}
					}
					return time.Since(at), nil
				}
			}
		}
	}
	return 0, fmt.Errorf("no worker of this bench runs %s", lane)
}

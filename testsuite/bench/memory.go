package main

import (
	"context"
	"fmt"
	"time"

	"syncline/pipeline"
	"syncline/testsuite/check"
)

// memory commits one large transaction and watches the only worker, which does
// everything: decoding, spilling, writing to Kafka, reading and applying.
func memory(ctx context.Context, b *bench) ([]figure, error) {
	r, err := b.rig(ctx, "memory")
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := r.exec(ctx, r.source, "CREATE SCHEMA bench", "CREATE TABLE bench.t (id bigint PRIMARY KEY, v text)"); err != nil {
		return nil, err
	}
	w, err := r.worker()
	if err != nil {
		return nil, err
	}
	spec, err := r.spec([]string{pipeline.SinkPostgres}, pipeline.Tables{Include: []string{"bench.*"}})
	if err != nil {
		return nil, err
	}
	if err := r.apply(ctx, spec); err != nil {
		return nil, err
	}
	before, err := peakMiB(w.Process.Pid)
	if err != nil {
		return nil, err
	}
	if err := r.exec(ctx, r.source, fmt.Sprintf("INSERT INTO bench.t SELECT i, md5(i::text) FROM generate_series(1, %d) i", b.large)); err != nil {
		return nil, err
	}
	at := time.Now()
	end, err := (&check.Postgres{DSN: r.source, Source: true}).Position(ctx)
	if err != nil {
		return nil, err
	}
	led, err := r.ledger(pipeline.SinkPostgres, spec.Name)
	if err != nil {
		return nil, err
	}
	defer led.Close()
	if err := check.Await(ctx, pipeline.SinkPostgres, led, end); err != nil {
		return nil, err
	}
	took := time.Since(at)
	var n int64
	if err := r.value(ctx, r.sink, "SELECT count(*) FROM bench.t", &n); err != nil {
		return nil, err
	}
	if n != b.large {
		return nil, fmt.Errorf("%d rows at the sink, want %d", n, b.large)
	}
	peak, err := peakMiB(w.Process.Pid)
	if err != nil {
		return nil, err
	}
	return []figure{
		{fmt.Sprintf("peak memory of the worker, %.1fM rows in one transaction", float64(b.large)/1e6), fmt.Sprintf("%.0f MiB", peak), fmt.Sprintf("%.0f MiB before it", before)},
		{"from its commit to applied", fmt.Sprintf("%.0f s", took.Seconds()), perSecond(int(b.large), took)},
	}, r.destroy(ctx, spec.Name)
}

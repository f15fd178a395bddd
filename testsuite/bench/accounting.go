package main

import (
	"context"
)

// accounting times the same backlog, captured and delivered, with bytes counted by
// table, tier and route, and without; both record into analytics.
func accounting(ctx context.Context, b *bench) ([]figure, error) {
	r, err := b.rig(ctx, "accounting")
	if err != nil {
		return nil, err
	}
	defer r.close()
	database, drop, err := r.analytics(ctx)
	if err != nil {
		return nil, err
	}
	defer drop()
	on := []string{"SYNCLINE_ANALYTICS=env:BENCH_CLICKHOUSE", "SYNCLINE_ANALYTICS_DATABASE=" + database}
	q, err := r.queued(ctx)
	if err != nil {
		return nil, err
	}
	defer q.close()
	return q.compare(ctx, []variant{
		{name: "backlog → Postgres, bytes not counted", env: append(on[:2:2], "SYNCLINE_USAGE=false")},
		{name: "the same, counted by table, tier and route", env: on},
	})
}

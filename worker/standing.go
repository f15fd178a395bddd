package main

import (
	"context"
	"time"

	"go.uber.org/zap"

	"syncline/activities/observe"
	"syncline/analytics"
	"syncline/analytics/indicators"
)

// standingEvery is how often verdicts and rotations are read again.
const standingEvery = 10 * time.Second

// watchStanding shows in metrics what the newest verifications and rotations say,
// whoever ran them. While analytics are away it shows what it last knew.
func watchStanding(ctx context.Context, open func(context.Context) (*analytics.Store, error), m *observe.Metrics, log *zap.Logger) {
	type sink struct{ pipeline, name string }
	var store *analytics.Store
	known, budgets := map[sink]bool{}, map[string]bool{}
	look := func() error {
		ctx, cancel := context.WithTimeout(ctx, standingEvery)
		defer cancel()
		if store == nil {
			var err error
			if store, err = open(ctx); err != nil {
				return err
			}
		}
		st, err := indicators.Stand(ctx, store)
		if err != nil {
			_ = store.Close() // opened again with credentials as they are then
			store = nil
			return err
		}
		now := map[sink]bool{}
		for _, v := range st.Verdicts {
			now[sink{v.Pipeline, v.Sink}] = true
			m.Verified(v.Pipeline, v.Sink, v.Equal, v.Different, v.Inconclusive)
		}
		for s := range known {
			if !now[s] {
				m.Unverified(s.pipeline, s.name)
			}
		}
		known = now
		m.RotationsFailed(st.FailedRotations)
		m.PricingCompleted(st.Priced)
		spoken := map[string]bool{}
		for _, b := range st.Budgets {
			spoken[b.Pipeline] = true
			m.Budget(b.Pipeline, b.Standing, b.Used)
		}
		for p := range budgets {
			if !spoken[p] {
				m.NoBudget(p)
			}
		}
		budgets = spoken
		return nil
	}
	for {
		if err := look(); err != nil && ctx.Err() == nil {
			log.Debug("the newest verdicts cannot be read", zap.Error(err)) // the writer of analytics tells of an outage
		}
		select {
		case <-ctx.Done():
			if store != nil {
				_ = store.Close() // nothing is under way
			}
			return
		case <-time.After(standingEvery):
		}
	}
}

package activities

import (
	"context"
	"time"

	"go.uber.org/zap"

	"syncline/analytics"
	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/transport/kafka"
)

// How often what is stored is measured, how soon again if that fails, and how long it
// may take.
const (
	storageEvery = time.Hour
	storageAgain = 5 * time.Minute
	storageBound = time.Minute
)

// storage measures what a pipeline has stored at a place, about once an hour, until ctx
// ends. An attempt goes on where the one before it in the process was, so that one which
// fails all the time does not measure all the time.
func (a *Activities) storage(ctx context.Context, pipeline, place, region string, measure func(context.Context) (map[change.TableID]int64, error), log *zap.Logger) {
	if a.Analytics == nil {
		return
	}
	key := pipeline + " " + place
	for {
		wait := storageEvery
		if last, ok := a.measured.Load(key); ok && time.Since(last.(time.Time)) < storageEvery {
			wait -= time.Since(last.(time.Time))
		} else if err := a.measureStorage(ctx, pipeline, place, region, measure); err == nil {
			a.measured.Store(key, time.Now())
		} else if ctx.Err() == nil {
			wait = storageAgain
			log.Warn("what is stored is not measured", zap.String("place", place), zap.Duration("again_in", wait), zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (a *Activities) measureStorage(ctx context.Context, pipeline, place, region string, measure func(context.Context) (map[change.TableID]int64, error)) error {
	ctx, cancel := context.WithTimeout(ctx, storageBound)
	defer cancel()
	sizes, err := measure(ctx)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	for t, n := range sizes {
		tab := ""
		if t != (change.TableID{}) {
			tab = t.String()
		}
		a.Analytics.Put(&analytics.Storage{Time: now, Pipeline: pipeline, Place: place, Tab: tab, Region: region, Bytes: uint64(max(n, 0))})
	}
	return nil
}

// storedAt measures a sink.
func storedAt(s sink.Sizes) func(context.Context) (map[change.TableID]int64, error) {
	return func(ctx context.Context) (map[change.TableID]int64, error) {
		sizes, err := s.Sizes(ctx)
		out := make(map[change.TableID]int64, len(sizes))
		for _, z := range sizes {
			out[z.Table] += z.Bytes
		}
		return out, err
	}
}

// storedIn measures the pipeline's topics.
func storedIn(o kafka.Options) func(context.Context) (map[change.TableID]int64, error) {
	return func(ctx context.Context) (map[change.TableID]int64, error) {
		admin, err := kafka.OpenAdmin(o)
		if err != nil {
			return nil, err
		}
		defer func() { _ = admin.Close() }() // it only asked
		return admin.Sizes(ctx)
	}
}

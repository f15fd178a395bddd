package replay

import (
	"context"
	"errors"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/sink"
)

// Traffic hands on the changes of a partition from an offset to before another, with
// their definitions, until more is false. Of a TRUNCATE there is no definition. A writer's
// repetitions are among them.
func Traffic(ctx context.Context, log Log, p sink.Partition, from, end int64, each func(*deliver.Record, *change.Schema) (more bool, err error)) (err error) {
	if from >= end {
		return nil
	}
	r, err := log.Open(ctx, p, from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		rctx, cancel := context.WithTimeout(ctx, time.Second)
		recs, err := r.Read(rctx, readMax)
		cancel()
		switch {
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			if r.Lag() == 0 { // the last records may be the beginning of a change whose writer died
				return nil
			}
			continue
		case err != nil:
			return err
		}
		for i := range recs {
			if recs[i].Offset >= end {
				return nil
			}
			var s *change.Schema
			if c := recs[i].Change; c.Op != change.Truncate {
				if s, err = log.Schema(ctx, c.Schema); err != nil {
					return err
				}
			}
			if more, err := each(&recs[i], s); err != nil || !more {
				return err
			}
			if recs[i].Next >= end {
				return nil
			}
		}
	}
}

// readMax is how many records a read of Traffic takes.
const readMax = 512

package activities

import (
	"context"

	"syncline/activities/contract"
	"syncline/dataplane/sink"
	source "syncline/dataplane/source/postgres"
	"syncline/pipeline"
)

// DropSlot removes the slot, so that the source may recycle its log.
func (a *Activities) DropSlot(ctx context.Context, in contract.TeardownInput) (err error) {
	defer func() { err = ended(ctx, err) }()
	return a.withSource(ctx, &in.Spec, func(srv *source.Server) error {
		return beating(ctx, func(ctx context.Context) error { return srv.DropSlot(ctx, in.Spec.SlotName()) })
	})
}

// DropPublication removes the publication.
func (a *Activities) DropPublication(ctx context.Context, in contract.TeardownInput) (err error) {
	defer func() { err = ended(ctx, err) }()
	return a.withSource(ctx, &in.Spec, func(srv *source.Server) error {
		return beating(ctx, func(ctx context.Context) error { return srv.DropPublication(ctx, in.Spec.PublicationName()) })
	})
}

// DeleteTopics removes the pipeline's topics.
func (a *Activities) DeleteTopics(ctx context.Context, in contract.TeardownInput) (err error) {
	defer func() { err = ended(ctx, err) }()
	admin, err := a.admin(ctx, &in.Spec)
	if err != nil {
		return err
	}
	defer admin.Close()
	return beating(ctx, func(ctx context.Context) error { return admin.DeleteTopics(ctx) })
}

// ForgetSink removes the pipeline from the sink's ledger, and with DropRows the
// tables that Syncline created there.
func (a *Activities) ForgetSink(ctx context.Context, in contract.SinkInput) (err error) {
	defer func() { err = ended(ctx, err) }()
	conf, err := findSink(&in.Spec, in.Sink)
	if err != nil {
		return err
	}
	sk, err := a.sink(ctx, in.Spec.Name, conf)
	if err != nil {
		return err
	}
	defer sk.Close()
	return beating(ctx, func(ctx context.Context) error {
		if err := sk.Init(ctx); err != nil {
			return err
		}
		if in.DropRows {
			tables, err := sk.Tables(ctx)
			if err != nil {
				return err
			}
			for _, t := range tables {
				if err := sk.RemoveTable(ctx, t.ID, true); err != nil {
					return err
				}
			}
		}
		if a.Metrics != nil {
			a.Metrics.Forget(in.Spec.Name)
		}
		return sk.Forget(ctx)
	})
}

// ResetTable empties a table at a sink for another load.
func (a *Activities) ResetTable(ctx context.Context, in contract.TableTask) (err error) {
	defer func() { err = ended(ctx, err) }()
	return a.withSink(ctx, in.Pipeline, in.Sink, func(sk sink.Sink) error {
		return beating(ctx, func(ctx context.Context) error {
			if err := sk.ResetTable(ctx, in.Table, in.Epoch); err != nil || in.Kafka == nil {
				return err
			}
			// The new load makes good what the log does not hold any more.
			spec := pipeline.Spec{Name: in.Pipeline, Kafka: *in.Kafka}
			admin, err := a.admin(ctx, &spec)
			if err != nil {
				return err
			}
			defer admin.Close()
			log, err := ranges(ctx, admin, &spec, !in.NoRows, in.Table)
			if err != nil {
				return err
			}
			return beginLogs(ctx, sk, log, true)
		})
	})
}

// RemoveTable ends the delivery of a table into a sink.
func (a *Activities) RemoveTable(ctx context.Context, in contract.TableTask) (err error) {
	defer func() { err = ended(ctx, err) }()
	return a.withSink(ctx, in.Pipeline, in.Sink, func(sk sink.Sink) error { return sk.RemoveTable(ctx, in.Table, in.DropRows) })
}

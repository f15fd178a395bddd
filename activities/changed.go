package activities

import (
	"context"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
	"syncline/dataplane/shaped"
	"syncline/dataplane/sink"
	"syncline/dataplane/transport/kafka"
	"syncline/dataplane/verify"
	"syncline/pipeline"
	"syncline/tiers/shape"
)

// changed verifies the keys of a table that changed since it was last verified.
func (a *Activities) changed(ctx context.Context, in contract.VerifyTask, k *keeper, src verify.Source, snk verify.Sink, led verify.Ledger, t verify.Subject, o verify.Options) (verify.Result, error) {
	if k.state.Place.End { // an attempt has come to its end already
		return verify.Incremental(ctx, src, snk, led, nil, t, nil, nil, o)
	}
	from, why, err := k.since(ctx)
	if err != nil {
		return verify.Result{}, err
	}
	if why != "" {
		return verify.Result{Verdict: verify.Inconclusive, Reason: why}, nil
	}
	ko, err := a.kafkaOptions(ctx, &pipeline.Spec{Name: in.Pipeline, Kafka: *in.Kafka})
	if err != nil {
		return verify.Result{}, err
	}
	log, err := kafka.OpenLog(ctx, ko, kafka.LogOptions{})
	if err != nil {
		return verify.Result{}, err
	}
	defer func() { _ = log.Close() }() // it was only read
	of := func(d *change.Schema) (*shape.Shape, error) { return a.shapeOf(ctx, d, in.Shape, shape.FromLog) }
	return verify.Incremental(ctx, src, snk, led, retained{shaped.NewLog(log, of)}, t, from, k.state.Begin, o)
}

// fullFirst is what to do about a table whose changes cannot be told.
const fullFirst = ": verify all of it first, without --changed"

// since returns from where on the log has keys that are to be verified, or why that
// cannot be told.
func (k *keeper) since(ctx context.Context) (from []int64, why string, err error) {
	last, err := k.ledger.LastWalk(ctx, k.table.ID)
	switch {
	case err != nil:
		return nil, "", err
	case last.Run == "":
		return nil, "it was never verified to its end" + fullFirst, nil
	case last.Epoch != k.table.Epoch:
		return nil, "it was loaded again since it was last verified" + fullFirst, nil
	case k.state.Begin == nil:
		return nil, "its ledger does not tell where in the log its delivery is" + fullFirst, nil
	}
	return last.Offsets, "", nil
}

// retained says of changes that have expired what that means here.
type retained struct{ log verify.Changes }

func (r retained) Between(ctx context.Context, p sink.Partition, from, to int64, each func(*change.Change) error) error {
	err := r.log.Between(ctx, p, from, to, each)
	if fault.Is(err, deliver.CodeOffsetGone) {
		return verify.Unknown("the log no longer holds all that changed since it was last verified" + fullFirst)
	}
	return err
}

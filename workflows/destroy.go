package workflows

import (
	"errors"
	"fmt"
	"strings"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
)

// removal is a destroy that is under way or has ended.
type removal struct {
	in   contract.DestroyInput
	res  contract.DestroyResult
	err  error
	done bool
}

// joins reports whether whoever asks for a destroy now gets the outcome of r: of
// one under way, or of one that has left nothing to do.
func (p *entity) joins(r *removal) bool { return p.alone && r != nil && (!r.done || p.ended) }

func (p *entity) mayDestroy(_ workflow.Context, in contract.DestroyInput) error {
	r := p.removing
	if !p.joins(r) {
		return p.alive()
	}
	if r.in != in {
		rows := "the tables at its sinks stay"
		if r.in.DropRows {
			rows = "the tables that it made at the sinks go with it"
		}
		return refuse("pipeline %s is being destroyed already, and %s", p.spec.Name, rows)
	}
	return nil
}

// destroy answers once everything is removed, or what could not be is known.
// Asked again meanwhile, by somebody whose wait was over, it gives the same answer.
func (p *entity) destroy(ctx workflow.Context, in contract.DestroyInput) (contract.DestroyResult, error) {
	if r := p.removing; p.joins(r) {
		if err := workflow.Await(ctx, func() bool { return r.done }); err != nil {
			return contract.DestroyResult{}, err
		}
		return r.res, r.err
	}
	r := &removal{in: in}
	p.removing = r
	r.err = p.exclusive(ctx, func() error { return p.takeDown(ctx, r) })
	r.done = true
	return r.res, r.err
}

// step is one thing to remove.
type step struct {
	what, activity string
	input          any
	err            error
}

// takeDown goes on past what it cannot reach and reports it, so that a dead sink
// cannot keep a slot, and with it the source's log, for ever. Source, log and
// sinks are seen to side by side, each step in removeBound: however many cannot
// be reached, the answer comes before whoever asked has stopped waiting.
func (p *entity) takeDown(ctx workflow.Context, r *removal) error {
	p.phase(ctx, contract.Destroying)
	p.stopWork(ctx)
	down := contract.TeardownInput{Spec: p.spec}
	parts := [][]*step{{
		{what: "slot " + p.spec.SlotName(), activity: contract.DropSlotActivity, input: down},
		{what: "publication " + p.spec.PublicationName(), activity: contract.DropPublicationActivity, input: down},
	}, {
		{what: "topics", activity: contract.DeleteTopicsActivity, input: down},
	}}
	if len(p.spec.Tiers) > 0 {
		parts = append(parts, []*step{{what: "schedules of tiers", activity: contract.ScheduleTiersActivity, input: unscheduled(&p.spec)}})
	}
	for _, sk := range p.spec.Sinks {
		parts = append(parts, []*step{{what: "ledger of " + sk.Name, activity: contract.ForgetSinkActivity,
			input: contract.SinkInput{Spec: p.spec, Sink: sk.Name, DropRows: r.in.DropRows}}})
	}
	work := func(ctx workflow.Context, steps []*step) {
		for _, s := range steps {
			s.err = workflow.ExecuteActivity(removing(ctx, s.what), s.activity, s.input).Get(ctx, nil)
		}
	}
	wg := workflow.NewWaitGroup(ctx)
	for _, steps := range parts {
		if !p.alone { // as recorded by releases that went one by one
			work(ctx, steps)
			continue
		}
		wg.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer wg.Done()
			work(ctx, steps)
		})
	}
	wg.Wait(ctx)
	var left []string
	for _, steps := range parts {
		for _, s := range steps {
			if s.err != nil {
				left = append(left, s.what+": "+whyNot(s.err))
			} else {
				r.res.Removed = append(r.res.Removed, s.what)
			}
		}
	}
	if len(left) > 0 {
		p.failed = &contract.Failure{Code: contract.DestroyIncompleteError, Message: strings.Join(left, "; ")}
		p.state.Paused = true // nothing is started again; destroy can be asked for again
		p.phase(ctx, contract.Paused)
		return temporal.NewNonRetryableApplicationError("not removed: "+p.failed.Message, p.failed.Code, nil)
	}
	p.phase(ctx, contract.Destroyed)
	p.ended = true
	return nil
}

// whyNot says why a step failed, in words that are not Temporal's.
func whyNot(err error) string {
	var app *temporal.ApplicationError
	var late *temporal.TimeoutError
	if !errors.As(err, &app) && errors.As(err, &late) {
		return fmt.Sprintf("not done within %s", removeBound)
	}
	return failure(err, "").Message
}

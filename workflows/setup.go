package workflows

import (
	"errors"
	"fmt"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
	"syncline/pipeline"
)

// normalise fills in the defaults of a declaration that did not come through the
// starter. It is recorded, because defaults may change between releases.
func normalise(ctx workflow.Context, spec *pipeline.Spec) error {
	var out struct {
		Spec  pipeline.Spec
		Error string
	}
	err := workflow.SideEffect(ctx, func(workflow.Context) any {
		r := out
		r.Spec = *spec
		if err := r.Spec.Normalise(); err != nil {
			r.Error = err.Error()
		}
		return r
	}).Get(&out)
	if err != nil {
		return err
	}
	if out.Error != "" {
		return temporal.NewNonRetryableApplicationError(out.Error, "InvalidDeclaration", nil)
	}
	*spec = out.Spec
	return nil
}

func oneOffName(name string) string { return name + "-once" }

// undo is a step that takes back what a setup made.
type undo struct {
	what string
	run  func(workflow.Context) error
}

// setup makes what the pipeline needs. When a step fails, or the workflow is
// cancelled, what was made is removed again, last first.
func (p *entity) setup(ctx workflow.Context) error {
	var undos []undo
	step, err := p.make(ctx, &undos)
	if err == nil {
		return nil
	}
	last, _ := workflow.NewDisconnectedContext(ctx)
	left := ""
	for i := len(undos) - 1; i >= 0; i-- {
		if uerr := undos[i].run(last); uerr != nil {
			left += fmt.Sprintf("; could not %s: %v", undos[i].what, failure(uerr, "").Message)
		}
	}
	f := failure(err, step)
	return temporal.NewNonRetryableApplicationError(
		fmt.Sprintf("step %q: %s: %s%s", step, f.Code, f.Message, left), contract.SetupFailedError, err, *f)
}

// setupTries bounds a step of a setup: somebody is waiting for the answer.
const setupTries = 4

// refused reports whether a step certainly made nothing. After a lost connection,
// a timeout or a cancellation, it may have made what nobody answered for: a slot
// that nobody knows of keeps the source's log until its disk is full. The
// first step has seen that neither slot nor publication was in use before.
func refused(err error) bool {
	var app *temporal.ApplicationError
	return errors.As(err, &app) && app.NonRetryable()
}

func (p *entity) make(ctx workflow.Context, undos *[]undo) (step string, err error) {
	in := contract.SetupInput{Spec: p.spec, Fresh: true}
	down := contract.TeardownInput{Spec: p.spec}
	do := func(name, activity string, input, output any) error {
		step = name
		// What is undone must not be made a moment later, by an attempt that was told to stop.
		o := workflow.GetActivityOptions(short(ctx, name, setupTries))
		o.WaitForCancellation = true
		if activity == contract.CreateSlotActivity {
			o.StartToCloseTimeout, o.ScheduleToCloseTimeout = slotBound, slotBound
		}
		return workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), activity, input).Get(ctx, output)
	}
	later := func(what, activity string, input any) {
		*undos = append(*undos, undo{what, func(ctx workflow.Context) error {
			return workflow.ExecuteActivity(short(ctx, what, setupTries), activity, input).Get(ctx, nil)
		}})
	}

	var found contract.Resolved
	if err := do("find the tables", contract.ResolveActivity, in, &found); err != nil {
		return step, err
	}
	tables := tablesOf(found)
	for _, sk := range p.spec.Sinks {
		si := contract.SinkInput{Spec: p.spec, Sink: sk.Name, Tables: tables, Epoch: p.state.LoadEpoch, Fresh: true}
		// Registered first: an attempt that fails halfway may have created tables.
		gone := si
		gone.DropRows = true
		later("remove the tables made in "+sk.Name, contract.ForgetSinkActivity, gone)
		if err := do("prepare sink "+sk.Name, contract.PrepareSinkActivity, si, nil); err != nil {
			return step, err
		}
	}
	var topics contract.Made
	if err := do("create the topics", contract.EnsureTopicsActivity, in, &topics); err != nil {
		// Of many topics some may have been made. A run of an older release does not know.
		if found.NoTopics {
			later("delete the topics", contract.DeleteTopicsActivity, down)
		}
		return step, err
	}
	if topics.Created {
		d := down
		d.Names = topics.Names
		later("delete the topics", contract.DeleteTopicsActivity, d)
	}
	// The publication comes before the slot: decoding looks publications up as of
	// the change, so a slot older than its publication cannot be read.
	var pub contract.Made
	if err := do("create the publication", contract.EnsurePublicationActivity, in, &pub); err != nil {
		if !refused(err) {
			later("drop the publication", contract.DropPublicationActivity, down)
		}
		return step, err
	}
	if pub.Created {
		later("drop the publication", contract.DropPublicationActivity, down)
	}
	var slot contract.SlotMade
	if err := do("create the slot", contract.CreateSlotActivity, in, &slot); err != nil {
		if !refused(err) {
			later("drop the slot", contract.DropSlotActivity, down)
		}
		return step, err
	}
	if slot.Created {
		later("drop the slot", contract.DropSlotActivity, down)
	}
	if len(p.spec.Tiers) > 0 {
		later("remove the schedules of the tiers", contract.ScheduleTiersActivity, unscheduled(&p.spec))
		step = "schedule the tiers"
		if err := p.scheduleTiers(ctx, nil); err != nil {
			return step, err
		}
	}
	p.state.SlotAt = slot.At
	p.addTables(found.Tables)
	return "", ctx.Err()
}

package workflows

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"syncline/activities/contract"
)

// keysBound is how long an erasure waits for its keys.
const keysBound = 15 * time.Minute

// Erase removes rows of one subject wherever a pipeline has brought them, or only says
// where they are. Keys are known to activities alone: they come encrypted, or by a
// reference, and what would decrypt them is removed at the end. Sinks go side by side;
// one that fails holds up no other, and fails the erasure, which may be started again.
func Erase(ctx workflow.Context, in contract.EraseInput) (contract.EraseResult, error) {
	in.Who = cmp.Or(in.Who, "unknown")
	e := &erasing{task: contract.EraseTask{EraseInput: in, Name: auditRun(ctx)}}
	e.result = contract.EraseResult{Erasure: e.task.Name, Pipeline: in.Pipeline, Who: in.Who, Reason: in.Reason, Search: in.Search, Began: workflow.Now(ctx).UTC(), Places: []contract.ErasePlace{}}
	if err := workflow.SetQueryHandler(ctx, contract.StatusQuery, func() (contract.EraseResult, error) { return e.result, nil }); err != nil {
		return e.result, err
	}
	if err := workflow.SetUpdateHandlerWithOptions(ctx, contract.KeysUpdate, e.keys, workflow.UpdateHandlerOptions{Validator: e.mayKeys, Description: "hands over the keys, encrypted"}); err != nil {
		return e.result, err
	}
	var opened contract.EraseOpened
	if err := workflow.ExecuteActivity(short(ctx, "begin the erasure", auditPlanTries), contract.OpenEraseActivity, e.task).Get(ctx, &opened); err != nil {
		return e.result, err
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, temporal.NewSearchAttributeKeyKeyword(contract.PipelineAttribute).ValueSet(in.Pipeline)); err != nil {
		workflow.GetLogger(ctx).Warn("search attributes not set", "error", err)
	}
	e.task.Spec = opened.Spec
	err := e.run(ctx, opened.Public)
	// Also after a cancellation: with the secret the keys could be read from the history.
	clean, _ := workflow.NewDisconnectedContext(ctx)
	if ferr := workflow.ExecuteActivity(removing(clean, "forget the keys"), contract.ForgetEraseActivity, e.task).Get(clean, nil); ferr != nil && err == nil {
		err = ferr
	}
	return e.result, err
}

type erasing struct {
	task   contract.EraseTask
	result contract.EraseResult
}

func (e *erasing) mayKeys(sealed []byte) error {
	switch {
	case !e.result.Waits:
		return temporal.NewNonRetryableApplicationError("the erasure waits for no keys", contract.EraseKeysError, nil)
	case len(sealed) == 0:
		return temporal.NewNonRetryableApplicationError("the keys are empty", contract.EraseKeysError, nil)
	}
	return nil
}

func (e *erasing) keys(_ workflow.Context, sealed []byte) error {
	e.task.Sealed, e.result.Waits = sealed, false
	return nil
}

func (e *erasing) run(ctx workflow.Context, public []byte) error {
	if e.task.Keys.IsZero() {
		e.result.Public, e.result.Waits = public, true
		workflow.SetCurrentDetails(ctx, "waits for the keys")
		came, err := workflow.AwaitWithTimeout(ctx, keysBound, func() bool { return !e.result.Waits })
		e.result.Public, e.result.Waits = nil, false
		if err != nil {
			return err
		}
		if !came {
			return temporal.NewNonRetryableApplicationError(fmt.Sprintf("the keys did not come within %s", keysBound), contract.EraseKeysError, nil)
		}
	}
	if err := workflow.ExecuteActivity(short(ctx, "look for the rows at the source", auditPlanTries), contract.PlanEraseActivity, e.task).Get(ctx, &e.task.Plan); err != nil {
		return err
	}
	e.result.Plan = e.task.Plan
	places := make([][]contract.ErasePlace, len(e.task.Spec.Sinks)+1)
	failed := make([]error, len(places))
	under := workflow.NewWaitGroup(ctx)
	for i := range places {
		under.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer under.Done()
			if i == len(e.task.Spec.Sinks) {
				failed[i] = workflow.ExecuteActivity(verifying(ctx, "search the log"), contract.SearchLogActivity, e.task).Get(ctx, &places[i])
				return
			}
			s := e.task.Spec.Sinks[i]
			failed[i] = workflow.ExecuteActivity(verifying(ctx, "erase at "+s.Name), contract.EraseAtActivity, contract.EraseSink{EraseTask: e.task, Sink: s}).Get(ctx, &places[i])
		})
	}
	under.Wait(ctx)
	var broken []string
	for i, err := range failed {
		if err != nil {
			at := "the log"
			if i < len(e.task.Spec.Sinks) {
				at = e.task.Spec.Sinks[i].Name
			}
			broken = append(broken, at+": "+reason(err))
		}
		for _, p := range places[i] {
			e.result.Places = append(e.result.Places, p)
			e.result.Left += p.After
			if p.Until.After(e.result.Until) {
				e.result.Until = p.Until
			}
		}
	}
	e.result.Ended = workflow.Now(ctx).UTC()
	e.show(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case len(broken) > 0:
		return temporal.NewNonRetryableApplicationError(strings.Join(broken, "; "), contract.EraseFailedError, nil)
	case e.task.Search:
		return nil
	}
	return workflow.ExecuteActivity(short(ctx, "record the erasure", auditPlanTries), contract.NoteEraseActivity, contract.EraseNote{EraseTask: e.task, At: e.result.Ended, Result: e.result}).Get(ctx, nil)
}

func (e *erasing) show(ctx workflow.Context) {
	var b strings.Builder
	for _, p := range e.result.Places {
		at := cmp.Or(p.Sink, "log")
		fmt.Fprintf(&b, "- %s, %s: %d before, %d after\n", at, p.Place, p.Before, p.After)
	}
	workflow.SetCurrentDetails(ctx, b.String())
}

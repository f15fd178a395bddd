package workflows

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"

	"syncline/activities/contract"
	"syncline/analytics/bill"
	"syncline/pipeline"
)

func budgeted(t *testing.T, budget *pipeline.Budget, names ...string) pipeline.Spec {
	s := tiered(t, names...)
	s.Budget = budget
	return s
}

// Over its budget a pipeline runs its batch tiers more rarely, as far as the log allows;
// an apply keeps that; a budget that is raised, another period, or an end of the budget
// makes them as declared again. Old word of a budget changes nothing.
func TestBudgetSlowsTiers(t *testing.T) {
	w := newWorld()
	env := environment(t, w)
	begin := env.Now()
	spend := func(at time.Duration, sum int64, end time.Duration, edit func(*bill.Budget)) {
		env.RegisterDelayedCallback(func() {
			b := bill.Budget{Pipeline: "shop", Standing: bill.Over, Amount: decimal.NewFromInt(100), Currency: "USD", Per: pipeline.PerDay, Spent: decimal.NewFromInt(sum), Start: begin, End: begin.Add(end), At: begin.Add(at)}
			if edit != nil {
				edit(&b)
			}
			env.SignalWorkflow(contract.BudgetSignal, b)
		}, at)
	}
	seen := map[string]int{}
	look := func(what string, at time.Duration) {
		env.RegisterDelayedCallback(func() { seen[what] = statusOf(t, env).Slowed }, at)
	}
	four := &pipeline.Budget{Amount: "100 USD", Per: pipeline.PerDay, WarnAt: 800000, Slow: 4}
	h := time.Hour
	spend(1*h, 99, 24*h, nil)
	look("within", 1*h+time.Minute)
	spend(2*h, 100, 24*h, nil)
	look("over", 2*h+time.Minute)
	spend(2*h+2*time.Minute, 1, 24*h, func(b *bill.Budget) { b.At = begin }) // old
	look("after old word", 2*h+2*time.Minute+30*time.Second)
	spend(2*h+3*time.Minute, 900, 24*h, func(b *bill.Budget) { b.Currency = "EUR" })
	look("another currency", 2*h+4*time.Minute)
	spend(2*h+5*time.Minute, 100, 24*h, nil)
	more := ask(env, 3*h, contract.ApplyUpdate, budgeted(t, four, "a", "b"))
	look("after an apply", 3*h+time.Minute)
	raised := *four
	raised.Amount = "200 USD"
	up := ask(env, 4*h, contract.ApplyUpdate, budgeted(t, &raised, "a", "b"))
	look("raised", 4*h+time.Minute)
	far := raised
	far.Slow = 1000 // longer than the log keeps
	down := ask(env, 5*h, contract.ApplyUpdate, budgeted(t, &far, "a", "b"))
	spend(6*h, 201, 24*h, nil)
	look("far over", 6*h+time.Minute)
	look("the next day", 24*h+time.Minute)
	gone := ask(env, 25*h, contract.DestroyUpdate, contract.DestroyInput{})
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: budgeted(t, four, "a")})
	if more.err != nil || up.err != nil || down.err != nil || gone.err != nil || env.GetWorkflowError() != nil {
		t.Fatalf("%+v, %+v, %+v, %+v, %v", more, up, down, gone, env.GetWorkflowError())
	}
	for what, want := range map[string]int{"within": 0, "over": 4, "after old word": 4, "another currency": 0, "after an apply": 4, "raised": 0, "far over": 1000, "the next day": 0} {
		if seen[what] != want {
			t.Errorf("%s: slowed by %d, want %d", what, seen[what], want)
		}
	}
	calls := slices.DeleteFunc(w.names(), func(c string) bool { return !strings.HasPrefix(c, "ScheduleTiers") })
	if want := []string{"ScheduleTiers [a] not []", "ScheduleTiers [a@4h] not []", "ScheduleTiers [a] not []", "ScheduleTiers [a@4h] not []", "ScheduleTiers [a@4h b@4h] not []", "ScheduleTiers [a b] not []",
		"ScheduleTiers [a@3d12h b@3d12h] not []", "ScheduleTiers [a b] not []", "ScheduleTiers [] not [a b]"}; !slices.Equal(calls, want) {
		t.Errorf("%v, want %v", calls, want)
	}
	// What only budgets differ by restarts nothing.
	if n := w.count("run capture"); n > 2 {
		t.Errorf("the stream was started %d times: %v", n, w.names())
	}
}

// Schedules that cannot be changed are tried again, and nothing else is held up. What is
// slowed when history has become long is known in the next run.
func TestBudgetIsTriedAgainAndCarried(t *testing.T) {
	w := newWorld()
	w.outlived = true
	w.once[contract.ScheduleTiersActivity] = []error{nil, permanent("ScheduleRefused")}
	env := environment(t, w)
	begin := env.Now()
	env.RegisterDelayedCallback(func() {
		env.SignalWorkflow(contract.BudgetSignal, bill.Budget{Standing: bill.Over, Amount: decimal.NewFromInt(1), Currency: "USD", Per: pipeline.PerDay, Spent: decimal.NewFromInt(2), End: begin.Add(24 * time.Hour), At: begin})
	}, time.Minute)
	var refused, again int
	env.RegisterDelayedCallback(func() { refused = statusOf(t, env).Slowed }, 90*time.Second)
	env.RegisterDelayedCallback(func() { again = statusOf(t, env).Slowed }, 3*time.Minute)
	env.RegisterDelayedCallback(func() {
		env.SetContinueAsNewSuggested(true)
		env.SignalWorkflow(contract.ComponentSignal, contract.ComponentState{Name: contract.CaptureComponent})
	}, time.Hour)
	env.ExecuteWorkflow(Pipeline, contract.PipelineInput{Spec: budgeted(t, &pipeline.Budget{Amount: "1 USD", Per: pipeline.PerDay, WarnAt: 800000, Slow: 2}, "a")})
	in := continued[contract.PipelineInput](t, env.GetWorkflowError())
	if refused != 0 || again != 2 || in.Carried.Slowed != 2 || in.Carried.Budget == nil || w.count("ScheduleTiers [a@2h] not []") != 2 {
		t.Errorf("%d, %d, %+v: %v", refused, again, in.Carried, w.names())
	}
}

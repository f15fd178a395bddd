package workflows

import (
	"time"

	"go.temporal.io/sdk/workflow"

	"syncline/analytics/bill"
)

// repaceAfter is when Schedules that could not be changed are tried again.
const repaceAfter = time.Minute

// onBudget takes in how the pipeline stands to its budget. What is older than what is
// known is left alone.
func (p *entity) onBudget(ctx workflow.Context, b bill.Budget) {
	if known := p.state.Budget; known != nil && b.At.Before(known.At) {
		return
	}
	p.state.Budget = &b
}

// budget is how the pipeline stands to the budget that it has now; nil if that is not known.
func (p *entity) budget() *bill.Budget {
	b, s := p.spec.Budget, p.state.Budget
	if b == nil || s == nil {
		return nil
	}
	if sum, currency := b.Money(); currency != s.Currency || b.Per != s.Per || !sum.Equal(s.Amount) {
		return nil
	}
	return s
}

// slowdown is the factor by which batch tiers are to be slowed now, or 0. What was spent
// counts against the budget as it is declared now, which may have been raised since.
func (p *entity) slowdown(now time.Time) int {
	b, s := p.spec.Budget, p.state.Budget
	if b == nil || s == nil || b.Slow < 2 || len(p.spec.Tiers) == 0 || s.Standing == bill.Unclear || b.Per != s.Per || !now.Before(s.End) {
		return 0
	}
	if sum, currency := b.Money(); currency != s.Currency || s.Spent.LessThan(sum) {
		return 0
	}
	return b.Slow
}

// unpaced reports whether the Schedules of tiers are others than the budget wants.
func (p *entity) unpaced(ctx workflow.Context) bool {
	now := workflow.Now(ctx)
	return p.slowdown(now) != p.state.Slowed && !now.Before(p.repace) && p.alive() == nil
}

// pace slows the Schedules of tiers, or has them as declared again. Nobody else sets
// them: what apply makes of them goes by the same factor.
func (p *entity) pace(ctx workflow.Context) error {
	if err := p.lock.Lock(ctx); err != nil {
		return err
	}
	defer p.lock.Unlock()
	if !p.unpaced(ctx) { // an update was faster
		return nil
	}
	was := p.state.Slowed
	p.state.Slowed = p.slowdown(workflow.Now(ctx))
	if err := p.scheduleTiers(ctx, nil); err != nil {
		p.state.Slowed, p.repace = was, workflow.Now(ctx).Add(repaceAfter)
		workflow.GetLogger(ctx).Warn("schedules of tiers not changed; trying again", "error", err)
		return ctx.Err()
	}
	p.show(ctx)
	return nil
}

// await waits as workflow.Await does. While tiers are slowed, or are to be, it also comes
// back when that may have another answer.
func (p *entity) await(ctx workflow.Context, until func() bool) error {
	now, look := workflow.Now(ctx), time.Time{}
	if p.state.Slowed > 0 && p.state.Budget != nil {
		look = p.state.Budget.End
	}
	if p.repace.After(now) {
		look = p.repace
	}
	if p.alive() != nil || !look.After(now) {
		return workflow.Await(ctx, until)
	}
	_, err := workflow.AwaitWithTimeout(ctx, look.Sub(now), until)
	return err
}

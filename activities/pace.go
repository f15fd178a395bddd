package activities

import (
	"context"
	"sync"
	"time"

	"syncline/activities/contract"
	"syncline/pipeline"
)

// paceEvery is how often it is asked whether the pipeline's batch tiers are slowed.
const paceEvery = 30 * time.Second

// pace knows what a pipeline's tiers promise now: more while its budget slows them, and
// for what had begun to wait then.
type pace struct {
	spec *pipeline.Spec

	mu     sync.Mutex
	factor int       // 0: as declared
	ended  time.Time // when it was last seen to be slowed
}

// watch asks the pipeline until ctx ends. While Temporal is away what it last said counts.
func (p *pace) watch(ctx context.Context, status func(context.Context, string) (contract.PipelineStatus, error)) {
	for {
		look, cancel := context.WithTimeout(ctx, paceEvery)
		st, err := status(look, p.spec.Name)
		cancel()
		if err == nil {
			p.saw(st.Slowed, time.Now())
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(paceEvery):
		}
	}
}

func (p *pace) saw(factor int, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if factor > 1 {
		p.factor, p.ended = factor, now
	}
}

// promise is how long a change of a tier that takes effect now waits at most; 0 of a tier
// that is declared no more.
func (p *pace) promise(tier string, now time.Time) time.Duration {
	t, _ := p.spec.Tier(tier)
	p.mu.Lock()
	defer p.mu.Unlock()
	slow := t.Slowed(p.factor, p.spec.Kafka.Retention)
	if now.Sub(p.ended) > 2*paceEvery+(slow.Every+t.Jitter).Std() { // whatever waits has begun to since
		slow = t
	}
	return (slow.Every + slow.Jitter).Std()
}

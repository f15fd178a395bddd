package activities

import (
	"time"

	"syncline/analytics"
	"syncline/pipeline"
)

// promises counts which events of a lane keep the pipeline's objectives, in metrics
// and in analytics. Those of backlog and convergence are judged where all of a
// sink is seen.
type promises struct {
	count         func(o *pipeline.Objective, good, bad int)
	lag, applying []*pipeline.Objective
}

func (a *Activities) promises(spec *pipeline.Spec, tally *analytics.Tally) *promises {
	p := &promises{count: func(o *pipeline.Objective, good, bad int) {
		a.Metrics.Objective(spec.Name, o.Name, o.Target.Share(), good, bad)
		tally.Objective(o.Name, good, bad)
	}}
	for i := range spec.Objectives {
		switch o := &spec.Objectives[i]; o.Indicator {
		case pipeline.ObjectiveLag:
			p.lag = append(p.lag, o)
		case pipeline.ObjectiveApplyErrors:
			p.applying = append(p.applying, o)
		}
	}
	return p
}

// arrived takes in that n changes became visible d after their commit.
func (p *promises) arrived(d time.Duration, n int) {
	for _, o := range p.lag {
		if d <= o.Within.Std() {
			p.count(o, n, 0)
		} else {
			p.count(o, 0, n)
		}
	}
}

// taken takes in that the sink took n changes.
func (p *promises) taken(n int) {
	for _, o := range p.applying {
		p.count(o, n, 0)
	}
}

// refused takes in that n changes were set aside.
func (p *promises) refused(n int) {
	for _, o := range p.applying {
		p.count(o, 0, n)
	}
}

// capacity is how many records may wait, by the pipeline's objectives; 0 if they do not say.
func capacity(spec *pipeline.Spec) int64 {
	for i := range spec.Objectives {
		if o := &spec.Objectives[i]; o.Indicator == pipeline.ObjectiveBacklog {
			return o.AtMost
		}
	}
	return 0
}

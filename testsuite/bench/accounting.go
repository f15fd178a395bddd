package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"syncline/activities/contract"
	"syncline/analytics"
	"syncline/dataplane/change"
	"syncline/testsuite/check"
)

// settledWithin is the half width of an interval that says enough of an aim of 3 %.
const settledWithin = 0.015

// accounting tells what recording into analytics and counting bytes cost. Two pipelines read
// the same source into sinks of their own, each with a worker that stays; one accounts, the
// other does not. Block by block a load is written once, and one after the other gets through
// it, in the order with, without, without, with. Each round workers exchange what they
// do, so that what else differs between the two counts for neither.
func accounting(ctx context.Context, b *bench) ([]figure, error) {
	p := &pairs{b: b}
	for i, name := range []string{"accounting", "accounting_peer"} {
		r, err := b.rig(ctx, name)
		if err != nil {
			return nil, err
		}
		defer r.close()
		database, drop, err := r.analytics(ctx)
		if err != nil {
			return nil, err
		}
		defer drop()
		p.on[i] = []string{"SYNCLINE_ANALYTICS=env:BENCH_CLICKHOUSE", "SYNCLINE_ANALYTICS_DATABASE=" + database}
		if i == 0 {
			p.q[i], err = r.queued(ctx, p.env(i)...)
		} else {
			r.source = p.q[0].r.source
			p.q[i], err = r.follows(ctx, p.env(i)...)
		}
		if err != nil {
			return nil, err
		}
		defer p.q[i].close()
		if err := r.update(ctx, p.q[i].name, contract.PauseUpdate); err != nil {
			return nil, err
		}
	}
	if err := p.begin(ctx); err != nil {
		return nil, err
	}
	begun := time.Now()
	ratios, settled, err := settle(ctx, settledWithin, b.limit, p.round)
	if err != nil {
		return nil, err
	}
	return p.figures(ratios, settled, time.Since(begun)), nil
}

// pairs are two pipelines over the same source, and what their blocks took.
type pairs struct {
	b        *bench
	q        [2]*queue
	on       [2][]string // environment with which each accounts
	accounts int         // which of both does
	start    spent       // of a pipeline that has nothing to do, which is not in the blocks' times
	cpu      []float64   // ratios of the workers' CPU
	without  []time.Duration
}

// spent is what a block took, and the worker's CPU.
type spent struct{ took, cpu time.Duration }

// begin lets caches fill and heaps grow, and times starts.
func (p *pairs) begin(ctx context.Context) error {
	if _, _, err := p.four(ctx); err != nil {
		return err
	}
	var took, cpu []time.Duration
	for range 4 {
		end, err := p.position(ctx)
		if err != nil {
			return err
		}
		for _, q := range p.q {
			s, err := q.block(ctx, end)
			if err != nil {
				return err
			}
			took, cpu = append(took, s.took), append(cpu, s.cpu)
		}
	}
	p.start = spent{median(took), median(cpu)}
	return nil
}

func (p *pairs) env(i int) []string {
	if i == p.accounts {
		return p.on[i]
	}
	return []string{"SYNCLINE_USAGE=false"}
}

// round is four blocks, and four after workers have exchanged what they do.
func (p *pairs) round(ctx context.Context) (ratio float64, err error) {
	a, acpu, err := p.four(ctx)
	if err != nil {
		return 0, err
	}
	if err := p.exchange(); err != nil {
		return 0, err
	}
	b, bcpu, err := p.four(ctx)
	if err != nil {
		return 0, err
	}
	ratio = exchanged(a.ratio(), b.ratio())
	p.cpu = append(p.cpu, exchanged(acpu.ratio(), bcpu.ratio()))
	p.without = append(p.without, a[1], a[2], b[1], b[2])
	fmt.Fprintf(os.Stderr, "  %s time with accounting, of that without: %.3f (%.3f, and exchanged %.3f)\n", time.Now().Format(time.TimeOnly), ratio, a.ratio(), b.ratio())
	return ratio, nil
}

func (p *pairs) exchange() (err error) {
	p.accounts = 1 - p.accounts
	for i, q := range p.q {
		if q.worker, err = q.r.instead(q.worker, p.env(i)...); err != nil {
			return err
		}
	}
	return nil
}

// four blocks, of two loads.
func (p *pairs) four(ctx context.Context) (took, cpu abba, err error) {
	with, without := p.q[p.accounts], p.q[1-p.accounts]
	for load, order := range [2][2]*queue{{with, without}, {without, with}} {
		if err := program(ctx, "pgbench", "-n", "-c", fmt.Sprint(blockClients), "-t", fmt.Sprint(p.b.block/4/blockClients), p.q[0].r.source); err != nil {
			return took, cpu, err
		}
		end, err := p.position(ctx)
		if err != nil {
			return took, cpu, err
		}
		for i, q := range order {
			n := 2*load + i
			s, err := q.block(ctx, end)
			if err != nil {
				return took, cpu, err
			}
			took[n], cpu[n] = s.took-p.start.took, s.cpu-p.start.cpu
			if took[n] <= 0 || cpu[n] <= 0 {
				return took, cpu, fmt.Errorf("a block takes no longer than a start, %s (fix: a larger -changes)", p.start.took)
			}
			if i == 0 { // what is recorded of this block is not to be written in the next
				if err := pause(ctx, analytics.Window+time.Second); err != nil {
					return took, cpu, err
				}
			}
		}
	}
	return took, cpu, nil
}

const blockClients = 4

// changes of a block: a transaction of pgbench changes four rows.
func (p *pairs) changes() int { return p.b.block / 4 / blockClients * 4 * blockClients }

// position is where the source is after a change, so that pipelines have something to reach.
func (p *pairs) position(ctx context.Context) (change.LSN, error) {
	r := p.q[0].r
	if err := r.exec(ctx, r.source, "UPDATE pgbench_branches SET bbalance = bbalance WHERE bid = 1"); err != nil {
		return 0, err
	}
	return (&check.Postgres{DSN: r.source, Source: true}).Position(ctx)
}

// block times a paused pipeline until it has come to a position, and pauses it again.
func (q *queue) block(ctx context.Context, end change.LSN) (s spent, err error) {
	before, err := cpuTime(q.worker.Process.Pid)
	if err != nil {
		return s, err
	}
	at := time.Now()
	if err := q.r.update(ctx, q.name, contract.ResumeUpdate); err != nil {
		return s, err
	}
	if err := q.reaches(ctx, end); err != nil {
		return s, err
	}
	s.took = time.Since(at)
	after, err := cpuTime(q.worker.Process.Pid)
	if err != nil {
		return s, err
	}
	s.cpu = after - before
	return s, q.r.update(ctx, q.name, contract.PauseUpdate)
}

// reaches asks more often than check.Await does, which would blur blocks of some seconds.
func (q *queue) reaches(ctx context.Context, lsn change.LSN) error {
	for {
		reached, err := check.Reached(ctx, q.led, lsn)
		if err != nil || reached {
			return err
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

func (p *pairs) figures(ratios []float64, settled bool, took time.Duration) []figure {
	r, cpu := medianOf(ratios), medianOf(p.cpu)
	enough := len(ratios) >= fewestPairs
	between := func(format string, low, high float64) string {
		if !enough {
			return "no interval"
		}
		return fmt.Sprintf("95 %% between "+format+" and "+format, low, high)
	}
	percent := func(ratio float64) float64 { return 100 * (ratio - 1) }
	how := fmt.Sprintf("; %d rounds in %s", len(ratios), took.Round(time.Second))
	switch {
	case settled:
		how += ", settled"
	case enough:
		how += fmt.Sprintf("; NOT SETTLED: half of the interval is %.2f %%, not below %.1f %%", 100*r.half(), 100*settledWithin)
	default:
		how += fmt.Sprintf("; NOT SETTLED: it takes %d rounds", fewestPairs)
	}
	return []figure{
		{"backlog → Postgres, nothing recorded or counted", perSecond(p.changes(), median(p.without)), fmt.Sprintf("%d blocks of %d changes, without starts of %s; noise ±%.0f %%", 8*len(ratios), p.changes(), p.start.took.Round(time.Millisecond), spread(p.without)/2)},
		{"time with analytics and bytes counted", fmt.Sprintf("%+.2f %%", percent(r.median)), between("%+.2f %%", percent(r.low), percent(r.high)) + how},
		{"throughput with it, of that without", fmt.Sprintf("%.3f", 1/r.median), between("%.3f", 1/r.high, 1/r.low)},
		{"the worker's CPU with it", fmt.Sprintf("%+.2f %%", percent(cpu.median)), between("%+.2f %%", percent(cpu.low), percent(cpu.high))},
	}
}

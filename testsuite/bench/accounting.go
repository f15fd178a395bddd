package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/pprof/profile"

	"syncline/testsuite/check"
)

// accounting tells what part of a worker's CPU goes into what accounts for the rest:
// analytics, metrics and the counting of bytes. With a worker that has enough to do, its
// throughput is less by as much. It is read from profiles of whole backlogs, with what is
// recorded of them: on few cores runs with and without accounting differ by several times
// what it costs, whichever is which.
func accounting(ctx context.Context, b *bench) ([]figure, error) {
	r, err := b.rig(ctx, "accounting")
	if err != nil {
		return nil, err
	}
	defer r.close()
	database, drop, err := r.analytics(ctx)
	if err != nil {
		return nil, err
	}
	defer drop()
	addr, err := closedPort()
	if err != nil {
		return nil, err
	}
	q, err := r.queued(ctx, "SYNCLINE_ANALYTICS=env:BENCH_CLICKHOUSE", "SYNCLINE_ANALYTICS_DATABASE="+database, "SYNCLINE_PPROF=true", "SYNCLINE_HTTP_ADDR="+addr)
	if err != nil {
		return nil, err
	}
	defer q.close()
	var all shares
	var runs []float64
	for range b.runs {
		s, err := q.profiled(ctx, "http://"+addr+"/debug/pprof/profile")
		if err != nil {
			return nil, err
		}
		all.add(s)
		runs = append(runs, s.percent())
	}
	return all.figures(b.changes*b.runs, runs), nil
}

// profiledFor is how long a backlog is profiled: with whatever its end leaves to record.
const profiledFor = 30 * time.Second

// profiled profiles the worker while it gets through a backlog, and what comes of it.
func (q *queue) profiled(ctx context.Context, url string) (s shares, err error) {
	r := q.r
	if _, err := q.fill(ctx); err != nil {
		return s, err
	}
	end, err := (&check.Postgres{DSN: r.source, Source: true}).Position(ctx)
	if err != nil {
		return s, err
	}
	type answer struct {
		p   *profile.Profile
		err error
	}
	done := make(chan answer, 1)
	go func() {
		p, err := fetch(ctx, fmt.Sprintf("%s?seconds=%.0f", url, profiledFor.Seconds()))
		done <- answer{p, err}
	}()
	took, err := r.resumed(ctx, q.name, q.led, end)
	if err != nil {
		return s, err
	}
	a := <-done
	if a.err != nil {
		return s, fmt.Errorf("profile the worker: %w", a.err)
	}
	if took > profiledFor-10*time.Second {
		return s, fmt.Errorf("the backlog took %s, of which %s are profiled (fix: a smaller -changes)", took.Round(time.Second), profiledFor)
	}
	return sharesOf(a.p), nil
}

func fetch(ctx context.Context, url string) (*profile.Profile, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return profile.Parse(resp.Body)
}

// accountants are what accounts, by the beginnings of their functions' names. The worker of
// this benchmark has no ClickHouse but that of analytics.
var accountants = []struct {
	what  string
	names []string
}{
	{"analytics", []string{"syncline/analytics.", "github.com/ClickHouse/"}},
	{"usage", []string{"syncline/activities.(*account).", "syncline/activities.(*usages).", "syncline/activities.(*Wires).", "syncline/activities.(*owed).",
		"syncline/dataplane/deliver.(*lane).tellUsed", "syncline/dataplane/deliver.(*lane).tellSwept", "syncline/dataplane/deliver.textBytes", "syncline/dataplane/deliver.addRead"}},
	{"bytes", []string{"syncline/dataplane/wire."}},
	{"metrics", []string{"syncline/activities/observe.(*Metrics).", "syncline/activities/observe.(*Deliver).", "syncline/activities/observe.(*Capture).", "github.com/prometheus/",
		"syncline/activities.(*Activities).deliverObserver", "syncline/activities.(*Activities).captureObserver"}},
}

// shares are the samples of profiles by what they were taken in.
type shares struct {
	by        [4]int64 // as accountants are
	rest      int64
	collector int64 // of garbage, in goroutines of its own
	seconds   float64
}

func (s *shares) add(o shares) {
	for i, n := range o.by {
		s.by[i] += n
	}
	s.rest, s.collector, s.seconds = s.rest+o.rest, s.collector+o.collector, s.seconds+o.seconds
}

func sharesOf(p *profile.Profile) (s shares) {
	for _, sample := range p.Sample {
		var stack []string // from the innermost on
		for _, l := range sample.Location {
			for _, line := range l.Line {
				stack = append(stack, line.Function.Name)
			}
		}
		n := sample.Value[0]
		s.seconds += time.Duration(sample.Value[len(sample.Value)-1]).Seconds()
		switch i := accountant(stack); {
		case i >= 0:
			s.by[i] += n
		case slices.ContainsFunc(stack, func(f string) bool {
			return strings.HasPrefix(f, "runtime.gcBgMarkWorker") || strings.HasPrefix(f, "runtime.bg")
		}):
			s.collector += n
		default:
			s.rest += n
		}
	}
	return s
}

// accountant is by whom a stack is, -1 if by none of them: by the outermost, since the
// counting of analytics' own bytes is analytics'. A connection that counts bytes accounts
// for what it does, and not for the connection that it wraps.
func accountant(stack []string) int {
	for i := len(stack) - 1; i >= 0; i-- {
		for n, a := range accountants {
			if !slices.ContainsFunc(a.names, func(name string) bool { return strings.HasPrefix(stack[i], name) }) {
				continue
			}
			if a.what == "bytes" && slices.ContainsFunc(stack[:i], func(f string) bool { return strings.HasPrefix(f, "net.") || strings.HasPrefix(f, "crypto/") }) {
				continue
			}
			return n
		}
	}
	return -1
}

func (s *shares) accounts() (n int64) {
	for _, k := range s.by {
		n += k
	}
	return n
}

// total is without the collector, of whose work each has a part that is not known.
func (s *shares) total() int64 { return s.accounts() + s.rest }

func (s *shares) percent() float64 { return 100 * float64(s.accounts()) / float64(max(s.total(), 1)) }

func (s *shares) figures(changes int, runs []float64) []figure {
	var by []string
	for i, a := range accountants {
		by = append(by, fmt.Sprintf("%s %.2f %%", a.what, 100*float64(s.by[i])/float64(max(s.total(), 1))))
	}
	return []figure{
		{"a worker's CPU for backlogs → Postgres", fmt.Sprintf("%.1f µs/change", 1e6*s.seconds/float64(changes)),
			fmt.Sprintf("%d changes, %.1f s in %d samples; %.0f %% the collector's, which is left out below", changes, s.seconds, s.total()+s.collector, 100*float64(s.collector)/float64(max(s.total()+s.collector, 1)))},
		{"of that accounting", fmt.Sprintf("%.2f %%", s.percent()), fmt.Sprintf("%s; by backlog %.2f to %.2f %%", strings.Join(by, ", "), slices.Min(runs), slices.Max(runs))},
	}
}

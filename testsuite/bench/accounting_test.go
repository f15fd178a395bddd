package main

import (
	"testing"

	"github.com/google/pprof/profile"
)

// Samples are told apart by their stacks.
func TestSharesOfAProfile(t *testing.T) {
	p := &profile.Profile{}
	ids := map[string]*profile.Location{}
	sample := func(n int64, stack ...string) { // from the innermost on
		s := &profile.Sample{Value: []int64{n, n * 1e7}}
		for _, f := range stack {
			if ids[f] == nil {
				ids[f] = &profile.Location{ID: uint64(len(ids) + 1), Line: []profile.Line{{Function: &profile.Function{Name: f}}}}
			}
			s.Location = append(s.Location, ids[f])
		}
		p.Sample = append(p.Sample, s)
	}
	const lane, meter = "syncline/dataplane/deliver.(*lane).plan", "syncline/dataplane/wire.(*conn).Write"
	sample(100, "runtime.mapassign", lane)
	sample(40, "internal/poll.(*FD).Write", "net.(*conn).Write", meter, "bufio.(*Writer).Flush", lane) // what a counted connection does anyhow
	sample(1, "sync/atomic.AddInt64", meter, "bufio.(*Writer).Flush", lane)
	sample(2, "syncline/dataplane/deliver.textBytes", "syncline/dataplane/deliver.(*lane).commit")
	sample(3, "net.(*conn).Write", meter, "github.com/ClickHouse/ch-go.(*Client).flush", "syncline/analytics.(*Writer).Run")
	sample(4, "github.com/prometheus/client_golang/prometheus.(*counter).Add", lane)
	sample(50, "runtime.scanobject", "runtime.gcBgMarkWorker.func2", "runtime.systemstack", "runtime.gcBgMarkWorker")
	s := sharesOf(p)
	if s.by != [4]int64{3, 2, 1, 4} || s.rest != 140 || s.collector != 50 || s.seconds != 2 {
		t.Errorf("%+v", s)
	}
	if s.total() != 150 || s.percent() != 100*10.0/150 {
		t.Errorf("%d, %v %%", s.total(), s.percent())
	}
	if f := s.figures(1000, []float64{5, 7})[1]; f.Value != "6.67 %" || f.Note != "analytics 2.00 %, usage 1.33 %, bytes 0.67 %, metrics 2.67 %; by backlog 5.00 to 7.00 %" {
		t.Errorf("%+v", f)
	}
}

package e2e

import (
	"context"
	"testing"
	"time"

	"syncline/activities/contract"
	"syncline/testsuite/stack"
)

// TestServersRestart ends every server under load, by SIGKILL and in order, and
// starts it again. The other tests use them, too: they begin when it is over.
func TestServersRestart(t *testing.T) {
	ctl := stack.Control(t)
	r, rnd := newRig(t), moments(t)
	r.fast = true // as the others run with the race detector
	sizes := r.seedShop(0.005)
	r.start(contract.Control, contract.Capture)
	r.start(contract.Snapshot, contract.Deliver)
	p := r.pipe(fewTables)
	endLoad := r.load(60)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	endWatch := p.watch("version", counted...)
	endAudit := p.auditSlot()
	// A crash of the sink's server may take back what was committed last, since it
	// commits without waiting for the disk: rows and watermarks together, so that the
	// log brings them again. Counters are watched on both sides of it.
	kill := func(s stack.Service) {
		if s == stack.SinkService {
			endWatch()
		}
		ctl.Kill(s)
	}
	startAgain := func(s stack.Service) {
		ctl.Start(s)
		if s == stack.SinkService {
			endWatch = p.watch("version", counted...)
		}
	}
	all := []stack.Service{stack.KafkaService, stack.ClickHouseService, stack.SinkService, stack.SourceService, stack.TemporalService}
	for _, i := range rnd.Perm(len(all)) {
		s := all[i]
		begun := time.Now()
		pause(t, rnd, time.Second)
		kill(s)
		pause(t, rnd, 3*time.Second)
		startAgain(s)
		p.converged()
		t.Logf("%s killed and back: %s", s, time.Since(begun).Round(100*time.Millisecond))
		if rnd.IntN(2) == 0 {
			pause(t, rnd, time.Second)
			ctl.Restart(s)
			p.converged()
			t.Logf("%s restarted, too", s)
		}
	}
	// A load that every server leaves once.
	for _, i := range rnd.Perm(len(all)) {
		v, err := p.view(t.Context())
		if err == nil && v.Settled() {
			in := contract.TablesInput{}
			for _, x := range v.Status.Tables {
				in.Tables = append(in.Tables, x.Table)
			}
			p.mustUpdate(contract.ResyncTableUpdate, in, nil)
		}
		pause(t, rnd, 2*time.Second)
		kill(all[i])
		pause(t, rnd, time.Second)
		startAgain(all[i])
		until(t, bound, "Temporal answers", func(ctx context.Context) error { _, err := p.view(ctx); return err })
	}
	p.awaitPhase(bound, contract.Streaming)
	endLoad()
	p.settled(sizes, fewTablesIs)
	endWatch()
	endAudit()
}

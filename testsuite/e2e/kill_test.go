package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/change"
)

var roles = []contract.Role{contract.Control, contract.Capture, contract.Snapshot, contract.Deliver}

// fleet is one worker process for each role.
type fleet struct {
	r  *rig
	by map[contract.Role]*worker
}

func (r *rig) fleet() *fleet {
	r.t.Helper()
	f := &fleet{r: r, by: map[contract.Role]*worker{}}
	for _, x := range roles {
		f.by[x] = r.launch(x)
	}
	for _, w := range f.by {
		w.ready()
	}
	return f
}

// kill ends a role's worker and starts another one.
func (f *fleet) kill(role contract.Role) {
	f.r.t.Helper()
	f.by[role].ready() // one that is starting is no victim
	f.by[role].kill()
	f.by[role] = f.r.launch(role)
}

// pause lets a random time pass: the moment of a fault, not a wait for something.
func pause(t testing.TB, rnd *rand.Rand, most time.Duration) {
	t.Helper()
	select {
	case <-time.After(time.Duration(rnd.Int64N(int64(most)))):
	case <-t.Context().Done():
		t.Fatal("the test is over")
	}
}

// loading makes sure that a load is under way, by asking for another if it is over.
func (p *pipe) loading() {
	p.r.t.Helper()
	until(p.r.t, bound, "a load is under way", func(ctx context.Context) error {
		v, err := p.view(ctx)
		if err != nil {
			return err
		}
		for _, l := range v.Loads {
			done, of := 0, 0
			for _, x := range l.Loads {
				done, of = done+x.Done, of+x.Chunks
			}
			if l.Generation > 0 && of > 0 && done < of {
				return nil
			}
		}
		if !v.Settled() {
			return fmt.Errorf("it is %s; %s", v.Status.Phase, p.troubles(v))
		}
		var tables []change.TableID
		for _, t := range v.Status.Tables {
			tables = append(tables, t.Table)
		}
		if err := p.update(contract.ResyncTableUpdate, contract.TablesInput{Tables: tables}, nil); err != nil {
			return err
		}
		return fmt.Errorf("a new load was asked for")
	})
}

// TestKillDuringBootstrap kills workers of every role, the snapshot's holder
// among them, at random moments of setups and loads, under load.
func TestKillDuringBootstrap(t *testing.T) {
	t.Parallel()
	r, rnd := newRig(t), moments(t)
	sizes := r.seedShop(0.01)
	r.fast = true
	f := r.fleet()
	p := r.pipe(shopPipeline)
	endLoad := r.load(40)
	endAudit := p.auditSlot()
	applied := make(chan error, 1)
	go func() {
		_, err := p.apply()
		applied <- err
	}()
	pause(t, rnd, time.Second)
	f.kill(contract.Control) // in the middle of the setup
	if err := <-applied; err != nil {
		t.Fatalf("apply: %v", err)
	}
	endWatch := p.watch("version", counted...)
	for range kills(t) {
		for _, i := range rnd.Perm(len(roles)) {
			p.loading()
			pause(t, rnd, 2*time.Second)
			f.kill(roles[i])
		}
	}
	p.awaitPhase(2*bound, contract.Streaming)
	endLoad()
	p.settled(sizes, shopTables)
	endWatch()
	endAudit()
}

// TestKillDuringStreaming kills workers of every role at random moments while
// changes stream.
func TestKillDuringStreaming(t *testing.T) {
	t.Parallel()
	r, rnd := newRig(t), moments(t)
	sizes := r.seedShop(0.005)
	r.fast = true
	f := r.fleet()
	p := r.pipe(fewTables)
	endLoad := r.load(40)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	endWatch := p.watch("version", counted...)
	endAudit := p.auditSlot()
	for range kills(t) {
		for _, i := range rnd.Perm(len(roles)) {
			pause(t, rnd, 3*time.Second)
			f.kill(roles[i])
		}
		p.converged() // or the rounds would only ever hit workers that start
	}
	endLoad()
	p.settled(sizes, fewTablesIs)
	endWatch()
	endAudit()
	for _, w := range f.by {
		w.stop() // in order, at the end
	}
}

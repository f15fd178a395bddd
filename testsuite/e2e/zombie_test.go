package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"syncline/activities/contract"
	"syncline/starter/view"
)

// components are the long activities of a role in a view.
func components(v *view.View, role contract.Role) (cs []view.Component) {
	if role == contract.Capture {
		return []view.Component{v.Capture}
	}
	for _, s := range v.Sinks {
		cs = append(cs, s.Lanes...)
	}
	return cs
}

// busy waits until a worker has some of the role's activities, or, with all,
// every one of them, and they run.
func (p *pipe) busy(w *worker, role contract.Role, all bool) {
	p.r.t.Helper()
	until(p.r.t, bound, fmt.Sprintf("%s has the work of %s", w.name, role), func(ctx context.Context) error {
		v, err := p.view(ctx)
		if err != nil {
			return err
		}
		n, cs := 0, components(v, role)
		for _, c := range cs {
			if c.Worker == w.identity() && c.State == "running" {
				n++
			}
		}
		if n == 0 || all && n < len(cs) {
			return fmt.Errorf("%d of %d; %s", n, len(cs), p.troubles(v))
		}
		return nil
	})
}

// TestZombie stops a worker until another has taken over, and lets it go on: it
// believes that the work is its own, and must change nothing.
func TestZombie(t *testing.T) {
	t.Parallel()
	rounds := (kills(t) + 2) / 3 // each costs the time until the server has given the zombie up
	for _, role := range []contract.Role{contract.Deliver, contract.Capture} {
		t.Run(string(role), func(t *testing.T) {
			t.Parallel()
			r, rnd := newRig(t), moments(t)
			sizes := r.seedShop(0.005)
			var rest []contract.Role
			for _, x := range roles {
				if x != role {
					rest = append(rest, x)
				}
			}
			r.start(rest...)
			zombie := r.start(role)
			p := r.pipe(fewTables)
			endLoad := r.load(80)
			p.mustApply()
			p.awaitPhase(bound, contract.Streaming)
			endWatch := p.watch("version", counted...)
			endAudit := p.auditSlot()
			for range rounds {
				p.busy(zombie, role, true)
				heir := r.launch(role)
				heir.ready()
				pause(t, rnd, 2*time.Second)
				zombie.freeze()
				p.busy(heir, role, true)
				p.converged() // the heir does the work, past whatever the zombie holds
				zombie.thaw()
				// It must see that it is not wanted any more, and say so by ending its attempts.
				until(t, bound, "the zombie has noticed", func(ctx context.Context) error {
					body, err := zombie.get(ctx, "/metrics")
					if err != nil {
						return err
					}
					if n := running(body); n != 0 {
						return fmt.Errorf("%d activities still run in it", n)
					}
					return nil
				})
				p.converged()
				zombie.stop() // in order: it hands over what it may have got since
				zombie = heir
			}
			endLoad()
			p.settled(sizes, fewTablesIs)
			endWatch()
			endAudit()
		})
	}
}

// running is the number of long loops that a worker's metrics show.
func running(metrics string) int {
	for line := range strings.SplitSeq(metrics, "\n") {
		var n int
		if _, err := fmt.Sscanf(line, "syncline_loops_expected %d", &n); err == nil {
			return n
		}
	}
	return -1
}

package view

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"syncline/activities/contract"
)

// DrawRotation writes how far a rotation is, or what became of it, for a person.
func DrawRotation(w io.Writer, s Style, r *contract.Rotated) {
	c := canvas{w, s}
	head := map[string]string{
		contract.RotatedOutcome: s.Paint(green, "rotated"), contract.PlannedOutcome: s.Paint(green, "could be rotated"),
		contract.CompensatedOutcome: s.Paint(red, "not rotated") + ", and everything is as before", contract.RolledBackOutcome: s.Paint(red, "rolled back"),
	}[r.Outcome]
	if head == "" && r.Phase == contract.RotationDone {
		head = s.Paint(red, "not rotated")
	}
	c.line(s.Paint(bold, r.Login.String()) + "  " + cmp.Or(head, s.Paint(yellow, string(r.Phase))))
	if r.From.Generation > 0 {
		if r.Outcome == contract.PlannedOutcome || r.Outcome == contract.CompensatedOutcome {
			c.line(fmt.Sprintf("  in force   generation %d, user %s (slot %s)", r.From.Generation, r.From.User, r.From.Slot))
		} else {
			c.line(fmt.Sprintf("  before     generation %d, user %s (slot %s)", r.From.Generation, r.From.User, r.From.Slot))
		}
	}
	switch {
	case r.To.User == "":
	case r.Outcome == contract.PlannedOutcome:
		c.line(fmt.Sprintf("  next       generation %d, user %s (slot %s)", r.To.Generation, r.To.User, r.To.Slot))
	case r.Outcome != contract.CompensatedOutcome && r.To.Generation > 0:
		c.line(fmt.Sprintf("  now        generation %d, user %s (slot %s)", r.To.Generation, r.To.User, r.To.Slot))
	}
	if len(r.Targets) > 0 {
		c.line("  targets    " + strings.Join(r.Targets, ", "))
	}
	for i, u := range r.Uses {
		name := "  used by    "
		if i > 0 {
			name = "             "
		}
		c.line(name + u.String())
	}
	if len(r.Consumers) > 0 {
		var rows [][]string
		for _, k := range r.Consumers {
			n := 0
			for _, open := range k.Open {
				n += open
			}
			row := []string{k.Worker, "-", "does not use it", "", ""}
			if k.Used {
				row = []string{k.Worker, fmt.Sprint(k.Generation), k.User, fmt.Sprint(n), ""}
			}
			row[4] = cmp.Or(k.Gone, k.Failed, k.Held)
			rows = append(rows, row)
		}
		c.line("")
		table(c, []string{"worker", "generation", "user", "connections", ""}, rows)
	}
	if len(r.Steps) > 0 && r.Outcome != contract.PlannedOutcome {
		var took []string
		for _, st := range r.Steps {
			took = append(took, fmt.Sprintf("%s %.1f s", st.Phase, st.Seconds))
		}
		c.line("")
		c.wrapped("  ", strings.Join(took, ", "))
	}
	if r.Held != "" {
		c.wrapped("  ", s.Paint(yellow, "waits")+": "+r.Held)
		c.line("  starter rotate " + r.Login.String() + " --declare-gone NAME | --end-sessions | --rollback")
	}
	if r.Failure != nil {
		c.wrapped("  ", s.Paint(red, "✗")+" "+Said(r.Failure.Code, r.Failure.Message))
	}
	for _, l := range slices.Sorted(slices.Values(r.Left)) {
		c.wrapped("  ", s.Paint(yellow, "left")+": "+l)
	}
}

package view

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"syncline/activities/contract"
	"syncline/pipeline"
)

// DrawRepairing writes how far a repair is.
func DrawRepairing(w io.Writer, s Style, r *contract.RepairResult) {
	c := canvas{w, s}
	if len(r.Tables) == 0 {
		c.line("  repairing: what was found is looked at again")
		return
	}
	if r.Awaits != "" {
		c.line("  " + s.Paint(yellow, "waits for an approval") + ": " + r.Awaits)
		c.line("  starter repair " + r.Pipeline + " --approve --hash " + r.Hash)
		return
	}
	for i := range r.Tables {
		t := &r.Tables[i]
		c.line(fmt.Sprintf("  %s at %s: %s, %s", t.Table, t.Sink, Plural(t.Keys, "key"), t.State))
	}
}

// DrawRepair writes a plan, or what became of it, for a person.
func DrawRepair(w io.Writer, s Style, r *contract.RepairResult, sinks []pipeline.Sink) {
	c := canvas{w, s}
	keys, settled := 0, 0
	for i := range r.Tables {
		keys, settled = keys+r.Tables[i].Keys, settled+r.Tables[i].Settled
	}
	if keys == 0 {
		text := "nothing to repair: no finding of the last verifications differs"
		if settled > 0 {
			text = fmt.Sprintf("nothing to repair: %s that were found before are equal by now", Plural(settled, "key"))
		}
		c.line(text)
		return
	}
	colors := map[contract.RepairState]string{contract.RepairReleased: green, contract.RepairFailed: red}
	var rows [][]string
	for i := range r.Tables {
		t := &r.Tables[i]
		var from []string
		for _, k := range slices.Sorted(maps.Keys(t.From)) {
			from = append(from, fmt.Sprintf("%d from the %s", t.From[k], k))
		}
		what := differs(&contract.TableVerdict{Missing: t.Missing, Extra: t.Extra, Changed: t.Changed, Twice: t.Twice})
		row := []string{t.Sink, t.Table.String(), s.Paint(colors[t.State], string(t.State)), what, strings.Join(from, ", ")}
		if r.Applied {
			row = append(row, fmt.Sprint(t.Released), fmt.Sprint(t.Failed), fmt.Sprint(t.Read))
		}
		rows = append(rows, row)
		rows = append(rows, c.under(columns(&contract.TableVerdict{Columns: t.Columns}))...)
		rows = append(rows, c.under(t.Reason)...)
	}
	head := []string{"sink", "table", "state", "what differs", "rows are made"}
	if r.Applied {
		head = append(head, "released", "failed", "rows read")
	}
	table(c, head, rows)
	c.line("")
	if settled > 0 {
		c.line(Plural(settled, "key") + " that were found before are equal by now")
	}
	if r.Applied {
		c.line(fmt.Sprintf("repair %s of %s took %s", r.Name, Plural(keys, "key"), time.Duration(r.Seconds*float64(time.Second)).Round(100*time.Millisecond)))
		for _, e := range r.Trails {
			c.line(fmt.Sprintf("audit trail of %s: %d entries, the last is %.16s", e.Sink, e.Entries, e.Hash))
		}
	}
	for _, k := range sinks {
		if slices.ContainsFunc(r.Tables, func(t contract.RepairedTable) bool { return t.Sink == k.Name }) {
			c.line("")
			c.line(fmt.Sprintf("keys, and rows before and after, are in the ledger of %s, for %s:", k.Name, k.Type))
			fmt.Fprintln(w, "  "+repairSQL(r, k.Type)) // whole, however wide: it is there to be copied
		}
	}
	if !r.Applied {
		c.line("")
		c.line("to do just that:")
		fmt.Fprintf(w, "  starter repair %s --apply %s --hash %s --why '…'\n", r.Pipeline, r.Name, r.Hash)
	}
}

// repairSQL asks the ledger of a sink for the keys of a repair.
func repairSQL(r *contract.RepairResult, kind string) string {
	tab, from, made := "source_table", "syncline.repairs", "made_from"
	if kind == pipeline.SinkClickHouse {
		tab, from, made = "tab", "syncline.repairs FINAL", "made_of"
	}
	return fmt.Sprintf("SELECT %s, key, state, kind, columns, %s, why, before, after, reason FROM %s WHERE pipeline = %s AND repair = %s ORDER BY %s, key;",
		tab, made, from, quoted(r.Pipeline), quoted(r.Name), tab)
}

// DrawTrails writes whether the audit trails are whole.
func DrawTrails(w io.Writer, s Style, v *contract.TrailVerdict) {
	c := canvas{w, s}
	for _, t := range v.Sinks {
		switch {
		case t.Broken != "":
			c.wrapped("", fmt.Sprintf("%s: %s", t.Sink, s.Paint(red, t.Broken)))
		case t.Entries == 0:
			c.line(t.Sink + ": no entries, nothing was repaired")
		default:
			c.line(fmt.Sprintf("%s: %s, %d entries, the last is %.16s", t.Sink, s.Paint(green, "whole"), t.Entries, t.Hash))
		}
	}
}

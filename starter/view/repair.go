package view

import (
	"cmp"
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
		c.wrapped("  ", s.Paint(yellow, "waits for an approval")+": "+r.Awaits+". Somebody who has read the plan gives it by")
		// In two lines, as a hash is too wide for one, and of no use if it is cut.
		c.line("    starter repair " + r.Pipeline + " --approve --hash \\")
		c.line("    " + r.Hash)
		return
	}
	for i := range r.Tables {
		t := &r.Tables[i]
		if room := max(cmp.Or(s.Height, 40)-2, 5); i == room {
			c.line(fmt.Sprintf("  … and %d more", len(r.Tables)-i))
			break
		}
		c.line(fmt.Sprintf("  %s at %s: %s, %s", t.Table, t.Sink, Plural(t.Keys, "key"), s.Paint(repairColors[t.State], string(t.State))))
	}
}

var repairColors = map[contract.RepairState]string{contract.RepairReleased: green, contract.RepairFailed: red}

// settled says that findings have gone by themselves.
func settled(n int) string {
	if n == 1 {
		return "1 key that was found to differ is equal by now"
	}
	return fmt.Sprintf("%d keys that were found to differ are equal by now", n)
}

// DrawRepair writes a plan, or what became of it, for a person.
func DrawRepair(w io.Writer, s Style, r *contract.RepairResult, sinks []pipeline.Sink) {
	c := canvas{w, s}
	keys, gone := 0, 0
	for i := range r.Tables {
		keys, gone = keys+r.Tables[i].Keys, gone+r.Tables[i].Settled
	}
	if keys == 0 {
		text := "no verification has left findings (starter verify " + r.Pipeline + " looks for differences)"
		if gone > 0 {
			text = settled(gone)
		}
		c.wrapped("", "nothing to repair: "+text)
		return
	}
	var rows [][]string
	for i := range r.Tables {
		t := &r.Tables[i]
		if t.Keys == 0 {
			continue
		}
		var from []string
		for _, k := range slices.Sorted(maps.Keys(t.From)) {
			from = append(from, fmt.Sprintf("%d from the %s", t.From[k], k))
		}
		what := differs(&contract.TableVerdict{Missing: t.Missing, Extra: t.Extra, Changed: t.Changed, Twice: t.Twice, More: t.More})
		row := []string{t.Sink, t.Table.String(), s.Paint(repairColors[t.State], string(t.State))}
		if r.Applied {
			row = append(row, fmt.Sprint(t.Released), fmt.Sprint(t.Keys-t.Released), fmt.Sprint(t.Read))
		}
		rows = append(rows, append(row, what, strings.Join(from, ", ")))
		rows = append(rows, c.under(columns(&contract.TableVerdict{Columns: t.Columns}))...)
		rows = append(rows, c.under(t.Reason)...)
		if t.More {
			rows = append(rows, c.under(more(r.Pipeline, t.Table.String()))...)
		}
	}
	head := []string{"sink", "table", "state", "what differs", "rows are made"}
	if r.Applied {
		head = []string{"sink", "table", "state", "released", "failed", "rows read", "what differed", "rows were made"}
	}
	table(c, head, rows)
	c.line("")
	if gone > 0 {
		c.line(settled(gone))
	}
	if r.Applied {
		c.wrapped("", fmt.Sprintf("repair %s: %d of %s released, %d failed, in %s", r.Name, keys-r.Failed(), Plural(keys, "key"), r.Failed(), time.Duration(r.Seconds*float64(time.Second)).Round(100*time.Millisecond)))
		for _, e := range r.Trails {
			c.wrapped("", fmt.Sprintf("audit trail of %s: %s, the last is %.16s", e.Sink, entries(e.Entries), e.Hash))
		}
	}
	for _, k := range sinks {
		if slices.ContainsFunc(r.Tables, func(t contract.RepairedTable) bool { return t.Sink == k.Name && t.Keys > 0 }) {
			c.line("")
			c.line(fmt.Sprintf("keys, and rows before and after, are in the ledger of %s, for %s:", k.Name, k.Type))
			fmt.Fprintln(w, "  "+repairSQL(r, k.Type)) // whole, however wide: it is there to be copied
		}
	}
	if !r.Applied {
		c.line("")
		c.line("nothing was changed; to repair just that:")
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
			c.wrapped("", fmt.Sprintf("%s: %s: %s", t.Sink, s.Paint(red, "broken"), t.Broken))
		case t.Entries == 0:
			c.line(t.Sink + ": no entries, nothing was repaired")
		default:
			c.line(fmt.Sprintf("%s: %s, %s, the last is %.16s", t.Sink, s.Paint(green, "whole"), entries(t.Entries), t.Hash))
		}
	}
}

func entries(n int64) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

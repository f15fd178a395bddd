package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
)

// report writes an incident as Markdown. It has row data: it is for those who may see
// the tables.
func report(so *found) []byte {
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	clock := func(t time.Time) string { return t.UTC().Format("15:04:05.000") }
	line("# Incident: %s diverged", so.pipeline)
	line("")
	line("| | |\n|---|---|")
	line("| Began | between %s, when audit `%s` found all equal, and %s |", clock(so.equal.At), so.equal.Run, clock(so.audit.At))
	line("| Detected | by audit `%s`, which a schedule began at %s |", so.audit.Run, clock(so.audit.At))
	line("| Repaired | by repair `%s`, which took %.1f s |", so.repair.Name, so.repair.Seconds)
	for i := range so.repair.Tables {
		t := &so.repair.Tables[i]
		line("| %s at %s | %d keys: %d missing, %d extra, %d changed, %d twice; %d released, %d failed |", t.Table, t.Sink, t.Keys, t.Missing, t.Extra, t.Changed, t.Twice, t.Released, t.Failed)
	}
	line("\n## Timeline (UTC)\n")
	line("| Time | What |\n|---|---|")
	line("| %s | audit `%s`: all equal |", clock(so.equal.At), so.equal.Run)
	line("| %s | rows are made wrong at the order database |", clock(so.made))
	line("| %s | audit `%s` begins, and finds it |", clock(so.audit.At), so.audit.Run)
	released := 0
	for _, e := range so.trail {
		if strings.Contains(e.ID, "/key/") { // one of these for each key
			released++
			continue
		}
		var detail map[string]any
		_ = json.Unmarshal(e.Detail, &detail) // what is not there is not told
		text := e.Action
		if e.Table != "" {
			text += " " + e.Table
		}
		if n, ok := detail["keys"].(float64); ok {
			text += fmt.Sprintf(", %.0f keys", n)
		}
		if why, ok := detail["why"].(string); ok && why != "" {
			text += ": " + why
		}
		line("| %s | %s (by %s, entry %d of the audit trail) |", clock(e.At), text, e.Actor, e.N)
	}
	line("\n## Cause, as far as is known\n")
	log, source := 0, 0
	for _, tables := range so.keys {
		for _, ks := range tables {
			for i := range ks {
				if ks[i].From == "log" {
					log++
				} else {
					source++
				}
			}
		}
	}
	line("- Of %d keys the log has every change, and these come to what the source has: they were delivered, and the rows were changed at the sink afterwards, by somebody else than Syncline, or were never applied.", log)
	if source > 0 {
		line("- The rows of %d keys were read at the source: the log could not tell them.", source)
	}
	others := 0
	for i := range so.audit.Tables {
		if v := &so.audit.Tables[i]; v.Verdict == verify.Equal {
			line("- %s at %s was equal, by the same log: what is wrong did not come through it.", v.Table, v.Sink)
			others++
		}
	}
	if others == 0 {
		line("- No sink was left equal.")
	}
	line("\n## Keys, before and after\n")
	for name, tables := range so.keys {
		for _, id := range slices.SortedFunc(maps.Keys(tables), func(a, b change.TableID) int { return strings.Compare(a.String(), b.String()) }) {
			line("### %s at %s\n", id, name)
			line("| Key | What | Made from the | Before | After | State |\n|---|---|---|---|---|---|")
			for _, k := range tables[id] {
				before, after := differing(&k)
				line("| `%s` | %s | %s | %s | %s | %s %s |", k.Key, k.Kind, k.From, before, after, k.State, k.Reason)
			}
		}
	}
	line("\n%d entries of the audit trail tell of single keys, by digest.", released)
	return b.Bytes()
}

// differing are the values of the columns that differ, or of the whole row.
func differing(k *sink.RepairKey) (before, after string) {
	text := func(raw json.RawMessage) string {
		if raw == nil {
			return "no row"
		}
		var row map[string]*string
		if json.Unmarshal(raw, &row) != nil {
			return "?"
		}
		names := k.Columns
		if len(names) == 0 {
			names = slices.Sorted(maps.Keys(row))
		}
		var out []string
		for _, n := range names {
			v := "NULL"
			if row[n] != nil {
				v = "`" + strings.ReplaceAll(*row[n], "`", "'") + "`"
			}
			out = append(out, n+" "+strings.ReplaceAll(v, "|", `\|`))
		}
		return strings.Join(out, ", ")
	}
	return text(k.Before), text(k.After)
}

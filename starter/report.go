package main

import (
	"fmt"
	"slices"
	"strings"

	"syncline/activities/contract"
	"syncline/dataplane/sink"
	"syncline/pipeline"
	"syncline/starter/view"
)

// reportWriter writes a plan for a person.
type reportWriter struct {
	t    *tool
	s    view.Style
	bad  int
	lost int      // columns
	foot []string // notes that several tables share, by number
}

func (w *reportWriter) printf(format string, args ...any) { fmt.Fprintf(w.t.out, format, args...) }

func (w *reportWriter) mark(ok bool) string {
	switch {
	case ok && w.s.Color:
		return w.s.Paint("32", "✓")
	case ok:
		return "ok  "
	case w.s.Color:
		w.bad++
		return w.s.Paint("31", "✗")
	}
	w.bad++
	return "FAIL"
}

func (w *reportWriter) check(c contract.Check) {
	view.Wrapped(w.t.out, w.s, "  "+w.mark(c.OK)+" ", c.Name+": "+c.Detail)
	if !c.OK && c.Fix != "" {
		view.Wrapped(w.t.out, w.s, "       fix: ", c.Fix)
	}
}

func (t *tool) drawReport(file string, spec *pipeline.Spec, r *contract.Report) {
	w := &reportWriter{t: t, s: t.style()}
	w.footnotes(r)
	version, _, _ := strings.Cut(r.Source.Version, " on ")
	version, _, _ = strings.Cut(version, " (")
	w.section("source", version)
	for _, c := range r.Source.Checks {
		w.check(c)
	}
	w.section("kafka", strings.Join(spec.Kafka.Brokers, ", "))
	w.check(r.Kafka)
	for _, sk := range r.Sinks {
		w.section("sink "+sk.Sink, sk.Type)
		for _, c := range sk.Checks {
			w.check(c)
		}
	}
	w.section("tables", fmt.Sprint(len(r.Tables)))
	for _, tb := range r.Tables {
		w.table(&tb)
	}
	for _, g := range r.Unused {
		w.printf("  note: %q selects no table\n", g)
	}
	for i, f := range w.foot {
		view.Wrapped(w.t.out, w.s, fmt.Sprintf("  [%d] ", i+1), f)
	}
	w.printf("\n")
	refused := false
	for _, c := range r.Changes {
		refused = refused || c.Effect == pipeline.Refused
	}
	switch {
	case !r.Running && r.OK:
		w.printf("apply would start pipeline %s with %s to %s: starter apply %s\n", spec.Name, view.Plural(len(r.Tables), "table"), view.Plural(len(r.Sinks), "sink"), file)
	case !r.Running:
		w.printf("pipeline %s cannot start: %s to repair first, see above\n", spec.Name, view.Plural(max(w.bad, 1), "thing"))
	case len(r.Changes) == 0:
		w.printf("pipeline %s runs as declared; apply would change nothing\n", spec.Name)
	default:
		w.printf("apply would change pipeline %s:\n", spec.Name)
		for _, c := range r.Changes {
			w.printf("  %s\n", c)
		}
		if refused {
			w.printf("what is marked refused cannot be changed while the pipeline runs (fix: take it back, or starter destroy %s and apply again)\n", spec.Name)
		}
	}
	if w.lost > 0 {
		w.printf("%s would lose something on the way: see LOSSY above\n", view.Plural(w.lost, "column"))
	}
}

func (w *reportWriter) section(name, detail string) {
	if detail != "" {
		detail = w.s.Paint("2", " ("+detail+")")
	}
	w.printf("%s%s\n", w.s.Paint("1", name), detail)
}

func (w *reportWriter) table(tb *contract.TableReport) {
	key := "no key"
	if len(tb.Key) > 0 {
		key = "key (" + strings.Join(tb.Key, ", ") + ")"
	}
	w.printf("  %s %s: ~%s rows, %s, %s, replica identity %s\n", w.mark(len(tb.Problems) == 0), tb.Table,
		view.Count(float64(tb.Rows)), view.Bytes(tb.Bytes), key, tb.Identity)
	for _, p := range tb.Problems {
		view.Wrapped(w.t.out, w.s, "       ", p)
	}
	for _, r := range tb.Tiers {
		view.Wrapped(w.t.out, w.s, "       ", r)
	}
	for _, r := range tb.Shape {
		view.Wrapped(w.t.out, w.s, "       ", r)
	}
	names := make([]string, 0, len(tb.Sinks))
	for n := range tb.Sinks {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		w.sink(n, tb.Sinks[n])
	}
}

func (w *reportWriter) sink(name string, c sink.TableCheck) {
	what := "will be created"
	switch {
	case c.Problem != "":
		what = "exists and cannot be used" // why, the table's problems say
	case c.Exists && c.Rows:
		what = "exists, with rows"
	case c.Exists:
		what = "exists"
	}
	w.printf("    %s: %s\n", name, what)
	var mapped []string
	for _, col := range c.Columns {
		switch {
		case col.Lossy != "":
			w.lost++
			view.Wrapped(w.t.out, w.s, "      "+w.s.Paint("33", "LOSSY")+" ", fmt.Sprintf("%s %s → %s: %s", col.Column, col.Source, col.Sink, col.Lossy))
		case !sameType(col.Source, col.Sink):
			mapped = append(mapped, fmt.Sprintf("%s %s → %s", col.Column, col.Source, col.Sink))
		}
	}
	w.list("      ", mapped)
	for _, note := range c.Notes {
		text, columns, _ := strings.Cut(note, columnsOf)
		if i := slices.Index(w.foot, text); i >= 0 {
			note = fmt.Sprintf("[%d] %s", i+1, columns)
		}
		view.Wrapped(w.t.out, w.s, "      note: ", strings.TrimSpace(note))
	}
}

// sameType compares names of types as a reader does: without quotes.
func sameType(source, sink string) bool { return source == strings.ReplaceAll(sink, `"`, "") }

// columnsOf comes in a note between its text and the columns that it concerns.
const columnsOf = "; columns "

// footnotes finds the notes that several tables share, to print them once.
func (w *reportWriter) footnotes(r *contract.Report) {
	count := map[string]int{}
	for _, tb := range r.Tables {
		names := make([]string, 0, len(tb.Sinks))
		for n := range tb.Sinks {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			for _, note := range tb.Sinks[n].Notes {
				text, _, shared := strings.Cut(note, columnsOf)
				if count[text]++; shared && count[text] == 2 {
					w.foot = append(w.foot, text)
				}
			}
		}
	}
}

// list writes items one after the other, in lines of the terminal's width.
func (w *reportWriter) list(indent string, items []string) {
	width := w.s.Width
	if width == 0 {
		width = 100
	}
	line := ""
	for _, it := range items {
		if line != "" && len(indent)+len(line)+len(it)+2 > width {
			w.printf("%s%s,\n", indent, line)
			line = ""
		}
		if line != "" {
			line += ", "
		}
		line += it
	}
	if line != "" {
		w.printf("%s%s\n", indent, line)
	}
}

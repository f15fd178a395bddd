package view

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/dataplane/verify"
	"syncline/pipeline"
)

// Verifying returns how far the verifications under way in an audit are. It is for
// show: not being able to tell is no error.
func Verifying(ctx context.Context, c client.Client, workflow string) (out []contract.VerifyProgress) {
	desc, err := c.DescribeWorkflowExecution(ctx, workflow, "")
	if err != nil {
		return nil
	}
	for _, a := range desc.PendingActivities {
		if a.ActivityType.GetName() != contract.VerifyTableActivity {
			continue
		}
		if p := details[contract.VerifyProgress](c, a.HeartbeatDetails); p != nil && p.Sink != "" {
			out = append(out, *p)
		}
	}
	return out
}

// DrawVerifying writes how far an audit is.
func DrawVerifying(w io.Writer, s Style, st *contract.AuditStatus, under []contract.VerifyProgress, now time.Time) {
	c := canvas{w, s}
	if st.Total == 0 {
		c.line("  verifying: the pipeline is asked what it delivers")
		return
	}
	var rows int64
	for i := range st.Tables {
		rows += st.Tables[i].Rows
	}
	for i := range under {
		rows += under[i].Rows
	}
	c.line(fmt.Sprintf("  verifying: %d of %d done, %s rows in %s", len(st.Tables), st.Total, Count(float64(rows)), age(now.Sub(st.At))))
	for i, p := range under {
		if room := max(cmp.Or(s.Height, 40)-12, 5); i == room {
			c.line(fmt.Sprintf("  … and %d more", len(under)-i))
			break
		}
		text := fmt.Sprintf("  %s at %s: %s rows in %s", p.Table, p.Sink, Count(float64(p.Rows)), Plural(p.Parts, "part"))
		if p.Findings > 0 {
			text += ", " + s.Paint(red, fmt.Sprintf("%d found to differ", p.Findings))
		}
		c.line(text)
		if p.Paused != "" {
			c.wrapped("    ", "paused: "+p.Paused)
		}
	}
}

// DrawAudit writes the verdicts for a person, and where the keys are that differ.
func DrawAudit(w io.Writer, s Style, r *contract.AuditResult, sinks []pipeline.Sink) {
	c := canvas{w, s}
	colors := map[verify.Verdict]string{verify.Equal: green, verify.Different: red, verify.Inconclusive: yellow}
	var rows [][]string
	found := map[string]bool{}
	for i := range r.Tables {
		v := &r.Tables[i]
		found[v.Sink] = found[v.Sink] || v.Findings() > 0
		rows = append(rows, []string{v.Sink, v.Table.String(), s.Paint(colors[v.Verdict], string(v.Verdict)), Count(float64(v.Rows)), fmt.Sprint(v.Parts), differs(v)})
		rows = append(rows, c.under(columns(v))...)
		rows = append(rows, c.under(v.Reason)...)
		if v.More {
			rows = append(rows, c.under(more(r.Pipeline, v.Table.String()))...)
		}
		if v.Scope == contract.ScopeChanged {
			rows = append(rows, c.under("of the keys that changed since it was last verified")...)
		}
	}
	table(c, []string{"sink", "table", "verdict", "rows", "parts", "what differs"}, rows)
	c.skipped(r.Skipped)
	c.line("")
	c.wrapped("", fmt.Sprintf("%d of %s equal, %d different, %d inconclusive (run %s)", r.Count(verify.Equal), Plural(len(r.Tables), "verdict"),
		r.Count(verify.Different), r.Count(verify.Inconclusive), r.Run))
	for _, k := range sinks {
		if found[k.Name] {
			c.line("")
			c.line(fmt.Sprintf("the keys are in the ledger of %s, for %s:", k.Name, k.Type))
			fmt.Fprintln(w, "  "+findingsSQL(r, k.Type)) // whole, however wide: it is there to be copied
		}
	}
}

// more says what to do about a table of which too much differs.
func more(pipeline, table string) string {
	return "the verification ended here, as too much differs: starter resync-table " + pipeline + " " + table + " loads it anew"
}

// differs says in a few words what is not equal.
func differs(v *contract.TableVerdict) string {
	var parts []string
	for _, x := range []struct {
		n    int
		what string
	}{{v.Missing, "missing"}, {v.Extra, "extra"}, {v.Twice, "twice"}, {v.Changed, "changed"}} {
		if x.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", x.n, x.what))
		}
	}
	text := strings.Join(parts, ", ")
	if v.More {
		text += " or more"
	}
	return text
}

// columns names those in which changed rows differ, that of most rows first.
func columns(v *contract.TableVerdict) string {
	if len(v.Columns) == 0 {
		return ""
	}
	names := slices.SortedFunc(maps.Keys(v.Columns), func(a, b string) int {
		return cmp.Or(v.Columns[b]-v.Columns[a], cmp.Compare(a, b))
	})
	const most = 8
	if n := len(names); n > most {
		names = append(names[:most], fmt.Sprintf("… and %d more", n-most))
	}
	return "changed in " + strings.Join(names, ", ")
}

// skipped names what was not verified, with its sinks together.
func (c canvas) skipped(all []contract.AuditSkipped) {
	var texts []string
	sinks := map[string][]string{}
	for _, k := range all {
		text := k.Table.String() + "\x00" + k.Reason
		if sinks[text] == nil {
			texts = append(texts, text)
		}
		sinks[text] = append(sinks[text], k.Sink)
	}
	for _, text := range texts {
		name, reason, _ := strings.Cut(text, "\x00")
		c.wrapped("  not verified: ", fmt.Sprintf("%s at %s: %s", name, strings.Join(sinks[text], ", "), reason))
	}
}

// findingsSQL asks the ledger of a sink for the keys that an audit found.
func findingsSQL(r *contract.AuditResult, kind string) string {
	tab, from := "source_table", "syncline.findings"
	if kind == pipeline.SinkClickHouse {
		tab, from = "tab", "syncline.findings FINAL"
	}
	return fmt.Sprintf("SELECT %s, key, kind, columns FROM %s WHERE pipeline = %s AND run = %s ORDER BY %s, key;", tab, from, quoted(r.Pipeline), quoted(r.Run), tab)
}

func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

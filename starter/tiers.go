package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/pipeline"
	"syncline/starter/view"
	"syncline/tiers"
	"syncline/tiers/predicate"
	"syncline/tiers/shape"
)

func (t *tool) tiersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tiers list|explain|run|pause|resume|advise|experiment …",
		Short: "which changes wait, for how long, that they wait no longer, and which could",
		Long: `tiers list shows the tiers' runs, and how well they keep what they promise; tiers explain
says to which tier a change would be given, and by which rule; tiers run lets what waits
take effect now, tiers pause puts runs off and tiers resume lets them go on. tiers advise says
what other rules would save, and tiers experiment compares them on arms of a table's rows.
Tiers and rules are declared: see tiers and classify in the reference.`,
		Args: func(c *cobra.Command, a []string) error {
			const fix = "(fix: starter tiers list NAME, starter tiers explain FILE|NAME --table TABLE --row JSON, starter tiers run, pause or resume NAME TIER, or starter tiers advise or experiment NAME)"
			if len(a) == 0 {
				return invalid("tiers takes a command %s", fix)
			}
			return invalid("%q is not a command of tiers %s", a[0], fix)
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	cmd.AddCommand(t.listTiersCommand(), t.explainCommand(), t.runTierCommand(), t.pauseTierCommand(), t.resumeTierCommand(), t.adviseCommand(), t.experimentCommand())
	return cmd
}

// explained is what tiers explain prints.
type explained struct {
	Table  change.TableID `json:"table"`
	Tier   string         `json:"tier"`
	Every  string         `json:"every,omitempty"` // of a batch tier
	Jitter string         `json:"jitter,omitempty"`
	Slowed string         `json:"slowed,omitempty"` // why Every is longer than declared
	Kept   string         `json:"kept,omitempty"`   // of a tier that keeps aggregates: which
	Shape  []string       `json:"shape,omitempty"`  // what sinks do not hold of the row, by its tier
	Reason string         `json:"reason"`
	Rules  []ruleSaid     `json:"rules"` // up to the one that decided
}

type ruleSaid struct {
	Rule   int    `json:"rule"`
	Text   string `json:"text"`
	Answer string `json:"answer"` // yes, no, or open: it cannot be told
}

// told is a change as the command line has it.
type told struct {
	table, row, old string
	deleted         bool
}

func (t *tool) explainCommand() *cobra.Command {
	var in told
	wait := time.Minute
	cmd := &cobra.Command{
		Use:   "explain FILE|NAME --table TABLE --row JSON",
		Short: "say to which tier a change would be given, and by which rule",
		Long: `explain says to which tier a change of a table would be given, as a declaration or a
running pipeline has it, and what each rule says of it. A worker reads the table's
definition at the source; the row stays here.

The row is a JSON object of values by column; a column that it lacks counts as not sent,
like a large value that an update did not change. Without --old the change is an insert;
with it an update, which changed what differs; with --deleted it is a deletion of --row.`,
		Args: args(1, 1, "one declaration, or one pipeline name"),
		RunE: func(cmd *cobra.Command, a []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			out, err := t.classify(ctx, a[0], &in, wait)
			if err != nil {
				return err
			}
			return t.print(out, func() { t.drawExplained(out) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&in.table, "table", "", "the table, `schema.name`")
	f.StringVar(&in.row, "row", "", "the row after the change, a `JSON` object of values by column")
	f.StringVar(&in.old, "old", "", "the row before an update, another `JSON` object; columns that it lacks are those of --row")
	f.BoolVar(&in.deleted, "deleted", false, "the row is deleted")
	timeoutFlag(cmd, &wait, "the table's definition")
	return cmd
}

func (t *tool) runTierCommand() *cobra.Command {
	wait := time.Hour
	cmd := &cobra.Command{
		Use:   "run NAME TIER",
		Short: "let what waits in a tier take effect now",
		Long: `run lets what waits in a tier take effect at every sink, up to where the source is now,
and waits until it has. The tier's Schedule does the same once in its period, and tiers list
shows when. A run brings all that waits in its tier, however many were missed, so none has
to be made up for. Interrupting the command leaves the run going.`,
		Args: args(2, 2, "a pipeline name and a tier"),
		RunE: func(cmd *cobra.Command, a []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			c, err := t.tierOf(ctx, a[0], a[1])
			if err != nil {
				return err
			}
			queue, err := view.Queue(ctx, c, a[0])
			if err != nil {
				return err
			}
			run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: contract.TierScheduleID(a[0], a[1]) + "/" + nonce(), TaskQueue: queue,
				StaticSummary: fmt.Sprintf("%s: tier %s, now", a[0], a[1])}, contract.BatchTierWorkflow, contract.TierInput{Pipeline: a[0], Tier: a[1]})
			if err != nil {
				return err
			}
			var res contract.TierResult
			if err := run.Get(ctx, &res); err != nil {
				return err
			}
			return t.print(res, func() { t.drawTier(&res) })
		},
	}
	timeoutFlag(cmd, &wait, "the run; it goes on after it")
	return cmd
}

func (t *tool) drawTier(r *contract.TierResult) {
	if r.Skipped != "" {
		fmt.Fprintf(t.out, "nothing was done: %s\n", r.Skipped)
		return
	}
	for _, s := range r.Sinks {
		fmt.Fprintf(t.out, "%s: %s that waited in %s took effect, in %.1f s\n", s.Sink, view.Plural(int(s.Waited), "change"), view.Plural(s.Tables, "table"), s.Seconds)
	}
	fmt.Fprintf(t.out, "up to %s\n", r.At)
}

// declared reads a declaration from a file, or that of a running pipeline, and how many
// times as rarely its batch tiers run now.
func (t *tool) declared(ctx context.Context, from string) (spec *pipeline.Spec, slowed int, err error) {
	if _, err := os.Stat(from); err == nil || from == "-" || strings.ContainsAny(from, "./") {
		spec, err := t.read(from)
		return spec, 0, err
	}
	c, err := t.find(ctx, from)
	if err != nil {
		return nil, 0, err
	}
	st, err := t.pipelineOf(ctx, c, from)
	return &st.Spec, st.Slowed, err
}

func (t *tool) classify(ctx context.Context, from string, in *told, wait time.Duration) (*explained, error) {
	if in.table == "" || in.row == "" {
		return nil, invalid("explain needs a table and a row (fix: add --table TABLE --row JSON)")
	}
	if in.deleted && in.old != "" {
		return nil, invalid("--deleted and --old exclude each other (fix: give the row that is deleted as --row)")
	}
	id, err := change.ParseTableID(in.table)
	if err != nil {
		return nil, invalid("--table: %w (fix: name it as schema.name)", err)
	}
	spec, slowed, err := t.declared(ctx, from)
	if err != nil {
		return nil, err
	}
	if !spec.Selects(id) {
		return nil, invalid("pipeline %s does not take table %s (fix: tables.include says which it takes)", spec.Name, id)
	}
	out := &explained{Table: id, Tier: tiers.Stream, Rules: []ruleSaid{}}
	rules := spec.Rules(id)
	if len(rules) == 0 {
		out.Reason = "classify gives no change of it to a tier that waits"
		return out, nil
	}
	c, err := t.dial(ctx)
	if err == nil {
		err = t.worker(ctx, c, t.controlQueue())
	}
	if err != nil {
		return nil, err
	}
	r, err := t.inspect(ctx, c, contract.PlanInput{Spec: spec.Only(id), Schemas: true}, wait)
	if err != nil {
		return nil, err
	}
	if len(r.Tables) == 0 || r.Tables[0].Schema == nil {
		return nil, &exitError{exitFailed, fmt.Errorf("table %s cannot be read at the source (fix: starter plan says why)", id)}
	}
	schema := r.Tables[0].Schema
	k, err := tiers.Compile(schema, rules)
	if err != nil {
		return nil, invalid("%w", err)
	}
	ch, err := in.change(schema)
	if err != nil {
		return nil, err
	}
	tier, steps, err := k.Explain(ch)
	if err != nil {
		return nil, invalid("%w", err)
	}
	out.Tier, out.Reason = tier, "no rule matches it"
	for _, s := range steps {
		said := ruleSaid{s.N, s.Rule.String(), "no"}
		switch s.Answer {
		case predicate.True:
			said.Answer, out.Reason = "yes", fmt.Sprintf("classify[%d] is the first that matches", s.N)
		case predicate.Open:
			said.Answer, out.Reason = "open", fmt.Sprintf("classify[%d] cannot be decided by what the log carries of the change, and then it does not wait", s.N)
		}
		out.Rules = append(out.Rules, said)
	}
	if b, ok := spec.Tier(tier); ok {
		if slow := b.Slowed(slowed, spec.Kafka.Retention); slow.Every > b.Every {
			out.Slowed = fmt.Sprintf("declared %s, and slowed since the budget is spent", b.Every)
			b = slow
		}
		out.Every = b.Every.String()
		if b.Jitter > 0 {
			out.Jitter = b.Jitter.String()
		}
		if p := k.Aggregates()[tier]; p != nil {
			out.Kept = fmt.Sprintf("of its rows aggregates are kept in view %s, and not the rows", p.View(cmp.Or(spec.Options(id).Target, id.Name)))
		}
	}
	out.Shape, err = thinned(spec, k, schema, ch)
	return out, err
}

// thinned says what sinks do not hold of a row, by the tier that its insertion would be of,
// whatever changed it.
func thinned(spec *pipeline.Spec, k *tiers.Classifier, s *change.Schema, c *change.Change) (out []string, err error) {
	row := &change.Change{Table: c.Table, Op: change.Insert, New: c.New}
	if c.Op == change.Delete {
		row.New = c.Old
	}
	name, err := k.Classify(row)
	if err != nil {
		return nil, invalid("%w", err)
	}
	of, ok := spec.Tier(name)
	if !ok || !of.Shapes() {
		return nil, nil
	}
	if len(of.Omit) > 0 {
		out = append(out, fmt.Sprintf("its row is of tier %s, without %s", name, strings.Join(of.Omit, ", ")))
	}
	if of.Sample == nil {
		return out, nil
	}
	text := fmt.Sprintf("of tier %s sinks hold the rows of a sample of %s of (%s)", name, of.Sample.Rate, strings.Join(of.Sample.By, ", "))
	if slices.ContainsFunc(of.Sample.By, func(c string) bool { i := s.Column(c); return i >= 0 && row.New[i].Kind == change.Unchanged }) {
		return append(out, text+"; of this one the row does not tell"), nil
	}
	sh, err := shape.Compile(s, []shape.Rule{{Of: "tiers[" + name + "]", Do: shape.Sample, Columns: of.Sample.By, Rate: int64(of.Sample.Rate), Salt: of.Sample.Salt}}, nil, shape.All)
	if err != nil {
		return nil, invalid("%w", err)
	}
	_, in, err := sh.Row(row.New)
	if err != nil {
		return nil, invalid("%w", err)
	}
	if !in {
		return append(out, text+"; this one is not in it: its row is not there"), nil
	}
	return append(out, text+"; this one is in it"), nil
}

// change builds what the log would carry.
func (in *told) change(s *change.Schema) (*change.Change, error) {
	row, err := tiers.ParseRow(s, []byte(in.row))
	if err != nil {
		return nil, invalid("--row: %w", err)
	}
	c := &change.Change{Table: s.Table, Op: change.Insert, New: row}
	switch {
	case in.deleted:
		c.Op, c.New, c.Old = change.Delete, nil, row
	case in.old != "":
		c.Op = change.Update
		old, err := tiers.ParseRow(s, []byte(in.old))
		if err != nil {
			return nil, invalid("--old: %w", err)
		}
		for i := range old {
			if old[i].Kind == change.Unchanged {
				old[i] = row[i]
			}
		}
		if s.Full { // else the log does not have it
			c.Old = old
		}
	}
	return c, nil
}

func (t *tool) drawExplained(e *explained) {
	s := t.style()
	fmt.Fprintf(t.out, "%s\n", s.Paint("1", "table "+e.Table.String()))
	for _, r := range e.Rules {
		view.Wrapped(t.out, s, fmt.Sprintf("  %-4s ", r.Answer), r.Text)
	}
	what := "tier stream: it goes at once"
	if e.Every != "" {
		what = fmt.Sprintf("tier %s: it waits for the next run, %s at most", e.Tier, e.Every)
		if e.Jitter != "" {
			what += " and " + e.Jitter + " of jitter"
		}
		if e.Slowed != "" {
			what += " (" + e.Slowed + ")"
		}
	}
	view.Wrapped(t.out, s, "", what+", since "+e.Reason)
	if e.Kept != "" {
		view.Wrapped(t.out, s, "", e.Kept)
	}
	for _, line := range e.Shape {
		view.Wrapped(t.out, s, "", line)
	}
}

package main

import (
	"cmp"
	"time"

	"github.com/spf13/cobra"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/starter/view"
)

func (t *tool) experimentCommand() *cobra.Command {
	q := asked{wait: time.Hour}
	var table string
	var x contract.ExperimentInput
	cmd := &cobra.Command{
		Use:   "experiment NAME --table TABLE --with FILE",
		Short: "compare classifications on arms of a table's entities, with intervals",
		Long: `experiment splits the entities of a table, which are its rows or what --entity tells, by
a salted hash into arms: A and A' with the classification that the pipeline has, and one
for each --with. A worker reads the log of the last day and simulates each arm as if there
were no others: nothing is delivered otherwise than before, and rows stay in the worker.

It says what an arm's changes cost, how long they waited, and by how much the count of
rows and the sum of --sum, computed at the sink at moments between, were off; each with an
interval of 95 %, and against A. A' shows what chance does: it was treated as A was. The
same salt gives the same arms and the same numbers.`,
		Args: args(1, 1, "one pipeline name"),
		RunE: func(cmd *cobra.Command, a []string) error {
			in, err := q.read(a[0], time.Now())
			if err != nil {
				return err
			}
			if table == "" {
				return invalid("an experiment is on one table (fix: --table schema.name)")
			}
			if x.Table, err = change.ParseTableID(table); err != nil {
				return invalid("--table: %w (fix: name it as schema.name)", err)
			}
			if len(q.with) == 0 {
				return invalid("there is nothing to compare (fix: --with FILE, a declaration of the pipeline with other tiers and classify)")
			}
			x.Salt = cmp.Or(x.Salt, a[0])
			in.Experiment = &x
			r, _, err := t.advise(cmd.Context(), in, &q)
			if err != nil {
				return err
			}
			return t.print(r, func() { view.DrawExperiment(t.out, t.style(), r) })
		},
	}
	q.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&table, "table", "", "the table, `schema.name`")
	f.StringSliceVar(&x.Entity, "entity", nil, "`COLUMNS` that tell what a row belongs to, such as device_id: all rows of an entity are in one arm (default the primary key)")
	f.StringVar(&x.Sum, "sum", "", "`COLUMN` of numbers of which readers compute the sum")
	f.StringVar(&x.Salt, "salt", "", "`TEXT` by which entities are split (default the pipeline's name)")
	return cmd
}

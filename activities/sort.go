package activities

import (
	"context"
	"io"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/tiers/aggregate"
)

// sorting tells the rows of a load apart by the rules of its task; nil if all are the table's.
// A row is classified as its insertion would be.
func sorting(rules string, s *change.Schema) (*sink.Sorting, error) {
	if rules == "" {
		return nil, nil
	}
	k, err := classifier(rules, s)
	if err != nil {
		return nil, err
	}
	plans := k.Aggregates()
	out := &sink.Sorting{}
	for _, p := range plans {
		out.Plans = append(out.Plans, p)
	}
	c := &change.Change{Table: s.Table, Schema: s.Version(), Op: change.Insert}
	out.Of = func(row change.Row) (*aggregate.Plan, error) {
		c.New = row
		tier, err := k.Classify(c)
		return plans[tier], err
	}
	return out, nil
}

// countCopy counts what a copy reads, which is not what a sink writes if rows are aggregated.
func countCopy(copy sink.CopyFunc, bytes *int64) sink.CopyFunc {
	return func(ctx context.Context, w io.Writer, binary bool) (int64, error) {
		return copy(ctx, &countWriter{w, bytes}, binary)
	}
}

type countWriter struct {
	io.Writer
	n *int64
}

func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	*c.n += int64(n)
	return n, err
}

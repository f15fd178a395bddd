package sink

import (
	"errors"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/tiers/aggregate"
)

// CodeAggregateValue: a row cannot be aggregated exactly.
const CodeAggregateValue fault.Code = "AggregateValue"

// Sorting tells the rows that a load brings apart: those of tiers that keep aggregates are
// taken into partials, and are no rows of the table.
type Sorting struct {
	Plans []*aggregate.Plan // all that Of may name
	// Of names the aggregates that a row goes into; nil: it is a row of the table. The
	// values are valid until it returns. It is for one chunk at a time.
	Of func(row change.Row) (*aggregate.Plan, error)
	// Of one plan's groups so many are held at most, and about so many bytes; 0: the default.
	Groups, Bytes int
}

const (
	sortGroups = 100_000
	sortBytes  = 32 << 20
)

// Sorter sorts the rows of one attempt at a chunk.
type Sorter struct {
	s              *Sorting
	table          change.TableID
	chunk, attempt int
	write          func(p *aggregate.Plan, rows []change.Row) error
	kept           []*aggregate.Partials
	written        int // runs
	rows           int64
}

// Sorter returns one that hands partials to write, any number of times; nil of nil.
func (s *Sorting) Sorter(table change.TableID, chunk, attempt int, write func(p *aggregate.Plan, rows []change.Row) error) *Sorter {
	if s == nil {
		return nil
	}
	out := &Sorter{s: s, table: table, chunk: chunk, attempt: attempt, write: write}
	for _, p := range s.Plans {
		out.kept = append(out.kept, p.New())
	}
	return out
}

// Rows is how many were taken into partials.
func (x *Sorter) Rows() int64 {
	if x == nil {
		return 0
	}
	return x.rows
}

// Take takes a row into partials, or reports that it is one of the table.
func (x *Sorter) Take(row change.Row) (taken bool, err error) {
	p, err := x.s.Of(row)
	if err != nil || p == nil {
		return false, err
	}
	for i, k := range x.kept {
		if k.Plan() != p {
			continue
		}
		var bad *aggregate.ValueError
		if err := k.Add(row); errors.As(err, &bad) {
			return false, fault.Permanent(CodeAggregateValue, err, "correct it at the source, give the column a scale, or leave its sum out; then resync the table",
				"a row of chunk %d of table %s cannot be aggregated by tier %s", x.chunk, x.table, p.Tier)
		} else if err != nil {
			return false, err
		}
		x.rows++
		groups, bytes := x.s.Groups, x.s.Bytes
		if groups <= 0 {
			groups = sortGroups
		}
		if bytes <= 0 {
			bytes = sortBytes
		}
		if k.Groups() >= groups || k.Size() >= bytes {
			return true, x.flush(i)
		}
		return true, nil
	}
	return false, fault.Permanent(CodeTableMismatch, nil, "report it", "table %s: a row is of tier %s, whose aggregates the load was not told of", x.table, p.Tier)
}

func (x *Sorter) flush(i int) error {
	k := x.kept[i]
	if k.Groups() == 0 {
		return nil
	}
	x.kept[i] = k.Plan().New()
	x.written++
	return x.write(k.Plan(), k.Rows(aggregate.LoadRun(x.chunk, x.attempt, x.written-1)))
}

// Close hands over what is left.
func (x *Sorter) Close() error {
	for i := range x.kept {
		if err := x.flush(i); err != nil {
			return err
		}
	}
	return nil
}

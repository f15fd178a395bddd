package sink

import (
	"context"
	"slices"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/tiers/aggregate"
)

// CodeEraseKey: the rows of a subject cannot be told from others.
const CodeEraseKey fault.Code = "EraseKey"

// Erasures removes what a sink has of keys, so that nothing of it is left where a query
// finds it: rows, versions and tombstones of them, and what the ledger keeps of the keys.
//
//	saved (secret) ──► keyed ──► erased, any number of times ──► forgotten
//
// What an erasure works with (its secret, and in ClickHouse the keys, so that no statement
// has them in its text) is in the ledger until it is forgotten. Each step may be repeated.
//
// A key has values of the columns that are the key of t.Schema. Of a table that rows are
// only added to these may be any columns, and the rows any number: then it is CodeEraseKey
// if the sink cannot compare such a column. Of its aggregates those are removed whose groups
// tell the subject from others; of the rest a Trace says that they are Sums.
type Erasures interface {
	// SaveErasure keeps the secret of an erasure and returns that which is kept: of several
	// the first. Erasure returns it; nil if there is none.
	SaveErasure(ctx context.Context, erasure string, secret []byte) ([]byte, error)
	Erasure(ctx context.Context, erasure string) ([]byte, error)
	// ForgetErasure removes whatever is kept of an erasure.
	ForgetErasure(ctx context.Context, erasure string) error
	// Traces counts what there is of keys of a table, place by place. Rows are those of
	// positions up to upTo, where the sink knows of positions; newer is what has come since.
	Traces(ctx context.Context, erasure string, t Table, keys []change.Key, upTo change.Position) (ts []Trace, newer int64, err error)
	// EraseKeys removes it, unless gone says that the source has some of the keys. In a sink
	// whose rows have no versions it asks while no change can be applied to the table.
	EraseKeys(ctx context.Context, erasure string, t Table, keys []change.Key, upTo change.Position, gone func(context.Context) error) error
}

// Trace is what a place has of keys.
type Trace struct {
	Place string // for people
	How   string // it was looked at
	Found int64
	// Sums: partial aggregates that the subject's rows may be counted in, by other columns
	// than the key's. They hold no row, and stay.
	Sums bool
	// Stays says why something may be there for longer, and Until for how long.
	Stays string
	Until time.Time
}

// StayingBounds is why a bound of a load's plan that is one of the keys stays: it also
// tells which changes the load has brought.
const StayingBounds = "the plan of the table's load has it as the bound of a chunk until the table is loaded again (resync-table)"

// StayingLetters is why changes of an append-only table that are set aside stay.
const StayingLetters = "changes of this table bear no key, so those that are set aside are not told apart: all are counted, and stay in the ledger"

// SumsTrace is that of aggregates by other columns than the key's.
func SumsTrace(place string, p *aggregate.Plan) Trace {
	return Trace{Place: place, How: "not looked into", Sums: true,
		Stays: "the aggregates of tier " + p.Tier + " are by other columns: the subject may be counted in their sums, and no row of it is in them"}
}

// ByGroup reports whether groups of aggregates tell what has the values of columns.
func ByGroup(p *aggregate.Plan, columns []string) bool {
	for _, name := range columns {
		if !slices.ContainsFunc(p.Group, func(c change.Column) bool { return c.Name == name }) {
			return false
		}
	}
	return true
}

package sink

import (
	"context"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// CodeEraseKey: a table has no key by which the rows of a subject are told from others.
const CodeEraseKey fault.Code = "EraseKey"

// Erasures removes what a sink has of keys, so that nothing of it is left where a query
// finds it: rows, versions and tombstones of them, and what the ledger keeps of the keys.
//
//	saved (secret) ──► keyed ──► erased, any number of times ──► forgotten
//
// What an erasure works with (its secret, and in ClickHouse the keys, so that no statement
// has them in its text) is in the ledger until it is forgotten. Each step may be repeated.
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
	// EraseKeys removes it. In a sink whose rows have no versions it asks gone, while no
	// change can be applied to the table, whether the source has none of the keys.
	EraseKeys(ctx context.Context, erasure string, t Table, keys []change.Key, upTo change.Position, gone func(context.Context) error) error
}

// Trace is what a place has of keys.
type Trace struct {
	Place string // for people
	How   string // it was looked at
	Found int64
	// Stays says why something may be there for longer, and Until for how long.
	Stays string
	Until time.Time
}

// StayingBounds is why a bound of a load's plan that is one of the keys stays: it also
// tells which changes the load has brought.
const StayingBounds = "the plan of the table's load has it as the bound of a chunk until the table is loaded again (resync-table)"

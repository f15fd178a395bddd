package sink

import (
	"context"

	"syncline/dataplane/change"
)

// Size is how many bytes of the sink's storage a table occupies there, with its indexes.
type Size struct {
	Table change.TableID // zero: the pipeline's part of the ledger
	Bytes int64
}

// Sizes is the part of a Sink that measures.
type Sizes interface {
	// Sizes returns those of the pipeline's tables that exist, and the ledger's. It reads
	// catalogs, not rows.
	Sizes(ctx context.Context) ([]Size, error)
}

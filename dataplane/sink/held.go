package sink

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"unicode/utf8"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// CodeViewName: the name of a view of held keys is taken by something else.
const CodeViewName fault.Code = "QuarantineViewName"

// HeldViews shows readers which keys are held: beside each table that has a key, a view
// of the ledger with the key's columns, in the types that the table has for them. It is
// no copy, so a key is in it from the commit that holds it, before its row is touched,
// to the one that lets it go. A key column is never NULL there.
type HeldViews interface {
	// ShowHeld makes the views of the pipeline's tables, or drops them. Idempotent; it
	// leaves alone what is as it should be, and rights on a view stay when it is made anew.
	// A view also goes with its table (RemoveTable) and with the pipeline (Forget).
	ShowHeld(ctx context.Context, show bool) error
	// HeldView tells the name of a table's view, "" if it gets none, and what is in its way.
	HeldView(ctx context.Context, s *change.Schema, o TableOptions) (name, problem string, err error)
}

const heldSuffix = "_quarantined"

// HeldName is the name of a table's view. Where names have at most so many bytes, a
// longer one is cut, and told from others that begin alike by a digest.
func HeldName(table string, most int) string {
	if len(table)+len(heldSuffix) <= most {
		return table + heldSuffix
	}
	sum := sha256.Sum256([]byte(table))
	suffix := "_" + hex.EncodeToString(sum[:4]) + heldSuffix
	n := most - len(suffix)
	for !utf8.RuneStart(table[n]) {
		n--
	}
	return table[:n] + suffix
}

// HeldColumns are the columns of a view beside those of the key: since when the key is
// held, by which repair, in which state, and why it was given up, if it was. One that has
// the name of a column of the key gets more underscores.
func HeldColumns(key []string) (since, repair, state, reason string) {
	free := func(name string) string {
		for slices.Contains(key, name) {
			name = "_" + name
		}
		return name
	}
	return free("_since"), free("_repair"), free("_state"), free("_reason")
}

// HeldComment begins the comment on a pipeline's views, by which they are found again.
func HeldComment(pipeline string) string {
	return "Keys that repairs hold, shown by Syncline; pipeline " + pipeline + "; "
}

// HeldMark is the whole comment on a view that is made by the statement.
func HeldMark(pipeline string, table change.TableID, statement string) string {
	sum := sha256.Sum256([]byte(statement))
	return HeldComment(pipeline) + "table " + table.String() + "; " + hex.EncodeToString(sum[:8])
}

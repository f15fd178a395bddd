// Package shape says what a sink is to hold of a table's rows: which of them, and what of
// their columns.
//
// # Rules
//
// A Rule withholds rows, leaves columns out (they are there, and NULL), replaces their
// values by a keyed hash, or keeps the rows of a sample of entities with the rate beside
// them. Rules come from the declaration's residency and thin, and from tiers, for the rows
// that are of a tier. Of several rules that hold for a row the strictest counts: what is
// withheld is not there, and what is left out is not masked.
//
// # Tiers
//
// Of which tier a row is, the cases of a rule tell by its values alone, in the order of
// classify, as they would for its insertion: a row at the source has no other history. A row
// is of one tier at most, so a table may be sampled by several tiers, and rows of none have
// the rate 1.
//
// # Stages
//
// Compile makes the shape of a stage: ToLog for capture, of the rules for what the log must
// not have either (Rule.InLog); FromLog for whatever reads the log for a sink, of all
// rules; and All for whatever reads the source for it. A source's row shaped by All is what
// ToLog and FromLog make of its changes. So a condition may not ask for a column that
// another rule changes before the log, which Compile refuses. Rules that were carried out
// before the log are carried out behind it once more, since it may hold older changes: that
// changes nothing, but for masks, and of these the log's definition tells (change.Column).
//
// # Transitions
//
// Whether a row is held is decided by the row before and after a change: an update by
// which it comes to be withheld is its deletion, one by which it comes to be held is its
// insertion, whole. For that the log has to tell the row before, so conditions on columns
// beside the primary key take REPLICA IDENTITY FULL. A condition that cannot be decided
// all the same (predicate.Open) counts as one that holds: nothing is shipped by mistake. One
// of a tier is no matter of secrecy, and is not guessed (CodeUndecided).
//
// # Hashes
//
// A mask is HMAC-SHA-256 of the value's text under a secret, in hexadecimal: equal values
// have equal masks, in all tables with the same secret. It cannot be taken back, and
// guessing takes the secret. A source reads a value that may be masked behind a mark that
// says whether it is to be (Column), and Finish or Finisher replaces it: the secret is
// never part of a statement. Samples go by SHA-256 of a salt and the entity's texts, which
// Postgres computes alike.
//
// # Failure
//
// The package is pure. Compile returns an Error that names the rule and its field. Apply
// fails on values that are not of their column's type, and on an update that lacks the row
// before it (CodeUndecided).
package shape

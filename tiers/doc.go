// Package tiers says which changes may wait, and for how long.
//
// # Tiers
//
// A tier is a delivery policy over one log: all changes of a table are in its topic, in
// order, whatever their tier. Changes of Stream go to the sinks at once. Those of a
// batch tier are passed over, and a run of the tier, once in its period, brings their
// keys to the state that they have by then: of many changes of a row one is written.
//
// A tier may keep aggregates of the rows that it is given, and not the rows (package
// aggregate), or leave columns of them out and keep a sample of them (package shape).
//
// # Classification
//
// Rules are asked in the order of the declaration, and the first that matches a change
// decides its tier. A rule names tables, and may have a condition on the row (package
// predicate), and columns: then it is for changes that touch no other column. What no
// rule matches streams.
//
// A change for which a rule cannot be decided streams: being early costs bytes, being
// late breaks a promise. That is a deletion whose row the log does not have, a large
// value that was not sent, an update of which the log has no old image to compare with
// (REPLICA IDENTITY is not FULL). Deletions of rows that were changed by a batch tier
// thus come first; the order of a key's changes is kept all the same, since a run writes
// no change of a key that a later one has overtaken.
//
// # Failure
//
// The package is pure. Compile reports what is wrong with a rule for a table, by an
// Error that has the rule's number and the place in the condition. Classify fails only
// on a value that is not of its column's type (predicate.CodeValue).
package tiers

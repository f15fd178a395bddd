// Package apply decides what becomes of each change and merges those that are
// to be written. It is pure: it reads no clock, file or connection, so every
// decision can be tested by a model.
//
// # Verdicts
//
//	position at or below the partition's watermark ──► Duplicate   (capture resent it)
//	every chunk of the table's load saw it ──────────► Contained   (the load brought it)
//	some chunks saw it ──────────────────────────────► Ambiguous   (find the chunk of its key, ask again)
//	of an epoch that has been given up ──────────────► Contained   (every table was loaded since)
//	TRUNCATE ────────────────────────────────────────► Barrier     (waits for the other partitions)
//	its key has a dead letter, or is being repaired ──► Park        (behind what was set aside, in order)
//	otherwise ───────────────────────────────────────► Write
//
// After a TRUNCATE took effect the load no longer matters: what is streamed
// after it is complete in itself.
//
// # Merging
//
// A Coalescer turns the changes of one table and one schema into at most one
// row per key, such that writing the rows has the effect of each change in
// order, for every cut of a stream into batches. The one sequence that cannot be
// merged, a deletion and then a row with values that the source left out, makes
// Add report false: the batch must be committed first.
package apply

// Package verify tells whether a table is the same at the source and at a sink,
// while both are being written to.
//
// # How
//
// A table is walked in parts. Of each part the source gives the sum of its rows'
// digests (package digest), and then a position that every commit it saw is below.
// When the sink's ledger has passed that position, the sink gives its sum. Equal sums
// end it. Otherwise both give keys with digests, and keys that differ are suspects:
// most of them were written to meanwhile.
//
// Columns that no two servers print alike are not in the digests that these make: their
// texts are read beside them, and the digests of rows are finished and summed in Go, row
// by row. Suspects and confirmations compare their canonical texts.
//
// The source goes on with the next parts, up to Options.Ahead of them, while others
// wait for the sink: what a walk takes is not the sink's lag times the parts. The
// source has one statement at a time, the sink a few, and the ledger is asked by one
// for all that wait.
//
// A suspect is confirmed by position, not by sleep: read the source's row and a
// position, wait until the ledger has passed it, read the sink's row, read the source's
// row again. If the source did not change meanwhile, the two are compared; if it did,
// there is another round. A difference counts when two rounds in a row show it, since a
// commit may be in the log a moment before readers of the source see it; and a row that
// the source does not have, when both show the same one, since it may come and go.
//
// # What is answered
//
// Equal: every part was, each at a position of its own between From and To.
// Different: at least one key is confirmed. Inconclusive: no key is confirmed and
// something could not be told: a fence that the ledger did not pass in time, a table
// that is not streaming, a key that never stood still, a part that grew beyond what may
// be held in memory. A timeout is never equal and never different.
//
// # Failure
//
// Errors of either side end the walk and come back as they are (package fault tells
// whether a retry can help); Options.From resumes it behind the last part that ended.
// Memory is bounded by Options.MaxRows, not by the table.
package verify

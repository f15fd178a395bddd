// Package analytics records what pipelines do in ClickHouse: counts, lags and
// decisions, never rows of the user's tables and never secrets.
//
// # From a loop to a table
//
//	a lane or capture ──► Tally (windows of 5 s) ──► Writer (queue) ──► segments on disk ──► ClickHouse ──► hourly rollups
//
// A loop counts into a tally, which costs it a lock and an addition; one row per
// window and table leaves it. The Writer takes rows without ever blocking.
//
// # States of the Writer, and what is lost when
//
//	up    what has come is written to disk every Options.Every, and inserted from there, oldest first
//	down  the database does not answer or refuses: segments wait and grow, and the oldest
//	      is tried again with growing pauses
//
// Each segment has a name that the database remembers (insert_deduplication_token),
// in the rollups too: one that was inserted before an answer got lost is not counted
// twice, also when a later process finds it on disk. Segments hold at most
// Options.SpillBytes; what is beyond that is dropped and counted. A process that is
// killed loses what it has not yet written to disk, at most a window and
// Options.Every; the offsets in table progress then show the gap.
//
// # Retention
//
// Rows by window stay 14 days, their hourly rollups and everything that is rare
// (verifications, repairs, rotations, the audit trail) 400 days.
package analytics

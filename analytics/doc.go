// Package analytics records what pipelines do in ClickHouse: counts, lags and
// decisions, never rows of the user's tables and never secrets.
//
// # From a loop to a table
//
//	a lane or capture ──► Tally (windows of 5 s) ──► Writer (queue) ──► ClickHouse ──► hourly rollups
//	                                                    │      ▲
//	                                                    ▼      │ oldest first
//	                                                 segments on disk
//
// A loop counts into a tally, which costs it a lock and an addition; one row per
// window and table leaves it. The Writer takes rows without ever blocking.
//
// # States of the Writer, and what is lost when
//
//	up        batches of up to a second are inserted as they come
//	down      the database does not answer or refuses: batches go to segments on disk,
//	          and the oldest is tried again with growing pauses
//	catching  segments are inserted, oldest first, beside what comes
//
// Each batch has a name that the database remembers
// (insert_deduplication_token), in the rollups too: one that was inserted before an
// answer got lost is not counted twice, also when a later process finds it on disk.
// Segments hold at most Options.SpillBytes; what is beyond that is dropped and
// counted. A process that is killed loses what it has not yet written anywhere, at
// most a window and a second; the offsets in table progress then show the gap.
//
// # Retention
//
// Rows by window stay 14 days, their hourly rollups and everything that is rare
// (verifications, repairs, rotations, the audit trail) 400 days.
package analytics

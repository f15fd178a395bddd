// Package postgres reads a Postgres 15 to 17 database: its definitions, its
// rows in an exported snapshot, and its committed changes from a logical
// replication slot.
//
// # Which LSN is which
//
// A change's Position.Commit is where the commit record of its transaction
// starts (the protocol's "final LSN"). Through, in events, progress records and
// Confirm, is the end of a commit record or any later point up to which the
// server has decoded. "Through T" means every transaction whose commit record
// starts before T, which is also how Postgres itself reads confirmed_flush_lsn:
// the transaction that starts at T is still to come. Loaded.LSN of a chunk is
// the insert position read after its snapshot was taken, so every commit that
// the snapshot sees starts before it: a table is consistent at its sink once
// progress and watermarks have passed that.
//
// # States of a Stream
//
//	new ──Start──► streaming ──any error──► failed ──Close──► closed
//
// A Stream is used once: after an error, make another. Transactions that were
// streamed before their commit are kept in memory up to a limit, then in files
// of the spill directory; they are replayed when their commit comes, one change
// at a time. Nothing of them needs to survive a crash, since the slot stays
// behind them until they are confirmed.
//
// # Limits
//
// What older rows have in a column that was added (change.Column.Missing) is known
// while the server keeps it as one constant. Once the table is rewritten (VACUUM
// FULL, CLUSTER, another ALTER TABLE), and for defaults that differ by row
// (sequences, random values), it is not: such a column is unknown to sinks if it is
// NOT NULL, and NULL in the rows that no change touches if it is not.
//
// A table that is declared append-only has no key in its schema, even where the
// source has one, and is one chunk: a load that loses its snapshot begins anew.
//
// # Failure
//
// Every condition that an operator can do something about is a named fault (see
// faults.go). Whatever else happens to a connection is SourceUnreachable and
// may be retried. No error carries row values: data errors of the server are
// reduced to their SQLSTATE.
package postgres

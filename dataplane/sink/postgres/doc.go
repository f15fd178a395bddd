// Package postgres is the sink for Postgres 15 and later: rows go to the user's
// tables, progress goes to schema "syncline" of the same database, and both are
// committed as one.
//
// # States
//
// Those of package sink. A lane's session is one of
//
//	live ──► in doubt ──► live, or lost
//	  └────► fenced
//
// In doubt means that the connection broke while a batch was under way: the next
// Apply asks the ledger whether it was committed. Every Apply advances a counter
// in the lane's ledger row, in the transaction of the rows, so the session sees
// at once when another attempt took the lane (fenced) and when the server came
// back without its last transactions (lost).
//
// # Failure
//
// Apply runs with synchronous_commit off unless Options.Durable is set. That is
// safe: rows and watermarks are lost together or not at all, the log still holds
// what was lost, and the counter keeps a session from going on above the gap.
// Everything else (claims, chunks, states, truncations) is flushed before it is
// acknowledged, and flushes what was committed before it.
//
// A row that the table cannot hold (SQLSTATE classes 22, 23, 44, an oversized
// index entry, an exception of a trigger) is found by halving the batch under
// savepoints, and becomes a dead letter in the same transaction. A foreign key
// that is violated is retried instead: its parent may arrive in another lane.
//
// # Foreign keys and triggers
//
// Connections set session_replication_role to replica where the role may (a
// superuser, or GRANT SET ON PARAMETER session_replication_role TO role): user
// triggers and foreign keys then do not fire. Without the right they stay
// active, and Check says so.
package postgres

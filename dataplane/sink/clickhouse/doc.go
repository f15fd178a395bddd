// Package clickhouse is the sink for ClickHouse, over HTTP or the native
// protocol: rows go to ReplacingMergeTree(_version, _deleted) tables with the
// position as version, and progress goes to a ledger in database "syncline".
//
// # A table
//
// A source's table t becomes t, ordered by its primary key (or by the user's
// choice), and a view t_live that shows the live rows without the columns that
// Syncline adds:
//
//	_version UInt128              position of the change that made the row
//	_deleted UInt8                1: a tombstone
//	_exact Map(String, String)    exact text of values that their column cannot hold
//	_key String                   only where key columns do not identify a row alone
//	_seq UInt64                   only in append-only tables: row of a snapshot's chunk
//	_commit_time DateTime64(6)    at the source; 1970 for rows of a snapshot
//	_synced_at DateTime64(6)      when ClickHouse took the row
//
// Types are chosen so that nothing is lost: what has no exact type is kept as
// the text that Postgres prints. Decimal, Date32, DateTime64, Array and Map do
// not hold every value of their Postgres types (NaN, infinity, years outside
// 1900 to 2299, a NULL array, more than one dimension). Such a value is shown as
// the nearest that the column takes — the first or last day, NULL for a Decimal,
// [] — and its text is in _exact, which is empty otherwise. ReadRows puts both
// together again. JSON is kept as String unless Options.JSON asks for the type, or a
// table that exists has a column of it. That is not exact, and of values that the type
// does not take (no objects, integers beyond 64 bits) the text is in _exact.
//
// Key columns with such types stand in the sorting key beside _key, which holds
// the exact text when the column does not; key columns whose equal values have
// several texts (citext, numeric without precision, char(n)) are in the sorting
// key by their normalised text in _key alone.
//
// # What is guaranteed, without transactions
//
// Apply writes rows, then dead letters, then watermarks. If it is cut short, the
// watermark has not moved and the same changes come again; as versions they
// replace themselves. The last statement moves watermarks only if the lane's
// token is still the highest and every table of the batch is streaming; a
// watermark's own version is (token, offset), and a new holder writes the
// watermarks that it goes on from under its own token, so that nothing a
// superseded holder still sends changes them. Before it writes rows, Apply looks
// at token and tables; under load the watermarks of the batch just before are that
// look. It is good for 200 ms, and whoever takes a lane or a table waits for as long.
//
// Rows of a superseded attempt that arrive late lose against newer versions of
// their key. Two things could bring a row back that nothing supersedes, and have
// a floor for it: after a TRUNCATE or a reset, versions below the table's floor
// are not shown by the view, and are deleted at the next occasion. Rows of a load
// carry the number of their attempt in the version: when a load is finished, the
// attempts that count are frozen and the rows of all others deleted; an attempt
// that finds itself superseded deletes its own. What remains: an attempt that is
// stopped between its last look at the ledger and its INSERT, wakes up after the
// load was finished, and is killed before it can clean up.
//
// Each INSERT is one block, which ClickHouse takes as a whole. Over HTTP the number
// of rows that the server reports is compared with the number that was sent; the
// native protocol, whose blocks are counted themselves, reports none for an INSERT
// of blocks. Over HTTP the client library does not look at errors that come after
// the status, so every statement waits for its end. The ledger relies on reading what was
// written: on a replicated server, point the DSN at one replica, or set
// insert_quorum and select_sequential_consistency in it.
//
// # Aggregates
//
// Partial aggregates of a tier are rows of a table like those of an append-only table, at
// the position of the last change of their run, so that a floor is theirs as well. Each has
// its partition, the offset of the run's first aggregated change, the fencing token of its
// writer and the number of the attempt. The view takes a run only if none that is newer
// begins at its offset or before it: whoever goes on from a watermark voids all that was
// written from there on and not recorded, whatever its range was, also if it arrives later.
//
// # Repairs
//
// A repair takes a key by a lease first and its record second, so that of two that want
// it at least one sees the other. A record's version ranks its state: a late attempt
// never takes a key back that was let go. Holding and letting go raise Table.Holds, the
// version of an aspect of the table's record, which a batch's looks at the ledger and
// its last statement compare. A lane that releases a key sets it to Releasing before it
// writes anything of it, so that a repair whose lease has lapsed finds out in time.
//
// Mend inserts a row and then removes, with lightweight DELETEs, exactly the rows that
// would hide it. The audit trail outlives the pipeline in the ledger; it has no merges.
//
// # States and failure
//
// The states of a table are those of package sink. Errors are faults: an
// unreachable server, too many parts or a memory limit are worth a retry; a
// missing table, a missing right and a table that does not fit are not. A row
// that cannot be converted becomes a dead letter and the others go on. The
// server's message is dropped where the statement holds keys.
package clickhouse

// Package debezium writes changes as Debezium's Postgres connector would, for
// consumers that already read such topics: JSON keys and values, with or without
// the {schema, payload} wrapper, op r for rows of a snapshot, tombstones after
// deletes, headers on a change of key. It is pure: no input or output, no clock.
//
// # What differs from Debezium
//
// The source block's lsn and sequence are those of the transaction's commit, not
// of the single change; types that Debezium leaves out (composite, most
// geometric types, pg_lsn) are strings; arrays of several dimensions are
// flattened, because Kafka Connect has no such type. NaN and infinities of numeric
// are null with decimals as bytes, which cannot hold them, even where the column is
// NOT NULL. A column that is NOT NULL and that a deletion does not carry is its
// type's zero, as with Debezium.
//
// # Failure
//
// A value that is not of its type's text form is an error that names the column
// and never the value; nothing is written for such a change.
package debezium

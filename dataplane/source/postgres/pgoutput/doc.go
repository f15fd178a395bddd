// Package pgoutput decodes the messages of Postgres's logical replication
// plugin of that name, protocol version 2 (streaming of transactions in
// progress). It is pure: bytes in, a Message out, nothing else.
//
// Decode fills a Message that its caller reuses, and values point into the
// bytes that were decoded: nothing is allocated per row once the slices have
// grown. Bytes that are no message of the protocol give an error, never a panic.
package pgoutput

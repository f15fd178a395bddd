// Package clickhouse serves ClickHouse's HTTP interface and its native protocol
// from an engine that is loaded as a library into this process.
//
// A request takes one of the engine's connections, sets the database and the
// settings that it names, runs its statement and gives the connection back.
// Blocks in Native format pass through without being decoded: an INSERT's body
// goes to the engine as it came (after decompression), and a SELECT's blocks
// get the block header that the client's protocol version expects. Over the native
// protocol, whose blocks have no length, their columns are walked over to find the
// end, and a client's block loses that header.
//
// A statement that fails leaves the connection usable; its exception goes to
// the client with the code in X-ClickHouse-Exception-Code, or framed in the
// body when the answer had begun, or in a packet. A client that goes away cancels
// its query or its insert, even one that has given nothing yet: the engine is told
// over a connection that is kept for that. An INSERT is answered after its part has been written, so killing
// the process loses no acknowledged insert.
package clickhouse

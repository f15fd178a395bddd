// Package check compares the copies that a pipeline keeps with their source. It
// shares no code with what it checks but the parsers of text forms.
//
// # What it does
//
// Converge waits until every sink has taken in the position that the source had
// when it was called, as the sinks' ledgers say. A wait that ends without that is
// an error that says which partition is behind: never a success.
//
// Compare reads all rows of both sides and brings each value to one canonical
// text. It adds up hashes of rows in buckets by key, and reads only the rows of
// buckets that differ again, to say which key and column it is. So it holds a
// few megabytes for any number of rows and needs no common sort order. Nobody may
// write to the source meanwhile.
//
// A Watcher samples counters that only grow, for example a version column, while
// the load runs, and reports each that went back.
//
// # Failure
//
// Anything that keeps it from knowing is an error (a lost connection, a cut
// answer, a table that is not streaming). An empty list of differences with no
// error means: compared in full, and equal.
package check

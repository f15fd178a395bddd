// Package digest writes rows as text that is equal on both sides if, and only if,
// the rows are, and says in SQL how a database computes digests of them.
//
// # The text of a row
//
// Each column is NULL, written ~, or a length in bytes, a colon and a text, so that
// no two lists of values have the same row text. The text of a value is what Postgres
// prints under the session settings that capture and snapshot have (time zone UTC,
// ISO dates, shortest exact floats), except where another engine could print it only
// at a high price: see [Form]. A digest is the md5 of the row text. Many of them are
// summed, as two lanes of 60 bits, beside their number: unlike XOR, a sum does not
// lose rows that are there twice.
//
// A sink may hold an exact text beside a column that cannot hold the value (NaN in a
// decimal, infinity in a date, a list of two dimensions): such a text is taken as it
// is, which is why the forms other than [Text] must never yield what Postgres prints.
//
// # Which forms are used
//
// The sink decides, table by table, because it knows how it keeps a column: [Forms]
// are asked of the sink and handed to the source. A column of form [Apart] has no
// text that both could compute; it is left out of digests, and rows are compared in
// Go where it matters.
//
// The package is pure: it builds SQL and compares; others run it.
package digest

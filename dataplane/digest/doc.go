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
// are asked of the sink and handed to the source.
//
// # What is compared in Go
//
// JSON has no text that two servers print alike: [Form.InGo]. Such a column is left out
// of the server's digest; its text is read from both sides, and [Texts] makes the row's
// digest of the server's and of the [Form.Canonical] texts. [Summer] sums them, row by
// row, as the server would have: no more than one row is in memory. What a canonical text
// says twice in different ways, the sink cannot keep apart:
//
//   - [JSON], where jsonb holds what was json: white space, the order of names, all but
//     the last of equal names, the spelling of numbers and of strings.
//   - [Paths], where ClickHouse's type JSON holds it: these; of equal names all but the
//     first; members that are null or objects without members, and null, [] and {}
//     among the elements of a list; a dot in a name is as good as an object; fractions
//     have 64 bits, and in a list of numbers alone integers count as such fractions.
//
// The package is pure: it builds SQL and compares; others run it.
package digest

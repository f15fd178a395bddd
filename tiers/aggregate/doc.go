// Package aggregate turns rows into partial aggregates, and says how these lie in a table.
//
// # Partials
//
// A tier may keep aggregates of the rows that it is given, and not the rows. Rows are put
// together by the values of some columns and by a bucket of time; of each group there are
// the number of rows and, for value columns, what count, sum, avg, min, max and quantiles
// need. A run of the tier writes one partial for each group that it met, and so does a
// table's load for each chunk. Partials merge by
// addition, minimum and maximum alone, in any order, which SQL does when they are read: a
// view shows the merged ones.
//
// Rows are only added: the table is append-only, so that the log has no update and no
// deletion of a row that was aggregated. Bind refuses others.
//
// # Exactness
//
// Sums are decimal numbers and exact, so they depend neither on order nor on how rows were
// cut into runs. A float is taken as the decimal number that Postgres prints, rounded to
// Scale digits after the point. NULLs count as SQL counts them: in the number of rows alone.
// NaN and the infinities are counted by themselves.
//
// Quantiles are of finite values, from a sketch that counts values in buckets whose bounds
// grow by a constant factor (DDSketch): the value that is shown is within Accuracy of the
// one at that rank, relatively.
//
// # Failure
//
// The package is pure. Bind returns an *Error that names the field. Add returns a
// *ValueError, which holds no value, for a row that cannot be aggregated exactly; the
// partials are then as they were.
package aggregate

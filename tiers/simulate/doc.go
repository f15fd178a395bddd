// Package simulate says what a classification would have written, and how long changes
// would have waited, from the changes of the past.
//
// # A trace
//
//	recorded (Trace.Add, change by change) ──► simulated (Table.Run, any number of times)
//
// A trace keeps of each change some 40 bytes: when it was committed, a hash of its key,
// its size, which columns it changed, and its tier by each classification that was given.
// No value stays. When there are more changes than Options.Limit, keys are left out by
// their hash: one of two stays, then one of four, and what is there already is thinned to
// match. A key is there with all its changes or not at all, so what is merged by key
// stays true, and numbers are scaled by Trace.One.
//
// # What is simulated
//
// A run does with each partition what package deliver does: a change that waits is
// passed over until a run of its tier is due, and then the sweep merges
// what waited in it by key, in batches that end where its batches end. What a later streamed
// change has overtaken is left out, and a streamed change that leaves values out, or a
// TRUNCATE, lets what waits go first. Tests of package deliver hold the two together.
//
// # What is not
//
// Runs take no time and are never missed; a jitter counts as half of it. A streamed change
// is one row: a lane that has much to do merges some, so streamed rows are an upper bound,
// and savings with them. Bytes are those of the log's records.
package simulate

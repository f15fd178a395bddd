// Package trace makes OpenTelemetry spans of what the data plane does, from the
// commit at the source to the commit in each sink. It knows OpenTelemetry's API
// only: where spans go is the worker's business, and a nil *Tracer or *Pipeline,
// which is tracing turned off, may be used like any other.
//
// # What is traced
//
// The unit is a source transaction. Its ids are derived from the pipeline's name
// and the transaction's position, so whoever meets it, at a resend after a crash
// too, finds the same trace without asking anybody:
//
//	capture          commit at the source ──► acknowledged by Kafka
//	└─ apply         record read ──► committed in the sink; one per lane (and batch),
//	                 of what waited for a tier one per tier, from when its run read it
//	apply batch      one commit to a sink, with links to the apply spans in it
//
// A transaction that tells its own traceparent (see source/postgres) continues
// that trace, and follows its decision.
//
// # Sampling
//
// Capture decides once per transaction, by the same comparison as OpenTelemetry's
// TraceIDRatioBased, and says so in the change (Change.Trace, and the record
// header traceparent). Whoever reads a change without it has nothing to do. A
// ratio of 0 leaves errors only.
//
// # Errors
//
// Failed batches, dead letters and failed attempts become spans with status Error
// whatever the ratio. They name the fault's code and what it says of itself, never
// its cause: drivers quote values. A dead letter is in its transaction's trace, a
// failed batch links to those of its transactions.
//
// # Failure
//
// Nothing here waits or returns an error: what the exporter cannot take is lost.
package trace

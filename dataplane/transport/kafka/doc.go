// Package kafka is the log between capture and delivery: one topic per table,
// partitioned by primary key, plus `_schemas` (definitions by version,
// compacted), `_progress` (what is in the log, below which offsets) and `_index`
// (the same once a minute, to look places up). Nothing else in the module uses
// kafka-go.
//
// Connections, authentication and metadata are kafka-go's. Record batches,
// produce and fetch are made here, for two reasons: kafka-go's Writer retries a
// batch beside its successors, which breaks the order of a partition, and its
// record readers cost more than the rest of delivery together.
//
// # Writer
//
//	writing ──► failed (Acked reports why; capture starts over and resends)
//
// A partition has at most one batch in flight, so whatever is in it was preceded
// by everything before it: at any moment a partition holds a prefix of its
// changes, then repetitions. That is what makes a resend recognisable by
// position alone, whoever wrote it. A batch that failed in a way that may pass is
// sent again, unchanged, for up to Options.RetryFor.
//
// A change larger than a message is written as consecutive parts; README has the
// form of all records.
//
// # Log (the reading side)
//
// Readers share one fetcher: idle partitions of a broker wait in one long poll,
// so that many partitions cost few requests. What has been fetched and not yet
// read is bounded by LogOptions.BufferBytes over all readers.
//
// # Failure
//
// A lost connection is KafkaUnreachable, which may be retried. A missing topic, an
// offset that is gone, a partition count that is not the declared one, a change
// over the limit are permanent and say what to do.
package kafka

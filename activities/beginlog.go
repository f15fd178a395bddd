package activities

import (
	"context"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/transport/kafka"
	"syncline/pipeline"
)

// settled is how old a record must be for a load that begins now to hold it for
// sure. Its commit is in the source's log for as long, and hidden from snapshots
// only while it waits for a synchronous standby.
const settled = time.Hour

// loadsFrom is the time from which on the log's records are needed beside a load
// that begins now. Of a log that is kept for a short time only half is taken to be
// old: what is asked for must outlast the load.
func loadsFrom(now time.Time, retention time.Duration) time.Time {
	old := settled
	if retention > 0 {
		old = min(old, retention/2)
	}
	return now.Add(-old)
}

// ranges returns what the topics of tables hold that a load which begins now may
// not. Without rows of a load, everything in the log is needed.
func ranges(ctx context.Context, admin *kafka.Admin, spec *pipeline.Spec, loaded bool, tables ...change.TableID) (map[change.TableID][]sink.LogRange, error) {
	var since time.Time
	if loaded {
		since = loadsFrom(time.Now(), spec.Kafka.Retention.Std())
	}
	return admin.Ranges(ctx, since, tables...)
}

// beginLogs records in a sink's ledger from where the tables' delivery begins, so
// that what expires while they load is missed.
func beginLogs(ctx context.Context, sk sink.Sink, log map[change.TableID][]sink.LogRange, again bool) error {
	for t, r := range log {
		if err := sk.BeginLog(ctx, t, r, again); err != nil {
			return err
		}
	}
	return nil
}

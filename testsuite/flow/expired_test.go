package flow

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/transport/kafka"
)

func init() { protocol.Register(&deleteRecords{}, &deletedRecords{}) }

// deleteRecords is DeleteRecords of Kafka's protocol, which the client does not have.
type deleteRecords struct {
	Topics    []deleteTopic `kafka:"min=v0,max=v0"`
	TimeoutMs int32         `kafka:"min=v0,max=v0"`
}

type deleteTopic struct {
	Name       string            `kafka:"min=v0,max=v0"`
	Partitions []deletePartition `kafka:"min=v0,max=v0"`
}

type deletePartition struct {
	N      int32 `kafka:"min=v0,max=v0"`
	Before int64 `kafka:"min=v0,max=v0"`
}

type deletedRecords struct {
	ThrottleMs int32          `kafka:"min=v0,max=v0"`
	Topics     []deletedTopic `kafka:"min=v0,max=v0"`
}

type deletedTopic struct {
	Name       string             `kafka:"min=v0,max=v0"`
	Partitions []deletedPartition `kafka:"min=v0,max=v0"`
}

type deletedPartition struct {
	N         int32 `kafka:"min=v0,max=v0"`
	First     int64 `kafka:"min=v0,max=v0"`
	ErrorCode int16 `kafka:"min=v0,max=v0"`
}

//lint:ignore ST1003 the name is that of an interface of kafka-go
func (*deleteRecords) ApiKey() protocol.ApiKey { return protocol.DeleteRecords }

//lint:ignore ST1003 the name is that of an interface of kafka-go
func (*deletedRecords) ApiKey() protocol.ApiKey { return protocol.DeleteRecords }

// expire deletes what the table's topic holds, as its retention does.
func (f *flow) expire(table change.TableID) {
	f.t.Helper()
	topic, err := kafka.TopicName(f.kafka.Prefix, f.kafka.Pipeline, table)
	f.ok(err)
	tr := &kgo.Transport{}
	defer tr.CloseIdleConnections()
	m, err := tr.RoundTrip(f.ctx, kgo.TCP(f.kafka.Brokers...), &deleteRecords{TimeoutMs: 10_000, Topics: []deleteTopic{{Name: topic, Partitions: []deletePartition{{N: 0, Before: -1}}}}})
	f.ok(err)
	for _, t := range m.(*deletedRecords).Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				f.t.Fatal(kgo.Error(p.ErrorCode))
			}
		}
	}
}

// await polls until ok says so.
func (f *flow) await(what string, ok func(context.Context) (bool, error)) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, 30*time.Second)
	defer cancel()
	for {
		done, err := ok(ctx)
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			f.t.Fatal(what, ": ", err)
		}
		if done {
			return
		}
		select {
		case <-ctx.Done():
			f.t.Fatal("not in time: ", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Changes that expire from the log while their table loads are missed, never
// skipped: the table stops with OffsetGone, and a resync brings it back.
func TestChangesExpireDuringTheLoad(t *testing.T) {
	f := newFlow(t)
	id, quiet := change.TableID{Schema: "public", Name: "t"}, change.TableID{Schema: "public", Name: "quiet"}
	f.exec(`CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t SELECT i, 'old' FROM generate_series(1, 100) i;
		CREATE TABLE quiet (id int PRIMARY KEY); INSERT INTO quiet VALUES (1)`)
	schemas := f.prepare(1, published(id, quiet)...)
	f.add(1, schemas...)
	f.capture()
	f.copyAll(schemas...) // delivery has not begun: it is as if the load went on
	f.exec(`UPDATE t SET a = 'new' WHERE id <= 50`)
	admin, err := kafka.OpenAdmin(f.kafka)
	f.ok(err)
	defer admin.Close()
	f.await("the changes are in the log", func(ctx context.Context) (bool, error) {
		log, err := admin.Ranges(ctx, time.Time{}, id)
		return err == nil && log[id][0].End >= 50, err
	})
	f.expire(id)
	f.exec(`UPDATE t SET a = 'newer' WHERE id > 90`)
	f.deliver()
	for name, s := range f.sinks {
		f.await(name+" misses what expired", func(ctx context.Context) (bool, error) {
			ts, err := s.Tables(ctx)
			for _, t := range ts {
				switch {
				case t.ID == id && t.State == sink.Gated:
					if !strings.HasPrefix(t.Reason, "OffsetGone") || !strings.Contains(t.Reason, "resync") {
						f.t.Fatalf("gated by %q", t.Reason)
					}
					return true, err
				case t.ID == quiet && t.State == sink.Gated:
					f.t.Fatal("a table whose log is whole was gated: ", t.Reason)
				}
			}
			return false, err
		})
	}

	// As the activity of a resync does, before the snapshot of the new load.
	log, err := admin.Ranges(f.ctx, time.Now().Add(-time.Hour), id)
	f.ok(err)
	for _, s := range f.sinks {
		f.ok(s.ResetTable(f.ctx, id, 2))
		f.ok(s.BeginLog(f.ctx, id, log[id], true))
	}
	f.copyAll(schemas[slices.IndexFunc(schemas, func(sc *change.Schema) bool { return sc.Table == id })])
	f.exec(`UPDATE t SET a = 'newest' WHERE id % 7 = 0; INSERT INTO t VALUES (1000, 'x')`)
	f.equal()
}

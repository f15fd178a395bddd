package flow

import (
	"context"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/capture"
	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/sink/clickhouse"
	pgsink "syncline/dataplane/sink/postgres"
	"syncline/dataplane/source/postgres"
	"syncline/dataplane/transport/kafka"
	"syncline/testsuite/check"
	"syncline/testsuite/stack"
)

// flow is a source, its topics and two sinks.
type flow struct {
	t      *testing.T
	ctx    context.Context
	name   string
	dsn    string
	conn   *pgx.Conn
	source *postgres.Server
	kafka  kafka.Options
	sinks  map[string]sink.Sink
	sides  map[string]check.Side
	from   change.LSN
	tiers  deliver.Tiers
	swept  atomic.Int64 // changes that waited and took effect

	sinkDSN            string // of the Postgres sink
	clickURL, clickDSN string // of the ClickHouse sink: the server, and with the database
	clickDB            string
}

func newFlow(t *testing.T) *flow {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	t.Cleanup(cancel)
	f := &flow{t: t, ctx: ctx, name: stack.Name(t), dsn: stack.Database(t, stack.Postgres(t))}
	f.kafka = kafka.Options{Brokers: stack.Kafka(t), Prefix: "test.", Pipeline: f.name}
	var err error
	f.conn, err = pgx.Connect(ctx, f.dsn)
	f.ok(err)
	t.Cleanup(func() { _ = f.conn.Close(context.Background()) })
	f.source, err = postgres.NewServer(postgres.ServerOptions{DSN: f.dsn, Pipeline: f.name})
	f.ok(err)
	t.Cleanup(func() { _ = f.source.Close() })
	sinkDSN, clickDSN := stack.Database(t, stack.SinkPostgres(t)), stack.ClickHouseDatabase(t)
	u, err := url.Parse(clickDSN)
	f.ok(err)
	db := strings.Trim(u.Path, "/")
	u.Path = "/"
	f.sinkDSN, f.clickDSN, f.clickURL, f.clickDB = sinkDSN, clickDSN, u.String(), db
	pg, err := pgsink.Open(pgsink.Config{DSN: sinkDSN, Pipeline: f.name})
	f.ok(err)
	ch, err := clickhouse.Open(clickhouse.Config{DSN: clickDSN, Pipeline: f.name, Options: clickhouse.Options{Ledger: db, Database: db}})
	f.ok(err)
	f.sinks = map[string]sink.Sink{"postgres": pg, "clickhouse": ch}
	f.sides = map[string]check.Side{"postgres": &check.Postgres{DSN: sinkDSN}, "clickhouse": &check.ClickHouse{URL: clickDSN, Database: db}}
	for _, s := range f.sinks {
		t.Cleanup(func() { _ = s.Close() })
		f.ok(s.Init(ctx))
	}
	return f
}

func (f *flow) ok(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *flow) exec(sql string) {
	f.t.Helper()
	_, err := f.conn.Exec(f.ctx, sql, pgx.QueryExecModeSimpleProtocol)
	f.ok(err)
}

// load makes slot and topics, copies the tables to both sinks and starts capture
// and delivery.
func (f *flow) load(partitions int, tables ...change.TableID) {
	f.t.Helper()
	schemas := f.prepare(partitions, published(tables...)...)
	f.add(partitions, schemas...)
	f.copyAll(schemas...)
	f.run()
}

func published(tables ...change.TableID) (out []postgres.PublishedTable) {
	for _, id := range tables {
		out = append(out, postgres.PublishedTable{ID: id})
	}
	return out
}

// prepare makes slot and topics, and returns the tables' definitions.
func (f *flow) prepare(partitions int, published ...postgres.PublishedTable) []*change.Schema {
	f.t.Helper()
	var tables []change.TableID
	for _, p := range published {
		tables = append(tables, p.ID)
	}
	f.ok(f.source.EnsurePublication(f.ctx, f.name, published))
	slot, err := f.source.CreateSlot(f.ctx, f.name)
	f.ok(err)
	f.from = slot.Confirmed
	admin, err := kafka.OpenAdmin(f.kafka)
	f.ok(err)
	f.t.Cleanup(func() {
		if err := admin.DeleteTopics(context.Background()); err != nil {
			f.t.Error(err)
		}
		_ = admin.Close()
	})
	f.ok(admin.EnsureTopics(f.ctx, kafka.TopicOptions{Partitions: partitions}, tables, nil))
	schemas, err := f.source.Describe(f.ctx, published)
	f.ok(err)
	return schemas
}

// add makes the sinks' tables, and notes from where their delivery begins.
func (f *flow) add(partitions int, schemas ...*change.Schema) {
	f.t.Helper()
	admin, err := kafka.OpenAdmin(f.kafka)
	f.ok(err)
	defer func() { _ = admin.Close() }()
	for _, sc := range schemas {
		log, err := admin.Ranges(f.ctx, time.Time{}, sc.Table)
		f.ok(err)
		for _, s := range f.sinks {
			f.ok(s.AddTable(f.ctx, sink.Table{ID: sc.Table, Schema: sc, Partitions: partitions, Epoch: 1}))
			f.ok(s.BeginLog(f.ctx, sc.Table, log[sc.Table], false))
		}
	}
}

// copyAll loads tables that are loading into both sinks, in one snapshot.
func (f *flow) copyAll(schemas ...*change.Schema) {
	f.t.Helper()
	held, err := f.source.Export(f.ctx)
	f.ok(err)
	for _, s := range f.sinks {
		for _, sc := range schemas {
			f.copy(s, sc, held)
		}
	}
	f.ok(held.Close())
}

// copy loads a table that is loading as one chunk, and begins its delivery.
func (f *flow) copy(s sink.Sink, sc *change.Schema, held *postgres.Exported) {
	f.t.Helper()
	_, err := s.PlanChunks(f.ctx, sc.Table, []sink.Chunk{{N: 0}})
	f.ok(err)
	f.ok(f.source.SameColumns(f.ctx, held.Name, sc))
	_, err = s.LoadChunk(f.ctx, sc.Table, 0, sink.Loaded{Snapshot: held.Snapshot, LSN: held.LSN}, f.source.CopyChunk(held.Name, sc, sink.Chunk{}, "", nil), nil)
	f.ok(err)
	f.ok(s.FinishLoad(f.ctx, sc.Table))
}

// resync loads a table again, with the definition that it has now.
func (f *flow) resync(id change.TableID, epoch uint32) {
	f.t.Helper()
	for _, s := range f.sinks {
		f.ok(s.ResetTable(f.ctx, id, epoch))
	}
	schemas, err := f.source.Describe(f.ctx, []postgres.PublishedTable{{ID: id}})
	f.ok(err)
	held, err := f.source.Export(f.ctx)
	f.ok(err)
	for _, s := range f.sinks {
		f.ok(s.Redefine(f.ctx, id, schemas[0]))
		f.copy(s, schemas[0], held)
	}
	f.ok(held.Close())
}

// gated waits until both sinks have stopped a table and returns why.
func (f *flow) gated(id change.TableID) map[string]string {
	f.t.Helper()
	why := map[string]string{}
	for end := time.Now().Add(30 * time.Second); len(why) < len(f.sinks); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("table %s is gated by %v alone", id, why)
		}
		for name, s := range f.sinks {
			ts, err := s.Tables(f.ctx)
			f.ok(err)
			for _, t := range ts {
				if t.ID == id && t.State == sink.Gated {
					why[name] = t.Reason
				}
			}
		}
	}
	return why
}

func (f *flow) run() {
	f.t.Helper()
	f.capture()
	f.deliver()
}

func (f *flow) capture() {
	f.t.Helper()
	w, err := kafka.OpenWriter(f.ctx, f.kafka, kafka.WriterOptions{})
	f.ok(err)
	stream, err := f.source.NewStream(postgres.StreamOptions{Slot: f.name, Publication: f.name, Epoch: 1, SpillDir: f.t.TempDir(), HeartbeatInterval: 100 * time.Millisecond})
	f.ok(err)
	ctx, stop := context.WithCancel(f.ctx)
	var running sync.WaitGroup
	f.t.Cleanup(func() {
		stop()
		running.Wait()
		_, _ = stream.Close(), w.Close()
	})
	running.Go(func() {
		o := capture.Options{Epoch: 1, CreatedAt: f.from, StatusInterval: 50 * time.Millisecond}
		if err := capture.Run(ctx, stream, w, o, capture.Observer{}); err != nil {
			f.t.Errorf("capture: %v", err)
		}
	})
}

func (f *flow) deliver() {
	f.t.Helper()
	ctx, stop := context.WithCancel(f.ctx)
	var running sync.WaitGroup
	f.t.Cleanup(func() {
		stop()
		running.Wait()
	})
	for name, s := range f.sinks {
		log, err := kafka.OpenLog(f.ctx, f.kafka, kafka.LogOptions{})
		f.ok(err)
		running.Go(func() {
			o := deliver.Options{Lanes: 1, Epoch: 1, PollTables: 50 * time.Millisecond, IdleMark: 50 * time.Millisecond, Tiers: f.tiers}
			obs := deliver.Observer{
				Swept: func(_ change.TableID, _ string, _ time.Duration, n int) { f.swept.Add(int64(n)) },
				Retry: func(what string, err error, _ time.Duration) { f.t.Logf("%s: %s again: %v", name, what, err) },
				Closed: func(t sink.Table, st sink.State, why string) {
					f.t.Logf("%s: table %s is %s: %s", name, t.ID, st, why)
				},
			}
			defer func() { _ = log.Close() }()
			for {
				err := deliver.Run(ctx, o, log, s, f.source, obs)
				if ctx.Err() == nil && fault.Is(err, sink.CodeFenced) {
					continue // by a resync; the next attempt claims the lane again
				}
				if err != nil && ctx.Err() == nil {
					f.t.Errorf("delivery to %s: %v", name, err)
				}
				return
			}
		})
	}
}

// equal waits until the sinks have what is committed now and compares them.
func (f *flow) equal() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, 30*time.Second)
	defer cancel()
	source := &check.Postgres{DSN: f.dsn}
	lsn, err := source.Position(ctx)
	f.ok(err)
	for name, s := range f.sinks {
		f.ok(check.Await(ctx, name, s, lsn))
		tables, err := check.TablesOf(ctx, s)
		f.ok(err)
		r, err := check.Compare(ctx, source, tables, f.sides[name])
		f.ok(err)
		for _, d := range r.Differences {
			f.t.Errorf("%s: %v", name, d)
		}
	}
}

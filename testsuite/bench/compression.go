package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	chsink "syncline/dataplane/sink/clickhouse"
	pgsink "syncline/dataplane/sink/postgres"
	"syncline/dataplane/sink/sinktest"
	"syncline/dataplane/transport/kafka"
	"syncline/dataplane/wire"
)

// compressedBatches are the sizes that batches of telemetry are sent in.
var compressedBatches = []int{1, 10, 100, 1000, 10000}

// compression measures what a row of telemetry takes on the wire, by the size of
// batches and the codec, on the way to Kafka and to both sinks. Requests, answers'
// headers and acknowledgements are part of it, as they are of a bill.
func compression(ctx context.Context, b *bench) ([]figure, error) {
	r, err := b.rig(ctx, "compression")
	if err != nil {
		return nil, err
	}
	defer r.close()
	defer func() {
		_, _ = r.clickhouseQuery(context.WithoutCancel(ctx), "DROP DATABASE IF EXISTS bench_compression")
	}()
	schema := telemetrySchema()
	logical := 0
	for n := range compressedBatches[len(compressedBatches)-1] {
		for _, v := range reading(n).texts() {
			logical += len(v)
		}
	}
	figures := []figure{{"a row of telemetry, as text", fmt.Sprintf("%d B", logical/compressedBatches[len(compressedBatches)-1]), "the values alone; below: bytes sent per row in batches of " + strings.Trim(fmt.Sprint(compressedBatches), "[]")}}
	for _, codec := range []string{"none", "lz4", "zstd"} {
		f, err := r.sizes("to Kafka, "+codec, func(n int, m *wire.Meter) (func(context.Context, int) error, func() error, error) {
			return r.produceBatches(ctx, schema, codec, n, m)
		})(ctx)
		if err != nil {
			return figures, fmt.Errorf("kafka %s: %w", codec, err)
		}
		figures = append(figures, f)
	}
	for _, protocol := range []string{"http", "native"} {
		for _, codec := range []string{"none", "lz4", "zstd"} {
			name := strings.Join([]string{"compression", protocol, codec}, "-")
			f, err := r.sizes("to ClickHouse, "+protocol+", "+codec, func(n int, m *wire.Meter) (func(context.Context, int) error, func() error, error) {
				dsn := r.clickhouse
				if protocol == "native" {
					var err error
					if dsn, err = need("SYNCLINE_CLICKHOUSE_NATIVE_URL"); err != nil {
						return nil, nil, err
					}
				}
				k, err := chsink.Open(chsink.Config{DSN: dsn, Pipeline: fmt.Sprint(name, n), Dial: m.Dial,
					Options: chsink.Options{Ledger: "bench_compression", Database: "bench_compression", Compression: codec}})
				if err != nil {
					return nil, nil, err
				}
				return applyBatches(ctx, k, schema, fmt.Sprint(protocol, codec, n), n)
			})(ctx)
			if err != nil {
				return figures, fmt.Errorf("clickhouse %s %s: %w", protocol, codec, err)
			}
			figures = append(figures, f)
		}
	}
	f, err := r.sizes("to Postgres", func(n int, m *wire.Meter) (func(context.Context, int) error, func() error, error) {
		k, err := pgsink.Open(pgsink.Config{DSN: r.sink, Pipeline: fmt.Sprint("compression", n), Dial: m.Dial})
		if err != nil {
			return nil, nil, err
		}
		return applyBatches(ctx, k, schema, fmt.Sprint("rows", n), n)
	})(ctx)
	return append(figures, f), err
}

// sizes measures one way to send batches, by their size. open prepares what sends one
// batch that begins at a row, and what ends it.
func (r *rig) sizes(name string, open func(n int, m *wire.Meter) (func(context.Context, int) error, func() error, error)) func(context.Context) (figure, error) {
	return func(ctx context.Context) (figure, error) {
		var cells []string
		var small, large float64
		for _, n := range compressedBatches {
			m := &wire.Meter{}
			send, end, err := open(n, m)
			if err != nil {
				return figure{}, err
			}
			batches := max(2, min(50, 2000/n))
			err = send(ctx, 0) // connections, statements and topics are made by the first
			before := m.Count()
			for i := 1; i <= batches && err == nil; i++ {
				err = send(ctx, i*n)
			}
			sent := m.Count().Minus(before).Sent
			if err = errors.Join(err, end()); err != nil {
				return figure{}, err
			}
			large = float64(sent) / float64(batches*n)
			if n == 1 {
				small = large
			}
			cells = append(cells, fmt.Sprintf("%.0f", large))
		}
		return figure{name, strings.Join(cells, " ") + " B", fmt.Sprintf("%.1f times less in the largest", small/large)}, nil
	}
}

func applyBatches(ctx context.Context, k sink.Sink, schema *change.Schema, name string, n int) (send func(context.Context, int) error, end func() error, err error) {
	if err := k.Init(ctx); err != nil {
		return nil, nil, errors.Join(err, k.Close())
	}
	t := sink.Table{ID: schema.Table, Schema: schema, Epoch: 1, Partitions: 1, Options: sink.TableOptions{Name: name}}
	err = k.AddTable(ctx, t)
	if err == nil {
		_, err = k.PlanChunks(ctx, t.ID, []sink.Chunk{})
	}
	if err == nil {
		err = k.FinishLoad(ctx, t.ID)
	}
	if err != nil {
		return nil, nil, errors.Join(err, k.Close())
	}
	x, err := k.Claim(ctx, 0, 1)
	if err != nil {
		return nil, nil, errors.Join(err, k.Close())
	}
	return func(ctx context.Context, from int) error {
		rows := make([]sink.Row, n)
		for i := range rows {
			rows[i] = sinktest.Put(schema, from+i+1, reading(from+i).texts()...)
		}
		_, err := x.Apply(ctx, sinktest.Batch(t, int64(from+n), rows...))
		return err
	}, func() error { return errors.Join(x.Close(), k.Close()) }, nil
}

func (r *rig) produceBatches(ctx context.Context, schema *change.Schema, codec string, n int, m *wire.Meter) (send func(context.Context, int) error, end func() error, err error) {
	brokers, err := need("SYNCLINE_KAFKA_BROKERS")
	if err != nil {
		return nil, nil, err
	}
	o := kafka.Options{Brokers: strings.Split(brokers, ","), Prefix: r.queue + ".", Pipeline: fmt.Sprintf("%s-%d", codec, n)}
	a, err := kafka.OpenAdmin(o)
	if err != nil {
		return nil, nil, err
	}
	one := func(change.TableID) int { return 1 }
	if err := a.EnsureTopics(ctx, kafka.TopicOptions{Partitions: 1, MaxMessageBytes: 8 << 20}, []change.TableID{schema.Table}, one); err != nil {
		return nil, nil, errors.Join(err, a.Close())
	}
	c, err := kafka.ParseCompression(codec)
	if err != nil {
		return nil, nil, errors.Join(err, a.Close())
	}
	o.Dial = m.Dial
	// A batch is sent when all of it is there, and not before.
	w, err := kafka.OpenWriter(ctx, o, kafka.WriterOptions{Compression: c, MaxMessageBytes: 8 << 20, BatchBytes: 7 << 20, RequestBytes: 8 << 20, Linger: 50 * time.Millisecond})
	if err != nil {
		return nil, nil, errors.Join(err, a.Close())
	}
	version := schema.Version()
	return func(ctx context.Context, from int) error {
			var last uint64
			for i := range n {
				row := sinktest.Put(schema, from+i+1, reading(from+i).texts()...)
				var err error
				if last, err = w.Append(ctx, &change.Change{Table: schema.Table, Schema: version, Op: change.Insert, Pos: row.Pos, XID: uint32(from + 1), CommitTime: row.Commit, Last: i == n-1, Key: row.Key, New: row.New}); err != nil {
					return err
				}
			}
			return w.WaitAcked(ctx, last)
		}, func() error {
			return errors.Join(w.Close(), a.DeleteTopics(context.WithoutCancel(ctx), schema.Table), a.Close())
		}, nil
}

// telemetrySchema is the definition of telemetry.readings.
func telemetrySchema() *change.Schema {
	return sinktest.Schema("readings", 1, sinktest.Col("id", sinktest.Int8), sinktest.Col("host", sinktest.TextT), sinktest.Col("metric", sinktest.TextT),
		sinktest.Col("severity", sinktest.TextT), sinktest.Col("at", sinktest.Builtin("timestamp with time zone", "timestamptz", 1184, -1)),
		sinktest.Col("v", sinktest.Builtin("double precision", "float8", 701, -1)), sinktest.Col("labels", sinktest.TextT))
}

// oneReading is a row of telemetry.readings.
type oneReading struct {
	id, host int
	metric   string
	severity string
	at       time.Time
	v        float64
}

var metricNames = []string{"cpu_user", "cpu_system", "load1", "mem_used", "mem_cached", "disk_read_bytes", "disk_write_bytes", "net_rx_bytes", "net_tx_bytes", "http_requests", "http_errors", "gc_pause_ms"}

// hosts is how many tell each metric in turn.
const hosts = 50

// reading returns the n-th row, always the same; one in fifty is critical.
func reading(n int) oneReading {
	rnd := rand.New(rand.NewPCG(1, uint64(n)))
	x := oneReading{id: n + 1, host: n % hosts, metric: metricNames[n/hosts%len(metricNames)], severity: "info", at: time.Unix(1_780_000_000+int64(n/hosts), int64(rnd.IntN(1000))*1_000_000).UTC(),
		v: float64(int(100*(50+20*rnd.NormFloat64()))) / 100}
	switch p := rnd.IntN(100); {
	case p < 2:
		x.severity = "critical"
	case p < 10:
		x.severity = "warning"
	}
	return x
}

func (x oneReading) labels() string {
	return fmt.Sprintf(`{"rack": "r%02d", "zone": "z%d", "version": "2026.%d"}`, x.host%40, x.host%3, x.host%7)
}

func (x oneReading) texts() []string {
	return []string{fmt.Sprint(x.id), fmt.Sprintf("web-%03d.eu-west-1", x.host), x.metric, x.severity, x.at.Format("2006-01-02 15:04:05.999-07"), fmt.Sprint(x.v), x.labels()}
}

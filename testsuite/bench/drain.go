package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/capture"
	"syncline/dataplane/change"
	source "syncline/dataplane/source/postgres"
	"syncline/dataplane/transport/kafka"
	"syncline/pipeline"
	"syncline/testsuite/check"
)

// drain lets a backlog of pgbench changes build up behind four slots of the same
// source, and times who gets through it: each alone, one after the other.
func drain(ctx context.Context, b *bench) ([]figure, error) {
	r, err := b.rig(ctx, "drain")
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := program(ctx, "pgbench", "-q", "-i", "-s", "10", r.source); err != nil {
		return nil, err
	}
	native, err := r.nativeReplica(ctx)
	if err != nil {
		return nil, fmt.Errorf("native logical replication: %w", err)
	}
	defer native.close()
	if _, err := r.worker(); err != nil {
		return nil, err
	}
	spec, err := r.spec([]string{pipeline.SinkPostgres}, pipeline.Tables{Include: []string{"public.pgbench_*"},
		Options: []pipeline.TableOption{{Match: "public.pgbench_history", AppendOnly: new(true)}}})
	if err != nil {
		return nil, err
	}
	if err := r.apply(ctx, spec); err != nil {
		return nil, err
	}
	if err := r.update(ctx, spec.Name, contract.PauseUpdate); err != nil {
		return nil, err
	}
	srv, err := source.NewServer(source.ServerOptions{DSN: r.source, Pipeline: "bench-capture"})
	if err != nil {
		return nil, err
	}
	defer srv.Close()
	slot, err := srv.CreateSlot(ctx, "bench_capture")
	if err != nil {
		return nil, err
	}
	if err := r.exec(ctx, r.source, "SELECT pg_create_logical_replication_slot('bench_recv', 'pgoutput')"); err != nil {
		return nil, err
	}

	const clients = 4
	perClient := b.changes / 4 / clients // a transaction of pgbench changes four rows
	if err := program(ctx, "pgbench", "-n", "-c", fmt.Sprint(clients), "-t", fmt.Sprint(perClient), r.source); err != nil {
		return nil, err
	}
	changes := perClient * clients * 4
	end, err := (&check.Postgres{DSN: r.source, Source: true}).Position(ctx)
	if err != nil {
		return nil, err
	}

	recv, err := r.timeRecvlogical(ctx, end)
	if err != nil {
		return nil, err
	}
	toKafka, err := r.timeCapture(ctx, srv, &spec, slot.Confirmed, end)
	if err != nil {
		return nil, fmt.Errorf("source to Kafka: %w", err)
	}
	apply, err := native.timeApply(ctx, end)
	if err != nil {
		return nil, fmt.Errorf("native apply: %w", err)
	}
	led, err := r.ledger(pipeline.SinkPostgres, spec.Name)
	if err != nil {
		return nil, err
	}
	defer led.Close()
	at := time.Now()
	if err := r.update(ctx, spec.Name, contract.ResumeUpdate); err != nil {
		return nil, err
	}
	if err := check.Await(ctx, pipeline.SinkPostgres, led, end); err != nil {
		return nil, err
	}
	toSink := time.Since(at)
	if err := r.sameHistory(ctx, native.dsn); err != nil {
		return nil, err
	}
	return []figure{
		{"peer: pg_recvlogical to /dev/null", perSecond(changes, recv), ""},
		{"Syncline, source → Kafka", perSecond(changes, toKafka), fmt.Sprintf("ratio %.2f to pg_recvlogical", recv.Seconds()/toKafka.Seconds())},
		{"peer: native logical replication, apply", perSecond(changes, apply), ""},
		{"Syncline, source → Kafka → Postgres", perSecond(changes, toSink), fmt.Sprintf("ratio %.2f to native apply, from paused to applied", apply.Seconds()/toSink.Seconds())},
	}, r.destroy(ctx, spec.Name)
}

func (r *rig) timeRecvlogical(ctx context.Context, end change.LSN) (time.Duration, error) {
	at := time.Now()
	err := program(ctx, "pg_recvlogical", "-d", r.source, "-S", "bench_recv", "--start", "-f", "/dev/null", "--endpos", end.String(),
		"-o", "proto_version=1", "-o", "publication_names=bench_native")
	took := time.Since(at)
	return took, errors.Join(err, r.exec(ctx, r.source, "SELECT pg_drop_replication_slot('bench_recv')"))
}

func (r *rig) timeCapture(ctx context.Context, srv *source.Server, spec *pipeline.Spec, from, end change.LSN) (time.Duration, error) {
	ko := kafka.Options{Brokers: spec.Kafka.Brokers, Prefix: r.queue + ".only.", Pipeline: "capture"}
	admin, err := kafka.OpenAdmin(ko)
	if err != nil {
		return 0, err
	}
	defer admin.Close()
	tables := []change.TableID{}
	for _, t := range []string{"accounts", "branches", "tellers", "history"} {
		tables = append(tables, change.TableID{Schema: "public", Name: "pgbench_" + t})
	}
	n := spec.Kafka.Partitions
	if err := admin.EnsureTopics(ctx, kafka.TopicOptions{Partitions: n}, tables, nil); err != nil {
		return 0, err
	}
	defer func() { _ = admin.DeleteTopics(ctx) }()
	records, err := kafka.OpenWriter(ctx, ko, kafka.WriterOptions{Compression: kafka.CompressZstd, Partitions: func(change.TableID) int { return n }})
	if err != nil {
		return 0, err
	}
	defer records.Close()
	stream, err := srv.NewStream(source.StreamOptions{Slot: "bench_capture", Publication: spec.PublicationName(), Epoch: 1, SpillDir: r.dir})
	if err != nil {
		return 0, err
	}
	defer func() { _ = stream.Close(); _ = srv.DropSlot(context.WithoutCancel(ctx), "bench_capture") }()
	run, stop := context.WithCancel(ctx)
	defer stop()
	at := time.Now()
	var took time.Duration
	err = capture.Run(run, stream, records, capture.Options{Epoch: 1, CreatedAt: from, StatusInterval: 50 * time.Millisecond}, capture.Observer{
		Status: func(s capture.Status) {
			if s.Acked >= end && took == 0 {
				took = time.Since(at)
				stop()
			}
		}})
	if took == 0 {
		return 0, errors.Join(errors.New("ended early"), err)
	}
	return took, nil
}

// replica is a second sink database that native logical replication fills.
type replica struct {
	r   *rig
	dsn string
}

func (r *rig) nativeReplica(ctx context.Context) (*replica, error) {
	server, err := need("SYNCLINE_SINK_DSN")
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(server)
	if err != nil {
		return nil, err
	}
	u.Path = "/bench_native"
	n := &replica{r: r, dsn: u.String()}
	if err := r.exec(ctx, server, "DROP DATABASE IF EXISTS bench_native WITH (FORCE)", "CREATE DATABASE bench_native"); err != nil {
		return nil, err
	}
	if err := program(ctx, "pgbench", "-q", "-i", "-I", "dtp", "-s", "10", n.dsn); err != nil {
		return nil, err
	}
	if err := r.exec(ctx, r.source, "CREATE PUBLICATION bench_native FOR ALL TABLES"); err != nil {
		return nil, err
	}
	conn := strings.ReplaceAll(r.source, "'", "''")
	if err := r.exec(ctx, n.dsn, "CREATE SUBSCRIPTION bench_native CONNECTION '"+conn+"' PUBLICATION bench_native"); err != nil {
		return nil, err
	}
	for {
		var left int
		if err := r.value(ctx, n.dsn, "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'", &left); err != nil {
			return nil, err
		}
		if left == 0 {
			return n, r.exec(ctx, n.dsn, "ALTER SUBSCRIPTION bench_native DISABLE")
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// timeApply lets it run until it has confirmed the position.
func (n *replica) timeApply(ctx context.Context, end change.LSN) (time.Duration, error) {
	at := time.Now()
	if err := n.r.exec(ctx, n.dsn, "ALTER SUBSCRIPTION bench_native ENABLE"); err != nil {
		return 0, err
	}
	for {
		var done bool
		// What is flushed lags behind what is applied: ask for what is applied.
		if err := n.r.value(ctx, n.r.source, fmt.Sprintf("SELECT coalesce(bool_or(replay_lsn >= '%s'), false) FROM pg_stat_replication WHERE application_name = 'bench_native'", end), &done); err != nil {
			return 0, err
		}
		if done {
			took := time.Since(at)
			return took, n.r.exec(ctx, n.dsn, "ALTER SUBSCRIPTION bench_native DISABLE")
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

func (n *replica) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_ = n.r.exec(ctx, n.dsn, "DROP SUBSCRIPTION IF EXISTS bench_native")
}

// sameHistory makes sure that both ways led to the same rows.
func (r *rig) sameHistory(ctx context.Context, native string) error {
	const q = "SELECT (SELECT count(*) || '/' || sum(delta) FROM pgbench_history) || ' ' || (SELECT sum(abalance) FROM pgbench_accounts) || ' ' || (SELECT sum(tbalance) FROM pgbench_tellers)"
	var want, peer, ours string
	if err := r.value(ctx, r.source, q, &want); err != nil {
		return err
	}
	if err := r.value(ctx, native, q, &peer); err != nil {
		return err
	}
	if err := r.value(ctx, r.sink, q, &ours); err != nil {
		return err
	}
	if peer != want || ours != want {
		return fmt.Errorf("the source has %s, the native replica %s, Syncline's sink %s", want, peer, ours)
	}
	return nil
}

package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
)

// The broker must do with kafka-go what the transport relies on.
func TestKafkaServesTheTransport(t *testing.T) {
	brokers := Kafka(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	topic := Name(t)
	client := &kafka.Client{Addr: kafka.TCP(brokers...), Timeout: 20 * time.Second}
	made, err := client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{
		Topic: topic, NumPartitions: 3, ReplicationFactor: 1,
		ConfigEntries: []kafka.ConfigEntry{{ConfigName: "retention.ms", ConfigValue: "604800000"}, {ConfigName: "cleanup.policy", ConfigValue: "compact"}, {ConfigName: "max.message.bytes", ConfigValue: "10485760"}},
	}}})
	if err != nil || made.Errors[topic] != nil {
		t.Fatalf("create: %v, %v", err, made)
	}
	t.Cleanup(func() {
		_, _ = client.DeleteTopics(context.Background(), &kafka.DeleteTopicsRequest{Topics: []string{topic}})
	})
	again, err := client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{Topic: topic, NumPartitions: 3, ReplicationFactor: 1}}})
	if err != nil || !errors.Is(again.Errors[topic], kafka.TopicAlreadyExists) {
		t.Errorf("a second creation: %v, %v", err, again)
	}
	conf, err := client.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{{
		ResourceType: kafka.ResourceTypeTopic, ResourceName: topic, ConfigNames: []string{"retention.ms", "max.message.bytes"}}}})
	if err != nil {
		t.Fatalf("describe: %v", err)
	}
	for _, e := range conf.Resources[0].ConfigEntries {
		if want := map[string]string{"retention.ms": "604800000", "max.message.bytes": "10485760"}[e.ConfigName]; want != "" && e.ConfigValue != want {
			t.Errorf("%s = %s, want %s", e.ConfigName, e.ConfigValue, want)
		}
	}
	for _, codec := range []kafka.Compression{kafka.Zstd, kafka.Lz4} {
		w := &kafka.Writer{Addr: kafka.TCP(brokers...), Topic: topic, Balancer: &kafka.Hash{}, RequiredAcks: kafka.RequireAll, Compression: codec, BatchTimeout: 5 * time.Millisecond}
		var batch []kafka.Message
		for i := range 3000 {
			batch = append(batch, kafka.Message{Key: fmt.Appendf(nil, "key%d", i), Value: fmt.Appendf(nil, "value%d", i), Headers: []kafka.Header{{Key: "pos", Value: []byte{1, 2}}}})
		}
		batch = append(batch, kafka.Message{Key: []byte("tombstone")})
		if err := w.WriteMessages(ctx, batch...); err != nil {
			t.Fatalf("write: %v", err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	offsets, err := client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{topic: {
		kafka.FirstOffsetOf(0), kafka.LastOffsetOf(0), kafka.FirstOffsetOf(1), kafka.LastOffsetOf(1), kafka.FirstOffsetOf(2), kafka.LastOffsetOf(2)}}})
	if err != nil {
		t.Fatalf("list offsets: %v", err)
	}
	total := int64(0)
	for _, p := range offsets.Topics[topic] {
		if p.FirstOffset != 0 || p.Error != nil {
			t.Errorf("partition %d: first %d, %v", p.Partition, p.FirstOffset, p.Error)
		}
		total += p.LastOffset
	}
	if total != 6002 {
		t.Errorf("%d messages by offsets, want 6002", total)
	}
	readFrom(ctx, t, brokers, topic, 0, offsets.Topics[topic])
	readFrom(ctx, t, brokers, topic, 500, offsets.Topics[topic])
	res, err := client.Fetch(ctx, &kafka.FetchRequest{Topic: topic, Partition: 0, Offset: 10, MaxWait: time.Second, MinBytes: 1, MaxBytes: 1 << 20})
	if err != nil || res.Error != nil {
		t.Fatalf("fetch: %v, %v", err, res)
	}
	if r, err := res.Records.ReadRecord(); err != nil || r.Offset > 10 {
		t.Errorf("fetch starts at %v, %v", r, err)
	}
	if res, err := client.Fetch(ctx, &kafka.FetchRequest{Topic: topic, Partition: 0, Offset: 99999, MaxWait: time.Second, MinBytes: 1, MaxBytes: 1 << 20}); err != nil || !errors.Is(res.Error, kafka.OffsetOutOfRange) {
		t.Errorf("an offset that is not there: %v, %v", err, res)
	}
	big := &kafka.Writer{Addr: kafka.TCP(brokers...), Topic: topic, RequiredAcks: kafka.RequireAll, BatchBytes: 64 << 20, MaxAttempts: 1}
	var each kafka.WriteErrors
	err = big.WriteMessages(ctx, kafka.Message{Value: make([]byte, 11<<20)})
	if !errors.As(err, &each) || !errors.Is(each[0], kafka.MessageSizeTooLarge) {
		t.Errorf("a message over the limit: %v", err)
	}
	_ = big.Close()
}

func readFrom(ctx context.Context, t *testing.T, brokers []string, topic string, from int64, ends []kafka.PartitionOffsets) {
	t.Helper()
	for _, p := range ends {
		r := kafka.NewReader(kafka.ReaderConfig{Brokers: brokers, Topic: topic, Partition: p.Partition, MinBytes: 1, MaxBytes: 1 << 20, MaxWait: 100 * time.Millisecond})
		if err := r.SetOffset(from); err != nil {
			t.Fatal(err)
		}
		for want := from; want < p.LastOffset; want++ {
			m, err := r.ReadMessage(ctx)
			if err != nil && !errors.Is(err, io.EOF) {
				t.Fatalf("read: %v", err)
			}
			if m.Offset != want {
				t.Fatalf("partition %d: offset %d, want %d", p.Partition, m.Offset, want)
			}
		}
		_ = r.Close()
	}
}

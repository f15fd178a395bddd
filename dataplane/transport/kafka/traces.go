package kafka

import (
	"context"
	"slices"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/transport/debezium"
)

// LogTrace is how many records of keys a topic has.
type LogTrace struct {
	Topic   string
	Found   int64
	Records int64 // that were looked at
}

// Traces counts the records of keys of a table by their own keys, also of changes that
// did not come whole: in the table's topic, and in that in Debezium's form if it has one,
// in the partitions that the keys are in. If the log loses records meanwhile, that is an
// error. progress is told how many records were looked at.
func (l *Log) Traces(ctx context.Context, s *change.Schema, partitions int, keys []change.Key, progress func(records int64)) ([]LogTrace, error) {
	name, err := TopicName(l.c.opts.Prefix, l.c.opts.Pipeline, s.Table)
	if err != nil {
		return nil, err
	}
	own := map[string]bool{}
	var in []int
	for _, k := range keys {
		own[string(k)] = true
		in = append(in, k.Partition(partitions))
	}
	slices.Sort(in)
	in = slices.Compact(in)
	found, err := l.c.traces(ctx, name, in, own, progress)
	out := []LogTrace{found}
	topic := l.c.opts.debeziumTopic(s.Table)
	if err != nil || topic == "" {
		return out, err
	}
	others, err := debeziumKeys(*l.c.opts.Debezium, s, keys)
	if err != nil {
		return nil, err
	}
	found, err = l.c.traces(ctx, topic, in, others, progress)
	return append(out, found), err
}

func (c *cluster) traces(ctx context.Context, topic string, in []int, keys map[string]bool, progress func(int64)) (LogTrace, error) {
	out := LogTrace{Topic: topic}
	info, err := c.topic(ctx, topic)
	if err != nil {
		return out, err
	}
	var ps []partition
	for _, n := range in {
		if n >= len(info.leaders) {
			return out, partitionsMismatch(topic, n+1, len(info.leaders))
		}
		ps = append(ps, partition{topic, int32(n)})
	}
	ends, err := c.ends(ctx, ps)
	if err != nil {
		return out, err
	}
	for _, p := range ps {
		err := c.scan(ctx, p, ends[p][0], ends[p][1], func(r rawRecord) error {
			if out.Records++; out.Records%4096 == 0 {
				progress(out.Records)
			}
			if keys[string(r.key)] {
				out.Found++
			}
			return nil
		})
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// debeziumKeys are the keys as records in Debezium's form have them.
func debeziumKeys(o debezium.Options, s *change.Schema, keys []change.Key) (map[string]bool, error) {
	enc, err := debezium.New(o)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, k := range keys {
		vs, err := k.Values()
		if err != nil {
			return nil, err
		}
		row := make(change.Row, len(s.Columns))
		for i, c := range s.Key {
			row[c] = change.TextValue(vs[i])
		}
		rs, err := enc.Encode(s, &change.Change{Table: s.Table, Schema: s.Version(), Op: change.Delete, Key: k, Old: row}, time.Time{})
		if err != nil {
			return nil, err
		}
		for _, r := range rs {
			out[string(r.Key)] = true
		}
	}
	return out, nil
}

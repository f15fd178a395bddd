package kafka

import (
	"context"
	"slices"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/transport/debezium"
)

// LogTrace is how many records of keys a topic has.
type LogTrace struct {
	Topic   string
	Found   int64
	Records int64  // that were looked at
	How     string // with a place for Records
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

// TracesOfRows does the same for a table whose records bear no key: in all of its topic it
// looks at the rows for the values of the columns that are the key of s. Records in
// Debezium's form are not looked into; all are counted.
func (l *Log) TracesOfRows(ctx context.Context, s *change.Schema, partitions int, keys []change.Key, progress func(records int64)) ([]LogTrace, error) {
	name, err := TopicName(l.c.opts.Prefix, l.c.opts.Pipeline, s.Table)
	if err != nil {
		return nil, err
	}
	own := map[change.Key]bool{}
	for _, k := range keys {
		own[k] = true
	}
	by := map[change.Version]*change.Schema{}
	found := LogTrace{Topic: name, How: "each of %d records by its row"}
	for n := range partitions {
		sp := sink.Partition{Table: s.Table, N: n}
		first, end, err := l.Range(ctx, sp)
		if err != nil {
			return nil, err
		}
		if err := l.Between(ctx, sp, first, end, func(c *change.Change) error {
			if found.Records++; found.Records%4096 == 0 {
				progress(found.Records)
			}
			def, known := by[c.Schema]
			if !known {
				have, err := l.Schema(ctx, c.Schema)
				if err != nil {
					return err
				}
				def = keyedAs(have, s)
				by[c.Schema] = def
			}
			if def == nil || c.Op == change.Truncate {
				return nil // it has not all of the columns, or no row
			}
			for _, k := range def.Key {
				if k >= len(c.New) || c.New[k].Kind != change.Text {
					return nil // NULL is no value of a key
				}
			}
			key, err := change.MakeKey(def, c.New)
			if err == nil && own[key] {
				found.Found++
			}
			return err
		}); err != nil {
			return nil, err
		}
	}
	out := []LogTrace{found}
	topic := l.c.opts.debeziumTopic(s.Table)
	if topic == "" {
		return out, nil
	}
	others := LogTrace{Topic: topic, How: "not looked into: all of its %d records are counted, which bear no key"}
	others.Records, err = l.c.records(ctx, topic)
	others.Found = others.Records
	return append(out, others), err
}

// keyedAs is a definition with the key columns of another; nil if it lacks one.
func keyedAs(have, s *change.Schema) *change.Schema {
	out := *have
	out.Key = nil
	for _, k := range s.Key {
		i := have.Column(s.Columns[k].Name)
		if i < 0 {
			return nil
		}
		out.Key = append(out.Key, i)
	}
	return &out
}

// records counts what a topic holds.
func (c *cluster) records(ctx context.Context, topic string) (n int64, err error) {
	info, err := c.topic(ctx, topic)
	if err != nil {
		return 0, err
	}
	var ps []partition
	for i := range info.leaders {
		ps = append(ps, partition{topic, int32(i)})
	}
	ends, err := c.ends(ctx, ps)
	for _, p := range ps {
		n += ends[p][1] - ends[p][0]
	}
	return n, err
}

func (c *cluster) traces(ctx context.Context, topic string, in []int, keys map[string]bool, progress func(int64)) (LogTrace, error) {
	out := LogTrace{Topic: topic, How: "each of %d records by its key"}
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

package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	kgo "github.com/segmentio/kafka-go"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// TopicOptions are what a pipeline's topics are created with.
type TopicOptions struct {
	Partitions        int           // of a table's topic; default 8
	ReplicationFactor int           // default: the broker's (-1)
	MinInsyncReplicas int           // default: the broker's
	Retention         time.Duration // default 7 days; negative: for ever
	MaxMessageBytes   int           // default 1 MiB; WriterOptions.MaxMessageBytes must not be larger
}

func (o *TopicOptions) validate() error {
	setDefault(&o.Partitions, 8)
	setDefault(&o.ReplicationFactor, -1)
	setDefault(&o.Retention, 7*24*time.Hour)
	setDefault(&o.MaxMessageBytes, 1<<20)
	switch {
	case o.Partitions < 1 || o.Partitions > 10_000:
		return fmt.Errorf("kafka: %d partitions", o.Partitions)
	case o.MaxMessageBytes < 16<<10:
		return errors.New("kafka: max_message_bytes is below 16 KiB")
	case o.MinInsyncReplicas < 0 || o.ReplicationFactor < -1 || o.ReplicationFactor == 0:
		return errors.New("kafka: replicas below zero")
	}
	return nil
}

// Admin creates, checks and deletes a pipeline's topics.
type Admin struct{ c *cluster }

// OpenAdmin prepares a connection; it is made by the first call.
func OpenAdmin(o Options) (*Admin, error) {
	c, err := connect(o)
	if err != nil {
		return nil, err
	}
	return &Admin{c}, nil
}

// Close ends the connections.
func (a *Admin) Close() error { a.c.close(); return nil }

// Check reports whether the brokers can be reached and accept the credentials,
// and how many there are.
func (a *Admin) Check(ctx context.Context) (brokers int, err error) {
	ctx, cancel := context.WithTimeout(ctx, a.c.opts.RequestTimeout)
	defer cancel()
	m, err := a.c.client.Metadata(ctx, &kgo.MetadataRequest{})
	if err != nil {
		what := "brokers " + strings.Join(a.c.opts.Brokers, ", ")
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			what += " close the connection while it is set up; check the TLS and SASL settings"
		}
		return 0, classify(ctx, err, what)
	}
	return len(m.Brokers), nil
}

// EnsureTopics creates what is missing of the tables' topics and the pipeline's
// own, checks the partition counts of those that exist, and gives these the
// declared retention and message size. partitions may
// be nil; it returns the number declared for a table, 0 for the default.
func (a *Admin) EnsureTopics(ctx context.Context, o TopicOptions, tables []change.TableID, partitions func(change.TableID) int) error {
	want, err := a.want(o, tables, partitions)
	if err != nil {
		return err
	}
	return a.ensure(ctx, want)
}

// EnsureIndex creates the index's topic if the pipeline is older than indexes are.
func (a *Admin) EnsureIndex(ctx context.Context, o TopicOptions) error {
	name := IndexTopic(a.c.opts.Prefix, a.c.opts.Pipeline)
	have, err := a.all(ctx)
	if _, ok := have[name]; ok || err != nil {
		return err
	}
	want, err := a.want(o, nil, nil)
	if err != nil {
		return err
	}
	return a.ensure(ctx, slices.DeleteFunc(want, func(t kgo.TopicConfig) bool { return t.Topic != name }))
}

// longer is how much longer the index is kept than the tables' topics: a search
// for their first record needs one from before it.
const longer = 24 * time.Hour

func (a *Admin) want(o TopicOptions, tables []change.TableID, partitions func(change.TableID) int) ([]kgo.TopicConfig, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	retention, index := "-1", "-1"
	if o.Retention > 0 {
		retention = strconv.FormatInt(o.Retention.Milliseconds(), 10)
		index = strconv.FormatInt((o.Retention + longer).Milliseconds(), 10)
	}
	common := []kgo.ConfigEntry{
		{ConfigName: "max.message.bytes", ConfigValue: strconv.Itoa(o.MaxMessageBytes)},
		{ConfigName: "compression.type", ConfigValue: "producer"},
	}
	if o.MinInsyncReplicas > 0 {
		common = append(common, kgo.ConfigEntry{ConfigName: "min.insync.replicas", ConfigValue: strconv.Itoa(o.MinInsyncReplicas)})
	}
	topic := func(name string, n int, extra ...string) kgo.TopicConfig {
		t := kgo.TopicConfig{Topic: name, NumPartitions: n, ReplicationFactor: o.ReplicationFactor, ConfigEntries: slices.Clone(common)}
		for i := 0; i < len(extra); i += 2 {
			t.ConfigEntries = append(t.ConfigEntries, kgo.ConfigEntry{ConfigName: extra[i], ConfigValue: extra[i+1]})
		}
		return t
	}
	want := []kgo.TopicConfig{
		topic(SchemasTopic(a.c.opts.Prefix, a.c.opts.Pipeline), 1, "cleanup.policy", "compact"),
		// Bounded by size, not by time: however long a pipeline stood still, its last
		// progress is what tells a slot that somebody advanced.
		topic(ProgressTopic(a.c.opts.Prefix, a.c.opts.Pipeline), 1,
			"cleanup.policy", "delete", "retention.ms", "-1", "retention.bytes", strconv.Itoa(256<<20), "segment.bytes", strconv.Itoa(64<<20)),
		// That bound is hours of a pipeline with many tables; what is looked up later is
		// in the index, which has a record a minute and is kept by time.
		topic(IndexTopic(a.c.opts.Prefix, a.c.opts.Pipeline), 1, "cleanup.policy", "delete", "retention.ms", index, "retention.bytes", "-1"),
	}
	for _, id := range tables {
		name, err := TopicName(a.c.opts.Prefix, a.c.opts.Pipeline, id)
		if err != nil {
			return nil, err
		}
		n := o.Partitions
		if partitions != nil {
			if p := partitions(id); p > 0 {
				n = p
			}
		}
		want = append(want, topic(name, n, "cleanup.policy", "delete", "retention.ms", retention, "retention.bytes", "-1"))
		if name := a.c.opts.debeziumTopic(id); name != "" {
			if slices.ContainsFunc(want, func(t kgo.TopicConfig) bool { return t.Topic == name }) {
				return nil, fault.Permanent(CodeTopicName, nil, "exclude or rename one of the tables", "two tables would have the Debezium topic %s", name)
			}
			want = append(want, topic(name, n, "cleanup.policy", "delete", "retention.ms", retention, "retention.bytes", "-1"))
		}
	}
	return want, nil
}

// ensure creates topics that are missing and checks and adapts the others.
func (a *Admin) ensure(ctx context.Context, want []kgo.TopicConfig) error {
	a.c.renew() // what an earlier call cached may be old
	have, err := a.all(ctx)
	if err != nil {
		return err
	}
	var missing, exist []kgo.TopicConfig
	for _, t := range want {
		info, ok := have[t.Topic]
		if !ok {
			missing = append(missing, t)
		} else if len(info.leaders) != t.NumPartitions {
			return partitionsMismatch(t.Topic, t.NumPartitions, len(info.leaders))
		} else {
			exist = append(exist, t)
		}
	}
	if err := a.align(ctx, exist); err != nil {
		return err
	}
	if len(missing) == 0 {
		return nil
	}
	err = a.c.retry(ctx, func() error {
		rctx, cancel := context.WithTimeout(ctx, 2*a.c.opts.RequestTimeout)
		defer cancel()
		res, err := a.c.client.CreateTopics(rctx, &kgo.CreateTopicsRequest{Topics: missing})
		if err != nil {
			return err
		}
		for name, err := range res.Errors {
			switch {
			case err == nil || errors.Is(err, kgo.TopicAlreadyExists):
			case errors.Is(err, kgo.InvalidTopic):
				return fault.Permanent(CodeTopicName, err, "exclude or rename one of the tables; names that differ only in dots and underscores collide", "topic %s", name)
			case errors.Is(err, kgo.InvalidReplicationFactor):
				return fault.Permanent(CodeRefused, err, "lower the replication factor or add brokers", "create topic %s", name)
			default:
				return fmt.Errorf("create topic %s: %w", name, err)
			}
		}
		return nil
	})
	if err != nil {
		return classify(ctx, err, "create topics")
	}
	for _, t := range missing { // all brokers know it, and nobody made it in between with another number
		info, err := a.c.topic(ctx, t.Topic)
		if err != nil {
			return err
		}
		if len(info.leaders) != t.NumPartitions {
			return partitionsMismatch(t.Topic, t.NumPartitions, len(info.leaders))
		}
	}
	return nil
}

// declared are the settings of topics that follow the declaration when it changes.
// What else an operator has set of a topic stays.
var declared = []string{"retention.ms", "max.message.bytes"}

// align gives topics that exist the declared settings where they differ.
func (a *Admin) align(ctx context.Context, topics []kgo.TopicConfig) error {
	if len(topics) == 0 {
		return nil
	}
	describe := &kgo.DescribeConfigsRequest{}
	want := map[string]map[string]string{}
	for _, t := range topics {
		describe.Resources = append(describe.Resources, kgo.DescribeConfigRequestResource{ResourceType: kgo.ResourceTypeTopic, ResourceName: t.Topic, ConfigNames: declared})
		want[t.Topic] = map[string]string{}
		for _, e := range t.ConfigEntries {
			if slices.Contains(declared, e.ConfigName) {
				want[t.Topic][e.ConfigName] = e.ConfigValue
			}
		}
	}
	differ := func() (*kgo.IncrementalAlterConfigsRequest, error) {
		alter := &kgo.IncrementalAlterConfigsRequest{}
		err := a.c.retry(ctx, func() error {
			rctx, cancel := context.WithTimeout(ctx, a.c.opts.RequestTimeout)
			defer cancel()
			alter.Resources = nil
			have, err := a.c.client.DescribeConfigs(rctx, describe)
			if err != nil {
				return err
			}
			for _, r := range have.Resources {
				if r.Error != nil {
					return fmt.Errorf("topic %s: %w", r.ResourceName, r.Error)
				}
				change := kgo.IncrementalAlterConfigsRequestResource{ResourceType: kgo.ResourceTypeTopic, ResourceName: r.ResourceName}
				for _, e := range r.ConfigEntries {
					if v, ok := want[r.ResourceName][e.ConfigName]; ok && v != e.ConfigValue {
						change.Configs = append(change.Configs, kgo.IncrementalAlterConfigsRequestConfig{Name: e.ConfigName, Value: v, ConfigOperation: kgo.ConfigOperationSet})
					}
				}
				if len(change.Configs) > 0 {
					alter.Resources = append(alter.Resources, change)
				}
			}
			return nil
		})
		return alter, classify(ctx, err, "settings of topics")
	}
	alter, err := differ()
	if err != nil || len(alter.Resources) == 0 {
		return err
	}
	err = a.c.retry(ctx, func() error {
		rctx, cancel := context.WithTimeout(ctx, 2*a.c.opts.RequestTimeout)
		defer cancel()
		done, err := a.c.client.IncrementalAlterConfigs(rctx, alter)
		if err != nil {
			return err
		}
		for _, r := range done.Resources {
			if r.Error != nil {
				return fmt.Errorf("topic %s: %w", r.ResourceName, r.Error)
			}
		}
		return nil
	})
	if err != nil {
		return classify(ctx, err, "change settings of topics")
	}
	// Brokers learn of it a moment later; a writer that is faster would be refused a
	// message that has become small enough.
	end := time.Now().Add(2 * a.c.opts.RequestTimeout)
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		left, err := differ()
		if err != nil || len(left.Resources) == 0 {
			return err
		}
		if time.Now().After(end) {
			return fault.Transient(CodeRefused, nil, "settings of topic %s are changed, and the brokers still show the old ones", left.Resources[0].ResourceName)
		}
		if !sleep(ctx, wait) {
			return classify(ctx, ctx.Err(), "settings of topics")
		}
	}
}

func (a *Admin) all(ctx context.Context) (map[string]topicInfo, error) {
	var out map[string]topicInfo
	err := a.c.retry(ctx, func() (err error) {
		out, err = a.c.topics(ctx)
		return err
	})
	return out, classify(ctx, err, "brokers "+strings.Join(a.c.opts.Brokers, ", "))
}

// Topic is one table's topic.
type Topic struct {
	Name       string
	Table      change.TableID
	Partitions int
}

// Topics lists the topics of the pipeline's tables.
func (a *Admin) Topics(ctx context.Context) ([]Topic, error) {
	a.c.renew()
	all, err := a.all(ctx)
	if err != nil {
		return nil, err
	}
	var out []Topic
	for name, info := range all {
		if id, ok := ParseTopicName(a.c.opts.Prefix, a.c.opts.Pipeline, name); ok {
			out = append(out, Topic{name, id, len(info.leaders)})
		}
	}
	slices.SortFunc(out, func(x, y Topic) int { return strings.Compare(x.Name, y.Name) })
	return out, nil
}

// Any reports whether there is a topic of the pipeline, its own included.
func (a *Admin) Any(ctx context.Context) (bool, error) {
	a.c.renew()
	all, err := a.all(ctx)
	for name := range all {
		if a.owns(name) {
			return true, err
		}
	}
	return false, err
}

// owns reports whether a topic is the pipeline's, in the format of ours.
func (a *Admin) owns(name string) bool {
	_, ok := ParseTopicName(a.c.opts.Prefix, a.c.opts.Pipeline, name)
	return ok || a.own(name)
}

// own reports whether a topic is one of those that are no table's.
func (a *Admin) own(name string) bool {
	prefix, pipeline := a.c.opts.Prefix, a.c.opts.Pipeline
	return name == SchemasTopic(prefix, pipeline) || name == ProgressTopic(prefix, pipeline) || name == IndexTopic(prefix, pipeline)
}

// Ranges returns what the topics of tables hold, by partition, from the first
// record that is not older than since; the zero time means all. Tables without a
// topic are left out.
func (a *Admin) Ranges(ctx context.Context, since time.Time, tables ...change.TableID) (map[change.TableID][]sink.LogRange, error) {
	topics, err := a.Topics(ctx)
	if err != nil {
		return nil, err
	}
	topics = slices.DeleteFunc(topics, func(t Topic) bool { return !slices.Contains(tables, t.Table) })
	var ps []partition
	for _, t := range topics {
		for n := range t.Partitions {
			ps = append(ps, partition{t.Name, int32(n)})
		}
	}
	if len(ps) == 0 {
		return nil, nil
	}
	ats := []int64{kgo.FirstOffset, kgo.LastOffset}
	if !since.IsZero() {
		ats = append(ats, since.UnixMilli())
	}
	at, err := a.c.offsets(ctx, ps, ats...)
	if err != nil {
		return nil, err
	}
	out := make(map[change.TableID][]sink.LogRange, len(topics))
	for _, t := range topics {
		for n := range t.Partitions {
			o := at[partition{t.Name, int32(n)}]
			r := sink.LogRange{From: o[0], End: o[1]}
			if len(o) > 2 {
				if r.From = r.End; o[2] >= 0 {
					r.From = min(max(o[2], o[0]), r.End) // each was asked for a moment after the other
				}
			}
			out[t.Table] = append(out[t.Table], r)
		}
	}
	return out, nil
}

// DeleteTopics deletes the topics of the named tables, in Debezium's form too; with
// none named, all of the pipeline's topics, its own included. Topics that are gone already are
// no error.
func (a *Admin) DeleteTopics(ctx context.Context, tables ...change.TableID) error {
	a.c.renew()
	all, err := a.all(ctx)
	if err != nil {
		return err
	}
	var names []string
	for name := range all {
		id, ok := ParseTopicName(a.c.opts.Prefix, a.c.opts.Pipeline, name)
		if len(tables) == 0 && (ok || a.own(name)) || ok && slices.Contains(tables, id) {
			names = append(names, name)
			if d := a.c.opts.debeziumTopic(id); ok && d != "" && len(all[d].leaders) > 0 {
				names = append(names, d)
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	err = a.c.retry(ctx, func() error {
		rctx, cancel := context.WithTimeout(ctx, 2*a.c.opts.RequestTimeout)
		defer cancel()
		res, err := a.c.client.DeleteTopics(rctx, &kgo.DeleteTopicsRequest{Topics: names})
		if err != nil {
			return err
		}
		for name, err := range res.Errors {
			if err != nil && !errors.Is(err, kgo.UnknownTopicOrPartition) {
				return fmt.Errorf("delete topic %s: %w", name, err)
			}
		}
		return nil
	})
	if err != nil {
		a.c.renew()
		return classify(ctx, err, "delete topics")
	}
	return a.awaitGone(ctx, names)
}

// awaitGone waits until the brokers, which learn of a deletion a moment later, no
// longer list the topics: whoever makes them anew would take them to be there.
func (a *Admin) awaitGone(ctx context.Context, names []string) error {
	end := time.Now().Add(2 * a.c.opts.RequestTimeout)
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		a.c.renew()
		have, err := a.all(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(names, func(n string) bool { _, ok := have[n]; return ok })
		if i < 0 {
			return nil
		}
		if time.Now().After(end) {
			return fault.Transient(CodeRefused, nil, "topic %s is deleted, and the brokers still list it", names[i])
		}
		if !sleep(ctx, wait) {
			return classify(ctx, ctx.Err(), "delete topics")
		}
	}
}

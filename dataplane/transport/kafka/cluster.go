package kafka

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// partition is one partition of a topic.
type partition struct {
	topic string
	n     int32
}

func (p partition) String() string { return fmt.Sprintf("topic %s partition %d", p.topic, p.n) }

// cluster is the connections to one cluster.
type cluster struct {
	opts      Options
	addr      net.Addr
	transport *transports
	client    *kgo.Client
	cancel    context.CancelFunc

	mu        sync.Mutex
	refreshed time.Time
}

func connect(o Options) (*cluster, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := newTransports(ctx, &o)
	addr := kgo.TCP(o.Brokers...)
	return &cluster{
		opts: o, addr: addr, transport: t, cancel: cancel,
		client: &kgo.Client{Addr: addr, Transport: t},
	}, nil
}

func (c *cluster) close() {
	c.cancel()
	c.transport.close()
}

// roundTrip sends one request and waits at most wait longer than the
// configured timeout for its response.
func (c *cluster) roundTrip(ctx context.Context, wait time.Duration, req protocol.Message) (protocol.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.RequestTimeout+wait)
	defer cancel()
	return c.transport.RoundTrip(ctx, c.addr, req)
}

// refresh makes the next request learn leaders and topics anew, on new
// connections: after a broker's restart all pooled ones are dead.
func (c *cluster) refresh() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.refreshed) < 100*time.Millisecond {
		return // many requests fail at once
	}
	c.refreshed = time.Now()
	c.transport.CloseIdleConnections()
}

// renew is refresh without its limit, for callers that must see what they just did.
func (c *cluster) renew() { c.transport.CloseIdleConnections() }

// topicInfo is what the cluster says of a topic.
type topicInfo struct {
	leaders  []int32 // by partition; -1: none
	replicas int
}

// topics returns what is known of the named topics, or of all.
func (c *cluster) topics(ctx context.Context, names ...string) (map[string]topicInfo, error) {
	m, err := c.roundTrip(ctx, 0, &metadata.Request{TopicNames: names})
	if err != nil {
		return nil, err
	}
	res := m.(*metadata.Response)
	out := make(map[string]topicInfo, len(res.Topics))
	for i := range res.Topics {
		t := &res.Topics[i]
		if t.ErrorCode != 0 {
			if e := kgo.Error(t.ErrorCode); e != kgo.UnknownTopicOrPartition && e != kgo.LeaderNotAvailable {
				return nil, fmt.Errorf("topic %s: %w", t.Name, e)
			}
			continue
		}
		info := topicInfo{leaders: make([]int32, len(t.Partitions))}
		for _, p := range t.Partitions {
			if int(p.PartitionIndex) < len(info.leaders) {
				info.leaders[p.PartitionIndex] = p.LeaderID
			}
			info.replicas = len(p.ReplicaNodes)
		}
		if len(t.Partitions) > 0 {
			out[t.Name] = info
		}
	}
	return out, nil
}

// topic returns what is known of one topic, and asks again for up to RetryFor
// before it says that there is none.
func (c *cluster) topic(ctx context.Context, name string) (topicInfo, error) {
	var info topicInfo
	err := c.retry(ctx, func() error {
		all, err := c.topics(ctx, name)
		if err != nil {
			return err
		}
		var ok bool
		if info, ok = all[name]; !ok {
			return protocol.NewErrNoTopic(name)
		}
		return nil
	})
	return info, classify(ctx, err, "topic "+name)
}

// retry calls f until it succeeds, fails for good, or RetryFor is over.
func (c *cluster) retry(ctx context.Context, f func() error) error {
	end := time.Now().Add(c.opts.RetryFor)
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := f()
		if !passing(err) || ctx.Err() != nil || time.Now().Add(wait).After(end) {
			return err
		}
		if !sleep(ctx, wait/2+rand.N(wait/2)) {
			return err
		}
		c.refresh()
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// ends returns the first offset and the one after the last of each partition.
func (c *cluster) ends(ctx context.Context, ps []partition) (map[partition][2]int64, error) {
	at, err := c.offsets(ctx, ps, kgo.FirstOffset, kgo.LastOffset)
	out := make(map[partition][2]int64, len(at))
	for p, o := range at {
		out[p] = [2]int64(o)
	}
	return out, err
}

// offsets returns what each partition answers to each of ats: kgo.FirstOffset,
// kgo.LastOffset, or a time in milliseconds, for the first record that is not
// older (-1 if there is none).
func (c *cluster) offsets(ctx context.Context, ps []partition, ats ...int64) (map[partition][]int64, error) {
	out := make(map[partition][]int64, len(ps))
	err := c.retry(ctx, func() error {
		clear(out)
		byLeader, err := c.byLeader(ctx, ps)
		if err != nil {
			return err
		}
		for leader, topics := range byLeader {
			for i, at := range ats {
				m, err := c.roundTrip(ctx, 0, &offsetsRequest{toLeader: toLeader{leader}, client: c.opts.ClientID, at: at, topics: topics})
				if err != nil {
					return err
				}
				res := m.(*offsetsResponse)
				for p, e := range res.errs {
					return fmt.Errorf("%s: %w", p, e)
				}
				for p, o := range res.offsets {
					if out[p] == nil {
						out[p] = make([]int64, len(ats))
					}
					out[p][i] = o
				}
			}
		}
		for _, p := range ps {
			if _, ok := out[p]; !ok {
				return fmt.Errorf("%s: %w", p, kgo.LeaderNotAvailable)
			}
		}
		return nil
	})
	return out, classify(ctx, err, "offsets of the log")
}

func (c *cluster) byLeader(ctx context.Context, ps []partition) (map[int32]map[string][]int32, error) {
	leaders, err := c.leaders(ctx, ps)
	if err != nil {
		return nil, err
	}
	out := map[int32]map[string][]int32{}
	for _, p := range ps {
		leader, ok := leaders[p]
		if !ok {
			return nil, fmt.Errorf("%s: %w", p, protocol.ErrNoTopic)
		}
		if leader < 0 {
			return nil, fmt.Errorf("%s: %w", p, kgo.LeaderNotAvailable)
		}
		if out[leader] == nil {
			out[leader] = map[string][]int32{}
		}
		out[leader][p.topic] = append(out[leader][p.topic], p.n)
	}
	return out, nil
}

// leaders returns the leader of each partition, -1 if it has none; partitions
// that the cluster does not know are left out.
func (c *cluster) leaders(ctx context.Context, ps []partition) (map[partition]int32, error) {
	names := make([]string, 0, len(ps))
	for _, p := range ps {
		names = append(names, p.topic)
	}
	slices.Sort(names)
	infos, err := c.topics(ctx, slices.Compact(names)...)
	if err != nil {
		return nil, err
	}
	out := make(map[partition]int32, len(ps))
	for _, p := range ps {
		if info, ok := infos[p.topic]; ok && int(p.n) < len(info.leaders) {
			out[p] = info.leaders[p.n]
		}
	}
	return out, nil
}

package kafka

import (
	"context"
	"fmt"
	"sync"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// outgoing is one batch on its way to one partition.
type outgoing struct {
	partition
	wire []byte // a produce request's record set, with its length
	base int64  // offset of its first record, once acknowledged
	err  error  // of the last attempt; nil once acknowledged
}

// produce writes batches, at most one per partition, with acknowledgement by
// all in-sync replicas. Batches that fail for a passing reason are sent again,
// unchanged: their partition must have nothing else in flight meanwhile. acked is
// called for each batch as soon as it is safe. What is left over has its err set.
func (c *cluster) produce(ctx context.Context, batches []*outgoing, acked func(*outgoing)) error {
	for _, b := range batches {
		b.err = protocol.ErrNoLeader // until a response says otherwise
	}
	err := c.retry(ctx, func() error {
		ps := make([]partition, len(batches))
		for i, b := range batches {
			ps[i] = b.partition
		}
		leaders, err := c.leaders(ctx, ps)
		if err != nil {
			return err
		}
		groups := map[int32][]*outgoing{}
		for _, b := range batches {
			switch leader, ok := leaders[b.partition]; {
			case !ok:
				b.err = fmt.Errorf("%s: %w", b.partition, protocol.ErrNoTopic)
			case leader < 0:
				b.err = fmt.Errorf("%s: %w", b.partition, kgo.LeaderNotAvailable)
			default:
				groups[leader] = append(groups[leader], b)
			}
		}
		var wg sync.WaitGroup
		for leader, group := range groups {
			if len(groups) == 1 {
				c.produceTo(ctx, leader, group)
				break
			}
			wg.Go(func() { c.produceTo(ctx, leader, group) })
		}
		wg.Wait()
		left := batches[:0]
		var worst error
		for _, b := range batches {
			if b.err == nil {
				acked(b)
				continue
			}
			left = append(left, b)
			if worst == nil || !passing(b.err) { // one lasting error ends the retries
				worst = b.err
			}
		}
		batches = left
		return worst
	})
	return classify(ctx, err, "write to the log")
}

// produceTo sends one request to one broker and sets base or err of each batch.
func (c *cluster) produceTo(ctx context.Context, leader int32, batches []*outgoing) {
	req := &produceRequest{
		toLeader: toLeader{leader}, client: c.opts.ClientID, batches: batches,
		timeout: int32(c.opts.RequestTimeout * 8 / 10 / time.Millisecond),
	}
	req.encode()
	m, err := c.roundTrip(ctx, 0, req)
	if err != nil {
		for _, b := range batches {
			b.err = fmt.Errorf("%s: %w", b.partition, err)
		}
		return
	}
	res := m.(*produceResponse)
	for _, b := range batches {
		switch a, ok := res.answers[b.partition]; {
		case !ok:
			b.err = fmt.Errorf("%s: no answer: %w", b.partition, kgo.NetworkException)
		case a.err != 0:
			b.err = fmt.Errorf("%s: %w", b.partition, a.err)
		default:
			b.base, b.err = a.base, nil
		}
	}
}

// put writes one record and waits for it.
func (c *cluster) put(ctx context.Context, p partition, key, value []byte, headers []header) (int64, error) {
	b, _ := appendRecord(newBatch(nil), nil, 0, key, value, headers)
	b, err := sealBatch(b, nil, 1, time.Now().UnixMilli(), CompressNone)
	if err != nil {
		return 0, err
	}
	out := &outgoing{partition: p, wire: b}
	err = c.produce(ctx, []*outgoing{out}, func(*outgoing) {})
	return out.base, err
}

package kafka

import (
	"context"
	"fmt"
	"io"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// Sizes returns how many bytes the topics of the pipeline's tables occupy on the brokers,
// as compressed and on all replicas; under the zero table, those that are no table's.
func (a *Admin) Sizes(ctx context.Context) (map[change.TableID]int64, error) {
	a.c.renew()
	all, err := a.all(ctx)
	if err != nil {
		return nil, err
	}
	of, ask := map[string]change.TableID{}, map[string]int{}
	for name, info := range all {
		id, ok := ParseTopicName(a.c.opts.Prefix, a.c.opts.Pipeline, name)
		if !ok && !a.own(name) {
			continue
		}
		of[name], ask[name] = id, len(info.leaders)
		if d := a.c.opts.debeziumTopic(id); ok && d != "" && len(all[d].leaders) > 0 {
			of[d], ask[d] = id, len(all[d].leaders)
		}
	}
	out := make(map[change.TableID]int64, len(of))
	if len(ask) == 0 {
		return out, nil
	}
	told := false
	err = a.c.retry(ctx, func() error {
		clear(out)
		rctx, cancel := context.WithTimeout(ctx, a.c.opts.RequestTimeout)
		defer cancel()
		m, err := a.c.client.Metadata(rctx, &kgo.MetadataRequest{Topics: []string{}})
		if err != nil {
			return err
		}
		for _, b := range m.Brokers { // each knows its own disks
			m, err := a.c.roundTrip(ctx, 0, &logDirsRequest{toLeader: toLeader{int32(b.ID)}, client: a.c.opts.ClientID, topics: ask})
			if err != nil {
				return err
			}
			res := m.(*logDirsResponse)
			if res.err != 0 {
				return fmt.Errorf("broker %d: %w", b.ID, res.err)
			}
			for name, size := range res.sizes {
				told = true
				out[of[name]] += size
			}
		}
		return nil
	})
	if err == nil && !told {
		return nil, fault.Transient(CodeAuth, nil, "the brokers do not tell the sizes of topics: allow the user that the pipeline declares to Describe the cluster")
	}
	return out, classify(ctx, err, "sizes of topics")
}

const logDirsVersion = 1 // since Kafka 1.1

// logDirsRequest asks one broker for the sizes of partitions on its disks.
type logDirsRequest struct {
	toLeader
	client string
	topics map[string]int // with their numbers of partitions
}

type logDirsResponse struct {
	sizes map[string]int64
	err   kgo.Error
}

//lint:ignore ST1003 the name is that of an interface of kafka-go
func (*logDirsRequest) ApiKey() protocol.ApiKey { return protocol.DescribeLogDirs }

//lint:ignore ST1003 the name is that of an interface of kafka-go
func (*logDirsResponse) ApiKey() protocol.ApiKey { return protocol.DescribeLogDirs }

// Required makes kafka-go call RawExchange. What version there is it does not tell: of
// this request it knows none.
func (*logDirsRequest) Required(map[protocol.ApiKey]int16) bool { return true }

// RawExchange sends the request and reads its response.
func (r *logDirsRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	var e enc
	e.request(protocol.DescribeLogDirs, logDirsVersion, r.client)
	e.i32(int32(len(r.topics)))
	for name, n := range r.topics {
		e.str(name)
		e.i32(int32(n))
		for p := range n {
			e.i32(int32(p))
		}
	}
	if err := e.send(rw); err != nil {
		return nil, err
	}
	return readLogDirsResponse(rw)
}

func readLogDirsResponse(r io.Reader) (*logDirsResponse, error) {
	d := dec{r: r}
	d.response()
	d.i32() // throttle
	res := &logDirsResponse{sizes: map[string]int64{}}
	for n := d.count(8); n > 0 && d.err == nil; n-- {
		if code := d.i16(); code != 0 && d.err == nil {
			res.err = kgo.Error(code)
		}
		d.bytes(int(d.i16())) // path
		for n := d.count(6); n > 0 && d.err == nil; n-- {
			name := string(d.bytes(int(d.i16())))
			for n := d.count(21); n > 0 && d.err == nil; n-- {
				d.i32() // partition
				size := d.i64()
				d.i64()           // lag of a copy that moves to another disk
				d.full(d.buf[:1]) // whether it is one
				if d.err == nil {
					res.sizes[name] += size
				}
			}
		}
	}
	return res, d.end()
}

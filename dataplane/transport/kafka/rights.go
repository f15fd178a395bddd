package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// operations on a topic that a pipeline needs, by their bits in an answer.
var operations = []struct {
	bit  int
	name string
}{{3, "Read"}, {4, "Write"}, {5, "Create"}, {6, "Delete"}, {7, "Alter"}, {8, "Describe"}, {10, "DescribeConfigs"}, {11, "AlterConfigs"}}

// Rights asks the brokers what the login may do with the pipeline's topics, and reads
// the settings and the end of those that are no table's. Nothing can be produced that
// leaves no trace, nor a topic altered: for that, what the brokers say has to do, which
// is what they would decide by. Tables without a topic yet are left out.
func (a *Admin) Rights(ctx context.Context, tables ...change.TableID) error {
	prefix, pipeline := a.c.opts.Prefix, a.c.opts.Pipeline
	own := []string{SchemasTopic(prefix, pipeline), ProgressTopic(prefix, pipeline), IndexTopic(prefix, pipeline)}
	names := slices.Clone(own)
	for _, id := range tables {
		name, err := TopicName(prefix, pipeline, id)
		if err != nil {
			return err
		}
		names = append(names, name)
		if d := a.c.opts.debeziumTopic(id); d != "" {
			names = append(names, d)
		}
	}
	what := "rights on topics of pipeline " + pipeline
	if _, err := a.Check(ctx); err != nil { // else a refused login shows as brokers that are not known
		return err
	}
	var res *rightsResponse
	err := a.c.retry(ctx, func() error {
		m, err := a.c.roundTrip(ctx, 0, &rightsRequest{client: a.c.opts.ClientID, topics: names})
		if err == nil {
			res = m.(*rightsResponse)
		}
		return err
	})
	if err != nil {
		return classify(ctx, err, what)
	}
	missing, there := a.missingRights(res.of)
	for _, name := range own {
		if !slices.Contains(there, name) {
			continue
		}
		if err := a.look(ctx, name); err != nil {
			err = classify(ctx, err, "topic "+name)
			if !MayNot(err) {
				return err
			}
			missing = append(missing, err)
		}
	}
	return errors.Join(missing...)
}

// missingRights names what an answer does not allow, and lists the topics that are there.
func (a *Admin) missingRights(res *metadata.Response) (missing []error, there []string) {
	lacks := func(topic string, cause error, ops []string) {
		f := fault.Transient(CodeAuth, cause, "%s may not %s topic %s", a.c.opts.SASL.User, strings.Join(ops, ", "), topic)
		f.Fix = fmt.Sprintf("kafka-acls.sh --add --allow-principal User:%s --operation %s --topic %s", a.c.opts.SASL.User, strings.Join(ops, " --operation "), topic)
		missing = append(missing, f)
	}
	for i := range res.Topics {
		t := &res.Topics[i]
		switch e := kgo.Error(t.ErrorCode); {
		case e == kgo.TopicAuthorizationFailed:
			lacks(t.Name, e, []string{"Describe"})
			continue
		case e == kgo.UnknownTopicOrPartition:
			continue
		}
		there = append(there, t.Name)
		if t.TopicAuthorizedOperations < 0 { // not said
			continue
		}
		var ops []string
		for _, o := range operations {
			if t.TopicAuthorizedOperations>>o.bit&1 == 0 {
				ops = append(ops, o.name)
			}
		}
		if len(ops) > 0 {
			lacks(t.Name, nil, ops)
		}
	}
	return missing, there
}

// look reads a topic's settings and what is at its end.
func (a *Admin) look(ctx context.Context, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, a.c.opts.RequestTimeout)
	defer cancel()
	conf, err := a.c.client.DescribeConfigs(ctx, &kgo.DescribeConfigsRequest{Resources: []kgo.DescribeConfigRequestResource{{ResourceType: kgo.ResourceTypeTopic, ResourceName: topic, ConfigNames: declared}}})
	if err != nil {
		return err
	}
	for _, r := range conf.Resources {
		if r.Error != nil {
			return r.Error
		}
	}
	p := partition{topic, 0}
	ends, err := a.c.ends(ctx, []partition{p})
	if err != nil {
		return err
	}
	got, err := a.c.client.Fetch(ctx, &kgo.FetchRequest{Topic: topic, Partition: 0, Offset: ends[p][1], MinBytes: 1, MaxBytes: 1, MaxWait: time.Millisecond})
	if err != nil {
		return err
	}
	return got.Error
}

// rightsRequest asks for topics with what the login may do with them. kafka-go answers
// its own metadata requests from what it remembers, which lacks that.
type rightsRequest struct {
	client string
	topics []string
	tooOld bool
}

const rightsVersion = 8 // since Kafka 2.3

//lint:ignore ST1003 the name is that of an interface of kafka-go
func (*rightsRequest) ApiKey() protocol.ApiKey { return protocol.Metadata }

// Broker takes any.
func (*rightsRequest) Broker(c protocol.Cluster) (protocol.Broker, error) {
	for _, b := range c.Brokers {
		return b, nil
	}
	return protocol.Broker{}, kgo.BrokerNotAvailable
}

// Required makes kafka-go call RawExchange.
func (r *rightsRequest) Required(versions map[protocol.ApiKey]int16) bool {
	r.tooOld = versions[protocol.Metadata] < rightsVersion
	return true
}

// RawExchange sends the request and reads its response.
func (r *rightsRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	if r.tooOld {
		return nil, fault.Permanent(CodeRefused, nil, "use Kafka 2.3 or later", "brokers do not tell what a login may do")
	}
	err := protocol.WriteRequest(rw, rightsVersion, correlation, r.client, &metadata.Request{TopicNames: r.topics, IncludeTopicAuthorizedOperations: true})
	if err != nil {
		return nil, err
	}
	_, m, err := protocol.ReadResponse(rw, protocol.Metadata, rightsVersion)
	if err != nil {
		return nil, err
	}
	return &rightsResponse{m.(*metadata.Response)}, nil
}

// rightsResponse keeps kafka-go from taking it for the answer to a request of its own.
type rightsResponse struct{ of *metadata.Response }

//lint:ignore ST1003 the name is that of an interface of kafka-go
func (*rightsResponse) ApiKey() protocol.ApiKey { return protocol.Metadata }

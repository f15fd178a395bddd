package kafka

import (
	"strings"
	"testing"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/metadata"

	"syncline/dataplane/change"
	"syncline/dataplane/transport/debezium"
	"syncline/testsuite/stack"
)

// Brokers without an authorizer allow everything, and say so.
func TestRights(t *testing.T) {
	t.Parallel()
	s := stack.KafkaSecured(t)
	o := testOptions(t)
	o.Brokers, o.TLS, o.SASL, o.Debezium = s.Brokers, trusting(t, s.CA), SASL{"scram-sha-512", s.User, s.Password}, &debezium.Options{}
	ensure(t, o, TopicOptions{Partitions: 1}, orders)
	a, err := OpenAdmin(o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	m, err := a.c.roundTrip(t.Context(), 0, &rightsRequest{client: "x", topics: []string{SchemasTopic(o.Prefix, o.Pipeline)}})
	if err != nil {
		t.Fatal(err)
	}
	if got := m.(*rightsResponse).of.Topics; len(got) != 1 || got[0].TopicAuthorizedOperations < 0 || got[0].TopicAuthorizedOperations>>3&1 == 0 {
		t.Errorf("%+v", got)
	}
	if err := a.Rights(t.Context(), orders, change.TableID{Schema: "not", Name: "there"}); err != nil {
		t.Error(err)
	}
	log := openLog(t, o, LogOptions{})
	ends, err := log.c.ends(t.Context(), []partition{{ProgressTopic(o.Prefix, o.Pipeline), 0}})
	if err != nil || ends[partition{ProgressTopic(o.Prefix, o.Pipeline), 0}][1] != 0 {
		t.Errorf("left behind: %v, %v", ends, err)
	}
	o.SASL.Password = "not-the-password"
	bad, err := OpenAdmin(o)
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	want(t, bad.Rights(t.Context(), orders), CodeAuth, true)
}

// What brokers do not allow is named with the command that allows it.
func TestMissingRights(t *testing.T) {
	all := int32(0)
	for _, o := range operations {
		all |= 1 << o.bit
	}
	a := &Admin{c: &cluster{opts: Options{SASL: SASL{User: "app_b"}}}}
	missing, there := a.missingRights(&metadata.Response{Topics: []metadata.ResponseTopic{
		{Name: "all", TopicAuthorizedOperations: all}, {Name: "reads", TopicAuthorizedOperations: all &^ (1<<4 | 1<<11)},
		{Name: "hidden", ErrorCode: int16(kgo.TopicAuthorizationFailed)}, {Name: "none", ErrorCode: int16(kgo.UnknownTopicOrPartition)},
		{Name: "unsaid", TopicAuthorizedOperations: -1 << 31},
	}})
	if len(missing) != 2 || strings.Join(there, " ") != "all reads unsaid" {
		t.Fatalf("%v, %v", missing, there)
	}
	for i, says := range []string{"--allow-principal User:app_b --operation Write --operation AlterConfigs --topic reads", "--operation Describe --topic hidden"} {
		want(t, missing[i], CodeAuth, true)
		if !strings.Contains(missing[i].Error(), says) {
			t.Errorf("%v", missing[i])
		}
	}
}

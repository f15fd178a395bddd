package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
)

// Conditions of the log. deliver names two more: OffsetGone, TopicMissing.
const (
	// CodeUnreachable: no connection to the brokers, or no leader. Transient.
	CodeUnreachable fault.Code = "KafkaUnreachable"
	// CodeAuth: the brokers refuse the credentials or an operation. Transient while they rotate.
	CodeAuth fault.Code = "KafkaAuthFailed"
	// CodeTLS: no encrypted connection, because of a certificate or of one end that speaks
	// plain text. Transient, since certificates are replaced.
	CodeTLS fault.Code = "KafkaTLSFailed"
	// CodeReplicas: fewer in-sync replicas than min.insync.replicas. Transient.
	CodeReplicas fault.Code = "KafkaNotEnoughReplicas"
	// CodePartitions: a topic does not have the declared number of partitions.
	CodePartitions fault.Code = "TopicPartitionsMismatch"
	// CodeTopicName: a table's name does not fit into a topic name, or two collide.
	CodeTopicName fault.Code = "TopicName"
	// CodeChangeTooLarge: one change is over WriterOptions.MaxChangeBytes.
	CodeChangeTooLarge fault.Code = "ChangeTooLarge"
	// CodeMessageTooLarge: the topic takes smaller messages than WriterOptions.MaxMessageBytes.
	CodeMessageTooLarge fault.Code = "MessageTooLarge"
	// CodeRefused: the brokers refuse a request for another reason.
	CodeRefused fault.Code = "KafkaRefused"
	// CodeSchemaUnknown: no definition of a schema version in `_schemas`. Transient:
	// capture writes all definitions again when it starts.
	CodeSchemaUnknown fault.Code = "SchemaUnknown"
	// CodeLogDamaged: a record is not one of ours or does not match its checksum.
	CodeLogDamaged fault.Code = "LogDamaged"
)

// classify names err, which concerns what.
func classify(ctx context.Context, err error, what string) error {
	var f *fault.Error
	if err == nil || errors.As(err, &f) {
		return err
	}
	if ended := fault.Ended(ctx, CodeUnreachable, what); ended != nil {
		return ended
	}
	if errors.Is(err, context.Canceled) { // of a context within, which whoever ended it explains
		return err
	}
	if errors.Is(err, protocol.ErrNoTopic) || errors.Is(err, protocol.ErrNoPartition) {
		return topicMissing(err, what)
	}
	if fix := handshake(err); fix != "" {
		f := fault.Transient(CodeTLS, err, "%s", what)
		f.Fix = fix
		return f
	}
	var k kgo.Error
	if !errors.As(err, &k) {
		return fault.Transient(CodeUnreachable, err, "%s", what)
	}
	switch k {
	case kgo.UnknownTopicOrPartition:
		return topicMissing(err, what)
	case kgo.SASLAuthenticationFailed, kgo.UnsupportedSASLMechanism, kgo.IllegalSASLState,
		kgo.TopicAuthorizationFailed, kgo.ClusterAuthorizationFailed, kgo.GroupAuthorizationFailed:
		return fault.Transient(CodeAuth, err, "%s", what)
	case kgo.NotEnoughReplicas, kgo.NotEnoughReplicasAfterAppend:
		return fault.Transient(CodeReplicas, err, "%s", what)
	case kgo.MessageSizeTooLarge, kgo.RecordListTooLarge:
		return fault.Permanent(CodeMessageTooLarge, err,
			"raise max.message.bytes of the topic, or lower max_message_bytes in the declaration", "%s", what)
	case kgo.BrokerNotAvailable:
		return fault.Transient(CodeUnreachable, err, "%s", what)
	}
	if k.Temporary() || k.Timeout() {
		return fault.Transient(CodeUnreachable, err, "%s", what)
	}
	return fault.Permanent(CodeRefused, err, "see the brokers' log", "%s", what)
}

// handshake says what to do if two ends could not agree on TLS, and nothing otherwise.
func handshake(err error) (fix string) {
	var cert *tls.CertificateVerificationError
	var name x509.HostnameError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var remote *net.OpError
	switch {
	case errors.As(err, &name):
		return "give kafka.tls.server_name, a name that is in the brokers' certificate"
	case errors.As(err, &cert):
		return "put the authority that signed the brokers' certificate into the file kafka.tls.ca_file"
	case errors.As(err, &record):
		return "correct kafka.brokers, which name a listener without TLS, or leave out kafka.tls"
	case errors.As(err, &alert), errors.As(err, &remote) && remote.Op == "remote error":
		// Whether none was sent or one that they do not take, brokers say it alike.
		return "give in kafka.tls.cert_file and kafka.tls.key a client certificate of an authority that the brokers trust, not run out; see the brokers' log"
	}
	return ""
}

func topicMissing(err error, what string) error {
	return fault.Permanent(deliver.CodeTopicMissing, err,
		"apply the pipeline again to create it; if it was deleted, resync its table", "%s", what)
}

// passing reports whether repeating a request soon may help.
func passing(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	var k kgo.Error
	if errors.As(err, &k) {
		return k.Temporary() || k.Timeout() || k == kgo.BrokerNotAvailable
	}
	var f *fault.Error
	if errors.As(err, &f) {
		return f.Retry || f.Code == deliver.CodeTopicMissing // it may be new and not known everywhere yet
	}
	var n net.Error
	return errors.As(err, &n) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, protocol.ErrNoTopic) ||
		errors.Is(err, protocol.ErrNoPartition) || errors.Is(err, protocol.ErrNoLeader) || errors.Is(err, net.ErrClosed)
}

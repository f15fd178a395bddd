package stack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"syncline/devstack/internal/proc"
)

// The user of the secured listener. Whoever reaches the port may know the password:
// the listener beside it wants none.
const kafkaUser, kafkaPassword = "syncline", "devstack-password"

// clusterID is any value in Kafka's form of a UUID.
const clusterID = "c3luY2xpbmVkZXZzdGFjaw"

// Certificates of the mutual listener are values and not files, so that tests may set
// others while the broker runs: Kafka refuses to have both.
const kafkaProperties = `process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:%[1]d
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:%[2]d,CONTROLLER://127.0.0.1:%[1]d,SECURED://127.0.0.1:%[4]d,MUTUAL://127.0.0.1:%[8]d
advertised.listeners=PLAINTEXT://127.0.0.1:%[2]d,SECURED://127.0.0.1:%[4]d,MUTUAL://127.0.0.1:%[8]d
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURED:SASL_SSL,MUTUAL:SSL
inter.broker.listener.name=PLAINTEXT
listener.name.secured.ssl.keystore.type=PEM
listener.name.secured.ssl.keystore.location=%[5]s
listener.name.secured.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.secured.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_%[6]s="%[7]s";
listener.name.secured.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secured.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.mutual.ssl.client.auth=required
listener.name.mutual.ssl.truststore.type=PEM
listener.name.mutual.ssl.truststore.certificates=%[9]s
listener.name.mutual.ssl.keystore.type=PEM
listener.name.mutual.ssl.keystore.key=%[10]s
listener.name.mutual.ssl.keystore.certificate.chain=%[11]s
log.dirs=%[3]s
num.partitions=1
auto.create.topics.enable=false
message.max.bytes=33554432
replica.fetch.max.bytes=33554432
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
controller.quorum.election.timeout.ms=500
controller.quorum.fetch.timeout.ms=1000
log.cleaner.backoff.ms=500
log.initial.task.delay.ms=500
log.retention.check.interval.ms=500
`

const kafkaLogging = `rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %m (%c)%n
`

// apacheKafka makes the service run one Apache Kafka node that is broker and
// controller (KRaft).
func apacheKafka(c *Config, p programs, s *service) {
	base := filepath.Join(c.Data, "kafka-apache")
	ca, keystore := c.kafkaCA(), filepath.Join(base, "server.pem")
	logs, props, logging := filepath.Join(base, "log"), filepath.Join(base, "server.properties"), filepath.Join(base, "log4j2.properties")
	java := []string{"-cp", filepath.Join(p.kafka, "*"), "-Dlog4j2.configurationFile=" + logging}
	s.note = "Apache Kafka"
	s.spec = proc.Spec{
		Path: p.java, Log: c.log(Kafka),
		Args: append(java[:len(java):len(java)], "-Xms256m", "-Xmx768m", "-XX:+UseG1GC", "kafka.Kafka", props),
	}
	s.setup = func(ctx context.Context) error {
		if err := os.MkdirAll(base, 0o755); err != nil {
			return fmt.Errorf("data folder: %w", err)
		}
		authority, err := writeCertificates(ca, keystore)
		if err != nil {
			return err
		}
		key, cert, err := authority.sign("localhost")
		if err != nil {
			return err
		}
		if err := writeClient(c, authority); err != nil {
			return err
		}
		// Written anew each time, since ports may have changed.
		text := fmt.Sprintf(kafkaProperties, c.Ports.Controller, c.Ports.Kafka, logs, c.Ports.KafkaSecured, keystore, kafkaUser, kafkaPassword,
			c.Ports.KafkaMutual, inProperties(authority.pem), inProperties(key), inProperties(cert))
		if err := os.WriteFile(props, []byte(text), 0o600); err != nil {
			return fmt.Errorf("write %s: %w", props, err)
		}
		if err := os.WriteFile(logging, []byte(kafkaLogging), 0o644); err != nil {
			return fmt.Errorf("write %s: %w", logging, err)
		}
		if _, err := os.Stat(filepath.Join(logs, "meta.properties")); err == nil {
			return nil
		}
		format := append(java[:len(java):len(java)], "kafka.tools.StorageTool", "format", "-t", clusterID, "-c", props, "--ignore-formatted")
		for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
			format = append(format, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", mechanism, kafkaUser, kafkaPassword))
		}
		if out, err := exec.CommandContext(ctx, p.java, format...).CombinedOutput(); err != nil {
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			return fmt.Errorf("format the log folder: %w: %s", err, lines[len(lines)-1])
		}
		return nil
	}
}

// writeClient gives whoever uses the mutual listener a certificate for it.
func writeClient(c *Config, a *authority) error {
	key, cert, err := a.sign("client")
	if err != nil {
		return err
	}
	for file, text := range map[string][]byte{c.kafkaClientCert(): cert, c.kafkaClientKey(): key} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
	}
	return nil
}

// inProperties is a text of several lines as a value in a file of properties.
func inProperties(text []byte) string {
	return strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", `\n`)
}

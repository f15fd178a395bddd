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

// clusterID is any value in Kafka's form of a UUID.
const clusterID = "c3luY2xpbmVkZXZzdGFjaw"

const kafkaProperties = `process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:%[1]d
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:%[2]d,CONTROLLER://127.0.0.1:%[1]d
advertised.listeners=PLAINTEXT://127.0.0.1:%[2]d
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
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
		// Written anew each time, since ports may have changed.
		text := fmt.Sprintf(kafkaProperties, c.Ports.Controller, c.Ports.Kafka, logs)
		if err := os.WriteFile(props, []byte(text), 0o644); err != nil {
			return fmt.Errorf("write %s: %w", props, err)
		}
		if err := os.WriteFile(logging, []byte(kafkaLogging), 0o644); err != nil {
			return fmt.Errorf("write %s: %w", logging, err)
		}
		if _, err := os.Stat(filepath.Join(logs, "meta.properties")); err == nil {
			return nil
		}
		format := append(java[:len(java):len(java)], "kafka.tools.StorageTool", "format", "-t", clusterID, "-c", props, "--ignore-formatted")
		if out, err := exec.CommandContext(ctx, p.java, format...).CombinedOutput(); err != nil {
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			return fmt.Errorf("format the log folder: %w: %s", err, lines[len(lines)-1])
		}
		return nil
	}
}

// Package kafkaserver runs the embedded Kafka: one broker of franz-go's kfake
// with its log on disk, so that it restarts with its topics, records and
// configurations.
//
// Each produced batch is written to its segment file before it is acknowledged,
// which survives the death of the process; surviving the death of the machine
// needs Sync.
package kafkaserver

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"github.com/twmb/franz-go/pkg/kfake"
)

// Options of the broker.
type Options struct {
	// Port on 127.0.0.1.
	Port int
	// Dir keeps topics and records.
	Dir string
	// Sync writes every batch through to the disk.
	Sync bool
	// Log takes the broker's own messages.
	Log io.Writer
}

// Run serves until ctx ends, then writes its state and returns.
func Run(ctx context.Context, o Options) error {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return fmt.Errorf("kafka data folder: %w", err)
	}
	opts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.Ports(o.Port),
		// kfake listens on every interface by default; this stack is for one machine.
		kfake.ListenFn(func(network, _ string) (net.Listener, error) {
			return net.Listen(network, net.JoinHostPort("127.0.0.1", strconv.Itoa(o.Port)))
		}),
		kfake.ClusterID("syncline-devstack"),
		kfake.DataDir(o.Dir),
		kfake.WithLogger(kfake.BasicLogger(o.Log, kfake.LogLevelWarn)),
		kfake.BrokerConfigs(map[string]string{"message.max.bytes": strconv.Itoa(32 << 20)}),
		kfake.DefaultNumPartitions(1),
	}
	if o.Sync {
		opts = append(opts, kfake.SyncWrites())
	}
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		return fmt.Errorf("start embedded kafka on port %d: %w", o.Port, err)
	}
	<-ctx.Done()
	cluster.Close()
	return nil
}

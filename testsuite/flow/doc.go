// Package flow tests the data plane from end to end without a control plane: a
// source, Kafka and both sinks, moved by capture and delivery in one process.
package flow

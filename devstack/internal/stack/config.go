// Package stack starts the servers, watches them, and lets tests kill and start
// single ones.
//
// States of a service: starting, ready, stopped (by request, or by a kill that a
// test asked for) and failed (ended by itself). A failed service is reported and
// not started again: whoever runs the stack should see it. If any service cannot
// start with the stack, all others are stopped and the stack ends.
package stack

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"syncline/devstack/internal/problem"
)

// Names of the services.
const (
	Temporal   = "temporal"
	Source     = "source"
	Sink       = "sink"
	Kafka      = "kafka"
	ClickHouse = "clickhouse"
	Vault      = "vault"
	Prometheus = "prometheus"
)

// Config says what to run.
type Config struct {
	Data  string // folder of everything that is written
	Kafka string // embedded or apache
	Vault bool
	// Prometheus runs too; Rules is a file of rules that it begins with, or empty.
	Prometheus bool
	Rules      string
	Postgres   int  // major version
	Fsync      bool // of Postgres
	EnvFile    string
	Ports      Ports
	// MinFree is the space that must be left where data and cache are.
	MinFree uint64
}

// Ports of the services on 127.0.0.1.
type Ports struct {
	Temporal, UI, Source, Sink, Kafka, ClickHouse, Vault, Controller, Metrics, Native, KafkaSecured, Prometheus, KafkaMutual, VaultTLS int
}

// DefaultBase is the first port of the block.
const DefaultBase = 27000

// PortsFrom lays the block out.
func PortsFrom(base int) Ports {
	return Ports{
		Temporal: base, UI: base + 1, Source: base + 2, Sink: base + 3, Kafka: base + 4,
		ClickHouse: base + 5, Vault: base + 6, Controller: base + 7, Metrics: base + 8,
		Native: base + 9, KafkaSecured: base + 10, Prometheus: base + 11,
		KafkaMutual: base + 12, VaultTLS: base + 13,
	}
}

// Normalize checks the configuration and makes its paths absolute.
func (c *Config) Normalize() error {
	var errs []error
	if c.Kafka != "embedded" && c.Kafka != "apache" {
		errs = append(errs, fmt.Errorf("--kafka is %q: use embedded or apache", c.Kafka))
	}
	if c.Postgres < 15 || c.Postgres > 17 {
		errs = append(errs, fmt.Errorf("--postgres is %d: use 15, 16 or 17", c.Postgres))
	}
	seen := map[int]string{}
	for _, p := range c.ports() {
		if p.port < 1 || p.port > 65535 {
			errs = append(errs, fmt.Errorf("--%s-port is %d: use 1 to 65535", p.name, p.port))
		} else if other := seen[p.port]; other != "" {
			errs = append(errs, fmt.Errorf("%s and %s would both use port %d: give one of them another", other, p.name, p.port))
		}
		seen[p.port] = p.name
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, p := range []*string{&c.Data, &c.EnvFile, &c.Rules} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return fmt.Errorf("path %s: %w", *p, err)
		}
		*p = abs
	}
	return nil
}

type namedPort struct {
	name string
	port int
}

// ports lists those that this configuration uses.
func (c *Config) ports() []namedPort {
	p := []namedPort{
		{"temporal", c.Ports.Temporal}, {"ui", c.Ports.UI}, {"metrics", c.Ports.Metrics}, {"source", c.Ports.Source},
		{"sink", c.Ports.Sink}, {"kafka", c.Ports.Kafka}, {"clickhouse", c.Ports.ClickHouse},
		{"clickhouse-native", c.Ports.Native},
	}
	if c.Kafka == "apache" {
		p = append(p, namedPort{"controller", c.Ports.Controller}, namedPort{"kafka-secured", c.Ports.KafkaSecured}, namedPort{"kafka-mutual", c.Ports.KafkaMutual})
	}
	if c.Vault {
		p = append(p, namedPort{"vault", c.Ports.Vault}, namedPort{"vault-tls", c.Ports.VaultTLS})
	}
	if c.Prometheus {
		p = append(p, namedPort{"prometheus", c.Ports.Prometheus})
	}
	return p
}

// checkPorts finds ports that others use, before anything is started.
func (c *Config) checkPorts() error {
	for _, p := range c.ports() {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)))
		if errors.Is(err, syscall.EADDRINUSE) {
			return problem.New(
				fmt.Sprintf("stop what listens there (ss -ltnp 'sport = :%d') or choose another with --%s-port or --ports-base", p.port, p.name),
				"port %d, meant for %s, is taken", p.port, p.name)
		}
		if err != nil {
			return problem.New(fmt.Sprintf("choose another with --%s-port or --ports-base", p.name), "port %d cannot be used for %s: %v", p.port, p.name, err)
		}
		_ = l.Close()
	}
	return nil
}

// checkSpace finds a disk that is nearly full.
func checkSpace(min uint64, dirs ...string) error {
	for _, dir := range dirs {
		free, err := freeSpace(dir)
		if err != nil {
			return fmt.Errorf("space in %s: %w", dir, err)
		}
		if free < min {
			return problem.New(fmt.Sprintf("free %.1f GB there, or choose another disk with --data and SYNCLINE_CACHE", float64(min-free)/1e9),
				"%s has %.1f GB left, and devstack needs %.1f GB", dir, float64(free)/1e9, float64(min)/1e9)
		}
	}
	return nil
}

func freeSpace(dir string) (uint64, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}

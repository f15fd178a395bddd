package target

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Types of targets.
const (
	Postgres   = "postgres"
	ClickHouse = "clickhouse"
	Kafka      = "kafka"
)

// Spec describes a target. It holds no secret.
type Spec struct {
	Name   string `yaml:"name" json:"name"`
	Type   string `yaml:"type" json:"type"` // postgres, clickhouse or kafka
	Region string `yaml:"region,omitempty" json:"region,omitempty"`

	// Of postgres and clickhouse.
	Host     string `yaml:"host,omitempty" json:"host,omitempty"`
	Port     int    `yaml:"port,omitempty" json:"port,omitempty"`         // default 5432, 9000 or 9440 (native), 8123 or 8443 (http)
	Database string `yaml:"database,omitempty" json:"database,omitempty"` // to log in to; default postgres or default

	// Of postgres.
	SSLMode     string `yaml:"sslmode,omitempty" json:"sslmode,omitempty"` // default prefer
	SSLRootCert string `yaml:"sslrootcert,omitempty" json:"sslrootcert,omitempty"`
	// Passwordless says that pg_hba.conf asks for no password and that this is meant:
	// then NOLOGIN alone revokes, and a new password proves nothing.
	Passwordless bool `yaml:"passwordless,omitempty" json:"passwordless,omitempty"`

	// Of clickhouse.
	Protocol string `yaml:"protocol,omitempty" json:"protocol,omitempty"` // native (default) or http
	Cluster  string `yaml:"cluster,omitempty" json:"cluster,omitempty"`   // set on all its servers, by ON CLUSTER

	// Of kafka.
	Brokers        []string `yaml:"brokers,omitempty" json:"brokers,omitempty"`
	Mechanism      string   `yaml:"mechanism,omitempty" json:"mechanism,omitempty"`             // scram-sha-256 or scram-sha-512 (default), of the users
	AdminMechanism string   `yaml:"admin_mechanism,omitempty" json:"admin_mechanism,omitempty"` // default: as mechanism; plain for an admin in the brokers' configuration
}

// Validate names what is wrong with a description, and what to write instead.
func (s Spec) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("target %q: %s: %s", s.Name, field, fmt.Sprintf(format, args...)))
	}
	if s.Name == "" {
		bad("name", "is empty; give it one that operators know the server by")
	}
	fields := map[string]bool{
		"host": s.Host != "", "port": s.Port != 0, "database": s.Database != "", "sslmode": s.SSLMode != "", "sslrootcert": s.SSLRootCert != "",
		"passwordless": s.Passwordless, "protocol": s.Protocol != "", "cluster": s.Cluster != "",
		"brokers": len(s.Brokers) > 0, "mechanism": s.Mechanism != "", "admin_mechanism": s.AdminMechanism != "",
	}
	of := map[string][]string{
		Postgres:   {"host", "port", "database", "sslmode", "sslrootcert", "passwordless"},
		ClickHouse: {"host", "port", "database", "protocol", "cluster"},
		Kafka:      {"brokers", "mechanism", "admin_mechanism"},
	}
	mine, known := of[s.Type]
	if !known {
		bad("type", "%q is not known; use postgres, clickhouse or kafka", s.Type)
		return errors.Join(errs...)
	}
	for _, f := range []string{"host", "port", "database", "sslmode", "sslrootcert", "passwordless", "protocol", "cluster", "brokers", "mechanism", "admin_mechanism"} {
		if fields[f] && !slices.Contains(mine, f) {
			bad(f, "is none of a target of type %s; leave it out", s.Type)
		}
	}
	if s.Type != Kafka && s.Host == "" {
		bad("host", "is empty; name the server, of a replicated one the primary")
	}
	if s.Port < 0 || s.Port > 65535 {
		bad("port", "%d is none; use 1 to 65535, or leave it out", s.Port)
	}
	switch s.Type {
	case Postgres:
		if modes := []string{"", "disable", "allow", "prefer", "require", "verify-ca", "verify-full"}; !slices.Contains(modes, s.SSLMode) {
			bad("sslmode", "%q is not known; use one of %s", s.SSLMode, strings.Join(modes[1:], ", "))
		}
	case ClickHouse:
		if !slices.Contains([]string{"", "native", "http"}, s.Protocol) {
			bad("protocol", "%q is not known; use native or http", s.Protocol)
		}
	case Kafka:
		if len(s.Brokers) == 0 {
			bad("brokers", "is empty; list host:port of some")
		}
		for _, b := range s.Brokers {
			if _, port, err := net.SplitHostPort(b); err != nil || !isPort(port) {
				bad("brokers", "%q is not host:port", b)
			}
		}
		switch s.Mechanism {
		case "", "scram-sha-256", "scram-sha-512":
		case "plain":
			bad("mechanism", "passwords of SASL/PLAIN are in the brokers' own configuration, which no request changes; use scram-sha-512, and enable it at the listener")
		default:
			bad("mechanism", "%q is not known; use scram-sha-256 or scram-sha-512", s.Mechanism)
		}
		if !slices.Contains([]string{"", "plain", "scram-sha-256", "scram-sha-512"}, s.AdminMechanism) {
			bad("admin_mechanism", "%q is not known; use plain, scram-sha-256 or scram-sha-512", s.AdminMechanism)
		}
	}
	return errors.Join(errs...)
}

func isPort(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n > 0 && n < 65536
}

package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
	"go.uber.org/zap/zapcore"

	"syncline/activities/contract"
	"syncline/activities/frontend"
	"syncline/activities/observe"
	"syncline/secrets"
)

// Roles are all roles, in the order in which they are shown.
var Roles = []contract.Role{contract.Control, contract.Capture, contract.Snapshot, contract.Deliver}

// Config is what a worker needs to know before it can work.
type Config struct {
	Temporal        frontend.Config
	TaskQueuePrefix string
	Roles           []contract.Role
	Usage           bool
	Region          string // "": not said

	HTTPAddr string
	LogLevel zapcore.Level
	Pprof    bool
	Traces   observe.TraceOptions

	SpillDir            string
	Analytics           secrets.Ref      // zero: nothing is recorded
	AnalyticsLogin      secrets.LoginRef // zero: that of the connection string
	AnalyticsDatabase   string
	AnalyticsSpill      int64 // bytes
	MaxConcurrentChunks int
	ShutdownTimeout     time.Duration

	BuildID    string // "": the build does not say, and Worker Versioning is off
	Deployment string // "": Worker Versioning is off

	Vault secrets.VaultOptions

	Codec Codec

	temporal frontend.Given
}

// Codec is what the codec server alone reads.
type Codec struct {
	Addr                   string
	TLSCert, TLSKey        string // files; "": plain HTTP
	Origins                []string
	Tokens                 secrets.Ref
	JWKS, Issuer, Audience string
	WithoutAuth            bool
}

// Has reports whether the worker takes on a role.
func (c Config) Has(r contract.Role) bool { return slices.Contains(c.Roles, r) }

// Secrets gives the options for resolving references in this worker.
func (c Config) Secrets() secrets.Options { return secrets.Options{Vault: c.Vault} }

// Load reads the configuration from an environment as os.Environ gives it.
func Load(environ []string) (Config, error) {
	env := map[string]string{}
	for _, kv := range environ {
		if name, value, ok := strings.Cut(kv, "="); ok {
			env[name] = value
		}
	}
	var c Config
	var errs []error
	for _, s := range settings {
		value := env[s.Name]
		if value == "" {
			value = s.Default
		}
		if value == "" {
			continue
		}
		if err := s.set(&c, value); err != nil {
			errs = append(errs, fmt.Errorf("%s %w", s.Name, err))
		}
	}
	errs = append(errs, unknown(env)...)
	var err error
	if c.Temporal, err = frontend.Load(environ, c.temporal); err != nil {
		errs = append(errs, apart(err)...)
	}

	if err := c.Traces.Read(func(n string) string { return env[n] }); err != nil {
		errs = append(errs, apart(err)...)
	}

	c.Vault = c.Vault.WithVaultEnv(func(n string) string { return env[n] })
	if err := c.Vault.Validate(); err != nil {
		errs = append(errs, err)
	}
	if c.Deployment != "" && c.BuildID == "" {
		errs = append(errs, errors.New("SYNCLINE_DEPLOYMENT is set without SYNCLINE_BUILD_ID; Worker Versioning needs both"))
	}
	if (c.Codec.TLSCert == "") != (c.Codec.TLSKey == "") {
		errs = append(errs, errors.New("of SYNCLINE_CODEC_TLS_CERT and SYNCLINE_CODEC_TLS_KEY one is set; the codec server needs both, or neither"))
	}
	if jwt := c.Codec.JWKS != ""; jwt != (c.Codec.Issuer != "") || jwt != (c.Codec.Audience != "") {
		errs = append(errs, errors.New("of SYNCLINE_CODEC_JWKS, SYNCLINE_CODEC_JWT_ISSUER and SYNCLINE_CODEC_JWT_AUDIENCE some are set; the codec server needs all three, or none"))
	}
	if c.SpillDir == "" {
		c.SpillDir = filepath.Join(os.TempDir(), "syncline")
	}
	if len(errs) > 0 {
		return Config{}, fmt.Errorf("%d mistakes in the environment of the worker:\n%w", len(errs), errors.Join(errs...))
	}
	return c, nil
}

// apart takes joined errors apart, so that each counts as one mistake.
func apart(err error) []error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	return []error{err}
}

// notOurs are variables of the development stack, the tests and the command-line
// tool, which share an environment with a worker on a developer's machine.
var notOurs = []string{
	"SYNCLINE_SOURCE_DSN", "SYNCLINE_SINK_DSN", "SYNCLINE_KAFKA_BROKERS", "SYNCLINE_KAFKA_SECURED", "SYNCLINE_KAFKA_CA", "SYNCLINE_KAFKA_USER", "SYNCLINE_KAFKA_PASSWORD",
	"SYNCLINE_KAFKA_MUTUAL", "SYNCLINE_KAFKA_CERT", "SYNCLINE_KAFKA_KEY", "SYNCLINE_VAULT_TLS_ADDR", "SYNCLINE_VAULT_CA", "SYNCLINE_VAULT_TLS_PAIR",
	"SYNCLINE_CLICKHOUSE_URL", "SYNCLINE_CLICKHOUSE_NATIVE_URL", "SYNCLINE_TEMPORAL_UI",
	"SYNCLINE_TEMPORAL_CLI", "SYNCLINE_DEVSTACK_SOCKET", "SYNCLINE_PG_BINDIR", "SYNCLINE_CACHE", "SYNCLINE_STACK",
	"SYNCLINE_PROMETHEUS_URL", "SYNCLINE_PROMETHEUS_DIR", "SYNCLINE_PROMTOOL", "SYNCLINE_AMTOOL",
}

// links is what Kubernetes sets in every container for each Service, by default:
// one named syncline must not keep the workers from starting.
var links = regexp.MustCompile(`(_SERVICE_HOST|_SERVICE_PORT(_[A-Z0-9_]+)?|_PORT(_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)?)$`)

func unknown(env map[string]string) []error {
	var names []string
	for name := range env {
		if strings.HasPrefix(name, "SYNCLINE_") && !links.MatchString(name) && !slices.Contains(notOurs, name) && !slices.ContainsFunc(settings, func(s Setting) bool { return s.Name == name }) {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	var errs []error
	for _, name := range names {
		best, at := len(strings.TrimPrefix(name, "SYNCLINE_"))/2, "" // what all names share says nothing
		for _, s := range settings {
			if d := levenshtein.ComputeDistance(name, s.Name); d < best {
				best, at = d, s.Name
			}
		}
		if at != "" {
			errs = append(errs, fmt.Errorf("%s is not a variable that the worker reads; did you mean %s?", name, at))
			continue
		}
		errs = append(errs, fmt.Errorf("%s is not a variable that the worker reads", name))
	}
	return errs
}

package config

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"

	"syncline/activities/codecserver"
	"syncline/activities/contract"
	"syncline/activities/frontend"
	"syncline/analytics"
	"syncline/pipeline"
	"syncline/secrets"
)

// Setting is one variable of the environment.
type Setting struct {
	Name    string
	Default string
	Meaning string // one sentence, for the reference
	set     func(*Config, string) error
}

// Settings lists all variables that a worker reads, Vault's own aside.
func Settings() []Setting { return slices.Clone(settings) }

var settings = []Setting{
	{"SYNCLINE_TEMPORAL_ADDRESS", "", "Temporal's frontend, as `host:port`; otherwise `TEMPORAL_ADDRESS`, and without that `127.0.0.1:7233`.",
		func(c *Config, v string) error { c.temporal.Address = v; return hostPort(v) }},
	{"SYNCLINE_TEMPORAL_NAMESPACE", "", "Temporal namespace that holds the pipelines; otherwise `TEMPORAL_NAMESPACE`, and without that `default`.",
		func(c *Config, v string) error { c.temporal.Namespace = v; return nil }},
	{"SYNCLINE_TEMPORAL_API_KEY", "", "Where Temporal's API key is kept, `env:NAME`, `file:path` or `vault:path#field`, read again as it is used; otherwise the key in `TEMPORAL_API_KEY`.",
		func(c *Config, v string) (err error) { c.temporal.APIKey, err = reference(v); return err }},
	{"SYNCLINE_PAYLOAD_KEYS", "", "Where the keys are kept that encrypt what is handed to Temporal, one keyring as `starter payload-keys` makes it: `vault:path#field`, `file:path` or `env:NAME`, read again at least every minute; all workers, the command-line tool and the codec server have the same. Unset: nothing is encrypted.",
		func(c *Config, v string) (err error) { c.temporal.PayloadKeys, err = reference(v); return err }},
	{"SYNCLINE_TASK_QUEUE_PREFIX", "syncline", "Task queues are named `<prefix>-<role>`; the command-line tool must use the same prefix.",
		func(c *Config, v string) error { c.TaskQueuePrefix = v; return name(v) }},
	{"SYNCLINE_ROLES", "control,capture,snapshot,deliver", "What this worker does, a comma-separated part of the default.",
		func(c *Config, v string) (err error) { c.Roles, err = roles(v); return err }},
	{"SYNCLINE_REGION", "", "Region where this worker runs, as in the pipelines' `region`; what it sends to another region is counted by route.",
		func(c *Config, v string) error { c.Region = v; return pipeline.CheckRegion(v) }},
	{"SYNCLINE_HTTP_ADDR", ":9464", "Where `/metrics`, `/healthz` and `/readyz` are served, as `[host]:port`; port 0 takes a free one.",
		func(c *Config, v string) error { c.HTTPAddr = v; return hostPort(v) }},
	{"SYNCLINE_LOG_LEVEL", "info", "`debug`, `info`, `warn` or `error`.",
		func(c *Config, v string) (err error) { c.LogLevel, err = level(v); return err }},
	{"SYNCLINE_PPROF", "false", "Whether `/debug/pprof/` is served beside the metrics.",
		func(c *Config, v string) (err error) { c.Pprof, err = boolean(v); return err }},
	{"SYNCLINE_TRACE_RATIO", "0.001", "Share of the source's transactions that are traced, from 0 (errors only) to 1. Spans go where `OTEL_EXPORTER_OTLP_ENDPOINT` says, and without that there are none.",
		func(c *Config, v string) (err error) { c.Traces.Ratio, err = share(v); return err }},
	{"SYNCLINE_SPILL_DIR", "", "Folder for transactions too large for memory; default `syncline` in the system's temporary folder. Needs room for the largest transaction; may be empty at start.",
		func(c *Config, v string) error { c.SpillDir = v; return nil }},
	{"SYNCLINE_ANALYTICS", "", "Where the connection string of the ClickHouse that takes analytics is kept, `env:NAME`, `file:path` or `vault:path#field`; unset: nothing is recorded, and `starter report` has nothing to show.",
		func(c *Config, v string) (err error) { c.Analytics, err = reference(v); return err }},
	{"SYNCLINE_ANALYTICS_LOGIN", "", "User and password of that ClickHouse in place of those in the connection string, as `vault:path`: a login that rotates while workers run, see [logins](operations.md#logins-that-rotate).",
		func(c *Config, v string) (err error) { c.AnalyticsLogin, err = secrets.ParseLoginRef(v); return err }},
	{"SYNCLINE_ANALYTICS_DATABASE", analytics.DefaultDatabase, "Database of the analytics tables, which workers create and migrate; all workers of one Temporal namespace use the same.",
		func(c *Config, v string) error { c.AnalyticsDatabase = v; return name(v) }},
	{"SYNCLINE_ANALYTICS_SPILL", "1GiB", "Room on disk, in `SYNCLINE_SPILL_DIR`, for analytics while their ClickHouse is away; what is beyond it is dropped and counted.",
		func(c *Config, v string) error {
			size, err := pipeline.ParseSize(v)
			if err != nil || size < 1<<20 {
				return fmt.Errorf("is %q, not a size from 1MiB on, such as 1GiB", v)
			}
			c.AnalyticsSpill = int64(size)
			return nil
		}},
	{"SYNCLINE_USAGE", "true", "Whether bytes are counted, by table, tier and route; `false` spares their cost, and leaves `syncline_wire_bytes_total` and the tables `usage` and `wire` of analytics empty.",
		func(c *Config, v string) (err error) { c.Usage, err = boolean(v); return err }},
	{"SYNCLINE_MAX_CONCURRENT_CHUNKS", "4", "Snapshot chunks that this worker copies at the same time; each takes one connection at the source and one at the sink.",
		func(c *Config, v string) (err error) { c.MaxConcurrentChunks, err = number(v, 1, 256); return err }},
	{"SYNCLINE_SHUTDOWN_TIMEOUT", "30s", "Time to flush and checkpoint after SIGTERM before the worker ends regardless.",
		func(c *Config, v string) (err error) {
			c.ShutdownTimeout, err = duration(v, time.Second, time.Hour)
			return err
		}},
	{"SYNCLINE_BUILD_ID", "", "Version of this build in logs and metrics, and for Worker Versioning.",
		func(c *Config, v string) error { c.BuildID = v; return name(v) }},
	{"SYNCLINE_DEPLOYMENT", "", "Worker Deployment for Temporal's Worker Versioning; unset turns versioning off.",
		func(c *Config, v string) error { c.Deployment = v; return name(v) }},
	{"SYNCLINE_CODEC_ADDR", "127.0.0.1:8088", "`worker codec-server`: where it listens, as `[host]:port`.",
		func(c *Config, v string) error { c.Codec.Addr = v; return hostPort(v) }},
	{"SYNCLINE_CODEC_TLS_CERT", "", "`worker codec-server`: PEM file of its certificate, read again as it changes; without it, it speaks plain HTTP.",
		func(c *Config, v string) error { c.Codec.TLSCert = v; return nil }},
	{"SYNCLINE_CODEC_TLS_KEY", "", "`worker codec-server`: PEM file of the certificate's private key.",
		func(c *Config, v string) error { c.Codec.TLSKey = v; return nil }},
	{"SYNCLINE_CODEC_ORIGINS", "", "`worker codec-server`: origins of the Web UI, a comma-separated list such as `https://temporal.example`; pages of others are refused.",
		func(c *Config, v string) (err error) { c.Codec.Origins, err = origins(v); return err }},
	{"SYNCLINE_CODEC_TOKENS", "", "`worker codec-server`: where its tokens are kept, `vault:path#field`, `file:path` or `env:NAME`, read again at least every minute: `{\"tokens\": [{\"name\": …, \"role\": \"reader\" or \"writer\", \"token\": …}]}`.",
		func(c *Config, v string) (err error) { c.Codec.Tokens, err = reference(v); return err }},
	{"SYNCLINE_CODEC_JWKS", "", "`worker codec-server`: public keys of the Web UI's login, a file or an `https://` URL, read again at least every minute; takes issuer and audience too.",
		func(c *Config, v string) error { c.Codec.JWKS = v; return codecserver.CheckJWKS(v) }},
	{"SYNCLINE_CODEC_JWT_ISSUER", "", "`worker codec-server`: `iss` that a JWT must have.",
		func(c *Config, v string) error { c.Codec.Issuer = v; return nil }},
	{"SYNCLINE_CODEC_JWT_AUDIENCE", "", "`worker codec-server`: `aud` that a JWT must have.",
		func(c *Config, v string) error { c.Codec.Audience = v; return nil }},
	{"SYNCLINE_CODEC_WITHOUT_AUTH", "false", "`worker codec-server`: `true` decrypts for everybody who can connect; on a loopback address only, for trying out.",
		func(c *Config, v string) (err error) { c.Codec.WithoutAuth, err = boolean(v); return err }},
	{"SYNCLINE_VAULT_ADDR", "", "Vault's address, `https://host:8200`; otherwise `VAULT_ADDR`. Only used by `vault:` references.",
		func(c *Config, v string) error { c.Vault.Address = v; return nil }},
	{"SYNCLINE_VAULT_TOKEN_FILE", "", "File with a Vault token, read again when it changes; otherwise the token in `VAULT_TOKEN`.",
		func(c *Config, v string) error { c.Vault.TokenFile = v; return nil }},
	{"SYNCLINE_VAULT_ROLE_ID", "", "AppRole role id; goes before a token.",
		func(c *Config, v string) error { c.Vault.RoleID = v; return nil }},
	{"SYNCLINE_VAULT_SECRET_ID_FILE", "", "File with the AppRole's secret id, read at every login.",
		func(c *Config, v string) error { c.Vault.SecretIDFile = v; return nil }},
	{"SYNCLINE_VAULT_APPROLE_MOUNT", "approle", "Where Vault has AppRole: the part of its path after `auth/`.",
		func(c *Config, v string) error { c.Vault.AppRoleMount = v; return nil }},
	{"SYNCLINE_VAULT_NAMESPACE", "", "Vault namespace; otherwise `VAULT_NAMESPACE`. Vault Enterprise and HCP have them; any other Vault takes no notice and reads what it has at the path.",
		func(c *Config, v string) error { c.Vault.Namespace = v; return nil }},
	{"SYNCLINE_VAULT_CACERT", "", "PEM file of the authority that signed Vault's certificate, read again for each request; otherwise `VAULT_CACERT`.",
		func(c *Config, v string) error { c.Vault.CACert = v; return nil }},
}

// Reference is a Markdown table of all settings.
func Reference() string {
	var b strings.Builder
	b.WriteString("| variable | default | meaning |\n|---|---|---|\n")
	for _, s := range settings {
		def := ""
		if s.Default != "" {
			def = "`" + s.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.Name, def, strings.ReplaceAll(s.Meaning, "|", `\|`))
	}
	return b.String()
}

// origins are as a browser writes them: scheme, host and port, no path.
func origins(v string) ([]string, error) {
	var out []string
	for part := range strings.SplitSeq(v, ",") {
		part = strings.TrimSpace(part)
		u, err := url.Parse(part)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || part != u.Scheme+"://"+strings.ToLower(u.Host) {
			return nil, fmt.Errorf("has %q, not an origin such as https://temporal.example", part)
		}
		out = append(out, part)
	}
	return out, nil
}

func hostPort(v string) error { return frontend.HostPort(v) }

// reference does not repeat what it cannot read: it may be the secret itself.
func reference(v string) (secrets.Ref, error) {
	ref, err := secrets.ParseRef(v)
	if err != nil {
		return secrets.Ref{}, errors.New("is not a reference such as env:NAME, file:/path or vault:path#field")
	}
	return ref, nil
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$`)

func name(v string) error {
	if !nameForm.MatchString(v) {
		return fmt.Errorf("is %q, not a name of letters, digits, ., _, + and -", v)
	}
	return nil
}

func roles(v string) ([]contract.Role, error) {
	var out []contract.Role
	for part := range strings.SplitSeq(v, ",") {
		r := contract.Role(strings.TrimSpace(part))
		switch {
		case !slices.Contains(Roles, r):
			return nil, fmt.Errorf("names the role %q; there are control, capture, snapshot and deliver", r)
		case slices.Contains(out, r):
			return nil, fmt.Errorf("names the role %q twice", r)
		}
		out = append(out, r)
	}
	return out, nil
}

func level(v string) (zapcore.Level, error) {
	switch v {
	case "debug", "info", "warn", "error":
		return zapcore.ParseLevel(v)
	}
	return 0, fmt.Errorf("is %q, not debug, info, warn or error", v)
}

func boolean(v string) (bool, error) {
	switch v {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, fmt.Errorf("is %q, not true or false", v)
}

func number(v string, low, high int) (int, error) {
	n, err := strconv.Atoi(v)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("is %q, not a number from %d to %d", v, low, high)
	}
	return n, nil
}

func share(v string) (float64, error) {
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || !(f >= 0 && f <= 1) {
		return 0, fmt.Errorf("is %q, not a number from 0 to 1", v)
	}
	return f, nil
}

func duration(v string, low, high time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if err != nil {
		return 0, fmt.Errorf("is %q, not a duration such as 30s", v)
	}
	if d < low || d > high {
		return 0, errors.New("is " + v + ", not from " + low.String() + " to " + high.String())
	}
	return d, nil
}

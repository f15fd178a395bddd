package config

import (
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"syncline/activities/contract"
	"syncline/activities/observe"
)

func TestDefaults(t *testing.T) {
	c, err := Load([]string{"PATH=/bin", "HOME=/"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Temporal.Address != "127.0.0.1:7233" || c.Temporal.Namespace != "default" || c.Temporal.TLS() || c.HTTPAddr != ":9464" ||
		!slices.Equal(c.Roles, Roles) || c.LogLevel != zapcore.InfoLevel || c.Pprof || !c.Usage || c.MaxConcurrentChunks != 4 ||
		c.Temporal.Encrypts() || c.Codec.Addr != "127.0.0.1:8088" || c.Codec.WithoutAuth || !c.Analytics.IsZero() || c.AnalyticsDatabase != "syncline_analytics" || c.AnalyticsSpill != 1<<30 ||
		c.ShutdownTimeout != 30*time.Second || c.SpillDir == "" || c.Vault.Address != "" || !c.Vault.Token.IsZero() {
		t.Errorf("%+v", c)
	}
}

func TestEverySettingIsRead(t *testing.T) {
	c, err := Load([]string{
		"SYNCLINE_TEMPORAL_ADDRESS=temporal:7233", "SYNCLINE_TEMPORAL_NAMESPACE=ns", "SYNCLINE_TEMPORAL_API_KEY=file:/key", "SYNCLINE_TASK_QUEUE_PREFIX=p",
		"SYNCLINE_ROLES=deliver, snapshot", "SYNCLINE_REGION=eu-west-1", "SYNCLINE_HTTP_ADDR=127.0.0.1:0", "SYNCLINE_LOG_LEVEL=debug", "SYNCLINE_PPROF=true", "SYNCLINE_TRACE_RATIO=0.25", "OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
		"SYNCLINE_SPILL_DIR=/spill", "SYNCLINE_ANALYTICS=env:CH", "SYNCLINE_ANALYTICS_DATABASE=a", "SYNCLINE_ANALYTICS_SPILL=2MiB", "SYNCLINE_USAGE=false", "SYNCLINE_MAX_CONCURRENT_CHUNKS=9", "SYNCLINE_SHUTDOWN_TIMEOUT=1m",
		"SYNCLINE_BUILD_ID=v1.2.3+abc", "SYNCLINE_DEPLOYMENT=d", "SYNCLINE_VAULT_ADDR=https://vault:8200",
		"SYNCLINE_VAULT_ROLE_ID=r", "SYNCLINE_VAULT_SECRET_ID_FILE=/sid", "SYNCLINE_VAULT_NAMESPACE=team", "SYNCLINE_VAULT_CACERT=/ca",
		"SYNCLINE_PAYLOAD_KEYS=vault:secret/syncline/payload-keys#keyring", "SYNCLINE_CODEC_ADDR=:8443", "SYNCLINE_CODEC_TLS_CERT=/c", "SYNCLINE_CODEC_TLS_KEY=/k",
		"SYNCLINE_CODEC_ORIGINS=https://a.example, http://127.0.0.1:8233", "SYNCLINE_CODEC_TOKENS=file:/t", "SYNCLINE_CODEC_JWKS=https://login.example/jwks",
		"SYNCLINE_CODEC_JWT_ISSUER=i", "SYNCLINE_CODEC_JWT_AUDIENCE=temporal", "SYNCLINE_CODEC_WITHOUT_AUTH=true",
		"VAULT_ADDR=http://ignored:1", "VAULT_TOKEN=t",
		"SYNCLINE_SOURCE_DSN=of the devstack", "SYNCLINE_STACK=required",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		TaskQueuePrefix: "p", Region: "eu-west-1", Roles: []contract.Role{contract.Deliver, contract.Snapshot},
		HTTPAddr: "127.0.0.1:0", LogLevel: zapcore.DebugLevel, Pprof: true, Traces: observe.TraceOptions{Ratio: 0.25, On: true, GRPC: true}, SpillDir: "/spill", MaxConcurrentChunks: 9,
		ShutdownTimeout: time.Minute, BuildID: "v1.2.3+abc", Deployment: "d",
	}
	v := c.Vault
	if v.Address != "https://vault:8200" || v.RoleID != "r" || v.SecretIDFile != "/sid" || v.Namespace != "team" || v.CACert != "/ca" || v.Token.Reveal() != "t" {
		t.Errorf("Vault: %+v", v)
	}
	if !slices.Equal(c.Roles, want.Roles) || !c.Has(contract.Deliver) || c.Has(contract.Control) {
		t.Errorf("roles %v", c.Roles)
	}
	if d := c.Codec; !c.Temporal.Encrypts() || d.Addr != ":8443" || d.TLSCert != "/c" || d.TLSKey != "/k" || !slices.Equal(d.Origins, []string{"https://a.example", "http://127.0.0.1:8233"}) ||
		d.Tokens.String() != "file:/t" || d.JWKS != "https://login.example/jwks" || d.Issuer != "i" || d.Audience != "temporal" || !d.WithoutAuth {
		t.Errorf("codec %+v", d)
	}
	if c.Usage {
		t.Error("usage is counted all the same")
	}
	if c.Analytics.String() != "env:CH" || c.AnalyticsDatabase != "a" || c.AnalyticsSpill != 2<<20 {
		t.Errorf("analytics %v %v %v", c.Analytics, c.AnalyticsDatabase, c.AnalyticsSpill)
	}
	c.Vault, c.Roles, want.Roles = want.Vault, nil, nil
	if c.Temporal.Address != "temporal:7233" || c.Temporal.Namespace != "ns" || !c.Temporal.TLS() || c.TaskQueuePrefix != want.TaskQueuePrefix || c.Region != want.Region ||
		c.HTTPAddr != want.HTTPAddr || c.LogLevel != want.LogLevel || c.Pprof != want.Pprof || c.Traces != want.Traces || c.SpillDir != want.SpillDir ||
		c.MaxConcurrentChunks != want.MaxConcurrentChunks || c.ShutdownTimeout != want.ShutdownTimeout || c.BuildID != want.BuildID || c.Deployment != want.Deployment {
		t.Errorf("got %+v\nwant %+v", c, want)
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	_, err := Load([]string{
		"SYNCLINE_TEMPORAL_ADDRESS=temporal", "SYNCLINE_HTTP_ADDR=:99999", "SYNCLINE_ROLES=control,sing", "SYNCLINE_LOG_LEVEL=loud",
		"SYNCLINE_PPROF=perhaps", "SYNCLINE_TRACE_RATIO=2", "OTEL_EXPORTER_OTLP_ENDPOINT=collector:4317", "OTEL_EXPORTER_OTLP_PROTOCOL=json", "SYNCLINE_MAX_CONCURRENT_CHUNKS=0", "SYNCLINE_SHUTDOWN_TIMEOUT=30", "SYNCLINE_TASK_QUEUE_PREFIX=a b",
		"SYNCLINE_TEMPORAL_API_KEY=aVerySecretKey", "TEMPORAL_TLS=perhaps",
		"SYNCLINE_ANALYTICS=http://u:aVerySecretKey@h", "SYNCLINE_ANALYTICS_SPILL=1KiB",
		"SYNCLINE_DEPLOYMENT=d", "SYNCLINE_VAULT_ROLE_ID=r", "SYNCLINE_TEMPORAL_ADRESS=x:1", "SYNCLINE_Q_XYZZY=1",
	})
	if err == nil {
		t.Fatal("taken")
	}
	if strings.Contains(err.Error(), "aVerySecretKey") {
		t.Errorf("a key in the wrong place shows: %v", err)
	}
	if strings.Contains(err.Error(), "Q_XYZZY is not a variable that the worker reads; did") {
		t.Errorf("a far-fetched suggestion: %v", err)
	}
	for _, want := range []string{
		"19 mistakes",
		`SYNCLINE_TRACE_RATIO is "2", not a number from 0 to 1`,
		"OTEL_EXPORTER_OTLP_ENDPOINT is not a URL",
		`OTEL_EXPORTER_OTLP_PROTOCOL is "json"`,
		"SYNCLINE_ANALYTICS is not a reference",
		`SYNCLINE_ANALYTICS_SPILL is "1KiB"`,
		"SYNCLINE_TEMPORAL_API_KEY is not a reference",
		`TEMPORAL_TLS is "perhaps", not true or false`,
		`SYNCLINE_TEMPORAL_ADDRESS is "temporal", not host:port`,
		`"99999" is not a port number`,
		`SYNCLINE_ROLES names the role "sing"`,
		`SYNCLINE_LOG_LEVEL is "loud"`,
		`SYNCLINE_PPROF is "perhaps"`,
		`SYNCLINE_MAX_CONCURRENT_CHUNKS is "0", not a number from 1 to 256`,
		`SYNCLINE_SHUTDOWN_TIMEOUT is "30", not a duration`,
		`SYNCLINE_TASK_QUEUE_PREFIX is "a b"`,
		"SYNCLINE_DEPLOYMENT is set without SYNCLINE_BUILD_ID",
		"SYNCLINE_VAULT_SECRET_ID_FILE",
		"SYNCLINE_TEMPORAL_ADRESS is not a variable that the worker reads; did you mean SYNCLINE_TEMPORAL_ADDRESS?",
		"SYNCLINE_Q_XYZZY is not a variable that the worker reads",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("lacks %q in:\n%v", want, err)
		}
	}
}

// Kubernetes tells every container of a Service named syncline, unasked.
func TestServiceLinksAreNoMistakes(t *testing.T) {
	_, err := Load([]string{
		"SYNCLINE_SERVICE_HOST=10.0.0.1", "SYNCLINE_SERVICE_PORT=9464", "SYNCLINE_SERVICE_PORT_METRICS=9464", "SYNCLINE_PORT=tcp://10.0.0.1:9464",
		"SYNCLINE_PORT_9464_TCP=tcp://10.0.0.1:9464", "SYNCLINE_PORT_9464_TCP_PROTO=tcp", "SYNCLINE_WORKER_PORT_9464_TCP_ADDR=10.0.0.1",
	})
	if err != nil {
		t.Error(err)
	}
	for _, s := range Settings() {
		if links.MatchString(s.Name) {
			t.Errorf("%s is taken for one of them", s.Name)
		}
	}
}

func TestRolesTwiceAndEmpty(t *testing.T) {
	for _, v := range []string{"deliver,deliver", "deliver,", ","} {
		if _, err := Load([]string{"SYNCLINE_ROLES=" + v}); err == nil {
			t.Errorf("%q was taken", v)
		}
	}
}

func TestReferenceListsEverySetting(t *testing.T) {
	ref := Reference()
	seen := map[string]bool{}
	for _, s := range Settings() {
		if seen[s.Name] || !strings.HasPrefix(s.Name, "SYNCLINE_") || s.Meaning == "" || slices.Contains(notOurs, s.Name) {
			t.Errorf("setting %+v", s)
		}
		seen[s.Name] = true
		if !strings.Contains(ref, "| `"+s.Name+"` |") {
			t.Errorf("the reference lacks %s", s.Name)
		}
	}
}

package stack

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

// Env names the variables that hold addresses; devstack writes them.
const (
	EnvTemporal     = "SYNCLINE_TEMPORAL_ADDRESS"
	EnvTemporalUI   = "SYNCLINE_TEMPORAL_UI"
	EnvTemporalCLI  = "SYNCLINE_TEMPORAL_CLI"
	EnvSource       = "SYNCLINE_SOURCE_DSN"
	EnvSink         = "SYNCLINE_SINK_DSN"
	EnvKafka        = "SYNCLINE_KAFKA_BROKERS"
	EnvClickHouse   = "SYNCLINE_CLICKHOUSE_URL"
	EnvNative       = "SYNCLINE_CLICKHOUSE_NATIVE_URL"
	EnvVault        = "SYNCLINE_VAULT_ADDR"
	EnvVaultToken   = "SYNCLINE_VAULT_TOKEN_FILE"
	EnvPrometheus   = "SYNCLINE_PROMETHEUS_URL"
	EnvSocket       = "SYNCLINE_DEVSTACK_SOCKET"
	EnvPostgresBins = "SYNCLINE_PG_BINDIR"
	EnvRequired     = "SYNCLINE_STACK"
)

// Postgres is the connection string of the source server.
func Postgres(t testing.TB) string { return need(t, EnvSource) }

// SinkPostgres is the connection string of the sink server.
func SinkPostgres(t testing.TB) string { return need(t, EnvSink) }

// Kafka lists the brokers.
func Kafka(t testing.TB) []string { return strings.Split(need(t, EnvKafka), ",") }

// SecuredKafka is how to reach Kafka's listener with TLS and SASL.
type SecuredKafka struct {
	Brokers        []string
	CA             string // file
	User, Password string
}

// KafkaSecured is that listener, which the embedded Kafka does not have: there the
// test is skipped, unless all servers are required.
func KafkaSecured(t testing.TB) SecuredKafka {
	t.Helper()
	return SecuredKafka{strings.Split(need(t, "SYNCLINE_KAFKA_SECURED"), ","), need(t, "SYNCLINE_KAFKA_CA"), need(t, "SYNCLINE_KAFKA_USER"), need(t, "SYNCLINE_KAFKA_PASSWORD")}
}

// MutualKafka is how to reach Kafka's listener that wants a client certificate.
type MutualKafka struct {
	Brokers       []string
	CA, Cert, Key string // files of the authority, and of a client's certificate that it signed
}

// KafkaMutual is that listener, which the embedded Kafka does not have, as with KafkaSecured.
func KafkaMutual(t testing.TB) MutualKafka {
	t.Helper()
	return MutualKafka{strings.Split(need(t, "SYNCLINE_KAFKA_MUTUAL"), ","), need(t, "SYNCLINE_KAFKA_CA"), need(t, "SYNCLINE_KAFKA_CERT"), need(t, "SYNCLINE_KAFKA_KEY")}
}

// ClickHouse is the URL of the HTTP interface, with user and database.
func ClickHouse(t testing.TB) string { return need(t, EnvClickHouse) }

// ClickHouseNative is the URL of the native protocol of the same server.
func ClickHouseNative(t testing.TB) string { return need(t, EnvNative) }

// Temporal is the address of the frontend.
func Temporal(t testing.TB) string { return need(t, EnvTemporal) }

// TemporalCLI is the path of the `temporal` program.
func TemporalCLI(t testing.TB) string { return need(t, EnvTemporalCLI) }

// PostgresBinaries is the folder with initdb, pg_ctl and postgres.
func PostgresBinaries(t testing.TB) string { return need(t, EnvPostgresBins) }

// Vault is the address and the path of a file that holds a token. It is
// optional in a stack: without it the test is skipped, unless SYNCLINE_STACK
// says required,vault.
func Vault(t testing.TB) (addr, tokenFile string) {
	t.Helper()
	if os.Getenv(EnvVault) == "" && !requires("vault") {
		t.Skipf("%s is not set: start the stack with `devstack up --vault` to run this test", EnvVault)
	}
	return need(t, EnvVault), need(t, EnvVaultToken)
}

// SecuredVault is the same Vault behind TLS.
type SecuredVault struct {
	Addr string
	CA   string // file of the authority that signed its certificate
	Pair string // file of its certificate and key, which it reads at each connection
}

// VaultTLS is optional in a stack, as Vault is.
func VaultTLS(t testing.TB) SecuredVault {
	t.Helper()
	Vault(t)
	return SecuredVault{need(t, "SYNCLINE_VAULT_TLS_ADDR"), need(t, "SYNCLINE_VAULT_CA"), need(t, "SYNCLINE_VAULT_TLS_PAIR")}
}

// Monitoring is a running Prometheus and the programs that check its files.
type Monitoring struct {
	URL string
	// Dir holds rules/*.yml and targets/*.json, which tests write; Prometheus notices
	// targets by itself and rules when it is told to reload.
	Dir              string
	Promtool, Amtool string
}

// Prometheus is optional in a stack: without it the test is skipped, unless
// SYNCLINE_STACK says required,prometheus.
func Prometheus(t testing.TB) Monitoring {
	t.Helper()
	if os.Getenv(EnvPrometheus) == "" && !requires("prometheus") {
		t.Skipf("%s is not set: start the stack with `devstack up --prometheus` to run this test", EnvPrometheus)
	}
	return Monitoring{need(t, EnvPrometheus), need(t, "SYNCLINE_PROMETHEUS_DIR"), need(t, "SYNCLINE_PROMTOOL"), need(t, "SYNCLINE_AMTOOL")}
}

func need(t testing.TB, name string) string {
	t.Helper()
	if v := os.Getenv(name); v != "" {
		return v
	}
	const how = "start the servers with `cd devstack && go run . up --env-file FILE` and `source FILE`"
	if requires("required") {
		t.Fatalf("%s is not set, and SYNCLINE_STACK asks for all servers: %s", name, how)
	}
	t.Skipf("%s is not set: %s", name, how)
	return ""
}

func requires(what string) bool {
	for v := range strings.SplitSeq(os.Getenv(EnvRequired), ",") {
		if strings.TrimSpace(v) == what {
			return true
		}
	}
	return false
}

// Name makes a short name that no other test has: lower-case letters, digits
// and underscores, beginning with a letter, good for databases, topics,
// pipelines and slots alike.
func Name(t testing.TB) string {
	t.Helper()
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		t.Fatalf("random name: %v", err)
	}
	return shorten(t.Name()) + "_" + hex.EncodeToString(b[:])
}

// shorten keeps what is legal of a test's name, up to 20 characters.
func shorten(name string) string {
	name = strings.TrimPrefix(name, "Test")
	var out strings.Builder
	for _, c := range strings.ToLower(name) {
		if out.Len() == 20 {
			break
		}
		if c >= 'a' && c <= 'z' || out.Len() > 0 && (c >= '0' && c <= '9' || c == '_') {
			out.WriteRune(c)
		}
	}
	if out.Len() == 0 {
		return "t"
	}
	return out.String()
}

package stack

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kgo"

	"syncline/devstack/internal/clickhouse"
	"syncline/devstack/internal/components"
	"syncline/devstack/internal/proc"
)

// programs are the paths of what a configuration runs.
type programs struct {
	self     string // devstack, which serves Kafka and ClickHouse itself
	temporal string
	chdb     string
	postgres string // folder
	kafka    string // folder of jars, for Apache Kafka
	java     string
	vault    string
	// prometheus is the folder of prometheus, promtool and amtool.
	prometheus string
}

// find gets all programs that the configuration needs.
func find(ctx context.Context, c *Config, parts *components.Components) (p programs, err error) {
	if p.self, err = os.Executable(); err != nil {
		return p, fmt.Errorf("own path: %w", err)
	}
	// The quick ones first: what is missing shows before minutes of building.
	if p.postgres, err = parts.Postgres(ctx, c.Postgres); err != nil {
		return p, err
	}
	if c.Kafka == "apache" {
		if p.kafka, p.java, err = parts.Kafka(ctx); err != nil {
			return p, err
		}
	}
	if p.chdb, err = parts.ChDB(ctx); err != nil {
		return p, err
	}
	if p.temporal, err = parts.Temporal(ctx); err != nil {
		return p, err
	}
	if c.Vault {
		if p.vault, err = parts.Vault(ctx); err != nil {
			return p, err
		}
	}
	if c.Prometheus {
		if p.prometheus, err = parts.Prometheus(ctx); err != nil {
			return p, err
		}
	}
	return p, nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (c *Config) log(name string) string { return filepath.Join(c.Data, "logs", name+".log") }

// searchAttributes of the product's workflows.
var searchAttributes = []string{
	"SynclinePipeline=Keyword", "SynclinePhase=Keyword", "SynclineSource=Keyword",
	"SynclineSink=KeywordList", "SynclineTier=KeywordList", "SynclineRegion=Keyword",
}

func temporalService(c *Config, p programs) *service {
	address, ui := loopback(c.Ports.Temporal), loopback(c.Ports.UI)
	args := []string{
		"server", "start-dev", "--ip", "127.0.0.1", "--port", strconv.Itoa(c.Ports.Temporal),
		"--ui-port", strconv.Itoa(c.Ports.UI), "--metrics-port", strconv.Itoa(c.Ports.Metrics),
		"--db-filename", filepath.Join(c.Data, "temporal", "temporal.db"), "--log-level", "warn", "--disable-config-file",
		// One append for each commit instead of a journal that is made, synced and deleted.
		// What is committed survives a kill of the process, if not a loss of power.
		"--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=NORMAL",
	}
	for _, a := range searchAttributes {
		args = append(args, "--search-attribute", a)
	}
	return &service{
		name: Temporal, address: address, note: "Web UI http://" + ui,
		spec:  proc.Spec{Path: p.temporal, Args: args, Log: c.log(Temporal)},
		setup: folder(filepath.Join(c.Data, "temporal")),
		ready: func(ctx context.Context) error {
			if err := getOK(ctx, "http://"+ui+"/"); err != nil {
				return err
			}
			// The namespace is made after the server answers.
			out, err := exec.CommandContext(ctx, p.temporal, "operator", "namespace", "describe", "-n", "default",
				"--address", address, "--disable-config-file").CombinedOutput()
			if err != nil {
				return fmt.Errorf("namespace default: %w: %s", err, strings.TrimSpace(string(out)))
			}
			return nil
		},
	}
}

func folder(path string) func(context.Context) error {
	return func(context.Context) error { return os.MkdirAll(path, 0o755) }
}

func getOK(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<16))
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers with status %d", url, res.StatusCode)
	}
	return nil
}

func kafkaService(c *Config, p programs) *service {
	s := &service{name: Kafka, address: loopback(c.Ports.Kafka)}
	s.ready = func(ctx context.Context) error {
		client, err := kgo.NewClient(kgo.SeedBrokers(s.address))
		if err != nil {
			return fmt.Errorf("kafka client: %w", err)
		}
		defer client.Close()
		return client.Ping(ctx)
	}
	if c.Kafka == "embedded" {
		dir := filepath.Join(c.Data, "kafka-embedded")
		s.note = "embedded"
		s.spec = proc.Spec{Path: p.self, Args: []string{"serve", "kafka", "--port", strconv.Itoa(c.Ports.Kafka), "--dir", dir}, Log: c.log(Kafka)}
		return s
	}
	apacheKafka(c, p, s)
	return s
}

func clickHouseService(c *Config, p programs) *service {
	native := loopback(c.Ports.Native)
	s := &service{name: ClickHouse, address: loopback(c.Ports.ClickHouse), note: "HTTP; native protocol " + native}
	s.spec = proc.Spec{
		Path: p.self, Log: c.log(ClickHouse), Env: []string{"TZ=UTC"},
		Args: []string{"serve", "clickhouse", "--port", strconv.Itoa(c.Ports.ClickHouse), "--native-port", strconv.Itoa(c.Ports.Native), "--dir", filepath.Join(c.Data, "clickhouse"), "--library", p.chdb},
	}
	s.ready = func(ctx context.Context) error {
		if err := getOK(ctx, "http://"+s.address+"/?query=SELECT+1"); err != nil {
			return err
		}
		return clickhouse.Ping(ctx, native)
	}
	return s
}

func vaultService(c *Config, p programs) *service {
	s := &service{name: Vault, address: loopback(c.Ports.Vault), note: "root token in " + c.tokenFile()}
	s.spec = proc.Spec{
		Path: p.vault, Log: c.log(Vault),
		Args: []string{"--listen", s.address, "--tls-listen", loopback(c.Ports.VaultTLS), "--tls-pair", c.vaultPair(), "--dir", filepath.Join(c.Data, "vault")},
	}
	s.setup = func(context.Context) error {
		if err := os.MkdirAll(filepath.Join(c.Data, "vault"), 0o700); err != nil {
			return fmt.Errorf("data folder: %w", err)
		}
		_, err := writeCertificates(c.vaultCA(), c.vaultPair())
		return err
	}
	s.ready = func(ctx context.Context) error {
		if err := getOK(ctx, "http://"+s.address+"/v1/sys/health"); err != nil {
			return err
		}
		_, err := os.Stat(c.tokenFile())
		return err
	}
	return s
}

func (c *Config) tokenFile() string { return filepath.Join(c.Data, "vault", "root-token") }

func postgresReady(dsn string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := pgconn.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	}
}

// Prepare fetches and builds the programs and starts nothing.
func Prepare(ctx context.Context, cfg Config, parts *components.Components) error {
	if err := checkSpace(cfg.MinFree, parts.Cache.Dir()); err != nil {
		return err
	}
	_, err := find(ctx, &cfg, parts)
	return err
}

package activities

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"syncline/pipeline"
	"syncline/secrets"
)

// declared is the spec of a declaration with this source and this sink.
func declared(t *testing.T, source, sink string) *pipeline.Spec {
	t.Helper()
	s, err := pipeline.Parse("x.yaml", []byte("version: 1\nname: x\nsource: {type: postgres, "+source+"}\nkafka: {brokers: [\"k:9092\"]}\nsinks: [{name: s, "+sink+"}]\ntables: [a.*]\n"), os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func resolving(t *testing.T) *Activities {
	t.Helper()
	r, err := secrets.New(secrets.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return &Activities{Secrets: r}
}

// What the fields of a connection say is what the driver is told.
func TestPostgresConnections(t *testing.T) {
	a := resolving(t)
	t.Setenv("PW", "p@ss/w:rd?#")
	for _, c := range []struct{ source, host, sslmode string }{
		{"host: db.example, database: d, user: u, password: env:PW, sslmode: disable", "db.example", "off"},
		{"host: '::1', port: 5433, database: d, user: u, password: env:PW, sslmode: require", "::1", "on"},
		{"host: /var/run/postgresql, port: 5433, database: d, user: u, password: env:PW", "/var/run/postgresql", "off"},
	} {
		s := declared(t, c.source, "type: postgres, dsn: env:PW")
		dsn, err := a.sourceDSN(t.Context(), s.Source)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := pgconn.ParseConfig(dsn)
		if err != nil {
			t.Errorf("%s: %v", c.source, err)
			continue
		}
		if cfg.Host != c.host || cfg.Database != "d" || cfg.User != "u" || cfg.Password != "p@ss/w:rd?#" || int(cfg.Port) != s.Source.Port || (cfg.TLSConfig != nil) != (c.sslmode == "on") {
			t.Errorf("%s: host %q, port %d, database %q, TLS %t", c.source, cfg.Host, cfg.Port, cfg.Database, cfg.TLSConfig != nil)
		}
	}
}

// A sink that is declared with tls is spoken to in TLS, of either protocol, and
// only if the declared authority has signed its certificate.
func TestClickHouseTLS(t *testing.T) {
	a := resolving(t)
	t.Setenv("PW", "secret")
	var requests, hellos, plain atomic.Int64
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		http.Error(w, "no", http.StatusForbidden)
	}))
	web.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { hellos.Add(1); return nil, nil }}
	web.StartTLS()
	defer web.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	// A native server that only looks at the first byte: 0x16 begins a handshake.
	native, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = native.Close() }()
	go func() {
		for {
			c, err := native.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 1)
			if _, err := c.Read(b); err == nil && b[0] == 0x16 {
				hellos.Add(1)
			} else {
				plain.Add(1)
			}
			_ = c.Close()
		}
	}()
	try := func(address, fields string) error {
		host, port, _ := net.SplitHostPort(address)
		s := declared(t, "dsn: env:PW", "type: clickhouse, host: "+host+", port: "+port+", user: u, password: env:PW, database: d, "+fields)
		sk, err := a.sink(t.Context(), "x", s.Sinks[0])
		if err != nil {
			return err
		}
		defer func() { _ = sk.Close() }()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err = sk.Tables(ctx)
		return err
	}
	at := strings.TrimPrefix(web.URL, "https://")
	if err := try(at, "tls: {ca_file: "+ca+"}"); err == nil || requests.Load() == 0 {
		t.Errorf("with the authority: %v, %d requests", err, requests.Load())
	}
	n := requests.Load()
	if err := try(at, "tls: {}"); err == nil || requests.Load() != n {
		t.Errorf("a certificate of an unknown authority was accepted: %v", err)
	}
	before := hellos.Load()
	if err := try(native.Addr().String(), "protocol: native, tls: {ca_file: "+ca+"}"); err == nil || hellos.Load() == before || plain.Load() > 0 {
		t.Errorf("native: %v, %d handshakes, %d in plain text", err, hellos.Load()-before, plain.Load())
	}
	if err := try(at, "tls: {ca_file: /nowhere.pem}"); err == nil || !strings.Contains(err.Error(), "TLSFile") {
		t.Errorf("a missing authority: %v", err)
	}
}

package secrets

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func newTLS(t *testing.T, f *fakeVault) string {
	s := httptest.NewTLSServer(http.HandlerFunc(f.serve))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(s.Close)
	return s.URL
}

func TestSecretNeverShows(t *testing.T) {
	type holder struct {
		Name   string
		Public Secret
		hidden Secret
		ptr    *Secret
	}
	s := NewSecret("hunter2")
	h := holder{"x", s, s, &s}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T"} {
		fmt.Fprintf(&out, verb+"\n", s)
		fmt.Fprintf(&out, verb+"\n", &s)
		fmt.Fprintf(&out, verb+"\n", h)
		fmt.Fprintf(&out, verb+"\n", []Secret{s})
		fmt.Fprintf(&out, verb+"\n", map[string]Secret{"k": s})
	}
	js, err := json.Marshal(map[string]any{"s": s, "h": h, "m": map[string]Secret{"k": s}})
	if err != nil || !bytes.Contains(js, []byte(`"[redacted]"`)) {
		t.Fatalf("%s %v", js, err)
	}
	out.Write(js)
	ym, err := yaml.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(ym)
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "s", s, "h", h)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "s", s, "h", h)
	z := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&out), zap.DebugLevel))
	z.Info("m", zap.Any("s", s), zap.Any("h", h), zap.Stringer("t", s), zap.Reflect("r", s))
	z.Sugar().Infof("%v", h)

	for _, leak := range []string{"hunter2", "68756e74657232", "hunter"} {
		if strings.Contains(strings.ToLower(out.String()), leak) {
			t.Fatalf("shown as %q in:\n%s", leak, out.String())
		}
	}
	if s.Reveal() != "hunter2" || !s.Equal(NewSecret("hunter2")) || s.Equal(NewSecret("x")) || s.IsZero() || !(Secret{}).IsZero() || (Secret{}).Reveal() != "" {
		t.Error("Reveal, Equal or IsZero")
	}
}

func TestRedact(t *testing.T) {
	for _, in := range []string{
		"postgres://app:hunter2@db:5432/shop?sslmode=disable",
		"cannot parse `postgres://app:hunter2@db/shop`: failed",
		"postgres://app:hun@ter2@db",
		"postgres://app:hun/ter2#x@db",
		"host=db password=hunter2 user=app",
		"host=db password='hunter2 with space' user=app",
		`host=db password='hun\'ter2' user=app`,
		"clickhouse://db:9000?username=u&password=hunter2&x=y",
		"ALTER ROLE x PASSWORD 'hunter2'",
		`{"password":"hunter2"}`,
		`{"secret_id": "hunter2"}`,
		"X-Vault-Token: hunter2",
		"X-ClickHouse-Key: hunter2, more",
		"Authorization: Bearer hunter2",
		"token hvs.hunter2hunter2hunter2 denied",
	} {
		out := Redact(in)
		if strings.Contains(out, "hunter2") || strings.Contains(out, "ter2") || !strings.Contains(out, "***") {
			t.Errorf("%q became %q", in, out)
		}
	}
	for _, in := range []string{
		"", "dial tcp 10.0.0.1:5432: connect: connection refused",
		`relation "passwords" does not exist`,
		"http://vault:8200/v1/secret/data/db",
		"password authentication failed for user \"app\" (SQLSTATE 28P01)",
	} {
		if out := Redact(in); out != in {
			t.Errorf("%q became %q", in, out)
		}
	}
}

// The errors that parsers really give for strings with an unescaped password.
func TestRedactRealParserErrors(t *testing.T) {
	for _, dsn := range []string{
		"postgres://app:hun#ter2@db/shop",
		"postgres://app:hun%zzter2@db/shop",
		"postgres://app:hun/ter2@db/shop",
		"postgres://app:hun ter2@db/shop",
		"postgres://app:hunter2@db:port/shop",
		"host=db user=app password=hunter2 port=x",
		"host=db user=app password='hunter2 port=x",
	} {
		_, uerr := url.Parse(dsn)
		_, perr := pgx.ParseConfig(dsn)
		for _, err := range []error{uerr, perr} {
			if err == nil {
				continue
			}
			if out := Redact(err.Error()); strings.Contains(out, "hun") || strings.Contains(out, "ter2") {
				t.Errorf("%q became %q", err.Error(), out)
			}
		}
	}
}

package frontend

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.temporal.io/sdk/client"

	"syncline/secrets"
	"syncline/testsuite/stack"
)

// from resolves every reference by a function.
type from func() (secrets.Secret, error)

func (f from) Resolve(context.Context, secrets.Ref) (secrets.Secret, error) { return f() }
func (f from) Refetch(context.Context, secrets.Ref) (secrets.Secret, error) { return f() }

func options(t *testing.T, environ []string, g Given) (Config, client.Options) {
	t.Helper()
	c, err := Load(environ, g)
	if err != nil {
		t.Fatal(err)
	}
	o, err := c.Options(t.Context(), from(func() (secrets.Secret, error) { return secrets.NewSecret("from elsewhere"), nil }), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c, o
}

// Each variable of the reference does what it says, alone or with what it needs.
func TestEveryVariableIsRead(t *testing.T) {
	a := stack.NewAuthority(t)
	cert, key := a.Sign("client")
	file := filepath.Join(t.TempDir(), "temporal.toml")
	if err := os.WriteFile(file, []byte("[profile.default]\nnamespace = \"first\"\n[profile.other]\nnamespace = \"second\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	checks := map[string]struct {
		environ []string
		ok      func(client.Options) bool
	}{
		"TEMPORAL_ADDRESS":                       {[]string{"=t:1"}, func(o client.Options) bool { return o.HostPort == "t:1" }},
		"TEMPORAL_NAMESPACE":                     {[]string{"=n"}, func(o client.Options) bool { return o.Namespace == "n" }},
		"TEMPORAL_API_KEY":                       {[]string{"=k"}, func(o client.Options) bool { return o.Credentials != nil && o.ConnectionOptions.TLS != nil }},
		"TEMPORAL_TLS":                           {[]string{"=true"}, func(o client.Options) bool { return o.ConnectionOptions.TLS != nil }},
		"TEMPORAL_TLS_SERVER_CA_CERT_PATH":       {[]string{"=" + a.File}, func(o client.Options) bool { return o.ConnectionOptions.TLS.RootCAs != nil }},
		"TEMPORAL_TLS_CLIENT_CERT_PATH":          {[]string{"=" + cert, "TEMPORAL_TLS_CLIENT_KEY_PATH=" + key}, func(o client.Options) bool { return len(o.ConnectionOptions.TLS.Certificates) == 1 }},
		"TEMPORAL_TLS_CLIENT_KEY_PATH":           {[]string{"=" + key, "TEMPORAL_TLS_CLIENT_CERT_PATH=" + cert}, func(o client.Options) bool { return len(o.ConnectionOptions.TLS.Certificates) == 1 }},
		"TEMPORAL_TLS_SERVER_NAME":               {[]string{"=s"}, func(o client.Options) bool { return o.ConnectionOptions.TLS.ServerName == "s" }},
		"TEMPORAL_TLS_DISABLE_HOST_VERIFICATION": {[]string{"=true"}, func(o client.Options) bool { return o.ConnectionOptions.TLS.InsecureSkipVerify }},
		"TEMPORAL_CLIENT_AUTHORITY":              {[]string{"=a"}, func(o client.Options) bool { return o.ConnectionOptions.Authority == "a" }},
		"TEMPORAL_CONFIG_FILE":                   {[]string{"=" + file}, func(o client.Options) bool { return o.Namespace == "first" }},
		"TEMPORAL_PROFILE":                       {[]string{"=other", "TEMPORAL_CONFIG_FILE=" + file}, func(o client.Options) bool { return o.Namespace == "second" }},
	}
	for _, v := range Variables() {
		c, ok := checks[v.Name]
		if !ok {
			t.Errorf("%s has no check", v.Name)
			continue
		}
		c.environ[0] = v.Name + c.environ[0]
		if _, o := options(t, c.environ, Given{}); !c.ok(o) {
			t.Errorf("%v has no effect: %+v", c.environ, o)
		}
	}
}

func TestWhatIsGivenGoesFirst(t *testing.T) {
	environ := []string{"TEMPORAL_ADDRESS=t:1", "TEMPORAL_NAMESPACE=n", "TEMPORAL_API_KEY=in the environment", "HOME=" + t.TempDir()}
	c, o := options(t, environ, Given{Address: "ours:1", Namespace: "ours", APIKey: secrets.MustParseRef("env:X")})
	if o.HostPort != "ours:1" || o.Namespace != "ours" || !c.TLS() || o.ConnectionOptions.TLS == nil {
		t.Errorf("%+v", o)
	}
	if s := fmt.Sprintf("%v %+v %#v %s", c, c, c, c); strings.Contains(s, "environment") {
		t.Errorf("the key shows: %s", s)
	}
	c, o = options(t, []string{"TEMPORAL_TLS_CLIENT_CERT_PATH=", "TEMPORAL_ADDRESS="}, Given{})
	if o.HostPort != DefaultAddress || o.Namespace != DefaultNamespace || c.TLS() || o.ConnectionOptions.TLS != nil {
		t.Errorf("empty variables are settings: %+v", o)
	}
	c, _ = options(t, []string{"TEMPORAL_API_KEY=k", "TEMPORAL_TLS=false"}, Given{})
	if c.TLS() {
		t.Error("TLS cannot be turned off")
	}
}

func TestMistakes(t *testing.T) {
	_, err := Load([]string{"TEMPORAL_TLS=on", "TEMPORAL_ADDRESS=nowhere", "TEMPORAL_CONFIG_FILE=/nowhere/t.toml", "TEMPORAL_TLS_CLIENT_CERT_PATH=/nowhere/c"}, Given{})
	for _, want := range []string{`TEMPORAL_TLS is "on"`, `"nowhere", not host:port`, "TEMPORAL_CONFIG_FILE names a file", "other must be present"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	c, err := Load(nil, Given{APIKey: secrets.MustParseRef("env:X")})
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	if _, err := c.Options(t.Context(), from(func() (secrets.Secret, error) { return secrets.Secret{}, gone }), nil); !errors.Is(err, gone) {
		t.Errorf("a key that cannot be read: %v", err)
	}
}

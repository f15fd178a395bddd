// Command vault is HashiCorp Vault's core with the parts that Syncline's tests
// use: KV version 2 at secret/, AppRole, the database engine with its
// plugin for Postgres, policies, the real HTTP API, in plain and with TLS. Its data
// are in a folder, unseal key and root token beside them: for development only.
//
// It is a module of its own because Vault's dependencies are many and its build
// takes minutes; devstack builds it once and keeps the binary.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/logical/database"
	"github.com/hashicorp/vault/command/server"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/internalshared/listenerutil"
	"github.com/hashicorp/vault/plugins/database/postgresql"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/vault"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8200", "address to serve")
	dir := flag.String("dir", "", "folder for data, unseal key and root token")
	secured := flag.String("tls-listen", "", "address to serve with TLS")
	pair := flag.String("tls-pair", "", "PEM file of key and certificate for it, read again at each handshake")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, *secured, *pair, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "vault:", err)
		os.Exit(1)
	}
}

// keys is what initialising gives once.
type keys struct {
	Unseal string `json:"unseal"`
	Root   string `json:"root"`
}

func run(ctx context.Context, listen, secured, pair, dir string) error {
	if dir == "" {
		return errors.New("--dir is needed")
	}
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: os.Stderr})
	core, err := newCore(filepath.Join(dir, "data"), listen, log)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	served := make(chan error, 2)
	serve := func(l net.Listener, conf *configutil.Listener) *http.Server {
		web := &http.Server{
			Handler:           vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core, ListenerConfig: conf}),
			ReadHeaderTimeout: 10 * time.Second,
			ErrorLog:          log.StandardLogger(nil),
		}
		go func() { served <- web.Serve(l) }()
		return web
	}
	webs := []*http.Server{serve(listener, &configutil.Listener{Type: "tcp", Address: listen, TLSDisable: true})}
	if secured != "" {
		conf := &configutil.Listener{Type: "tcp", Address: secured, TLSCertFile: pair, TLSKeyFile: pair}
		l, err := listenTLS(conf)
		if err != nil {
			return err
		}
		webs = append(webs, serve(l, conf))
	}
	k, fresh, err := unseal(ctx, core, dir)
	if err != nil {
		return err
	}
	if fresh {
		if err := mount(ctx, "http://"+listener.Addr().String(), k.Root); err != nil {
			return err
		}
	}
	// The file appears when everything is there: others wait for it.
	if err := os.WriteFile(filepath.Join(dir, "root-token"), []byte(k.Root), 0o600); err != nil {
		return fmt.Errorf("write root token: %w", err)
	}
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, web := range webs {
		_ = web.Shutdown(grace)
	}
	return core.Shutdown()
}

// listenTLS listens as Vault's own server does, except that it reads its certificate again
// at each handshake and not on SIGHUP: whoever tests a rotation has the file only.
func listenTLS(conf *configutil.Listener) (net.Listener, error) {
	tlsConf, reload, err := listenerutil.TLSConfig(conf, map[string]string{}, nil)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	current := tlsConf.GetCertificate
	tlsConf.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		_ = reload() // while the file cannot be read, the one of before serves
		return current(hello)
	}
	l, err := tls.Listen("tcp", conf.Address, tlsConf)
	if err != nil {
		return nil, fmt.Errorf("listen with TLS: %w", err)
	}
	return l, nil
}

func newCore(data, listen string, log hclog.Logger) (*vault.Core, error) {
	store, err := file.NewFileBackend(map[string]string{"path": data}, log)
	if err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:           store,
		StorageType:        "file",
		LogicalBackends:    map[string]logical.Factory{"kv": kv.Factory, "database": database.Factory},
		CredentialBackends: map[string]logical.Factory{"approle": approle.Factory},
		BuiltinRegistry:    registry{},
		RawConfig:          &server.Config{SharedConfig: &configutil.SharedConfig{}},
		RedirectAddr:       "http://" + listen,
		DisableMlock:       true,
		Logger:             log,
		ClusterName:        "syncline-devstack",
	})
	if err != nil {
		return nil, fmt.Errorf("core: %w", err)
	}
	return core, nil
}

// unseal initialises an empty store, with one key, and opens it.
func unseal(ctx context.Context, core *vault.Core, dir string) (keys, bool, error) {
	var k keys
	path := filepath.Join(dir, "keys.json")
	done, err := core.Initialized(ctx)
	if err != nil {
		return k, false, fmt.Errorf("storage: %w", err)
	}
	if !done {
		res, err := core.Initialize(ctx, &vault.InitParams{
			BarrierConfig:  &vault.SealConfig{SecretShares: 1, SecretThreshold: 1},
			RecoveryConfig: &vault.SealConfig{},
		})
		if err != nil {
			return k, false, fmt.Errorf("initialise: %w", err)
		}
		k = keys{Unseal: hex.EncodeToString(res.SecretShares[0]), Root: res.RootToken}
		b, err := json.Marshal(k)
		if err != nil {
			return k, false, err
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return k, false, fmt.Errorf("keep the keys: %w", err)
		}
	} else {
		b, err := os.ReadFile(path)
		if err != nil {
			return k, false, fmt.Errorf("the store is sealed and its key is gone, remove the folder to begin anew: %w", err)
		}
		if err := json.Unmarshal(b, &k); err != nil {
			return k, false, fmt.Errorf("%s: %w", path, err)
		}
	}
	key, err := hex.DecodeString(k.Unseal)
	if err != nil {
		return k, false, fmt.Errorf("%s: %w", path, err)
	}
	if ok, err := core.Unseal(key); err != nil || !ok {
		return k, false, fmt.Errorf("unseal: opened %t, %w", ok, err)
	}
	for {
		waiting, err := core.Standby()
		if err != nil {
			return k, false, fmt.Errorf("standby: %w", err)
		}
		if !waiting {
			break
		}
		select {
		case <-ctx.Done():
			return k, false, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	// A store whose first run ended before the mounts has no token file.
	_, err = os.Stat(filepath.Join(dir, "root-token"))
	return k, err != nil, nil
}

// mount enables what the tests use, through the same API that they use.
func mount(ctx context.Context, base, token string) error {
	for path, body := range map[string]any{
		"/v1/sys/mounts/secret": map[string]any{"type": "kv", "options": map[string]string{"version": "2"}},
		"/v1/sys/auth/approle":  map[string]any{"type": "approle"},
	} {
		status, err := call(ctx, http.MethodPost, base+path, token, body)
		if err != nil {
			return fmt.Errorf("mount %s: %w", path, err)
		}
		// 400 says that it is there already, from a first run that was cut short.
		if status >= 300 && status != http.StatusBadRequest {
			return fmt.Errorf("mount %s: status %d", path, status)
		}
	}
	// A new KV store refuses everything until it has set itself up.
	for {
		status, err := call(ctx, http.MethodGet, base+"/v1/secret/config", token, nil)
		if err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func call(ctx context.Context, method, url, token string, body any) (status int, err error) {
	b, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(b))
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-Vault-Token", token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}

// postgres is the plugin of the database engine.
const postgres = "postgresql-database-plugin"

// registry names the plugins that are compiled in.
type registry struct{}

func (registry) names(t consts.PluginType) []string {
	switch t {
	case consts.PluginTypeSecrets:
		return []string{"kv", "database"}
	case consts.PluginTypeDatabase:
		return []string{postgres}
	case consts.PluginTypeCredential:
		return []string{"approle"}
	}
	return nil
}

func (r registry) Contains(name string, t consts.PluginType) bool {
	return slices.Contains(r.names(t), name)
}

func (r registry) Get(name string, t consts.PluginType) (func() (interface{}, error), bool) {
	if !r.Contains(name, t) {
		return nil, false
	}
	switch name {
	case "kv":
		return func() (interface{}, error) { return kv.Factory, nil }, true
	case "database":
		return func() (interface{}, error) { return logical.Factory(database.Factory), nil }, true
	case postgres:
		return postgresql.New, true
	}
	return func() (interface{}, error) { return approle.Factory, nil }, true
}

func (r registry) Keys(t consts.PluginType) []string { return r.names(t) }

func (r registry) DeprecationStatus(name string, t consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, r.Contains(name, t)
}

func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }

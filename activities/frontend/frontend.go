// Package frontend says how Syncline's programs reach Temporal: address, namespace,
// TLS and API key.
//
// The settings are those of Temporal's own command-line tool, read by the SDK: the
// TEMPORAL_ variables and a profile of its configuration file. What a program knows
// by a flag or a variable of Syncline's goes before them. An API key may stay
// elsewhere, named by a reference; it is then read again as it is used, so that a
// new key needs no restart. So may the keys that payloads are encrypted with.
package frontend

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"google.golang.org/grpc/codes"

	"syncline/activities/codec"
	"syncline/secrets"
)

// DefaultAddress and DefaultNamespace are used if nobody names others.
const (
	DefaultAddress   = "127.0.0.1:7233"
	DefaultNamespace = "default"
)

// Given is what goes before Temporal's own settings; zero values leave it to them.
type Given struct {
	Address     string
	Namespace   string
	APIKey      secrets.Ref
	PayloadKeys secrets.Ref
}

// Config is how to reach Temporal. It may hold an API key and shows none.
type Config struct {
	Address   string
	Namespace string

	profile  envconfig.ClientConfigProfile
	key      secrets.Ref
	payloads secrets.Ref
}

// Format keeps keys and metadata out of everything that prints a Config.
func (c Config) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.Address+"/"+c.Namespace) }

// Load combines what is given with an environment as os.Environ gives it. Every
// mistake that shows without a connection is reported.
func Load(environ []string, given Given) (Config, error) {
	var errs []error
	env := environment{}
	for _, kv := range environ {
		name, value, ok := strings.Cut(kv, "=")
		// To the SDK a path that is set to nothing turns TLS on; to nobody else is it a setting.
		if ok && strings.HasPrefix(name, "TEMPORAL_") && (value != "" || strings.HasPrefix(name, "TEMPORAL_GRPC_META_")) || name == "HOME" || name == "XDG_CONFIG_HOME" {
			env[name] = value
		}
	}
	for _, name := range []string{"TEMPORAL_TLS", "TEMPORAL_TLS_DISABLE_HOST_VERIFICATION"} {
		if v := env[name]; v != "" && !slices.Contains([]string{"true", "false", "1", "0"}, strings.ToLower(v)) {
			errs = append(errs, fmt.Errorf("%s is %q, not true or false", name, v)) // the SDK would take no notice of it
		}
	}
	file := env["TEMPORAL_CONFIG_FILE"]
	if file != "" {
		if _, err := os.Stat(file); err != nil { // the SDK would connect without what it says
			errs = append(errs, fmt.Errorf("TEMPORAL_CONFIG_FILE names a file that cannot be read: %w", err))
		}
	}
	profile, err := envconfig.LoadClientConfigProfile(envconfig.LoadClientConfigProfileOptions{
		EnvLookup: env,
		// An environment without a home has no file of its own, whatever that of this process is.
		DisableFile: file == "" && env["TEMPORAL_PROFILE"] == "" && env["HOME"] == "" && env["XDG_CONFIG_HOME"] == "",
	})
	if err != nil {
		return Config{}, errors.Join(append(errs, fmt.Errorf("temporal's settings (TEMPORAL_CONFIG_FILE, TEMPORAL_PROFILE): %w", err))...)
	}
	c := Config{profile: profile, key: given.APIKey, payloads: given.PayloadKeys, Address: given.Address, Namespace: given.Namespace}
	if c.Address == "" {
		c.Address = profile.Address
		if c.Address != "" {
			if err := HostPort(c.Address); err != nil {
				errs = append(errs, fmt.Errorf("TEMPORAL_ADDRESS, or the address in Temporal's configuration file, %w", err))
			}
		}
	}
	fill(&c.Address, DefaultAddress)
	fill(&c.Namespace, profile.Namespace)
	fill(&c.Namespace, DefaultNamespace)
	if !c.key.IsZero() {
		c.profile.APIKey = ""
	}
	if _, err := c.profile.ToClientOptions(envconfig.ToClientOptionsRequest{}); err != nil {
		errs = append(errs, fmt.Errorf("temporal's settings (TEMPORAL_TLS_…): %w", err))
	}
	return c, errors.Join(errs...)
}

func fill(dst *string, v string) {
	if *dst == "" {
		*dst = v
	}
}

// environment is a set of variables for the SDK.
type environment map[string]string

func (e environment) LookupEnv(name string) (string, bool) { v, ok := e[name]; return v, ok }

func (e environment) Environ() []string {
	var out []string
	for name, value := range e {
		out = append(out, name+"="+value)
	}
	return out
}

// HostPort checks the form of an address.
func HostPort(v string) error {
	_, port, err := net.SplitHostPort(v)
	if err != nil {
		return fmt.Errorf("is %q, not host:port", v)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("is %q; %q is not a port number", v, port)
	}
	return nil
}

// Resolver is what Options need of secrets.
type Resolver interface {
	Resolve(context.Context, secrets.Ref) (secrets.Secret, error)
	Refetch(context.Context, secrets.Ref) (secrets.Secret, error)
}

// Options are what the SDK connects with. A referenced API key is read once, to
// find mistakes now, and then whenever it is sent; keys for payloads are read again
// as they age. What fails of that later is told to warn, which may be nil.
func (c Config) Options(ctx context.Context, from Resolver, warn func(error)) (client.Options, error) {
	o, err := c.profile.ToClientOptions(envconfig.ToClientOptionsRequest{})
	if err != nil {
		return client.Options{}, fmt.Errorf("temporal's settings (TEMPORAL_TLS_…): %w", err)
	}
	o.HostPort, o.Namespace = c.Address, c.Namespace
	payloads, err := c.Codec(ctx, from, warn)
	if err != nil {
		return client.Options{}, err
	}
	payloads.Apply(&o)
	if c.key.IsZero() {
		return o, nil
	}
	read := func(ctx context.Context) (string, error) {
		s, err := from.Resolve(ctx, c.key)
		if err != nil {
			return "", fmt.Errorf("API key for Temporal: %w", err)
		}
		return s.Reveal(), nil
	}
	if _, err := read(ctx); err != nil {
		return client.Options{}, err
	}
	o.Credentials = client.NewAPIKeyDynamicCredentials(read)
	if c.profile.TLS == nil {
		o.ConnectionOptions.TLS = &tls.Config{} // as with a key in TEMPORAL_API_KEY
	}
	return o, nil
}

// Codec is what encrypts payloads; without keys, nothing does.
func (c Config) Codec(ctx context.Context, from Resolver, warn func(error)) (*codec.Codec, error) {
	if c.payloads.IsZero() {
		return codec.New(nil), nil
	}
	keys, err := codec.HoldKeys(ctx, func(ctx context.Context) (string, error) {
		s, err := from.Refetch(ctx, c.payloads)
		return s.Reveal(), err
	}, warn)
	if err != nil {
		return nil, fmt.Errorf("SYNCLINE_PAYLOAD_KEYS: %w", err)
	}
	return codec.New(keys), nil
}

// Encrypts reports whether there are keys for payloads.
func (c Config) Encrypts() bool { return !c.payloads.IsZero() }

// TLS reports whether the connection is encrypted.
func (c Config) TLS() bool {
	if c.profile.TLS != nil {
		return !c.profile.TLS.Disabled
	}
	return c.profile.APIKey != "" || !c.key.IsZero()
}

// Refusal says in one line why Temporal will not talk to this program, with what to
// do about it; "" if it may just not be there yet.
func (c Config) Refusal(ctx context.Context, err error) string {
	if err == nil {
		return ""
	}
	switch serviceerror.ToStatus(err).Code() {
	case codes.Unauthenticated, codes.PermissionDenied:
		return fmt.Sprintf("Temporal at %s refuses access to namespace %q (fix: check the API key, which SYNCLINE_TEMPORAL_API_KEY or TEMPORAL_API_KEY gives, and its rights)", c.Address, c.Namespace)
	case codes.Unavailable, codes.DeadlineExceeded:
	default:
		return ""
	}
	if !c.TLS() {
		if strings.Contains(err.Error(), "server preface") {
			return fmt.Sprintf("Temporal at %s ends the connection before it begins; it may want TLS (fix: TEMPORAL_TLS=true)", c.Address)
		}
		return ""
	}
	return c.refusedTLS(c.handshake(ctx))
}

// handshake does what gRPC has just failed in, since gRPC keeps only the text of an
// error, and of a refused client certificate often not even that.
func (c Config) handshake(ctx context.Context) error {
	o, err := c.profile.ToClientOptions(envconfig.ToClientOptionsRequest{})
	if err != nil {
		return err
	}
	conf := o.ConnectionOptions.TLS
	if conf == nil {
		conf = &tls.Config{}
	}
	conf.NextProtos = []string{"h2"}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second) // whoever asks may be out of time
	defer cancel()
	conn, err := (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", c.Address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	// TLS 1.3 servers judge the client's certificate after the client's part is done.
	if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

func (c Config) refusedTLS(err error) string {
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var remote *net.OpError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &record):
		return fmt.Sprintf("Temporal at %s does not speak TLS (fix: TEMPORAL_TLS=false, or the address of a frontend that does)", c.Address)
	case errors.As(err, &authority):
		return fmt.Sprintf("Temporal at %s is not trusted: %s (fix: name the file of the authority that signed its certificate, TEMPORAL_TLS_SERVER_CA_CERT_PATH)", c.Address, authority.Error())
	case errors.As(err, &host):
		return fmt.Sprintf("Temporal at %s is not trusted: %s (fix: name it as its certificate does, TEMPORAL_TLS_SERVER_NAME)", c.Address, host.Error())
	case errors.As(err, &cert):
		return fmt.Sprintf("Temporal at %s is not trusted: %s (fix: see to its certificate)", c.Address, cert.Error())
	case errors.As(err, &alert), errors.As(err, &remote) && remote.Op == "remote error":
		return fmt.Sprintf("Temporal at %s refuses the TLS connection: %s (fix: give the client certificate that it asks for, TEMPORAL_TLS_CLIENT_CERT_PATH and TEMPORAL_TLS_CLIENT_KEY_PATH)", c.Address, err.Error())
	}
	return ""
}

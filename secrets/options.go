package secrets

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"
)

// VaultOptions say how to reach Vault and how to log in. The ways to log in are
// tried in this order: AppRole, token file, token.
type VaultOptions struct {
	Address      string        // https://vault:8200
	Namespace    string        // Vault Enterprise and HCP only
	CACert       string        // PEM file of the authority that signed Vault's certificate
	RoleID       string        // AppRole; not secret by itself
	SecretIDFile string        // AppRole; read at every login
	AppRoleMount string        // default "approle"
	TokenFile    string        // read again whenever it changes
	Token        Secret        // static token
	Timeout      time.Duration // of one request; default 10 s
}

// Options of a Resolver. The zero value resolves env: and file: references.
type Options struct {
	Vault    VaultOptions
	CacheFor time.Duration            // how long a value from Vault is reused; default 15 s, negative: not at all
	Getenv   func(name string) string // default os.Getenv
}

// FromEnv gives the options that the environment describes: SYNCLINE_VAULT_ADDR,
// _TOKEN_FILE, _ROLE_ID, _SECRET_ID_FILE, _APPROLE_MOUNT, _NAMESPACE and _CACERT, and Vault's own
// variables where these are not set.
func FromEnv(getenv func(string) string) Options {
	return Options{
		Vault: VaultOptions{
			Address:      getenv("SYNCLINE_VAULT_ADDR"),
			Namespace:    getenv("SYNCLINE_VAULT_NAMESPACE"),
			CACert:       getenv("SYNCLINE_VAULT_CACERT"),
			RoleID:       getenv("SYNCLINE_VAULT_ROLE_ID"),
			SecretIDFile: getenv("SYNCLINE_VAULT_SECRET_ID_FILE"),
			AppRoleMount: getenv("SYNCLINE_VAULT_APPROLE_MOUNT"),
			TokenFile:    getenv("SYNCLINE_VAULT_TOKEN_FILE"),
		}.WithVaultEnv(getenv),
		Getenv: getenv,
	}
}

// WithVaultEnv fills what is not set from the variables that Vault's own tools
// read: VAULT_ADDR, VAULT_NAMESPACE, VAULT_CACERT, VAULT_TOKEN.
func (o VaultOptions) WithVaultEnv(getenv func(string) string) VaultOptions {
	fill := func(dst *string, name string) {
		if *dst == "" {
			*dst = getenv(name)
		}
	}
	fill(&o.Address, "VAULT_ADDR")
	fill(&o.Namespace, "VAULT_NAMESPACE")
	fill(&o.CACert, "VAULT_CACERT")
	if t := getenv("VAULT_TOKEN"); o.Token.IsZero() && t != "" {
		o.Token = NewSecret(t)
	}
	return o
}

// Validate reports every mistake that shows without contacting Vault. Options
// without an address are valid: they say that Vault is not used.
func (o VaultOptions) Validate() error {
	var errs []error
	if o.Address != "" {
		u, err := url.Parse(o.Address)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			errs = append(errs, errors.New("the address of Vault is not of the form https://host:8200"))
		} else if u.User != nil {
			errs = append(errs, errors.New("the address of Vault holds a user or password; Vault takes neither there"))
		}
	}
	switch {
	case o.RoleID != "" && o.SecretIDFile == "":
		errs = append(errs, errors.New("an AppRole role id is set, but no secret id file (SYNCLINE_VAULT_SECRET_ID_FILE)"))
	case o.RoleID == "" && o.SecretIDFile != "":
		errs = append(errs, errors.New("an AppRole secret id file is set, but no role id (SYNCLINE_VAULT_ROLE_ID)"))
	case o.RoleID != "" && o.TokenFile != "":
		errs = append(errs, errors.New("both AppRole and a token file are set; keep one"))
	}
	if o.Timeout < 0 {
		errs = append(errs, fmt.Errorf("the timeout of Vault is negative: %s", o.Timeout))
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.CacheFor == 0 {
		o.CacheFor = 15 * time.Second
	}
	if o.Vault.Timeout == 0 {
		o.Vault.Timeout = 10 * time.Second
	}
	if o.Vault.AppRoleMount == "" {
		o.Vault.AppRoleMount = "approle"
	}
	return o
}

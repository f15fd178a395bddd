package secrets

import (
	"context"
	"fmt"
	"net/http"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"

	"syncline/dataplane/certs"
	"syncline/dataplane/fault"
)

// session is one token and the client that uses it.
type session struct {
	client *vaultapi.Client
	token  string
	stop   context.CancelFunc // of the renewal
}

// access holds the current session and replaces it when it is refused.
type access struct {
	opts VaultOptions

	lock    chan struct{} // held while current or closed is used; a channel, so that waiting for it ends with the context
	current *session
	closed  bool
}

// session gives a session other than refused, if there can be one; otherwise it
// gives refused back.
func (l *access) session(ctx context.Context, refused *session) (*session, error) {
	select {
	case l.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, transient(CodeVaultUnreachable, ctx.Err(), "", "gave up waiting for the login at Vault")
	}
	defer func() { <-l.lock }()
	if l.closed {
		return nil, context.Canceled
	}
	if l.opts.Address == "" {
		return nil, fault.Permanent(CodeVaultNotConfigured, nil, "set SYNCLINE_VAULT_ADDR for every worker", "a vault: reference is used, but the worker does not know where Vault is")
	}
	if l.opts.RoleID != "" {
		if l.current != nil && l.current != refused {
			return l.current, nil
		}
		return l.replace(l.loginAppRole(ctx))
	}
	token, err := l.givenToken()
	if err != nil {
		return nil, err
	}
	if l.current != nil && l.current.token == token {
		return l.current, nil
	}
	return l.replace(l.loginToken(ctx, token))
}

func (l *access) replace(s *session, err error) (*session, error) {
	if err != nil {
		return nil, err
	}
	if l.current != nil {
		l.current.stop()
	}
	l.current = s
	return s, nil
}

// drop forgets a session that can no longer be renewed, so that the next use
// logs in again instead of being refused first.
func (l *access) drop(s *session) {
	l.lock <- struct{}{}
	if l.current == s {
		l.current = nil
	}
	<-l.lock
}

func (l *access) close() {
	l.lock <- struct{}{}
	s := l.current
	l.current, l.closed = nil, true
	<-l.lock
	if s == nil {
		return
	}
	s.stop()
	if l.opts.RoleID != "" {
		// Ours alone, so nobody else is cut off; if it fails, the token expires.
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = s.client.Auth().Token().RevokeSelfWithContext(ctx, "")
	}
}

// givenToken is the token that somebody else made for us.
func (l *access) givenToken() (string, error) {
	if l.opts.TokenFile != "" {
		t, err := readSmall(l.opts.TokenFile)
		if err != nil || t == "" {
			// An agent that writes the file may just be starting.
			return "", transient(CodeFileUnreadable, err, "put Vault's token there, readable by the worker's user",
				"SYNCLINE_VAULT_TOKEN_FILE (%s) is missing, unreadable or empty", l.opts.TokenFile)
		}
		return t, nil
	}
	if t := l.opts.Token.Reveal(); t != "" {
		return t, nil
	}
	return "", fault.Permanent(CodeVaultNotConfigured, nil,
		"set SYNCLINE_VAULT_ROLE_ID with SYNCLINE_VAULT_SECRET_ID_FILE, or SYNCLINE_VAULT_TOKEN_FILE, or VAULT_TOKEN", "the worker has no way to log in at Vault")
}

func (l *access) loginToken(ctx context.Context, token string) (*session, error) {
	c, err := l.newClient(ctx)
	if err != nil {
		return nil, err
	}
	c.SetToken(token)
	s := &session{client: c, token: token, stop: func() {}}
	about, err := c.Auth().Token().LookupSelfWithContext(ctx)
	if err != nil {
		if f := serverFault(l.opts.Address, err); f != nil {
			return nil, f
		}
		if refusesToken(err) {
			return nil, l.expired()
		}
		// A token without the default policy may not look at itself; it can still read.
		return s, nil
	}
	ttl, _ := about.TokenTTL()
	renewable, _ := about.TokenIsRenewable()
	l.keep(s, ttl, renewable)
	return s, nil
}

func (l *access) loginAppRole(ctx context.Context) (*session, error) {
	if _, err := readSmall(l.opts.SecretIDFile); err != nil {
		return nil, fault.Permanent(CodeFileUnreadable, err, "put the AppRole's secret id there, readable by the worker's user",
			"SYNCLINE_VAULT_SECRET_ID_FILE cannot be read")
	}
	c, err := l.newClient(ctx)
	if err != nil {
		return nil, err
	}
	auth, err := approle.NewAppRoleAuth(l.opts.RoleID, &approle.SecretID{FromFile: l.opts.SecretIDFile}, approle.WithMountPath(l.opts.AppRoleMount))
	if err != nil {
		return nil, fault.Permanent(CodeVaultNotConfigured, err, "see SYNCLINE_VAULT_ROLE_ID and SYNCLINE_VAULT_SECRET_ID_FILE", "the AppRole login cannot be made")
	}
	out, err := c.Auth().Login(ctx, auth)
	if err != nil {
		if status, said := answerOf(err); status >= 400 && status < 500 && serverFault(l.opts.Address, err) == nil {
			return nil, fault.Permanent(CodeVaultLoginRefused, nil,
				"check role id, secret id (it may be used up or expired) and that auth/"+l.opts.AppRoleMount+" is enabled",
				"Vault at %s refused the AppRole login with %d: %s", l.opts.Address, status, said)
		}
		return nil, serverFault(l.opts.Address, err)
	}
	s := &session{client: c, token: out.Auth.ClientToken, stop: func() {}}
	l.keep(s, time.Duration(out.Auth.LeaseDuration)*time.Second, out.Auth.Renewable)
	return s, nil
}

func (l *access) newClient(ctx context.Context) (*vaultapi.Client, error) {
	notConfigured := func(err error) error {
		return fault.Permanent(CodeVaultNotConfigured, err, "check SYNCLINE_VAULT_CACERT and the VAULT_* variables", "the client for Vault cannot be made")
	}
	cfg := vaultapi.DefaultConfig()
	if cfg.Error != nil {
		return nil, notConfigured(cfg.Error)
	}
	cfg.Address, cfg.AgentAddress = l.opts.Address, ""
	cfg.Timeout = l.opts.Timeout
	cfg.MaxRetries = 0 // the caller retries, and shows that it does
	if l.opts.CACert != "" {
		file, err := certs.New(ctx, certs.Options{CAFile: l.opts.CACert})
		if err != nil {
			return nil, notConfigured(err)
		}
		cfg.HttpClient.Transport = &trusting{file: file}
	}
	c, err := vaultapi.NewClient(cfg)
	if err != nil {
		return nil, notConfigured(err)
	}
	c.ClearToken() // it comes from the environment there, and only from the options here
	c.ClearNamespace()
	if l.opts.Namespace != "" {
		c.SetNamespace(l.opts.Namespace)
	}
	return c, nil
}

// stale finds out whether a refusal is about the token (true) or about what its
// policies allow.
func (l *access) stale(ctx context.Context, s *session, refusal error) (bool, error) {
	if refusesToken(refusal) {
		return true, nil
	}
	_, err := s.client.Auth().Token().LookupSelfWithContext(ctx)
	if err == nil {
		return false, nil
	}
	if f := serverFault(l.opts.Address, err); f != nil {
		return false, f
	}
	return isStatus(err, http.StatusForbidden), nil
}

func (l *access) expired() error {
	what := fmt.Sprintf("Vault at %s does not accept the worker's token: it expired, was revoked, or belongs to another Vault", l.opts.Address)
	if l.opts.TokenFile != "" {
		return transient(CodeVaultTokenExpired, nil, "write a new token to SYNCLINE_VAULT_TOKEN_FILE; it is read again by itself", "%s", what)
	}
	if l.opts.RoleID != "" {
		return transient(CodeVaultTokenExpired, nil, "", "%s", what)
	}
	return fault.Permanent(CodeVaultTokenExpired, nil, "give the workers a new VAULT_TOKEN, or better AppRole or a token file, which need no restart", "%s", what)
}

// keep renews a token at two thirds of its remaining time for as long as Vault
// grants more.
func (l *access) keep(s *session, ttl time.Duration, renewable bool) {
	if ttl <= 0 {
		return // a root or batch token that does not expire
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	go func() {
		defer cancel()
		full := ttl
		end := time.Now().Add(ttl)
		for renewable {
			wait := time.NewTimer(time.Until(end) * 2 / 3)
			select {
			case <-ctx.Done():
				wait.Stop()
				return
			case <-wait.C:
			}
			out, err := s.client.Auth().Token().RenewSelfWithContext(ctx, 0)
			switch {
			case err != nil && serverFault(l.opts.Address, err) != nil && time.Until(end) > 50*time.Millisecond:
				continue // two thirds of what is left, then again
			case err != nil || out == nil || out.Auth == nil:
				renewable = false
			default:
				left := time.Duration(out.Auth.LeaseDuration) * time.Second
				end = time.Now().Add(left)
				// Close to the token's maximum age Vault grants less and less.
				renewable = out.Auth.Renewable && left > full/3
			}
		}
		if wait := time.Until(end) / 2; wait > 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
		l.drop(s)
	}()
}

package codecserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"

	"syncline/activities/codec"
	"syncline/dataplane/fault"
)

// CodeTokensInvalid is the fault of a text that is no list of tokens.
const CodeTokensInvalid fault.Code = "CodecTokensInvalid"

// Role is what a caller may do.
type Role string

// The roles: nobody, who may decode, and who may encode too.
const (
	Nobody Role = ""
	Reader Role = "reader"
	Writer Role = "writer"
)

func (r Role) may(operation string) bool { return r == Writer || r == Reader && operation == decode }

// caller is who asks.
type caller struct {
	name string
	by   string // token, jwt or none
	role Role
}

// token is one of the list; its text is forgotten.
type token struct {
	name   string
	role   Role
	digest [sha256.Size]byte
}

// shortest is the length of a token that cannot be guessed.
const shortest = 32

// parseTokens reads a list of tokens. Its errors quote no token.
func parseTokens(s string) ([]token, error) {
	bad := func(format string, args ...any) ([]token, error) {
		return nil, fault.Permanent(CodeTokensInvalid, nil, `write {"tokens": [{"name": "…", "role": "reader", "token": "…"}]}`, "the codec server's tokens: "+format, args...)
	}
	var in struct {
		Tokens []struct {
			Name  string `json:"name"`
			Role  Role   `json:"role"`
			Token string `json:"token"`
		} `json:"tokens"`
	}
	d := json.NewDecoder(strings.NewReader(s))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return bad("they are not of that form") // the cause may quote a token
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return bad("something follows them")
	}
	var out []token
	names, texts := map[string]bool{}, map[string]bool{}
	for i, t := range in.Tokens {
		switch {
		case t.Name == "" || names[t.Name]:
			return bad("number %d has no name, or that of another", i+1)
		case t.Role != Reader && t.Role != Writer:
			return bad("that of %s has a role other than reader and writer", t.Name)
		case len(t.Token) < shortest || strings.ContainsAny(t.Token, " \t\r\n"):
			return bad("that of %s is shorter than %d characters, or has white space", t.Name, shortest)
		case texts[t.Token]:
			return bad("that of %s is another's too", t.Name)
		}
		names[t.Name], texts[t.Token] = true, true
		out = append(out, token{t.Name, t.Role, sha256.Sum256([]byte(t.Token))})
	}
	if len(out) == 0 {
		return bad("there are none")
	}
	return out, nil
}

// known finds the token's entry in time that does not depend on it.
func known(list []token, text string) (caller, bool) {
	digest := sha256.Sum256([]byte(text))
	found := -1
	for i := range list {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(list[i].digest[:], digest[:]), i, found)
	}
	if found < 0 {
		return caller{}, false
	}
	return caller{list[found].name, "token", list[found].role}, true
}

// login verifies the JWTs of whoever runs the Web UI's login.
type login struct {
	keys   *codec.Held[keyfunc.Keyfunc]
	parser *jwt.Parser
}

// methods are those with a public key: a JWKS is no place for a secret.
var methods = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

func newLogin(ctx context.Context, o Options) (*login, error) {
	keys, err := codec.Hold(ctx, func(ctx context.Context) (keyfunc.Keyfunc, error) {
		b, err := readJWKS(ctx, o.JWKS)
		if err != nil {
			return nil, fmt.Errorf("SYNCLINE_CODEC_JWKS %s: %w", o.JWKS, err)
		}
		k, err := keyfunc.NewJWKSetJSON(b)
		if err != nil {
			return nil, fmt.Errorf("SYNCLINE_CODEC_JWKS %s: %w", o.JWKS, err)
		}
		return k, nil
	}, o.warn("the login's public keys cannot be read again; those that were read last are used"))
	if err != nil {
		return nil, err
	}
	return &login{keys, jwt.NewParser(jwt.WithValidMethods(methods), jwt.WithIssuer(o.Issuer), jwt.WithAudience(o.Audience),
		jwt.WithExpirationRequired(), jwt.WithLeeway(30*time.Second))}, nil
}

// CheckJWKS checks the form of where public keys are: a file, or a URL that nobody on
// the way can alter.
func CheckJWKS(v string) error {
	if !strings.Contains(v, "://") {
		return nil
	}
	u, err := url.Parse(v)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
		return errors.New("is neither a file nor a URL with https://")
	}
	return nil
}

const maxJWKS = 1 << 20

// jwksClient is not led to where anybody on the way could alter what it reads.
var jwksClient = &http.Client{CheckRedirect: func(r *http.Request, via []*http.Request) error {
	if len(via) >= 5 {
		return errors.New("redirects without end")
	}
	if err := CheckJWKS(r.URL.String()); err != nil {
		return fmt.Errorf("the redirect to %s %w", r.URL.Redacted(), err)
	}
	return nil
}}

func readJWKS(ctx context.Context, from string) ([]byte, error) {
	if !strings.Contains(from, "://") {
		return os.ReadFile(from)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	res, err := jwksClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answered %s", res.Status)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxJWKS+1))
	if err == nil && len(b) > maxJWKS {
		err = fmt.Errorf("is larger than %d bytes", maxJWKS)
	}
	return bytes.TrimSpace(b), err
}

// claims are what Temporal's own authorizer reads of a JWT.
type claims struct {
	jwt.RegisteredClaims
	Permissions []any `json:"permissions"`
}

// identify verifies a JWT and tells what its permissions allow in a namespace.
func (l *login) identify(ctx context.Context, text, namespace string) (caller, error) {
	var c claims
	_, err := l.parser.ParseWithClaims(text, &c, l.keys.Get().Keyfunc)
	if errors.Is(err, jwkset.ErrKeyNotFound) { // a key of a moment ago
		var again keyfunc.Keyfunc
		if again, err = l.keys.Sooner(ctx); err == nil {
			c = claims{}
			_, err = l.parser.ParseWithClaims(text, &c, again.Keyfunc)
		}
	}
	if err != nil {
		return caller{}, why(err)
	}
	if c.Subject == "" {
		return caller{}, errors.New("the JWT has no subject")
	}
	return caller{c.Subject, "jwt", allowed(c.Permissions, namespace)}, nil
}

// why names what is wrong with a JWT, without anything that is in it.
func why(err error) error {
	for _, e := range []error{jwt.ErrTokenMalformed, jwt.ErrTokenExpired, jwt.ErrTokenNotValidYet, jwt.ErrTokenInvalidIssuer, jwt.ErrTokenInvalidAudience,
		jwt.ErrTokenRequiredClaimMissing, jwt.ErrTokenSignatureInvalid, jwkset.ErrKeyNotFound} {
		if errors.Is(err, e) {
			return e
		}
	}
	return errors.New("the JWT cannot be verified")
}

// allowed reads permissions as Temporal does: "<namespace>:<what>", and for all
// namespaces "temporal-system:<what>", formerly "system:<what>".
func allowed(permissions []any, namespace string) Role {
	role := Nobody
	for _, p := range permissions {
		text, _ := p.(string)
		scope, what, _ := strings.Cut(text, ":")
		if scope != namespace && scope != "temporal-system" && scope != "system" || scope == "" {
			continue
		}
		switch strings.ToLower(what) {
		case "write", "worker", "admin":
			return Writer
		case "read":
			role = Reader
		}
	}
	return role
}

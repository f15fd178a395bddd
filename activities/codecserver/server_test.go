package codecserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/protobuf/encoding/protojson"

	"syncline/activities/codec"
	"syncline/activities/observe"
	"syncline/dataplane/fault"
	"syncline/testsuite/stack"
)

const (
	readerToken = "reader-0123456789abcdef0123456789"
	writerToken = "writer-0123456789abcdef0123456789"
	tokens      = `{"tokens": [{"name": "ana", "role": "reader", "token": "` + readerToken + `"}, {"name": "ci", "role": "writer", "token": "` + writerToken + `"}]}`
	page        = "https://temporal.example"
	issuer      = "https://login.example/"
	audience    = "temporal"
	canary      = "canary-6f1c"
)

func newCodec(t *testing.T) *codec.Codec {
	t.Helper()
	ring, err := codec.NewKeyring("a")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := codec.HoldKeys(t.Context(), func(context.Context) (string, error) { return ring.Reveal(), nil }, nil)
	if err != nil {
		t.Fatal(err)
	}
	return codec.New(keys)
}

// lines is a log that may be read.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type running struct {
	t   *testing.T
	s   *Server
	o   Options
	log *lines
	reg *prometheus.Registry
}

func start(t *testing.T, change func(*Options)) *running {
	t.Helper()
	r := &running{t: t, log: &lines{}, reg: prometheus.NewRegistry()}
	r.o = Options{
		Address: "127.0.0.1:0", Namespace: "shop", Codec: newCodec(t), Origins: []string{page},
		Tokens:   func(context.Context) (string, error) { return tokens, nil },
		Registry: r.reg, Log: observe.NewLogger(r.log, zapcore.InfoLevel),
	}
	if change != nil {
		change(&r.o)
	}
	var err error
	if r.s, err = Start(t.Context(), r.o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := r.s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return r
}

// body is a request with one payload, encrypted or not.
func (r *running) body(operation string) string {
	r.t.Helper()
	p := []*commonpb.Payload{{Metadata: map[string][]byte{converter.MetadataEncoding: []byte("json/plain")}, Data: []byte(`"` + canary + `"`)}}
	if operation == decode {
		var err error
		if p, err = r.o.Codec.Encode(p); err != nil {
			r.t.Fatal(err)
		}
	}
	b, err := protojson.Marshal(&commonpb.Payloads{Payloads: p})
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

func (r *running) ask(method, path, body string, header map[string]string) (*http.Response, string) {
	r.t.Helper()
	req, err := http.NewRequest(method, r.s.URL()+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res, string(b)
}

// gives asks for an operation with a well-formed payload.
func (r *running) gives(want int, operation, token, namespace string) {
	r.t.Helper()
	h := map[string]string{"X-Namespace": namespace}
	if token != "" {
		h["Authorization"] = "Bearer " + token
	}
	res, text := r.ask("POST", "/"+operation, r.body(operation), h)
	if res.StatusCode != want {
		r.t.Errorf("%s: %d, want %d: %s", operation, res.StatusCode, want, text)
	}
	var ps commonpb.Payloads
	if want == http.StatusOK {
		if err := protojson.Unmarshal([]byte(text), &ps); err != nil || len(ps.Payloads) != 1 {
			r.t.Fatalf("%s: %v, %s", operation, err, text)
		}
		if plain := strings.Contains(string(ps.Payloads[0].Data), canary); plain != (operation == decode) {
			r.t.Errorf("%s gives %s", operation, ps.Payloads[0].Data)
		}
	} else if strings.Contains(text, canary) {
		r.t.Errorf("a refusal shows the payload: %s", text)
	}
	if want == http.StatusUnauthorized && res.Header.Get("WWW-Authenticate") == "" {
		r.t.Error("no WWW-Authenticate")
	}
}

func TestTokensAndRoles(t *testing.T) {
	r := start(t, nil)
	r.gives(200, decode, readerToken, "shop")
	r.gives(403, encode, readerToken, "shop")
	r.gives(200, decode, writerToken, "shop")
	r.gives(200, encode, writerToken, "shop")
	r.gives(403, decode, readerToken, "other")
	r.gives(200, decode, readerToken, "")
	r.gives(401, decode, "", "shop")
	r.gives(401, decode, readerToken+"x", "shop")
	r.gives(401, decode, readerToken[:len(readerToken)-1], "shop")
	r.gives(401, decode, "a.b.c", "shop") // no login is configured
	for scheme, want := range map[string]int{"bearer": 200, "Basic": 401, "": 401} {
		if res, _ := r.ask("POST", "/decode", r.body(decode), map[string]string{"Authorization": strings.TrimSpace(scheme + " " + readerToken), "X-Namespace": "shop"}); res.StatusCode != want {
			t.Errorf("scheme %q: %d", scheme, res.StatusCode)
		}
	}
	for _, s := range []string{readerToken, writerToken, canary} {
		if strings.Contains(r.log.String(), s) {
			t.Errorf("the log shows %s:\n%s", s, r.log)
		}
	}
	for _, s := range []string{`"who":"ana","by":"token","role":"reader","namespace":"shop"`, `"outcome":"refused","reason":"the role does not allow it"`, `"outcome":"allowed"`} {
		if !strings.Contains(r.log.String(), s) {
			t.Errorf("the log lacks %s:\n%s", s, r.log)
		}
	}
	if err := testutil.GatherAndCompare(r.reg, strings.NewReader(`# HELP syncline_codec_requests_total Requests to the codec server by what became of them.
# TYPE syncline_codec_requests_total counter
syncline_codec_requests_total{operation="decode",outcome="allowed"} 4
syncline_codec_requests_total{operation="decode",outcome="refused"} 7
syncline_codec_requests_total{operation="encode",outcome="allowed"} 1
syncline_codec_requests_total{operation="encode",outcome="refused"} 1
`), "syncline_codec_requests_total"); err != nil {
		t.Error(err)
	}
}

func TestBrowsers(t *testing.T) {
	r := start(t, nil)
	pre := map[string]string{"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type,x-namespace"}
	for origin, want := range map[string]string{page: page, "https://elsewhere.example": "", "null": "", page + ".elsewhere.example": "", "http://temporal.example": ""} {
		pre["Origin"] = origin
		res, _ := r.ask("OPTIONS", "/decode", "", pre)
		if got := res.Header.Get("Access-Control-Allow-Origin"); got != want || (res.StatusCode == 204) != (want != "") || res.Header.Get("Vary") != "Origin" {
			t.Errorf("preflight of %s: %d, allowed %q", origin, res.StatusCode, got)
		}
		if h := strings.ToLower(res.Header.Get("Access-Control-Allow-Headers")); want != "" && (!strings.Contains(h, "authorization") || !strings.Contains(h, "x-namespace") || !strings.Contains(h, "content-type")) {
			t.Errorf("allows %s", h)
		}
		res, text := r.ask("POST", "/decode", r.body(decode), map[string]string{"Origin": origin, "Authorization": "Bearer " + readerToken, "X-Namespace": "shop"})
		if (res.StatusCode == 200) != (want != "") || res.Header.Get("Access-Control-Allow-Origin") != want || want == "" && strings.Contains(text, canary) {
			t.Errorf("%s: %d %s", origin, res.StatusCode, text)
		}
	}
	delete(pre, "Origin")
	if res, _ := r.ask("OPTIONS", "/decode", "", pre); res.StatusCode != 403 {
		t.Errorf("a preflight of nobody: %d", res.StatusCode)
	}
}

func TestRequestsThatAreNone(t *testing.T) {
	r := start(t, nil)
	h := map[string]string{"Authorization": "Bearer " + readerToken, "X-Namespace": "shop"}
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/healthz", "", 200}, {"GET", "/decode", "", 405}, {"POST", "/", "", 404}, {"POST", "/decode/x", "", 404}, {"POST", "/xdecode", "", 404}, {"POST", "/shop//decode", "{}", 200},
		{"POST", "/decode", "nonsense", 400}, {"POST", "/decode", strings.Repeat(" ", maxBody+1), 413},
	} {
		if res, text := r.ask(c.method, c.path, c.body, h); res.StatusCode != c.want {
			t.Errorf("%s %s: %d, want %d: %s", c.method, c.path, res.StatusCode, c.want, text)
		}
	}
	// Without a length, too, no more is read than the bound.
	req, _ := http.NewRequest("POST", r.s.URL()+"/decode", io.LimitReader(blanks{}, maxBody+1))
	for k, v := range h {
		req.Header.Set(k, v)
	}
	if res, err := http.DefaultClient.Do(req); err == nil {
		if res.Body.Close(); res.StatusCode == 200 {
			t.Error("reads without a bound")
		}
	}
	foreign, err := newCodec(t).Encode([]*commonpb.Payload{{Data: []byte(canary)}})
	if err != nil {
		t.Fatal(err)
	}
	foreign[0].Metadata[codec.MetadataID] = []byte("gone")
	b, _ := protojson.Marshal(&commonpb.Payloads{Payloads: foreign})
	if res, text := r.ask("POST", "/decode", string(b), h); res.StatusCode != 400 || !strings.Contains(text, string(codec.CodeKeyUnknown)) || !strings.Contains(text, "gone") {
		t.Errorf("%d %s", res.StatusCode, text)
	}
}

type blanks struct{}

func (blanks) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// idp signs JWTs as a login would.
type idp struct {
	t   *testing.T
	kid string
	key ed25519.PrivateKey
}

func newIDP(t *testing.T, kid string) *idp {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &idp{t, kid, key}
}

func jwks(t *testing.T, ids ...*idp) []byte {
	t.Helper()
	store := jwkset.NewMemoryStorage()
	for _, i := range ids {
		k, err := jwkset.NewJWKFromKey(i.key.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: i.kid}})
		if err != nil {
			t.Fatal(err)
		}
		if err := store.KeyWrite(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	b, err := store.JSONPublic(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sign makes a JWT that is good but for what change does to it.
func (i *idp) sign(change func(jwt.MapClaims), permissions ...string) string {
	i.t.Helper()
	c := jwt.MapClaims{"iss": issuer, "aud": audience, "sub": "ana@example", "exp": time.Now().Add(time.Hour).Unix(), "permissions": permissions}
	if change != nil {
		change(c)
	}
	tok := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c)
	tok.Header["kid"] = i.kid
	s, err := tok.SignedString(i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	return s
}

func TestLogins(t *testing.T) {
	i, stranger := newIDP(t, "k1"), newIDP(t, "k1")
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, jwks(t, i), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, func(o *Options) { o.JWKS, o.Issuer, o.Audience = file, issuer, audience })
	r.gives(200, decode, readerToken, "shop") // beside tokens
	for _, c := range []struct {
		permissions    []string
		decode, encode int
	}{
		{[]string{"shop:read"}, 200, 403}, {[]string{"shop:write"}, 200, 200}, {[]string{"shop:worker"}, 200, 200}, {[]string{"shop:admin"}, 200, 200},
		{[]string{"temporal-system:admin"}, 200, 200}, {[]string{"system:admin"}, 200, 200}, {[]string{"system:read", "shop:nothing"}, 200, 403}, {[]string{"other:admin", "shop:READ"}, 200, 403},
		{[]string{"other:admin"}, 403, 403}, {nil, 403, 403}, {[]string{"shop"}, 403, 403}, {[]string{":admin"}, 403, 403}, {[]string{"shop:read:x"}, 403, 403}, {[]string{"shopping:admin"}, 403, 403},
	} {
		tok := i.sign(nil, c.permissions...)
		r.gives(c.decode, decode, tok, "shop")
		r.gives(c.encode, encode, tok, "shop")
		r.gives(403, decode, tok, "other")
	}
	for name, change := range map[string]func(jwt.MapClaims){
		"expired":          func(c jwt.MapClaims) { c["exp"] = time.Now().Add(-time.Hour).Unix() },
		"without an end":   func(c jwt.MapClaims) { delete(c, "exp") },
		"not yet":          func(c jwt.MapClaims) { c["nbf"] = time.Now().Add(time.Hour).Unix() },
		"another issuer":   func(c jwt.MapClaims) { c["iss"] = "https://elsewhere.example/" },
		"no issuer":        func(c jwt.MapClaims) { delete(c, "iss") },
		"another audience": func(c jwt.MapClaims) { c["aud"] = "accounts" },
		"no audience":      func(c jwt.MapClaims) { delete(c, "aud") },
		"nobody":           func(c jwt.MapClaims) { delete(c, "sub") },
	} {
		t.Run(name, func(t *testing.T) { r.gives(401, decode, i.sign(change, "shop:admin"), "shop") })
	}
	r.gives(401, decode, stranger.sign(nil, "shop:admin"), "shop")
	good := i.sign(nil, "shop:admin")
	parts := strings.Split(good, ".")
	none := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"iss": issuer, "aud": audience, "sub": "x", "exp": time.Now().Add(time.Hour).Unix(), "permissions": []string{"shop:admin"}})
	none.Header["kid"] = "k1"
	unsigned, err := none.SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	// The public key as the secret of an HMAC: the classic.
	mac := jwt.NewWithClaims(jwt.SigningMethodHS256, none.Claims)
	mac.Header["kid"] = "k1"
	confused, err := mac.SignedString([]byte(i.key.Public().(ed25519.PublicKey)))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{unsigned, confused, parts[0] + "." + parts[1] + ".", parts[0] + "." + strings.Split(i.sign(nil, "temporal-system:admin"), ".")[1] + "." + parts[2]} {
		r.gives(401, decode, bad, "shop")
	}
	if strings.Contains(r.log.String(), good[:60]) || !strings.Contains(r.log.String(), `"who":"ana@example","by":"jwt","role":"writer"`) {
		t.Errorf("the log:\n%s", r.log)
	}
	// The login gets a new key; a JWT of it is taken at once.
	next := newIDP(t, "k2")
	if err := os.WriteFile(file, jwks(t, i, next), 0o600); err != nil {
		t.Fatal(err)
	}
	r.gives(200, decode, next.sign(nil, "shop:read"), "shop")
}

// A JWKS by its URL; it must not come by plain HTTP from another machine.
func TestJWKSByURL(t *testing.T) {
	i := newIDP(t, "k")
	good := true
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !good {
			http.Error(w, "away", http.StatusBadGateway)
			return
		}
		_, _ = w.Write(jwks(t, i))
	}))
	defer web.Close()
	r := start(t, func(o *Options) { o.Tokens, o.JWKS, o.Issuer, o.Audience = nil, web.URL, issuer, audience })
	good = false
	r.gives(200, decode, i.sign(nil, "shop:read"), "shop")
	other := newIDP(t, "unknown")
	r.gives(401, decode, other.sign(nil, "shop:read"), "shop")
	if _, err := Start(t.Context(), Options{Address: "127.0.0.1:0", JWKS: web.URL, Issuer: issuer, Audience: audience, Log: zap.NewNop()}); err == nil || !strings.Contains(err.Error(), "502") {
		t.Errorf("starts without public keys: %v", err)
	}
	lured := httptest.NewServer(http.RedirectHandler("http://192.0.2.1/jwks", http.StatusFound))
	defer lured.Close()
	if _, err := readJWKS(t.Context(), lured.URL); err == nil || !strings.Contains(err.Error(), "redirect to http://192.0.2.1") {
		t.Errorf("is led to plain HTTP: %v", err)
	}
	for v, ok := range map[string]bool{"/etc/jwks.json": true, "https://login.example/jwks": true, web.URL: true, "http://login.example/jwks": false, "https://u:p@login.example/jwks": false, "ftp://x/y": false} {
		if err := CheckJWKS(v); (err == nil) != ok {
			t.Errorf("%s: %v", v, err)
		}
	}
}

func TestStartsOnlyIfSafe(t *testing.T) {
	away := func(context.Context) (string, error) { return "", errors.New("away") }
	for want, o := range map[string]Options{
		"nothing says who may decrypt": {},
		"for 127.0.0.1 alone":          {WithoutAuth: true, Address: ":0"},
		"keep one":                     {WithoutAuth: true, Tokens: away},
		"SYNCLINE_CODEC_TOKENS: away":  {Tokens: away},
		"SYNCLINE_CODEC_JWKS":          {JWKS: "/nowhere"},
		"SYNCLINE_CODEC_ADDR":          {Address: "nowhere", WithoutAuth: true},
		"SYNCLINE_CODEC_TLS_CERT":      {WithoutAuth: true, CertFile: "/nowhere", KeyFile: "/nowhere"},
	} {
		if o.Address == "" {
			o.Address = "127.0.0.1:0"
		}
		o.Log = zap.NewNop()
		if s, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, %v, want %s", s, err, want)
		}
	}
	r := start(t, func(o *Options) { o.Tokens, o.WithoutAuth = nil, true })
	r.gives(200, decode, "", "shop")
	r.gives(403, decode, "", "other")
	if res, _ := r.ask("POST", "/decode", r.body(decode), map[string]string{"Origin": "https://elsewhere.example", "X-Namespace": "shop"}); res.StatusCode != 403 {
		t.Errorf("any page may decrypt: %d", res.StatusCode)
	}
}

func TestTLS(t *testing.T) {
	a := stack.NewAuthority(t)
	cert, key := a.Sign("codec.example")
	r := start(t, func(o *Options) { o.CertFile, o.KeyFile = cert, key })
	if !strings.HasPrefix(r.s.URL(), "https://127.0.0.1:") {
		t.Error(r.s.URL())
	}
	if _, err := http.Get(r.s.URL() + "/healthz"); err == nil {
		t.Error("an authority that nobody knows is trusted")
	}
	trusting := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool(t, a)}}}
	if res, err := trusting.Get(r.s.URL() + "/healthz"); err != nil || res.StatusCode != 200 {
		t.Errorf("%v, %v", res, err)
	}
}

func TestTokenLists(t *testing.T) {
	for _, s := range []string{
		"", "{}", `{"tokens": []}`, tokens + "x", `{"sekrit": 1}`,
		`{"tokens": [{"name": "", "role": "reader", "token": "` + readerToken + `"}]}`,
		`{"tokens": [{"name": "a", "role": "admin", "token": "` + readerToken + `"}]}`,
		`{"tokens": [{"name": "a", "role": "reader", "token": "sekrit"}]}`,
		`{"tokens": [{"name": "a", "role": "reader", "token": "sekrit 0123456789abcdef0123456789"}]}`,
		`{"tokens": [{"name": "a", "role": "reader", "token": "` + readerToken + `"}, {"name": "a", "role": "reader", "token": "` + writerToken + `"}]}`,
		`{"tokens": [{"name": "a", "role": "reader", "token": "` + readerToken + `"}, {"name": "b", "role": "reader", "token": "` + readerToken + `"}]}`,
	} {
		if _, err := parseTokens(s); !fault.Is(err, CodeTokensInvalid) || strings.Contains(err.Error(), "sekrit") || strings.Contains(err.Error(), readerToken) {
			t.Errorf("%s: %v", s, err)
		}
	}
	list, err := parseTokens(tokens)
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	if b, _ := json.Marshal(list); strings.Contains(string(b), readerToken) {
		t.Error("tokens are kept")
	}
}

func pool(t *testing.T, a *stack.Authority) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	ca, err := os.ReadFile(a.File)
	if err != nil || !p.AppendCertsFromPEM(ca) {
		t.Fatal(err)
	}
	return p
}

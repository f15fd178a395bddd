package secrets

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// fakeVault answers with the bodies and status codes of Vault's HTTP API, so
// that every condition can be had at will. What real Vault does is held by the
// integration test.
type fakeVault struct {
	*httptest.Server

	mu       sync.Mutex
	sealed   bool
	broken   int               // answer everything with this status
	tokens   map[string]*token // live tokens
	v1, v2   map[string]any    // path → data; nil data in v2 means deleted
	noMounts bool              // sys/internal/ui/mounts is denied
	roleID   string
	secretID string
	ttl      int // of tokens made by a login
	logins   int
	renewals int
	reads    int
	revoked  int
	seenNS   string
}

type token struct {
	denied       bool // reads are denied by policy
	noLookup     bool // no default policy
	ttl, renewTo int
}

func newFakeVault(t *testing.T) *fakeVault {
	f := &fakeVault{
		tokens: map[string]*token{"root": {}},
		v1:     map[string]any{"old/db": map[string]any{"password": "v1-pass"}},
		v2: map[string]any{
			"secret/data/db": map[string]any{"password": "s3cr3t-pass", "port": 5432, "tls": true, "empty": "", "object": map[string]any{"a": 1}},
		},
		roleID: "role", secretID: "secret-id", ttl: 3600,
	}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Server.Close)
	return f
}

func (f *fakeVault) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func fail(w http.ResponseWriter, status int, errs ...string) {
	if errs == nil {
		errs = []string{}
	}
	answer(w, status, map[string]any{"errors": errs})
}

func (f *fakeVault) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seenNS = r.Header.Get("X-Vault-Namespace")
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	if f.broken != 0 {
		w.WriteHeader(f.broken)
		fmt.Fprint(w, "<html>a proxy's page that quotes s3cr3t-pass</html>")
		return
	}
	if f.sealed {
		fail(w, http.StatusServiceUnavailable, "Vault is sealed")
		return
	}
	if path == "auth/approle/login" {
		f.serveLogin(w, r)
		return
	}
	name := r.Header.Get("X-Vault-Token")
	tok := f.tokens[name]
	if tok == nil {
		fail(w, http.StatusForbidden, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
		return
	}
	switch {
	case path == "auth/token/lookup-self":
		if tok.noLookup {
			fail(w, http.StatusForbidden, "1 error occurred:\n\t* permission denied\n\n")
			return
		}
		answer(w, 200, map[string]any{"data": map[string]any{"id": name, "ttl": tok.ttl, "renewable": tok.ttl > 0}})
	case path == "auth/token/renew-self":
		f.renewals++
		answer(w, 200, map[string]any{"auth": map[string]any{"client_token": name, "lease_duration": tok.renewTo, "renewable": true}})
	case path == "auth/token/revoke-self":
		f.revoked++
		delete(f.tokens, name)
		w.WriteHeader(http.StatusNoContent)
	case strings.HasPrefix(path, "sys/internal/ui/mounts/"):
		f.serveMount(w, strings.TrimPrefix(path, "sys/internal/ui/mounts/"), tok)
	default:
		f.reads++
		f.serveRead(w, path, tok)
	}
}

func (f *fakeVault) serveLogin(w http.ResponseWriter, r *http.Request) {
	var in struct {
		RoleID   string `json:"role_id"`
		SecretID string `json:"secret_id"`
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	if in.RoleID != f.roleID || in.SecretID != f.secretID {
		fail(w, http.StatusBadRequest, "invalid role or secret ID")
		return
	}
	f.logins++
	name := fmt.Sprintf("login-%d", f.logins)
	f.tokens[name] = &token{ttl: f.ttl, renewTo: f.ttl}
	answer(w, 200, map[string]any{"auth": map[string]any{"client_token": name, "lease_duration": f.ttl, "renewable": true}})
}

func (f *fakeVault) serveMount(w http.ResponseWriter, path string, tok *token) {
	if f.noMounts || tok.denied {
		fail(w, http.StatusForbidden, "preflight capability check returned 403, please ensure client's policies grant access to path")
		return
	}
	mount, _, _ := strings.Cut(path, "/")
	switch mount {
	case "secret":
		answer(w, 200, map[string]any{"data": map[string]any{"path": "secret/", "type": "kv", "options": map[string]any{"version": "2"}}})
	case "old":
		answer(w, 200, map[string]any{"data": map[string]any{"path": "old/", "type": "kv", "options": map[string]any{"version": "1"}}})
	case "database":
		answer(w, 200, map[string]any{"data": map[string]any{"path": "database/", "type": "database", "options": nil}})
	default:
		fail(w, http.StatusForbidden, "preflight capability check returned 403, please ensure client's policies grant access to path")
	}
}

func (f *fakeVault) serveRead(w http.ResponseWriter, path string, tok *token) {
	if tok.denied {
		fail(w, http.StatusForbidden, "1 error occurred:\n\t* permission denied\n\n")
		return
	}
	if d, ok := f.v1[path]; ok {
		answer(w, 200, map[string]any{"data": d})
		return
	}
	meta := map[string]any{"created_time": "2026-01-01T00:00:00Z", "deletion_time": "", "destroyed": false, "version": 3}
	if d, ok := f.v2[path]; ok {
		switch d {
		case "deleted", "destroyed":
			meta["deletion_time"], meta["destroyed"] = "2026-01-02T00:00:00Z", d == "destroyed"
			answer(w, 404, map[string]any{"data": map[string]any{"data": nil, "metadata": meta}})
		default:
			answer(w, 200, map[string]any{"data": map[string]any{"data": d, "metadata": meta}})
		}
		return
	}
	if strings.HasPrefix(path, "secret/") && !strings.HasPrefix(path, "secret/data/") {
		answer(w, 404, map[string]any{"data": nil, "warnings": []string{"Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use."}})
		return
	}
	fail(w, 404)
}

package secrets

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/agnivade/levenshtein"
	vaultapi "github.com/hashicorp/vault/api"

	"syncline/dataplane/fault"
)

// vault reads and writes secrets. It learns each engine's mount path and version once,
// and forgets it when a secret is missing.
type vault struct {
	opts   VaultOptions
	access access

	mu     sync.Mutex
	mounts map[string]mount // by path with trailing slash
}

// mount is a secrets engine.
type mount struct {
	path    string // with trailing slash; "" if Vault does not tell
	engine  string // kv or database
	version int    // of KV
}

// The engines that are known.
const (
	engineKV       = "kv"
	engineDatabase = "database"
)

// doc is what Vault has at a path.
type doc struct {
	mount
	data    map[string]any
	written int // version of the secret in a KV engine of version 2; 0: it has none
	lease   lease
}

// lease is how long what an engine made is good for.
type lease struct {
	id        string
	lasts     time.Duration
	renewable bool
}

func newVault(o VaultOptions) *vault {
	return &vault{opts: o, access: access{opts: o, lock: make(chan struct{}, 1)}, mounts: map[string]mount{}}
}

func (v *vault) close() { v.access.close() }

// read resolves one reference.
func (v *vault) read(ctx context.Context, ref Ref) (s Secret, err error) {
	err = v.under(ctx, ref.String(), canRead, func(sess *session) error {
		if _, m, err := v.locate(ctx, sess, ref.String(), ref.Path()); err != nil {
			return err
		} else if m.engine == engineDatabase {
			// It leases what it makes on each read; a value read field by field and cached
			// would not be a pair that works.
			return badRef("%s is served by Vault's database engine, whose fields belong together; name the path without a field where a login is wanted", ref)
		}
		d, err := v.get(ctx, sess, ref.String(), ref.Path(), 0)
		if err != nil {
			return err
		}
		s, err = field(ref, d.data)
		return err
	})
	return s, err
}

const (
	canRead  = "read"
	canWrite = "create and update"
)

// under runs f with a token, and once more under another one if Vault refuses the first
// and another is to be had. at names what f is about.
func (v *vault) under(ctx context.Context, at, capability string, f func(*session) error) error {
	sess, err := v.access.session(ctx, nil)
	if err != nil {
		return err
	}
	err = f(sess)
	if !isStatus(err, http.StatusForbidden) && !isStatus(err, http.StatusUnauthorized) {
		return v.name(err, at)
	}
	stale, lerr := v.access.stale(ctx, sess, err)
	if lerr != nil {
		return lerr
	}
	if !stale {
		return denied(at, capability)
	}
	next, lerr := v.access.session(ctx, sess)
	if lerr != nil {
		return lerr
	}
	if next == sess {
		return v.access.expired()
	}
	err = f(next)
	switch {
	case refusesToken(err):
		return v.access.expired()
	case isStatus(err, http.StatusForbidden):
		return denied(at, capability)
	}
	return v.name(err, at)
}

func denied(at, capability string) error {
	return fault.Permanent(CodeVaultPermissionDenied, nil,
		fmt.Sprintf("give the token's policy %s capability on this path (for KV version 2 on <mount>/data/<name>)", capability),
		"Vault does not let this worker %s %s", capability, at)
}

// name turns what remains of Vault's answers into faults.
func (v *vault) name(err error, at string) error {
	if err == nil || fault.CodeOf(err) != "" {
		return err
	}
	if f := serverFault(v.opts.Address, err); f != nil {
		return f
	}
	status, said := answerOf(err)
	return fault.Permanent(CodeSecretMissing, nil, "check the path of the reference", "Vault answered %d to %s: %s", status, at, said)
}

// get reads a path under one token: a version of it, or what is current. Errors are
// faults or Vault's answers.
func (v *vault) get(ctx context.Context, sess *session, at, path string, version int) (doc, error) {
	paths, m, err := v.locate(ctx, sess, at, path)
	if err != nil {
		return doc{}, err
	}
	var params map[string][]string
	if version > 0 {
		params = map[string][]string{"version": {strconv.Itoa(version)}}
	}
	var secret *vaultapi.Secret
	for i, p := range paths {
		secret, err = sess.client.Logical().ReadWithDataWithContext(ctx, p, params)
		// An engine of version 2 answers a path without data/ with nothing but a warning.
		if last := i == len(paths)-1; last || err == nil && secret != nil && secret.Data != nil {
			break
		}
		if err != nil && !isStatus(err, http.StatusForbidden) && !isStatus(err, http.StatusNotFound) {
			break
		}
	}
	if err != nil {
		return doc{}, err
	}
	if secret == nil || secret.Data == nil {
		v.forgetMounts()
		return doc{}, fault.Permanent(CodeSecretMissing, nil,
			"write it, or correct the path of the reference", "there is no secret at the path of %s", at)
	}
	d := doc{mount: m, data: secret.Data, lease: lease{secret.LeaseID, time.Duration(secret.LeaseDuration) * time.Second, secret.Renewable}}
	if m.version == 2 || m.path == "" && looksVersioned(d.data) {
		if d.data, d.written, err = currentVersion(at, d.data); err != nil {
			return doc{}, err
		}
	}
	return d, nil
}

// locate gives the API paths to try, and the mount, whose path is "" if only the answer
// will tell.
func (v *vault) locate(ctx context.Context, sess *session, at, path string) (paths []string, m mount, err error) {
	m, ok := v.knownMount(path)
	if !ok {
		m, err = v.askMount(ctx, sess, at, path)
		if err != nil {
			return nil, mount{}, err
		}
	}
	if m.path == "" {
		// Vault did not say: as written, then in the form that version 2 needs.
		if of2 := m.api(path, "data/"); of2 != path {
			return []string{path, of2}, m, nil
		}
		return []string{path}, m, nil
	}
	return []string{m.api(path, "data/")}, m, nil
}

// api is the path below /v1/ of a secret, of which an engine of version 2 has the kinds
// data/ and metadata/. Of an engine that Vault did not tell, it is the form of version 2.
func (m mount) api(path, kind string) string {
	if m.path == "" {
		first, rest, _ := strings.Cut(path, "/")
		m = mount{path: first + "/", version: 2}
		path = m.path + rest
	}
	name := strings.TrimPrefix(path, m.path)
	if m.version == 2 {
		name = kind + strings.TrimPrefix(name, "data/")
	}
	return m.path + name
}

func (v *vault) knownMount(path string) (found mount, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for p, m := range v.mounts {
		if strings.HasPrefix(path, p) && len(p) > len(found.path) {
			found, ok = m, true
		}
	}
	return found, ok
}

func (v *vault) forgetMounts() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.mounts)
}

// askMount asks which engine serves a path, as Vault's own tool does. A mount without a
// path and without an error means that Vault does not tell this token.
func (v *vault) askMount(ctx context.Context, sess *session, at, path string) (mount, error) {
	s, err := sess.client.Logical().ReadWithContext(ctx, "sys/internal/ui/mounts/"+path)
	if err != nil {
		if status, _ := answerOf(err); status >= 400 && status < 500 && status != http.StatusTooManyRequests && !refusesToken(err) {
			return mount{}, nil
		}
		return mount{}, err
	}
	if s == nil {
		return mount{}, nil
	}
	m := mount{engine: engineKV, version: 1}
	m.path, _ = s.Data["path"].(string)
	if m.path == "" || !strings.HasPrefix(path, m.path) {
		return mount{}, nil
	}
	switch kind, _ := s.Data["type"].(string); kind {
	case "kv", "generic", "cubbyhole", "":
	case engineDatabase:
		m.engine, m.version = engineDatabase, 0
	default:
		return mount{}, badRef("%s is served by Vault's %s engine, and only KV and database engines hold what can be named", at, kind)
	}
	if o, ok := s.Data["options"].(map[string]any); ok && fmt.Sprint(o["version"]) == "2" {
		m.version = 2
	}
	v.mu.Lock()
	v.mounts[m.path] = m
	v.mu.Unlock()
	return m, nil
}

func looksVersioned(data map[string]any) bool {
	meta, ok := data["metadata"].(map[string]any)
	if !ok {
		return false
	}
	_, hasData := data["data"]
	_, hasVersion := meta["version"]
	return hasData && hasVersion && len(data) == 2
}

// currentVersion unwraps an answer of KV version 2, which for a deleted version
// has metadata only.
func currentVersion(at string, data map[string]any) (map[string]any, int, error) {
	meta, _ := data["metadata"].(map[string]any)
	n := fmt.Sprint(meta["version"])
	if inner, ok := data["data"].(map[string]any); ok {
		written, _ := strconv.Atoi(n)
		return inner, written, nil
	}
	if destroyed, _ := meta["destroyed"].(bool); destroyed {
		return nil, 0, fault.Permanent(CodeSecretVersionDeleted, nil, "write a new version: vault kv put",
			"version %s of %s is destroyed", n, at)
	}
	return nil, 0, fault.Permanent(CodeSecretVersionDeleted, nil, "vault kv undelete -versions="+n+", or write a new version",
		"version %s of %s is deleted", n, at)
}

func field(ref Ref, data map[string]any) (Secret, error) {
	missing := func(fix, format string, args ...any) (Secret, error) {
		return Secret{}, fault.Permanent(CodeSecretFieldMissing, nil, fix, format, args...)
	}
	raw, ok := data[ref.Field()]
	if !ok {
		fix := "write the field, or correct the part of the reference after #"
		if near, ok := nearest(ref.Field(), slices.Sorted(maps.Keys(data))); ok {
			fix += "; did you mean #" + near + "?"
		}
		return missing(fix, "the secret at the path of %s has no field %q among its %d", ref, ref.Field(), len(data))
	}
	text, ok := textOf(raw)
	if !ok {
		return missing("store it as text", "the field of %s is neither text nor a number", ref)
	}
	if text == "" {
		return missing("write a value into it", "the field of %s is empty", ref)
	}
	return NewSecret(text), nil
}

// textOf is a value of a secret as text.
func textOf(raw any) (string, bool) {
	switch x := raw.(type) {
	case string:
		return x, true
	case json.Number:
		return x.String(), true
	case bool:
		return strconv.FormatBool(x), true
	}
	return "", false
}

// nearest gives the name that a typo probably meant.
func nearest(s string, names []string) (string, bool) {
	best, at := len(s)/2+1, ""
	for _, n := range names {
		if d := levenshtein.ComputeDistance(strings.ToLower(s), strings.ToLower(n)); d < best {
			best, at = d, n
		}
	}
	return at, at != ""
}

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

	"github.com/agnivade/levenshtein"
	vaultapi "github.com/hashicorp/vault/api"

	"syncline/dataplane/fault"
)

// vault reads fields of KV secrets. It learns each engine's mount path and
// version once, and forgets it when a secret is missing.
type vault struct {
	opts  VaultOptions
	login login

	mu     sync.Mutex
	mounts map[string]int // mount path with trailing slash → KV version
}

func newVault(o VaultOptions) *vault {
	return &vault{opts: o, login: login{opts: o, lock: make(chan struct{}, 1)}, mounts: map[string]int{}}
}

func (v *vault) close() { v.login.close() }

// read resolves one reference, with one more attempt under another token if
// Vault refuses the first and another is to be had.
func (v *vault) read(ctx context.Context, ref Ref) (Secret, error) {
	sess, err := v.login.session(ctx, nil)
	if err != nil {
		return Secret{}, err
	}
	s, err := v.readWith(ctx, sess, ref)
	if !isStatus(err, http.StatusForbidden) && !isStatus(err, http.StatusUnauthorized) {
		return s, v.name(err, ref)
	}
	stale, lerr := v.login.stale(ctx, sess, err)
	if lerr != nil {
		return Secret{}, lerr
	}
	if !stale {
		return Secret{}, denied(ref)
	}
	next, lerr := v.login.session(ctx, sess)
	if lerr != nil {
		return Secret{}, lerr
	}
	if next == sess {
		return Secret{}, v.login.expired()
	}
	s, err = v.readWith(ctx, next, ref)
	switch {
	case refusesToken(err):
		return Secret{}, v.login.expired()
	case isStatus(err, http.StatusForbidden):
		return Secret{}, denied(ref)
	}
	return s, v.name(err, ref)
}

func denied(ref Ref) error {
	return fault.Permanent(CodeVaultPermissionDenied, nil,
		"give the token's policy read capability on this path (for KV version 2 on <mount>/data/<name>)", "Vault does not let this worker read %s", ref)
}

// name turns what remains of Vault's answers into faults.
func (v *vault) name(err error, ref Ref) error {
	if err == nil || fault.CodeOf(err) != "" {
		return err
	}
	if f := serverFault(v.opts.Address, err); f != nil {
		return f
	}
	status, said := answerOf(err)
	return fault.Permanent(CodeSecretMissing, nil, "check the path of the reference", "Vault answered %d to %s: %s", status, ref, said)
}

// readWith reads under one token. Errors are faults or Vault's answers.
func (v *vault) readWith(ctx context.Context, sess *session, ref Ref) (Secret, error) {
	paths, version, err := v.locate(ctx, sess, ref)
	if err != nil {
		return Secret{}, err
	}
	var secret *vaultapi.Secret
	for i, p := range paths {
		secret, err = sess.client.Logical().ReadWithContext(ctx, p)
		// An engine of version 2 answers a path without data/ with nothing but a warning.
		if last := i == len(paths)-1; last || err == nil && secret != nil && secret.Data != nil {
			break
		}
		if err != nil && !isStatus(err, http.StatusForbidden) && !isStatus(err, http.StatusNotFound) {
			break
		}
	}
	if err != nil {
		return Secret{}, err
	}
	if secret == nil || secret.Data == nil {
		v.forgetMounts()
		return Secret{}, fault.Permanent(CodeSecretMissing, nil,
			"write it, or correct the path of the reference", "there is no secret at the path of %s", ref)
	}
	data := secret.Data
	if version == 2 || version == 0 && looksVersioned(data) {
		if data, err = currentVersion(ref, data); err != nil {
			return Secret{}, err
		}
	}
	return field(ref, data)
}

// locate gives the API paths to try and the KV version, 0 if only the answer
// will tell.
func (v *vault) locate(ctx context.Context, sess *session, ref Ref) (paths []string, version int, err error) {
	mount, version, ok := v.knownMount(ref.Path())
	if !ok {
		mount, version, err = v.askMount(ctx, sess, ref)
		if err != nil {
			return nil, 0, err
		}
	}
	if mount == "" {
		// Vault did not say: as written, then in the form that version 2 needs.
		first, rest, _ := strings.Cut(ref.Path(), "/")
		paths = []string{ref.Path()}
		if !strings.HasPrefix(rest, "data/") {
			paths = append(paths, first+"/data/"+rest)
		}
		return paths, 0, nil
	}
	name := strings.TrimPrefix(ref.Path(), mount)
	if version == 2 && !strings.HasPrefix(name, "data/") {
		name = "data/" + name
	}
	return []string{mount + name}, version, nil
}

func (v *vault) knownMount(path string) (mount string, version int, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for m, ver := range v.mounts {
		if strings.HasPrefix(path, m) && len(m) > len(mount) {
			mount, version, ok = m, ver, true
		}
	}
	return
}

func (v *vault) forgetMounts() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.mounts)
}

// askMount asks which engine serves a path, as Vault's own tool does. A mount of
// "" without an error means that Vault does not tell this token.
func (v *vault) askMount(ctx context.Context, sess *session, ref Ref) (string, int, error) {
	s, err := sess.client.Logical().ReadWithContext(ctx, "sys/internal/ui/mounts/"+ref.Path())
	if err != nil {
		if status, _ := answerOf(err); status >= 400 && status < 500 && status != http.StatusTooManyRequests && !refusesToken(err) {
			return "", 0, nil
		}
		return "", 0, err
	}
	if s == nil {
		return "", 0, nil
	}
	mount, _ := s.Data["path"].(string)
	if mount == "" || !strings.HasPrefix(ref.Path(), mount) {
		return "", 0, nil
	}
	switch kind, _ := s.Data["type"].(string); kind {
	case "kv", "generic", "cubbyhole", "":
	default:
		// Engines that make credentials on each read lease them; a value read
		// field by field and cached would not be a pair that works.
		return "", 0, badRef("%s is served by Vault's %s engine, and only KV engines hold secrets that can be named", ref, kind)
	}
	version := 1
	if o, ok := s.Data["options"].(map[string]any); ok && fmt.Sprint(o["version"]) == "2" {
		version = 2
	}
	v.mu.Lock()
	v.mounts[mount] = version
	v.mu.Unlock()
	return mount, version, nil
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
func currentVersion(ref Ref, data map[string]any) (map[string]any, error) {
	if inner, ok := data["data"].(map[string]any); ok {
		return inner, nil
	}
	meta, _ := data["metadata"].(map[string]any)
	n := fmt.Sprint(meta["version"])
	if destroyed, _ := meta["destroyed"].(bool); destroyed {
		return nil, fault.Permanent(CodeSecretVersionDeleted, nil, "write a new version: vault kv put",
			"the current version (%s) of %s is destroyed", n, ref)
	}
	return nil, fault.Permanent(CodeSecretVersionDeleted, nil, "vault kv undelete -versions="+n+", or write a new version",
		"the current version (%s) of %s is deleted", n, ref)
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
	var text string
	switch x := raw.(type) {
	case string:
		text = x
	case json.Number:
		text = x.String()
	case bool:
		text = strconv.FormatBool(x)
	default:
		return missing("store it as text", "the field of %s is neither text nor a number", ref)
	}
	if text == "" {
		return missing("write a value into it", "the field of %s is empty", ref)
	}
	return NewSecret(text), nil
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

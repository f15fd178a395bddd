package secrets

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"syncline/dataplane/fault"
)

// maxFile bounds what is read for a file reference: a secret is small, and the
// path may be a mistake such as /dev/zero.
const maxFile = 1 << 20

// Resolver turns references into values. It may be used by many goroutines.
type Resolver struct {
	opts   Options
	vault  *vault
	flight singleflight.Group

	mu    sync.Mutex
	cache map[Ref]cached
}

type cached struct {
	secret Secret
	until  time.Time
}

// New makes a Resolver. It contacts nothing: Vault is connected when a vault:
// reference is first resolved. Close ends the renewal of its token.
func New(opts Options) (*Resolver, error) {
	if err := opts.Vault.Validate(); err != nil {
		return nil, fault.Permanent(CodeVaultNotConfigured, err, "correct the SYNCLINE_VAULT_* variables of the worker", "the settings for Vault do not fit together")
	}
	opts = opts.withDefaults()
	return &Resolver{opts: opts, vault: newVault(opts.Vault), cache: map[Ref]cached{}}, nil
}

// Close forgets all values and stops renewing the token. Tokens from a login
// are given back to Vault.
func (r *Resolver) Close() {
	r.mu.Lock()
	clear(r.cache)
	r.mu.Unlock()
	r.vault.close()
}

// Resolve gives the value that ref names, at most CacheFor old.
func (r *Resolver) Resolve(ctx context.Context, ref Ref) (Secret, error) {
	if ref.Scheme() != SchemeVault {
		return r.fetch(ctx, ref)
	}
	r.mu.Lock()
	c, ok := r.cache[ref]
	r.mu.Unlock()
	if ok && time.Now().Before(c.until) {
		return c.secret, nil
	}
	return r.fetchShared(ctx, ref, "cached ")
}

// Refetch is Resolve past the cache: for when a server has just refused the
// value, since it may have been rotated meanwhile.
func (r *Resolver) Refetch(ctx context.Context, ref Ref) (Secret, error) {
	if ref.Scheme() != SchemeVault {
		return r.fetch(ctx, ref)
	}
	return r.fetchShared(ctx, ref, "fresh ")
}

// fetchShared lets simultaneous callers share one request to Vault. The request
// has its own time limit, so that a caller that gives up does not fail the others.
func (r *Resolver) fetchShared(ctx context.Context, ref Ref, kind string) (Secret, error) {
	done := r.flight.DoChan(kind+ref.String(), func() (any, error) {
		// A read may need a look at the mount, a login and a second attempt.
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 4*r.opts.Vault.Timeout)
		defer cancel()
		s, err := r.fetch(limit, ref)
		r.mu.Lock()
		defer r.mu.Unlock()
		if err != nil {
			delete(r.cache, ref)
			return Secret{}, err
		}
		if r.opts.CacheFor > 0 {
			r.cache[ref] = cached{s, time.Now().Add(r.opts.CacheFor)}
		}
		return s, nil
	})
	select {
	case res := <-done:
		if res.Err != nil {
			return Secret{}, res.Err
		}
		return res.Val.(Secret), nil
	case <-ctx.Done():
		return Secret{}, transient(CodeVaultUnreachable, ctx.Err(), "", "gave up waiting for Vault to give %s", ref)
	}
}

func (r *Resolver) fetch(ctx context.Context, ref Ref) (Secret, error) {
	switch ref.Scheme() {
	case SchemeEnv:
		v := r.opts.Getenv(ref.Path())
		if v == "" {
			return Secret{}, fault.Permanent(CodeEnvNotSet, nil,
				"set it for every worker and restart them", "environment variable %s, named by %s, is not set or empty", ref.Path(), ref)
		}
		return NewSecret(v), nil
	case SchemeFile:
		return readFile(ref)
	case SchemeVault:
		return r.vault.read(ctx, ref)
	}
	return Secret{}, badRef("it is empty")
}

func readFile(ref Ref) (Secret, error) {
	v, err := readSmall(ref.Path())
	if err != nil {
		return Secret{}, fault.Permanent(CodeFileUnreadable, err,
			"put the file on every worker, readable by the worker's user", "the file of %s cannot be read", ref)
	}
	if v == "" {
		return Secret{}, fault.Permanent(CodeFileUnreadable, nil, "write the secret into it", "the file of %s is empty", ref)
	}
	return NewSecret(v), nil
}

// readSmall reads a file of at most maxFile bytes, without one trailing newline.
func readSmall(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxFile {
		return "", fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	s, ok := strings.CutSuffix(string(b), "\r\n")
	if !ok {
		s = strings.TrimSuffix(s, "\n")
	}
	return s, nil
}
